//! What the mirror's topics say of one account: the ledger by which nothing is written that stands there already.
//!
//! # Meaning
//! The topics themselves are the ledger; this is their content in memory, read at the start and carried on with each record that is
//! written. So it cannot differ from them after a crash, and it is the same that the dataflow sees.
//!
//! # Cost
//! About 70 bytes a record (an entry of 48 in a B-tree that is two thirds full), and 8 more for each contact of a deal. A start reads both
//! topics once, as the dataflow does.

use super::object::{Id, Object};
use super::record;
use crate::model::time::Ms;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The last record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Of its bytes.
    hash: Uuid,
    /// HubSpot's time of the reading that it was made from, ms; 0 when it was written before this start.
    modified: Ms,
    /// A deal's contacts.
    contacts: Box<[Id]>,
}

/// The mirror of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    contacts: BTreeMap<Id, Entry>,
    deals: BTreeMap<Id, Entry>,
}

/// Two records are the same if their hashes are: 122 bits of SHA-1, compared only within one key.
fn hash(value: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, value)
}

impl Ledger {
    fn of(&self, object: Object) -> &BTreeMap<Id, Entry> {
        match object {
            Object::Contacts => &self.contacts,
            Object::Deals => &self.deals,
        }
    }

    /// A record stands in the topic; without a value it is a tombstone. `modified` as in [`record::Reading`], 0 where unknown.
    pub fn wrote(&mut self, object: Object, id: Id, value: Option<&[u8]>, modified: Ms) {
        let entries = match object {
            Object::Contacts => &mut self.contacts,
            Object::Deals => &mut self.deals,
        };
        match value {
            None => drop(entries.remove(&id)),
            Some(value) => {
                let contacts = if object == Object::Deals { record::named(value) } else { Box::default() };
                entries.insert(id, Entry { hash: hash(value), modified, contacts });
            }
        }
    }

    /// Whether exactly this stands in the topic.
    pub fn says(&self, object: Object, id: Id, value: &[u8]) -> bool {
        self.of(object).get(&id).is_some_and(|entry| entry.hash == hash(value))
    }

    /// Whether there is a record.
    pub fn has(&self, object: Object, id: Id) -> bool {
        self.of(object).contains_key(&id)
    }

    /// HubSpot's time of the last reading in this run; 0 without one.
    pub fn modified(&self, object: Object, id: Id) -> Ms {
        self.of(object).get(&id).map_or(0, |entry| entry.modified)
    }

    /// The record was read again and has not changed.
    pub fn confirm(&mut self, object: Object, id: Id, modified: Ms) {
        let entries = match object {
            Object::Contacts => &mut self.contacts,
            Object::Deals => &mut self.deals,
        };
        if let Some(entry) = entries.get_mut(&id) {
            entry.modified = entry.modified.max(modified);
        }
    }

    /// The ids after `after`, up to and including `upto`; all that follow where that is `None`.
    pub fn between(&self, object: Object, after: Id, upto: Option<Id>) -> BTreeSet<Id> {
        let upto = upto.unwrap_or(Id::MAX);
        if after >= upto {
            return BTreeSet::new();
        }
        self.of(object).range(after + 1..=upto).map(|(id, _)| *id).collect()
    }

    /// The deals that name any of these contacts. Looks at every deal.
    pub fn naming(&self, contacts: &BTreeSet<Id>) -> BTreeSet<Id> {
        if contacts.is_empty() {
            return BTreeSet::new();
        }
        self.deals.iter().filter(|(_, entry)| entry.contacts.iter().any(|id| contacts.contains(id))).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_of_a_key_is_what_it_says() {
        let mut ledger = Ledger::default();
        ledger.wrote(Object::Contacts, 7, Some(b"a"), 5);
        assert!(ledger.says(Object::Contacts, 7, b"a") && !ledger.says(Object::Contacts, 7, b"b") && !ledger.says(Object::Deals, 7, b"a"));
        ledger.confirm(Object::Contacts, 7, 3);
        assert_eq!(ledger.modified(Object::Contacts, 7), 5, "a reading that is older confirms nothing newer");
        ledger.wrote(Object::Contacts, 7, None, 0);
        assert_eq!(ledger, Ledger::default());
    }

    #[test]
    fn ranges_leave_their_beginning_out() {
        let mut ledger = Ledger::default();
        for id in [1, 5, 9] {
            ledger.wrote(Object::Deals, id, Some(br#"{"portal":"1","deal_id":"1","pipeline":"p","stage":"s","contact_ids":["7"]}"#), 0);
        }
        assert_eq!(ledger.between(Object::Deals, 1, Some(5)), BTreeSet::from([5]));
        assert_eq!(ledger.between(Object::Deals, 5, None), BTreeSet::from([9]));
        assert_eq!(ledger.between(Object::Deals, Id::MAX, None), BTreeSet::new());
        assert_eq!(ledger.naming(&BTreeSet::from([7, 8])), BTreeSet::from([1, 5, 9]));
        assert_eq!(ledger.naming(&BTreeSet::from([8])), BTreeSet::new());
    }
}
