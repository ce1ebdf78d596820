//! The same answers by hand: one thread, hash maps, no dataflow. What a good programmer would write for one machine.
//!
//! It leaves out what the generated records do not need: merged contacts, deals that move, several windows, portals and
//! workspaces, rules that are added later. All maps use the same fast hasher.

use crate::Digest;
use crate::generate::Made;
use clickline::config::rules::Counted;
use clickline::dataflow::plan::{Counts, Plan};
use clickline::dataflow::rows::{Arrival, ClickId};
use clickline::model::time::{DAY, FORM_BEFORE, HOLD, HOUR, Ms, tick_end};
use clickline::model::{Click, Form, PackedClick, UtmField};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

type Map<K, V> = HashMap<K, V, FixedState>;

const WINDOW: Ms = 30 * DAY;
const TICK: Ms = crate::generate::TICK;
/// In the order of `Person::utm`.
const PROPERTIES: [&str; 3] = ["elido_last_utm_source", "elido_last_utm_campaign", "elido_last_utm_medium"];

/// What it reads of a click.
pub trait Clicked {
    /// Its id.
    fn id(&self) -> &str;
    /// When it happened.
    fn ts(&self) -> Ms;
    /// Whether a machine made it.
    fn is_bot(&self) -> bool;
    /// The contact that it names.
    fn contact_id(&self) -> Option<&str>;
    /// Google's click id.
    fn gclid(&self) -> Option<&str>;
    /// The link.
    fn link(&self) -> &str;
    /// The link's tags.
    fn tags(&self) -> impl Iterator<Item = &str>;
    /// A campaign value.
    fn utm(&self, field: UtmField) -> Option<&str>;
}

impl Clicked for Click {
    fn id(&self) -> &str {
        &self.id
    }
    fn ts(&self) -> Ms {
        self.ts
    }
    fn is_bot(&self) -> bool {
        self.bot.is_some()
    }
    fn contact_id(&self) -> Option<&str> {
        self.contact_id.as_deref()
    }
    fn gclid(&self) -> Option<&str> {
        self.gclid.as_deref()
    }
    fn link(&self) -> &str {
        &self.link
    }
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }
    fn utm(&self, field: UtmField) -> Option<&str> {
        field.of(self)
    }
}

impl Clicked for PackedClick {
    fn id(&self) -> &str {
        self.id_text()
    }
    fn ts(&self) -> Ms {
        self.ts
    }
    fn is_bot(&self) -> bool {
        self.bot().is_some()
    }
    fn contact_id(&self) -> Option<&str> {
        self.contact_id()
    }
    fn gclid(&self) -> Option<&str> {
        self.gclid()
    }
    fn link(&self) -> &str {
        self.link()
    }
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags()
    }
    fn utm(&self, field: UtmField) -> Option<&str> {
        self.utm(field)
    }
}

/// A record that it is given.
pub enum Record<C> {
    /// A click.
    Click(Arc<C>),
    /// Anything else.
    Other(Arrival),
}

impl From<Made> for Record<Click> {
    fn from(made: Made) -> Self {
        match made {
            Made::Click(_, click) => Record::Click(click),
            Made::Other(arrival) => Record::Other(arrival),
        }
    }
}

impl From<Made> for Record<PackedClick> {
    fn from(made: Made) -> Self {
        match made.arrival() {
            Arrival::Click(_, click) => Record::Click(click),
            other => Record::Other(other),
        }
    }
}

struct Count {
    person: u32,
    key: u32,
    n: u32,
    last: Option<(Ms, ClickId)>,
    /// What was published before the running second, if it changed in it.
    was: Option<u32>,
}

#[derive(Default)]
struct Person {
    name: String,
    utm: [Option<(Ms, ClickId, String)>; 3],
    /// What was told: a value that changes and changes back within a tick is no change.
    told: [String; 3],
    deals: Vec<(String, bool)>,
}

/// One key that is counted: a tag or a link, and the rules that look at it.
#[derive(Default)]
struct Key {
    name: String,
    rules: Vec<(u32, u64)>,
}

pub struct Baseline<C> {
    seen: Map<(bool, ClickId), Ms>,
    seen_order: VecDeque<(Ms, (bool, ClickId))>,
    forms: Map<String, Vec<Arc<Form>>>,
    forms_order: VecDeque<(Ms, String)>,
    held: Map<String, Vec<Arc<C>>>,
    expiry: BTreeMap<Ms, Vec<String>>,
    emails: Map<String, u32>,
    persons: Vec<Person>,
    by_name: Map<String, u32>,
    keys: Vec<Key>,
    by_key: Map<String, u32>,
    all: bool,
    counts: Vec<Count>,
    free: Vec<u32>,
    by_count: Map<(u32, u32), u32>,
    window: VecDeque<(Ms, u32)>,
    hot: Map<(u32, u32), Ms>,
    changed: Vec<u32>,
    touched: Vec<u32>,
    second: Ms,
    pub digest: Digest,
}

impl<C: Clicked> Baseline<C> {
    pub fn new(plan: &Plan) -> Self {
        let mut keys: Vec<Key> = Vec::new();
        let mut by_key: Map<String, u32> = Map::default();
        for (n, planned) in (0u32..).zip(&plan.rules) {
            let name = match &planned.rule.counted {
                Counted::Tag(tag) => format!("t:{tag}"),
                Counted::Link(link) => format!("l:{link}"),
            };
            let place = *by_key.entry(name.clone()).or_insert_with(|| {
                keys.push(Key { name, rules: Vec::new() });
                u32::try_from(keys.len() - 1).expect("few")
            });
            keys[place as usize].rules.push((n, planned.rule.threshold));
        }
        Baseline {
            seen: Map::default(),
            seen_order: VecDeque::new(),
            forms: Map::default(),
            forms_order: VecDeque::new(),
            held: Map::default(),
            expiry: BTreeMap::new(),
            emails: Map::default(),
            persons: Vec::new(),
            by_name: Map::default(),
            keys,
            by_key,
            all: plan.workspaces.values().any(|workspace| workspace.counts == Counts::All),
            counts: Vec::new(),
            free: Vec::new(),
            by_count: Map::default(),
            window: VecDeque::new(),
            hot: Map::default(),
            changed: Vec::new(),
            touched: Vec::new(),
            second: 0,
            digest: Digest::default(),
        }
    }

    /// Takes records in the log's order; all ticks before the last one's are complete then.
    pub fn run(&mut self, records: &[(Record<C>, Ms)]) {
        for tick in records.chunk_by(|a, b| a.1 == b.1) {
            self.tick(tick, tick[0].1);
        }
    }

    fn tick(&mut self, records: &[(Record<C>, Ms)], at: Ms) {
        // What was due between this tick and the one before, at its own time.
        while let Some(due) = self.due().filter(|due| *due < at) {
            self.close(due);
        }
        for (record, _) in records {
            let Record::Other(arrival) = record else { continue };
            match arrival {
                Arrival::Contact(_, _, id, Some(contact)) => {
                    let person = self.person(&format!("c:{id}"));
                    self.emails.insert(contact.email.clone().unwrap_or_default(), person);
                }
                Arrival::Deal(_, _, id, Some(deal)) => {
                    for contact in &deal.contact_ids {
                        let person = self.person(&format!("c:{contact}"));
                        self.persons[person as usize].deals.push((id.to_string(), deal.stage == "a"));
                    }
                }
                Arrival::Form(_, form) if self.first(true, &form.id, at) => self.form(form, at),
                _ => {}
            }
        }
        for (record, _) in records {
            if let Record::Click(click) = record
                && self.first(false, click.id(), at)
                && !click.is_bot()
            {
                self.click(click, at);
            }
        }
        self.close(at);
    }

    fn first(&mut self, form: bool, id: &str, at: Ms) -> bool {
        while let Some((seen, _)) = self.seen_order.front()
            && seen + 72 * HOUR < at
        {
            let (seen, key) = self.seen_order.pop_front().expect("it is there");
            if self.seen.get(&key) == Some(&seen) {
                self.seen.remove(&key);
            }
        }
        let key = (form, ClickId::of(id));
        let before = self.seen.insert(key.clone(), at);
        if before != Some(at) {
            self.seen_order.push_back((at, key));
        }
        before.is_none()
    }

    fn form(&mut self, form: &Arc<Form>, at: Ms) {
        let Some(gclid) = &form.gclid else { return };
        // One form has one value here, so whoever waits for it takes this one.
        for click in self.held.remove(gclid).unwrap_or_default() {
            if form.ts + FORM_BEFORE >= click.ts() && form.ts <= click.ts() + HOLD {
                self.by_form(&click, form, at);
            } else {
                self.held.entry(gclid.clone()).or_default().push(click);
            }
        }
        self.forms.entry(gclid.clone()).or_default().push(Arc::clone(form));
        self.forms_order.push_back((form.ts + FORM_BEFORE + 33 * DAY, gclid.clone()));
    }

    fn click(&mut self, click: &Arc<C>, at: Ms) {
        if let Some(contact) = click.contact_id() {
            let person = self.person(&format!("c:{contact}"));
            self.resolve(click, person, None, at);
        } else if let Some(gclid) = click.gclid() {
            let fit = |form: &&Arc<Form>| form.ts + FORM_BEFORE >= click.ts() && form.ts <= click.ts() + HOLD;
            let forms = self.forms.get(gclid).into_iter().flatten().filter(fit);
            let before = forms.clone().filter(|form| form.ts <= click.ts()).max_by_key(|form| (form.ts, form.id.clone()));
            match before.or_else(|| forms.min_by_key(|form| (form.ts, form.id.clone()))).map(Arc::clone) {
                Some(form) => self.by_form(click, &form, at),
                None => {
                    self.held.entry(gclid.to_owned()).or_default().push(Arc::clone(click));
                    let over = tick_end(click.ts() + HOLD + 1, TICK).max(at);
                    self.expiry.entry(over).or_default().push(gclid.to_owned());
                }
            }
        }
    }

    fn by_form(&mut self, click: &Arc<C>, form: &Arc<Form>, at: Ms) {
        let person = match self.emails.get(&form.email) {
            Some(person) => *person,
            None => self.person(&format!("e:{}", form.email)),
        };
        self.resolve(click, person, Some(&form.id), at);
    }

    fn person(&mut self, name: &str) -> u32 {
        if let Some(person) = self.by_name.get(name) {
            return *person;
        }
        let person = u32::try_from(self.persons.len()).expect("few");
        self.persons.push(Person { name: name.to_owned(), ..Person::default() });
        self.by_name.insert(name.to_owned(), person);
        person
    }

    fn resolve(&mut self, click: &Arc<C>, person: u32, form: Option<&str>, at: Ms) {
        self.digest.resolved(click.id(), &self.persons[person as usize].name, form, at);
        let id = ClickId::of(click.id());
        let of = &mut self.persons[person as usize];
        for (last, field) in of.utm.iter_mut().zip(UtmField::ALL) {
            let Some(value) = click.utm(field) else { continue };
            match last {
                Some((ts, last_id, _)) if (*ts, &*last_id) >= (click.ts(), &id) => {}
                Some((ts, last_id, text)) => {
                    (*ts, *last_id) = (click.ts(), id.clone());
                    if text != value {
                        value.clone_into(text);
                        self.touched.push(person);
                    }
                }
                None => {
                    *last = Some((click.ts(), id.clone(), value.to_owned()));
                    self.touched.push(person);
                }
            }
        }
        let b = tick_end(click.ts(), TICK);
        if b + WINDOW <= at {
            return;
        }
        let mut counted: [u32; 8] = [u32::MAX; 8];
        let mut n = 0;
        for tag in click.tags() {
            n = self.note(&format!("t:{tag}"), &mut counted, n);
        }
        n = self.note(&format!("l:{}", click.link()), &mut counted, n);
        for key in &counted[..n] {
            self.count(person, *key, click.ts(), &id, b);
        }
    }

    fn note(&mut self, name: &str, counted: &mut [u32; 8], n: usize) -> usize {
        let key = match self.by_key.get(name) {
            Some(key) => *key,
            None if self.all => {
                let key = u32::try_from(self.keys.len()).expect("few");
                self.keys.push(Key { name: name.to_owned(), rules: Vec::new() });
                self.by_key.insert(name.to_owned(), key);
                key
            }
            None => return n,
        };
        if counted[..n].contains(&key) {
            return n;
        }
        counted[n] = key;
        n + 1
    }

    fn count(&mut self, person: u32, key: u32, ts: Ms, id: &ClickId, b: Ms) {
        let (counts, free) = (&mut self.counts, &mut self.free);
        let ix = *self.by_count.entry((person, key)).or_insert_with(|| {
            let count = Count { person, key, n: 0, last: None, was: None };
            match free.pop() {
                Some(ix) => {
                    counts[ix as usize] = count;
                    ix
                }
                None => {
                    counts.push(count);
                    u32::try_from(counts.len() - 1).expect("fits")
                }
            }
        });
        let count = &mut self.counts[ix as usize];
        if count.was.is_none() {
            count.was = Some(count.n);
        }
        count.n += 1;
        if count.last.as_ref().is_none_or(|(last, of)| (*last, of) < (ts, id)) {
            count.last = Some((ts, id.clone()));
        }
        self.changed.push(ix);
        // Mostly at the end; a late click a little before it.
        let place = self.window.len() - self.window.iter().rev().take_while(|(of, _)| *of > b).count();
        self.window.insert(place, (b, ix));
    }

    fn due(&self) -> Option<Ms> {
        let window = self.window.front().map(|(b, _)| b + WINDOW);
        let second = (!self.changed.is_empty()).then_some(self.second);
        [window, second, self.expiry.keys().next().copied()].into_iter().flatten().min()
    }

    fn close(&mut self, at: Ms) {
        while let Some(entry) = self.expiry.first_entry()
            && *entry.key() <= at
        {
            for gclid in entry.remove() {
                let Some(held) = self.held.get_mut(&gclid) else { continue };
                held.retain(|click| {
                    let over = click.ts() + HOLD < at;
                    if over {
                        self.digest.unresolved(click.id(), at);
                    }
                    !over
                });
                if held.is_empty() {
                    self.held.remove(&gclid);
                }
            }
        }
        while let Some((gone, _)) = self.forms_order.front()
            && *gone < at
        {
            let (_, gclid) = self.forms_order.pop_front().expect("it is there");
            self.forms.remove(&gclid);
        }
        while let Some((b, ix)) = self.window.front().copied()
            && b + WINDOW <= at
        {
            self.window.pop_front();
            let count = &mut self.counts[ix as usize];
            if count.was.is_none() {
                count.was = Some(count.n);
            }
            count.n -= 1;
            self.changed.push(ix);
        }
        self.second = tick_end(at, 1_000);
        self.changed.sort_unstable();
        self.changed.dedup();
        for ix in std::mem::take(&mut self.changed) {
            self.decide(ix, at);
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for person in self.touched.drain(..) {
            let of = &mut self.persons[person as usize];
            for ((property, value), told) in PROPERTIES.iter().zip(&of.utm).zip(&mut of.told) {
                let Some((ts, id, text)) = value.as_ref().filter(|(_, _, text)| text != told) else { continue };
                told.clone_from(text);
                self.digest.value(&of.name, property, text, (*ts, id), at);
            }
        }
    }

    /// Rules and the published count; ticks are whole seconds here, so each tick publishes.
    fn decide(&mut self, ix: u32, at: Ms) {
        let count = &mut self.counts[ix as usize];
        let was = count.was.take().unwrap_or(count.n);
        let (person, key) = (&mut self.persons[count.person as usize], &self.keys[count.key as usize]);
        for (rule, threshold) in &key.rules {
            let hot = u64::from(count.n) >= *threshold;
            match (hot, u64::from(was) >= *threshold) {
                (true, false) => {
                    self.hot.insert((*rule, count.person), at);
                    let last = count.last.as_ref().map(|(_, id)| id.to_string()).unwrap_or_default();
                    for (deal, _) in person.deals.iter().filter(|(_, ready)| *ready) {
                        self.digest.advanced(*rule, &person.name, deal, at, u64::from(count.n), &last, at);
                    }
                }
                (false, true) => drop(self.hot.remove(&(*rule, count.person))),
                _ => {}
            }
        }
        if was != count.n {
            self.digest.count(&person.name, &key.name, u64::from(count.n), at);
        }
        if count.n == 0 {
            self.by_count.remove(&(count.person, count.key));
            self.free.push(ix);
        }
    }
}
