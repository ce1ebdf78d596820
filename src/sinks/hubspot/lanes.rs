//! What waits for one account, lane by lane, and which batch goes next.
//!
//! ```text
//!  hubspot.deal-stages ────────► stages    (by deal, in order)                     first
//!  hubspot.contact-properties ┬► emails    (by e-mail: find the contact)
//!                             └► contacts  (by contact, coalesced)                 then
//!  hubspot.timeline ──────────┬► emails
//!                             └► events    (by event id)                           last
//! ```
//!
//! Pure: nothing is sent here.

use super::queue::{Entry, Fold, Queue};
use super::record::{Delta, Lane, Receipt};
use crate::model::outputs::{DealStage, Person, TimelineEvent};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// HubSpot's bound on contacts and on deals in a batch.
pub const BATCH_MAX: usize = 100;

/// How much longer a batch that is not full waits where requests are scarce.
const CROWDED: u32 = 4;

/// The deltas of one deal, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// The deltas.
    pub steps: VecDeque<(DealStage, Receipt)>,
    /// Whether the oldest was sent and its answer never came: then a deal in its stage was moved by us.
    pub sent: bool,
}

/// A value to write, and the click it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The click's own time and id: of two changes the greater is the newer.
    pub from: (u64, String),
    /// The value.
    pub value: String,
}

/// The property deltas of one person, coalesced: the newest value of each property.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// What to write, by property.
    pub changes: BTreeMap<String, Change>,
    /// The records that this settles, each with the properties it named.
    pub receipts: Vec<(Receipt, Vec<String>)>,
    /// Properties that HubSpot refuses, with its reason; the records that name them become dead letters.
    pub refused: BTreeMap<String, String>,
    /// Whether the contact was looked up again after HubSpot did not know it.
    pub looked_up: bool,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The event.
    pub delta: TimelineEvent,
    /// The contact it goes to, where the delta does not say or that one was merged: found by address or by looking it up.
    pub contact: Option<String>,
    /// Whether the contact was looked up after HubSpot did not know it.
    pub looked_up: bool,
    /// The records that this settles: one, or several when a topic was read again.
    pub receipts: Vec<Receipt>,
}

/// What waits for the contact of an e-mail address to be found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addressed {
    /// Properties to write, coalesced.
    pub properties: Properties,
    /// Events, in the order in which they were read.
    pub events: Vec<Event>,
}

/// The records that an entry settles.
pub trait Records: Fold {
    /// Shows each record whose turn it is.
    fn each(&mut self, see: impl FnMut(&mut Receipt));

    /// Takes out the records of which `given_up` says so.
    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt>;

    /// Whether no record is left.
    fn none_left(&self) -> bool;
}

impl Fold for Stages {
    fn fold(&mut self, newer: Self) {
        self.steps.extend(newer.steps);
    }
}

impl Records for Stages {
    /// The others wait for the oldest and have not been tried.
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        if let Some((_, receipt)) = self.steps.front_mut() {
            see(receipt);
        }
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        match self.steps.front() {
            Some((_, receipt)) if given_up(receipt) => self.steps.pop_front().map(|(_, receipt)| receipt).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn none_left(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Fold for Properties {
    fn fold(&mut self, newer: Self) {
        for (name, change) in newer.changes {
            match self.changes.get_mut(&name) {
                Some(old) if old.from >= change.from => {}
                Some(old) => *old = change,
                None => {
                    self.changes.insert(name, change);
                }
            }
        }
        self.receipts.extend(newer.receipts);
        self.refused.extend(newer.refused);
        self.looked_up |= newer.looked_up;
    }
}

impl Records for Properties {
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        self.receipts.iter_mut().for_each(|(receipt, _)| see(receipt));
    }

    /// The values stay: a newer record may have brought the same, and whatever is written is guarded by its click's time.
    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        self.receipts.extract_if(.., |(receipt, _)| given_up(receipt)).map(|(receipt, _)| receipt).collect()
    }

    fn none_left(&self) -> bool {
        self.receipts.is_empty()
    }
}

impl Fold for Event {
    fn fold(&mut self, newer: Self) {
        self.receipts.extend(newer.receipts);
    }
}

impl Records for Event {
    fn each(&mut self, see: impl FnMut(&mut Receipt)) {
        self.receipts.iter_mut().for_each(see);
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        self.receipts.extract_if(.., |receipt| given_up(receipt)).collect()
    }

    fn none_left(&self) -> bool {
        self.receipts.is_empty()
    }
}

impl Fold for Addressed {
    fn fold(&mut self, newer: Self) {
        self.properties.fold(newer.properties);
        for event in newer.events {
            match self.events.iter_mut().find(|known| known.delta.id == event.delta.id) {
                Some(known) => known.fold(event),
                None => self.events.push(event),
            }
        }
    }
}

impl Records for Addressed {
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        self.properties.each(&mut see);
        self.events.iter_mut().for_each(|event| event.each(&mut see));
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        let mut out = self.properties.take_out(&given_up);
        out.extend(self.events.iter_mut().flat_map(|event| event.take_out(&given_up)));
        self.events.retain(|event| !event.none_left());
        out
    }

    fn none_left(&self) -> bool {
        self.properties.none_left() && self.events.is_empty()
    }
}

impl Properties {
    /// Gives these properties up, with HubSpot's reason for each. Says whether any of them was to be written.
    pub fn refuse<'a>(&mut self, names: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
        let mut any = false;
        for (name, reason) in names {
            if self.changes.remove(name).is_some() {
                self.refused.insert(name.clone(), reason.clone());
                any = true;
            }
        }
        any
    }
}

impl Event {
    /// An event that no record stands for yet.
    pub fn new(delta: TimelineEvent) -> Self {
        Event { delta, contact: None, looked_up: false, receipts: Vec::new() }
    }

    /// HubSpot's id of the contact it goes to, once that is known.
    pub fn contact(&self) -> Option<&str> {
        self.contact.as_deref().or(match &self.delta.person {
            Person::ContactId(id) => Some(id),
            Person::Email(_) => None,
        })
    }
}

/// The next thing to do for an account.
#[derive(Debug, PartialEq)]
pub enum Batch {
    /// Read these deals and move those that still qualify.
    Stages(Vec<Entry<Stages>>),
    /// Find the contacts of these e-mail addresses.
    Emails(Vec<Entry<Addressed>>),
    /// Write these contacts' properties.
    Contacts(Vec<Entry<Properties>>),
    /// Write these events.
    Events(Vec<Entry<Event>>),
}

/// Kinds of work, first things first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Move deals.
    Stages,
    /// Find contacts by address.
    Emails,
    /// Write contacts' properties.
    Contacts,
    /// Write events.
    Events,
}

impl Work {
    /// All of it, first things first.
    pub const ALL: [Work; 4] = [Work::Stages, Work::Emails, Work::Contacts, Work::Events];

    /// Whose budget and suspension it shares.
    pub fn lane(self) -> Lane {
        match self {
            Work::Stages => Lane::Stages,
            Work::Emails | Work::Contacts => Lane::Properties,
            Work::Events => Lane::Events,
        }
    }
}

/// Everything that waits for one account.
#[derive(Debug, Default)]
pub struct Lanes {
    /// By deal.
    pub stages: Queue<Stages>,
    /// By e-mail address.
    pub emails: Queue<Addressed>,
    /// By contact.
    pub contacts: Queue<Properties>,
    /// By event id.
    pub events: Queue<Event>,
}

impl Lanes {
    /// Adds a record read at `now`.
    pub fn push(&mut self, delta: Delta, receipt: Receipt, now: Instant) {
        match delta {
            Delta::Stage(delta) => {
                let key = delta.deal_id.clone();
                self.stages.push(key, Stages { steps: VecDeque::from([(*delta, receipt)]), sent: false }, now);
            }
            Delta::Properties(delta) => {
                let mut names = Vec::with_capacity(delta.properties.len());
                let mut changes = BTreeMap::new();
                for (name, value) in delta.properties {
                    if let Some(from) = delta.from.get(&name) {
                        names.push(name.clone());
                        changes.insert(name, Change { from: (from.ts, from.click_id.clone()), value });
                    }
                }
                let properties = Properties { changes, receipts: vec![(receipt, names)], ..Properties::default() };
                match delta.person {
                    Person::ContactId(id) => self.contacts.push(id, properties, now),
                    Person::Email(email) => self.emails.push(email, Addressed { properties, ..Addressed::default() }, now),
                }
            }
            Delta::Event(delta) => {
                let event = Event { receipts: vec![receipt], ..Event::new(*delta) };
                match &event.delta.person {
                    Person::ContactId(_) => self.events.push(event.delta.id.clone(), event, now),
                    Person::Email(email) => self.emails.push(email.clone(), Addressed { events: vec![event], ..Addressed::default() }, now),
                }
            }
        }
    }

    /// The contact of an address was found: what waits for it goes to where contacts and events wait.
    pub fn found(&mut self, email: &str, contact: &str, waited: Addressed, now: Instant) {
        let Addressed { properties, events } = waited;
        self.emails.release(email);
        if !properties.none_left() {
            self.contacts.push(contact.to_owned(), properties, now);
        }
        for event in events {
            self.events.push(event.delta.id.clone(), Event { contact: Some(contact.to_owned()), ..event }, now);
        }
    }

    /// The next batch at `now` among the work that is `open`, first things first; `events_max` events in one.
    pub fn next(&mut self, open: impl Fn(Work) -> bool, events_max: usize, linger: Duration, now: Instant) -> Option<Batch> {
        // A deal that has earned its stage waits for nobody.
        if open(Work::Stages) && self.stages.ripe(BATCH_MAX, Duration::ZERO, now) {
            return Some(Batch::Stages(self.stages.take(BATCH_MAX, now)));
        }
        if open(Work::Emails) && self.emails.ripe(BATCH_MAX, linger, now) {
            return Some(Batch::Emails(self.emails.take(BATCH_MAX, now)));
        }
        // Where full batches of events wait, a small one of contacts waits for more: what it would cost is theirs.
        let crowded = open(Work::Events) && self.events.full(events_max, now);
        let patience = if crowded { linger * CROWDED } else { linger };
        if open(Work::Contacts) && self.contacts.ripe(BATCH_MAX, patience, now) {
            return Some(Batch::Contacts(self.contacts.take(BATCH_MAX, now)));
        }
        if open(Work::Events) && self.events.ripe(events_max, linger, now) {
            return Some(Batch::Events(self.events.take(events_max, now)));
        }
        None
    }

    /// When a kind of work may next be ripe by time alone.
    pub fn next_at(&self, work: Work, linger: Duration) -> Option<Instant> {
        match work {
            Work::Stages => self.stages.next_at(Duration::ZERO),
            Work::Emails => self.emails.next_at(linger),
            Work::Contacts => self.contacts.next_at(linger),
            Work::Events => self.events.next_at(linger),
        }
    }

    /// Whether nothing waits and nothing is under way.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.emails.is_empty() && self.contacts.is_empty() && self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{event, properties, receipt, stage};
    use super::*;

    #[test]
    fn deal_stages_go_before_properties_before_events() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        lanes.push(Delta::Event(Box::new(event("e1", "801"))), receipt(Lane::Events, 0), now);
        lanes.push(Delta::Properties(Box::new(properties("p1", "801", &[("source", "x", 1)]))), receipt(Lane::Properties, 0), now);
        lanes.push(Delta::Stage(Box::new(stage("s1", "9001"))), receipt(Lane::Stages, 0), now);
        let all = |_: Work| true;
        assert!(matches!(lanes.next(all, 100, Duration::ZERO, now), Some(Batch::Stages(b)) if b[0].key == "9001"));
        assert!(matches!(lanes.next(all, 100, Duration::ZERO, now), Some(Batch::Contacts(b)) if b[0].key == "801"));
        assert!(matches!(lanes.next(all, 100, Duration::ZERO, now), Some(Batch::Events(b)) if b[0].key == "e1"));
        assert_eq!(lanes.next(all, 100, Duration::ZERO, now), None);
        assert!(!lanes.is_empty(), "three things are under way");
    }

    #[test]
    fn a_small_batch_of_contacts_waits_where_full_batches_of_events_do() {
        let (now, linger) = (Instant::now(), Duration::from_millis(250));
        let mut lanes = Lanes::default();
        lanes.push(Delta::Properties(Box::new(properties("p1", "801", &[("source", "x", 1)]))), receipt(Lane::Properties, 0), now);
        for n in 0..4 {
            lanes.push(Delta::Event(Box::new(event(&format!("e{n}"), "801"))), receipt(Lane::Events, n), now);
        }
        let all = |_: Work| true;
        assert!(matches!(lanes.next(all, 2, linger, now + linger), Some(Batch::Events(b)) if b.len() == 2));
        assert!(matches!(lanes.next(all, 2, linger, now + linger * CROWDED), Some(Batch::Contacts(_))));
        assert!(matches!(lanes.next(all, 2, linger, now + linger * CROWDED), Some(Batch::Events(_))));
    }

    #[test]
    fn a_closed_lane_does_not_hold_up_the_others() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        lanes.push(Delta::Stage(Box::new(stage("s1", "9001"))), receipt(Lane::Stages, 0), now);
        lanes.push(Delta::Event(Box::new(event("e1", "801"))), receipt(Lane::Events, 0), now);
        let open = |work: Work| work != Work::Stages;
        assert!(matches!(lanes.next(open, 100, Duration::ZERO, now), Some(Batch::Events(_))));
        assert_eq!(lanes.next_at(Work::Events, Duration::ZERO), None);
    }

    #[test]
    fn the_newest_value_of_each_property_wins_whatever_the_order() {
        let now = Instant::now();
        let deltas = [
            properties("p1", "801", &[("source", "old", 1), ("medium", "email", 1)]),
            properties("p2", "801", &[("source", "new", 9)]),
            properties("p3", "801", &[("source", "between", 5)]),
        ];
        let mut lanes = Lanes::default();
        for (offset, delta) in (0..).zip(deltas) {
            lanes.push(Delta::Properties(Box::new(delta)), receipt(Lane::Properties, offset), now);
        }
        let batch = lanes.contacts.take(BATCH_MAX, now);
        let values: Vec<(&str, &str)> = batch[0].value.changes.iter().map(|(n, c)| (n.as_str(), c.value.as_str())).collect();
        assert_eq!(values, [("medium", "email"), ("source", "new")]);
        assert_eq!(batch[0].value.receipts.len(), 3, "one write settles three records");
    }
}
