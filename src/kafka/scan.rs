//! Reads a topic from end to end, once, for a command: unlike the job it gives up when the brokers say nothing.

use super::{At, Kafka};
use crate::model::time::Ms;
use anyhow::{Context as _, anyhow, bail};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the brokers may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A record as it stands in a topic.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its partition and offset.
    pub place: At,
    /// When it was appended or written, ms since the Unix epoch; 0 where the brokers don't say.
    pub at: Ms,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// What it says; a tombstone says nothing.
    pub payload: Option<&'a [u8]>,
}

/// Gives `each` every committed record that is in the topic now, to a client of this `group`, which joins none; says whether there is such a topic.
///
/// # Errors
/// What `each` says, or brokers that do not answer.
pub fn scan(kafka: &Kafka, group: &str, topic: &str, mut each: impl FnMut(Seen<'_>) -> anyhow::Result<()>) -> anyhow::Result<bool> {
    let config = kafka.client(&[
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("fetch.wait.max.ms", "50"),
    ]);
    let consumer: BaseConsumer = config.create().context("the options under `kafka` do not make a consumer")?;
    let metadata = match consumer.fetch_metadata(Some(topic), PATIENCE) {
        Ok(metadata) => metadata,
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => return Ok(false),
        Err(error) => return Err(anyhow!(error).context(format!("the brokers do not say what the topic {topic} has"))),
    };
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    let mut open: BTreeSet<i32> = found.flat_map(|found| found.partitions()).map(|partition| partition.id()).collect();
    let mut list = TopicPartitionList::with_capacity(open.len());
    for partition in &open {
        list.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    let there = !open.is_empty();
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let at = message.timestamp().to_millis().and_then(|at| at.try_into().ok()).unwrap_or(0);
                each(Seen { place: (message.partition(), message.offset()), at, key: message.key(), payload: message.payload() })?;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) if heard.elapsed() > PATIENCE => {
                return Err(anyhow!(error).context(format!("the topic {topic} can't be read")));
            }
            None if heard.elapsed() > PATIENCE => bail!("the topic {topic} can't be read: the brokers send nothing"),
            Some(Err(_)) | None => {}
        }
    }
    Ok(there)
}
