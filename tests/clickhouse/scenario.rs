//! Scenarios of the ClickHouse sink: files of the format of `tests/scenarios`, played one after the other between a real Apache Kafka and a real
//! ClickHouse behind a proxy that does what the file's fault script says.
//!
//! `docs/scenarios.md` describes the fields. Whatever a scenario expects, this is looked at in each: every click that was put is one row,
//! the totals are what a recount says, and every fault of the script has struck.

use crate::support::http_faults::Fault;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// The faults that it covers.
    pub covers: Vec<String>,
    /// Which sink is tried.
    #[expect(dead_code, reason = "read to be the right one")]
    sink: SinkKind,
    /// What happens to requests; one at a time.
    #[serde(default)]
    pub faults: Vec<Scripted>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What must have come of it.
    pub expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SinkKind {
    Clickhouse,
}

/// A fault and the requests that it strikes, until a step clears it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    #[serde(rename = "match")]
    pub requests: Requests,
    pub fault: Fault,
}

/// Requests whose head holds a word.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    pub head: String,
}

/// Something that happens, in the order of its fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Not before the sink's counters of failures have risen by so much since the scenario began: `transient`, `setup`, `rows`.
    pub once: BTreeMap<String, u64>,
    /// The sink must have said it by now: words that one line of its log holds.
    pub says: Vec<String>,
    /// No more faults.
    pub clear_faults: bool,
    /// What somebody does at the server.
    pub sql: Vec<String>,
    /// Clicks to put on the topic.
    pub clicks: usize,
}

/// What must have come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Rows that the scenario's clicks have become.
    pub rows: usize,
}

/// All files, by name.
///
/// # Panics
/// When one of them is no scenario of this sink.
pub fn all() -> Vec<(String, Scenario)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/clickhouse");
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("is there").map(|file| file.expect("is there").path()).collect();
    files.sort();
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("is text");
        let scenario: Scenario = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!scenario.about.is_empty() && !scenario.covers.is_empty(), "{}: what for?", path.display());
        assert!(scenario.faults.len() <= 1, "{}: one fault at a time", path.display());
        let cleared = scenario.steps.iter().any(|step| step.clear_faults);
        assert_eq!(cleared, !scenario.faults.is_empty(), "{}: a fault is cleared by a step, and nothing else is", path.display());
        (path.file_stem().expect("has a name").to_string_lossy().into_owned(), scenario)
    };
    files.iter().map(|path| read(path)).collect()
}
