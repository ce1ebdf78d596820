//! How the job reaches Kafka: brokers, client options, topic names.

use crate::model::outputs::Topic;
use rdkafka::ClientConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Brokers, options and topics; the `kafka` block of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Further librdkafka options for every client (SASL, timeouts, …); they win over ours.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
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
}

impl Kafka {
    /// Brokers with default options and topics.
    pub fn at(brokers: impl Into<String>) -> Self {
        Kafka { brokers: brokers.into(), properties: BTreeMap::new(), topics: Topics::default() }
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
        config
    }
}
