//! How far the mirror of one account has come, as it is kept in the topic `clickline.sources`.
//!
//! # Guarantee
//! A cursor is written only after every record that it stands for is acknowledged. A crash before that does the same step again,
//! and the [ledger](super::ledger) keeps what stands in the topics already from being written twice.

use super::object::{Id, Object};
use crate::model::time::Ms;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far one account's mirror has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cursor {
    /// Schema version; 1.
    pub v: u32,
    /// Where the changes are that have not been read; none before the first load.
    pub place: Option<Place>,
    /// The load that is under way.
    pub load: Option<Load>,
    /// When the last load was through, ms by this machine's clock; 0 for never.
    pub loaded_at: Ms,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor { v: 1, place: None, load: None, loaded_at: 0 }
    }
}

impl Cursor {
    /// Nothing is known of what changed before `place`: all is loaded again.
    pub fn at(place: Place, loaded_at: Ms) -> Self {
        Cursor { v: 1, place: Some(place), load: Some(Load::start(Object::Contacts)), loaded_at }
    }
}

/// Where the changes are that have not been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The newest times of change that a search has shown, ms by HubSpot's clock.
    Search {
        /// Of a contact.
        contacts: Ms,
        /// Of a deal.
        deals: Ms,
    },
    /// In the journal.
    Journal {
        /// HubSpot's offset of the entry that was read last; none at the journal's beginning.
        offset: Option<String>,
        /// When the journal was read last, ms by this machine's clock, to the hour.
        read_at: Ms,
    },
    /// The offset of the next record in the topic `clickline.changes`.
    Webhooks(i64),
}

/// Where a load is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// What is loaded now; deals come after contacts.
    pub object: Object,
    /// HubSpot's cursor of the next page; none for the first.
    pub after: Option<String>,
    /// The greatest id so far.
    pub last: Id,
    /// Whether the ids came in ascending order. HubSpot does not promise it; only with it do gaps mean deletions.
    pub ascending: bool,
}

impl Load {
    /// From the first page on.
    pub fn start(object: Object) -> Self {
        Load { object, after: None, last: 0, ascending: true }
    }
}

/// The key of an account's cursor.
pub fn key(portal: &str) -> String {
    format!("crm/{portal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was_written() {
        let places = [
            Place::Search { contacts: 5, deals: 0 },
            Place::Journal { offset: Some("u".into()), read_at: 4 },
            Place::Journal { offset: None, read_at: 0 },
            Place::Webhooks(7),
        ];
        for place in places {
            let mut cursor = Cursor::at(place, 3);
            cursor.load = Some(Load { object: Object::Deals, after: Some("9".into()), last: 8, ascending: false });
            let written = serde_json::to_vec(&cursor).expect("writes");
            assert_eq!(serde_json::from_slice::<Cursor>(&written).expect("reads"), cursor);
        }
        let written = serde_json::to_string(&Cursor::at(Place::Webhooks(7), 0)).expect("writes");
        assert_eq!(
            written,
            r#"{"v":1,"place":{"webhooks":7},"load":{"object":"contacts","after":null,"last":0,"ascending":true},"loaded_at":0}"#
        );
    }
}
