//! Whether topics that exist are kept as the job's clock, windows and restarts need them; nothing is changed.

use super::{Kept, Needed};
use crate::config::rules::window_text;
use crate::kafka::Kafka;
use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::Metadata;
use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// A topic's settings, by name.
type Settings = BTreeMap<String, String>;

/// How a topic stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub topic: String,
    /// How it stands.
    pub standing: Standing,
}

/// How a topic stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it must be, with so many partitions; or not, and how.
    There(usize, Vec<Difference>),
    /// It is not there.
    Absent,
    /// Its settings can't be read; why.
    Unread(String),
}

/// Something about a topic that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whether the job does not run rightly with it.
    pub wrong: bool,
    /// What is so, and what follows.
    pub says: String,
    /// The setting that mends it, as `name=value`; none where the topic must be made anew.
    pub set: Option<String>,
}

impl Difference {
    /// What is so, and the command that mends it.
    pub fn advice(&self, kafka: &Kafka, topic: &str) -> String {
        let Difference { says, set, .. } = self;
        match set {
            Some(set) => format!(
                "{says}; set {set}: kafka-configs.sh --bootstrap-server {} --entity-type topics --entity-name {topic} --alter --add-config {set}",
                kafka.brokers
            ),
            None => format!("{says}; make it anew"),
        }
    }
}

/// Asks the brokers for their topics. Where nobody listens at any of their addresses that is said at once.
///
/// # Errors
/// When they do not answer within `patience`.
pub fn metadata(kafka: &Kafka, patience: Duration) -> anyhow::Result<Metadata> {
    let listens = |address: &str| {
        let mut found = address.trim().rsplit("://").next().unwrap_or_default().to_socket_addrs().into_iter().flatten();
        found.any(|address| TcpStream::connect_timeout(&address, patience).is_ok())
    };
    anyhow::ensure!(kafka.brokers.split(',').any(listens), "no connection to {}", kafka.brokers);
    let client: AdminClient<DefaultClientContext> = kafka.client(&[("log_level", "0")]).create()?;
    client.inner().fetch_metadata(None, patience).with_context(|| format!("{} do not answer", kafka.brokers))
}

/// Looks at these topics among those of `metadata`.
///
/// # Errors
/// When no topic's settings can be read.
pub fn look(kafka: &Kafka, metadata: &Metadata, needed: &[Needed], patience: Duration) -> anyhow::Result<Vec<Found>> {
    let there = |topic: &Needed| metadata.topics().iter().find(|found| found.name() == topic.name && found.error().is_none());
    let mut found = Vec::new();
    let mut names = Vec::new();
    for topic in needed {
        match there(topic) {
            Some(known) => names.push((topic, known.partitions().len())),
            None => found.push(Found { topic: topic.name.clone(), standing: Standing::Absent }),
        }
    }
    if names.is_empty() {
        return Ok(found);
    }
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|(topic, _)| ResourceSpecifier::Topic(&topic.name)).collect();
    let client: AdminClient<DefaultClientContext> = kafka.client(&[("log_level", "0")]).create()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let described = runtime.block_on(client.describe_configs(&resources, &AdminOptions::new().request_timeout(Some(patience))))?;
    for ((topic, partitions), described) in names.into_iter().zip(described) {
        let standing = match described {
            Ok(resource) => {
                let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
                Standing::There(partitions, judge(topic, partitions, &settings, kafka.topics.is_clock(&topic.name)))
            }
            Err(error) => Standing::Unread(error.to_string()),
        };
        found.push(Found { topic: topic.name.clone(), standing });
    }
    Ok(found)
}

/// What is not as it must be; of a `clock` the job takes its time.
fn judge(needed: &Needed, partitions: usize, settings: &Settings, clock: bool) -> Vec<Difference> {
    let of = |name: &str| settings.get(name).map_or("", String::as_str);
    let number = |name: &str| of(name).parse::<i64>().unwrap_or(0);
    let least = |length: u64| i64::try_from(length).unwrap_or(i64::MAX);
    let (compacts, deletes) = (of("cleanup.policy").contains("compact"), of("cleanup.policy").contains("delete"));
    let mut found = Vec::new();
    let mut differs = |wrong: bool, says: String, set: Option<String>| found.push(Difference { wrong, says, set });
    if needed.partitions.is_some_and(|right| usize::try_from(right) != Ok(partitions)) {
        differs(true, format!("has {partitions} partitions and must have one: its last record is the last word"), None);
    }
    if clock && of("message.timestamp.type") != "LogAppendTime" {
        let why = "the job's clock is the brokers', and writers' clocks run backwards";
        let says = format!("message.timestamp.type is {}: {why}", of("message.timestamp.type"));
        differs(true, says, Some("message.timestamp.type=LogAppendTime".to_owned()));
    }
    match needed.kept {
        Kept::For(length) => {
            let retention = number("retention.ms");
            if compacts {
                differs(true, "is compacted, and every record counts".to_owned(), Some("cleanup.policy=delete".to_owned()));
            }
            if deletes && retention >= 0 && retention < least(length) {
                let (has, needs) = (window_text(retention.unsigned_abs()), window_text(length));
                let says = format!("keeps {has} and must keep {needs}, or windows and restarts miss records");
                differs(true, says, Some(format!("retention.ms={length}")));
            }
            if number("retention.bytes") >= 0 && settings.contains_key("retention.bytes") {
                let says = "is also bounded in bytes, which may be less than the windows need";
                differs(false, says.to_owned(), Some("retention.bytes=-1".to_owned()));
            }
        }
        Kept::Newest | Kept::States(_) => {
            if !compacts || deletes {
                let says = format!("cleanup.policy is {}: old states are needed, too", of("cleanup.policy"));
                differs(true, says, Some("cleanup.policy=compact".to_owned()));
            }
            if let Kept::States(length) = needed.kept
                && number("min.compaction.lag.ms") < least(length)
            {
                let says = "may be compacted too early: a restart sees a contact or deal as it is now where a click counted earlier";
                differs(false, says.to_owned(), Some(format!("min.compaction.lag.ms={length}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::DAY;

    fn judged(kept: Kept, partitions: usize, settings: &[(&str, &str)]) -> Vec<Difference> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        judge(&Needed { name: "t".to_owned(), kept, partitions: Some(1) }, partitions, &settings, true)
    }

    #[test]
    fn what_is_wrong_with_a_topic_is_told_with_the_command_that_mends_it() {
        let append = ("message.timestamp.type", "LogAppendTime");
        let right = [append, ("cleanup.policy", "delete"), ("retention.ms", "3110400000"), ("retention.bytes", "-1")];
        assert_eq!(judged(Kept::For(36 * DAY), 1, &right), []);
        assert_eq!(judged(Kept::For(36 * DAY), 1, &[append, ("cleanup.policy", "delete"), ("retention.ms", "-1")]), []);
        let one = |kept, partitions, settings: &[(&str, &str)], wrong, part: &str| {
            let found = judged(kept, partitions, settings);
            let [difference] = found.as_slice() else { panic!("{part}: {found:?}") };
            let advice = difference.advice(&Kafka::at("b:1"), "t");
            assert!(difference.wrong == wrong && advice.contains(part), "{part}: {advice}");
            let command = "kafka-configs.sh --bootstrap-server b:1 --entity-type topics --entity-name t --alter --add-config ";
            assert_eq!(difference.set.is_some(), advice.contains(command), "{advice}");
        };
        one(Kept::For(36 * DAY), 2, &right, true, "must have one");
        one(Kept::For(37 * DAY), 1, &right, true, "keeps 36d and must keep 37d");
        one(Kept::For(37 * DAY), 1, &right, true, "--add-config retention.ms=3196800000");
        let created = ("message.timestamp.type", "CreateTime");
        one(Kept::For(DAY), 1, &[created, right[1], right[2]], true, "message.timestamp.type=LogAppendTime");
        one(Kept::For(DAY), 1, &[append, ("cleanup.policy", "compact")], true, "cleanup.policy=delete");
        one(Kept::For(DAY), 1, &[append, right[1], right[2], ("retention.bytes", "1000")], false, "retention.bytes=-1");
        let compact = ("cleanup.policy", "compact");
        assert_eq!(judged(Kept::Newest, 1, &[append, compact]), []);
        one(Kept::Newest, 1, &[append, ("cleanup.policy", "compact,delete")], true, "cleanup.policy=compact");
        one(Kept::States(DAY), 1, &[append, compact, ("min.compaction.lag.ms", "0")], false, "min.compaction.lag.ms=86400000");
    }

    #[test]
    fn brokers_where_nobody_listens_are_not_waited_for() {
        let began = std::time::Instant::now();
        let error = metadata(&Kafka::at("127.0.0.1:1,127.0.0.1:9"), Duration::from_secs(600)).expect_err("nobody listens");
        assert!(error.to_string().contains("no connection to 127.0.0.1:1"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(300), "it did not wait for an answer");
    }
}
