//! The scenario format: inputs at times, what goes wrong, what must have come of it.
//!
//! A scenario is a YAML file under `tests/scenarios/`; `docs/scenarios.md` describes every field. The sink runs between the embedded broker
//! and the sandbox, whose fault script the file holds; everything is judged by the sandbox's state and request log, and by the ledger.
#![allow(dead_code, reason = "fields are read by serde")]

mod expect;
mod play;
mod world;

pub use play::play;

use clickline_sandbox::{Config, DuplicateEvents, Rotation};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// The faults and peers' defects that it covers.
    pub covers: Vec<String>,
    /// Which sink is tried.
    pub sink: SinkKind,
    /// How the sandbox behaves.
    #[serde(default)]
    pub sandbox: Behaviour,
    /// Settings of the sink that differ, as in its block of the configuration.
    #[serde(default)]
    pub settings: Value,
    /// What is in HubSpot at the start.
    #[serde(default)]
    pub given: Given,
    /// The sandbox's fault script.
    #[serde(default)]
    pub faults: Vec<Value>,
    /// What happens.
    pub steps: Vec<Step>,
    /// How long it may take.
    #[serde(default = "a_minute", deserialize_with = "duration")]
    pub within: Duration,
    /// What must have come of it.
    pub expect: Expect,
}

/// Sinks that have scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// The HubSpot sink, against the sandbox.
    Hubspot,
}

/// How the sandbox behaves; HubSpot's own behaviour where a field is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Requests in ten seconds.
    pub burst_limit: Option<usize>,
    /// Whether a 429 says how long to wait.
    pub retry_after: bool,
    /// `conflict`, `bad_request` or `accept`: what a known event id is answered with.
    pub duplicate_events: Option<String>,
    /// Whether each refresh makes a new refresh token and kills the old one.
    pub rotation: bool,
    /// How long an access token lives.
    #[serde(deserialize_with = "some_duration")]
    pub access_token_for: Option<Duration>,
    /// Requests a day.
    pub daily_limit: Option<u64>,
}

/// What is in HubSpot at the start, beside contact 801 (`ada@example.com`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Contacts: id → properties.
    pub contacts: BTreeMap<String, BTreeMap<String, String>>,
    /// Deals: id → what is particular about it.
    pub deals: BTreeMap<String, Deal>,
    /// So many contacts more, with the ids 1000, 1001, …
    pub many: usize,
    /// Pipelines of deals, beside `default`: id → stages' ids, in order.
    pub pipelines: BTreeMap<String, Vec<String>>,
}

/// A deal; one that qualifies for the stage deltas of these scenarios, but for what is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deal {
    /// Its stage.
    pub stage: String,
    /// Its pipeline.
    pub pipeline: Option<String>,
    /// Its amount.
    pub amount: Option<String>,
    /// Its contacts …
    pub contacts: Vec<String>,
    /// … and so many of the contacts 1000, 1001, …
    pub many: usize,
}

impl Default for Deal {
    fn default() -> Self {
        let (amount, contacts) = (Some("12000".into()), vec!["801".into()]);
        Deal { stage: "appointmentscheduled".into(), pipeline: None, amount, contacts, many: 0 }
    }
}

/// Something that happens at a time, in the order of its fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Not before so long after the start …
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    /// … nor before the sink's counters have reached these values.
    pub once: BTreeMap<String, u64>,
    /// What a person does in HubSpot, or what HubSpot does by itself.
    pub hubspot: Vec<Act>,
    /// Clicks to put on the topic of events.
    pub events: Option<Clicks>,
    /// Clicks whose campaign values go on the topic of properties.
    pub properties: Option<Clicks>,
    /// Deals that have earned a stage.
    pub stages: Vec<Earned>,
    /// Records that are no JSON, on the topic of events.
    pub broken: usize,
    /// What is done with the sink; it is started after the first step unless that says something else.
    pub sink: Option<SinkAct>,
    /// Dead letters with these reasons are sent once more.
    pub replay: Vec<String>,
}

/// A deal that has earned a stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Earned {
    /// `qualifiedtobuy` of the pipeline `default`, by the clicks of contact 801.
    Usual(String),
    /// The same, but for what is given.
    Other(EarnedOther),
}

/// See [`Earned::Other`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarnedOther {
    /// The deal.
    pub deal: String,
    /// The contact whose clicks did it.
    #[serde(default)]
    pub contact: Option<String>,
    /// Pipeline, stage before, stage after.
    #[serde(default)]
    pub along: Option<[String; 3]>,
}

/// Clicks: numbers `from` to before `from + count`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clicks {
    /// How many.
    pub count: usize,
    /// The first one's number.
    #[serde(default)]
    pub from: usize,
    /// The contacts whose they are, in turn.
    #[serde(default = "ada")]
    pub contacts: Vec<String>,
    /// The contacts 1000, 1001, … instead, so many in turn.
    #[serde(default)]
    pub many: usize,
    /// E-mail addresses instead.
    #[serde(default)]
    pub emails: Vec<String>,
    /// Of properties: their name; the value is `s` and the click's number, its time the number.
    #[serde(default = "source")]
    pub property: String,
    /// In another order than that of the clicks' times.
    #[serde(default)]
    pub shuffled: bool,
    /// A token beside the usual ones.
    #[serde(default)]
    pub token: Option<(String, String)>,
}

/// What is done in HubSpot.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A person changes a deal: id, properties.
    EditDeal(String, BTreeMap<String, String>),
    /// A person makes a contact: id, properties.
    CreateContact(String, BTreeMap<String, String>),
    /// A person makes a deal.
    CreateDeal(String, Deal),
    /// A person merges the second contact into the first.
    Merge(String, String),
    /// A person deletes a contact.
    ArchiveContact(String),
    /// A person deletes a contact for good.
    EraseContact(String),
    /// A person deletes a deal.
    ArchiveDeal(String),
    /// Somebody has clickline forget a person: ids and addresses.
    Forget(Vec<String>),
    /// From now on no request names any of these.
    Unnamed(Vec<String>),
    /// A person removes the app.
    Revoke(bool),
    /// Every access token ends.
    ExpireTokens(bool),
    /// Another fault script.
    Faults(Vec<Value>),
    /// No more faults.
    ClearFaults(bool),
}

/// What is done with the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkAct {
    /// Nothing: it is started by a later step.
    Wait,
    /// It starts.
    Start,
    /// It stops as asked.
    Stop,
    /// It ends as by a crash.
    Kill,
    /// It crashes and starts again.
    Crash,
    /// Somebody installs the app again, and the sink starts anew with the new token.
    Reinstall,
}

/// What must have come of it. What is left out is not looked at, but for what always holds: every record that was put has an outcome in
/// the ledger (but for those that `parked`, `left` and `erased` count), no event and no stage change is there twice, and every fault has struck.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The sink's counters in the end; by these it is known when the end has come. Default: everything is settled.
    pub done: BTreeMap<String, u64>,
    /// Events in HubSpot.
    pub events: Option<usize>,
    /// Of them, by contact.
    pub events_of: BTreeMap<String, usize>,
    /// Properties of contacts.
    pub contacts: BTreeMap<String, BTreeMap<String, String>>,
    /// How often a property of a contact was written at most.
    pub writes_at_most: BTreeMap<String, BTreeMap<String, usize>>,
    /// The stages of deals, oldest first.
    pub deals: BTreeMap<String, Vec<String>>,
    /// How long after its delta was put a deal must have been moved, at most.
    #[serde(deserialize_with = "durations")]
    pub moved_within: BTreeMap<String, Duration>,
    /// Ledger outcomes and how many records have each.
    pub outcomes: BTreeMap<String, usize>,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, usize>,
    /// A word that must be in the detail of a dead letter with this reason.
    pub details: BTreeMap<String, String>,
    /// Counters of the sink, since it was started last.
    pub stats: BTreeMap<String, Range>,
    /// Requests in the sandbox's log.
    pub requests: Vec<Requests>,
    /// Records that wait for their contact.
    pub parked: usize,
    /// Records that are not settled.
    pub left: usize,
    /// Records of persons who were forgotten: nothing is kept of them, no outcome either.
    pub erased: usize,
    /// No more than so many requests that count in any ten seconds.
    pub in_ten_seconds: Option<usize>,
    /// It must have taken at least so long.
    #[serde(deserialize_with = "some_duration")]
    pub takes: Option<Duration>,
}

/// A number, or bounds for one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum Range {
    /// Exactly.
    Is(u64),
    /// From, to.
    Within(u64, u64),
}

/// Requests that fit, and how many there are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// The end of the path.
    pub path: String,
    /// The answer's status.
    #[serde(default)]
    pub status: Option<u16>,
    /// How many.
    pub count: Range,
}

impl Range {
    fn holds(self, n: u64) -> bool {
        match self {
            Range::Is(wanted) => n == wanted,
            Range::Within(from, to) => (from..=to).contains(&n),
        }
    }
}

impl Behaviour {
    fn config(&self) -> Config {
        let mut config = Config::default();
        let Behaviour { burst_limit, retry_after, duplicate_events, rotation, access_token_for, daily_limit } = self;
        config.burst_limit = burst_limit.unwrap_or(config.burst_limit);
        config.retry_after = *retry_after;
        config.duplicate_events = match duplicate_events.as_deref() {
            None | Some("conflict") => DuplicateEvents::Conflict,
            Some("bad_request") => DuplicateEvents::BadRequest,
            Some("accept") => DuplicateEvents::Accept,
            Some(other) => panic!("duplicate_events: {other}"),
        };
        config.rotation = if *rotation { Rotation::Always } else { Rotation::Never };
        config.access_token_for = access_token_for.unwrap_or(config.access_token_for);
        config.oauth_daily_limit = *daily_limit;
        config
    }
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

fn ada() -> Vec<String> {
    vec!["801".into()]
}

fn source() -> String {
    "elido_last_utm_source".into()
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

fn durations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Duration>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(from)?;
    texts.into_iter().map(|(key, text)| Ok((key, humantime::parse_duration(&text).map_err(D::Error::custom)?))).collect()
}
