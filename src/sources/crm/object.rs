//! The two kinds of HubSpot records that are mirrored, and how HubSpot names what concerns them.

use crate::kafka::Topics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// HubSpot's id of a contact or deal within its account: a positive number.
pub type Id = u64;

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// `crm.contacts`
    Contacts,
    /// `crm.deals`
    Deals,
}

impl Object {
    /// Both; contacts come first, so that a deal's contacts are there when it is.
    pub const ALL: [Object; 2] = [Object::Contacts, Object::Deals];

    /// The topic of its mirror.
    pub fn topic(self, topics: &Topics) -> &str {
        match self {
            Object::Contacts => &topics.contacts,
            Object::Deals => &topics.deals,
        }
    }

    /// The object type that HubSpot's events name: by its id, or by its name in one of its forms.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "0-1" | "contact" | "contacts" => Some(Object::Contacts),
            "0-3" | "deal" | "deals" => Some(Object::Deals),
            _ => None,
        }
    }

    /// HubSpot's id of the object type.
    pub fn type_id(self) -> &'static str {
        match self {
            Object::Contacts => "0-1",
            Object::Deals => "0-3",
        }
    }

    /// The property with the time of the last change.
    pub fn modified(self) -> &'static str {
        match self {
            Object::Contacts => "lastmodifieddate",
            Object::Deals => "hs_lastmodifieddate",
        }
    }

    /// The properties that a record's mirror is made of.
    pub fn properties(self) -> &'static [&'static str] {
        match self {
            Object::Contacts => &["email", "hs_additional_emails", "hs_merged_object_ids", "lastmodifieddate"],
            Object::Deals => &["pipeline", "dealstage", "amount", "hs_merged_object_ids", "hs_lastmodifieddate"],
        }
    }
}
