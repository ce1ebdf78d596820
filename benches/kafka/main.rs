//! From a real Apache Kafka: the job's dataflow beside a consumer that only reads and parses the same topic.
//!
//! ```text
//! tests/kafka/fetch && cargo bench --bench kafka -- [--clicks 4000000] [--rounds 3] [--workers 1,2] [--kafka HOST:PORT]
//! ```
//!
//! The clicks are produced once. Then, in turns:
//! - **read and parse**: as many threads as workers, each with a client and a share of the partitions like the job's;
//! - **rows**: sources and dataflow, whose rows are counted and dropped: what reading, decoding and computing cost;
//! - **outputs**: the same down to the records of the output topics, dropped by the door;
//! - **job**: the job as it runs, outputs committed to Kafka, until its frontier has passed the last click; each round under a
//!   progress topic of its own, so that it begins anew.
//!
//! A turn is one step of a worker in which records were read or a tick closed; its percentiles are of **rows** and **outputs**.
//! Broker, clients and job share the machine.

#[path = "../dataflow/generate.rs"]
#[expect(dead_code, reason = "the mirror is not wanted here")]
mod generate;
#[path = "../../tests/support/mod.rs"]
mod support;

use clap::Parser;
use clickline::dataflow::plan::{Counts, Plan, Times};
use clickline::dataflow::{Computed, build, compute};
use clickline::job::{Job, JobConfig};
use clickline::kafka::Kafka;
use clickline::model::Click;
use clickline::model::inputs::Input as _;
use clickline::model::time::{Ms, now};
use clickline::sinks::outbox::{Batch, Door, deliver};
use clickline::sources::kafka::broker_clock::BrokerClock;
use clickline::sources::kafka::watch::Asker;
use clickline::sources::kafka::{Limits, Reading, Resume, topic};
use clickline::sources::{Kind, Meter};
use clickline::stop::Stop;
use generate::{Generator, Made};
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use timely::dataflow::operators::{Concatenate as _, Inspect as _, Probe as _};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From a real Apache Kafka: the job's dataflow beside a consumer that only reads and parses the same topic.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Clicks in the topic.
    #[arg(long, default_value_t = 4_000_000)]
    clicks: u64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Turns of each kind.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of workers.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    /// A broker that runs already and is empty; one of its own where absent.
    #[arg(long)]
    kafka: Option<String>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Clicks as they happen now, one in seven up to a minute ago.
fn produce(kafka: &Kafka, clicks: u64, partitions: i32) {
    let config = kafka.client(&[("linger.ms", "20"), ("compression.type", "zstd"), ("queue.buffering.max.messages", "500000")]);
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
    let mut generator = Generator::new(1, clicks, 0);
    let mut n = 0;
    loop {
        let records = generator.chunk(10_000);
        if records.is_empty() {
            break;
        }
        let late = |at: Ms, ts: Ms| at.saturating_sub(ts).min(60_000);
        for (arrival, at) in records {
            let Made::Click(_, click) = arrival else { continue };
            let click = Click { ts: now() - late(at, click.ts), user_agent: Some(AGENT.to_owned()), ..(*click).clone() };
            let payload = serde_json::to_vec(&click).expect("a click is JSON");
            let mut record = BaseRecord::<(), [u8]>::to("clicks").payload(&payload).partition(n % partitions);
            n += 1;
            while let Err((_, again)) = producer.send(record) {
                record = again;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    producer.flush(Duration::from_secs(120)).expect("delivered");
}

const AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";

fn reading(kafka: &Kafka) -> Reading {
    Reading {
        kafka: kafka.clone(),
        times: Times::with_tick(100),
        limits: Limits::default(),
        resume: Resume::default(),
        snapshots: None,
        clock: BrokerClock::wall(Arc::new(now)),
        asker: Asker::default(),
        meter: Arc::default(),
        stop: Stop::new(),
    }
}

/// Reads and parses all clicks on `threads` threads.
fn read_and_parse(kafka: &Kafka, args: &Args, threads: usize) -> Duration {
    let left = Arc::new(AtomicU64::new(args.clicks));
    let began = Instant::now();
    let readers: Vec<_> = (0..threads)
        .map(|me| {
            let (reading, left, partitions) = (reading(kafka), Arc::clone(&left), args.partitions);
            std::thread::spawn(move || {
                let consumer: BaseConsumer = reading.consumer().expect("a consumer");
                let mut list = TopicPartitionList::new();
                for partition in (0..partitions).filter(|partition| *partition as usize % threads == me) {
                    list.add_partition_offset("clicks", partition, Offset::Beginning).expect("a place");
                }
                consumer.assign(&list).expect("assigned");
                while left.load(Ordering::Relaxed) > 0 {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(5)) {
                        black_box(Click::read(message.payload().unwrap_or_default()).expect("a click"));
                        left.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().expect("reads"));
    began.elapsed()
}

/// Takes everything and keeps nothing.
#[derive(Clone, Default)]
struct Dropped(Arc<AtomicU64>);

impl Door for Dropped {
    fn offer(&mut self, batch: Batch) -> Result<(), Batch> {
        self.0.store(batch.upper, Ordering::Release);
        Ok(())
    }
    fn committed(&self) -> Ms {
        self.0.load(Ordering::Acquire)
    }
}

/// Sources and dataflow, down to rows or to records of outputs; the time until all clicks are through, and the turns.
fn dataflow(kafka: &Kafka, plan: &Arc<Plan>, args: &Args, workers: usize, outputs: bool) -> (Duration, Histogram<u64>) {
    let (reading, plan, clicks) = (reading(kafka), Arc::clone(plan), args.clicks);
    let (meter, stop): (Arc<Meter>, Stop) = (Arc::clone(&reading.meter), reading.stop.clone());
    let mut config = timely::Config::process(workers);
    config.worker = config.worker.idle_spin(Duration::ZERO);
    let began = Instant::now();
    let guards = timely::execute(config, move |worker| {
        let rows = Rc::new(Cell::new(0u64));
        let index = worker.index();
        let probe = timely::dataflow::ProbeHandle::new();
        worker.dataflow::<Ms, _, _>(|scope| {
            let streams = Kind::ALL.map(|kind| topic(scope, kind, &reading, probe.clone()));
            let (arrivals, marks): (Vec<_>, Vec<_>) = streams.into_iter().map(|of| (of.arrivals, of.marks)).unzip();
            let arrivals = scope.concatenate(arrivals);
            if outputs {
                let door = (index == 0).then(Dropped::default);
                deliver(build(arrivals, &plan), scope.concatenate(marks), 0, door).probe_with(&probe);
            } else {
                let Computed { resolved, unresolved, values, counts, advances, .. } = compute(arrivals, &plan);
                let add = |rows: &Rc<Cell<u64>>| rows.set(rows.get() + 1);
                let of = [(); 5].map(|()| Rc::clone(&rows));
                let [a, b, c, d, e] = of;
                resolved.inspect(move |row| add(black_box((&a, row)).0)).probe_with(&probe);
                unresolved.inspect(move |row| add(black_box((&b, row)).0)).probe_with(&probe);
                values.inspect(move |row| add(black_box((&c, row)).0)).probe_with(&probe);
                counts.inspect(move |row| add(black_box((&d, row)).0)).probe_with(&probe);
                advances.inspect(move |row| add(black_box((&e, row)).0)).probe_with(&probe);
            }
        });
        let mut turns = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("a minute at most, three digits");
        let mut all_read = None;
        loop {
            let (read, closed) = (meter.total(), probe.with_frontier(|frontier| frontier.to_owned()));
            let turn = Instant::now();
            worker.step();
            let worked = meter.total() > read || probe.with_frontier(|frontier| frontier != closed.borrow());
            if worked {
                turns.saturating_record(u64::try_from(turn.elapsed().as_micros()).unwrap_or(u64::MAX));
            } else {
                worker.step_or_park(Some(Duration::from_micros(500)));
            }
            if meter.records(Kind::Clicks) >= clicks {
                // All clicks were appended before this moment; when the clock has passed it, they are through.
                let moment = *all_read.get_or_insert_with(now);
                if !probe.less_than(&moment) || stop.asked() {
                    break;
                }
            }
        }
        stop.ask();
        let took = began.elapsed();
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        (took, turns)
    })
    .expect("workers start");
    let mut all = guards.join().into_iter().map(|worker| worker.expect("runs"));
    let (mut took, mut turns) = all.next().expect("a worker");
    for (of, more) in all {
        took = took.max(of);
        turns.add(more).expect("the same bounds");
    }
    (took, turns)
}

/// The whole job, from its start until its frontier has passed the moment at which all clicks were in the topic.
fn job(kafka: &Kafka, plan: &Plan, args: &Args, workers: usize, round: &str) -> Duration {
    let mut kafka = kafka.clone();
    kafka.topics.progress = format!("clickline.progress.{round}");
    kafka.topics.state = format!("clickline.state.{round}");
    let config = JobConfig {
        kafka,
        plan: plan.clone(),
        workers,
        hosts: None,
        limits: Limits::default(),
        snapshots: None,
        accept_gaps: false,
        now: Arc::new(now),
    };
    let began = Instant::now();
    let job = Job::start(config, Stop::new()).expect("a job");
    while job.meter().records(Kind::Clicks) < args.clicks {
        assert!(!job.ended(), "the job has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    let all_read = now();
    while job.frontier() < all_read {
        assert!(!job.ended(), "the job has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = began.elapsed();
    job.stop().expect("stops");
    took
}

fn main() {
    let args = Args::parse();
    let broker = if args.kafka.is_none() {
        let Some(broker) = support::kafka::Broker::start_if_there() else { return };
        broker.create_topic("clicks", args.partitions, &[]);
        ["forms", "crm.contacts", "crm.deals"].iter().for_each(|topic| broker.create_topic(topic, 1, &[]));
        Some(broker)
    } else {
        None
    };
    let address = args.kafka.clone().or(broker.as_ref().map(|broker| broker.address().to_owned())).expect("one of the two");
    let kafka = Kafka::at(address);
    let plan = Arc::new(generate::plan(Counts::Ruled, 0));
    let live = Arc::new(Plan { times: Times::with_tick(100), ..(*plan).clone() });
    let began = Instant::now();
    produce(&kafka, args.clicks, args.partitions);
    println!("{} clicks produced in {:.1} s", args.clicks, began.elapsed().as_secs_f64());
    println!("{:<28} {:>7} {:>12} {:>7} {:>10} {:>10} {:>10}", "", "workers", "clicks/s", "ratio", "turn p50", "p99", "max");
    for workers in &args.workers {
        for round in 0..args.rounds {
            let parsed = read_and_parse(&kafka, &args, *workers);
            let row = |name: &str, took: Duration, turns: Option<&Histogram<u64>>| {
                let (rate, ratio) = (args.clicks as f64 / took.as_secs_f64(), parsed.as_secs_f64() / took.as_secs_f64());
                let turns = turns.map_or(String::new(), |turns| {
                    let ms = |micros: u64| format!("{:>8.1}ms", micros as f64 / 1e3);
                    format!(" {} {} {}", ms(turns.value_at_quantile(0.5)), ms(turns.value_at_quantile(0.99)), ms(turns.max()))
                });
                println!("{name:<28} {workers:>7} {rate:>12.0} {ratio:>6.2}x{turns}");
            };
            row("read and parse", parsed, None);
            for (name, outputs) in [("rows", false), ("outputs", true)] {
                let (took, turns) = dataflow(&kafka, &live, &args, *workers, outputs);
                row(name, took, Some(&turns));
            }
            row("job", job(&kafka, &live, &args, *workers, &format!("{workers}.{round}")), None);
        }
    }
}
