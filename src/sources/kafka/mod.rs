//! Reads a topic into the dataflow: one operator per topic on every worker, partitions spread over the workers.
//!
//! # Meaning
//! A record's log time is the broker's append time; where the topic has none, the producer's time, no later than now.
//! It never runs backwards in a partition: what would, is moved up and counted. The operator's capability stands at
//! the end of the tick of the least log time that its partitions have reached.
//!
//! # Ties and edges
//! - A partition that has been read to its end follows the wall clock less `idle_slack`; how its end is known, and why
//!   a slow partition never counts as idle, says [`watch`].
//! - `idle_slack` must exceed the time from a broker's append to the record's being readable, plus what the broker's
//!   clock may be behind ours. A record that comes later than that is taken with the clock's time.
//! - A worker without partitions follows the wall clock, too: it holds nothing back, and can take a new partition.
//! - A new partition is noticed within seconds and read from its beginning; what it holds counts from then on.
//! - All partitions are read from their beginning. Transactions of producers are not looked at.
//! - A broker that is away stops the clock; librdkafka keeps trying, and a warning is written now and then.
//!
//! # Cost
//! librdkafka fetches on threads of its own; decoding is done on the worker, about 1 µs a record. What waits in the
//! dataflow is bounded by [`Credit`], what waits before it by `queued.max.messages.kbytes` a worker and topic.

pub mod watch;

use super::{Credit, Found, Kind, Meter, decode};
use crate::dataflow::plan::Times;
use crate::dataflow::rows::{Arrival, Place};
use crate::kafka::Kafka;
use crate::model::time::{Ms, tick_end};
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilderSession, source};
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::scheduling::SyncActivator;
use watch::{Complaints, Question, Watch, exact};

/// The wall clock, ms since the epoch; a demo may let it run faster.
pub type Clock = Arc<dyn Fn() -> Ms + Send + Sync>;

/// Records taken from one partition before the next one has its turn.
const PER_TURN: usize = 1_000;
/// The operator is woken by new records and by the watch; this is for a wake-up that got lost.
const RECHECK: Duration = Duration::from_millis(50);
/// Without credit: nothing wakes the operator when the end of the dataflow moves.
const NO_CREDIT: Duration = Duration::from_millis(1);
/// After this long at the end of what can be fetched, an end that lies further holds no records (a batch that
/// compaction emptied).
const HOLLOW_END: Duration = Duration::from_secs(5);

/// How far a source may run ahead, and behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes between one topic's source on one worker and the end of the dataflow.
    pub in_flight_bytes: usize,
    /// How far a partition that has been read to its end stays behind the wall clock, ms.
    pub idle_slack: Ms,
}

impl Default for Limits {
    fn default() -> Self {
        // 200 ms: brokers of one site append and replicate within tens of ms, and their clocks agree within as much.
        Limits { in_flight_bytes: 64 << 20, idle_slack: 200 }
    }
}

/// What the sources of all topics share.
#[derive(Clone)]
pub struct Reading {
    /// Brokers and options.
    pub kafka: Kafka,
    /// Ticks and bounds.
    pub times: Times,
    /// Credit and slack.
    pub limits: Limits,
    /// The wall clock.
    pub now: Clock,
    /// What has been read.
    pub meter: Arc<Meter>,
    /// Ends reading, and is told of what can't be mended.
    pub stop: Stop,
}

impl Reading {
    /// A client for reading.
    ///
    /// # Errors
    /// An option that librdkafka does not understand.
    pub fn consumer(&self) -> anyhow::Result<BaseConsumer> {
        let config = self.kafka.client(&[
            ("group.id", "clickline"), // never joined: partitions are assigned by hand
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("allow.auto.create.topics", "false"),
            // A broker answers a fetch at once when it has records; some mock ones only after this.
            ("fetch.wait.max.ms", "50"),
            // Bounds memory; with the default backoff of 1 s a full queue would make fetching stutter.
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.queue.backoff.ms", "10"),
            ("isolation.level", "read_uncommitted"),
        ]);
        config.create().context("the options under `kafka` do not make a consumer")
    }

    fn topic(&self, kind: Kind) -> &str {
        let topics = &self.kafka.topics;
        match kind {
            Kind::Clicks => &topics.clicks,
            Kind::Forms => &topics.forms,
            Kind::Contacts => &topics.contacts,
            Kind::Deals => &topics.deals,
        }
    }
}

/// The source of one topic on one worker; every worker must build it. `done` watches the end of the dataflow.
pub fn topic<'scope>(
    scope: Scope<'scope, Ms>,
    kind: Kind,
    reading: &Reading,
    done: ProbeHandle<Ms>,
) -> StreamVec<'scope, Ms, (Arrival, Ms)> {
    let reading = reading.clone();
    source::<_, Rows, _, _>(scope, kind.name(), move |cap, info| {
        let activator = scope.activator_for(info.address.clone());
        let wake = Arc::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut held = cap;
        let stop = reading.stop.clone();
        let mut reader = match Reader::start(kind, reading, (scope.index(), scope.peers()), done, wake) {
            Ok(reader) => Some(reader),
            Err(error) => {
                stop.fail(error);
                None
            }
        };
        move |output| {
            // When the job stops, the capability stays: a tick that was not read to its end must not close.
            let Some(reader) = reader.as_mut().filter(|_| !stop.asked()) else { return };
            match reader.turn(&mut held, output) {
                Duration::ZERO => activator.activate(),
                after => activator.activate_after(after),
            }
        }
    })
}

type Rows = CapacityContainerBuilder<Vec<(Arrival, Ms)>>;

/// One partition and how far it has been read.
struct Tail {
    partition: i32,
    /// Shared with a turn that reads it while the rest changes.
    queue: Rc<PartitionQueue<DefaultConsumerContext>>,
    /// The log time it has reached: no record that is still to come is older.
    low: Ms,
    /// The offset after the last record; 0 before the first.
    next: i64,
    /// Since when nothing more could be fetched.
    ended: Option<Instant>,
}

/// A worker's reader of one topic.
struct Reader {
    kind: Kind,
    topic: String,
    times: Times,
    idle_slack: Ms,
    now: Clock,
    meter: Arc<Meter>,
    stop: Stop,
    consumer: Arc<BaseConsumer>,
    watch: Watch,
    tails: Vec<Tail>,
    credit: Credit,
    complaints: Complaints,
    wake: Arc<SyncActivator>,
}

impl Reader {
    fn start(
        kind: Kind,
        reading: Reading,
        worker: (usize, usize),
        done: ProbeHandle<Ms>,
        wake: Arc<SyncActivator>,
    ) -> anyhow::Result<Self> {
        let consumer = Arc::new(reading.consumer()?);
        let topic = reading.topic(kind).to_owned();
        let Reading { kafka: _, times, limits, now, meter, stop } = reading;
        let Limits { in_flight_bytes, idle_slack } = limits;
        let question =
            Question { consumer: Arc::clone(&consumer), topic: topic.clone(), worker, now: Arc::clone(&now), stop: stop.clone() };
        let watch = Watch::start(question, Arc::clone(&wake)).context("cannot start a thread")?;
        let credit = Credit::new(in_flight_bytes, done, Arc::clone(&meter));
        let (tails, complaints) = (Vec::new(), Complaints::default());
        Ok(Reader { kind, topic, times, idle_slack, now, meter, stop, consumer, watch, tails, credit, complaints, wake })
    }

    /// Reads what there is and allowed, and moves the clock; says when to come again.
    fn turn(&mut self, held: &mut Capability<Ms>, output: &mut OutputBuilderSession<'_, Ms, Rows>) -> Duration {
        let Some(mine) = self.watch.seen().mine.clone() else { return RECHECK };
        if mine.len() > self.tails.len()
            && let Err(error) = self.take_up(&mine, *held.time())
        {
            self.stop.fail(error);
            return RECHECK;
        }
        self.credit.retire();
        let mut again = RECHECK;
        {
            let mut session = output.session(&*held); // one session: the ticks travel with the rows
            self.strays(&mut |row| session.give(row));
            // Slowest first: whatever holds the clock is the next thing read.
            self.tails.sort_by_key(|tail| tail.low);
            for place in 0..self.tails.len() {
                again = again.min(self.drain(place, &mut |row| session.give(row)));
            }
        }
        self.follow_the_wall_clock();
        // A worker without partitions is as far as the wall clock is.
        let low = self.tails.iter().map(|tail| tail.low).min().unwrap_or_else(|| (self.now)().saturating_sub(self.idle_slack));
        // - Every record that is still to come has a log time of at least `low`: each partition's is clamped to its own.
        // - Its tick therefore ends at `tick_end(low)` or later, and the ticks before are complete.
        let clock = tick_end(low, self.times.tick);
        if clock > *held.time() {
            held.downgrade(&clock);
        }
        again
    }

    /// Begins with partitions that are new.
    fn take_up(&mut self, mine: &[i32], clock: Ms) -> anyhow::Result<()> {
        let new: Vec<i32> = mine.iter().filter(|p| !self.tails.iter().any(|tail| tail.partition == **p)).copied().collect();
        let mut list = TopicPartitionList::with_capacity(new.len());
        for partition in new {
            list.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
            // Before the partition is assigned: librdkafka then leaves its queue alone. Otherwise records that are
            // fetched in between come through the client's own queue, past the credit.
            let queue = self.consumer.split_partition_queue(&self.topic, partition);
            let mut queue = queue.with_context(|| format!("cannot read partition {partition} of {}", self.topic))?;
            let wake = Arc::clone(&self.wake);
            queue.set_nonempty_callback(move || {
                // An error says that the worker is gone, and so will be the queue.
                let _ = wake.activate();
            });
            self.tails.push(Tail { partition, queue: Rc::new(queue), low: clock, next: 0, ended: None });
            if clock > 0 {
                tracing::warn!(topic = self.topic, partition, "a new partition: what it holds counts from now on");
            }
        }
        self.consumer.incremental_assign(&list).with_context(|| format!("cannot read the topic {}", self.topic))
    }

    /// Serves the client's own queue: its complaints. Records do not come here; one that did would be older than those of
    /// its partition's queue, and is taken first.
    fn strays(&mut self, give: &mut dyn FnMut((Arrival, Ms))) {
        let consumer = Arc::clone(&self.consumer);
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Ok(message) => {
                    if let Some(place) = self.tails.iter().position(|tail| tail.partition == message.partition()) {
                        give(self.take(place, &message));
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => self.complaints.warn(&self.topic, &error.to_string()),
            }
        }
    }

    /// Decodes a record of a partition and moves the partition's clock.
    fn take(&mut self, place: usize, message: &BorrowedMessage<'_>) -> (Arrival, Ms) {
        let tail = &mut self.tails[place];
        let appended = match message.timestamp() {
            Timestamp::LogAppendTime(at) => Ms::try_from(at).unwrap_or(0),
            // A producer whose clock runs ahead must not carry the job's clock with it.
            Timestamp::CreateTime(at) => Ms::try_from(at).unwrap_or(0).min((self.now)()),
            Timestamp::NotAvailable => (self.now)(),
        };
        if appended < tail.low {
            self.meter.clamped.fetch_add(1, Ordering::Relaxed);
        }
        tail.low = tail.low.max(appended);
        tail.next = message.offset() + 1;
        tail.ended = None;
        let at = Place { partition: tail.partition, offset: message.offset() };
        let found = Found { kind: self.kind, key: message.key(), payload: message.payload(), place: at, source: &self.topic };
        let (arrival, at) = decode(found, tail.low, &self.times);
        let bytes = message.payload_len() + message.key_len();
        self.credit.take(at, bytes);
        self.meter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.meter.count(self.kind, &arrival);
        (arrival, at)
    }

    /// Reads one partition as far as its turn and the credit go; says when to come again.
    fn drain(&mut self, place: usize, give: &mut dyn FnMut((Arrival, Ms))) -> Duration {
        let queue = Rc::clone(&self.tails[place].queue);
        for _ in 0..PER_TURN {
            if !self.credit.allows(tick_end(self.tails[place].low, self.times.tick)) {
                return NO_CREDIT;
            }
            let Some(event) = queue.poll(Duration::ZERO) else { return RECHECK };
            match event {
                Ok(message) => give(self.take(place, &message)),
                Err(KafkaError::PartitionEOF(_)) => self.tails[place].ended = Some(Instant::now()),
                Err(error) => self.complaints.warn(&self.topic, &error.to_string()),
            }
        }
        Duration::ZERO
    }

    /// Moves partitions that have been read to their end up to the moment at which that was their end.
    fn follow_the_wall_clock(&mut self) {
        let seen = self.watch.seen();
        let Some((at, ends)) = &seen.ends else { return };
        let mut positions = None;
        for tail in &mut self.tails {
            let Some(end) = ends.get(&tail.partition) else { continue };
            let start = seen.starts.get(&tail.partition).copied().unwrap_or(0);
            let mut next = tail.next.max(start);
            if next < *end && tail.ended.is_some() {
                // Markers of transactions have offsets and are no records: the client knows how far it has come.
                let list = positions.get_or_insert_with(|| self.consumer.position().ok());
                let position = list.as_ref().and_then(|list| list.find_partition(&self.topic, tail.partition)?.offset().into());
                next = next.max(position.and_then(exact).unwrap_or(0));
            }
            let hollow = tail.ended.is_some_and(|since| since.elapsed() > HOLLOW_END);
            if next >= *end || hollow {
                tail.low = tail.low.max(at.saturating_sub(self.idle_slack));
            }
        }
    }
}

#[cfg(test)]
mod tests;
