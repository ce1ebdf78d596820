//! The spool's transactions with Kafka: clicks, and the position behind them, committed together or not at all.

use super::counts::Counts;
use super::end::End;
use super::produce::BatchProducer;
use crate::{Error, KafkaConfig, failpoint};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// How long one call to Kafka may take before the end is looked for.
const CALL: Duration = Duration::from_secs(1);
/// The same for undoing a transaction, which may have to wait until events are looked for.
const UNDO: Duration = Duration::from_millis(100);
/// Before the position is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Before a new try after an undone transaction.
const AGAIN: Duration = Duration::from_millis(500);
/// While librdkafka's queue is full.
const FULL: Duration = Duration::from_millis(5);
/// The partition under which the position is stored.
const PARTITION: i32 = 0;

/// Why a session with Kafka ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("the time to end has come")]
    Over,
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("the spool's disk failed: {0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Broken(String),
    #[error("another process sends this spool, or a copy of it: give each process a directory of its own, and never put back an old copy")]
    Foreign,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    /// Nothing of it is there.
    Undone,
    /// The same, and the brokers, or librdkafka, refused some of it for its size.
    TooLarge,
}

#[derive(Clone, Default)]
pub(super) struct Context {
    /// A record of this transaction was refused for its size, or that of its batch.
    too_large: Arc<AtomicBool>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(event = "kafka_error", %error, "Kafka: {reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    // A transaction fails as a whole, and its commit tells; but not why.
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && error.rdkafka_error_code().is_some_and(too_large)
        {
            self.too_large.store(true, Relaxed);
        }
    }
}

fn too_large(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge)
}

/// The clicks of one transaction.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, json: &[u8]) {
        self.bytes.extend_from_slice(json);
        self.ends.push(self.bytes.len());
    }

    /// Bytes of clicks.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Number of clicks.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Their records, one behind the other.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| std::mem::replace(&mut start, end)..end)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// One producer's life.
pub(super) struct Session {
    pub(super) producer: BatchProducer<Context>,
    /// Under which a transaction says how far it went.
    group: ConsumerGroupMetadata,
    /// How far all transactions before this session went, as Kafka has it; `None` when it has forgotten.
    pub(super) stored: Option<u64>,
}

/// The position in an answer; `None` where Kafka has none. An answer may be one as a whole and hold an error in its place: a coordinator that has
/// just come back knows nothing yet, which must not be taken for nothing.
fn position(told: &TopicPartitionList, topic: &str) -> Result<Option<u64>, KafkaError> {
    let Some(element) = told.find_partition(topic, PARTITION) else {
        return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition));
    };
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    })
}

/// Makes sessions and transactions.
pub(super) struct Transactions {
    producer: ClientConfig,
    consumer: ClientConfig,
    topic: String,
    counts: Arc<Counts>,
    pub(super) end: Arc<End>,
}

impl Transactions {
    /// Checks the options; no connection yet.
    pub(super) fn new(kafka: &KafkaConfig, spool: Uuid, counts: Arc<Counts>) -> Result<Transactions, Error> {
        let id = format!("clickline-redirect-{}", spool.hyphenated());
        let mut producer = crate::kafka::client(
            kafka,
            &[
                ("acks", "all"),
                ("linger.ms", "5"),
                ("compression.type", "lz4"),
                // A transaction is bounded in bytes; this must not be what bounds it.
                ("queue.buffering.max.kbytes", "262144"),
                ("transaction.timeout.ms", "60000"),
                ("message.timeout.ms", "30000"),
            ],
        );
        // Not to be configured: the guarantee rests on them.
        producer.set("transactional.id", &id).set("enable.idempotence", "true");
        // The commit tells of all of them; a report for each click would only be thrown away.
        producer.set("delivery.report.only.error", "true");
        let mut consumer = crate::kafka::client(kafka, &[]);
        consumer.set("group.id", &id).set("enable.auto.commit", "false");
        let transactions = Transactions { producer, consumer, topic: kafka.clicks_topic.clone(), counts, end: Arc::default() };
        // Options that are wrong are told at the start.
        transactions.connect()?;
        Ok(transactions)
    }

    fn connect(&self) -> Result<BatchProducer<Context>, Error> {
        let producer: BaseProducer<Context> = self.producer.create_with_context(Context::default())?;
        BatchProducer::new(producer, &self.topic).ok_or_else(|| Error::Config(format!("{:?} is no name of a topic", self.topic)))
    }

    /// Fences all sessions before this one and waits until their last transaction has ended; then asks how far it went.
    pub(super) fn session(&self) -> Result<Session, Stop> {
        let producer = self.connect().map_err(|error| Stop::Broken(error.to_string()))?;
        self.call(&producer, |producer| producer.init_transactions(CALL))?;
        let reader: BaseConsumer = self.consumer.create()?;
        let group = reader.group_metadata().ok_or_else(|| Stop::Broken("a consumer without a group".to_owned()))?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic, PARTITION);
        let stored = loop {
            match reader.committed_offsets(asked.clone(), CALL).and_then(|told| position(&told, &self.topic)) {
                Ok(stored) => break stored,
                Err(error) if self.end.over() => return Err(error.into()),
                Err(error) => {
                    self.counts.note(error.to_string());
                    thread::sleep(ASK_AGAIN);
                }
            }
        };
        Ok(Session { producer, group, stored })
    }

    /// Sends a batch, which may be empty, and the position behind it. `unsure` is set while the commit may have been made or not, whatever is answered.
    pub(super) fn transact(&self, session: &mut Session, batch: &Batch, next: u64, unsure: &mut Option<u64>) -> Result<Outcome, Stop> {
        let refused = session.producer.producer().context().too_large.clone();
        refused.store(false, Relaxed);
        session.producer.producer().begin_transaction()?;
        let done = self.fill(session, batch, next).and_then(|()| {
            self.flush(&session.producer)?;
            *unsure = Some(next);
            self.call(&session.producer, |producer| producer.commit_transaction(CALL))
        });
        let reason = match done {
            Ok(()) => {
                *unsure = None;
                return Ok(Outcome::Committed);
            }
            Err(Stop::Kafka(KafkaError::Transaction(error))) if error.txn_requires_abort() => {
                refused.fetch_or(too_large(error.code()), Relaxed);
                error.to_string()
            }
            // librdkafka has a limit of its own.
            Err(Stop::Kafka(KafkaError::MessageProduction(code))) if too_large(code) => {
                refused.store(true, Relaxed);
                code.to_string()
            }
            Err(stop) => return Err(stop),
        };
        tracing::warn!(event = "transaction_repeated", error = %reason, "a transaction of clicks is undone; they are sent again");
        self.counts.note(reason);
        self.call(&session.producer, |producer| producer.abort_transaction(UNDO))?;
        *unsure = None;
        thread::sleep(AGAIN);
        Ok(if refused.load(Relaxed) { Outcome::TooLarge } else { Outcome::Undone })
    }

    fn fill(&self, session: &mut Session, batch: &Batch, next: u64) -> Result<(), Stop> {
        let Session { producer, group, .. } = session;
        let mut left: Vec<Range<usize>> = batch.ranges().collect();
        let mut refused = Vec::new();
        while !left.is_empty() {
            let reason = producer.produce(left.iter().map(|range| &batch.bytes[range.clone()]), &mut refused);
            match reason {
                None => break,
                Some(RDKafkaErrorCode::QueueFull) if !self.end.over() => {
                    left = refused.drain(..).map(|number| left[number].clone()).collect();
                    producer.serve();
                    thread::sleep(FULL);
                }
                Some(RDKafkaErrorCode::QueueFull) => return Err(Stop::Over),
                // Not in order any more: the session is given up, and with it the transaction.
                Some(reason) => return Err(Stop::Kafka(KafkaError::MessageProduction(reason))),
            }
        }
        failpoint::hit("forward.produced");
        let mut position = TopicPartitionList::new();
        let offset = i64::try_from(next).map_err(|_| Stop::Broken("the spool's numbers are used up".to_owned()))?;
        position.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset))?;
        self.call(producer, |producer| producer.send_offsets_to_transaction(&position, group, CALL))?;
        failpoint::hit("forward.offsets");
        Ok(())
    }

    /// Waits until the brokers have the transaction's clicks, however slow they are; librdkafka gives them up after `message.timeout.ms`.
    fn flush(&self, producer: &BatchProducer<Context>) -> Result<(), Stop> {
        loop {
            match producer.flush(CALL) {
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) if !self.end.over() => {}
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => return Err(Stop::Over),
                other => return Ok(other?),
            }
        }
    }

    /// Calls until there is an answer that another call would not change.
    fn call(
        &self,
        producer: &BatchProducer<Context>,
        mut call: impl FnMut(&BaseProducer<Context>) -> Result<(), KafkaError>,
    ) -> Result<(), Stop> {
        loop {
            match call(producer.producer()) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !error.txn_requires_abort() => {
                    self.counts.note(error.to_string());
                    producer.serve();
                    if self.end.over() {
                        return Err(Stop::Over);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_of_what_was_asked_is_not_taken_for_no_position() {
        let mut told = TopicPartitionList::new();
        assert!(position(&told, "clicks").is_err());
        told.add_partition("clicks", PARTITION);
        assert_eq!(position(&told, "clicks").expect("an answer"), None);
        told.set_partition_offset("clicks", PARTITION, Offset::Offset(17)).expect("it is there");
        assert_eq!(position(&told, "clicks").expect("an answer"), Some(17));
    }
}
