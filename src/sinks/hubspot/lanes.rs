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

use super::entries::{Addressed, Change, Event, Properties, Records, Stages};
use super::queue::{Entry, Queue};
use super::record::{Delta, Lane, Receipt};
use crate::model::outputs::Person;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// HubSpot's bound on contacts and on deals in a batch.
pub const BATCH_MAX: usize = 100;

/// How much longer a batch that is not full waits where requests are scarce.
const CROWDED: u32 = 4;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Whose budget it shares.
    pub fn lane(self) -> Lane {
        match self {
            Work::Stages => Lane::Stages,
            Work::Emails | Work::Contacts => Lane::Properties,
            Work::Events => Lane::Events,
        }
    }

    /// What writes to HubSpot in a lane.
    pub fn writes(lane: Lane) -> Work {
        match lane {
            Lane::Stages => Work::Stages,
            Lane::Properties => Work::Contacts,
            Lane::Events => Work::Events,
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
                let event = Event { fresh: receipt.fresh, receipts: vec![receipt], ..Event::new(*delta) };
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
    use crate::model::outputs::TimelineEvent;

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
    #[test]
    fn what_was_read_twice_and_waited_for_an_address_is_one_event() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        let addressed = |n: i64| TimelineEvent { person: Person::Email("ada@example.com".into()), ..event(&format!("e{n}"), "") };
        // So many that a search among those that wait, for each that arrives, would take minutes.
        let all = 100_000;
        for (offset, n) in (0..).zip((0..all).chain(0..3)) {
            lanes.push(Delta::Event(Box::new(addressed(n))), receipt(Lane::Events, offset), now);
        }
        let mut found = lanes.emails.take(BATCH_MAX, now);
        let Entry { key, value, .. } = found.remove(0);
        lanes.found(&key, "801", value, now);
        let events = lanes.events.take(usize::MAX, now);
        assert_eq!(events.len(), all as usize);
        let offsets = |at: usize| events[at].value.receipts.iter().map(|receipt| receipt.raw.offset).collect::<Vec<_>>();
        assert_eq!((offsets(0), offsets(2), offsets(3)), (vec![0, all], vec![2, all + 2], vec![3]));
        assert!(events.iter().all(|entry| entry.value.contact() == Some("801")));
    }
}
