//! Reads one delta topic, on a thread of its own, from the offsets that the state database holds.
//!
//! Partitions are assigned by hand: no group, no rebalance, no offsets in Kafka. Only committed transactions are read. The channel is
//! bounded, so a sink that can't keep up stops the reading, and the records stay where they are safe.
//!
//! Records that were deleted before they were read are told as an error and counted; the reading goes on behind them.

use super::record::{Lane, Raw};
use crate::kafka::Kafka;
use crate::state::State;
use anyhow::Context;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// What a reader tells.
#[derive(Debug)]
pub enum Read {
    /// It reads these partitions.
    Assigned(BTreeMap<i32, Start>),
    /// A record.
    Record(Raw),
    /// The end of a partition was reached.
    End(i32),
    /// Records of a partition are not there any more.
    Gap {
        /// Of which partition.
        partition: i32,
        /// The first offset that is there.
        to: i64,
        /// How many were deleted unread, at most.
        records: u64,
    },
    /// The topic was made anew: a partition is read from its beginning.
    Anew(i32, Start),
}

/// Where the reading of a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The offset of the first record that is read.
    pub next: i64,
    /// The offset after the last record that was there.
    pub end: i64,
}

/// Records between a reader and the sink. A record is about 1 KB.
pub const CHANNEL: usize = 1000;

/// How long one poll waits; also how long a stop takes.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for an answer about a topic.
const CALL: Duration = Duration::from_secs(5);
/// How often a topic's partitions are looked up, for those that were added.
const LOOK: Duration = Duration::from_secs(30);

/// A client that reads committed records and says where a partition ends.
///
/// # Errors
/// When the Kafka client can't be made.
pub fn consumer(kafka: &Kafka) -> anyhow::Result<BaseConsumer> {
    kafka
        .client(&[
            // librdkafka wants one even where no group is joined and nothing is committed.
            ("group.id", "clickline-hubspot"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // What was deleted unread must not be passed over in silence.
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "100"),
            ("queued.max.messages.kbytes", "4096"),
        ])
        .create()
        .context("the Kafka consumer can't be made")
}

/// Starts a reader; it ends when `stop` is set or the receiver is gone.
///
/// # Errors
/// When the Kafka client can't be made.
pub fn start(lane: Lane, kafka: &Kafka, state: &Arc<State>, stop: &Arc<AtomicBool>, to: Sender<Read>) -> anyhow::Result<JoinHandle<()>> {
    let consumer = consumer(kafka)?;
    let topic = kafka.topics.output(lane.topic()).to_owned();
    let reader = Reader { consumer, topic, state: Arc::clone(state), stop: Arc::clone(stop), to, at: BTreeMap::new(), astray: false };
    let thread = std::thread::Builder::new().name(format!("hubspot-read-{}", lane.index()));
    thread.spawn(move || reader.run()).context("no thread for a reader")
}

struct Reader {
    consumer: BaseConsumer,
    topic: String,
    state: Arc<State>,
    stop: Arc<AtomicBool>,
    to: Sender<Read>,
    /// The next offset of each partition that is assigned.
    at: BTreeMap<i32, i64>,
    /// Whether one of these offsets is not there any more.
    astray: bool,
}

impl Reader {
    fn run(mut self) {
        let mut look = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if Instant::now() >= look {
                match self.assign() {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => tracing::warn!(event = "topic_unreadable", topic = self.topic, "partitions can't be read: {error:#}"),
                }
                // A topic that is not there yet is asked for more often.
                look = Instant::now() + if self.at.is_empty() { POLL * 5 } else { LOOK };
            }
            if self.at.is_empty() {
                std::thread::sleep(POLL);
                continue;
            }
            let read = match self.consumer.poll(POLL) {
                None => continue,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let payload = message.payload().unwrap_or_default().to_vec();
                    self.at.insert(partition, offset + 1);
                    Read::Record(Raw { partition, offset, key: message.key().map(<[u8]>::to_vec), payload })
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Read::End(partition),
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))) => {
                    self.astray = true;
                    look = Instant::now() + POLL;
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(event = "kafka_error", topic = self.topic, "Kafka: {error}");
                    continue;
                }
            };
            if self.to.blocking_send(read).is_err() {
                return;
            }
        }
    }

    /// Assigns the topic's partitions where they are not; `false` when nobody listens any more.
    fn assign(&mut self) -> anyhow::Result<bool> {
        let metadata = match self.consumer.fetch_metadata(Some(&self.topic), CALL) {
            Ok(metadata) => metadata,
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let found = metadata.topics().iter().filter(|t| t.name() == self.topic && t.error().is_none());
        let partitions: Vec<i32> = found.flat_map(|t| t.partitions()).map(|p| p.id()).collect();
        if !self.astray && partitions.iter().all(|p| self.at.contains_key(p)) {
            return Ok(true);
        }
        let stored = self.state.offsets(&self.topic)?;
        let mut list = TopicPartitionList::new();
        let (mut at, mut new, mut gaps) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for partition in partitions {
            let (begin, end) = self.consumer.fetch_watermarks(&self.topic, partition, CALL)?;
            let wanted = self.at.get(&partition).or_else(|| stored.get(&partition)).copied().unwrap_or(begin);
            let next = if (begin..=end).contains(&wanted) { wanted } else { begin };
            list.add_partition_offset(&self.topic, partition, Offset::Offset(next))?;
            if wanted != next {
                gaps.push(self.gap(partition, wanted, begin, end));
            }
            if !self.at.contains_key(&partition) {
                new.insert(partition, Start { next: wanted.min(next), end });
            }
            at.insert(partition, next);
        }
        self.consumer.assign(&list)?;
        (self.at, self.astray) = (at, false);
        tracing::debug!(event = "hubspot_reading", topic = self.topic, partitions = self.at.len(), "reading");
        let told = std::iter::once(Read::Assigned(new)).chain(gaps);
        Ok(told.map(|read| self.to.blocking_send(read)).all(|sent| sent.is_ok()))
    }

    /// Says that what was to be read next is not there.
    fn gap(&self, partition: i32, wanted: i64, begin: i64, end: i64) -> Read {
        let topic = &self.topic;
        let records = begin.saturating_sub(wanted).max(0).unsigned_abs();
        if records > 0 {
            tracing::error!(
                event = "delta_records_lost",
                topic,
                partition,
                "up to {records} records (offsets {wanted} to {begin}) were deleted before they were read: HubSpot does not get them; the topic is kept too short for how long the sink was away"
            );
        } else {
            tracing::error!(
                event = "topic_made_anew",
                topic,
                partition,
                "it ends at offset {end}, but had been read up to {wanted}: the topic was made anew, or records were lost; it is read from its beginning"
            );
            return Read::Anew(partition, Start { next: begin, end });
        }
        Read::Gap { partition, to: begin, records }
    }
}
