//! Persons who were erased: what waits for them goes, what comes back of them is not kept, what comes later is dropped.
//!
//! # Why nothing is written back
//! - A turn of the loop begins with a look at who was erased since the last one; queues and the next commit are gone through then.
//! - A commit that was put together before an erasure it does not know is refused by the database
//!   ([`State::settle_unless_erased`](crate::state::State::settle_unless_erased)) and gone through again.
//! - What was in a request at that time is dropped when its answer comes, whatever that says.
//! - Everything else enters by [`Run::record`] or from the parked records, and both are looked at.
//!
//! # Not guaranteed
//! A request that is under way, or that waits for its place in the account's limits, is not called back: HubSpot may store what it says.

use super::entries::{Addressed, Event, Properties, Records, Stages};
use super::lanes::{Lanes, Work};
use super::record::Receipt;
use super::run::Run;
use crate::model::Named;
use crate::model::outputs::Person;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Takes persons out of what waits under one key.
pub trait Erase: Records {
    /// Takes out the records of persons of whom `erased` says so, and all that stems from them.
    fn erase(&mut self, key: &str, erased: &impl Fn(&Person) -> bool) -> Vec<Receipt>;
}

fn theirs(receipt: &Receipt, erased: &impl Fn(&Person) -> bool) -> bool {
    receipt.person.as_ref().is_some_and(erased)
}

impl Erase for Stages {
    /// Other persons may have earned the same deal's next stages.
    fn erase(&mut self, _deal: &str, erased: &impl Fn(&Person) -> bool) -> Vec<Receipt> {
        let first = self.steps.front().map(|(_, receipt)| receipt.ledger_key);
        let steps = std::mem::take(&mut self.steps).into_iter();
        let (gone, left): (VecDeque<_>, VecDeque<_>) = steps.partition(|(_, receipt)| theirs(receipt, erased));
        self.steps = left;
        self.sent &= self.steps.front().map(|(_, receipt)| receipt.ledger_key) == first;
        gone.into_iter().map(|(_, receipt)| receipt).collect()
    }
}

impl Erase for Properties {
    /// All of it is one contact's, whether its records name the id or an address.
    fn erase(&mut self, contact: &str, erased: &impl Fn(&Person) -> bool) -> Vec<Receipt> {
        let one = self.receipts.iter().any(|(receipt, _)| theirs(receipt, erased));
        if !one && !erased(&Person::ContactId(contact.to_owned())) {
            return Vec::new();
        }
        std::mem::take(self).receipts.into_iter().map(|(receipt, _)| receipt).collect()
    }
}

impl Erase for Event {
    fn erase(&mut self, _event: &str, erased: &impl Fn(&Person) -> bool) -> Vec<Receipt> {
        let found = self.contact().map(|id| Person::ContactId(id.to_owned()));
        if !found.as_ref().is_some_and(erased) && !erased(&self.delta.person) {
            return Vec::new();
        }
        std::mem::take(&mut self.receipts)
    }
}

impl Erase for Addressed {
    fn erase(&mut self, email: &str, erased: &impl Fn(&Person) -> bool) -> Vec<Receipt> {
        if !erased(&Person::Email(email.to_owned())) {
            return Vec::new();
        }
        self.take_out(|_| true)
    }
}

impl Lanes {
    /// Takes persons out of everything that waits; gives back their records, and the keys under which nothing is left.
    pub fn erase(&mut self, erased: &impl Fn(&Person) -> bool) -> (Vec<Receipt>, BTreeSet<(Work, String)>) {
        let (mut gone, mut keys) = (Vec::new(), BTreeSet::new());
        let mut look = |work, key: &str, receipts: Vec<Receipt>, none_left: bool| {
            gone.extend(receipts);
            none_left && keys.insert((work, key.to_owned()))
        };
        self.stages.sift(|key, value| {
            let receipts = value.erase(key, erased);
            look(Work::Stages, key, receipts, value.none_left())
        });
        self.emails.sift(|key, value| {
            let receipts = value.erase(key, erased);
            look(Work::Emails, key, receipts, value.none_left())
        });
        self.contacts.sift(|key, value| {
            let receipts = value.erase(key, erased);
            look(Work::Contacts, key, receipts, value.none_left())
        });
        self.events.sift(|key, value| {
            let receipts = value.erase(key, erased);
            look(Work::Events, key, receipts, value.none_left())
        });
        (gone, keys)
    }
}

impl Run {
    /// Looks who was erased since the last time, and takes them out of all that is in memory.
    pub(super) fn look_at_erasures(&mut self) -> anyhow::Result<()> {
        if !self.erased.learn(&self.state)? {
            return Ok(());
        }
        let before = self.stats.erased;
        for portal in self.accounts.keys().cloned().collect::<Vec<_>>() {
            let Some(account) = self.accounts.get_mut(&portal) else { continue };
            let (receipts, keys) = account.lanes.erase(&|person| self.erased.person(&portal, person));
            for work in Work::ALL {
                account.suspects[work as usize].left(|key| keys.contains(&(work, key.to_owned())));
            }
            receipts.iter().for_each(|receipt| self.drop_erased(receipt));
        }
        let (erased, everybody) = (&self.erased, BTreeMap::new());
        self.appeared.retain(|(portal, email)| !erased.email(portal, email));
        self.settlement.park.retain(|row| !erased.email(&row.portal, &row.email));
        self.settlement.values.retain(|value| !erased.contact(&value.portal, &value.contact));
        self.settlement.dead.retain(|row| !erased.named(&Named::in_record(&row.payload), &everybody));
        tracing::info!(
            event = "erasure_dropped",
            dropped = self.stats.erased - before,
            "a person was erased: what waited for them is dropped"
        );
        Ok(())
    }

    /// A record of an erased person leaves memory, and nothing is kept of it.
    pub(super) fn drop_erased(&mut self, receipt: &Receipt) {
        self.stats.erased += 1;
        self.settlement.erased.push(receipt.ledger_key);
        self.leave(receipt);
    }

    /// Drops what is erased of an entry that was sent; says whether nothing is left of it.
    pub(super) fn drop_erased_of<V: Erase>(&mut self, portal: &str, key: &str, value: &mut V) -> bool {
        if self.erased.nobody() {
            return false;
        }
        let gone = value.erase(key, &|person| self.erased.person(portal, person));
        gone.iter().for_each(|receipt| self.drop_erased(receipt));
        !gone.is_empty() && value.none_left()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{event, properties, receipt, stage};
    use super::super::queue::Fold as _;
    use super::super::record::{Delta, Lane};
    use super::*;
    use crate::model::outputs::{ContactProperties, DealStage, TimelineEvent};
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn person(n: usize) -> Person {
        // Two ways to name each of three.
        if n < 3 { Person::ContactId(n.to_string()) } else { Person::Email(format!("{}@example.com", n - 3)) }
    }

    /// The n-th record: of one of the lanes, of one of six persons, one of few keys.
    fn record((kind, who, key): (usize, usize, usize), at: usize) -> (Delta, Receipt) {
        let (whose, lane) = (person(who), Lane::ALL[kind]);
        let delta = match lane {
            Lane::Stages => Delta::Stage(Box::new(DealStage { person: Some(whose.clone()), ..stage(&at.to_string(), &key.to_string()) })),
            Lane::Properties => {
                let changes = properties(&at.to_string(), "", &[("p", "v", at as u64)]);
                Delta::Properties(Box::new(ContactProperties { person: whose.clone(), ..changes }))
            }
            Lane::Events => Delta::Event(Box::new(TimelineEvent { person: whose.clone(), ..event(&format!("{key}-{who}"), "") })),
        };
        (delta, Receipt { person: Some(whose), ..receipt(lane, at as i64) })
    }

    proptest! {
        /// Whatever waits, is under way, or has come back: exactly the records of the erased leave, each once, and the others are sent.
        #[test]
        fn the_records_of_the_erased_leave_and_no_others(
            records in prop::collection::vec((0usize..3, 0usize..6, 0usize..3), 1..40),
            erased in prop::collection::btree_set(0usize..6, 0..4),
            taken in prop::collection::vec(0usize..4, 0..6),
        ) {
            let now = Instant::now();
            let gone = |who: &Person| erased.iter().any(|n| person(*n) == *who);
            let mut lanes = Lanes::default();
            let (mut wanted, mut kept) = (BTreeSet::new(), BTreeSet::new());
            for (at, of) in records.iter().enumerate() {
                let (delta, receipt) = record(*of, at);
                (if gone(&person(of.1)) { &mut wanted } else { &mut kept }).insert(receipt.ledger_key);
                lanes.push(delta, receipt, now);
            }
            let (mut left, mut sent) = (Vec::new(), BTreeSet::new());
            // Some are under way while somebody is erased, and come back to be tried again.
            let mut away = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for queue in taken {
                match queue {
                    0 => away.0.extend(lanes.stages.take(2, now)),
                    1 => away.1.extend(lanes.emails.take(2, now)),
                    2 => away.2.extend(lanes.contacts.take(2, now)),
                    _ => away.3.extend(lanes.events.take(2, now)),
                }
            }
            left.extend(lanes.erase(&gone).0);
            macro_rules! back {
                ($entries:expr, $queue:expr) => {
                    for mut entry in $entries {
                        left.extend(entry.value.erase(&entry.key, &gone));
                        if entry.value.none_left() { $queue.release(&entry.key) } else { $queue.put_back(entry, now) }
                    }
                };
            }
            back!(away.0, lanes.stages);
            back!(away.1, lanes.emails);
            back!(away.2, lanes.contacts);
            back!(away.3, lanes.events);
            prop_assert_eq!(lanes.erase(&gone).0, vec![], "nothing of them came back");
            macro_rules! sent {
                ($queue:expr) => {
                    loop {
                        let entries = $queue.take(9, now);
                        if entries.is_empty() {
                            break;
                        }
                        for mut entry in entries {
                            prop_assert!(!entry.value.none_left(), "nothing empty is sent");
                            sent.extend(entry.value.take_out(|_| true).into_iter().map(|receipt| receipt.ledger_key));
                            if entry.value.none_left() { $queue.release(&entry.key) } else { $queue.put_back(entry, now) }
                        }
                    }
                };
            }
            sent!(lanes.stages);
            sent!(lanes.emails);
            sent!(lanes.contacts);
            sent!(lanes.events);
            prop_assert_eq!(left.len(), wanted.len());
            prop_assert_eq!(left.into_iter().map(|receipt| receipt.ledger_key).collect::<BTreeSet<_>>(), wanted);
            prop_assert_eq!(sent, kept);
        }
    }

    #[test]
    fn what_was_found_by_an_erased_address_is_theirs() {
        let ada = |person: &Person| *person == Person::Email("ada@example.com".into());
        let by_address = Receipt { person: Some(Person::Email("ada@example.com".into())), ..receipt(Lane::Properties, 1) };
        let mut waits = Properties { receipts: vec![(by_address, vec![])], ..Properties::default() };
        waits.fold(Properties { receipts: vec![(receipt(Lane::Properties, 2), vec![])], ..Properties::default() });
        assert_eq!(waits.erase("801", &ada).len(), 2, "one contact's");
        let of = TimelineEvent { person: Person::Email("ada@example.com".into()), ..event("e", "") };
        let mut found = Event { contact: Some("801".into()), receipts: vec![receipt(Lane::Events, 1)], ..Event::new(of) };
        assert_eq!(found.erase("e", &ada).len(), 1);
        let mut merged = Event { contact: Some("7".into()), receipts: vec![receipt(Lane::Events, 1)], ..Event::new(event("e", "77")) };
        assert_eq!(merged.erase("e", &|person: &Person| *person == Person::ContactId("7".into())).len(), 1, "by what it was merged into");
        let mut queue: super::super::queue::Queue<Event> = Default::default();
        queue.push("e".into(), merged, Instant::now());
        queue.sift(|_, _| true);
        assert!(queue.is_empty() && !queue.ripe(1, Duration::ZERO, Instant::now()));
    }
}
