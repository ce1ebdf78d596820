//! The records the sink reads, and what it must know to settle each of them.

use crate::model::outputs::{ContactProperties, DealStage, Person, TimelineEvent, Topic};
use crate::state::{LedgerKey, Park};

/// Kinds of delta, in the order of their priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Deals to move.
    Stages,
    /// Last UTM values.
    Properties,
    /// Timeline events.
    Events,
}

impl Lane {
    /// The lane that is read from the topic of this name.
    pub fn of(topics: &[String; 3], topic: &str) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| topics[lane.index()] == topic)
    }

    /// All of them, first things first.
    pub const ALL: [Lane; 3] = [Lane::Stages, Lane::Properties, Lane::Events];

    /// The topic it is read from.
    pub fn topic(self) -> Topic {
        match self {
            Lane::Stages => Topic::DealStages,
            Lane::Properties => Topic::ContactProperties,
            Lane::Events => Topic::Timeline,
        }
    }

    /// Its place in [`Lane::ALL`].
    pub fn index(self) -> usize {
        match self {
            Lane::Stages => 0,
            Lane::Properties => 1,
            Lane::Events => 2,
        }
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What is kept of a record until it is settled: where it was read, what the ledger calls it, and its bytes for a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which topic it was read from.
    pub lane: Lane,
    /// HubSpot account; empty where the record does not say.
    pub portal: String,
    /// The record.
    pub raw: Raw,
    /// Its name in the ledger.
    pub ledger_key: LedgerKey,
    /// For a record that was parked: since when (ms since the Unix epoch) and how often its contact was looked for.
    pub parked: Option<(u64, u32)>,
    /// Since when HubSpot has failed to take it, ms since the Unix epoch; kept over restarts.
    pub failing_since: Option<u64>,
    /// Whose it is; nobody's where it names no person.
    pub person: Option<Person>,
    /// No earlier process can have sent it: it was appended after this one had begun to read, and is no replay.
    pub fresh: bool,
}

impl Receipt {
    /// The row that parks this record until the contact of `email` appears.
    pub fn park(&self, topic: &str, portal: &str, email: &str, now: u64, next_at: u64) -> Park {
        let (parked_at, tries) = self.parked.unwrap_or((now, 0));
        Park {
            ledger_key: self.ledger_key,
            portal: portal.to_owned(),
            email: email.to_owned(),
            topic: topic.to_owned(),
            partition: self.raw.partition,
            offset: self.raw.offset,
            key: self.raw.key.clone(),
            payload: self.raw.payload.clone(),
            parked_at,
            next_at,
            tries: tries + 1,
        }
    }
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// A deal to move.
    Stage(Box<DealStage>),
    /// Last UTM values.
    Properties(Box<ContactProperties>),
    /// A timeline event.
    Event(Box<TimelineEvent>),
}

/// Account and id of a record of a delta topic, where it is a delta that can be read.
pub fn delta_id(topic: Topic, payload: &[u8]) -> Option<(String, String)> {
    let lane = Lane::ALL.into_iter().find(|lane| lane.topic() == topic)?;
    let delta = Delta::decode(lane, payload).ok()?;
    Some((delta.portal().to_owned(), delta.id().to_owned()))
}

/// HubSpot's bound on event ids, bytes.
const EVENT_ID_MAX: usize = 500;

impl Delta {
    /// Decodes a record of a lane's topic.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn decode(lane: Lane, payload: &[u8]) -> Result<Self, String> {
        // serde_json's messages name fields, lines and columns; `invalid type: string "…"` quotes a value, so only the place is kept.
        let place = |e: serde_json::Error| format!("no {} record: line {}, column {}", lane.topic().default_name(), e.line(), e.column());
        let delta = match lane {
            Lane::Stages => Delta::Stage(serde_json::from_slice(payload).map_err(place)?),
            Lane::Properties => Delta::Properties(serde_json::from_slice(payload).map_err(place)?),
            Lane::Events => Delta::Event(serde_json::from_slice(payload).map_err(place)?),
        };
        delta.check()?;
        Ok(delta)
    }

    /// What HubSpot would misread or refuse in any case.
    fn check(&self) -> Result<(), String> {
        match self {
            Delta::Event(event) if event.id.is_empty() || event.id.len() > EVENT_ID_MAX => {
                Err(format!("the event id has {} bytes; HubSpot takes 1 to {EVENT_ID_MAX}", event.id.len()))
            }
            // HubSpot expands macros such as {{uuid}} inside ids: then a retry would make a second event.
            Delta::Event(event) if event.id.contains("{{") => Err("the event id holds a macro".to_owned()),
            Delta::Properties(delta) if delta.properties.keys().any(|name| !delta.from.contains_key(name)) => {
                Err("a property does not say which click it came from".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// HubSpot account.
    pub fn portal(&self) -> &str {
        match self {
            Delta::Stage(delta) => &delta.portal,
            Delta::Properties(delta) => &delta.portal,
            Delta::Event(delta) => &delta.portal,
        }
    }

    /// Whose it is; nobody's for a rule that counts a deal's own links.
    pub fn person(&self) -> Option<&Person> {
        match self {
            Delta::Stage(delta) => delta.person.as_ref(),
            Delta::Properties(delta) => Some(&delta.person),
            Delta::Event(delta) => Some(&delta.person),
        }
    }

    /// The record's own id, unique in its topic.
    pub fn id(&self) -> &str {
        match self {
            Delta::Stage(delta) => &delta.id,
            Delta::Properties(delta) => &delta.id,
            Delta::Event(delta) => &delta.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_decoded_is_not_quoted() {
        let error = Delta::decode(Lane::Events, br#"{"v":"canary@example.com"}"#).expect_err("no event");
        assert!(!error.contains("canary") && error.contains("hubspot.timeline"), "{error}");
    }
}
