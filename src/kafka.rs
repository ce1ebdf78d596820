//! How the job reaches Kafka: brokers, client options, topic names.

mod acknowledged;
mod scan;

use crate::model::outputs::Topic;
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

pub use acknowledged::{Acknowledged, Delivery};
pub use scan::{Seen, scan};

/// How long one call to the brokers may take before it is made again.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause after a call that failed at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Options that the job sets itself and nobody else may: exactly once, its clock and its own offsets rest on them.
pub const OURS: [&str; 14] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

/// What is said of an option that a build without OpenSSL can't do.
const NO_TLS: &str =
    "this build has no TLS: build with `--features tls` (needs OpenSSL's headers), or take the container image, which has it";

/// Partition and offset.
pub type At = (i32, i64);

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions, and those without one.
    Committed,
    /// All that were written, as the job's own sources see them.
    Uncommitted,
}

/// Brokers, options and topics; the `kafka` block of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Further librdkafka options for every client (TLS, SASL, timeouts, …); they win over ours. Those in [`OURS`] are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// Further options whose values are secrets: for each the variable of the environment that holds it.
    #[serde(default)]
    pub properties_env: BTreeMap<String, String>,
    /// Topic names, where they differ from the defaults.
    #[serde(default)]
    pub topics: Topics,
}

/// Topic names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Clicks, written by the redirect server.
    pub clicks: String,
    /// Form submissions.
    pub forms: String,
    /// Mirror of HubSpot's contacts, compacted.
    #[serde(rename = "crm.contacts")]
    pub contacts: String,
    /// Mirror of HubSpot's deals, compacted.
    #[serde(rename = "crm.deals")]
    pub deals: String,
    /// Short links, compacted; read by the redirect server.
    pub links: String,
    /// The job's own progress, written in the same transaction as its outputs.
    pub progress: String,
    /// What outlives the log, for the job's own next start; compacted.
    pub state: String,
    /// How far the CRM and forms sources have come; compacted.
    pub sources: String,
    /// What HubSpot's webhooks say has changed, until it is read from HubSpot.
    pub changes: String,
    /// Timeline events to write.
    #[serde(rename = "hubspot.timeline")]
    pub timeline: String,
    /// Last UTM values to write.
    #[serde(rename = "hubspot.contact-properties")]
    pub contact_properties: String,
    /// Deals to advance.
    #[serde(rename = "hubspot.deal-stages")]
    pub deal_stages: String,
    /// Clicks that found nobody.
    #[serde(rename = "clicks.unresolved")]
    pub unresolved: String,
    /// Published counts, compacted.
    #[serde(rename = "clicks.counts")]
    pub counts: String,
    /// What could not be read.
    #[serde(rename = "dead-letters")]
    pub dead_letters: String,
}

impl Default for Topics {
    fn default() -> Self {
        let name = |topic: Topic| topic.default_name().to_owned();
        Topics {
            clicks: "clicks".to_owned(),
            forms: "forms".to_owned(),
            contacts: "crm.contacts".to_owned(),
            deals: "crm.deals".to_owned(),
            links: "links".to_owned(),
            progress: "clickline.progress".to_owned(),
            state: name(Topic::State),
            sources: "clickline.sources".to_owned(),
            changes: "clickline.changes".to_owned(),
            timeline: name(Topic::Timeline),
            contact_properties: name(Topic::ContactProperties),
            deal_stages: name(Topic::DealStages),
            unresolved: name(Topic::Unresolved),
            counts: name(Topic::Counts),
            dead_letters: name(Topic::DeadLetters),
        }
    }
}

impl Topics {
    /// The name of an output topic.
    pub fn output(&self, topic: Topic) -> &str {
        match topic {
            Topic::Timeline => &self.timeline,
            Topic::ContactProperties => &self.contact_properties,
            Topic::DealStages => &self.deal_stages,
            Topic::Unresolved => &self.unresolved,
            Topic::Counts => &self.counts,
            Topic::DeadLetters => &self.dead_letters,
            Topic::State => &self.state,
        }
    }

    /// Whether the job takes its clock from a topic of this name: from when its inputs were appended, and, while there are none, its own
    /// progress.
    pub fn is_clock(&self, name: &str) -> bool {
        [&self.clicks, &self.forms, &self.contacts, &self.deals, &self.progress].iter().any(|of| *of == name)
    }
}

impl Kafka {
    /// Brokers with default options and topics.
    pub fn at(brokers: impl Into<String>) -> Self {
        Kafka { brokers: brokers.into(), properties: BTreeMap::new(), properties_env: BTreeMap::new(), topics: Topics::default() }
    }

    /// Options that every client of the job shares; the caller adds its own, [`Kafka::properties`] come last.
    pub fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", "clickline");
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        for (key, variable) in &self.properties_env {
            if let Ok(value) = std::env::var(variable) {
                config.set(key, value);
            }
        }
        config
    }

    /// Sees that the variables in [`Kafka::properties_env`] are set.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check_secrets(&self) -> anyhow::Result<()> {
        for (key, variable) in &self.properties_env {
            let set = std::env::var(variable).is_ok_and(|value| !value.is_empty());
            anyhow::ensure!(set, "kafka.properties_env.{key}: the variable {variable} is not set");
        }
        Ok(())
    }

    /// Options that can't be as they are: the field they stand in, the option, and why.
    pub fn problems(&self) -> Vec<(&'static str, String, String)> {
        let fields = [("properties", &self.properties), ("properties_env", &self.properties_env)];
        let mut problems = Vec::new();
        for (field, options) in fields {
            for (key, value) in options {
                if OURS.contains(&key.as_str()) {
                    problems.push((field, key.clone(), "is the job's own: its guarantees rest on it; leave it out".to_owned()));
                }
                // The value of a secret's field is a variable's name.
                let protocol = key == "security.protocol" && field == "properties" && value.to_ascii_lowercase().contains("ssl");
                let scram = matches!(key.as_str(), "sasl.mechanism" | "sasl.mechanisms") && value.to_ascii_uppercase().starts_with("SCRAM");
                if !cfg!(feature = "tls") && (protocol || scram || key.starts_with("ssl.")) {
                    problems.push((field, key.clone(), NO_TLS.to_owned()));
                }
            }
        }
        problems.extend(
            self.properties_env
                .keys()
                .filter(|key| self.properties.contains_key(*key))
                .map(|key| ("properties_env", key.clone(), "stands under `properties`, too; keep one of them".to_owned())),
        );
        problems
    }

    /// Gives `each` every record that is in a topic now: place, key and payload, partition by partition in its order. Waits for
    /// brokers that are away and for a topic that is not there yet.
    ///
    /// # Errors
    /// What `each` says, options that do not make a client, or `stop` was asked.
    pub fn read_all(
        &self,
        topic: &str,
        isolation: Isolation,
        stop: &Stop,
        mut each: impl FnMut(At, Option<&[u8]>, Option<&[u8]>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let isolation = match isolation {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        };
        let config = self.client(&[
            ("group.id", "clickline"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", isolation),
            ("fetch.wait.max.ms", "50"),
        ]);
        let consumer: BaseConsumer = config.create().context("the options under `kafka` do not make a consumer")?;
        let mut open: BTreeSet<i32> = loop {
            anyhow::ensure!(!stop.asked(), "stopped before the brokers answered");
            match consumer.fetch_metadata(Some(topic), PATIENCE) {
                Ok(metadata) => {
                    let partitions: BTreeSet<i32> =
                        metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
                    if !partitions.is_empty() {
                        break partitions;
                    }
                    tracing::warn!(event = "topic_missing", topic, "the topic does not exist yet; still trying");
                }
                Err(error) => tracing::warn!(event = "topic_unreadable", topic, %error, "cannot read the topic; still trying"),
            }
            thread::sleep(PAUSE);
        };
        let mut list = TopicPartitionList::with_capacity(open.len());
        for partition in &open {
            list.add_partition_offset(topic, *partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        while !open.is_empty() {
            anyhow::ensure!(!stop.asked(), "stopped before the topic {topic} was read");
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => each((message.partition(), message.offset()), message.key(), message.payload())?,
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) => tracing::warn!(event = "topic_unreadable", topic, %error, "cannot read the topic; still trying"),
                None => tracing::warn!(event = "topic_silent", topic, "the brokers send nothing; still trying"),
            }
        }
        Ok(())
    }
}
