//! Counts each identity's clicks in rolling windows, and says whose they are.
//!
//! # Meaning
//! A click of an identity counts, for every tag and link that is measured, while its own time lies in the window: from
//! the first tick's end at or after it until it is one window old. What an identity has is told to the person that it
//! stands for, and moves when the contact mirror says so. The machine also tells each resolved click with its person,
//! and each identity's last campaign values.
//!
//! # Ties and edges
//! - Within a tick the mirror's word comes first, then clicks, then what leaves the windows; only the tick's end is told.
//! - A click that arrives after it left a window is not counted in it.
//! - A click of the future waits until its time comes; its campaign values do not.
//! - Campaign values have no window: they outlive the log that is kept. So each identity's are said once a day in which
//!   they changed, for the next start, which gets them back as rows that are taken first in their tick.
//!
//! # Cost
//! 8 bytes for each click and measure, one record for each identity and live (identity, measure). A click that nothing
//! measures costs no log entry.

use super::plan::{Plan, link_key, tag_key};
use super::rows::{Carried, ClickRef, Hit, LastUtm, Measure, Resolved, Standing, Subject, Tally, UtmField, UtmValues, Who, route_of};
use super::step::{Machine, Map};
use super::window_log::WindowLog;
use crate::model::Click;
use crate::model::time::{DAY, Ms, tick_end};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use ustr::Ustr;

/// Links that are remembered with what they count for; beyond that all are looked up anew.
const MEASURED: usize = 1 << 16;

/// What the machine is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Seen {
    /// A click and its identity.
    Hit(Hit),
    /// Whom an identity stands for.
    Standing(Standing),
    /// An identity's campaign values when the job was stopped.
    Values(Subject, UtmValues),
}

impl Seen {
    /// An identity is kept at one worker, for all workspaces of its portal.
    pub fn route(&self) -> u64 {
        match self {
            Seen::Hit(hit) => hit.subject.route(),
            Seen::Values(subject, _) => subject.route(),
            Seen::Standing(standing) => route_of(standing.portal, standing.who),
        }
    }
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    /// A click and its person.
    Resolved(Resolved),
    /// A part of a person's count.
    Tally(Tally),
    /// A part of a person's last campaign values.
    Utm(LastUtm),
    /// An identity's campaign values, for the next start.
    Carried(Carried),
}

/// One identity of one workspace and portal.
struct Identity {
    subject: Subject,
    person: Who,
    /// Live tallies.
    tallies: SmallVec<[u32; 4]>,
    utm: UtmValues,
    /// Whether the next start is to be told of the values at the end of the day.
    carry: bool,
}

/// One identity's clicks of one measure.
struct Count {
    identity: u32,
    measure: Measure,
    n: u64,
    /// The newest that was counted since `n` was last 0: it leaves last, so it is in the window while any is.
    last: Option<ClickRef>,
    /// Whether its present person knows of it.
    told: bool,
}

/// The machine; see the module.
pub struct Windows {
    plan: Arc<Plan>,
    logs: BTreeMap<Ms, WindowLog>,
    identities: Vec<Identity>,
    by_subject: Map<Subject, u32>,
    /// All workspaces' identities of one portal and name.
    by_name: Map<(Ustr, Who), SmallVec<[u32; 1]>>,
    /// Identities that stand for another, also such that have no click yet.
    stands: Map<(Ustr, Who), Who>,
    counts: Vec<Count>,
    by_measure: Map<(u32, Measure), u32>,
    free: Vec<u32>,
    /// Clicks of the future, by the tick in which they begin to count.
    future: BTreeMap<Ms, Vec<(u32, Measure, ClickRef)>>,
    /// Identities whose campaign values changed, by the end of the day.
    carry: BTreeMap<Ms, Vec<u32>>,
    /// What is measured of a link's clicks, by workspace, link and tags: links are few and clicks many.
    measured: Map<Box<str>, Rc<[Measure]>>,
    /// Scratch: such a name.
    name: String,
    /// Scratch: counts that a tick has changed.
    dirty: Vec<u32>,
    /// Scratch: identities whose campaign values a tick has changed or moved.
    changed: Vec<(u32, UtmField)>,
}

impl Windows {
    /// For a plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        Windows {
            plan,
            logs: BTreeMap::new(),
            identities: Vec::new(),
            by_subject: Map::default(),
            by_name: Map::default(),
            stands: Map::default(),
            counts: Vec::new(),
            by_measure: Map::default(),
            free: Vec::new(),
            future: BTreeMap::new(),
            carry: BTreeMap::new(),
            measured: Map::default(),
            name: String::new(),
            dirty: Vec::new(),
            changed: Vec::new(),
        }
    }

    fn identity(&mut self, subject: Subject) -> u32 {
        if let Some(ix) = self.by_subject.get(&subject) {
            return *ix;
        }
        let ix = u32::try_from(self.identities.len()).expect("identities are pointers' worth of memory each, 4 G of them do not fit");
        let person = self.stands.get(&(subject.portal, subject.who)).copied().unwrap_or(subject.who);
        self.identities.push(Identity { subject, person, tallies: SmallVec::new(), utm: [None, None, None], carry: false });
        self.by_subject.insert(subject, ix);
        self.by_name.entry((subject.portal, subject.who)).or_default().push(ix);
        ix
    }

    /// What a click counts for: its tags and its link, each in the windows that are asked for.
    fn measures(&mut self, subject: Subject, click: &Click) -> Rc<[Measure]> {
        let name = &mut self.name;
        name.clear();
        name.push(if subject.who.is_deal() { 'd' } else { 'p' });
        for part in [&*subject.workspace, &click.link].into_iter().chain(click.tags.iter().map(String::as_str)) {
            // Its length before it: no text may pass for two.
            name.push(u32::try_from(part.len()).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
            name.push_str(part);
        }
        if let Some(measures) = self.measured.get(name.as_str()) {
            return Rc::clone(measures);
        }
        let mut measures = Vec::new();
        for key in click.tags.iter().map(|tag| tag_key(tag)).chain([link_key(&click.link)]) {
            let counter = self.plan.counter(subject.workspace, key, subject.who.is_deal());
            for (window, _) in counter.iter().flat_map(|counter| &counter.windows) {
                let measure = Measure { key, window: *window };
                // A tag that a link carries twice is one tag.
                if !measures.contains(&measure) {
                    measures.push(measure);
                }
            }
        }
        if self.measured.len() >= MEASURED {
            self.measured.clear();
        }
        let measures: Rc<[Measure]> = measures.into();
        self.measured.insert(name.as_str().into(), Rc::clone(&measures));
        measures
    }

    fn count(&mut self, identity: u32, measure: Measure) -> u32 {
        if let Some(ix) = self.by_measure.get(&(identity, measure)) {
            return *ix;
        }
        let count = Count { identity, measure, n: 0, last: None, told: false };
        let ix = match self.free.pop() {
            Some(ix) => {
                self.counts[ix as usize] = count;
                ix
            }
            None => {
                self.counts.push(count);
                u32::try_from(self.counts.len() - 1).expect("4 G live counts do not fit in memory")
            }
        };
        self.identities[identity as usize].tallies.push(ix);
        self.by_measure.insert((identity, measure), ix);
        ix
    }

    /// Counts a click whose time has come, unless the window has left it behind.
    fn enter(&mut self, at: Ms, identity: u32, measure: Measure, click: ClickRef, dirty: &mut Vec<u32>) {
        let b = tick_end(click.ts, self.plan.times.tick);
        let log = self.logs.entry(measure.window).or_insert_with(|| WindowLog::new(measure.window));
        if !log.holds(b, at) {
            return;
        }
        let ix = self.count(identity, measure);
        if let Some(log) = self.logs.get_mut(&measure.window) {
            log.push(b, ix);
        }
        let count = &mut self.counts[ix as usize];
        count.n += 1;
        if count.last.as_ref().is_none_or(|last| *last < click) {
            count.last = Some(click);
        }
        dirty.push(ix);
    }

    /// Whom an identity stands for has changed: its person loses what it had.
    fn stand(&mut self, standing: Standing, dirty: &mut Vec<u32>, moved: &mut Vec<(u32, UtmField)>, out: &mut dyn FnMut(Told)) {
        let name = (standing.portal, standing.who);
        let person = standing.is.unwrap_or(standing.who);
        match standing.is {
            Some(is) => self.stands.insert(name, is),
            None => self.stands.remove(&name),
        };
        for ix in self.by_name.get(&name).into_iter().flatten().copied() {
            let identity = &mut self.identities[ix as usize];
            let subject = Subject { who: identity.person, ..identity.subject };
            identity.person = person;
            for count in &identity.tallies {
                let of = &mut self.counts[*count as usize];
                if std::mem::take(&mut of.told) {
                    out(Told::Tally(Tally { subject, measure: of.measure, identity: standing.who, n: 0, last: None }));
                }
                dirty.push(*count);
            }
            for (field, value) in UtmField::ALL.into_iter().zip(&identity.utm) {
                if value.is_some() {
                    out(Told::Utm(LastUtm { subject, identity: standing.who, field, value: None, carried: false }));
                }
            }
            moved.extend(UtmField::ALL.map(|field| (ix, field)));
        }
    }

    /// Takes a click's campaign values where they are newer.
    fn campaign(&mut self, now: Ms, identity: u32, click: &Click, at: &ClickRef, changed: &mut Vec<(u32, UtmField)>) {
        let of = &mut self.identities[identity as usize];
        let before = changed.len();
        for (place, field) in UtmField::ALL.into_iter().enumerate() {
            if let Some(value) = field.of(click)
                && of.utm[place].as_ref().is_none_or(|(last, text)| (last, &**text) < (at, value))
            {
                match &mut of.utm[place] {
                    Some((last, text)) if **text == *value => *last = at.clone(),
                    last => *last = Some((at.clone(), value.into())),
                }
                changed.push((identity, field));
            }
        }
        if self.plan.carries && changed.len() > before && !of.carry {
            of.carry = true;
            self.carry.entry(tick_end(now.saturating_add(1), DAY)).or_default().push(identity);
        }
    }

    /// Takes campaign values from before the log that is kept, where they are newer than what it says.
    fn take_values(&mut self, subject: Subject, values: UtmValues, out: &mut dyn FnMut(Told)) {
        let ix = self.identity(subject);
        let identity = &mut self.identities[ix as usize];
        for ((field, old), value) in UtmField::ALL.into_iter().zip(&mut identity.utm).zip(values) {
            let Some(value) = value else { continue };
            if old.as_ref().is_none_or(|old| *old < value) {
                *old = Some(value.clone());
                let subject = Subject { who: identity.person, ..subject };
                out(Told::Utm(LastUtm { subject, identity: identity.subject.who, field, value: Some(value), carried: true }));
            }
        }
    }
}

impl Machine for Windows {
    type In = Seen;
    type Out = Told;

    fn step(&mut self, at: Ms, rows: &mut Vec<Seen>, out: &mut dyn FnMut(Told)) {
        let (mut dirty, mut changed) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.changed));
        let mut hits = Vec::new();
        for row in rows.extract_if(.., |row| matches!(row, Seen::Values(..))) {
            if let Seen::Values(subject, values) = row {
                self.take_values(subject, values, out);
            }
        }
        for row in rows.drain(..) {
            match row {
                Seen::Values(..) => {}
                Seen::Hit(hit) => hits.push(hit),
                Seen::Standing(standing) => self.stand(standing, &mut dirty, &mut changed, out),
            }
        }
        while let Some(entry) = self.future.first_entry()
            && *entry.key() <= at
        {
            for (identity, measure, click) in entry.remove() {
                self.enter(at, identity, measure, click, &mut dirty);
            }
        }
        for hit in hits {
            let identity = self.identity(hit.subject);
            let click = ClickRef::of(&hit.click);
            for measure in self.measures(hit.subject, &hit.click).iter().copied() {
                let begins = tick_end(click.ts, self.plan.times.tick);
                if begins > at {
                    self.future.entry(begins).or_default().push((identity, measure, click.clone()));
                } else {
                    self.enter(at, identity, measure, click.clone(), &mut dirty);
                }
            }
            if hit.via.is_some() {
                if at >= self.plan.values_from {
                    self.campaign(at, identity, &hit.click, &click, &mut changed);
                }
                let person = self.identities[identity as usize].person;
                out(Told::Resolved(Resolved { hit, person }));
            }
        }
        let counts = &mut self.counts;
        for log in self.logs.values_mut() {
            log.leave(at, |ix| {
                counts[ix as usize].n -= 1;
                dirty.push(ix);
            });
        }
        dirty.sort_unstable();
        dirty.dedup();
        for ix in dirty.drain(..) {
            let count = &mut self.counts[ix as usize];
            let identity = &mut self.identities[count.identity as usize];
            if count.n > 0 || count.told {
                out(Told::Tally(Tally {
                    subject: Subject { who: identity.person, ..identity.subject },
                    measure: count.measure,
                    identity: identity.subject.who,
                    n: count.n,
                    last: count.last.clone().filter(|_| count.n > 0),
                }));
                count.told = count.n > 0;
            }
            if count.n == 0 {
                if let Some(place) = identity.tallies.iter().position(|tally| *tally == ix) {
                    identity.tallies.swap_remove(place);
                }
                self.by_measure.remove(&(count.identity, count.measure));
                self.free.push(ix);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        for (ix, field) in changed.drain(..) {
            let identity = &self.identities[ix as usize];
            if let Some(value) = &identity.utm[field as usize] {
                out(Told::Utm(LastUtm {
                    subject: Subject { who: identity.person, ..identity.subject },
                    identity: identity.subject.who,
                    field,
                    value: Some(value.clone()),
                    carried: false,
                }));
            }
        }
        while let Some(entry) = self.carry.first_entry()
            && *entry.key() <= at
        {
            for ix in entry.remove() {
                let identity = &mut self.identities[ix as usize];
                identity.carry = false;
                out(Told::Carried(Carried::Utm { subject: identity.subject, values: identity.utm.clone() }));
            }
        }
        (self.dirty, self.changed) = (dirty, changed);
    }

    fn due(&self) -> Option<Ms> {
        self.logs
            .values()
            .filter_map(WindowLog::due)
            .chain(self.future.keys().next().copied())
            .chain(self.carry.keys().next().copied())
            .min()
    }
}
