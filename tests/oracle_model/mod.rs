//! The oracle: random logs, and what the contract says they mean.

#![allow(dead_code, reason = "each test program uses a part of it")]

use clickline::config::rules::{self, Counted, Mode, Rule};
use clickline::dataflow::plan::{Counts, Plan, Times, WorkspaceSpec};
use clickline::dataflow::rows::{Arrival, Place};
use clickline::model::outputs::{Output, Topic};
use clickline::model::time::{DAY, HOUR, Ms, tick_end};
use clickline::model::{Click, Contact, Deal, Form};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use ustr::ustr;

pub const TICK: Ms = 500;
const START: Ms = 1_700_000_000_000;

pub const RULES: &str = r"
- name: tag two in 30 days
  workspace: one
  trigger: {link_tag: x, contact_window: 30d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 100}}
- name: link twice a day
  trigger: {link: d/1, contact_window: 1d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: b, to_stage: c}
- name: shadow, three in two hours
  workspace: two
  mode: shadow
  trigger: {link_tag: y, contact_window: 2h, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c}
- name: the deal's own links
  trigger: {link_tag: x, contact_window: 1d, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c, guard: {require_associated_contact: false}}
- name: one is enough
  trigger: {link_tag: y, contact_window: 30d, click_threshold: 1}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c}
";

/// Workspaces, portals and rules of all logs: `one` → 1, `two` → 1 and 2, `three` → none.
pub struct World {
    pub plan: Arc<Plan>,
    pub rules: Vec<Rule>,
    portals: BTreeMap<&'static str, Vec<&'static str>>,
}

impl World {
    pub fn new() -> Self {
        let portals: BTreeMap<&str, Vec<&str>> = [("one", vec!["1"]), ("two", vec!["1", "2"]), ("three", vec![])].into();
        let specs: Vec<WorkspaceSpec> = portals
            .iter()
            .map(|(name, portals)| WorkspaceSpec {
                name: (*name).to_owned(),
                portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
                counts: if *name == "one" { Counts::All } else { Counts::Ruled },
            })
            .collect();
        let rules = rules::read(RULES).expect("rules");
        // The logs hold clicks later than forms are kept for by default; the contract knows no such limit.
        let times = Times { max_lateness: 400 * DAY, ..Times::with_tick(TICK) };
        let plan = Plan::new(times, &specs, &rules, |_, _| 0).expect("a plan");
        World { plan: Arc::new(plan), rules, portals }
    }
}

/// A record of an input topic.
#[derive(Clone, Debug)]
pub enum Record {
    Click(Box<Click>),
    Form(Form),
    Contact(String, String, Option<Contact>),
    Deal(String, String, Option<Deal>),
}

impl Record {
    /// Any record of the time `ts`, of number `n`.
    pub fn random(rng: &mut StdRng, n: usize, ts: Ms) -> Self {
        match rng.random_range(0..10) {
            0..5 => Record::Click(Box::new(click(rng, n, ts))),
            5..7 => Record::Form(form(rng, n, ts)),
            7 => contact(rng),
            _ => deal(rng),
        }
    }

    /// Topic, key and value, as they are written.
    pub fn message(&self) -> (&'static str, Option<String>, Option<Vec<u8>>) {
        fn json(record: &impl serde::Serialize) -> Vec<u8> {
            serde_json::to_vec(record).expect("JSON")
        }
        match self {
            Record::Click(click) => ("clicks", None, Some(json(click))),
            Record::Form(form) => ("forms", Some(form.workspace.clone()), Some(json(form))),
            Record::Contact(portal, id, state) => ("crm.contacts", Some(format!("{portal}/{id}")), state.as_ref().map(json)),
            Record::Deal(portal, id, state) => ("crm.deals", Some(format!("{portal}/{id}")), state.as_ref().map(json)),
        }
    }

    /// The record that was written so.
    pub fn read(topic: &str, key: Option<&str>, value: Option<&[u8]>) -> Self {
        fn of<T: serde::de::DeserializeOwned>(value: &[u8]) -> T {
            serde_json::from_slice(value).expect("what was written")
        }
        let key = || {
            let (portal, id) = key.and_then(|key| key.split_once('/')).expect("portal and id");
            (portal.to_owned(), id.to_owned())
        };
        match topic {
            "clicks" => Record::Click(Box::new(of(value.expect("a click")))),
            "forms" => Record::Form(of(value.expect("a form"))),
            "crm.contacts" => Record::Contact(key().0, key().1, value.map(of)),
            _ => Record::Deal(key().0, key().1, value.map(of)),
        }
    }
}

/// Records with their log times, in the log's order.
pub struct Log(Vec<(Ms, Record)>);

fn pick<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
    of.choose(rng).copied().unwrap_or_default()
}

fn maybe(rng: &mut StdRng, chance: f64, of: &[&str]) -> Option<String> {
    rng.random_bool(chance).then(|| pick(rng, of).to_owned())
}

impl Log {
    pub fn random(rng: &mut StdRng, records: usize) -> Self {
        let mut now = START;
        let mut log: Vec<(Ms, Record)> = Vec::new();
        for n in 0..records {
            // Steps of the clock and ages lie at and around every bound of the contract.
            now += *[0, 0, 0, 1, 499, 500, 501, 60_000, HOUR, 2 * HOUR, 12 * HOUR, DAY, 2 * DAY].choose(rng).unwrap_or(&0);
            let bound = *[0, 0, 0, 0, HOUR, 2 * HOUR, DAY, 3 * DAY, 14 * DAY, 30 * DAY].choose(rng).unwrap_or(&0);
            let ts = (now - bound).saturating_add_signed(*[-500, -1, 0, 0, 0, 1, 250, 500, 200_000].choose(rng).unwrap_or(&0));
            let again = |rng: &mut StdRng, log: &[(Ms, Record)]| {
                rng.random_bool(0.1).then(|| log.choose(rng).map(|(_, record)| record.clone())).flatten()
            };
            let record = match again(rng, &log) {
                Some(record) => record,
                None => Record::random(rng, n, ts),
            };
            log.push((now, record));
        }
        Log(log)
    }

    /// Of records in the log's order.
    pub fn of(records: Vec<(Ms, Record)>) -> Self {
        Log(records)
    }

    /// The last tick's end.
    pub fn end(&self) -> Ms {
        self.0.iter().map(|(at, _)| tick_end(*at, TICK)).max().unwrap_or(0)
    }

    /// Without the clicks that were appended before one time, and the forms before another.
    pub fn since(&self, clicks: Ms, forms: Ms) -> Log {
        let kept = |(at, record): &&(Ms, Record)| match record {
            Record::Click(_) => *at >= clicks,
            Record::Form(_) => *at >= forms,
            Record::Contact(..) | Record::Deal(..) => true,
        };
        Log(self.0.iter().filter(kept).cloned().collect())
    }

    pub fn clicks(&self) -> impl Iterator<Item = &Click> {
        self.0.iter().filter_map(|(_, record)| if let Record::Click(click) = record { Some(click.as_ref()) } else { None })
    }

    pub fn arrivals(&self) -> Vec<(Arrival, Ms)> {
        let arrival = |(n, (at, record)): (usize, &(Ms, Record))| {
            let place = Place { partition: 0, offset: n as i64 };
            let arrival = match record.clone() {
                Record::Click(click) => Arrival::Click(place, Arc::from(click)),
                Record::Form(form) => Arrival::Form(place, Arc::new(form)),
                Record::Contact(portal, id, contact) => Arrival::Contact(place, ustr(&portal), ustr(&id), contact.map(Arc::new)),
                Record::Deal(portal, id, deal) => Arrival::Deal(place, ustr(&portal), ustr(&id), deal.map(Arc::new)),
            };
            (arrival, tick_end(*at, TICK))
        };
        self.0.iter().enumerate().map(arrival).collect()
    }
}

fn click(rng: &mut StdRng, n: usize, ts: Ms) -> Click {
    let mut tags: Vec<String> = Vec::new();
    for tag in ["x", "y", "x"] {
        if rng.random_bool(0.5) {
            tags.push(tag.to_owned());
        }
    }
    let named = rng.random_bool(0.5);
    Click {
        v: 1,
        id: format!("c{n}"),
        ts,
        workspace: pick(rng, &["one", "one", "two", "three"]).to_owned(),
        link: pick(rng, &["d/1", "d/2"]).to_owned(),
        title: maybe(rng, 0.8, &["T"]),
        tags,
        deal_id: maybe(rng, 0.2, &["91", "92"]),
        contact_id: if named { maybe(rng, 0.9, &["1", "2", "3", "7"]) } else { None },
        gclid: if named { None } else { maybe(rng, 0.7, &["g", "G", "h"]) },
        fbclid: if named { None } else { maybe(rng, 0.4, &["g", "f"]) },
        utm: clickline::model::Utm {
            source: maybe(rng, 0.6, &["s1", "s2"]),
            medium: maybe(rng, 0.3, &["m1"]),
            campaign: maybe(rng, 0.5, &["k1", "k2", "k3"]),
            ..Default::default()
        },
        bot: maybe(rng, 0.1, &["head"]),
        ..Click::default()
    }
}

fn form(rng: &mut StdRng, n: usize, ts: Ms) -> Form {
    Form {
        v: 1,
        id: format!("f{n}"),
        ts,
        workspace: pick(rng, &["one", "one", "two", "three"]).to_owned(),
        email: pick(rng, &["a@x", "b@x", "c@x"]).to_owned(),
        gclid: maybe(rng, 0.7, &["g", "G", "h"]),
        fbclid: maybe(rng, 0.5, &["g", "f"]),
    }
}

fn contact(rng: &mut StdRng) -> Record {
    let (portal, id) = (pick(rng, &["1", "2"]).to_owned(), pick(rng, &["1", "2", "3", "7"]).to_owned());
    let contact = rng.random_bool(0.85).then(|| Contact {
        v: 1,
        portal: portal.clone(),
        contact_id: id.clone(),
        email: maybe(rng, 0.7, &["a@x", "b@x", "c@x"]),
        additional_emails: maybe(rng, 0.3, &["a@x", "b@x", "c@x"]).into_iter().collect(),
        merged_ids: maybe(rng, 0.4, &["1", "2", "3", "7"]).into_iter().collect(),
    });
    Record::Contact(portal, id, contact)
}

fn deal(rng: &mut StdRng) -> Record {
    let (portal, id) = (pick(rng, &["1", "2"]).to_owned(), pick(rng, &["91", "92", "93"]).to_owned());
    let deal = rng.random_bool(0.9).then(|| Deal {
        v: 1,
        portal: portal.clone(),
        deal_id: id.clone(),
        pipeline: pick(rng, &["p", "p", "p", "q"]).to_owned(),
        stage: pick(rng, &["a", "a", "b", "c"]).to_owned(),
        amount: [None, Some(99.99), Some(100.0), Some(5_000.0)].choose(rng).copied().flatten(),
        contact_ids: ["1", "2", "3", "7"].into_iter().filter(|_| rng.random_bool(0.4)).map(str::to_owned).collect(),
    });
    Record::Deal(portal, id, deal)
}

/// An output as one line: tick, kind, and what the contract says of it.
pub fn line(at: Ms, output: &Output) -> String {
    let value: serde_json::Value = match output.topic {
        Topic::State if output.value.is_empty() => serde_json::json!({"at": at}),
        _ => serde_json::from_slice(&output.value).expect("JSON"),
    };
    assert_eq!(value["at"], at, "the record names its tick");
    let text = |field: &str| value[field].as_str().unwrap_or("-").to_owned();
    let who = || {
        value["contact_id"]
            .as_str()
            .map(|id| format!("c:{id}"))
            .or(value["email"].as_str().map(|email| format!("e:{email}")))
            .unwrap_or("-".into())
    };
    match output.topic {
        Topic::Timeline => {
            let found = format!("{} {} {}", value["found"]["by"], value["found"]["form_id"], value["found"]["after_click_ms"]);
            format!("{at} timeline {} {} {} {} {found}", output.key, text("id"), who(), text("title"))
        }
        Topic::ContactProperties => format!("{at} properties {} {} {} {}", output.key, who(), value["properties"], value["from"]),
        Topic::DealStages => format!(
            "{at} stage {} {} {} {} {} {} {} {} {}",
            output.key,
            text("rule"),
            value["shadow"],
            text("deal_id"),
            who(),
            value["count"],
            value["hot_since"],
            value["last_click"]["id"],
            text("to_stage"),
        ),
        Topic::Unresolved => format!("{at} unresolved {} {}", output.key, value["click"]["id"]),
        Topic::Counts => format!("{at} count {} {}", output.key, value["count"]),
        Topic::DeadLetters => format!("{at} dead {}", output.key),
        Topic::State => format!("{at} state {}", output.key),
    }
}

type Portal = String;

/// A click that found its person.
struct Resolved {
    click: Click,
    portal: Portal,
    /// `c:` or `e:` identity.
    identity: String,
}

/// What the contract says a log means, up to its last tick.
pub fn expect(world: &World, log: &Log) -> Vec<String> {
    expect_until(world, log, log.end())
}

/// What the contract says a log means up to the tick that ends at `end`.
pub fn expect_until(world: &World, log: &Log, end: Ms) -> Vec<String> {
    let mut said = Vec::new();
    // Every tick's end at which anything can change: arrivals, and each bound that a click's time brings.
    let mut ticks: BTreeSet<Ms> = BTreeSet::new();
    for (at, record) in &log.0 {
        ticks.insert(tick_end(*at, TICK));
        if let Record::Click(click) = record {
            for bound in [0, 3 * DAY + 1, 2 * HOUR, DAY, 30 * DAY] {
                ticks.insert(tick_end(click.ts + bound, TICK));
            }
        }
    }
    // Seconds' ends, at which counts are published.
    let seconds: Vec<Ms> = ticks.iter().map(|tick| tick_end(*tick, 1_000)).collect();
    ticks.extend(seconds);
    ticks.retain(|tick| *tick <= end);

    let mut seen_at: BTreeMap<(bool, String, String), Ms> = BTreeMap::new();
    let (mut forms, mut held, mut resolved): (Vec<Form>, Vec<Click>, Vec<Resolved>) = Default::default();
    let mut for_deals: Vec<Click> = Vec::new();
    let mut contacts: BTreeMap<(Portal, String), Contact> = BTreeMap::new();
    let mut deals: BTreeMap<(Portal, String), Deal> = BTreeMap::new();
    let mut hot: BTreeMap<(usize, String, Portal, String), Ms> = BTreeMap::new();
    let mut moved: BTreeSet<(usize, String, Portal, String, String)> = BTreeSet::new();
    let mut last_values: BTreeMap<(Portal, String, &str), String> = BTreeMap::new();
    let mut published: BTreeMap<String, u64> = BTreeMap::new();

    for t in ticks {
        let mut fresh_clicks = Vec::new();
        let mut fresh_forms = Vec::new();
        for (_, record) in log.0.iter().filter(|(at, _)| tick_end(*at, TICK) == t) {
            let mut first = |form: bool, workspace: &str, id: &str| {
                let before = seen_at.insert((form, workspace.to_owned(), id.to_owned()), t);
                before.is_none_or(|before| before + 72 * HOUR < t)
            };
            match record {
                Record::Click(click) => {
                    if first(false, &click.workspace, &click.id) && click.bot.is_none() {
                        fresh_clicks.push(click.as_ref().clone());
                    }
                }
                Record::Form(form) => {
                    if first(true, &form.workspace, &form.id) {
                        fresh_forms.push(form.clone());
                    }
                }
                Record::Contact(portal, id, state) => {
                    contacts.remove(&(portal.clone(), id.clone()));
                    contacts.extend(state.clone().map(|state| ((portal.clone(), id.clone()), state)));
                }
                Record::Deal(portal, id, state) => {
                    deals.remove(&(portal.clone(), id.clone()));
                    deals.extend(state.clone().map(|state| ((portal.clone(), id.clone()), state)));
                }
            }
        }

        // Section 3: forms, then clicks, then expiry.
        let matches = |click: &Click, form: &Form| {
            click.workspace == form.workspace
                && (click.gclid.is_some() && click.gclid == form.gclid || click.fbclid.is_some() && click.fbclid == form.fbclid)
                && click.ts <= form.ts + 14 * DAY
        };
        let mut found: Vec<(Click, Option<Form>)> = Vec::new();
        held.retain(|click| {
            let fit: Vec<&Form> = fresh_forms.iter().filter(|form| matches(click, form) && form.ts <= click.ts + 72 * HOUR).collect();
            let form = best(click, &fit);
            found.extend(form.map(|form| (click.clone(), Some(form.clone()))));
            form.is_none()
        });
        forms.append(&mut fresh_forms);
        for click in fresh_clicks {
            if click.deal_id.is_some() {
                for_deals.push(click.clone());
            }
            if click.contact_id.is_some() {
                found.push((click, None));
            } else if click.gclid.is_some() || click.fbclid.is_some() {
                let fit: Vec<&Form> = forms.iter().filter(|form| matches(&click, form) && form.ts <= click.ts + 72 * HOUR).collect();
                match best(&click, &fit) {
                    Some(form) => found.push((click, Some(form.clone()))),
                    None => held.push(click),
                }
            }
        }
        held.retain(|click| {
            let over = t > click.ts + 72 * HOUR;
            if over {
                said.push(format!("{t} unresolved {} \"{}\"", click.workspace, click.id));
            }
            !over
        });

        let person = |portal: &str, identity: &str| person(&contacts, portal, identity);
        for (click, form) in found {
            let identity = match &form {
                Some(form) => format!("e:{}", form.email),
                None => format!("c:{}", click.contact_id.clone().unwrap_or_default()),
            };
            for portal in &world.portals[click.workspace.as_str()] {
                let how = match &form {
                    Some(form) => format!("\"form\" \"{}\" {}", form.id, form.ts as i64 - click.ts as i64),
                    None => "\"eid\" null null".to_owned(),
                };
                let title = if click.title.is_some() { format!("Clicked: T ({})", click.link) } else { format!("Clicked: {}", click.link) };
                said.push(format!("{t} timeline {portal} clk:{}:{portal} {} {title} {how}", click.id, person(portal, &identity)));
                resolved.push(Resolved { click: click.clone(), portal: (*portal).to_owned(), identity: identity.clone() });
            }
        }

        // Section 5.
        let mut values: BTreeMap<(Portal, String, &str), (Ms, String, String)> = BTreeMap::new();
        for Resolved { click, portal, identity } in &resolved {
            let fields = [("source", &click.utm.source), ("campaign", &click.utm.campaign), ("medium", &click.utm.medium)];
            for (field, value) in fields {
                let Some(value) = value else { continue };
                let new = (click.ts, click.id.clone(), value.clone());
                let last = values.entry((portal.clone(), person(portal, identity), field)).or_insert_with(|| new.clone());
                if (last.0, &last.1) < (new.0, &new.1) {
                    *last = new;
                }
            }
        }
        let mut changes: BTreeMap<(Portal, String), [BTreeMap<String, serde_json::Value>; 2]> = BTreeMap::new();
        for ((portal, who, field), (ts, id, value)) in &values {
            if last_values.get(&(portal.clone(), who.clone(), field)) != Some(value) {
                let [texts, from] = changes.entry((portal.clone(), who.clone())).or_default();
                texts.insert(format!("elido_last_utm_{field}"), value.clone().into());
                from.insert(format!("elido_last_utm_{field}"), serde_json::json!({"click_id": id, "ts": ts}));
            }
        }
        for ((portal, who), [texts, from]) in changes {
            said.push(format!("{t} properties {portal} {who} {} {}", serde_json::json!(texts), serde_json::json!(from)));
        }
        last_values = values.into_iter().map(|(key, (_, _, value))| (key, value)).collect();

        // Section 6.
        let in_window = |click: &Click, window: Ms| t < click.ts + window && click.ts <= t;
        let counts_tag = |click: &Click, counted: &Counted| match counted {
            Counted::Tag(tag) => click.tags.contains(tag),
            Counted::Link(link) => click.link == *link,
        };
        if t % 1_000 == 0 {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            let mut kept: BTreeSet<(String, Counted, Ms, bool)> = BTreeSet::new();
            for workspace in world.portals.keys() {
                for rule in world.rules.iter().filter(|rule| rule.workspace.as_deref().is_none_or(|of| of == *workspace)) {
                    let by_deal = !rule.guard.require_associated_contact;
                    kept.insert(((*workspace).to_owned(), rule.counted.clone(), rule.window, by_deal));
                }
            }
            let ruled = kept.clone();
            for counted in [Counted::Tag("x".into()), Counted::Tag("y".into()), Counted::Link("d/1".into()), Counted::Link("d/2".into())] {
                // `counts: all` of workspace one; what a rule names is kept in the rule's windows.
                if !ruled.iter().any(|(workspace, of, _, by_deal)| workspace == "one" && *of == counted && !by_deal) {
                    kept.insert(("one".to_owned(), counted, 30 * DAY, false));
                }
            }
            for (workspace, counted, window, by_deal) in &kept {
                let what = match counted {
                    Counted::Tag(text) | Counted::Link(text) => text,
                };
                let suffix = if *window == 30 * DAY { String::new() } else { format!("@{}", rules::window_text(*window)) };
                let mut add = |portal: &str, who: &str, click: &Click| {
                    if click.workspace == *workspace && counts_tag(click, counted) && in_window(click, *window) {
                        // Portal 1 has two workspaces, which its keys tell apart.
                        let mark = if portal == "1" { format!("#{workspace}") } else { String::new() };
                        *counts.entry(format!("{portal}/{who}/{what}{suffix}{mark}")).or_default() += 1;
                    }
                };
                if *by_deal {
                    for click in &for_deals {
                        for portal in &world.portals[click.workspace.as_str()] {
                            add(portal, &format!("deal:{}", click.deal_id.clone().unwrap_or_default()), click);
                        }
                    }
                } else {
                    for Resolved { click, portal, identity } in &resolved {
                        add(portal, &person(portal, identity)[2..], click);
                    }
                }
            }
            for key in counts.keys().chain(published.keys()).collect::<BTreeSet<_>>() {
                let (was, is) = (published.get(key).copied().unwrap_or(0), counts.get(key).copied().unwrap_or(0));
                if was != is {
                    said.push(format!("{t} count {key} {is}"));
                }
            }
            published = counts;
        }

        // Section 7.
        for (n, rule) in world.rules.iter().enumerate() {
            for (workspace, portals) in world.portals.iter().filter(|(name, _)| rule.workspace.as_deref().is_none_or(|of| of == **name)) {
                for portal in portals {
                    let mut clicks: BTreeMap<String, Vec<(Ms, String)>> = BTreeMap::new();
                    let mut add = |who: String, click: &Click| {
                        if click.workspace == *workspace && counts_tag(click, &rule.counted) && in_window(click, rule.window) {
                            clicks.entry(who).or_default().push((click.ts, click.id.clone()));
                        }
                    };
                    if rule.guard.require_associated_contact {
                        for Resolved { click, identity, .. } in resolved.iter().filter(|click| click.portal == *portal) {
                            add(person(portal, identity), click);
                        }
                    } else {
                        for click in &for_deals {
                            add(format!("d:{}", click.deal_id.clone().unwrap_or_default()), click);
                        }
                    }
                    clicks.retain(|_, of| of.len() as u64 >= rule.threshold);
                    let key = |who: &str| (n, (*workspace).to_owned(), (*portal).to_owned(), who.to_owned());
                    hot.retain(|(rule, of, at, who), _| *rule != n || of != workspace || at != portal || clicks.contains_key(who));
                    moved.retain(|(rule, of, at, who, _)| hot.contains_key(&(*rule, of.clone(), at.clone(), who.clone())));
                    for (who, of) in clicks {
                        let since = *hot.entry(key(&who)).or_insert(t);
                        let last = of.iter().max().map(|(_, id)| id.clone()).unwrap_or_default();
                        for ((_, id), deal) in deals.iter().filter(|((at, _), _)| at == portal) {
                            let eligible = deal.pipeline == rule.pipeline
                                && deal.stage == rule.from_stage
                                && rule.guard.deal_amount_min.is_none_or(|least| deal.amount.is_some_and(|amount| amount >= least))
                                && if rule.guard.require_associated_contact {
                                    deal.contact_ids.iter().any(|id| person(portal, &format!("c:{id}")) == who)
                                } else {
                                    who == format!("d:{id}")
                                };
                            let (a, b, c, d) = key(&who);
                            if eligible && moved.insert((a, b, c, d, id.clone())) {
                                let shadow = rule.mode == Mode::Shadow;
                                let shown = if who.starts_with("d:") { "-" } else { &who };
                                said.push(format!(
                                    "{t} stage {portal} {} {shadow} {id} {shown} {} {since} \"{last}\" {}",
                                    rule.name,
                                    of.len(),
                                    rule.to_stage
                                ));
                            }
                        }
                    }
                }
            }
        }
    }
    said
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
