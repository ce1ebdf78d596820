//! What came of a batch, record by record; and what is the same for every kind of batch.

use super::budget::Share;
use super::outcome::Outcome;
use super::paths::Paths;
use super::queue::Entry;
use super::record::Lane;
use super::request::{self, Request};
use super::service::Service;
use crate::model::reason;
use crate::traces;
use serde_json::Value;
use std::time::Duration;

/// What to do when HubSpot has ended a version of its API.
pub const RETIRED: &str = "HubSpot no longer serves this version of its API: set a newer one under `paths`";

/// What came of one entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// HubSpot has it.
    Delivered,
    /// Not to be written after all; the reason's code.
    Dropped(&'static str),
    /// Refused for good: reason code, and what is wrong.
    Dead(&'static str, String),
    /// To be tried again.
    Again(Again),
    /// These properties are refused, each with HubSpot's code; the others may still be written.
    WithoutProperties(Vec<(String, String)>),
    /// It belongs to this contact.
    Contact(String),
    /// No contact has this e-mail address.
    NoContact,
}

/// How to try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// Whether it counts as a failed try, and the pause grows.
    pub counts: bool,
    /// The largest batch it may be part of from now on.
    pub cap: Option<usize>,
    /// At least this pause.
    pub after: Duration,
}

/// What can't be written to until somebody acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspend {
    /// One lane, or all of the account.
    pub lane: Option<Lane>,
    /// What to do.
    pub why: String,
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq)]
pub struct Report<V> {
    /// Every entry of the batch, once.
    pub fates: Vec<(Entry<V>, Fate)>,
    /// Set when the account refuses more than these records.
    pub suspend: Option<Suspend>,
    /// Property values that HubSpot took and did not keep.
    pub ignored: u64,
    /// Events that HubSpot had already.
    pub known: u64,
    /// HubSpot takes all of such a batch or nothing of it, and nobody knows which: its answer never came, or says neither.
    pub unsure: bool,
    /// What a refusal says that may be about one record or about all; it decides when it meets one that is sent alone.
    pub doubt: Option<String>,
}

impl<V> Report<V> {
    /// An empty report.
    pub fn new() -> Self {
        Report { fates: Vec::new(), suspend: None, ignored: 0, known: 0, unsure: false, doubt: None }
    }

    /// Gives every entry the fate of the whole batch, for outcomes that don't depend on what was sent; else gives the batch back.
    pub fn whole(&mut self, lane: Lane, batch: Vec<Entry<V>>, outcome: &Outcome) -> Option<Vec<Entry<V>>> {
        let mut rest = Vec::new();
        let size = batch.len();
        if size > 1 && matches!(outcome, Outcome::Forbidden(scopes) if scopes.is_empty()) {
            // It names no scope: one record of the batch may be what is forbidden.
            self.fates.extend(batch.into_iter().map(|entry| (entry, smaller(size))));
            return None;
        }
        for entry in batch {
            match self.common(lane, outcome) {
                Some(fate) => self.fates.push((entry, fate)),
                None => rest.push(entry),
            }
        }
        (!rest.is_empty()).then_some(rest)
    }

    /// The fate of one entry, for outcomes that don't depend on what was sent.
    pub fn common(&mut self, lane: Lane, outcome: &Outcome) -> Option<Fate> {
        match outcome {
            // The budget waits as long as it must; this is for the odd record that is throttled in a batch that was not.
            Outcome::Throttled(_) => Some(Fate::Again(Again { after: Duration::from_secs(1), ..Again::default() })),
            Outcome::Transient(_, after) => Some(Fate::Again(Again { counts: true, cap: None, after: after.unwrap_or_default() })),
            // As for the budget.
            Outcome::Unsent(_, after) => Some(Fate::Again(Again { after: after.unwrap_or(Duration::from_secs(1)), ..Again::default() })),
            // A fresh token was refused, too. If it is good for nothing else, the next refusal shuts the connection.
            Outcome::Unauthorized => {
                let why = "HubSpot does not accept the access token for this: check the app's scopes and access in HubSpot".to_owned();
                self.suspend = Some(Suspend { lane: Some(lane), why });
                Some(Fate::Again(Again::default()))
            }
            Outcome::Disconnected => {
                let why = "the account is not connected: `clickline hubspot status` says why, and what to do".to_owned();
                self.suspend = Some(Suspend { lane: None, why });
                Some(Fate::Again(Again::default()))
            }
            Outcome::Retired => {
                self.suspend = Some(Suspend { lane: Some(lane), why: RETIRED.to_owned() });
                Some(Fate::Again(Again::default()))
            }
            Outcome::Forbidden(scopes) if scopes.is_empty() => {
                Some(self.doubtful("HubSpot forbids this: check the app's scopes".to_owned()))
            }
            Outcome::Forbidden(scopes) => {
                let why = format!("the app lacks one of these scopes: {}", scopes.join(", "));
                self.suspend = Some(Suspend { lane: Some(lane), why });
                Some(Fate::Again(Again::default()))
            }
            Outcome::Done(_) | Outcome::Exists | Outcome::NotFound(_) | Outcome::Refused(_) => None,
        }
    }
}

impl<V> Report<V> {
    /// The fate of a record that is refused for a reason that may be everybody's: it is tried again alone, and counts as failed unless
    /// the lane is suspended for it.
    pub fn doubtful(&mut self, why: String) -> Fate {
        self.doubt = Some(why);
        Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() })
    }

    /// The fate of a record about which HubSpot was asked once more, without an answer to go by.
    pub fn unclear(&mut self, lane: Lane, outcome: &Outcome) -> Fate {
        self.common(lane, outcome).unwrap_or_else(|| match outcome {
            Outcome::NotFound(refusal) | Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
            _ => Fate::Dead(reason::REFUSED, "HubSpot does not say what it knows of the record".to_owned()),
        })
    }
}

/// To be tried again in a smaller batch, to find out which record of this one is refused.
pub fn smaller(size: usize) -> Fate {
    Fate::Again(Again { cap: Some((size / 2).max(1)), ..Again::default() })
}

/// To be tried again alone.
pub fn alone() -> Fate {
    Fate::Again(Again { cap: Some(1), ..Again::default() })
}

/// What HubSpot says of a contact that it did not find in a batch.
#[derive(Clone, Debug)]
pub enum LookUp {
    /// It is there, under the id we know.
    There,
    /// It was merged into this contact.
    Merged(String),
    /// It is not there.
    Gone,
    /// No answer to go by.
    Unclear(Outcome),
}

impl LookUp {
    /// A success that names no contact says neither that it is there nor that it is not.
    fn said_nothing() -> Self {
        LookUp::Unclear(Outcome::Transient("a success that names no contact".to_owned(), None))
    }
}

/// The account and the service, as a batch needs them.
#[derive(Clone, Copy, Debug)]
pub struct Desk<'a> {
    /// HubSpot.
    pub service: &'a Service,
    /// Its paths.
    pub paths: &'a Paths,
    /// The account.
    pub portal: &'a str,
}

impl Desk<'_> {
    /// Sends a request.
    pub async fn call(&self, request: &Request, share: Share) -> Outcome {
        self.service.call(self.portal, request, share).await
    }

    /// Sends a request that writes what came of `clicks`; `name` is its span's where they are traced.
    pub async fn write<'c>(&self, name: &'static str, clicks: impl Iterator<Item = &'c str>, request: &Request, share: Share) -> Outcome {
        let call = traces::Call::begin(name, self.portal, clicks);
        let outcome = self.call(request, share).await;
        if let Some(call) = call {
            call.end(&outcome);
        }
        outcome
    }

    /// Asks for one contact by id.
    pub async fn look_up(&self, id: &str, share: Share) -> LookUp {
        match self.call(&request::get_contact(self.paths, id), share).await {
            Outcome::Done(body) => match id_in(&body, "id") {
                Some(found) if found != id => LookUp::Merged(found),
                Some(_) => LookUp::There,
                None => LookUp::said_nothing(),
            },
            Outcome::NotFound(_) => LookUp::Gone,
            outcome => LookUp::Unclear(outcome),
        }
    }

    /// Asks which contact has an e-mail address.
    pub async fn find(&self, email: &str, share: Share) -> LookUp {
        match self.call(&request::get_contact_by_email(self.paths, email), share).await {
            Outcome::Done(body) => id_in(&body, "id").map_or_else(LookUp::said_nothing, LookUp::Merged),
            Outcome::NotFound(_) => LookUp::Gone,
            outcome => LookUp::Unclear(outcome),
        }
    }
}

/// The records that the answer to a batch lists as done.
pub fn results(body: &Value) -> &[Value] {
    body.get("results").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The records of a list.
///
/// # Errors
/// A failure to be repeated: a success that holds no list does not say that there is nothing.
pub fn listed(body: &Value) -> Result<&[Value], Outcome> {
    let list = body.get("results").and_then(Value::as_array);
    list.map(Vec::as_slice).ok_or_else(|| Outcome::Transient("a success that holds no list".to_owned(), None))
}

/// A field of a record of HubSpot's that holds an id.
pub fn id_in(record: &Value, field: &str) -> Option<String> {
    record.get(field).and_then(super::outcome::text)
}
