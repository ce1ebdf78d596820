//! Writes records and says when the brokers have them.
//!
//! # Guarantee
//! [`Writer::write`] returns once every record is acknowledged by all in-sync replicas, and then each stands in its topic once: the
//! producer is idempotent. Records of one partition stand in the order in which they were given.
//!
//! Not guaranteed: that a record for which an error was returned, or whose future was dropped, is *not* in the topic.

use crate::kafka::Kafka;
use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a full queue is left to drain before a record is offered to it again.
const QUEUE_FULL: Duration = Duration::from_millis(10);

/// Tells the sender of each record what became of it.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        // Nobody may be waiting any more.
        let _ = sender.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

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

/// An idempotent producer.
pub struct Writer(ThreadedProducer<Deliveries>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// A writer that gives a record up after `patience`; without one it keeps trying for as long as the brokers are away.
    ///
    /// # Errors
    /// Options under `kafka` that do not make a producer.
    pub fn new(kafka: &Kafka, patience: Option<Duration>) -> anyhow::Result<Self> {
        // librdkafka takes 0 for "never".
        let patience = patience.map_or(0, |patience| patience.as_millis()).to_string();
        let own =
            [("enable.idempotence", "true"), ("message.timeout.ms", patience.as_str()), ("linger.ms", "2"), ("compression.type", "zstd")];
        let producer = kafka.client(&own).create_with_context(Deliveries);
        Ok(Writer(producer.context("the options under `kafka` do not make a producer")?))
    }

    /// Writes all of them, and returns when the brokers have them.
    ///
    /// # Errors
    /// The first failure, after all have been answered.
    pub async fn write(&self, records: &[Record<'_>]) -> Result<(), KafkaError> {
        let mut answers = Vec::with_capacity(records.len());
        for Record { topic, key, value } in records {
            let (sender, answer) = oneshot::channel();
            let mut record = BaseRecord::<'_, str, [u8], _>::with_opaque_to(topic, Box::new(sender)).key(key);
            if let Some(value) = value {
                record = record.payload(value);
            }
            while let Err((error, refused)) = self.0.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                record = refused;
                tokio::time::sleep(QUEUE_FULL).await;
            }
            answers.push(answer);
        }
        let mut first = Ok(());
        for answer in answers {
            // The producer answers for every record it has taken, also when it is closed.
            let answer = answer.await.unwrap_or(Err(KafkaError::Canceled));
            first = first.and(answer);
        }
        first
    }
}
