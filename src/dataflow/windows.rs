//! Counts each identity's clicks in rolling windows, and says whose they are.
//!
//! # Meaning
//! A click of an identity counts, for every tag and link that is measured, while its own time lies in the window: from
//! the first tick's end at or after it until it is one window old. What an identity has is told to the person that it
//! stands for, and moves when the contact mirror says so. The machine also tells each resolved click with its person,
//! and each identity's last campaign values.
//!
//! # Ties and edges
//! - Within a tick what leaves the windows goes first, then comes the mirror's word, then clicks; only the tick's end is
//!   told.
//! - A click that one window has left behind and a longer one has not counts in the longer one.
//! - A click that arrives after it left a window is not counted in it.
//! - A click of the future waits until its time comes; its campaign values do not.
//! - Campaign values have no window: they outlive the log that is kept. So each identity's are said once a day in which
//!   they changed, for the next start, which gets them back as rows that are taken first in their tick.
//!
//! # Cost
//! 8 bytes for each click and each of its tags and links that is counted, however many windows count it; one record for
//! each identity and each live (identity, tag or link). A click that nothing counts costs no log entry.

use super::blocks::Blocks;
use super::boxes::Half;
use super::plan::{Plan, link_key, tag_key};
use super::rows::{Carried, ClickRef, Hit, LastUtm, Measure, Resolved, Standing, Subject, Tally, UtmField, UtmValues, Who, route_of};
use super::step::{AHEAD, Machine, Map, each};
use super::window_log::WindowLog;
use crate::model::PackedClick;
use crate::model::time::{DAY, Ms, tick_end};
use crate::status::Part;
use foldhash::fast::RandomState;
use hashbrown::hash_table::Entry;
use hashbrown::{HashSet, HashTable};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher as _;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use ustr::Ustr;

/// Links that are remembered with what they count for, and campaign values; beyond that all are looked up, or stored, anew.
const REMEMBERED: usize = 1 << 16;

/// Ways to be tagged that are remembered of one link.
const REMEMBERED_OF_LINK: usize = 16;

/// What the machine is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Seen {
    /// A click and its identity.
    Hit(Hit),
    /// Whom an identity stands for.
    Standing(Standing),
    /// An identity's campaign values when the job was stopped.
    Values(Subject, Box<UtmValues>),
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
    /// Its counts: key and place in `counts`, in the order of keys.
    counts: SmallVec<[(u32, u32); 2]>,
    utm: UtmValues,
    /// Whether the next start is to be told of the values at the end of the day.
    carry: bool,
    /// Whether anybody is kept here; else it is a free place.
    live: bool,
}

impl Identity {
    /// A look at each of its lines of memory.
    fn look(&self) -> u64 {
        self.utm.iter().flatten().fold(self.counts.len() as u64, |all, (click, _)| all ^ click.ts)
    }
}

/// What is counted on a tag or link of a workspace: `t:` or `l:`, and in which windows.
struct Key {
    name: Ustr,
    /// Which log, and for each of its lengths the place of the window in `windows`.
    log: u8,
    places: SmallVec<[Option<u8>; 4]>,
    windows: SmallVec<[Ms; 2]>,
}

/// What clicks count for that come with one link and these tags.
struct Measured {
    /// The workspace, and whether a deal's links are counted.
    of: (Ustr, bool),
    tags: Box<[Box<str>]>,
    measures: Rc<[u32]>,
}

/// What was found of a click before it is its turn.
struct Ahead {
    /// Where the click lies, which tells it from others, and whether it is looked at for its deal.
    click: (*const PackedClick, bool),
    /// Where its identity may be: whoever takes it makes sure.
    identity: u32,
    /// What it counts for.
    measures: Rc<[u32]>,
}

/// Where a hit's click lies, and whether it counts for its deal.
fn place(hit: &Hit) -> (*const PackedClick, bool) {
    (Arc::as_ptr(&hit.click), hit.via.is_none())
}

/// One identity's clicks of one key.
struct Count {
    identity: u32,
    key: u32,
    /// The newest click that was counted since all windows were last empty: it leaves each last, so it is in every window
    /// that has any.
    last: Option<ClickRef>,
    /// Each of the key's windows. While any is not empty, the longest is not.
    windows: SmallVec<[Window; 2]>,
}

#[derive(Default)]
struct Window {
    n: u32,
    /// Whether its present person knows of it.
    told: bool,
}

/// The machine; see the module.
pub struct Windows {
    plan: Arc<Plan>,
    /// One for each set of lengths with the same longest: a key's clicks lie in the log of its longest window.
    logs: Vec<WindowLog>,
    keys: Vec<Key>,
    by_key: Map<(Ustr, bool, Ustr), u32>,
    identities: Blocks<Identity>,
    /// Free places among them.
    vacant: Vec<u32>,
    /// Scratch: those that are new in the tick and may turn out to have nothing that is kept.
    fresh: Vec<u32>,
    /// Places of identities by their subjects' addresses, which they know themselves.
    by_subject: HashTable<(u32, Half)>,
    hasher: RandomState,
    /// All workspaces' identities of one portal and name.
    by_name: Map<(Ustr, Who), SmallVec<[u32; 1]>>,
    /// Identities that stand for another, also such that have no click yet.
    stands: Map<(Ustr, Who), Who>,
    counts: Blocks<Count>,
    free: Vec<u32>,
    /// Clicks of the future, by the tick in which they begin to count.
    future: BTreeMap<Ms, Vec<(Subject, u32, ClickRef)>>,
    /// Identities whose campaign values changed, by the end of the day.
    carry: BTreeMap<Ms, Vec<u32>>,
    /// What is measured of a link's clicks: links are few and clicks many.
    measured: Map<Box<str>, Vec<Measured>>,
    /// Campaign values, each once: those of one campaign come with many clicks.
    texts: HashSet<Arc<str>, RandomState>,
    /// What was found ahead of the rows that come next, in their order.
    ahead: VecDeque<Ahead>,
    /// Scratch: counts that a tick has changed, each with the place of the window.
    dirty: Vec<(u32, u8)>,
    /// Scratch: identities whose campaign values a tick has changed or moved, with the fields as bits.
    changed: Vec<(u32, u8)>,
    /// Where the live counts and their bytes are told.
    told: [Part; 2],
}

impl Windows {
    /// For a plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        let told = [plan.board.keys.part(), plan.board.bytes.part()];
        let logs = plan.window_sets().iter().map(|lengths| WindowLog::new(lengths)).collect();
        Windows {
            plan,
            logs,
            keys: Vec::new(),
            by_key: Map::default(),
            identities: Blocks::default(),
            vacant: Vec::new(),
            fresh: Vec::new(),
            by_subject: HashTable::new(),
            hasher: RandomState::default(),
            by_name: Map::default(),
            stands: Map::default(),
            counts: Blocks::default(),
            free: Vec::new(),
            future: BTreeMap::new(),
            carry: BTreeMap::new(),
            measured: Map::default(),
            texts: HashSet::default(),
            ahead: VecDeque::new(),
            dirty: Vec::new(),
            changed: Vec::new(),
            told,
        }
    }

    /// Where an identity is kept that has something to keep.
    fn known(&self, subject: Subject) -> Option<u32> {
        let hash = self.hash(&subject);
        let is = |(ix, of): &(u32, Half)| *of == hash && self.identities[*ix as usize].subject == subject;
        self.by_subject.find(hash.spread(), is).map(|(ix, _)| *ix)
    }

    fn hash(&self, subject: &Subject) -> Half {
        Half::of(self.hasher.hash_one(subject.address()))
    }

    /// Whom an identity stands for.
    fn person(&self, portal: Ustr, who: Who) -> Who {
        self.stands.get(&(portal, who)).copied().unwrap_or(who)
    }

    fn identity(&mut self, subject: Subject) -> u32 {
        let (identities, hash) = (&self.identities, self.hash(&subject));
        let is = |(ix, of): &(u32, Half)| *of == hash && identities[*ix as usize].subject == subject;
        let place = match self.by_subject.entry(hash.spread(), is, |(_, of)| of.spread()) {
            Entry::Occupied(known) => return known.get().0,
            Entry::Vacant(place) => place,
        };
        let ix = self.vacant.pop().unwrap_or_else(|| {
            u32::try_from(self.identities.len()).expect("identities are pointers' worth of memory each, 4 G of them do not fit")
        });
        place.insert((ix, hash));
        let person = self.person(subject.portal, subject.who);
        let new = Identity { subject, person, counts: SmallVec::new(), utm: [None, None, None], carry: false, live: true };
        match self.identities.get_mut(ix as usize) {
            Some(free) => *free = new,
            None => self.identities.push(new),
        }
        self.by_name.entry((subject.portal, subject.who)).or_default().push(ix);
        self.fresh.push(ix);
        ix
    }

    /// Frees an identity's place where nothing is left to be kept of it: no count, no campaign value.
    fn release(&mut self, ix: u32) {
        let of = &mut self.identities[ix as usize];
        if !of.live || !of.counts.is_empty() || of.utm.iter().any(Option::is_some) {
            return;
        }
        (of.live, of.counts) = (false, SmallVec::new());
        let subject = of.subject;
        let hash = self.hash(&subject);
        if let Ok(place) = self.by_subject.find_entry(hash.spread(), |(of, _)| *of == ix) {
            place.remove();
        }
        let name = (subject.portal, subject.who);
        if let Some(of_name) = self.by_name.get_mut(&name) {
            of_name.retain(|of| *of != ix);
            if of_name.is_empty() {
                self.by_name.remove(&name);
            }
        }
        self.vacant.push(ix);
    }

    /// The key of a tag or link; `None` where nothing counts it.
    fn key(&mut self, workspace: Ustr, for_deal: bool, name: Ustr) -> Option<u32> {
        if let Some(known) = self.by_key.get(&(workspace, for_deal, name)) {
            return Some(*known);
        }
        let counter = self.plan.counter(workspace, name, for_deal);
        let windows: SmallVec<[Ms; 2]> = counter.iter().flat_map(|counter| &counter.windows).map(|(window, _)| *window).collect();
        let key = windows.iter().max().copied().and_then(|longest| {
            // The plan's sets hold all windows of all its counters.
            let log = self.logs.iter().position(|log| log.lengths().max() == Some(longest))?;
            let place = |length| windows.iter().position(|window| *window == length).and_then(|place| u8::try_from(place).ok());
            let places = self.logs[log].lengths().map(place).collect();
            self.keys.push(Key { name, log: u8::try_from(log).ok()?, places, windows });
            u32::try_from(self.keys.len() - 1).ok()
        });
        // What nothing counts is not noted: there is no end to links.
        if let Some(key) = key {
            self.by_key.insert((workspace, for_deal, name), key);
        }
        key
    }

    /// What a click counts for: its tags and its link, as far as they are counted.
    fn measures(&mut self, workspace: Ustr, click: &PackedClick, for_deal: bool) -> Rc<[u32]> {
        let of = (workspace, for_deal);
        if let Some(known) = self.measured.get(click.link())
            && let Some(known) = known.iter().find(|known| known.of == of && known.tags.iter().map(|tag| &**tag).eq(click.tags()))
        {
            return Rc::clone(&known.measures);
        }
        let mut measures = Vec::new();
        for name in click.tags().map(tag_key).chain([link_key(click.link())]) {
            // A tag that a link carries twice is one tag.
            measures.extend(self.key(workspace, for_deal, name).filter(|key| !measures.contains(key)));
        }
        if self.measured.len() >= REMEMBERED {
            self.measured.clear();
        }
        let measures: Rc<[u32]> = measures.into();
        let known = self.measured.entry_ref(click.link()).or_default();
        if known.len() >= REMEMBERED_OF_LINK {
            known.clear();
        }
        known.push(Measured { of, tags: click.tags().map(Box::from).collect(), measures: Rc::clone(&measures) });
        measures
    }

    fn count(&mut self, identity: u32, key: u32) -> u32 {
        let place = match self.identities[identity as usize].counts.binary_search_by_key(&key, |(of, _)| *of) {
            Ok(place) => return self.identities[identity as usize].counts[place].1,
            Err(place) => place,
        };
        let windows = self.keys[key as usize].windows.iter().map(|_| Window::default()).collect();
        let count = Count { identity, key, last: None, windows };
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
        self.identities[identity as usize].counts.insert(place, (key, ix));
        ix
    }

    /// Counts a click whose time has come in each window that has not left it behind; says whether there is one.
    fn enter(&mut self, at: Ms, identity: u32, key: u32, click: ClickRef, dirty: &mut Vec<(u32, u8)>) -> bool {
        let b = tick_end(click.ts, self.plan.times.tick);
        let of = &self.keys[key as usize];
        if !of.windows.iter().any(|window| WindowLog::holds(*window, b, at)) {
            return false;
        }
        let log = usize::from(of.log);
        let ix = self.count(identity, key);
        self.logs[log].push(b, at, ix);
        let count = &mut self.counts[ix as usize];
        for ((place, length), window) in (0u8..).zip(&self.keys[key as usize].windows).zip(&mut count.windows) {
            if WindowLog::holds(*length, b, at) {
                window.n += 1;
                dirty.push((ix, place));
            }
        }
        if count.last.as_ref().is_none_or(|last| *last < click) {
            count.last = Some(click);
        }
        true
    }

    /// Whom an identity stands for has changed: its person loses what it had.
    fn stand(&mut self, standing: Standing, dirty: &mut Vec<(u32, u8)>, moved: &mut Vec<(u32, u8)>, out: &mut dyn FnMut(Told)) {
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
            for (_, count) in &identity.counts {
                let of = &mut self.counts[*count as usize];
                let key = &self.keys[of.key as usize];
                for ((place, length), window) in (0u8..).zip(&key.windows).zip(&mut of.windows) {
                    if std::mem::take(&mut window.told) {
                        let measure = Measure { key: key.name, window: *length };
                        out(Told::Tally(Tally { subject, measure, identity: standing.who, n: 0, last: None }));
                    }
                    dirty.push((*count, place));
                }
            }
            if identity.utm.iter().any(Option::is_some) {
                out(Told::Utm(LastUtm { subject, identity: standing.who, click: None, texts: [None, None, None], carried: false }));
            }
            moved.push((ix, ALL_FIELDS));
        }
    }

    /// Takes a click's campaign values where they are newer.
    fn campaign(&mut self, now: Ms, identity: u32, click: &PackedClick, changed: &mut Vec<(u32, u8)>) {
        let of = &mut self.identities[identity as usize];
        let mut fields = 0;
        for (place, field) in UtmField::ALL.into_iter().enumerate() {
            if let Some(value) = click.utm(field)
                && of.utm[place].as_ref().is_none_or(|(last, text)| (last.ts, &last.id, &**text) < (click.ts, &click.id, value))
            {
                match &mut of.utm[place] {
                    Some((last, text)) if **text == *value => *last = ClickRef::of(click),
                    last => *last = Some((ClickRef::of(click), shared(&mut self.texts, value))),
                }
                fields |= 1 << place;
            }
        }
        if fields == 0 {
            return;
        }
        changed.push((identity, fields));
        if self.plan.carries && !of.carry {
            of.carry = true;
            self.carry.entry(tick_end(now.saturating_add(1), DAY)).or_default().push(identity);
        }
    }

    /// Takes campaign values from before the log that is kept, where they are newer than what it says.
    fn take_values(&mut self, subject: Subject, values: UtmValues, out: &mut dyn FnMut(Told)) {
        let ix = self.identity(subject);
        let identity = &mut self.identities[ix as usize];
        let mut fields = 0;
        for (place, (old, value)) in identity.utm.iter_mut().zip(values).enumerate() {
            let Some(value) = value else { continue };
            if old.as_ref().is_none_or(|old| *old < value) {
                *old = Some(value);
                fields |= 1 << place;
            }
        }
        say_values(identity, fields, true, out);
    }

    /// Takes a click of a person: into the windows that hold it, and its campaign values. Notes the windows and values that it changes.
    fn take_hit(&mut self, at: Ms, hit: Hit, dirty: &mut Vec<(u32, u8)>, changed: &mut Vec<(u32, u8)>, out: &mut dyn FnMut(Told)) {
        let begins = tick_end(hit.click.ts, self.plan.times.tick);
        let (guess, measures) = match self.ahead.pop_front() {
            Some(Ahead { click, identity, measures }) if click == place(&hit) => (identity, measures),
            _ => (u32::MAX, self.measures(hit.subject.workspace, &hit.click, hit.via.is_none())),
        };
        let identity = match self.identities.get(guess as usize) {
            Some(of) if of.live && of.subject == hit.subject => Some(guess),
            // Of what neither counts nor brings a value nothing is kept.
            _ if measures.is_empty() && UtmField::ALL.iter().all(|field| hit.click.utm(*field).is_none()) => self.known(hit.subject),
            _ => Some(self.identity(hit.subject)),
        };
        let told = at >= self.plan.outputs_from;
        let mut counts = measures.is_empty();
        for key in measures.iter().copied() {
            let click = ClickRef::of(&hit.click);
            if begins > at {
                self.future.entry(begins).or_default().push((hit.subject, key, click));
                counts = true;
            } else if let Some(identity) = identity {
                counts |= self.enter(at, identity, key, click, dirty);
            }
        }
        if !counts && told {
            self.plan.board.outside.add(1);
        }
        if hit.via.is_some() {
            if let Some(identity) = identity
                && at >= self.plan.values_from
            {
                self.campaign(at, identity, &hit.click, changed);
            }
            // What an earlier run has written is not told again: most of a restart is such clicks.
            if told {
                let person = match identity {
                    Some(identity) => self.identities[identity as usize].person,
                    None => self.person(hit.subject.portal, hit.subject.who),
                };
                out(Told::Resolved(Resolved { hit, person }));
            }
        }
    }

    /// Tells what the tick has changed in a window.
    fn tell(&mut self, ix: u32, place: u8, out: &mut dyn FnMut(Told)) {
        let count = &mut self.counts[ix as usize];
        let identity = &mut self.identities[count.identity as usize];
        let key = &self.keys[count.key as usize];
        let window = &mut count.windows[usize::from(place)];
        if window.n > 0 || window.told {
            out(Told::Tally(Tally {
                subject: Subject { who: identity.person, ..identity.subject },
                measure: Measure { key: key.name, window: key.windows[usize::from(place)] },
                identity: identity.subject.who,
                n: u64::from(window.n),
                last: count.last.as_ref().filter(|_| window.n > 0).cloned(),
            }));
            window.told = window.n > 0;
        }
    }

    /// Forgets a count that is empty in all windows, and therefore in no log any more.
    fn forget(&mut self, ix: u32) {
        let count = &mut self.counts[ix as usize];
        if count.windows.is_empty() || count.windows.iter().any(|window| window.n > 0) {
            return;
        }
        let identity = &mut self.identities[count.identity as usize];
        if let Ok(place) = identity.counts.binary_search_by_key(&count.key, |(of, _)| *of) {
            identity.counts.remove(place);
        }
        // Empty: it is forgotten once, however many of its windows the tick has changed.
        count.windows = SmallVec::new();
        let identity = count.identity;
        self.free.push(ix);
        self.release(identity);
    }

    /// What logs, counts and identities take, without what tables keep free and without names and texts.
    fn bytes(&self) -> usize {
        let entries: usize = self.logs.iter().map(WindowLog::len).sum();
        entries * size_of::<u64>()
            + self.counts.len() * size_of::<Count>()
            + (self.identities.len() - self.vacant.len()) * size_of::<Identity>()
    }

    /// Entries in the logs, live counts, and entries that were looked at so far.
    pub fn size(&self) -> Size {
        Size {
            entries: self.logs.iter().map(WindowLog::len).sum(),
            counts: self.counts.len() - self.free.len(),
            looked_at: self.logs.iter().map(WindowLog::looked_at).sum(),
        }
    }
}

/// How much is kept, and how much was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Entries in the logs.
    pub entries: usize,
    /// Live (identity, key) pairs.
    pub counts: usize,
    /// Entries that have been looked at, once for each window that they have left.
    pub looked_at: u64,
}

/// All bits of [`UtmField::ALL`].
const ALL_FIELDS: u8 = 0b111;

/// A text, as one of `texts`.
fn shared(texts: &mut HashSet<Arc<str>, RandomState>, text: &str) -> Arc<str> {
    if let Some(known) = texts.get(text) {
        return Arc::clone(known);
    }
    if texts.len() >= REMEMBERED {
        texts.clear();
    }
    let text: Arc<str> = text.into();
    texts.insert(Arc::clone(&text));
    text
}

/// Tells an identity's values of `fields`, those of one click together.
fn say_values(identity: &Identity, fields: u8, carried: bool, out: &mut dyn FnMut(Told)) {
    let mut left = fields;
    while left != 0 {
        let mut row = LastUtm {
            subject: Subject { who: identity.person, ..identity.subject },
            identity: identity.subject.who,
            click: None,
            texts: [None, None, None],
            carried,
        };
        for (place, value) in identity.utm.iter().enumerate().filter(|(place, _)| fields >> place & 1 == 1) {
            let Some((click, text)) = value.as_ref().filter(|_| left >> place & 1 == 1) else {
                left &= !(1 << place);
                continue;
            };
            if row.click.as_ref().is_none_or(|of| of == click) {
                left &= !(1 << place);
                row.click.get_or_insert_with(|| click.clone());
                row.texts[place] = Some(Arc::clone(text));
            }
        }
        if row.click.is_some() {
            out(Told::Utm(row));
        }
    }
}

impl Machine for Windows {
    type In = Seen;
    type Out = Told;

    fn warm<'r>(&mut self, rows: impl Iterator<Item = &'r Seen> + Clone) {
        // As many clicks leave as come.
        let come = rows.clone().count();
        let leaving = self.logs.iter().flat_map(|log| log.ahead(come).take(AHEAD));
        let leaving: SmallVec<[&Count; AHEAD]> = leaving.filter_map(|ix| self.counts.get(ix as usize)).collect();
        let hits = || {
            rows.clone().filter_map(|row| match row {
                Seen::Hit(hit) => Some(hit),
                Seen::Standing(_) | Seen::Values(..) => None,
            })
        };
        let first_byte = |hit: &Hit| hit.click.link().as_bytes().first().copied().map_or(0, u64::from);
        black_box(hits().fold(0, |all, hit| all ^ first_byte(hit)));
        let hashes: SmallVec<[Half; AHEAD]> = hits().map(|hit| self.hash(&hit.subject)).collect();
        // A guess by the half of the hash, without a look at who it is.
        let come: SmallVec<[u32; AHEAD]> =
            hashes.iter().map(|hash| self.by_subject.find(hash.spread(), |(_, of)| of == hash).map_or(u32::MAX, |(ix, _)| *ix)).collect();
        let identities = come.iter().copied().chain(leaving.into_iter().map(|count| count.identity));
        black_box(identities.filter_map(|ix| self.identities.get(ix as usize)).fold(0, |all, of| all ^ of.look()));
        let shown = self.ahead.len();
        for (hit, identity) in hits().zip(come) {
            let measures = self.measures(hit.subject.workspace, &hit.click, hit.via.is_none());
            self.ahead.push_back(Ahead { click: place(hit), identity, measures });
        }
        let mut look = 0;
        for ahead in self.ahead.iter().skip(shown) {
            let Some(identity) = self.identities.get(ahead.identity as usize) else { continue };
            for key in ahead.measures.iter() {
                if let Ok(place) = identity.counts.binary_search_by_key(key, |(of, _)| *of) {
                    look ^= self.counts[identity.counts[place].1 as usize].key;
                }
            }
        }
        black_box(look);
    }

    fn step(&mut self, at: Ms, rows: &mut Vec<Seen>, out: &mut dyn FnMut(Told)) {
        let (mut dirty, mut changed) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.changed));
        // What leaves goes first: what comes is then in the log of each window that holds it, and of no other.
        let (counts, keys) = (&mut self.counts, &self.keys);
        for log in &mut self.logs {
            log.leave(at, |length, ix| {
                let count = &mut counts[ix as usize];
                if let Some(place) = keys[count.key as usize].places[length] {
                    count.windows[usize::from(place)].n -= 1;
                    dirty.push((ix, place));
                }
            });
        }
        for row in rows.iter() {
            if let Seen::Values(subject, values) = row {
                self.take_values(*subject, UtmValues::clone(values), out);
            }
        }
        for row in rows.iter() {
            if let Seen::Standing(standing) = row {
                self.stand(*standing, &mut dirty, &mut changed, out);
            }
        }
        while let Some(entry) = self.future.first_entry()
            && *entry.key() <= at
        {
            for (subject, key, click) in entry.remove() {
                let identity = self.identity(subject);
                self.enter(at, identity, key, click, &mut dirty);
            }
        }
        if rows.len() > AHEAD {
            // The last of the rows before, if they were few, may have been shown with the first of these.
            self.ahead.clear();
        }
        each(
            self,
            rows,
            |windows, rows| windows.warm(rows.iter()),
            |windows, row| {
                if let Seen::Hit(hit) = row {
                    windows.take_hit(at, hit, &mut dirty, &mut changed, out);
                }
            },
        );
        dirty.sort_unstable();
        dirty.dedup();
        for (ix, place) in dirty.iter().copied() {
            self.tell(ix, place, out);
        }
        for (ix, _) in dirty.drain(..) {
            self.forget(ix);
        }
        changed.sort_unstable();
        for of in changed.chunk_by(|a, b| a.0 == b.0) {
            let fields = of.iter().fold(0, |fields, (_, more)| fields | more);
            say_values(&self.identities[of[0].0 as usize], fields, false, out);
        }
        changed.clear();
        while let Some(entry) = self.carry.first_entry()
            && *entry.key() <= at
        {
            for ix in entry.remove() {
                let identity = &mut self.identities[ix as usize];
                identity.carry = false;
                out(Told::Carried(Carried::Utm { subject: identity.subject, values: Box::new(identity.utm.clone()) }));
            }
        }
        while let Some(ix) = self.fresh.pop() {
            self.release(ix);
        }
        (self.dirty, self.changed) = (dirty, changed);
        let bytes = self.bytes();
        let [keys_told, bytes_told] = &mut self.told;
        keys_told.set(self.counts.len() - self.free.len());
        bytes_told.set(bytes);
    }

    fn due(&self) -> Option<Ms> {
        let of_logs = self.logs.iter().filter_map(WindowLog::due);
        of_logs.chain(self.future.keys().next().copied()).chain(self.carry.keys().next().copied()).min()
    }
}
