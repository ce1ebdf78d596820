//! The configuration file as it is typed. Every field's comment is its manual.

use super::rules::RawRule;
use crate::dataflow::plan::{Counts, Times};
use crate::kafka::Kafka;
use crate::model::time::{DAY, HOUR, Ms, millis};
use crate::serve::Http;
use crate::sinks::clickhouse;
use crate::sinks::hubspot::Settings;
use crate::sources::crm::CrmSettings;
use crate::sources::forms::FormsSettings;
use crate::sources::kafka::Limits;
use serde::de::{self, Deserializer, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, de::Error as _};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Brokers, client options, topic names.
    pub kafka: Kafka,
    /// The clock's step; it divides a minute. Default 100ms: what HubSpot makes of it takes longer.
    #[serde(default = "tick")]
    pub tick: Length,
    /// Other lengths of time.
    #[serde(default)]
    pub times: RawTimes,
    /// Writes the deltas to HubSpot; without it they stay in their topics.
    #[serde(default)]
    pub hubspot: Option<Settings>,
    /// Writes clicks, and deltas where asked to, to ClickHouse (process 0 does); without it nothing does. See docs/clickhouse.md.
    #[serde(default)]
    pub clickhouse: Option<clickhouse::Settings>,
    /// The job's HTTP server (process 0's); without it there is none.
    #[serde(default)]
    pub http: Option<Http>,
    /// Mirrors the accounts' contacts and deals into `crm.contacts` and `crm.deals`; without it somebody else fills these topics. For
    /// all defaults write `crm: {}`.
    #[serde(default)]
    pub crm: Option<CrmSettings>,
    /// Takes form posts, and reads the submissions of HubSpot's forms, into `forms`; without it somebody else fills that topic.
    #[serde(default)]
    pub forms: Option<FormsSettings>,
    /// Workspaces by name.
    #[serde(default)]
    pub workspaces: BTreeMap<String, RawWorkspace>,
    /// The state database: tokens and what was delivered. Default `clickline.sqlite`, beside the configuration.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// Folder of the snapshots, which make a restart fast and may be deleted at will. Default `clickline-snapshots`, beside
    /// the configuration; `none`: a restart reads all from Kafka.
    #[serde(default)]
    pub snapshots: SnapshotsAt,
    /// Worker threads, of each process. Default 1: more pay only on machines with cores to spare.
    #[serde(default)]
    pub workers: Option<usize>,
    /// A job of several processes; see docs/operations.md.
    #[serde(default)]
    pub cluster: RawCluster,
    /// Bytes between one topic's source on one worker and the end of the dataflow, `64MiB` unless given.
    #[serde(default)]
    pub in_flight: Bytes,
}

/// The processes of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCluster {
    /// Where each process listens for the others, `host:port`, in the order of their indexes. `--hostfile` wins.
    pub hosts: Vec<String>,
}

/// Lengths of time that the contract names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTimes {
    /// A click or form whose id was seen within this has no effect. Default 72h.
    pub dedupe_horizon: Length,
    /// A record whose own time lies further ahead of the log's is refused. Default 5m.
    pub max_future: Length,
    /// A click that comes later than this after it happened finds no earlier form. Default 33d.
    pub max_lateness: Length,
    /// How far an idle topic stays behind the brokers' clock. Default 50ms; raise it when the brokers' clocks differ from each other or
    /// their replicas are slow.
    pub idle_slack: Length,
}

impl Default for RawTimes {
    fn default() -> Self {
        RawTimes {
            dedupe_horizon: Length(72 * HOUR),
            max_future: Length(HOUR / 12),
            max_lateness: Length(33 * DAY),
            idle_slack: Length(Limits::default().idle_slack),
        }
    }
}

impl RawTimes {
    /// With the tick, as the dataflow needs them.
    pub fn checked(&self, tick: Length) -> Times {
        let RawTimes { dedupe_horizon, max_future, max_lateness, idle_slack: _ } = self;
        Times { tick: tick.0, dedupe_horizon: dedupe_horizon.0, max_future: max_future.0, max_lateness: max_lateness.0 }
    }
}

/// One workspace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWorkspace {
    /// HubSpot accounts it is connected to, by id.
    #[serde(default, deserialize_with = "ids")]
    pub portals: Vec<String>,
    /// Threshold rules: a list, or the path of a file beside the configuration.
    #[serde(default)]
    pub rules: RulesAt,
    /// `ruled` (default): counts that a rule names; `all`: every tag and link.
    #[serde(default)]
    pub counts: Counts,
    /// Contact properties for the last UTM values: `utm_source`, `utm_campaign`, `utm_medium`.
    #[serde(default)]
    pub field_mapping: BTreeMap<String, String>,
}

/// Where rules stand.
#[derive(Clone, Debug)]
pub enum RulesAt {
    /// In a file.
    File(PathBuf),
    /// In the configuration itself.
    Here(Vec<RawRule>),
}

impl Default for RulesAt {
    fn default() -> Self {
        RulesAt::Here(Vec::new())
    }
}

impl<'de> Deserialize<'de> for RulesAt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FileOrList;
        impl<'de> Visitor<'de> for FileOrList {
            type Value = RulesAt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rules or the path of a file")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<RulesAt, E> {
                Ok(RulesAt::File(PathBuf::from(path)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<RulesAt, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(RulesAt::Here)
            }
        }
        from.deserialize_any(FileOrList)
    }
}

/// Where snapshots are kept, if they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotsAt(pub Option<PathBuf>);

impl Default for SnapshotsAt {
    fn default() -> Self {
        SnapshotsAt(Some(PathBuf::from("clickline-snapshots")))
    }
}

impl<'de> Deserialize<'de> for SnapshotsAt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.trim() {
            "" => Err(D::Error::custom("is empty; give a folder, or `none`")),
            "none" => Ok(SnapshotsAt(None)),
            folder => Ok(SnapshotsAt(Some(PathBuf::from(folder)))),
        }
    }
}

/// A length of time: `100ms`, `90s`, `5m`, `72h`, `33d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Ms);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        length(&text).map(Length).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not a length of time; write `100ms`, `90s`, `5m`, `72h` or `33d`, at most 366d"))
        })
    }
}

/// Milliseconds of `100ms`, `90s`, `5m`, `72h`, `33d`; `None` for anything else or more than 366 days.
pub fn length(text: &str) -> Option<Ms> {
    let length = humantime::parse_duration(text.trim()).ok()?;
    let whole = millis(length);
    (u128::from(whole) * 1_000_000 == length.as_nanos() && whole <= 366 * DAY).then_some(whole)
}

/// An amount of memory: `64MiB`, `512KiB`, `1GiB`, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl Default for Bytes {
    fn default() -> Self {
        Bytes(Limits::default().in_flight_bytes)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
        let read = units.iter().find_map(|(unit, bits)| {
            let number: usize = text.trim().strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(1 << bits)
        });
        read.map(Bytes).ok_or_else(|| D::Error::custom(format!("`{text}` is not an amount of memory; write `64MiB`")))
    }
}

/// Ids may be typed as numbers; they are names.
fn ids<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(u64),
        Text(String),
    }
    let ids = Vec::<Id>::deserialize(from)?;
    Ok(ids
        .into_iter()
        .map(|id| match id {
            Id::Number(id) => id.to_string(),
            Id::Text(id) => id,
        })
        .collect())
}

fn tick() -> Length {
    Length(100)
}

fn state() -> PathBuf {
    PathBuf::from("clickline.sqlite")
}
