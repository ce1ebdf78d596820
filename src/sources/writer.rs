//! Writes records and says when the brokers have them.
//!
//! # Guarantee
//! [`Writer::write`] returns once every record is acknowledged by all in-sync replicas, and then each stands in its topic once: the
//! producer is idempotent. Records of one partition stand in the order in which they were given.
//!
//! Not guaranteed: that a record for which an error was returned, or whose future was dropped, is *not* in the topic.

use crate::kafka::{Acknowledged, Kafka};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

/// How long a full queue is left to drain before a record is offered to it again.
const QUEUE_FULL: Duration = Duration::from_millis(10);

/// A record to write; no value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where to.
    pub topic: &'a str,
    /// Its key.
    pub key: String,
    /// What it says.
    pub value: Option<Vec<u8>>,
}

/// Writes to any topic.
#[derive(Debug)]
pub struct Writer(Acknowledged);

impl Writer {
    /// A writer that gives a record up after `patience`; without one it keeps trying for as long as the brokers are away.
    ///
    /// # Errors
    /// Options under `kafka` that do not make a producer.
    pub fn new(kafka: &Kafka, patience: Option<Duration>) -> anyhow::Result<Self> {
        Acknowledged::new(kafka, patience).map(Writer)
    }

    /// Writes all of them, and returns when the brokers have them.
    ///
    /// # Errors
    /// The first failure, after all have been answered.
    pub async fn write(&self, records: &[Record<'_>]) -> Result<(), KafkaError> {
        let mut deliveries = Vec::with_capacity(records.len());
        for Record { topic, key, value } in records {
            loop {
                match self.0.offer(topic, Some(key.as_bytes()), value.as_deref()) {
                    Ok(delivery) => break deliveries.push(delivery),
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => tokio::time::sleep(QUEUE_FULL).await,
                    Err(error) => return Err(error),
                }
            }
        }
        let mut first = Ok(());
        for delivery in deliveries {
            let answer = delivery.arrived().await;
            first = first.and(answer);
        }
        first
    }
}
