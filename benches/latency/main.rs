//! From a click's append to its delta record, or to its event in HubSpot: how long.
//!
//! ```text
//! tests/kafka/fetch && cargo bench --bench latency -- [--workers 2] [--seconds 20] [--rate CLICKS_PER_SECOND] [--kafka HOST:PORT]
//! tests/kafka/fetch && cargo bench --bench latency -- --timeline [--rate 50] [--seconds 60]
//! ```
//!
//! The job runs as it does in production: a real Apache Kafka, transactions, the default tick of 100 ms. A producer on a
//! thread of its own keeps to its schedule whatever happens (open loop) and writes into each click when it was to be sent.
//! A reader with `read_committed` sees its timeline event and says how long after that, and after the broker had appended the click, it could be
//! read. So a stall delays all clicks that were to come in it, and all of them count: nothing is omitted. From schedule to append is the producer's
//! and the broker's time, from append to readable delta the job's. Times are whole milliseconds of one clock; the topic must have the broker's append time.
//!
//! First the rate is doubled, then raised by halves of what is left, until the job falls behind: at the end of a trial of half the measurement's time its
//! clock is more than [`BEHIND`] behind the wall clock. Then half of the highest rate that was held is measured. A step is
//! one step of a worker in which records were read or a tick closed. Broker, producer, reader and job share the machine.
//!
//! With `--timeline` the HubSpot sink runs behind the job and writes to a sandbox (see [`timeline`]); the rate is what is asked for.

#[path = "../dataflow/generate.rs"]
#[expect(dead_code, reason = "the mirror is not wanted here")]
mod generate;
#[path = "../../tests/support/mod.rs"]
mod support;
mod timeline;

use clap::Parser;
use clickline::dataflow::build;
use clickline::dataflow::plan::{Counts, Plan, Times};
use clickline::kafka::Kafka;
use clickline::model::Click;
use clickline::model::time::{Ms, millis, now};
use clickline::sinks::outbox::kafka::Outbox;
use clickline::sinks::outbox::{Progress, deliver, topics};
use clickline::sources::kafka::broker_clock::BrokerClock;
use clickline::sources::kafka::watch::Asker;
use clickline::sources::kafka::{Limits, Reading, Resume, topic};
use clickline::sources::{Kind, Meter};
use clickline::stop::Stop;
use generate::{Generator, Made};
use hdrhistogram::Histogram;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{DeliveryResult, Message as _, Timestamp};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use timely::dataflow::operators::{Concatenate as _, Probe as _};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From a click's append to its delta record, or to its event in HubSpot: how long.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Worker threads of the job.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// How long the measurement lasts, 20 s where absent and 60 s with `--timeline`; a trial lasts half of it.
    #[arg(long)]
    seconds: Option<u64>,
    /// Clicks per second of the measurement, after one trial of them, without looking for the highest rate; 50 where absent with `--timeline`.
    #[arg(long)]
    rate: Option<u64>,
    /// Measure to the event in HubSpot.
    #[arg(long)]
    timeline: bool,
    /// The first trial's rate.
    #[arg(long, default_value_t = 4_000)]
    from: u64,
    /// How far a partition that was read to its end stays behind the wall clock, ms; the job's default where absent.
    #[arg(long)]
    idle_slack: Option<Ms>,
    /// A broker that runs already and is empty; one of its own where absent.
    #[arg(long)]
    kafka: Option<String>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A job whose clock is further behind than this at the end of a trial does not hold the rate: five ticks, in which it can't hide that it falls behind.
const BEHIND: Ms = 500;
/// Partitions of the topic of clicks.
const PARTITIONS: i32 = 4;

/// The job on threads of its own, with a look at its steps.
struct Running {
    stop: Stop,
    committed: Arc<AtomicU64>,
    /// Steps are looked at from now on.
    measured: Arc<AtomicBool>,
    steps: Arc<Mutex<Histogram<u64>>>,
    threads: Vec<JoinHandle<()>>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("ten minutes at most, three digits")
}

fn start(kafka: &Kafka, args: &Args) -> Running {
    let plan = Plan { times: Times::with_tick(100), ..generate::plan(Counts::Ruled, 0) };
    let stop = Stop::new();
    topics::ensure(kafka, &topics::needed(kafka, &plan), &stop).expect("topics");
    let clock = BrokerClock::new(Arc::new(now));
    let outbox = Outbox::open(kafka, &clock, &stop).expect("an outbox");
    let (committed, steps) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(histogram())));
    let (committer, thread) = outbox
        .start(
            Progress { tick: plan.times.tick, counts_since: Some(0), ..Progress::default() },
            Arc::clone(&committed),
            Arc::new(AtomicBool::new(false)),
            Arc::default(),
        )
        .expect("a thread");
    let mut limits = Limits::default();
    limits.idle_slack = args.idle_slack.unwrap_or(limits.idle_slack);
    let meter: Arc<Meter> = Arc::default();
    let reading = Reading {
        kafka: kafka.clone(),
        times: plan.times,
        limits,
        resume: Resume::default(),
        snapshots: None,
        clock,
        asker: Asker::default(),
        meter: Arc::clone(&meter),
        stop: stop.clone(),
    };
    let (once, plan, of_steps, asked) = (Mutex::new(Some(committer)), Arc::new(plan), Arc::clone(&steps), stop.clone());
    let measured = Arc::new(AtomicBool::new(false));
    let looked_at = Arc::clone(&measured);
    let mut config = timely::Config::process(args.workers);
    config.worker = config.worker.idle_spin(Duration::ZERO);
    let workers = timely::execute(config, move |worker| {
        let probe = timely::dataflow::ProbeHandle::new();
        let index = worker.index();
        worker.dataflow::<Ms, _, _>(|scope| {
            let door = if index == 0 { once.lock().expect("not poisoned").take() } else { None };
            let streams = Kind::ALL.map(|kind| topic(scope, kind, &reading, probe.clone()));
            let (arrivals, marks): (Vec<_>, Vec<_>) = streams.into_iter().map(|of| (of.arrivals, of.marks)).unzip();
            deliver(build(scope.concatenate(arrivals), &plan), scope.concatenate(marks), 0, door).probe_with(&probe);
        });
        let mut mine = histogram();
        while !asked.asked() {
            let (read, closed) = (meter.total(), probe.with_frontier(|frontier| frontier.to_owned()));
            let step = Instant::now();
            worker.step();
            if meter.total() > read || probe.with_frontier(|frontier| frontier != closed.borrow()) {
                if looked_at.load(Ordering::Relaxed) {
                    mine.saturating_record(u64::try_from(step.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            } else {
                worker.step_or_park(Some(Duration::from_millis(5)));
            }
        }
        of_steps.lock().expect("not poisoned").add(mine).expect("the same bounds");
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    })
    .expect("workers start");
    let waiting = thread::spawn(move || drop(workers.join()));
    Running { stop, committed, measured, steps, threads: vec![waiting, thread] }
}

impl Running {
    /// How far its clock is behind ours, ms.
    fn behind(&self) -> Ms {
        now().saturating_sub(self.committed.load(Ordering::Acquire))
    }

    /// Waits until it is not behind.
    fn caught_up(&self) {
        let began = Instant::now();
        while self.behind() > BEHIND {
            assert!(began.elapsed() < Duration::from_secs(120), "the job does not catch up");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(self) -> Histogram<u64> {
        self.stop.ask();
        self.threads.into_iter().for_each(|thread| thread.join().expect("ends"));
        Arc::try_unwrap(self.steps).expect("workers are gone").into_inner().expect("not poisoned")
    }
}

/// A click as it is sent, made before anything is measured: the producer is another machine elsewhere.
struct Prepared {
    id: String,
    payload: Vec<u8>,
    /// Where the digits of its time lie.
    ts: usize,
}

impl Prepared {
    /// Of as many digits as all times between 2001 and 2286.
    const NO_TIME: Ms = 1_000_000_000_000;

    fn new(click: Click) -> Prepared {
        let click = Click { ts: Prepared::NO_TIME, ..click };
        let payload = serde_json::to_vec(&click).expect("a click is JSON");
        let text = std::str::from_utf8(&payload).expect("JSON is UTF-8");
        let ts = text.find(&format!("\"ts\":{}", Prepared::NO_TIME)).expect("a time") + "\"ts\":".len();
        Prepared { id: click.id, payload, ts }
    }

    /// Its record's payload when it happens at `ts`.
    fn at(&mut self, ts: Ms) -> &[u8] {
        let digits = ts.to_string();
        self.payload[self.ts..self.ts + digits.len()].copy_from_slice(digits.as_bytes());
        &self.payload
    }
}

/// So many clicks, others at each call: one whose id the job has seen before would have no effect.
fn clicks(total: u64) -> Vec<Click> {
    static CALL: AtomicU32 = AtomicU32::new(0x0199_f3c2);
    let call = CALL.fetch_add(1, Ordering::Relaxed);
    let mut generator = Generator::new(now(), total.max(1), 0);
    let clicks = generator.chunk(total).into_iter().filter_map(|(arrival, _)| match arrival {
        Made::Click(_, click) => Some(Click { id: format!("{call:08x}{}", &click.id[8..]), ..(*click).clone() }),
        _ => None,
    });
    clicks.collect()
}

/// The beginning of a schedule, which is for warming up, ms: the producer makes its connections, and broker and job go on after a pause
/// in which the clicks were made.
const WARM_UP: Ms = 5_000;

/// When the broker appended each click of a schedule, by its number in it, ms since the Unix epoch; 0 before that.
struct Appends(Vec<AtomicU64>);

impl ClientContext for Appends {}

impl ProducerContext for Appends {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, n: usize) {
        let message = result.as_ref().map_err(|(error, _)| error).expect("delivered");
        let Timestamp::LogAppendTime(at) = message.timestamp() else {
            panic!("create the topic of clicks with message.timestamp.type=LogAppendTime")
        };
        self.0[n].store(u64::try_from(at).expect("after 1970"), Ordering::Relaxed);
    }
}

/// What a producer did.
struct Produced {
    /// How late the last click was sent.
    late: Duration,
    /// By id, of clicks since it was warm: when it was to be sent, and when the broker had appended it, ms. Of one id the first counts.
    clicks: HashMap<String, (Ms, Ms)>,
}

/// Sends clicks at `rate`, each by its schedule; sets `measured` when it is warm.
fn produce(kafka: &Kafka, rate: u64, clicks: Vec<Click>, measured: &AtomicBool) -> Produced {
    let clicks: Vec<Prepared> = clicks.into_iter().map(Prepared::new).collect();
    let config = kafka.client(&[("queue.buffering.max.messages", "1000000"), ("acks", "1")]);
    let appends = Appends(clicks.iter().map(|_| AtomicU64::default()).collect());
    let producer: ThreadedProducer<Appends> = config.create_with_context(appends).expect("a producer");
    let length = Duration::from_secs_f64(clicks.len() as f64 / rate as f64);
    let (began, at) = (Instant::now(), now());
    let (mut partition, mut sent) = (0, Vec::with_capacity(clicks.len()));
    for (n, mut click) in (0u64..).zip(clicks) {
        let after = Duration::from_nanos(n * 1_000_000_000 / rate);
        while began.elapsed() < after {
            thread::sleep((after - began.elapsed().min(after)).min(Duration::from_millis(1)));
        }
        // The time by the schedule, not by the clock: a late producer makes no click younger.
        let ts = at + millis(after);
        if ts >= at + WARM_UP {
            measured.store(true, Ordering::Relaxed);
        }
        partition = (partition + 1) % PARTITIONS;
        let mut record = BaseRecord::<(), [u8], usize>::with_opaque_to("clicks", sent.len()).payload(click.at(ts)).partition(partition);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            thread::sleep(Duration::from_millis(1));
        }
        sent.push((click.id, ts));
    }
    let late = began.elapsed().saturating_sub(length);
    producer.flush(Duration::from_secs(60)).expect("delivered");
    let appended = producer.context().0.iter().map(|at| at.load(Ordering::Relaxed));
    let mut clicks = HashMap::new();
    for ((id, ts), appended) in sent.into_iter().zip(appended).filter(|((_, ts), _)| *ts >= at + WARM_UP) {
        clicks.entry(id).or_insert((ts, appended));
    }
    Produced { late, clicks }
}

/// Reads timeline events as they are committed, until asked to end: the click's id, and when it could be read, ms.
fn read(kafka: &Kafka, ends: &Arc<AtomicBool>) -> JoinHandle<Vec<(String, Ms)>> {
    let config = kafka.client(&[("group.id", "latency"), ("isolation.level", "read_committed"), ("fetch.wait.max.ms", "5")]);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let name = kafka.topics.timeline.clone();
    let ends = Arc::clone(ends);
    let metadata = consumer.fetch_metadata(Some(&name), Duration::from_secs(10)).expect("metadata");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        // What the trials left is not to be read while it is measured.
        let (_, end) = consumer.fetch_watermarks(&name, partition.id(), Duration::from_secs(10)).expect("its ends");
        list.add_partition_offset(&name, partition.id(), Offset::Offset(end)).expect("a place");
    }
    consumer.assign(&list).expect("assigned");
    thread::spawn(move || {
        let mut readable = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(5)) else { continue };
            let text = std::str::from_utf8(message.payload().unwrap_or_default()).expect("our own records are UTF-8");
            let id = text.split_once("\"click_id\":\"").and_then(|(_, rest)| rest.split('"').next()).expect("an id");
            readable.push((id.to_owned(), now()));
        }
        readable
    })
}

/// Where the time of clicks went.
struct Deltas {
    from_schedule: Histogram<u64>,
    to_append: Histogram<u64>,
    from_append: Histogram<u64>,
}

impl Deltas {
    fn of(produced: &Produced, readable: &[(String, Ms)]) -> Deltas {
        let mut deltas = Deltas { from_schedule: histogram(), to_append: histogram(), from_append: histogram() };
        for (id, readable) in readable {
            let Some((scheduled, appended)) = produced.clicks.get(id) else { continue };
            let took = |from: Ms, to: Ms| to.saturating_sub(from).max(1);
            deltas.from_schedule.saturating_record(took(*scheduled, *readable));
            deltas.to_append.saturating_record(took(*scheduled, *appended));
            deltas.from_append.saturating_record(took(*appended, *readable));
        }
        deltas
    }

    fn rows(&self) -> [(&str, &Histogram<u64>, u64); 3] {
        [
            ("from append to readable delta", &self.from_append, 1_000),
            ("from schedule to append", &self.to_append, 1_000),
            ("from schedule to readable delta", &self.from_schedule, 1_000),
        ]
    }
}

/// Whether the job holds `rate`.
fn holds(kafka: &Kafka, job: &Running, rate: u64, length: Duration) -> bool {
    let late = produce(kafka, rate, clicks(rate * length.as_secs()), &AtomicBool::default()).late;
    let behind = job.behind();
    println!("trial: {rate} clicks/s for {length:?}: the clock is {behind} ms behind, the producer {} ms", late.as_millis());
    let began = Instant::now();
    while job.behind() > BEHIND && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(50));
    }
    // A producer that can't keep to its schedule measures itself.
    behind <= BEHIND && late < Duration::from_millis(500)
}

fn main() {
    let args = Args::parse();
    let broker = if args.kafka.is_none() {
        let Some(broker) = support::kafka::Broker::start_if_there() else { return };
        broker.create_topic("clicks", PARTITIONS, &[]);
        Some(broker)
    } else {
        None
    };
    let address = args.kafka.clone().or(broker.as_ref().map(|broker| broker.address().to_owned())).expect("one of the two");
    let kafka = Kafka::at(address);
    if args.timeline {
        return timeline::measure(&kafka, &args);
    }
    let seconds = args.seconds.unwrap_or(20);
    let job = start(&kafka, &args);
    let trial = Duration::from_secs((seconds / 2).max(2));
    let rate = args.rate.unwrap_or_else(|| {
        let (mut held, mut next, mut failed) = (0, args.from, None);
        for _ in 0..10 {
            match holds(&kafka, &job, next, trial) {
                true => held = next,
                false => failed = Some(next),
            }
            next = failed.map_or(held * 2, |failed| (held + failed) / 2);
            if failed.is_some_and(|failed| failed - held <= failed / 8) {
                break;
            }
        }
        println!("highest rate held: {held} clicks/s");
        held / 2
    });
    if args.rate.is_some() {
        // As trials do: connections, tables, and a broker whose virtual machine has compiled what it runs.
        holds(&kafka, &job, rate, trial);
    }
    job.caught_up();
    // Made before anything is measured: that takes both processors a while.
    let clicks = clicks(rate * (seconds + WARM_UP / 1_000));
    let ends = Arc::new(AtomicBool::new(false));
    let reader = read(&kafka, &ends);
    let produced = produce(&kafka, rate, clicks, &job.measured);
    thread::sleep(Duration::from_secs(2));
    ends.store(true, Ordering::Relaxed);
    let deltas = Deltas::of(&produced, &reader.join().expect("reads"));
    let steps = job.stop();
    println!("{rate} clicks/s for {seconds} s on {} workers, the producer at most {} ms late", args.workers, produced.late.as_millis());
    let [appended, sent, scheduled] = deltas.rows();
    table(&[appended, sent, scheduled, ("step", &steps, 1)]);
}

/// Prints what was seen: each with its name and how many microseconds its unit is.
fn table(rows: &[(&str, &Histogram<u64>, u64)]) {
    println!("{:<36} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "n", "p50", "p99", "p99.9", "max");
    let ms = |micros: u64| format!("{:.1}ms", micros as f64 / 1e3);
    for (name, of, scale) in rows {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| ms(of.value_at_quantile(quantile) * scale));
        println!("{name:<36} {:>9} {p50:>9} {p99:>9} {p999:>9} {max:>9}", of.len());
    }
}
