//! What the contract says a log means.
//!
//! Keeps every record ever seen and works each tick's end out from nothing: no indexes, no cursors, no incremental state but
//! what the contract itself calls memory (a click is resolved once, a deal moves once in a hot period, an unchanged value is
//! silent). It shares types with the job, no decisions. Numbers of sections are those of the contract.

use super::log::{BAD, MAX_FUTURE};
use super::{Hot, Log, Record, Subject, TICK, Term, World, line_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickline::config::rules::{Counted, Mode, Rule, window_text};
use clickline::model::outputs::Topic;
use clickline::model::time::{DAY, HOUR, Ms, tick_end};
use clickline::model::{Click, Contact, Deal, Form};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Portal = String;

/// What a log means, and which of the contract's cases it came to.
#[derive(Default)]
pub struct Said {
    /// All outputs, sorted.
    pub lines: Vec<String>,
    /// Who is hot in the end, by the rule's place in the world.
    pub hot: Vec<Hot>,
    pub reached: Reached,
}

/// How often each case was met.
#[derive(Default)]
pub struct Reached(pub BTreeMap<&'static str, u64>);

impl Reached {
    fn when(&mut self, met: bool, case: &'static str) {
        *self.0.entry(case).or_default() += u64::from(met);
    }
}

/// A click that found its person, in one portal.
struct Resolved {
    click: Click,
    portal: Portal,
    /// `c:` or `e:` identity.
    identity: String,
    /// Measures that it is part of.
    of: Vec<usize>,
}

/// What is counted: workspace, whether for deals, tag or link, window.
type Measure = (String, bool, Counted, Ms);

/// What the contract says a log means, up to its last tick.
pub fn expect(world: &World, log: &Log) -> Said {
    expect_until(world, log, log.end())
}

/// What the contract says a log means up to the tick that ends at `end`.
pub fn expect_until(world: &World, log: &Log, end: Ms) -> Said {
    let mut said = Said::default();
    let Said { lines, reached, .. } = &mut said;
    let mut say = |topic: Topic, key: &str, record: Value| lines.push(line_of(topic, key, &record));
    let measures = measures(world);
    let ticks = ticks(world, log, &measures, end);
    let mut by_tick: BTreeMap<Ms, Vec<&(i64, Ms, Record)>> = BTreeMap::new();
    for entry in &log.0 {
        by_tick.entry(tick_end(entry.1, TICK)).or_default().push(entry);
    }

    let mut seen_at: BTreeMap<(bool, String, String), Ms> = BTreeMap::new();
    let (mut forms, mut held, mut resolved): (Vec<Form>, Vec<Click>, Vec<Resolved>) = Default::default();
    let mut for_deals: Vec<(Click, Vec<usize>)> = Vec::new();
    let mut contacts: BTreeMap<(Portal, String), Contact> = BTreeMap::new();
    let mut deals: BTreeMap<(Portal, String), Deal> = BTreeMap::new();
    let mut hot: Vec<Hot> = vec![Hot::new(); world.terms.len()];
    // Deals that moved, by rule and subject, in the running period; and those of them that have been elsewhere since.
    let mut moved: BTreeMap<(usize, Subject), BTreeMap<String, bool>> = BTreeMap::new();
    let mut ever: BTreeSet<(usize, Subject, String)> = BTreeSet::new();
    let mut values: Values = BTreeMap::new();
    // Of each count its changes, with their ticks.
    let mut courses: BTreeMap<(usize, Portal, String), Vec<(Ms, u64)>> = BTreeMap::new();

    for t in ticks {
        let (mut fresh_clicks, mut fresh_forms, mut changed) = (Vec::new(), Vec::new(), false);
        for (offset, log_time, record) in by_tick.get(&t).into_iter().flatten() {
            if let Some(letter) = refused(record, *offset, *log_time, t) {
                reached.when(true, if letter["reason"] == "clock" { "ahead of its log time" } else { "not to be read" });
                say(Topic::DeadLetters, record.message().0, letter);
                continue;
            }
            let mut first = |form: bool, workspace: &str, id: &str| {
                let before = seen_at.insert((form, workspace.to_owned(), id.to_owned()), t);
                reached.when(before == Some(t), "an id twice in a tick");
                reached.when(before.is_some_and(|before| before + 72 * HOUR == t), "an id again at the horizon");
                reached.when(before.is_some_and(|before| before + 72 * HOUR + TICK == t), "an id again a tick beyond the horizon");
                before.is_none_or(|before| before + 72 * HOUR < t)
            };
            match record {
                Record::Click(click) => {
                    if first(false, &click.workspace, &click.id) && click.bot.is_none() {
                        fresh_clicks.push(normal_click(click));
                    }
                }
                Record::Form(form) => {
                    if first(true, &form.workspace, &form.id) {
                        fresh_forms.push(normal_form(form));
                    }
                }
                Record::Contact(portal, id, state) => {
                    contacts.remove(&(portal.clone(), id.clone()));
                    contacts.extend(state.clone().map(|state| ((portal.clone(), id.clone()), normal_contact(state))));
                    changed = true;
                }
                Record::Deal(portal, id, state) => {
                    deals.remove(&(portal.clone(), id.clone()));
                    deals.extend(state.clone().map(|state| ((portal.clone(), id.clone()), state)));
                }
                Record::Bad(_) => {}
            }
        }
        let clicked = !fresh_clicks.is_empty();

        // Section 3: forms, then clicks, then expiry.
        let matches = |click: &Click, form: &Form| {
            let carries = click.workspace == form.workspace
                && (click.gclid.is_some() && click.gclid == form.gclid || click.fbclid.is_some() && click.fbclid == form.fbclid);
            carries && click.ts <= form.ts + 14 * DAY && form.ts <= click.ts + 72 * HOUR
        };
        let mut found: Vec<(Click, Option<Form>)> = Vec::new();
        held.retain(|click| {
            let fit: Vec<&Form> = fresh_forms.iter().filter(|form| matches(click, form)).collect();
            let form = best(click, &fit);
            reached.when(fit.len() > 1, "several forms in one tick");
            reached.when(form.is_some() && click.gclid.is_some() && click.fbclid.is_some(), "a held click with both click ids");
            reached.when(form.is_some_and(|form| form.ts == click.ts + 72 * HOUR), "a form 72 h after");
            reached.when(form.is_some_and(|form| form.ts < click.ts), "a form from before the click, seen after it");
            found.extend(form.map(|form| (click.clone(), Some(form.clone()))));
            form.is_none()
        });
        forms.append(&mut fresh_forms);
        for click in fresh_clicks {
            let of = |by_deal| {
                let mine = measures.iter().enumerate().filter(|(_, (workspace, for_deal, counted, _))| {
                    *workspace == click.workspace && *for_deal == by_deal && counts(counted, &click)
                });
                mine.map(|(n, _)| n).collect::<Vec<_>>()
            };
            reached.when(click.ts > t && !of(false).is_empty(), "a click of the future");
            reached.when(click.ts + 30 * DAY <= t, "a click that comes when its windows have closed");
            if click.deal_id.is_some() {
                for_deals.push((click.clone(), of(true)));
            }
            if click.contact_id.is_some() {
                found.push((click, None));
            } else if click.gclid.is_some() || click.fbclid.is_some() {
                let fit: Vec<&Form> = forms.iter().filter(|form| matches(&click, form)).collect();
                match best(&click, &fit) {
                    Some(form) => {
                        reached.when(form.ts + 14 * DAY == click.ts, "a form 14 d before");
                        reached.when(form.ts > click.ts, "a late click and a form from after it");
                        found.push((click, Some(form.clone())));
                    }
                    None => held.push(click),
                }
            }
        }
        held.retain(|click| {
            let over = t > click.ts + 72 * HOUR;
            if over {
                say(Topic::Unresolved, &click.workspace, json!({"v": 1, "click": click, "reason": "hold-expired", "at": t}));
            }
            !over
        });

        let mut persons: BTreeMap<(&str, &str), String> = BTreeMap::new();
        for (click, form) in &found {
            let identity = match form {
                Some(form) => format!("e:{}", form.email),
                None => format!("c:{}", click.contact_id.clone().unwrap_or_default()),
            };
            for portal in &world.portals[click.workspace.as_str()] {
                let who = person(&contacts, portal, &identity);
                say(Topic::Timeline, portal, timeline(click, form.as_ref(), portal, &who, t));
                let mine = |(_, (workspace, by_deal, counted, _)): &(usize, &Measure)| {
                    *workspace == click.workspace && !by_deal && counts(counted, click)
                };
                let of = measures.iter().enumerate().filter(mine).map(|(n, _)| n).collect();
                resolved.push(Resolved { click: click.clone(), portal: (*portal).to_owned(), identity: identity.clone(), of });
            }
        }
        for Resolved { portal, identity, .. } in &resolved {
            persons.entry((portal, identity)).or_insert_with(|| person(&contacts, portal, identity));
        }
        let person_of = |portal: &str, identity: &str| match persons.get(&(portal, identity)) {
            Some(person) => person.clone(),
            None => person(&contacts, portal, identity),
        };

        // Section 5. Nothing else moves a last value.
        if changed || !found.is_empty() {
            let now = last_values(&resolved, person_of);
            for (portal, who, record) in changes(&values, &now, t, reached, found.is_empty()) {
                say(Topic::ContactProperties, &portal, json!({"v": 1, "id": format!("utm:{portal}:{who}:{t}"), "at": t}).and(record));
            }
            values = now;
        }

        // Section 6: all counts, from all clicks.
        let mut windows: Vec<BTreeMap<(&str, String), Vec<&Click>>> = vec![BTreeMap::new(); measures.len()];
        let inside = |click: &Click, n: usize| t < click.ts + measures[n].3 && click.ts <= t;
        for Resolved { click, portal, identity, of } in &resolved {
            for n in of.iter().filter(|n| inside(click, **n)) {
                windows[*n].entry((portal, person_of(portal, identity))).or_default().push(click);
            }
        }
        for (click, of) in &for_deals {
            let who = format!("d:{}", click.deal_id.as_deref().unwrap_or_default());
            for portal in &world.portals[click.workspace.as_str()] {
                for n in of.iter().filter(|n| inside(click, **n)) {
                    windows[*n].entry((portal, who.clone())).or_default().push(click);
                }
            }
        }
        let mut now: BTreeMap<(usize, Portal, String), u64> = BTreeMap::new();
        for (n, of) in windows.iter().enumerate() {
            now.extend(of.iter().map(|((portal, who), clicks)| ((n, (*portal).to_owned(), who.clone()), clicks.len() as u64)));
        }
        for key in now.keys().cloned().chain(courses.keys().cloned()).collect::<BTreeSet<_>>() {
            let is = now.get(&key).copied().unwrap_or(0);
            let course = courses.entry(key).or_default();
            if course.last().map_or(0, |(_, was)| *was) != is {
                course.push((t, is));
            }
        }

        // Section 7.
        for (n, term) in world.terms.iter().enumerate() {
            let Some(rule) = term.versions.first().map(|(_, rule)| rule) else { continue };
            let was = std::mem::take(&mut hot[n]);
            let by_deal = !rule.guard.require_associated_contact;
            for (workspace, portals) in world.portals.iter().filter(|(name, _)| rule.workspace.as_deref().is_none_or(|of| of == **name)) {
                let measure = ((*workspace).to_owned(), by_deal, rule.counted.clone(), rule.window);
                let place = measures.iter().position(|of| *of == measure).expect("all are there");
                for portal in portals {
                    let here = windows[place].iter().filter(|((of, _), clicks)| of == portal && clicks.len() as u64 >= rule.threshold);
                    for ((_, who), _) in here {
                        let subject = ((*workspace).to_owned(), (*portal).to_owned(), who.clone());
                        let since = was.get(&subject).copied().unwrap_or(t);
                        hot[n].insert(subject, since);
                    }
                }
            }
            let merged = |subject: &Subject| changed && !clicked && found.is_empty() && !subject.2.starts_with("d:");
            reached.when(hot[n].keys().any(|subject| !was.contains_key(subject) && merged(subject)), "a merge that makes a rule hot");
            reached.when(was.keys().any(|subject| !hot[n].contains_key(subject) && merged(subject)), "a period that ends with its person");
            if t < term.from() {
                continue;
            }
            if term.from() > 0 && was.iter().any(|(_, since)| *since < term.from()) {
                // The rule comes when these are hot already; the log that was kept then says since when.
                for (subject, since) in hot[n].iter_mut().filter(|(_, since)| **since < term.from()) {
                    *since =
                        *term.shown.get(subject).unwrap_or_else(|| panic!("{subject:?} is hot since {since}, and the kept log hides it"));
                }
            }
            moved.retain(|(of, subject), _| *of != n || hot[n].get(subject).is_some_and(|since| term.acts(*since, t)));
            let Some(rule) = term.rule_at(t) else { continue };
            for (subject, since) in &hot[n] {
                let (workspace, portal, who) = subject;
                let measure = (workspace.clone(), by_deal, rule.counted.clone(), rule.window);
                let place = measures.iter().position(|of| *of == measure).expect("all are there");
                let clicks = &windows[place][&(portal.as_str(), who.clone())];
                for ((_, id), deal) in deals.iter().filter(|((at, _), _)| at == portal) {
                    let eligible = is_eligible(rule, deal, id, who, |contact| person_of(portal, &format!("c:{contact}")));
                    if !term.acts(*since, t) {
                        reached.when(eligible, "a deal that a period from before the rule leaves alone");
                        continue;
                    }
                    let of_period = moved.entry((n, subject.clone())).or_default();
                    match (eligible, of_period.get_mut(id)) {
                        (false, Some(left)) => *left = true,
                        (false, None) => {}
                        (true, Some(left)) => reached.when(*left, "a deal that comes back in the same period"),
                        (true, None) => {
                            of_period.insert(id.clone(), false);
                            say(Topic::DealStages, portal, stage(rule, subject, deal, id, clicks, *since, t));
                            reached.when(*since == t, "a deal that waits for the period");
                            reached.when(*since < t && *since > term.from(), "a deal that comes in the middle of a period");
                            reached.when(term.from() > 0 && *since <= term.from(), "a backfill");
                            reached.when(by_deal, "a deal whose own links are counted");
                            reached.when(*since == t && changed && !clicked, "a deal that moves by a merge");
                            let first = ever.insert((n, subject.clone(), id.clone()));
                            reached.when(!first, "a deal that moves again in another period");
                        }
                    }
                }
            }
        }
    }
    for ((n, portal, who), course) in &courses {
        let measure = &measures[*n];
        let mut published = 0;
        for (at, is) in &at_their_moment(who, course, world.counts_since) {
            if published != *is && *at <= end && is_published(world, measure, *at) {
                say(Topic::Counts, &count_key(measure, portal, who), count(measure, portal, who, *is, *at));
            }
            published = *is;
        }
    }
    said.lines.sort();
    said.hot = hot;
    said
}

/// Of a count's changes those that are published, and when: each person has a tick of the second, by the CRC-32 of the name, at which the last of them is; those
/// before `since` at the second's end.
fn at_their_moment(who: &str, course: &[(Ms, u64)], since: Ms) -> BTreeMap<Ms, u64> {
    let moment = |t| if t < since { 0 } else { u64::from(crc32(who.as_bytes())) % (1_000 / TICK) * TICK };
    course.iter().map(|(t, is)| ((*t..).find(|at| at % 1_000 == moment(*t)).expect("within a second"), *is)).collect()
}

/// As in RFC 1952, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// Everything that is counted for any rule at any time, and what `counts: all` of workspace one adds.
fn measures(world: &World) -> Vec<Measure> {
    let mut measures = BTreeSet::new();
    for rule in world.terms.iter().filter_map(|term| term.versions.first()).map(|(_, rule)| rule) {
        for workspace in world.portals.keys().filter(|name| rule.workspace.as_deref().is_none_or(|of| of == **name)) {
            measures.insert(((*workspace).to_owned(), !rule.guard.require_associated_contact, rule.counted.clone(), rule.window));
        }
    }
    for counted in [Counted::Tag("x".into()), Counted::Tag("y".into()), Counted::Link("d/1".into()), Counted::Link("d/2".into())] {
        measures.insert(("one".to_owned(), false, counted, 30 * DAY));
    }
    measures.into_iter().collect()
}

/// Whether a count is published at `t`: a rule of then names it, or `counts: all` does where no rule names its tag or link.
fn is_published(world: &World, (workspace, by_deal, counted, window): &Measure, t: Ms) -> bool {
    let mine = |rule: &&Rule| {
        rule.workspace.as_ref().is_none_or(|of| of == workspace)
            && rule.guard.require_associated_contact != *by_deal
            && rule.counted == *counted
    };
    let named: Vec<&Rule> = world.terms.iter().filter_map(|term| term.rule_at(t)).filter(mine).collect();
    named.iter().any(|rule| rule.window == *window) || (named.is_empty() && workspace == "one" && !by_deal && *window == 30 * DAY)
}

/// Every tick's end at which anything can change: arrivals, each bound that a click's time brings, rules that come and go.
fn ticks(world: &World, log: &Log, measures: &[Measure], end: Ms) -> BTreeSet<Ms> {
    let mut ticks: BTreeSet<Ms> = world.terms.iter().flat_map(|term| term.versions.iter().map(|(from, _)| *from)).collect();
    let windows: BTreeSet<Ms> = measures.iter().map(|(.., window)| *window).collect();
    for (_, at, record) in &log.0 {
        ticks.insert(tick_end(*at, TICK));
        if let Record::Click(click) = record {
            ticks.extend(windows.iter().chain(&[0, 72 * HOUR + 1]).map(|bound| tick_end(click.ts + bound, TICK)));
        }
    }
    ticks.retain(|tick| *tick <= end && *tick > 0);
    ticks
}

/// The dead letter of a record that is refused.
fn refused(record: &Record, offset: i64, log_time: Ms, t: Ms) -> Option<Value> {
    let (topic, key, payload) = record.message();
    let (reason, detail) = match record {
        Record::Bad(n) => (BAD[*n].2, BAD[*n].3.to_owned()),
        _ => {
            let ahead = record.ts()?.checked_sub(log_time).filter(|ahead| *ahead > MAX_FUTURE)?;
            ("clock", format!("`ts` lies {ahead} ms ahead of the log's time; at most {MAX_FUTURE} (max_future)"))
        }
    };
    let letter = json!({"v": 1, "reason": reason, "detail": detail, "source": topic, "partition": 0, "offset": offset,
        "payload_base64": STANDARD.encode(payload.unwrap_or_default()), "at": t});
    Some(match key {
        Some(key) => letter.and(json!({"key_base64": STANDARD.encode(key)})),
        None => letter,
    })
}

fn text(value: &Option<String>) -> Option<String> {
    value.clone().filter(|text| !text.trim().is_empty())
}

fn email(text: &str) -> String {
    text.trim().to_lowercase()
}

fn normal_click(click: &Click) -> Click {
    let mut tags: Vec<String> = Vec::new();
    for tag in &click.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    let mut utm = click.utm.clone();
    for value in [&mut utm.source, &mut utm.medium, &mut utm.campaign, &mut utm.term, &mut utm.content] {
        *value = text(value);
    }
    Click {
        tags,
        utm,
        contact_id: text(&click.contact_id),
        deal_id: text(&click.deal_id),
        gclid: text(&click.gclid),
        fbclid: text(&click.fbclid),
        ..click.clone()
    }
}

fn normal_form(form: &Form) -> Form {
    Form { email: email(&form.email), gclid: text(&form.gclid), fbclid: text(&form.fbclid), ..form.clone() }
}

fn normal_contact(contact: Contact) -> Contact {
    let additional_emails = contact.additional_emails.iter().map(|of| email(of)).collect();
    Contact { email: text(&contact.email).map(|of| email(&of)), additional_emails, ..contact }
}

/// Of the forms that fit: one at or before the click first, the largest of those, else the smallest.
fn best<'f>(click: &Click, fit: &[&'f Form]) -> Option<&'f Form> {
    let before = fit.iter().filter(|form| form.ts <= click.ts).max_by_key(|form| (form.ts, &form.id));
    before.or(fit.iter().min_by_key(|form| (form.ts, &form.id))).copied()
}

/// The person behind an identity, by the contacts of now.
fn person(contacts: &BTreeMap<(Portal, String), Contact>, portal: &str, identity: &str) -> String {
    let claimants = |identity: &str| -> Option<String> {
        let of_portal = contacts.iter().filter(|((of, _), _)| of == portal).map(|((_, id), contact)| (id, contact));
        let claims = of_portal.filter_map(|(id, contact)| match identity.split_at(2) {
            ("c:", merged) => (contact.merged_ids.iter().any(|of| of == merged) && id != merged).then_some((0, id.len(), id.clone())),
            (_, email) if contact.email.as_deref() == Some(email) => Some((0, id.len(), id.clone())),
            (_, email) => contact.additional_emails.iter().any(|of| of == email).then_some((1, id.len(), id.clone())),
        });
        claims.min().map(|(_, _, id)| format!("c:{id}"))
    };
    let mut path = vec![identity.to_owned()];
    loop {
        let Some(next) = path.last().and_then(|here| claimants(here)) else { return path.pop().unwrap_or_default() };
        if let Some(start) = path.iter().position(|before| *before == next) {
            return path[start..].iter().min_by_key(|who| (who.len(), (*who).clone())).cloned().unwrap_or_default();
        }
        path.push(next);
    }
}

fn counts(counted: &Counted, click: &Click) -> bool {
    match counted {
        Counted::Tag(tag) => click.tags.contains(tag),
        Counted::Link(link) => click.link == *link,
    }
}

fn is_eligible(rule: &Rule, deal: &Deal, id: &str, who: &str, person_of: impl Fn(&str) -> String) -> bool {
    let in_place = deal.pipeline == rule.pipeline && deal.stage == rule.from_stage;
    let worth = rule.guard.deal_amount_min.is_none_or(|least| deal.amount.is_some_and(|amount| amount >= least));
    let its_own = if rule.guard.require_associated_contact {
        deal.contact_ids.iter().any(|contact| person_of(contact) == who)
    } else {
        who == format!("d:{id}")
    };
    in_place && worth && its_own
}

/// By portal, person and property: the click's time and id, and the value.
type Values = BTreeMap<(Portal, String, String), (Ms, String, String)>;

/// Section 5, from all clicks. Of two values of one click the larger text.
fn last_values(resolved: &[Resolved], person_of: impl Fn(&str, &str) -> String) -> Values {
    let mut values = Values::new();
    for Resolved { click, portal, identity, .. } in resolved {
        let fields = [("source", &click.utm.source), ("campaign", &click.utm.campaign), ("medium", &click.utm.medium)];
        for (field, value) in fields {
            let Some(value) = value else { continue };
            let new = (click.ts, click.id.clone(), value.clone());
            let property = World::property(&click.workspace, field);
            let last = values.entry((portal.clone(), person_of(portal, identity), property)).or_insert_with(|| new.clone());
            if *last < new {
                *last = new;
            }
        }
    }
    values
}

/// What changed, by person: portal, person, and the part of the record that says so.
fn changes(before: &Values, now: &Values, t: Ms, reached: &mut Reached, by_contacts: bool) -> Vec<(Portal, String, Value)> {
    let mut changes: BTreeMap<(Portal, String), [BTreeMap<String, Value>; 2]> = BTreeMap::new();
    for (key @ (portal, who, property), (ts, id, value)) in now {
        let old = before.get(key);
        if old.map(|(_, _, value)| value) != Some(value) {
            reached.when(old.is_some_and(|(old, ..)| old > ts), "a last value that goes back");
            reached.when(by_contacts, "a last value that changes with the contacts");
            let [texts, from] = changes.entry((portal.clone(), who.clone())).or_default();
            texts.insert(property.clone(), value.clone().into());
            from.insert(property.clone(), json!({"click_id": id, "ts": ts}));
        }
    }
    let record = |((portal, who), [texts, from]): ((Portal, String), [BTreeMap<String, Value>; 2])| {
        let record = json!({"portal": portal, "properties": texts, "from": from, "at": t}).and(named(&who));
        (portal, who, record)
    };
    changes.into_iter().map(record).collect()
}

/// As an output names who it is about.
fn named(who: &str) -> Value {
    match who.split_at(2) {
        ("c:", id) => json!({"contact_id": id}),
        ("e:", email) => json!({"email": email}),
        _ => json!({}),
    }
}

/// Puts an object's fields into another.
trait And {
    fn and(self, other: Value) -> Value;
}

impl And for Value {
    fn and(mut self, other: Value) -> Value {
        if let (Value::Object(fields), Value::Object(others)) = (&mut self, other) {
            fields.extend(others);
        }
        self
    }
}

fn timeline(click: &Click, form: Option<&Form>, portal: &str, who: &str, t: Ms) -> Value {
    let title = text(&click.title).map_or(format!("Clicked: {}", click.link), |title| format!("Clicked: {title} ({})", click.link));
    let (_, slug) = click.link.split_once('/').expect("domain and slug");
    let tokens = [
        ("link_slug", Some(slug.to_owned())),
        ("destination_url", click.destination.clone()),
        ("campaign_name", click.utm.campaign.clone()),
        ("country", click.country.clone()),
        ("device", click.device.clone()),
    ];
    let tokens: BTreeMap<&str, String> = tokens.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let utm = json!({"source": click.utm.source, "medium": click.utm.medium, "campaign": click.utm.campaign, "term": click.utm.term,
        "content": click.utm.content});
    let found = match form {
        Some(form) => json!({"by": "form", "form_id": form.id, "form_ts": form.ts, "after_click_ms": form.ts as i64 - click.ts as i64}),
        None => json!({"by": "eid"}),
    };
    let record = json!({
        "v": 1, "id": format!("clk:{}:{portal}", click.id), "portal": portal, "workspace": click.workspace, "click_id": click.id,
        "ts": click.ts, "title": title, "tokens": tokens, "found": found, "at": t,
        "extra_data": {
            "utm": utm, "referrer": click.referrer,
            "user_agent": {"device": click.device, "os": click.os, "browser": click.browser},
            "timestamp": stamp(click.ts), "timestamp_ms": click.ts,
        },
    });
    record.and(named(who))
}

/// `2026-11-23T08:15:30.123Z`, by the calendar's own arithmetic.
fn stamp(ts: Ms) -> String {
    let (mut days, rest) = (ts / DAY, ts % DAY);
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / HOUR, rest / 60_000 % 60, rest / 1_000 % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", month + 1, days + 1, rest % 1_000)
}

fn stage(rule: &Rule, subject: &Subject, deal: &Deal, id: &str, clicks: &[&Click], since: Ms, t: Ms) -> Value {
    let (workspace, portal, who) = subject;
    let last = clicks.iter().map(|click| (click.ts, &click.id)).max().expect("a hot rule has clicks");
    let record = json!({
        "v": 1, "id": format!("stage:{portal}:{id}:{who}:{workspace}:{}:{since}", rule.name), "portal": portal, "workspace": workspace,
        "rule": rule.name, "shadow": rule.mode == Mode::Shadow, "deal_id": id, "pipeline": deal.pipeline, "from_stage": deal.stage,
        "to_stage": rule.to_stage, "threshold": rule.threshold, "window_ms": rule.window, "count": clicks.len(), "hot_since": since,
        "guard": {"require_associated_contact": rule.guard.require_associated_contact, "deal_amount_min": rule.guard.deal_amount_min},
        "last_click": {"id": last.1, "ts": last.0}, "at": t,
    });
    record.and(named(who)).and(counted_as(&rule.counted))
}

fn counted_as(counted: &Counted) -> Value {
    match counted {
        Counted::Tag(tag) => json!({"link_tag": tag}),
        Counted::Link(link) => json!({"link": link}),
    }
}

fn count_key((workspace, by_deal, counted, window): &Measure, portal: &str, who: &str) -> String {
    let (Counted::Tag(what) | Counted::Link(what)) = counted;
    let (mark, who) = (if *by_deal { "deal:" } else { "" }, &who[2..]);
    let window = if *window == 30 * DAY { String::new() } else { format!("@{}", window_text(*window)) };
    // Portal 1 has two workspaces, which its keys tell apart.
    let workspace = if portal == "1" { format!("#{workspace}") } else { String::new() };
    format!("{portal}/{mark}{who}/{what}{window}{workspace}")
}

fn count((workspace, _, counted, window): &Measure, portal: &str, who: &str, is: u64, t: Ms) -> Value {
    let record = json!({"v": 1, "portal": portal, "workspace": workspace, "window_ms": window, "count": is, "at": t});
    let of = if let Some(deal) = who.strip_prefix("d:") { json!({"deal_id": deal}) } else { named(who) };
    record.and(of).and(counted_as(counted))
}

/// Who is hot for a rule before the tick that ends at `at`, in a log; what a rule that is added then is shown.
pub fn shown(rule: &Rule, log: &Log, at: Ms) -> Hot {
    let world = World::with(vec![Term::always(rule.clone())]);
    expect_until(&world, log, at - TICK).hot.pop().unwrap_or_default()
}
