//! How long a restart takes with many clicks in the window, with a snapshot and without.
//!
//! ```text
//! tests/kafka/fetch && cargo bench --bench restart -- [--clicks 10000000] [--workers 2] [--partitions 4] [--runs 3]
//! ```
//!
//! Clicks whose times spread evenly over the last 30 days are appended to a real Apache Kafka; a job with the 22 rules of the
//! `dataflow` benchmark goes through them once and is stopped. Timed is then from the start of a job to the moment at which
//! it has gone through all that was committed (`Job::ready`): with the snapshot that the first run left, and reading all
//! from Kafka, in turns. Beside them, as the least that could be done: a plain consumer that reads the same clicks from
//! Kafka and parses them.

#[path = "../dataflow/generate.rs"]
#[allow(dead_code, reason = "shared with the benchmark of the dataflow")]
mod generate;
#[path = "../../tests/support/mod.rs"]
mod support;

use clap::Parser;
use clickline::dataflow::plan::{Counts, Plan, Times};
use clickline::job::{Job, JobConfig};
use clickline::kafka::Kafka;
use clickline::model::Click;
use clickline::model::inputs::Input as _;
use clickline::model::time::{DAY, Ms, now};
use clickline::sources::kafka::Limits;
use clickline::stop::Stop;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use support::kafka::{Broker, jars};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a restart takes.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Clicks in the window.
    #[arg(long, default_value_t = 10_000_000)]
    clicks: u64,
    /// Worker threads of the job.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Restarts of each kind.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A click as the redirect server writes it, `age` ms old.
fn click(rng: &mut StdRng, n: u64, ts: Ms) -> String {
    // Two draws and the smaller: a few links and contacts are busy, most are not.
    let link = rng.random_range(0..2_000u32).min(rng.random_range(0..2_000));
    let contact = rng.random_range(0..100_000u32).min(rng.random_range(0..100_000));
    let id = uuid::Uuid::from_u64_pair(0x0199_f3c2_0000_7000 | (n >> 32), 0x8000_0000_0000_0000 | n);
    format!(
        r#"{{"v":1,"id":"{id}","ts":{ts},"workspace":"w","link":"d/{link}","title":"Title of link {link}","destination":"https://acme.example/downloads/{link}.pdf","tags":["t{}"],"deal_id":null,"contact_id":"{contact}","fbclid":null,"gclid":null,"utm":{{"source":"s{}","medium":"email","campaign":"c{}","term":null,"content":null}},"referrer":null,"user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.{} Safari/605.1.15","device":"desktop","os":"macOS","browser":"Safari","country":"FR","bot":null}}"#,
        link % 200,
        link % 7,
        n % 20,
        n % 9,
    )
}

fn produce(broker: &Broker, clicks: u64) {
    let options = [("linger.ms", "20"), ("compression.type", "lz4"), ("queue.buffering.max.kbytes", "262144"), ("acks", "1")];
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&options).create().expect("a producer");
    let (mut rng, now) = (StdRng::seed_from_u64(1), now());
    for n in 0..clicks {
        // The oldest still has a day to live: it must not leave the window while the benchmark runs.
        let ts = now - 29 * DAY + n * (29 * DAY) / clicks;
        let payload = click(&mut rng, n, ts);
        while producer.send(BaseRecord::<(), _>::to("clicks").payload(&payload)).is_err() {
            thread::sleep(Duration::from_millis(2));
        }
    }
    producer.flush(Duration::from_secs(120)).expect("delivered");
}

/// Seconds that a plain consumer needs for the same clicks, parsed; and the bytes of them.
fn read_and_parse(broker: &Broker, args: &Args) -> (Duration, u64) {
    let options = [("group.id", "none"), ("enable.auto.commit", "false"), ("enable.partition.eof", "true")];
    let consumer: BaseConsumer = broker.client(&options).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..args.partitions {
        list.add_partition_offset("clicks", partition, Offset::Beginning).expect("an offset");
    }
    let began = Instant::now();
    consumer.assign(&list).expect("assigned");
    let (mut open, mut clicks, mut bytes) = (args.partitions, 0, 0);
    while open > 0 {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                let payload = message.payload().unwrap_or_default();
                bytes += payload.len() as u64;
                clicks += u64::from(Click::read(payload).is_ok());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("the broker sends nothing"),
        }
    }
    assert_eq!(clicks, args.clicks, "all that was produced");
    (began.elapsed(), bytes)
}

fn start(broker: &Broker, plan: &Plan, args: &Args, snapshots: Option<PathBuf>) -> Job {
    let config = JobConfig {
        kafka: Kafka::at(broker.address()),
        plan: plan.clone(),
        workers: args.workers,
        hosts: None,
        limits: Limits::default(),
        snapshots,
        accept_gaps: false,
        now: Arc::new(now),
    };
    Job::start(config, Stop::new()).expect("starts")
}

/// Waits until the job is so far, and says how long that took.
fn until(job: &Job, what: impl Fn(&Job) -> bool) -> Duration {
    let began = Instant::now();
    while !what(job) {
        assert!(!job.ended(), "the job has ended");
        assert!(began.elapsed() < Duration::from_secs(3_600), "an hour is enough");
        thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().map_or(0, |of| of.len()) }).sum()
}

fn main() {
    let args = Args::parse();
    let lib = jars().expect("Apache Kafka; `tests/kafka/fetch` gets it");
    let broker = Broker::start(lib);
    broker.create_topic("clicks", args.partitions, &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")]);
    let began = Instant::now();
    produce(&broker, args.clicks);
    println!("{} clicks produced in {:.0} s", args.clicks, began.elapsed().as_secs_f64());
    let plan = generate::plan(Counts::Ruled, 0);
    let plan = Plan { times: Times::with_tick(100), ..plan };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |with: bool| with.then(|| folder.path().to_owned());

    let job = start(&broker, &plan, &args, at(true));
    let all = now();
    let took = until(&job, |job| job.frontier() > all);
    assert_eq!(job.meter().total(), args.clicks);
    job.stop().expect("ends");
    println!("first start, outputs of all clicks written: {:.1} s", took.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
    let each = size(folder.path()) as f64 / args.clicks as f64;
    println!("snapshot: {:.0} MB, {each:.1} bytes a click", size(folder.path()) as f64 / 1e6);

    let mut times = [const { Vec::new() }; 3];
    for _ in 0..args.runs {
        for (of, with) in [(0, true), (1, false)] {
            let job = start(&broker, &plan, &args, at(with));
            let took = until(&job, Job::ready);
            assert_eq!(job.meter().copied(), if with { args.clicks } else { 0 });
            assert!(job.meter().total() >= args.clicks, "gone through {} of them", job.meter().total());
            job.stop().expect("ends");
            times[of].push(took);
        }
        times[2].push(read_and_parse(&broker, &args).0);
    }
    println!("\n{:<34} {:>8} {:>8} {:>8} {:>12}", "", "min", "median", "max", "clicks/s");
    for (name, times) in ["ready, with a snapshot", "ready, all from Kafka", "plain consumer: read and parse"].iter().zip(times) {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000, 3).expect("an hour at most, three digits");
        times.iter().for_each(|took| histogram.saturating_record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        let seconds = |ms: u64| ms as f64 / 1e3;
        let median = seconds(histogram.value_at_quantile(0.5));
        println!(
            "{name:<34} {:>7.1}s {median:>7.1}s {:>7.1}s {:>12.0}",
            seconds(histogram.min()),
            seconds(histogram.max()),
            args.clicks as f64 / median
        );
    }
}
