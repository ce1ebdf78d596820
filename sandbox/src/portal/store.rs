//! The records of one object type.

use crate::crm::record::Record;
use std::collections::{BTreeMap, BTreeSet};

/// The records of one object type.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub records: BTreeMap<u64, Record>,
    /// Merged away → survivor.
    pub merged_into: BTreeMap<u64, u64>,
    /// Deleted for good.
    pub erased: BTreeSet<u64>,
    /// Associated records of the other type.
    pub linked: BTreeMap<u64, BTreeSet<u64>>,
}

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A live record.
    Live(u64),
    /// Merged into this live record.
    Merged(u64),
    /// None, or an archived one.
    Missing,
}

impl Store {
    /// Whether an id is or was in use.
    pub fn taken(&self, id: u64) -> bool {
        self.records.contains_key(&id) || self.merged_into.contains_key(&id) || self.erased.contains(&id)
    }

    /// What an id stands for.
    pub fn find(&self, id: u64) -> Found {
        let mut at = id;
        while let Some(survivor) = self.merged_into.get(&at) {
            at = *survivor;
        }
        match self.records.get(&at) {
            Some(record) if record.archived_at.is_none() && at == id => Found::Live(at),
            Some(record) if record.archived_at.is_none() => Found::Merged(at),
            _ => Found::Missing,
        }
    }

    /// All records that are not archived, by id.
    pub fn live(&self) -> impl Iterator<Item = &Record> {
        self.records.values().filter(|r| r.archived_at.is_none())
    }

    /// The associated records of the other type, by id.
    pub fn linked_to(&self, id: u64) -> impl Iterator<Item = u64> {
        self.linked.get(&id).into_iter().flatten().copied()
    }
}
