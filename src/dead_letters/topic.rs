//! Reads the dead-letter topic to its end, and appends records to where they came from.

use super::Id;
use crate::kafka::{Acknowledged, Delivery, Kafka};
use crate::model::outputs::DeadLetter;
use anyhow::{Context as _, anyhow, bail};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the brokers may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives `each` every dead letter that is on the topic now. Records that are none are passed over, with a warning.
///
/// # Errors
/// What `each` says, or the brokers don't answer.
pub fn read(kafka: &Kafka, topic: &str, mut each: impl FnMut(Id, DeadLetter) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let config = kafka.client(&[
        ("group.id", "clickline-dead-letters"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("fetch.wait.max.ms", "50"),
    ]);
    let consumer: BaseConsumer = config.create().context("the options under `kafka` do not make a consumer")?;
    let metadata = match consumer.fetch_metadata(Some(topic), PATIENCE) {
        Ok(metadata) => metadata,
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => return Ok(()),
        Err(error) => return Err(anyhow!(error).context(format!("the brokers do not say what the topic {topic} has"))),
    };
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    let mut open: BTreeSet<i32> = found.flat_map(|found| found.partitions()).map(|partition| partition.id()).collect();
    let mut list = TopicPartitionList::with_capacity(open.len());
    for partition in &open {
        list.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let id = Id { partition: message.partition(), offset: message.offset() };
                match serde_json::from_slice(message.payload().unwrap_or_default()) {
                    Ok(letter) => each(id, letter)?,
                    Err(_) => tracing::warn!(event = "dead_letter_unknown", %id, topic, "this record is no dead letter of clickline's"),
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) if heard.elapsed() > PATIENCE => {
                return Err(anyhow!(error).context(format!("the topic {topic} can't be read")));
            }
            None if heard.elapsed() > PATIENCE => bail!("the topic {topic} can't be read: the brokers send nothing"),
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
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
