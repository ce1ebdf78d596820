//! From the spool to Kafka, each click once.
//!
//! # Why each click is on the topic once
//! The forwarder's producer is transactional, with the spool's own id. A transaction holds the clicks up to some sequence number and, as the offset of
//! a consumer group of the spool's own, that number: either both are committed or neither. A start first initialises its producer, which waits until
//! the last transaction of the process before it is committed or aborted and fences that producer: what of it is still in
//! a socket is refused from then on. Then it reads the number back and sends what stands in the spool from there. So it does not matter where the process
//! was killed, nor whether it learned of its last commit.
//!
//! This holds for readers of committed records (`isolation.level=read_committed`). Others also see what was aborted, and tell it by the click's id.
//!
//! *One case can repeat*: Kafka forgets a group's offset after `offsets.retention.minutes` (a week) without a commit. A spool that waits longer
//! than that goes on from its own note of the position, which a crash may leave one transaction behind.
//!
//! # A spool that was copied
//! Two processes with copies of one spool would use one number. Whoever finds a number that it cannot have stored is broken and says so.

use super::counts::Counts;
use super::produce::BatchProducer;
use crate::spool::{Cursor, Disk, Found, Shelf};
use crate::{Error, KafkaConfig, failpoint};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// From one transaction's start to the next one's, at least: a commit costs the brokers some writes, whatever it holds.
const PACE: Duration = Duration::from_millis(50);
/// Bytes of clicks in a transaction, about.
const MAX_TRANSACTION: usize = 8 << 20;
/// How long one call to Kafka may take before the end is looked for.
const CALL: Duration = Duration::from_secs(1);
/// How long to wait for something to send before the end is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Before a new try after a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// The partition under which the position is stored.
const PARTITION: i32 = 0;

/// Tells the forwarder to end.
#[derive(Debug, Default)]
pub(crate) struct End(Mutex<Option<Instant>>);

impl End {
    /// Nothing more comes: send what is there, for so long at most.
    pub(crate) fn within(&self, timeout: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + timeout);
    }

    /// When to give up, once the end was told.
    fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> bool {
        self.at().is_some_and(|at| Instant::now() >= at)
    }
}

/// Why a session with Kafka ended.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("the time to end has come")]
    Over,
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("the spool cannot be read: {0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Foreign(String),
}

#[derive(Clone)]
struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, "Kafka: {reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    // A transaction fails as a whole: its commit tells.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Sends the spool; one thread's.
pub(crate) struct Forwarder {
    producer: ClientConfig,
    consumer: ClientConfig,
    topic: String,
    disk: Arc<dyn Disk>,
    shelf: Arc<Shelf>,
    counts: Arc<Counts>,
    end: Arc<End>,
    /// First number of this run.
    first: u64,
    /// All before it is committed, as far as this process knows.
    position: u64,
    /// Kafka has told its position once.
    known: bool,
    /// The last commit's position, when nobody knows whether it was made.
    unsure: Option<u64>,
    /// What was sent before, in this process or an earlier one, ends here.
    sent: u64,
}

impl Forwarder {
    /// Checks the options; no thread and no connection yet.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        found: &Found,
        disk: Arc<dyn Disk>,
        shelf: Arc<Shelf>,
        counts: Arc<Counts>,
    ) -> Result<Forwarder, Error> {
        let id = format!("clickline-redirect-{}", found.id.hyphenated());
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
        let mut consumer = crate::kafka::client(kafka, &[]);
        consumer.set("group.id", &id).set("enable.auto.commit", "false");
        let forwarder = Forwarder {
            producer,
            consumer,
            topic: kafka.clicks_topic.clone(),
            disk,
            shelf,
            counts,
            end: Arc::default(),
            first: found.first,
            position: found.position,
            known: false,
            unsure: None,
            sent: found.first,
        };
        // Options that are wrong are told at the start.
        forwarder.connect()?;
        Ok(forwarder)
    }

    fn connect(&self) -> Result<BatchProducer<Context>, Error> {
        let producer: ThreadedProducer<Context> = self.producer.create_with_context(Context)?;
        BatchProducer::new(producer, &self.topic).ok_or_else(|| Error::Config(format!("{:?} is no name of a topic", self.topic)))
    }

    pub(crate) fn end(&self) -> Arc<End> {
        self.end.clone()
    }

    /// Sends until the end.
    pub(crate) fn run(mut self) {
        loop {
            match self.session() {
                Ok(()) | Err(Stop::Over) => return,
                Err(Stop::Foreign(reason)) => {
                    self.counts.set_broken(reason);
                    return;
                }
                Err(stop) => {
                    tracing::warn!("{stop}; clicks wait in the spool");
                    self.counts.note(stop.to_string());
                }
            }
            if self.end.over() {
                return;
            }
            thread::sleep(AGAIN);
        }
    }

    /// One producer's life. Ends well when all is sent and nothing more comes.
    fn session(&mut self) -> Result<(), Stop> {
        let mut producer = self.connect().map_err(|error| Stop::Foreign(error.to_string()))?;
        self.call(|| producer.producer().init_transactions(CALL))?;
        self.learn_position()?;
        let mut cursor = Cursor::default();
        let mut buffer = Vec::new();
        let mut batch = Batch::default();
        loop {
            let started = Instant::now();
            if !self.shelf.wait(&cursor, LOOK) {
                if self.end.at().is_some() {
                    self.shelf.clear_if_done(&*self.disk, &cursor)?;
                    return Ok(());
                }
                continue;
            }
            let mut ahead = cursor.clone();
            batch.clear();
            let mut next = self.position;
            while batch.bytes.len() < MAX_TRANSACTION {
                let read = ahead.read(&self.shelf, &*self.disk, &mut buffer, |sequence, json| {
                    if sequence >= next {
                        batch.push(json);
                        self.counts.replayed.fetch_add(u64::from(sequence < self.sent), Relaxed);
                        next = sequence + 1;
                    }
                })?;
                let Some(damaged) = read else { break };
                // What was damaged at the start was counted then.
                if damaged > 0 && next > self.first {
                    self.counts.corrupt.fetch_add(1, Relaxed);
                    tracing::error!(bytes = damaged, "the spool is damaged: at least one click is lost; look after its disk");
                }
            }
            if batch.ends.is_empty() {
                cursor = ahead;
                continue;
            }
            self.sent = self.sent.max(next);
            if !self.transact(&mut producer, &batch, next)? {
                // Aborted: the same clicks again, from the same place.
                continue;
            }
            failpoint::hit("forward.committed");
            self.counts.produced.fetch_add(batch.ends.len() as u64, Relaxed);
            (self.position, cursor) = (next, ahead);
            if let Err(error) = self.shelf.done(&*self.disk, &cursor, next) {
                tracing::warn!(%error, "what is sent could not be removed from the spool");
            }
            failpoint::hit("forward.noted");
            if self.end.at().is_none() {
                thread::sleep(PACE.saturating_sub(started.elapsed()));
            }
        }
    }

    /// Sends a batch and the position behind it; false when that was undone.
    fn transact(&mut self, producer: &mut BatchProducer<Context>, batch: &Batch, next: u64) -> Result<bool, Stop> {
        producer.producer().begin_transaction()?;
        let done = self.fill(producer, batch, next).and_then(|()| {
            // From here on the commit may have been made, whatever is answered.
            self.unsure = Some(next);
            self.call(|| producer.producer().commit_transaction(CALL))
        });
        match done {
            Ok(()) => {
                self.unsure = None;
                Ok(true)
            }
            Err(Stop::Kafka(KafkaError::Transaction(error))) if error.txn_requires_abort() => {
                tracing::warn!(%error, "a transaction of clicks is undone; they are sent again");
                self.counts.note(error.to_string());
                self.call(|| producer.producer().abort_transaction(CALL))?;
                self.unsure = None;
                thread::sleep(AGAIN);
                Ok(false)
            }
            Err(stop) => Err(stop),
        }
    }

    fn fill(&self, producer: &mut BatchProducer<Context>, batch: &Batch, next: u64) -> Result<(), Stop> {
        let mut left: Vec<Range<usize>> = batch.ranges().collect();
        let mut refused = Vec::new();
        while !left.is_empty() {
            let reason = producer.produce(left.iter().map(|range| &batch.bytes[range.clone()]), &mut refused);
            match reason {
                None => break,
                Some(RDKafkaErrorCode::QueueFull) if !self.end.over() => {
                    left = refused.drain(..).map(|number| left[number].clone()).collect();
                    thread::sleep(Duration::from_millis(5));
                }
                Some(RDKafkaErrorCode::QueueFull) => return Err(Stop::Over),
                // Not in order any more: the session is given up, and with it the transaction.
                Some(reason) => return Err(Stop::Kafka(KafkaError::MessageProduction(reason))),
            }
        }
        failpoint::hit("forward.produced");
        let mut position = TopicPartitionList::new();
        let offset = i64::try_from(next).map_err(|_| Stop::Foreign("the spool's numbers are used up".to_owned()))?;
        position.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset))?;
        let group: BaseConsumer = self.consumer.create()?;
        let group = group.group_metadata().ok_or_else(|| Stop::Foreign("a consumer without a group".to_owned()))?;
        self.call(|| producer.producer().send_offsets_to_transaction(&position, &group, CALL))?;
        failpoint::hit("forward.offsets");
        Ok(())
    }

    /// Calls until there is an answer that another call would not change.
    fn call(&self, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), Stop> {
        loop {
            match call() {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !error.txn_requires_abort() => {
                    self.counts.note(error.to_string());
                    if self.end.over() {
                        return Err(Stop::Over);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks Kafka how far the spool is committed.
    fn learn_position(&mut self) -> Result<(), Stop> {
        let reader: BaseConsumer = self.consumer.create()?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic, PARTITION);
        let told = loop {
            match reader.committed_offsets(asked.clone(), CALL) {
                Ok(told) => break told,
                Err(error) if self.end.over() => return Err(error.into()),
                Err(error) => {
                    self.counts.note(error.to_string());
                    thread::sleep(LOOK);
                }
            }
        };
        let stored = match told.find_partition(&self.topic, PARTITION).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => u64::try_from(offset).ok(),
            _ => None,
        };
        let Some(stored) = stored else {
            if self.position > 0 {
                tracing::warn!("Kafka has forgotten how far this spool was sent; going on from the spool's own note");
            }
            // What this run commits from here on is its own, however often it must ask again.
            (self.known, self.unsure) = (true, None);
            return Ok(());
        };
        // Of this run nobody else can have sent anything.
        let possible = if self.known { stored == self.position || Some(stored) == self.unsure } else { stored <= self.first };
        if !possible {
            return Err(Stop::Foreign(
                "another process sends this spool, or a copy of it: give each process a directory of its own, and never put back an old copy".to_owned(),
            ));
        }
        if Some(stored) == self.unsure && stored > self.position {
            tracing::info!("the last transaction had been committed");
        }
        (self.known, self.unsure, self.position) = (true, None, self.position.max(stored));
        Ok(())
    }
}

/// The clicks of one transaction.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    fn push(&mut self, json: &[u8]) {
        self.bytes.extend_from_slice(json);
        self.ends.push(self.bytes.len());
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| std::mem::replace(&mut start, end)..end)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}
