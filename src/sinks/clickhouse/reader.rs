//! Reads one topic, on the thread that writes it; partitions are assigned by hand, and nothing is stored in Kafka.

use super::record::Raw;
use super::record::Stream;
use crate::kafka::Kafka;
use anyhow::Context as _;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for an answer about a topic.
const CALL: Duration = Duration::from_secs(5);

/// What one look at the topic gave.
#[derive(Debug)]
pub enum Read {
    /// A record, and when it was appended (ms since the Unix epoch).
    Record(Raw, u64),
    /// This partition has no more for now.
    End(i32),
    /// Where a partition was to be read from is not there any more: assign anew.
    Astray,
    /// Nothing within the wait.
    Nothing,
}

/// A consumer of one topic.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// Options that do not make a client.
    pub fn new(kafka: &Kafka, stream: Stream) -> anyhow::Result<Self> {
        let (topic, isolation) = match stream {
            // As the job's own sources see them.
            Stream::Clicks => (kafka.topics.clicks.clone(), "read_uncommitted"),
            Stream::Deltas(topic) => (kafka.topics.output(topic).to_owned(), "read_committed"),
        };
        let config = kafka.client(&[
            ("group.id", "clickline-clickhouse"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // What was deleted unread must not be passed over in silence.
            ("auto.offset.reset", "error"),
            ("isolation.level", isolation),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "100"),
            // Bounds the memory while ClickHouse is away.
            ("queued.max.messages.kbytes", "8192"),
        ]);
        Ok(Reader { consumer: config.create().context("the Kafka consumer can't be made")?, topic })
    }

    /// The first offset and the one after the last, of each partition; none while the topic is not there.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub fn partitions(&self) -> anyhow::Result<BTreeMap<i32, (i64, i64)>> {
        let metadata = match self.consumer.fetch_metadata(Some(&self.topic), CALL) {
            Ok(metadata) => metadata,
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(error.into()),
        };
        let found = metadata.topics().iter().filter(|found| found.name() == self.topic && found.error().is_none());
        let partitions = found.flat_map(|found| found.partitions()).map(|partition| partition.id());
        partitions.map(|partition| Ok((partition, self.consumer.fetch_watermarks(&self.topic, partition, CALL)?))).collect()
    }

    /// Reads these partitions from these offsets on, and no others.
    ///
    /// # Errors
    /// librdkafka does not take it.
    pub fn assign(&self, from: &BTreeMap<i32, i64>) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::with_capacity(from.len());
        for (partition, offset) in from {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        Ok(self.consumer.assign(&list)?)
    }

    /// Looks once.
    pub fn poll(&self, wait: Duration) -> Read {
        match self.consumer.poll(wait) {
            None => Read::Nothing,
            Some(Ok(message)) => {
                let appended = message.timestamp().to_millis().and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
                let payload = message.payload().unwrap_or_default().to_vec();
                Read::Record(Raw { partition: message.partition(), offset: message.offset(), payload }, appended)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => Read::End(partition),
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))) => {
                Read::Astray
            }
            Some(Err(error)) => {
                tracing::warn!(event = "kafka_error", topic = self.topic, "Kafka: {error}");
                Read::Nothing
            }
        }
    }
}
