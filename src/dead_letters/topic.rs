//! Reads the dead-letter topic to its end, and appends records to where they came from.

use super::Id;
use crate::kafka::{self, Acknowledged, Delivery, Kafka};
use crate::model::outputs::DeadLetter;
use anyhow::Context as _;
use std::time::Duration;

/// How long the brokers may take to acknowledge a record.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives `each` every dead letter that is on the topic now. Records that are none are passed over, with a warning.
///
/// # Errors
/// What `each` says, or the brokers don't answer.
pub fn read(kafka: &Kafka, topic: &str, mut each: impl FnMut(Id, DeadLetter) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let read = kafka::scan(kafka, "clickline-dead-letters", topic, |seen| {
        let id = Id { partition: seen.place.0, offset: seen.place.1 };
        match serde_json::from_slice(seen.payload.unwrap_or_default()) {
            Ok(letter) => each(id, letter)?,
            Err(_) => tracing::warn!(event = "dead_letter_unknown", %id, topic, "this record is no dead letter of clickline's"),
        }
        Ok(())
    });
    // Without a topic there are none.
    read.map(drop)
}

/// Appends records to topics, one at a time, each acknowledged.
#[derive(Debug)]
pub struct Sender(Acknowledged);

impl Sender {
    /// For a cluster.
    ///
    /// # Errors
    /// The options under `kafka` make no producer.
    pub fn new(kafka: &Kafka) -> anyhow::Result<Self> {
        Acknowledged::new(kafka, Some(PATIENCE)).map(Sender)
    }

    /// Appends a record; it is there when this returns.
    ///
    /// # Errors
    /// Kafka does not take it, or does not say so in time: it may be there all the same.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, payload: &[u8]) -> anyhow::Result<()> {
        let arrived = self.0.offer(topic, key, Some(payload)).and_then(Delivery::wait);
        arrived.with_context(|| format!("the topic {topic} takes no record, or does not acknowledge it"))
    }
}
