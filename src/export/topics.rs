//! Reads a topic as it is now, from its beginning, and says from which day on it is whole.

use super::record::day;
use crate::kafka::Kafka;
use crate::model::time::Ms;
use crate::sinks::clickhouse::Raw;
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for an answer about a topic.
const CALL: Duration = Duration::from_secs(10);
/// How often a stop is looked for.
const POLL: Duration = Duration::from_millis(200);
/// For how long the brokers may be silent.
const SILENCE: u32 = 150;

/// A topic, ready to be read.
pub struct Topic {
    consumer: BaseConsumer,
    name: String,
    /// For each partition its first offset, and the one after the last.
    ends: BTreeMap<i32, (i64, i64)>,
}

impl Topic {
    /// Looks where the topic begins and ends; what comes later is not read.
    ///
    /// # Errors
    /// The brokers do not answer, or there is no such topic.
    pub fn open(kafka: &Kafka, name: &str) -> anyhow::Result<Self> {
        let config = kafka.client(&[
            ("group.id", "clickline-export"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "error"),
            // What was sent in a transaction that did not come about never was.
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
            ("queued.max.messages.kbytes", "16384"),
        ]);
        let consumer: BaseConsumer = config.create().context("the options under `kafka` do not make a consumer")?;
        let metadata =
            consumer.fetch_metadata(Some(name), CALL).with_context(|| format!("the brokers at {} do not answer", kafka.brokers))?;
        let found = metadata.topics().iter().filter(|topic| topic.name() == name && topic.error().is_none());
        let partitions: Vec<i32> = found.flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
        anyhow::ensure!(
            !partitions.is_empty(),
            "there is no topic {name}; correct `kafka.topics`, or start the job once: it makes its topics"
        );
        let ends = partitions.into_iter().map(|partition| Ok((partition, consumer.fetch_watermarks(name, partition, CALL)?)));
        let ends = ends.collect::<Result<_, KafkaError>>().with_context(|| format!("nobody says where {name} begins and ends"))?;
        Ok(Topic { consumer, name: name.to_owned(), ends })
    }

    /// Gives `each` every record; gives back the last day of which records may be gone already, if any are.
    ///
    /// A record's own time is at most `max_future` ahead of when it was appended. So what was deleted, all of it appended before the first record that is left, is
    /// of no later day than that one's append time and `max_future`.
    ///
    /// # Errors
    /// What `each` says, the brokers give nothing for half a minute, records are deleted while they are read, or `stop` was asked.
    pub fn read(self, max_future: Ms, stop: &Stop, mut each: impl FnMut(Raw) -> anyhow::Result<()>) -> anyhow::Result<Option<u32>> {
        let Topic { consumer, name, ends } = self;
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        let mut list = TopicPartitionList::with_capacity(ends.len());
        // Of each partition that has lost records: when the first one that is left was appended. With none left, everything may be gone.
        let mut cut: BTreeMap<i32, Ms> = BTreeMap::new();
        for (partition, (begin, end)) in &ends {
            if *begin > 0 {
                cut.insert(*partition, Ms::MAX);
            }
            if begin < end {
                open.insert(*partition, *end);
                list.add_partition_offset(&name, *partition, Offset::Offset(*begin))?;
            }
        }
        consumer.assign(&list)?;
        let mut silent = 0;
        while !open.is_empty() {
            anyhow::ensure!(!stop.asked(), "stopped before {name} was read");
            silent += 1;
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    silent = 0;
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(end) = open.get(&partition).copied() else { continue };
                    if offset + 1 >= end {
                        open.remove(&partition);
                    }
                    if offset >= end {
                        continue;
                    }
                    if let Some(cut) = cut.get_mut(&partition)
                        && *cut == Ms::MAX
                    {
                        *cut = message.timestamp().to_millis().and_then(|at| Ms::try_from(at).ok()).unwrap_or(Ms::MAX - 1);
                    }
                    each(Raw { partition, offset, payload: message.payload().unwrap_or_default().to_vec() })?;
                }
                // Also where an aborted or open transaction is all that is left.
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(KafkaError::MessageConsumption(
                    rdkafka::error::RDKafkaErrorCode::AutoOffsetReset | rdkafka::error::RDKafkaErrorCode::OffsetOutOfRange,
                ))) => anyhow::bail!("records of {name} were deleted while it was read; run it again"),
                Some(Err(error)) => tracing::warn!(event = "kafka_error", topic = name, "Kafka: {error}"),
                None => {}
            }
            anyhow::ensure!(silent < SILENCE, "the brokers have given nothing of {name} for half a minute; run it again");
        }
        let last = cut.values().copied().max();
        Ok(last.map(|at| day(at.saturating_add(max_future)).unwrap_or(u32::MAX)))
    }
}
