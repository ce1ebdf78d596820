//! How the job stands, as one value: `/status` gives it as JSON, the page shows it, `/metrics` takes its gauges from it.
//!
//! ```text
//! dataflow, outbox ──► board.rs ─┐
//! sources ──► Meter ─────────────┼─► collect.rs ──► Status ──► routes.rs: /status, /, /readyz
//! sink, connections ─────────────┘                     └─────► metrics/job.rs: /metrics
//! ```
//!
//! # Not
//! In a job of several processes it is process 0's share: partitions, holds, counts and hot subjects of the other processes are theirs.
//! It holds no token. Ids of contacts and deals are in it (and an e-mail address where an advance had no contact), so whoever may not see these may not see it.

mod board;
mod collect;
mod letters;
mod routes;

pub use board::{Board, OutboxBoard, Part, Said, Total};
pub use collect::{Collect, rules_of};
pub use letters::Letters;
pub use routes::{health, routes, until_stopped};

use crate::model::outputs::DealStage;
use crate::model::time::Ms;
use crate::sinks::hubspot::AccountStanding;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the job stands. Times are ms since the Unix epoch unless they say otherwise; docs/status.md shows one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this shape: grows when a field goes or changes its meaning, not when one is added.
    pub v: u32,
    /// When this was collected.
    pub at: Ms,
    /// Whether outputs are new: all that an earlier run had committed has been gone through, and nobody has asked it to stop.
    pub ready: bool,
    /// Whether it has been asked to stop.
    pub draining: bool,
    /// How far the job is.
    pub frontier: Frontier,
    /// Records read since the start, by topic kind: `clicks`, `forms`, `contacts`, `deals`.
    pub read: BTreeMap<String, u64>,
    /// When the newest of them happened, by its own time: `clicks`, `forms`; none before the first.
    #[serde(default)]
    pub newest: BTreeMap<String, Ms>,
    /// Records since the start that were appended before what their partition had already reached: they count as of when they came.
    #[serde(default)]
    pub late: u64,
    /// The partitions that this process reads.
    pub partitions: Vec<Partition>,
    /// What the dataflow keeps.
    pub kept: Kept,
    /// Rules that are not off.
    pub rules: Vec<Rule>,
    /// The last deals that have earned a stage since the start, newest first, with why.
    pub advances: Vec<DealStage>,
    /// What writes.
    pub sinks: Sinks,
    /// HubSpot accounts.
    pub connections: Vec<Connection>,
    /// What could not be read or was refused.
    pub dead_letters: DeadLetterCounts,
    /// How old the newest snapshot file is, ms; none where there are no snapshots.
    pub snapshot_age_ms: Option<Ms>,
}

/// How far the job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// All ticks that end before this are committed.
    pub at: Ms,
    /// How far that is behind the wall clock, ms.
    pub delay_ms: Ms,
}

/// A partition of an input topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The topic's name.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The offset after the last record read.
    pub offset: i64,
    /// The offset after the last record that the brokers have.
    pub end: i64,
    /// Offsets between the two.
    pub lag: i64,
    /// The log time that it has reached.
    pub log_time: Ms,
}

/// What the dataflow keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Clicks that wait for a form; one with both click ids waits twice.
    pub held_clicks: u64,
    /// Live counts: pairs of an identity and a tag or link.
    pub live_keys: u64,
    /// What windows, counts and identities take, bytes, without names and what tables keep free.
    pub bytes: u64,
    /// Clicks since the start that came too late for every window that counts them.
    #[serde(default)]
    pub outside_windows: u64,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its workspace.
    pub workspace: String,
    /// `live` or `shadow`.
    pub mode: String,
    /// Contacts, or deals where it counts a deal's own links, for which it is hot.
    pub hot: u64,
    /// Stage deltas since the start.
    pub fired: u64,
}

/// What writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sinks {
    /// Deltas to Kafka.
    pub outbox: Outbox,
    /// Deltas to HubSpot; none where this process has no sink.
    pub hubspot: Option<HubSpot>,
    /// Topics to ClickHouse; none where this process has no such sink.
    #[serde(default)]
    pub clickhouse: Vec<ClickHouse>,
}

/// The outbox since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Transactions committed.
    pub transactions: u64,
    /// Transactions that failed and were written again.
    pub failed: u64,
    /// Records written, by the topic's default name.
    pub records: BTreeMap<String, u64>,
    /// When the last transaction with outputs was committed; 0: never.
    pub last_at: Ms,
}

/// The HubSpot sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubSpot {
    /// Deltas read and not yet settled.
    pub lag: u64,
    /// Deltas that wait for the contact of their address.
    pub parked: u64,
    /// Events, properties and stages delivered since the start.
    pub delivered: u64,
    /// Requests since the start.
    pub requests: u64,
    /// Each account.
    pub portals: Vec<AccountStanding>,
}

/// One topic's way to ClickHouse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClickHouse {
    /// The topic's default name.
    pub topic: String,
    /// Rows acknowledged since the start.
    pub rows: u64,
    /// Records that are in the topic and not in the table, as of the last look.
    pub lag: u64,
    /// Records refused for good since the start.
    pub refused: u64,
    /// Records deleted before they were read, at most, since the start.
    pub lost: u64,
    /// When a batch was last acknowledged.
    pub last_at: Option<Ms>,
    /// What keeps it at present; none while requests are answered.
    pub trouble: Option<ClickHouseTrouble>,
}

/// What keeps a topic from its table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClickHouseTrouble {
    /// `transient`: it is tried again; `rows`: a row is looked for; `setup`: tables, rights or settings wait for somebody.
    pub class: String,
    /// ClickHouse's code; none where it does not answer.
    pub code: Option<u32>,
    /// Since when every request has failed.
    pub since: Ms,
}

/// A HubSpot account's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// HubSpot's account id.
    pub portal: String,
    /// Workspaces that are connected to it.
    pub workspaces: Vec<String>,
    /// `connected`, `reinstall-required`, `bad-client`, `not-installed`, `unusable`, or `static` for a token that does not change.
    pub state: String,
    /// What is wrong, in words.
    pub problem: Option<String>,
    /// When it got its last access token; none where that is not known.
    pub refreshed_at: Option<Ms>,
    /// Refreshes by this process, by what came of them.
    pub refreshes: BTreeMap<String, u64>,
    /// What does not work for lack of scopes.
    pub gated: Vec<String>,
}

/// What could not be read or was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterCounts {
    /// The HubSpot sink's that were neither replayed nor dropped.
    pub open: u64,
    /// When the oldest of them was refused.
    pub oldest_at: Option<Ms>,
    /// Input records that could not be read since the start, by reason code.
    pub unreadable: BTreeMap<String, u64>,
}
