//! The source against librdkafka's mock cluster. It stamps no append time: records carry the producer's.

use super::broker_clock::BrokerClock;
use super::reached::Reached;
use super::*;
use crate::dataflow::rows::Arrival;
use crate::engine;
use crate::model::outputs::{Output, Topic};
use crate::model::time::{now, tick_end};
use crate::sinks::outbox::{Batch, Door, deliver};
use rdkafka::message::Timestamp;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concatenate as _, Probe};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TICK: Ms = 100;

fn cluster(brokers: i32, partitions: i32) -> Mock {
    let mock = MockCluster::new(brokers).expect("a mock cluster");
    for topic in ["clicks", "forms"] {
        mock.create_topic(topic, partitions, 1).expect("a topic");
    }
    mock
}

fn click(id: &str, ts: Ms) -> String {
    format!(r#"{{"id":"{id}","ts":{ts},"workspace":"w","link":"l"}}"#)
}

/// Appends clicks to a partition, each with the time it happened.
fn produce(mock: &Mock, partition: i32, clicks: &[(String, Ms)]) {
    let config = Kafka::at(mock.bootstrap_servers()).client(&[("linger.ms", "1")]);
    let producer: ThreadedProducer<_> = config.create().expect("a producer");
    for (id, ts) in clicks {
        let payload = click(id, *ts);
        let at = i64::try_from(*ts).expect("in range");
        let record = BaseRecord::<(), _>::to("clicks").payload(&payload).partition(partition).timestamp(at);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(Duration::from_secs(20)).expect("delivered");
}

/// A batch's upper end, and what it says has been read.
type Read = (Ms, Vec<Mark>);

/// A door that keeps what it gets, and commits it at once unless it is shut.
#[derive(Clone, Default)]
struct Kept {
    outputs: Arc<Mutex<Vec<String>>>,
    /// What was said to have been read, by the upper end of the batch.
    read: Arc<Mutex<Vec<Read>>>,
    committed: Arc<AtomicU64>,
    /// What was to be written down for the next start.
    notes: Arc<Mutex<Vec<Output>>>,
    shut: Arc<AtomicBool>,
}

impl Door for Kept {
    fn offer(&mut self, mut batch: Batch) -> Result<(), Batch> {
        if self.shut.load(Ordering::Relaxed) {
            return Err(batch);
        }
        let outputs = batch.take_sorted();
        self.read.lock().expect("not poisoned").push((batch.upper, batch.read));
        let (notes, outputs): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|output| output.topic == Topic::State);
        self.notes.lock().expect("not poisoned").extend(notes);
        self.outputs.lock().expect("not poisoned").extend(outputs.into_iter().map(|output| output.key));
        self.committed.store(batch.upper, Ordering::Release);
        Ok(())
    }
    fn committed(&self) -> Ms {
        self.committed.load(Ordering::Acquire)
    }
}

/// Clicks and forms read into a door; `id@tick` for each click.
struct Run {
    door: Kept,
    reading: Reading,
    worker: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Run {
    fn start(mock: &Mock, workers: usize, in_flight_bytes: usize, shut: bool) -> Self {
        Run::resumed(mock, workers, in_flight_bytes, shut, Resume::default())
    }

    fn resumed(mock: &Mock, workers: usize, in_flight_bytes: usize, shut: bool, resume: Resume) -> Self {
        Run::by(BrokerClock::wall(Arc::new(now)), mock, workers, in_flight_bytes, shut, resume)
    }

    fn by(clock: BrokerClock, mock: &Mock, workers: usize, in_flight_bytes: usize, shut: bool, resume: Resume) -> Self {
        Run::with(clock, mock, workers, in_flight_bytes, shut, resume, None)
    }

    /// The same with snapshots in a folder.
    fn with(
        clock: BrokerClock,
        mock: &Mock,
        workers: usize,
        in_flight_bytes: usize,
        shut: bool,
        resume: Resume,
        snapshots: Option<&Path>,
    ) -> Self {
        let door = Kept { shut: Arc::new(AtomicBool::new(shut)), ..Kept::default() };
        let reading = Reading {
            kafka: Kafka::at(mock.bootstrap_servers()),
            times: Times::with_tick(TICK),
            // A machine that runs other tests beside this one is slow to append.
            limits: Limits { in_flight_bytes, idle_slack: 200 },
            resume,
            snapshots: snapshots.map(|folder| Snapshots { folder: folder.to_owned(), keep_clicks: Ms::MAX, keep_forms: Ms::MAX }),
            clock,
            asker: Asker::default(),
            meter: Arc::default(),
            stop: Stop::new(),
        };
        let (of_door, of_reading, stop) = (door.clone(), reading.clone(), reading.stop.clone());
        let worker = thread::spawn(move || {
            engine::run(workers, &stop, move |scope, worker, probe| {
                let [clicks, forms] = [Kind::Clicks, Kind::Forms].map(|kind| topic(scope, kind, &of_reading, probe.clone()));
                let marks = scope.concatenate([clicks.marks, forms.marks]);
                let outputs = scope.concatenate([clicks.arrivals, forms.arrivals]).map(|(arrival, at)| {
                    let key = match arrival {
                        Arrival::Click(_, click) => format!("{}@{at}", click.id),
                        other => format!("{other:?}"),
                    };
                    (Output { topic: Topic::Timeline, key, value: Vec::new() }, at)
                });
                let outputs = scope.concatenate([outputs, clicks.notes, forms.notes]);
                deliver(outputs, marks, 0, (worker == 0).then(|| of_door.clone())).probe_with(probe);
            })
        });
        Run { door, reading, worker: Some(worker) }
    }

    fn committed(&self) -> Ms {
        self.door.committed()
    }

    fn outputs(&self) -> Vec<String> {
        self.door.outputs.lock().expect("not poisoned").clone()
    }

    /// What a start that goes on from here resumes with: how far it is, and what it has written down, beside `before`.
    fn left(&self, before: Resume) -> Resume {
        let mut offsets = before.offsets;
        for (_, marks) in self.door.read.lock().expect("not poisoned").iter() {
            for Mark { kind, partition, next } in marks {
                offsets.entry(*kind).or_default().insert(*partition, *next);
            }
        }
        let mut reached = (*before.reached).clone();
        for note in self.door.notes.lock().expect("not poisoned").iter() {
            let note = Reached::read(&note.value).expect("a note");
            reached.entry(note.topic).or_default().entry(note.partition).or_default().insert(note.offset, note.log_time);
        }
        Resume { offsets, frontier: self.committed(), reached: Arc::new(reached), ..before }
    }

    /// Waits until the clock has passed `at`.
    fn reach(&self, at: Ms) {
        let began = Instant::now();
        while self.committed() < at {
            assert!(began.elapsed() < Duration::from_secs(30), "the clock stands at {} and should reach {at}", self.committed());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.reading.stop.ask();
        if let Some(worker) = self.worker.take() {
            worker.join().expect("no panic").expect("no failure");
        }
    }
}

fn numbered(prefix: &str, from: Ms, count: u64) -> Vec<(String, Ms)> {
    (0..count).map(|n| (format!("{prefix}{n}"), from + n)).collect()
}

#[test]
fn an_idle_topic_does_not_stall_the_clock() {
    let mock = cluster(1, 2);
    let from = now() - 60_000;
    produce(&mock, 0, &numbered("a", from, 50));
    let run = Run::start(&mock, 2, 1 << 20, false);
    let began = now();
    run.reach(began); // partition 1 and all of `forms` are empty
    let mut said = run.outputs();
    said.sort_unstable();
    let mut expected: Vec<String> = numbered("a", from, 50).into_iter().map(|(id, ts)| format!("{id}@{}", tick_end(ts, TICK))).collect();
    expected.sort_unstable();
    assert_eq!(said, expected);
    // What comes now comes in its own tick, and soon.
    let ts = now();
    produce(&mock, 1, &[("late".to_owned(), ts)]);
    run.reach(tick_end(ts, TICK) + 1);
    assert!(run.outputs().contains(&format!("late@{}", tick_end(ts, TICK))), "{:?}", run.outputs().last());
    assert_eq!(run.reading.meter.clamped(), 0);
}

#[test]
fn a_wall_clock_that_jumps_moves_nothing_once_the_brokers_have_stamped() {
    let mock = cluster(1, 2);
    let shift = Arc::new(AtomicI64::new(3_600_000));
    let wrong = Arc::clone(&shift);
    let clock = BrokerClock::new(Arc::new(move || now().saturating_add_signed(wrong.load(Ordering::Relaxed))));
    let run = Run::by(clock.clone(), &mock, 2, 1 << 20, false, Resume::default());
    let ends = || run.reading.meter.places().len() == 4;
    let began = Instant::now();
    while !ends() {
        assert!(began.elapsed() < Duration::from_secs(30), "the partitions are known");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(run.committed(), 0, "nothing is known of the brokers' clock");
    for (n, jump) in [3_600_000, -3_600_000, 0, 86_400_000 * 40].into_iter().enumerate() {
        shift.store(jump, Ordering::Relaxed);
        clock.delivered(clock.moment(), Timestamp::LogAppendTime(i64::try_from(now()).expect("in range")));
        let ts = now();
        run.reach(tick_end(ts, TICK) + 1); // all topics are idle, and their end was seen with this clock
        let ts = now();
        produce(&mock, 1, &[(n.to_string(), ts)]);
        run.reach(tick_end(ts, TICK) + 1);
        assert!(run.outputs().contains(&format!("{n}@{}", tick_end(ts, TICK))), "{jump} ms: {:?}", run.outputs());
        assert!(run.committed() <= now() + TICK, "{jump} ms: the frontier is at {}", run.committed());
    }
    assert_eq!(run.reading.meter.clamped(), 0);
}

#[test]
fn a_partition_that_cannot_be_read_holds_the_clock_back() {
    let mock = cluster(2, 2);
    mock.partition_leader("clicks", 0, Some(1)).expect("a leader");
    mock.partition_leader("clicks", 1, Some(2)).expect("a leader");
    for partition in 0..2 {
        mock.partition_leader("forms", partition, Some(1)).expect("a leader");
    }
    let from = now() - 60_000;
    produce(&mock, 0, &numbered("a", from, 20));
    produce(&mock, 1, &numbered("b", from + 5_000, 20));
    mock.broker_down(2).expect("goes down");
    let run = Run::start(&mock, 2, 1 << 20, false);
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!((run.committed(), run.outputs().len()), (0, 0), "nothing is known of the partition whose broker is away");
    mock.broker_up(2).expect("comes up");
    run.reach(from + 10_000);
    assert_eq!(run.outputs().len(), 40);
    assert_eq!(run.reading.meter.clamped(), 0, "nothing was passed over");
}

#[test]
fn what_is_in_flight_stays_within_the_credit() {
    let mock = cluster(1, 2);
    let from = now() - 600_000;
    // A record a tick, so that no tick by itself needs more than the credit.
    for partition in 0..2 {
        let clicks: Vec<(String, Ms)> = (0..1_000).map(|n| (format!("{partition}-{n}"), from + n * TICK)).collect();
        produce(&mock, partition, &clicks);
    }
    let record = click("0-999", from).len() + 256;
    let limit = 100 * record;
    let shut = Run::start(&mock, 1, limit, true);
    thread::sleep(Duration::from_millis(1_500));
    let peak = usize::try_from(shut.reading.meter.peak_in_flight()).expect("small");
    // One record of each partition tells which tick the clock waits for.
    assert!(peak >= limit - record && peak <= limit + 2 * record, "{peak} bytes in flight, {limit} allowed");
    assert!(shut.reading.meter.total() <= 102);
    drop(shut);
    // With a door that opens, the same credit lets everything through.
    let open = Run::start(&mock, 2, limit, false);
    open.reach(from + 1_000 * TICK);
    assert_eq!(open.outputs().len(), 2_000);
    // Each worker may exceed it by what the tick of the global frontier needs.
    assert!(usize::try_from(open.reading.meter.peak_in_flight()).expect("small") <= limit + 4 * record);
}

#[test]
fn a_worker_without_partitions_holds_nothing_back() {
    let mock = cluster(1, 1);
    let run = Run::start(&mock, 3, 1 << 20, false);
    // Workers 1 and 2 have no partition at all.
    run.reach(now());
    let ts = now();
    produce(&mock, 0, &[("first".to_owned(), ts)]);
    run.reach(tick_end(ts, TICK) + 1);
    assert_eq!(run.outputs(), [format!("first@{}", tick_end(ts, TICK))]);
}

#[test]
fn what_was_not_read_belongs_to_no_tick_that_was_committed() {
    let mock = cluster(1, 2);
    let from = now() - 60_000;
    produce(&mock, 0, &numbered("a", from, 3));
    produce(&mock, 1, &numbered("b", from, 2));
    // A job had committed all up to half a minute ago; it had seen one of these records, and nothing of partition 1.
    let frontier = tick_end(from + 30_000, TICK);
    let offsets = [(Kind::Clicks, [(0, 1)].into())].into();
    let run = Run::resumed(&mock, 2, 1 << 20, false, Resume { offsets, frontier, ..Resume::default() });
    run.reach(frontier + TICK);
    let mut said = run.outputs();
    said.sort_unstable();
    let own = tick_end(from, TICK);
    assert_eq!(
        said,
        [format!("a0@{own}"), format!("a1@{frontier}"), format!("a2@{frontier}"), format!("b0@{frontier}"), format!("b1@{frontier}")]
    );
}

#[test]
fn how_far_was_read_is_known_for_every_tick() {
    let mock = cluster(1, 1);
    let from = now() - 600_000;
    // Ticks of one to three records, all read in one turn and committed bit by bit.
    let clicks: Vec<(String, Ms)> = (0..200).map(|n| (format!("{n}"), from + n * 40)).collect();
    produce(&mock, 0, &clicks);
    let run = Run::start(&mock, 1, 4_096, false);
    run.reach(from + 200 * 40 + TICK);
    let read = run.door.read.lock().expect("not poisoned").clone();
    let mut known = 0;
    for (upper, marks) in read.iter().filter(|(upper, _)| *upper <= from + 200 * 40) {
        known = marks.iter().filter(|mark| mark.kind == Kind::Clicks).map(|mark| mark.next).max().unwrap_or(known);
        let before = clicks.iter().filter(|(_, ts)| tick_end(*ts, TICK) < *upper).count();
        assert_eq!(usize::try_from(known).expect("an offset"), before, "by {upper}");
    }
    assert!(read.len() > 5, "{} batches", read.len());
}

/// A replay of 33 days on one partition, beside one with a few late records and one with none: whoever is behind is read
/// first, and nobody runs ahead further than the credit.
#[test]
fn a_long_replay_beside_short_and_empty_partitions_stays_within_the_credit() {
    let from = now() - 33 * crate::model::time::DAY;
    let step = 33 * crate::model::time::DAY / 3_000 / TICK * TICK;
    for workers in [1, 3] {
        let mock = cluster(1, 3);
        let long: Vec<(String, Ms)> = (0..3_000).map(|n| (format!("long{n:04}"), from + n * step)).collect();
        // Near its end, so that the short partition is far ahead all the time.
        let short: Vec<(String, Ms)> = (0..500).map(|n| (format!("short{n:03}"), from + 2_990 * step + n * TICK)).collect();
        produce(&mock, 0, &long);
        produce(&mock, 1, &short);
        let record = click("short000", from).len() + 256;
        let limit = 50 * record;
        let run = Run::start(&mock, workers, limit, false);
        run.reach(from + 3_000 * step);
        let mut said = run.outputs();
        said.sort_unstable();
        let mut expected: Vec<String> = long.iter().chain(&short).map(|(id, ts)| format!("{id}@{}", tick_end(*ts, TICK))).collect();
        expected.sort_unstable();
        assert_eq!(said, expected, "{workers} workers: all, each in its own tick");
        assert_eq!(run.reading.meter.clamped(), 0, "nobody was taken for idle before it was read to its end");
        let peak = usize::try_from(run.reading.meter.peak_in_flight()).expect("small");
        // A record a tick: the tick that the clock waits for may come in beyond the credit, one of each partition.
        assert!(peak <= limit + 3 * record, "{workers} workers: {peak} bytes in flight, {limit} allowed");
    }
}

/// The partition with the backlog runs ahead of one whose broker is away by the credit and no further.
#[test]
fn a_backlog_waits_within_the_credit_for_a_partition_that_cannot_be_read() {
    for workers in [1, 2] {
        let mock = cluster(2, 2);
        mock.partition_leader("clicks", 0, Some(1)).expect("a leader");
        mock.partition_leader("clicks", 1, Some(2)).expect("a leader");
        for partition in 0..2 {
            mock.partition_leader("forms", partition, Some(1)).expect("a leader");
        }
        let from = now() - 3_600_000;
        let long: Vec<(String, Ms)> = (0..2_000).map(|n| (format!("long{n:04}"), from + n * TICK)).collect();
        produce(&mock, 0, &long);
        produce(&mock, 1, &[("late".to_owned(), from + 1_000 * TICK)]);
        mock.broker_down(2).expect("goes down");
        let record = click("long0000", from).len() + 256;
        let limit = 50 * record;
        let run = Run::start(&mock, workers, limit, false);
        thread::sleep(Duration::from_millis(1_500));
        assert_eq!(run.outputs().len(), 0, "no tick can close");
        let peak = usize::try_from(run.reading.meter.peak_in_flight()).expect("small");
        assert!(peak <= limit + 2 * record, "{workers} workers: {peak} bytes in flight, {limit} allowed");
        mock.broker_up(2).expect("comes up");
        run.reach(from + 2_000 * TICK);
        assert_eq!(run.outputs().len(), 2_001);
        assert_eq!(run.reading.meter.clamped(), 0);
    }
}

/// What was said of clicks in ticks that end at `from` or later, sorted.
fn said_from(run: &Run, from: Ms) -> Vec<String> {
    let tick = |said: &String| said.split_once('@').and_then(|(_, at)| at.parse::<Ms>().ok());
    let mut said: Vec<String> = run.outputs().into_iter().filter(|said| tick(said) >= Some(from)).collect();
    said.sort();
    said
}

/// Records that become readable after the clock has passed their append times, one alone and some in a row, are taken by every later start
/// when the first one took them: with and without a snapshot, and by another number of workers.
#[test]
fn what_came_late_is_taken_at_the_same_time_by_every_start() {
    let (mock, folder) = (cluster(1, 2), tempfile::tempdir().expect("a folder"));
    let from = now() - 60_000;
    produce(&mock, 0, &numbered("a", from, 3));
    produce(&mock, 1, &numbered("b", from + 5, 2));
    let start = |workers, resume, snapshots| Run::with(BrokerClock::wall(Arc::new(now)), &mock, workers, 1 << 20, false, resume, snapshots);
    let first = start(2, Resume::default(), Some(folder.path()));
    first.reach(now());
    for name in ["late", "later"] {
        produce(&mock, 0, &numbered(name, now() - 30_000, 3));
        first.reach(now());
        // In order again.
        produce(&mock, 0, &[(format!("{name}-on"), now())]);
        first.reach(now() + 2 * TICK);
    }
    let (clamped, resume) = (first.reading.meter.clamped(), first.left(Resume::default()));
    let whole = said_from(&first, 0);
    assert!(clamped >= 6 && whole.len() == 13, "{clamped} late ones of {whole:?}");
    drop(first); // it hands over what is to be copied
    // One for each row of late ones, unless the clock moved on within it, and the first record of each partition.
    let notes: usize = resume.reached.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
    assert!((4..=10).contains(&notes), "{:?}", resume.reached);

    for (workers, snapshots) in [(1, None), (3, None), (2, Some(folder.path()))] {
        // Nothing that was said is said again; so it is as if it had just begun.
        let again = start(workers, Resume { frontier: 0, ..resume.clone() }, snapshots);
        again.reach(now());
        assert_eq!(said_from(&again, 0), whole, "{workers} workers, snapshot: {}", snapshots.is_some());
        assert_eq!(again.reading.meter.copied() > 0, snapshots.is_some());
        assert_eq!(again.door.notes.lock().expect("not poisoned").len(), 0, "all is noted already");
    }
}

/// What a start takes later than its append time, because the one before had not read it, or had committed nothing of it, is taken then by all
/// that follow.
#[test]
fn what_a_restart_takes_late_is_taken_then_by_those_that_follow() {
    let (mock, folder) = (cluster(1, 1), tempfile::tempdir().expect("a folder"));
    let from = now() - 60_000;
    produce(&mock, 0, &numbered("a", from, 4));
    let start = |resume, shut, snapshots| Run::with(BrokerClock::wall(Arc::new(now)), &mock, 1, 1 << 20, shut, resume, snapshots);
    // One that reads all, copies it, and commits nothing.
    let shut = start(Resume::default(), true, Some(folder.path()));
    while shut.reading.meter.total() < 4 {
        thread::sleep(Duration::from_millis(5));
    }
    drop(shut);
    // So goes one on that knows of the first two, and had come to half a minute ago.
    let frontier = tick_end(from + 30_000, TICK);
    let before = Resume { offsets: [(Kind::Clicks, [(0, 2)].into())].into(), frontier, ..Resume::default() };
    let own = tick_end(from, TICK);
    let expected = [format!("a0@{own}"), format!("a1@{own}"), format!("a2@{frontier}"), format!("a3@{frontier}")];
    for snapshots in [Some(folder.path()), None] {
        let second = start(before.clone(), false, snapshots);
        second.reach(now());
        assert_eq!(said_from(&second, frontier), expected[2..]);
        let resume = second.left(before.clone());
        assert!(resume.offsets[&Kind::Clicks][&0] == 4 && resume.frontier > frontier);
        drop(second);
        for snapshots in [Some(folder.path()), None] {
            let third = start(Resume { frontier: 0, ..resume.clone() }, false, snapshots);
            third.reach(now());
            assert_eq!(said_from(&third, 0), expected, "snapshot: {}", snapshots.is_some());
        }
    }
}

/// A partition at its end whose records wait while another one of its topic has all the credit holds the clock: nobody has looked whether
/// something came.
#[test]
fn a_partition_that_is_not_read_for_want_of_credit_is_not_idle() {
    let mock = cluster(1, 2);
    let from = now() - 60_000;
    produce(&mock, 1, &[("first".to_owned(), from)]);
    let run = Run::start(&mock, 1, 2_048, false);
    run.reach(now());
    run.door.shut.store(true, Ordering::Relaxed);
    // More than the credit, each in a tick of its own.
    let began = now();
    for n in 0..20 {
        produce(&mock, 0, &[(format!("much{n}"), now())]);
        thread::sleep(Duration::from_millis(TICK));
    }
    let ts = now();
    produce(&mock, 1, &[("waits".to_owned(), ts)]);
    thread::sleep(Duration::from_secs(7));
    run.door.shut.store(false, Ordering::Relaxed);
    run.reach(now());
    assert_eq!(said_from(&run, began).len(), 21);
    assert_eq!(run.reading.meter.clamped(), 0);
    assert!(run.outputs().contains(&format!("waits@{}", tick_end(ts, TICK))), "{:?}", said_from(&run, began));
}
