//! Rows a second into a real ClickHouse: the sink from a real Apache Kafka, beside plain inserts of the same rows.
//!
//! ```text
//! tests/kafka/fetch && tests/clickhouse/fetch && cargo bench --bench clickhouse -- [--clicks 400000] [--rounds 3] [--batch-rows 20000]
//! ```
//!
//! The clicks are produced once. Then, in turns, each into a database of its own:
//! - **insert**: rows that were made before, sent as the sink sends them, one batch after the other; no Kafka, no decoding, no look for ids that are known, no record of
//!   where a batch is cut. What ClickHouse itself takes, with the views that keep totals;
//! - **sink**: the sink as it runs, until it has had the last row acknowledged.
//!
//! Both write each click once; rows and totals are counted at the end. Server, broker and sink share the machine.

#[path = "../../tests/support/mod.rs"]
mod support;

use clap::Parser;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::time::{DAY, now};
use clickline::sinks::clickhouse::{Raw, Service, Settings, Sink, Stream, migrate};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde_json::json;
use std::time::{Duration, Instant};
use support::clickhouse::ClickHouse;
use support::kafka::Broker;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Rows a second into a real ClickHouse: the sink beside plain inserts of the same rows.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Clicks in the topic.
    #[arg(long, default_value_t = 400_000)]
    clicks: usize,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Rows of a batch.
    #[arg(long, default_value_t = 20_000)]
    batch_rows: usize,
    /// Turns of each kind.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

const AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";

/// Clicks of today on 1,000 links, as the redirect server writes them.
fn clicks(count: usize) -> Vec<Vec<u8>> {
    let (mut rng, start) = (StdRng::seed_from_u64(1), now() / DAY * DAY);
    let click = |n: usize| {
        let link = rng.random_range(0..1_000);
        let contact = rng.random_bool(0.5).then(|| rng.random_range(0..100_000).to_string());
        json!({"v": 1, "id": format!("0199f3c2-7c1e-7d2a-b0a1-{n:012x}"), "ts": start + n as u64 / 10, "workspace": "acme", "link": format!("s.elido.me/{link}"),
            "title": format!("Document {link}"), "destination": format!("https://acme.example/documents/{link}.pdf"), "tags": ["sales-collateral", format!("t{}", link % 20)],
            "deal_id": null, "contact_id": contact, "fbclid": null, "gclid": null,
            "utm": {"source": "webinar", "medium": "email", "campaign": format!("q{}", link % 8), "term": null, "content": null},
            "referrer": null, "user_agent": AGENT, "device": "desktop", "os": "macOS", "browser": "Safari", "country": "FR", "bot": null})
        .to_string()
        .into_bytes()
    };
    (0..count).map(click).collect()
}

fn produce(broker: &Broker, clicks: &[Vec<u8>], partitions: i32) {
    let options = [("linger.ms", "20"), ("compression.type", "zstd"), ("queue.buffering.max.messages", "500000")];
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&options).create().expect("a producer");
    for (click, partition) in clicks.iter().zip((0..partitions).cycle()) {
        let mut record = BaseRecord::<(), [u8]>::to("clicks").payload(click).partition(partition);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    producer.flush(Duration::from_secs(120)).expect("delivered");
}

fn settings(server: &ClickHouse, database: &str, args: &Args) -> Settings {
    let text = format!("{{url: 'http://{}', database: {database}, batch_rows: {}}}", server.address(), args.batch_rows);
    serde_saphyr::from_str(&text).expect("settings")
}

/// Sends the batches, one after the other; how long that took, and each request.
fn insert(server: &ClickHouse, database: &str, args: &Args, batches: &[Vec<u8>], requests: &mut Histogram<u64>) -> Duration {
    let settings = settings(server, database, args);
    let service = Service::new(&settings).expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(migrate(&service, &settings)).expect("tables");
    let began = Instant::now();
    for (number, batch) in batches.iter().enumerate() {
        let sent = Instant::now();
        runtime.block_on(service.insert("clicks", &number.to_string(), batch.clone())).expect("inserted");
        requests.saturating_record(sent.elapsed().as_micros() as u64);
    }
    began.elapsed()
}

/// Lets the sink write the whole topic.
fn sink(server: &ClickHouse, broker: &Broker, database: &str, args: &Args) -> Duration {
    let settings = settings(server, database, args);
    let (service, runtime) = (Service::new(&settings).expect("a client"), tokio::runtime::Runtime::new().expect("a runtime"));
    runtime.block_on(migrate(&service, &settings)).expect("tables");
    let began = Instant::now();
    let sink = Sink::start(settings, &Kafka::at(broker.address()), &Metrics::default()).expect("starts");
    while sink.stats()[0].1.rows < args.clicks as u64 {
        assert!(began.elapsed() < Duration::from_secs(600), "the sink does not come to its end");
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = began.elapsed();
    sink.stop();
    took
}

/// Each click is one row and counted once.
fn check(server: &ClickHouse, database: &str, clicks: usize) {
    for sql in ["SELECT count() FROM {d}.clicks", "SELECT uniqExact(id) FROM {d}.clicks", "SELECT sum(clicks) FROM {d}.clicks_by_day"] {
        assert_eq!(server.ask(&sql.replace("{d}", database)), clicks.to_string(), "{sql}");
    }
    server.ask(&format!("DROP DATABASE {database}"));
}

fn main() {
    let args = Args::parse();
    let (Some(broker), Some(server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    broker.create_topic("clicks", args.partitions, &[]);
    let clicks = clicks(args.clicks);
    produce(&broker, &clicks, args.partitions);
    let row = |(offset, payload): (usize, &Vec<u8>)| {
        let raw = Raw { partition: 0, offset: offset as i64, payload: payload.clone() };
        Stream::Clicks.row(&raw, 1).expect("a click").1
    };
    let batches: Vec<Vec<u8>> = clicks.chunks(args.batch_rows).map(|batch| batch.iter().enumerate().flat_map(row).collect()).collect();
    let bytes: usize = clicks.iter().map(Vec::len).sum();
    println!("{} clicks of {} bytes, batches of {}", args.clicks, bytes / args.clicks.max(1), args.batch_rows);
    let mut requests = Histogram::new_with_bounds(1, 600_000_000, 3).expect("ten minutes at most, three digits");
    let (mut inserts, mut sinks) = (Vec::new(), Vec::new());
    let speed = |took: Duration| args.clicks as f64 / took.as_secs_f64();
    for round in 0..args.rounds {
        let (plain, whole) = (format!("insert{round}"), format!("sink{round}"));
        inserts.push(speed(insert(&server, &plain, &args, &batches, &mut requests)));
        check(&server, &plain, args.clicks);
        sinks.push(speed(sink(&server, &broker, &whole, &args)));
        check(&server, &whole, args.clicks);
        println!("round {round}: insert {:.0} rows/s, sink {:.0} rows/s", inserts[round], sinks[round]);
    }
    inserts.sort_by(f64::total_cmp);
    sinks.sort_by(f64::total_cmp);
    let (insert, sink) = (inserts[args.rounds / 2], sinks[args.rounds / 2]);
    let ms = |quantile| requests.value_at_quantile(quantile) as f64 / 1_000.0;
    println!("median: insert {insert:.0} rows/s, sink {sink:.0} rows/s: {:.2} of it", sink / insert);
    println!("a plain insert of a batch: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms", ms(0.5), ms(0.99), ms(1.0));
}
