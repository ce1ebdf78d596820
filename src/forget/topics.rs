//! Reads topics for somebody to be forgotten, ends keys in them, and finds out for how long they keep what they have.

use crate::kafka::{self, Kafka, Seen};
use crate::model::time::Ms;
use crate::sources::writer::{Record, Writer};
use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the brokers may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the brokers may take to say how topics are set.
const SETTINGS_WITHIN: Duration = Duration::from_secs(10);

/// Gives `each` every committed record that is in the topic now; says whether there is such a topic.
///
/// # Errors
/// What `each` says, or brokers that do not answer.
pub fn scan(kafka: &Kafka, topic: &str, each: impl FnMut(Seen<'_>) -> anyhow::Result<()>) -> anyhow::Result<bool> {
    kafka::scan(kafka, "clickline-forget", topic, each)
}

/// Ends keys: a tombstone each, acknowledged when this returns.
///
/// # Errors
/// The brokers do not take them; some may be there.
pub async fn end(kafka: &Kafka, topic: &str, keys: &BTreeSet<String>) -> anyhow::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let records: Vec<Record<'_>> = keys.iter().map(|key| Record { topic, key: key.clone(), value: None }).collect();
    let written = Writer::new(kafka, Some(PATIENCE))?.write(&records).await;
    written.with_context(|| format!("the topic {topic} takes no tombstones"))
}

/// For how long a topic keeps a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// So long after it was appended, ms, and until its segment is closed.
    For(Ms),
    /// Until a newer one of its key is compacted with it, not before so long after that, ms.
    UntilCompacted(Ms),
    /// For ever.
    Forever,
}

/// How topics keep their records, as far as the brokers say.
pub async fn keeps(kafka: &Kafka, topics: &[&str]) -> BTreeMap<String, Keeps> {
    let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let client: Result<AdminClient<DefaultClientContext>, _> = kafka.client(&[("log_level", "0")]).create();
    let Ok(client) = client else { return BTreeMap::new() };
    let described = client.describe_configs(&asked, &AdminOptions::new().request_timeout(Some(SETTINGS_WITHIN))).await.unwrap_or_default();
    let answered = topics.iter().zip(described).filter_map(|(topic, described)| Some((topic, described.ok()?)));
    let settings = answered.map(|(topic, found)| {
        let settings: BTreeMap<String, String> = found.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
        ((*topic).to_owned(), judge(&settings))
    });
    settings.collect()
}

fn judge(settings: &BTreeMap<String, String>) -> Keeps {
    let number = |name: &str| settings.get(name).and_then(|text| text.parse::<i64>().ok());
    let policy = settings.get("cleanup.policy").map_or("", String::as_str);
    match number("retention.ms").and_then(|ms| Ms::try_from(ms).ok()) {
        _ if policy.contains("compact") => {
            Keeps::UntilCompacted(number("min.compaction.lag.ms").and_then(|ms| ms.try_into().ok()).unwrap_or(0))
        }
        Some(ms) => Keeps::For(ms),
        None => Keeps::Forever,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_as_its_settings_say() {
        let of =
            |settings: &[(&str, &str)]| judge(&settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        assert_eq!(of(&[("cleanup.policy", "delete"), ("retention.ms", "5")]), Keeps::For(5));
        assert_eq!(of(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]), Keeps::Forever);
        assert_eq!(of(&[("cleanup.policy", "compact"), ("retention.ms", "5"), ("min.compaction.lag.ms", "7")]), Keeps::UntilCompacted(7));
    }
}
