//! Whether topics are kept as the job's clock, windows and restarts need them.

use super::{Finding, Level, PATIENCE};
use crate::config::rules::window_text;
use crate::kafka::Kafka;
use crate::sinks::outbox::topics::{Kept, Needed};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::Metadata;
use std::collections::BTreeMap;

/// A topic's settings, by name.
type Settings = BTreeMap<String, String>;

/// Looks at every topic; `input` says which ones the job reads.
pub fn look(kafka: &Kafka, metadata: &Metadata, needed: &[Needed], input: impl Fn(&str) -> bool, findings: &mut Vec<Finding>) {
    let mut there = Vec::new();
    for topic in needed {
        let found = metadata.topics().iter().find(|found| found.name() == topic.name && found.error().is_none());
        match found {
            Some(found) => there.push((topic, found.partitions().len())),
            None => {
                let says = "is not there; `clickline run` makes it, if it may: else make it by hand";
                findings.push(Finding::new(Level::Warning, format!("topic {}", topic.name), says));
            }
        }
    }
    if there.is_empty() {
        return;
    }
    let names: Vec<ResourceSpecifier<'_>> = there.iter().map(|(topic, _)| ResourceSpecifier::Topic(&topic.name)).collect();
    let described =
        kafka.client(&[("log_level", "0")]).create().map_err(anyhow::Error::new).and_then(|client: AdminClient<DefaultClientContext>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(client.describe_configs(&names, &AdminOptions::new().request_timeout(Some(PATIENCE))))?)
        });
    let described = match described {
        Ok(described) => described,
        Err(error) => {
            let says = format!("their settings can't be read ({error:#}); the job may run, but nobody knows how long they keep");
            return findings.push(Finding::new(Level::Warning, "topics", says));
        }
    };
    for ((topic, partitions), described) in there.into_iter().zip(described) {
        let what = format!("topic {}", topic.name);
        match described {
            Ok(resource) => {
                let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
                let found = judge(topic, partitions, &settings, input(&topic.name));
                if found.is_empty() {
                    findings.push(Finding::new(Level::Ok, &what, format!("as it must be, partitions: {partitions}")));
                }
                findings.extend(found.into_iter().map(|(level, says)| Finding::new(level, &what, says)));
            }
            Err(error) => {
                findings.push(Finding::new(Level::Warning, &what, format!("its settings can't be read ({error}); allow DescribeConfigs")))
            }
        }
    }
}

/// What is not as it must be.
fn judge(needed: &Needed, partitions: usize, settings: &Settings, input: bool) -> Vec<(Level, String)> {
    let of = |name: &str| settings.get(name).map_or("", String::as_str);
    let number = |name: &str| of(name).parse::<i64>().unwrap_or(0);
    let least = |length: u64| i64::try_from(length).unwrap_or(i64::MAX);
    let (compacts, deletes) = (of("cleanup.policy").contains("compact"), of("cleanup.policy").contains("delete"));
    let mut found = Vec::new();
    if needed.partitions.is_some_and(|right| usize::try_from(right) != Ok(partitions)) {
        found.push((
            Level::Failed,
            format!("has {partitions} partitions and must have one: its last record is the last word; make it anew"),
        ));
    }
    if input && of("message.timestamp.type") != "LogAppendTime" {
        let why = "the job's clock is the brokers', and writers' clocks run backwards";
        found.push((Level::Failed, format!("message.timestamp.type is {}; set LogAppendTime: {why}", of("message.timestamp.type"))));
    }
    match needed.kept {
        Kept::For(length) => {
            let retention = number("retention.ms");
            if compacts {
                found.push((Level::Failed, "is compacted, and every record counts; set cleanup.policy=delete".to_owned()));
            }
            if deletes && retention >= 0 && retention < least(length) {
                let (has, needs) = (window_text(retention.unsigned_abs()), window_text(length));
                found.push((
                    Level::Failed,
                    format!("keeps {has} and must keep {needs}, or windows and restarts miss records; set retention.ms={length}"),
                ));
            }
            if number("retention.bytes") >= 0 && settings.contains_key("retention.bytes") {
                found.push((
                    Level::Warning,
                    "is also bounded in bytes, which may be less than the windows need; set retention.bytes=-1".to_owned(),
                ));
            }
        }
        Kept::Newest | Kept::States(_) => {
            if !compacts || deletes {
                found.push((Level::Failed, format!("cleanup.policy is {}; set compact: old states are needed, too", of("cleanup.policy"))));
            }
            if let Kept::States(length) = needed.kept
                && number("min.compaction.lag.ms") < least(length)
            {
                let says = "a restart sees a contact or deal as it is now where a click counted earlier";
                found.push((Level::Warning, format!("may be compacted too early: {says}; set min.compaction.lag.ms={length}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::DAY;

    fn judged(kept: Kept, partitions: usize, settings: &[(&str, &str)]) -> Vec<(Level, String)> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        judge(&Needed { name: "t".to_owned(), kept, partitions: Some(1) }, partitions, &settings, true)
    }

    #[test]
    fn what_is_wrong_with_a_topic_is_told_with_the_setting_that_mends_it() {
        let append = ("message.timestamp.type", "LogAppendTime");
        let right = [append, ("cleanup.policy", "delete"), ("retention.ms", "3110400000"), ("retention.bytes", "-1")];
        assert_eq!(judged(Kept::For(36 * DAY), 1, &right), []);
        assert_eq!(judged(Kept::For(36 * DAY), 1, &[append, ("cleanup.policy", "delete"), ("retention.ms", "-1")]), []);
        let one = |kept, partitions, settings: &[(&str, &str)], level, part: &str| {
            let found = judged(kept, partitions, settings);
            assert!(matches!(&found[..], [(of, says)] if *of == level && says.contains(part)), "{part}: {found:?}");
        };
        one(Kept::For(36 * DAY), 2, &right, Level::Failed, "must have one");
        one(Kept::For(37 * DAY), 1, &right, Level::Failed, "keeps 36d and must keep 37d");
        one(Kept::For(DAY), 1, &[("message.timestamp.type", "CreateTime"), right[1], right[2]], Level::Failed, "set LogAppendTime");
        one(Kept::For(DAY), 1, &[append, ("cleanup.policy", "compact")], Level::Failed, "cleanup.policy=delete");
        one(Kept::For(DAY), 1, &[append, right[1], right[2], ("retention.bytes", "1000")], Level::Warning, "retention.bytes=-1");
        let compact = ("cleanup.policy", "compact");
        assert_eq!(judged(Kept::Newest, 1, &[append, compact]), []);
        one(Kept::Newest, 1, &[append, ("cleanup.policy", "compact,delete")], Level::Failed, "set compact");
        one(Kept::States(DAY), 1, &[append, compact, ("min.compaction.lag.ms", "0")], Level::Warning, "min.compaction.lag.ms=86400000");
    }
}
