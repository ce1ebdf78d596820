//! Ids of clicks, small enough to be kept by the million.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// A click's id, small: the redirect server's ids are UUIDs and take 16 bytes; any other text is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClickId {
    /// A UUID in its canonical spelling.
    Uuid([u8; 16]),
    /// Anything else.
    Text(Arc<str>),
}

impl ClickId {
    /// From the record's id.
    pub fn of(id: &str) -> Self {
        match uuid::Uuid::try_parse(id) {
            // Only the canonical spelling may be shortened: `ABC…` and `abc…` are two ids.
            Ok(uuid) if id.len() == 36 && !id.bytes().any(|b| b.is_ascii_uppercase()) => ClickId::Uuid(uuid.into_bytes()),
            _ => ClickId::Text(id.into()),
        }
    }
}

impl std::fmt::Display for ClickId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClickId::Uuid(value) => uuid::Uuid::from_bytes(*value).hyphenated().fmt(f),
            ClickId::Text(text) => f.write_str(text),
        }
    }
}

impl Ord for ClickId {
    /// As the ids' texts compare.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (ClickId::Uuid(a), ClickId::Uuid(b)) => a.cmp(b),
            (ClickId::Text(a), ClickId::Text(b)) => a.cmp(b),
            (a, b) => a.to_string().cmp(&b.to_string()),
        }
    }
}

impl PartialOrd for ClickId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
