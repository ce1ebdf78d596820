//! A producer that says of each record when the brokers have it.
//!
//! # Guarantee
//! A record that has arrived is acknowledged by all in-sync replicas and stands in its topic once: the producer is idempotent. Records of one
//! partition stand in the order in which they were offered.
//!
//! Not guaranteed: that a record for which an error was returned, or for which nobody waited, is *not* in the topic.

use super::Kafka;
use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Between two looks whether all that was offered has been answered. The client's `flush` looks ten times a second.
const LOOK: Duration = Duration::from_millis(1);

/// Tells whoever offered a record what became of it.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        // Nobody may be waiting any more.
        let _ = sender.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

/// An idempotent producer.
pub struct Acknowledged(ThreadedProducer<Deliveries>);

impl std::fmt::Debug for Acknowledged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acknowledged")
    }
}

/// A record on its way.
#[must_use = "whether it arrives is told here alone"]
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<(), KafkaError>>);

impl Delivery {
    /// Waits until the brokers have it.
    ///
    /// # Errors
    /// What the brokers say, or that they said nothing in time.
    pub async fn arrived(self) -> Result<(), KafkaError> {
        // The producer answers for every record that it has taken; one that is gone answers for none.
        self.0.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// The same where threads wait. Must not be called in a task of a runtime.
    ///
    /// # Errors
    /// As [`Delivery::arrived`].
    pub fn wait(self) -> Result<(), KafkaError> {
        self.0.blocking_recv().unwrap_or(Err(KafkaError::Canceled))
    }
}

impl Acknowledged {
    /// A producer that gives a record up after `patience`; without one it keeps trying for as long as the brokers are away.
    ///
    /// # Errors
    /// Options under `kafka` that do not make a producer.
    pub fn new(kafka: &Kafka, patience: Option<Duration>) -> anyhow::Result<Self> {
        // librdkafka takes 0 for "never".
        let patience = patience.map_or(0, |patience| patience.as_millis()).to_string();
        let own =
            [("enable.idempotence", "true"), ("message.timeout.ms", patience.as_str()), ("linger.ms", "2"), ("compression.type", "zstd")];
        let producer = kafka.client(&own).create_with_context(Deliveries);
        Ok(Acknowledged(producer.context("the options under `kafka` do not make a producer")?))
    }

    /// Takes a record on; no value is a tombstone.
    ///
    /// # Errors
    /// When it is not taken: the queue is full, or the record is larger than a topic takes.
    pub fn offer(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Delivery, KafkaError> {
        let (sender, answer) = oneshot::channel();
        let mut record = BaseRecord::<'_, [u8], [u8], _>::with_opaque_to(topic, Box::new(sender));
        (record.key, record.payload) = (key, value);
        self.0.send(record).map(|()| Delivery(answer)).map_err(|(error, _)| error)
    }

    /// Waits until all that was offered has been answered, but no longer than this.
    pub fn drain(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.0.in_flight_count() > 0 && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
}
