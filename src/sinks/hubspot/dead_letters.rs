//! Brings refused records from the state database to the dead-letter topic.
//!
//! The refusal itself is in the database, in the transaction that settled the record; so neither a Kafka outage nor a crash loses it.
//! A crash between Kafka's acknowledgement and our note of it puts the record on the topic a second time.

use crate::kafka::Kafka;
use crate::model::outputs::{DeadLetter, Topic};
use crate::state::{DeadLetterRow, State};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Records brought over at once.
const BATCH: usize = 100;

/// Tells the sender of each record what became of it.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        // Nobody waits any more when the sink was stopped meanwhile; the record is still in the database.
        let _ = sender.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

/// What came of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Everything is on the topic.
    All,
    /// There may be more.
    Some,
    /// Some of it stays in the database; why.
    Failed(String),
}

/// The pause after so many failed rounds in a row: 1, 2, 4 … 60 s.
pub fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => Duration::from_secs(1 << (failures - 1).min(6)).min(Duration::from_secs(60)),
    }
}

/// Writes to the dead-letter topic.
pub struct DeadLetters {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    state: Arc<State>,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// For a cluster.
    ///
    /// # Errors
    /// When the Kafka client can't be made.
    pub fn new(kafka: &Kafka, state: Arc<State>) -> anyhow::Result<Self> {
        let config = kafka.client(&[("enable.idempotence", "true"), ("message.timeout.ms", "30000"), ("linger.ms", "5")]);
        let producer = config.create_with_context(Deliveries).context("the Kafka producer can't be made")?;
        Ok(DeadLetters { producer, topic: kafka.topics.output(Topic::DeadLetters).to_owned(), state })
    }

    /// Brings over what is not yet there, a batch at a time.
    ///
    /// # Errors
    /// When the state database fails.
    pub async fn publish(&self) -> anyhow::Result<Published> {
        let rows = self.state.dead_letters_unpublished(BATCH)?;
        let mut sent = Vec::with_capacity(rows.len());
        let mut failure = None;
        for row in &rows {
            let (id, value) = (row.id, serde_json::to_vec(&record(row))?);
            let (sender, receiver) = oneshot::channel();
            let record = BaseRecord::with_opaque_to(&self.topic, Box::new(sender)).key(&row.topic).payload(&value);
            match self.producer.send(record) {
                Ok(()) => sent.push((id, receiver)),
                Err((error, _)) => failure = Some(error.to_string()),
            }
        }
        let mut published = Vec::with_capacity(sent.len());
        for (id, receiver) in sent {
            match receiver.await {
                Ok(Ok(())) => published.push(id),
                Ok(Err(error)) => failure = Some(error.to_string()),
                Err(_) => failure = Some("the producer is gone".to_owned()),
            }
        }
        self.state.dead_letters_published(&published)?;
        Ok(match failure {
            Some(why) => Published::Failed(why),
            None if rows.len() < BATCH => Published::All,
            None => Published::Some,
        })
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        // What does not get out now is still in the database.
        let _ = self.producer.flush(Duration::from_millis(100));
    }
}

fn record(row: &DeadLetterRow) -> DeadLetter {
    DeadLetter {
        v: 1,
        reason: row.reason.clone(),
        detail: row.detail.clone(),
        source: row.topic.clone(),
        partition: row.partition,
        offset: row.offset,
        key_base64: row.key.as_ref().map(|key| STANDARD.encode(key)),
        payload_base64: STANDARD.encode(&row.payload),
        at: row.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_fail_come_ever_more_rarely() {
        assert_eq!([0, 1, 2, 6, 7, u32::MAX].map(|failures| pause(failures).as_secs()), [0, 1, 2, 32, 60, 60]);
    }
}
