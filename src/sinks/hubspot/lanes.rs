//! What waits for one account, lane by lane, and which batch goes next.
//!
//! ```text
//!  hubspot.deal-stages ────────► stages    (by deal, in order)              first
//!  hubspot.contact-properties ─► emails    (by e-mail: find the contact)
//!                             └► contacts  (by contact, coalesced)          then
//!  hubspot.timeline ───────────► events    (by event id)                    last
//! ```
//!
//! Pure: nothing is sent here.

use super::queue::{Entry, Fold, Queue};
use super::record::{Delta, Lane, Receipt};
use crate::model::outputs::{DealStage, Person, TimelineEvent};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// HubSpot's bound on records in a batch; for timeline v3 the bound of its predecessor (none is documented).
pub const BATCH_MAX: usize = 100;

/// The deltas of one deal, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages(pub VecDeque<(DealStage, Receipt)>);

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

/// One timeline event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The event.
    pub delta: TimelineEvent,
    /// The contact that the event's own contact was merged into, once that is known.
    pub merged_into: Option<String>,
    /// The records that this settles: one, or several when a topic was read again.
    pub receipts: Vec<Receipt>,
}

impl Fold for Stages {
    fn fold(&mut self, newer: Self) {
        self.0.extend(newer.0);
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

impl Fold for Event {
    fn fold(&mut self, newer: Self) {
        self.receipts.extend(newer.receipts);
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

/// The next thing to do for an account.
#[derive(Debug, PartialEq)]
pub enum Batch {
    /// Read these deals and move those that still qualify.
    Stages(Vec<Entry<Stages>>),
    /// Find the contacts of these e-mail addresses.
    Emails(Vec<Entry<Properties>>),
    /// Write these contacts' properties.
    Contacts(Vec<Entry<Properties>>),
    /// Write these events.
    Events(Vec<Entry<Event>>),
}

/// Everything that waits for one account.
#[derive(Debug, Default)]
pub struct Lanes {
    /// By deal.
    pub stages: Queue<Stages>,
    /// By e-mail address.
    pub emails: Queue<Properties>,
    /// By contact.
    pub contacts: Queue<Properties>,
    /// By event id.
    pub events: Queue<Event>,
}

impl Lanes {
    /// Adds a record read at `now`.
    pub fn push(&mut self, delta: Delta, receipt: Receipt, now: Instant) {
        match delta {
            Delta::Stage(delta) => self.stages.push(delta.deal_id.clone(), Stages(VecDeque::from([(*delta, receipt)])), now),
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
                    Person::Email(email) => self.emails.push(email, properties, now),
                }
            }
            Delta::Event(delta) => {
                self.events.push(delta.id.clone(), Event { delta: *delta, merged_into: None, receipts: vec![receipt] }, now);
            }
        }
    }

    /// The next batch at `now` among the lanes that are `open`, first things first.
    pub fn next(&mut self, open: impl Fn(Lane) -> bool, linger: Duration, now: Instant) -> Option<Batch> {
        // A deal that has earned its stage waits for nobody.
        if open(Lane::Stages) && self.stages.ripe(BATCH_MAX, Duration::ZERO, now) {
            return Some(Batch::Stages(self.stages.take(BATCH_MAX, now)));
        }
        if open(Lane::Properties) && self.emails.ripe(BATCH_MAX, linger, now) {
            return Some(Batch::Emails(self.emails.take(BATCH_MAX, now)));
        }
        if open(Lane::Properties) && self.contacts.ripe(BATCH_MAX, linger, now) {
            return Some(Batch::Contacts(self.contacts.take(BATCH_MAX, now)));
        }
        if open(Lane::Events) && self.events.ripe(BATCH_MAX, linger, now) {
            return Some(Batch::Events(self.events.take(BATCH_MAX, now)));
        }
        None
    }

    /// When [`Lanes::next`] may next change by time alone.
    pub fn next_at(&self, open: impl Fn(Lane) -> bool, linger: Duration) -> Option<Instant> {
        let stages = self.stages.next_at(Duration::ZERO).filter(|_| open(Lane::Stages));
        let properties = [self.emails.next_at(linger), self.contacts.next_at(linger)].into_iter().flatten().min();
        let events = self.events.next_at(linger).filter(|_| open(Lane::Events));
        [stages, properties.filter(|_| open(Lane::Properties)), events].into_iter().flatten().min()
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
        let all = |_: Lane| true;
        assert!(matches!(lanes.next(all, Duration::ZERO, now), Some(Batch::Stages(b)) if b[0].key == "9001"));
        assert!(matches!(lanes.next(all, Duration::ZERO, now), Some(Batch::Contacts(b)) if b[0].key == "801"));
        assert!(matches!(lanes.next(all, Duration::ZERO, now), Some(Batch::Events(b)) if b[0].key == "e1"));
        assert_eq!(lanes.next(all, Duration::ZERO, now), None);
        assert!(!lanes.is_empty(), "three things are under way");
    }

    #[test]
    fn a_closed_lane_does_not_hold_up_the_others() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        lanes.push(Delta::Stage(Box::new(stage("s1", "9001"))), receipt(Lane::Stages, 0), now);
        lanes.push(Delta::Event(Box::new(event("e1", "801"))), receipt(Lane::Events, 0), now);
        let open = |lane: Lane| lane != Lane::Stages;
        assert!(matches!(lanes.next(open, Duration::ZERO, now), Some(Batch::Events(_))));
        assert_eq!(lanes.next_at(open, Duration::ZERO), None);
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
