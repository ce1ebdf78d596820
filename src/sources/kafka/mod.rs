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
//! - Reading begins where a restart needs it ([`Resume`]), found by the broker's index of times. Transactions of producers
//!   are not looked at.
//! - What a snapshot holds of a partition is read from there first ([`super::snapshot`]); it has the same records.
//! - A record that had not been read when the job stopped belongs to no tick that was committed, whatever its append time
//!   says: it may have become readable only after the clock had passed that. It is taken with the time of the restart.
//! - Records that were deleted before they were read end the job with an error, at its start and while it runs: a gap
//!   would make counts too low, in silence. So does a topic that was made anew. Either is accepted when asked for.
//! - A broker that is away stops the clock; librdkafka keeps trying, and a warning is written now and then.
//!
//! # Cost
//! librdkafka fetches on threads of its own; decoding is done on the worker (`benches/decode`). What waits in the
//! dataflow is bounded by [`Credit`], what waits before it by `queued.max.messages.kbytes` a worker and topic.

pub mod watch;

use super::snapshot::{Copied, Last, Next, Place as CopyEnd, Recorder, Row, Snapshots};
use super::{Credit, Found, Kind, Mark, Meter, Offsets, Standing, decode};
use crate::dataflow::plan::Times;
use crate::dataflow::rows::{Arrival, Place};
use crate::failpoint::hit;
use crate::kafka::Kafka;
use crate::model::time::{Ms, tick_end};
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
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
/// Between two words about where the partitions stand.
const TELL: Duration = Duration::from_millis(250);
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
        // 50 ms: brokers of one site append and replicate within tens of ms, and their clocks agree within as much. It is
        // part of every click's latency, and a record beyond it is counted a tick later, not lost.
        Limits { in_flight_bytes: 64 << 20, idle_slack: 50 }
    }
}

/// Where a restart takes the log up.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// Clicks that were appended before this are not needed, ms since the epoch.
    pub clicks_from: Ms,
    /// The same for forms.
    pub forms_from: Ms,
    /// What had not been read when the job stopped.
    pub offsets: Offsets,
    /// Ticks that end before this do not need what had not been read, ms.
    pub frontier: Ms,
    /// Whether to go on without records that were deleted unread.
    pub accept_gaps: bool,
}

impl Resume {
    /// Records of `kind` that were appended before this are not needed; 0 for a topic that is needed whole.
    pub fn from(&self, kind: Kind) -> Ms {
        match kind {
            Kind::Clicks => self.clicks_from,
            Kind::Forms => self.forms_from,
            Kind::Contacts | Kind::Deals => 0,
        }
    }

    /// The first offset of a partition that no committed tick needs; `None` where nothing is known of the topic.
    fn unread(&self, kind: Kind, partition: i32) -> Option<i64> {
        let of = self.offsets.get(&kind).filter(|of| !of.is_empty())?;
        Some(of.get(&partition).copied().unwrap_or(0))
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
    /// Where to begin.
    pub resume: Resume,
    /// Copies of what was read, if they are kept.
    pub snapshots: Option<Snapshots>,
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
            // A place that the broker no longer has is an error, not a reason to go on elsewhere.
            ("auto.offset.reset", "error"),
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

    /// The name of the topic of a kind.
    pub fn topic(&self, kind: Kind) -> &str {
        kind.topic(&self.kafka.topics)
    }
}

/// The source of one topic on one worker; every worker must build it. `done` watches the end of the dataflow.
///
/// Beside the records come marks that say how far the partitions have been read.
pub fn topic<'scope>(scope: Scope<'scope, Ms>, kind: Kind, reading: &Reading, done: ProbeHandle<Ms>) -> Streams<'scope> {
    let reading = reading.clone();
    let mut builder = OperatorBuilder::new(kind.name().to_owned(), scope);
    let info = builder.operator_info();
    let (rows, arrivals) = builder.new_output();
    let (of_marks, marks) = builder.new_output();
    let (mut rows, mut of_marks) = (OutputBuilder::<Ms, Rows>::from(rows), OutputBuilder::<Ms, Marks>::from(of_marks));
    builder.build(move |capabilities| {
        let activator = scope.activator_for(info.address.clone());
        let wake = Arc::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut held = capabilities;
        let stop = reading.stop.clone();
        let mut reader = match Reader::start(kind, reading, (scope.index(), scope.peers()), done, wake) {
            Ok(reader) => Some(reader),
            Err(error) => {
                stop.fail(error);
                None
            }
        };
        move |_frontiers| {
            // When the job stops, the capability stays: a tick that was not read to its end must not close.
            let Some(reader) = reader.as_mut().filter(|_| !stop.asked()) else { return };
            let [held, held_for_marks] = held.as_mut_slice() else { return };
            match reader.turn(held, &mut rows.activate()) {
                Duration::ZERO => activator.activate(),
                after => activator.activate_after(after),
            }
            of_marks.activate().session(&*held_for_marks).give_iterator(reader.marks());
            if held.time() > held_for_marks.time() {
                held_for_marks.downgrade(held.time());
            }
        }
    });
    (arrivals, marks)
}

/// Records and marks, each with its tick.
pub type Streams<'scope> = (StreamVec<'scope, Ms, (Arrival, Ms)>, StreamVec<'scope, Ms, (Mark, Ms)>);

type Rows = CapacityContainerBuilder<Vec<(Arrival, Ms)>>;
type Marks = CapacityContainerBuilder<Vec<(Mark, Ms)>>;

/// One partition and how far it has been read.
struct Tail {
    partition: i32,
    /// Where its records come from.
    from: From,
    /// What has been read and waits for room to be copied.
    fresh: Vec<(Row, Last)>,
    /// Records from this offset on were in no tick that was committed.
    unread: i64,
    /// The log time it has reached: no record that is still to come is older.
    low: Ms,
    /// The offset after the last record; before the first, where reading begins.
    next: i64,
    /// The tick of that record; the clock's before the first.
    at: Ms,
    /// What the last mark said.
    marked: Option<i64>,
    /// Marks that were passed since the last turn.
    passed: Vec<(Mark, Ms)>,
    /// Since when nothing more could be fetched.
    ended: Option<Instant>,
    /// An end that lies further than what could be fetched, and since when it is known.
    beyond: Option<(i64, Instant)>,
}

/// Where a partition's records come from.
enum From {
    /// From its snapshot, to begin with.
    Snapshot(Box<Copied>),
    /// From Kafka; shared with a turn that reads it while the rest changes.
    Queue(Rc<PartitionQueue<DefaultConsumerContext>>),
    /// From nowhere: something went wrong, and the job is about to stop.
    Nowhere,
}

impl Tail {
    /// Notes how far it has been read, unless that was said before.
    fn mark(&mut self, kind: Kind) {
        if self.marked != Some(self.next) {
            self.marked = Some(self.next);
            self.passed.push((Mark { kind, partition: self.partition, next: self.next }, self.at));
        }
    }

    /// The record at `offset` belongs to the tick that ends at `at`: all before it to an earlier one, if that is another.
    fn read(&mut self, kind: Kind, offset: i64, at: Ms) {
        if at != self.at {
            self.mark(kind);
            self.at = at;
        }
        self.next = offset + 1;
    }
}

/// A partition's offsets.
#[derive(Clone, Copy, Debug)]
struct Extent {
    partition: i32,
    /// The first that it still holds.
    start: i64,
    /// The first that is needed.
    begin: i64,
    /// The one after the last.
    end: i64,
}

/// A worker's reader of one topic.
struct Reader {
    kind: Kind,
    topic: String,
    times: Times,
    idle_slack: Ms,
    resume: Resume,
    now: Clock,
    meter: Arc<Meter>,
    stop: Stop,
    consumer: Arc<BaseConsumer>,
    watch: Watch,
    tails: Vec<Tail>,
    credit: Credit,
    recorder: Recorder,
    complaints: Complaints,
    wake: Arc<SyncActivator>,
    told_at: Option<Instant>,
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
        let keep = reading.snapshots.as_ref().and_then(|snapshots| snapshots.keep(kind));
        let recorder = Recorder::start(&format!("{topic}-{}", worker.0), keep);
        let question = Question { consumer: Arc::clone(&consumer), kind, reading: reading.clone(), worker };
        let Reading { kafka: _, times, limits, resume, snapshots: _, now, meter, stop } = reading;
        let Limits { in_flight_bytes, idle_slack } = limits;
        let watch = Watch::start(question, Arc::clone(&wake)).context("cannot start a thread")?;
        let credit = Credit::new(in_flight_bytes, done, Arc::clone(&meter));
        let (tails, complaints) = (Vec::new(), Complaints::default());
        Ok(Reader {
            kind,
            topic,
            times,
            idle_slack,
            resume,
            now,
            meter,
            stop,
            consumer,
            watch,
            tails,
            credit,
            recorder,
            complaints,
            wake,
            told_at: None,
        })
    }

    /// Reads what there is and allowed, and moves the clock; says when to come again.
    fn turn(&mut self, held: &mut Capability<Ms>, output: &mut OutputBuilderSession<'_, Ms, Rows>) -> Duration {
        let Some(places) = self.places() else { return RECHECK };
        if !places.is_empty()
            && let Err(error) = self.take_up(&places, *held.time())
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
        self.tell();
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

    /// Says now and then where the partitions stand.
    fn tell(&mut self) {
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now < at + TELL) {
            return;
        }
        self.told_at = Some(now);
        let seen = self.watch.seen();
        let ends = seen.ends.as_ref().map(|(_, ends)| ends);
        self.meter.stands(
            self.kind,
            self.tails.iter().map(|tail| {
                let end = ends.and_then(|ends| ends.get(&tail.partition)).copied().unwrap_or(0);
                // What compaction emptied is as good as read.
                let next = if tail.beyond.is_some_and(|(of, since)| of == end && since.elapsed() > HOLLOW_END) { end } else { tail.next };
                (tail.partition, Standing { next, end: end.max(tail.next), log_time: tail.low })
            }),
        );
    }

    /// Partitions that are new and the offsets they have; `None` while those that the topic began with are not all known:
    /// the clock must not run without one of them.
    fn places(&self) -> Option<Vec<Extent>> {
        let seen = self.watch.seen();
        let mine = seen.mine.as_ref()?;
        if mine.len() <= self.tails.len() {
            return Some(Vec::new());
        }
        let (_, ends) = seen.ends.as_ref()?;
        let extent = |partition: &i32| {
            let (start, begin) = (*seen.starts.get(partition)?, *seen.begins.get(partition)?);
            Some(Extent { partition: *partition, start, begin, end: *ends.get(partition)? })
        };
        let new = mine.iter().filter(|p| !self.tails.iter().any(|tail| tail.partition == **p));
        let known: Vec<Option<Extent>> = new.map(extent).collect();
        let all = known.iter().all(Option::is_some);
        (all || !self.tails.is_empty()).then(|| known.into_iter().flatten().collect())
    }

    /// Where to begin with a partition, unless what it had for us is gone. `copied` is the offset up to which a snapshot has it.
    fn begin(&self, extent: Extent, copied: Option<i64>) -> anyhow::Result<i64> {
        let Extent { partition, start, begin, end } = extent;
        let Some(unread) = self.resume.unread(self.kind, partition) else { return Ok(copied.map_or(begin, |copied| copied.max(start))) };
        let (topic, accepted) = (&self.topic, "start with --accept-gaps to go on without them");
        let missing = copied.unwrap_or(unread).max(unread);
        let gone = match copied {
            _ if unread > end => {
                format!(
                    "partition {partition} of {topic} ends at offset {end}, but had been read up to {unread}: the topic was made anew, or records were lost; {accepted}"
                )
            }
            _ if missing < start => {
                let gone = start - missing;
                format!(
                    "up to {gone} records of partition {partition} of {topic} were deleted before the job had read them (offsets {missing} to {start}): they were kept too short for how long it was away; {accepted}"
                )
            }
            Some(copied) => return Ok(copied.max(start)),
            // The index of times must not lead past what was not read.
            None => return Ok(begin.min(unread).max(start)),
        };
        anyhow::ensure!(self.resume.accept_gaps, gone);
        tracing::warn!(event = "input_records_lost", "{gone}");
        Ok(copied.map_or(begin, |copied| copied.max(start)))
    }

    /// Begins with partitions that are new.
    fn take_up(&mut self, new: &[Extent], clock: Ms) -> anyhow::Result<()> {
        for extent in new.iter().copied() {
            let Extent { partition, begin, end, .. } = extent;
            let copy = self.watch.seen().copies.remove(&partition);
            let unread = match self.resume.unread(self.kind, partition) {
                // Made anew: nothing of it was in a tick that was committed.
                Some(unread) if unread > end => 0,
                unread => unread.unwrap_or(i64::MAX),
            };
            let reaches_back = copy.as_ref().and_then(|copy| copy.after()).map(|after| after <= begin.min(unread));
            let (from, next) = match (copy, reaches_back) {
                (Some(copy), Some(true)) => {
                    let copied = copy.read(self.resume.from(self.kind));
                    let next = copied.position();
                    let rest = u64::try_from(end - copied.end()).unwrap_or(0);
                    self.meter.waiting.fetch_add(copied.left() + rest, Ordering::Relaxed);
                    (From::Snapshot(Box::new(copied)), next)
                }
                (copy, reaches_back) => {
                    let begin = self.begin(extent, None)?;
                    self.meter.waiting.fetch_add(u64::try_from(end - begin).unwrap_or(0), Ordering::Relaxed);
                    let place = copy.map(|mut copy| {
                        if reaches_back.is_some() {
                            tracing::info!(
                                event = "snapshot_begun_anew",
                                topic = self.topic,
                                partition,
                                "the snapshot does not reach back far enough; it is begun anew"
                            );
                        }
                        copy.discard().map(|()| copy.begin(begin))
                    });
                    (From::Queue(self.assign(partition, begin, place)?), begin)
                }
            };
            self.tails.push(Tail {
                partition,
                from,
                fresh: Vec::new(),
                unread,
                low: clock,
                next,
                at: clock,
                marked: None,
                passed: Vec::new(),
                ended: None,
                beyond: None,
            });
            if clock > 0 {
                tracing::warn!(
                    event = "partition_added",
                    topic = self.topic,
                    partition,
                    "a new partition: what it holds counts from now on"
                );
            }
        }
        Ok(())
    }

    /// Reads a partition from Kafka from now on, and goes on with its snapshot.
    fn assign(
        &mut self,
        partition: i32,
        begin: i64,
        place: Option<io::Result<CopyEnd>>,
    ) -> anyhow::Result<Rc<PartitionQueue<DefaultConsumerContext>>> {
        match place {
            Some(Ok(place)) => self.recorder.open(place),
            Some(Err(error)) => {
                tracing::warn!(event = "snapshot_unusable", %error, topic = self.topic, partition, "cannot use the snapshot; going on without")
            }
            None => {}
        }
        // Before the partition is assigned: librdkafka then leaves its queue alone. Otherwise records that are
        // fetched in between come through the client's own queue, past the credit.
        let queue = self.consumer.split_partition_queue(&self.topic, partition);
        let mut queue = queue.with_context(|| format!("cannot read partition {partition} of {}", self.topic))?;
        let wake = Arc::clone(&self.wake);
        queue.set_nonempty_callback(move || {
            // An error says that the worker is gone, and so will be the queue.
            let _ = wake.activate();
        });
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(begin))?;
        self.consumer.incremental_assign(&list).with_context(|| format!("cannot read the topic {}", self.topic))?;
        Ok(Rc::new(queue))
    }

    /// How far each partition has been read, where that is news: by the end of each tick, and now. So whatever tick is
    /// committed, what had been read by its end is known to the record.
    fn marks(&mut self) -> impl Iterator<Item = (Mark, Ms)> {
        let kind = self.kind;
        self.tails.iter_mut().flat_map(move |tail| {
            tail.mark(kind);
            std::mem::take(&mut tail.passed)
        })
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
                Err(error) => self.complain(&error),
            }
        }
    }

    /// Warns of what may pass, and ends the job for what won't.
    fn complain(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let topic = &self.topic;
                self.stop.fail(anyhow::anyhow!(
                    "records of {topic} were deleted before the job had read them: it is slower than they are kept for, or somebody deleted them; the next start says how many"
                ));
            }
            error => self.complaints.warn(&self.topic, &error.to_string()),
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
        if message.offset() >= tail.unread {
            tail.low = tail.low.max(self.resume.frontier);
        }
        if appended < tail.low {
            self.meter.clamped.fetch_add(1, Ordering::Relaxed);
        }
        tail.low = tail.low.max(appended);
        (tail.ended, tail.beyond) = (None, None);
        let at = Place { partition: tail.partition, offset: message.offset() };
        let found = Found { kind: self.kind, key: message.key(), payload: message.payload(), place: at, source: &self.topic };
        let (arrival, at) = decode(found, tail.low, &self.times);
        tail.read(self.kind, message.offset(), at);
        let bytes = message.payload_len() + message.key_len();
        self.credit.take(at, bytes);
        self.meter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.meter.count(self.kind, &arrival);
        if self.recorder.is_on() {
            let last = Last::of(message.offset(), message.timestamp().to_millis().unwrap_or(0), message.payload().unwrap_or_default());
            tail.fresh.push((Row { offset: message.offset(), log_time: tail.low, arrival: arrival.clone(), bytes }, last));
        }
        hit("source.taken");
        (arrival, at)
    }

    /// Takes a record that a snapshot has of a partition.
    fn take_copied(&mut self, place: usize, row: Row) -> (Arrival, Ms) {
        let Row { offset, log_time, arrival, bytes } = row;
        let tail = &mut self.tails[place];
        if offset >= tail.unread {
            tail.low = tail.low.max(self.resume.frontier);
        }
        tail.low = tail.low.max(log_time);
        tail.read(self.kind, offset, tick_end(tail.low, self.times.tick));
        self.credit.take(tail.at, bytes);
        self.meter.count(self.kind, &arrival);
        self.meter.copied.fetch_add(1, Ordering::Relaxed);
        (arrival, tail.at)
    }

    /// The snapshot of a partition has been read: Kafka has the rest.
    fn go_on(&mut self, place: usize) -> anyhow::Result<()> {
        let tail = &mut self.tails[place];
        let (partition, next) = (tail.partition, tail.next);
        let From::Snapshot(copied) = std::mem::replace(&mut tail.from, From::Nowhere) else { return Ok(()) };
        let place_of_copy = copied.finish();
        let (start, end) = {
            let seen = self.watch.seen();
            let end = seen.ends.as_ref().and_then(|(_, ends)| ends.get(&partition)).copied().unwrap_or(next);
            (seen.starts.get(&partition).copied().unwrap_or(0), end)
        };
        let begin = self.begin(Extent { partition, start, begin: next, end }, Some(next))?;
        let queue = self.assign(partition, begin, Some(Ok(place_of_copy)))?;
        self.tails[place].from = From::Queue(queue);
        self.tails[place].next = begin;
        Ok(())
    }

    /// Reads one partition as far as its turn and the credit go; says when to come again.
    fn drain(&mut self, place: usize, give: &mut dyn FnMut((Arrival, Ms))) -> Duration {
        if !self.record(place) {
            return NO_CREDIT;
        }
        let again = match &self.tails[place].from {
            From::Snapshot(_) => self.drain_snapshot(place, give),
            From::Queue(queue) => {
                let queue = Rc::clone(queue);
                self.drain_queue(place, &queue, give)
            }
            From::Nowhere => RECHECK,
        };
        self.record(place);
        again
    }

    /// Hands what was read over to be copied; whether there is room for more.
    fn record(&mut self, place: usize) -> bool {
        let tail = &mut self.tails[place];
        self.recorder.take(tail.partition, &mut tail.fresh)
    }

    fn drain_snapshot(&mut self, place: usize, give: &mut dyn FnMut((Arrival, Ms))) -> Duration {
        for _ in 0..PER_TURN {
            if !self.credit.allows(tick_end(self.tails[place].low, self.times.tick)) {
                return NO_CREDIT;
            }
            let From::Snapshot(copied) = &mut self.tails[place].from else { return Duration::ZERO };
            match copied.advance() {
                Next::Row(row) => give(self.take_copied(place, row)),
                Next::End(_) => {
                    if let Err(error) = self.go_on(place) {
                        self.stop.fail(error);
                    }
                    return Duration::ZERO;
                }
            }
        }
        Duration::ZERO
    }

    fn drain_queue(
        &mut self,
        place: usize,
        queue: &PartitionQueue<DefaultConsumerContext>,
        give: &mut dyn FnMut((Arrival, Ms)),
    ) -> Duration {
        for _ in 0..PER_TURN {
            if !self.credit.allows(tick_end(self.tails[place].low, self.times.tick)) {
                return NO_CREDIT;
            }
            let Some(event) = queue.poll(Duration::ZERO) else { return RECHECK };
            match event {
                Ok(message) => give(self.take(place, &message)),
                Err(KafkaError::PartitionEOF(_)) => self.tails[place].ended = Some(Instant::now()),
                Err(error) => self.complain(&error),
            }
        }
        Duration::ZERO
    }

    /// Moves partitions that have been read to their end up to the moment at which that was their end.
    fn follow_the_wall_clock(&mut self) {
        let seen = self.watch.seen();
        let Some((at, ends)) = &seen.ends else { return };
        let mut positions = None;
        for tail in self.tails.iter_mut().filter(|tail| matches!(tail.from, From::Queue(_))) {
            let Some(end) = ends.get(&tail.partition) else { continue };
            let start = seen.starts.get(&tail.partition).copied().unwrap_or(0);
            let mut next = tail.next.max(start);
            if next < *end && tail.ended.is_some() {
                // Markers of transactions have offsets and are no records: the client knows how far it has come.
                let list = positions.get_or_insert_with(|| self.consumer.position().ok());
                let position = list.as_ref().and_then(|list| list.find_partition(&self.topic, tail.partition)?.offset().into());
                next = next.max(position.and_then(exact).unwrap_or(0));
            }
            // From when this end was first seen: a record that is on its way is not nothing.
            let hollow = next < *end && tail.ended.is_some() && {
                let since = match tail.beyond {
                    Some((of, since)) if of == *end => since,
                    _ => Instant::now(),
                };
                tail.beyond = Some((*end, since));
                since.elapsed() > HOLLOW_END
            };
            if next >= *end || hollow {
                tail.low = tail.low.max(at.saturating_sub(self.idle_slack));
            }
        }
    }
}

#[cfg(test)]
mod tests;
