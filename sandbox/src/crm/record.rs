//! One CRM record: its values with their whole history.

use super::Kind;
use crate::clock::iso;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Who wrote a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An app, through the API.
    Integration { app_id: u64 },
    /// A person, in HubSpot's pages.
    CrmUi,
    /// Seeding.
    Import,
    /// HubSpot's own calculation.
    Calculated,
    /// A merge of two records.
    Merge,
    /// A form that somebody submitted.
    Form,
}

impl Source {
    /// HubSpot's `sourceType`.
    pub fn source_type(self) -> &'static str {
        match self {
            Self::Integration { .. } => "INTEGRATION",
            Self::CrmUi => "CRM_UI",
            Self::Import => "IMPORT",
            Self::Calculated => "CALCULATED",
            Self::Merge => "MERGE_OBJECTS",
            Self::Form => "FORM",
        }
    }

    /// HubSpot's `sourceId`: the app for an integration.
    pub fn source_id(self) -> Option<String> {
        match self {
            Self::Integration { app_id } => Some(app_id.to_string()),
            Self::CrmUi => Some("userId:1".into()),
            Self::Import | Self::Calculated | Self::Merge | Self::Form => None,
        }
    }
}

/// One value a property has had.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Empty when the value was cleared.
    pub value: String,
    /// When it was written, ms.
    pub at: u64,
    pub source: Source,
}

/// A contact or a deal.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub id: u64,
    pub created_at: u64,
    pub updated_at: u64,
    pub archived_at: Option<u64>,
    /// Oldest first.
    pub values: BTreeMap<String, Vec<Version>>,
    /// Records that were merged into this one, oldest first.
    pub merged: Vec<u64>,
    /// The portal's change number when this record, or something shown with it, last changed.
    pub touched: u64,
}

impl Record {
    pub fn new(id: u64, now: u64) -> Self {
        Self { id, created_at: now, updated_at: now, archived_at: None, values: BTreeMap::new(), merged: Vec::new(), touched: 0 }
    }

    /// Stores a value; a value that is there already leaves no trace. True when something changed.
    pub fn set(&mut self, name: &str, value: &str, now: u64, source: Source) -> bool {
        let versions = self.values.entry(name.to_owned()).or_default();
        if versions.last().map_or("", |v| v.value.as_str()) == value {
            return false;
        }
        versions.push(Version { value: value.to_owned(), at: now, source });
        true
    }

    /// A stored value; none when it was never set or cleared.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(|v| v.value.as_str()).filter(|v| !v.is_empty())
    }

    /// The value a reader sees, with those HubSpot makes itself.
    pub fn read(&self, kind: Kind, name: &str) -> Option<String> {
        match name {
            "hs_object_id" => Some(self.id.to_string()),
            "createdate" => Some(self.get(name).map_or_else(|| iso(self.created_at), str::to_owned)),
            _ if name == kind.last_modified() => Some(iso(self.updated_at)),
            "hs_merged_object_ids" if !self.merged.is_empty() => Some(self.merged.iter().map(u64::to_string).collect::<Vec<_>>().join(";")),
            _ => self.get(name).map(str::to_owned),
        }
    }

    /// The value a reader saw at `at`; for search, which lags.
    pub fn read_at(&self, kind: Kind, name: &str, at: u64) -> Option<String> {
        if self.updated_at <= at {
            return self.read(kind, name);
        }
        if name == kind.last_modified() {
            let last = self.values.values().flatten().map(|v| v.at).filter(|changed| *changed <= at).max();
            return Some(iso(last.unwrap_or(self.created_at)));
        }
        let versions = self.values.get(name)?;
        versions.iter().rev().find(|v| v.at <= at).map(|v| v.value.clone()).filter(|v| !v.is_empty())
    }

    /// The record as the API shows it, with these properties; one without a value is null.
    pub fn show<'a>(&self, kind: Kind, names: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
        let properties: Map<String, Value> =
            names.into_iter().map(|name| (name.to_owned(), self.read(kind, name).map_or(Value::Null, Value::String))).collect();
        let mut shown = Map::new();
        shown.insert("id".into(), self.id.to_string().into());
        shown.insert("properties".into(), properties.into());
        shown.insert("createdAt".into(), iso(self.created_at).into());
        shown.insert("updatedAt".into(), iso(self.updated_at).into());
        shown.insert("archived".into(), self.archived_at.is_some().into());
        if let Some(at) = self.archived_at {
            shown.insert("archivedAt".into(), iso(at).into());
        }
        shown
    }

    /// A property's history as the API shows it: newest first.
    pub fn history(&self, name: &str) -> Value {
        let versions = self.values.get(name).map(Vec::as_slice).unwrap_or_default();
        let shown = versions.iter().rev().map(|v| {
            let mut entry = json!({ "value": v.value, "timestamp": iso(v.at), "sourceType": v.source.source_type() });
            if let Some(id) = v.source.source_id() {
                entry["sourceId"] = id.into();
            }
            entry
        });
        Value::Array(shown.collect())
    }
}
