//! What happened to a portal's records, for those who want to be told: the webhooks and their journal.

use crate::crm::Kind;
use crate::crm::record::Source;

/// One thing that happened to one record.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub kind: Kind,
    pub id: u64,
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    pub source: Source,
    pub what: What,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Created,
    /// A property has a new value; empty when it was cleared.
    Set {
        name: String,
        value: String,
    },
    Deleted,
    Restored,
    /// Deleted for good, at the request of the person it was about.
    PrivacyDeleted,
    /// Others were merged into this record.
    Merged {
        others: Vec<u64>,
        properties_moved: usize,
    },
    /// An association with a record of the other type came or went.
    Associated {
        with: u64,
        removed: bool,
    },
}
