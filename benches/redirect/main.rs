//! The redirect server beside nginx: processor time per request, latency at half load, memory, and what a broker that is away does to visitors.
//!
//! ```text
//! cargo bench -p clickline-redirect -- [--links 1000000] [--slices 8] [--seconds 3] [--mode fast,durable] [--outage] [--kafka HOST:PORT]
//! ```
//!
//! Needs two processors, `nginx` and `taskset` (Debian: `nginx-light`, `util-linux`). The server has processor 0 with all its threads; visitors and
//! the embedded broker share processor 1. All servers run the whole time; slices of a few seconds alternate between them, so that what else
//! the machine does meets all alike.
//!
//! - **closed loop**, 64 connections: processor time per request, as the system counts it for the server's process, is the first figure; requests
//!   a second are limited by the visitors' processor.
//! - **open loop**, at half of what nginx holds with map and log: p50, p99, p99.9 from the moment at which a request was to be sent.
//! - **outage** (`--outage`): p99.9 of the same load with the broker well, away for 30 s, back, and 2 s slow.
//! - Every click must be on the broker in the end: offsets must equal the redirects that visitors saw.
//!
//! Two rows of nginx: a constant `return 302` with the log off, which is the least a web server can do, and a `map` of all links with a JSON
//! access log and a 64 KiB buffer, which is the same work.

mod links;
mod load;
mod servers;

use clap::Parser;
use hdrhistogram::Histogram;
use links::Nginx;
use load::Visitors;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use servers::{Server, busy, pin};
use std::io;
use std::time::{Duration, Instant};

/// The redirect server beside nginx.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Links in the table.
    #[arg(long, default_value_t = 1_000_000)]
    links: usize,
    /// Slices of each server, in the closed and in the open loop.
    #[arg(long, default_value_t = 8)]
    slices: usize,
    /// Length of a slice.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Kept-alive connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests a second of the open loop; half of what nginx held with map and log where absent.
    #[arg(long)]
    rate: Option<f64>,
    /// How clicks are captured, comma separated: fast, durable.
    #[arg(long, value_delimiter = ',', default_value = "fast")]
    mode: Vec<String>,
    /// Measure visitors while the broker is away and slow.
    #[arg(long)]
    outage: bool,
    /// Processor of the servers, and of visitors and broker.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    processors: Vec<usize>,
    /// A real broker that runs already, with an empty topic `clicks`; the embedded one where absent.
    #[arg(long, conflicts_with = "outage")]
    kafka: Option<String>,
    /// Seed of the open loop's gaps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Slices in which others had more of the servers' processor than this are shown and not counted.
const DISTURBED: f64 = 0.08;

/// All slices of one server.
struct Row {
    server: Server,
    visitors: Visitors,
    /// Microseconds of processor time per request and requests a second, of slices that nobody disturbed.
    slices: Vec<(f64, f64)>,
    disturbed: Vec<(f64, f64)>,
    open: Histogram<u64>,
    /// Redirects that visitors saw, of all kinds of runs.
    redirects: u64,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let [server_cpu, visitor_cpu] = args.processors[..] else {
        return Err(io::Error::other("--processors wants two, e.g. 0,1"));
    };
    pin(visitor_cpu)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("links.jsonl");
    links::write(&file, args.links)?;
    let requests = load::requests(links::DOMAIN, &links::asked(args.links));

    let broker = Broker::start(args.kafka.as_deref());
    let mut rows = Vec::new();
    for kind in [Nginx::Constant, Nginx::MapAndLog] {
        let server = Server::nginx(&folder.path().join(format!("{kind:?}")), kind, server_cpu, args.links)?;
        rows.push(Row::new(server, &args, &requests)?);
    }
    for mode in &args.mode {
        let (name, topic) = match mode.as_str() {
            "fast" => ("clickline, fast", "clicks-fast"),
            "durable" => ("clickline, durable", "clicks-durable"),
            other => return Err(io::Error::other(format!("--mode {other:?}: fast or durable"))),
        };
        broker.create(topic);
        let spool = folder.path().join(mode).join("spool");
        std::fs::create_dir_all(&spool)?;
        let more = ["--clicks-topic", topic, "--capture", mode, "--spool", &spool.display().to_string(), "--trusted-proxy", "127.0.0.0/8"]
            .map(str::to_owned);
        let server = Server::clickline(&folder.path().join(mode), name, server_cpu, &file, &broker.address, &more)?;
        rows.push(Row::new(server, &args, &requests)?);
    }
    println!(
        "{} links; server on processor {server_cpu}, visitors and broker on {visitor_cpu}; {} slices of {} s\n",
        args.links, args.slices, args.seconds
    );

    closed(&mut rows, &args, server_cpu)?;
    let rate = args.rate.unwrap_or_else(|| median(rows[1].slices.iter().chain(&rows[1].disturbed).map(|slice| slice.1)) / 2.0);
    open(&mut rows, &args, rate)?;
    if args.outage {
        for row in &mut rows[2..] {
            outage(row, &broker, rate, args.seed)?;
        }
    }
    println!();
    for (row, mode) in rows.into_iter().skip(2).zip(&args.mode) {
        let wanted = row.redirects;
        let name = row.server.name;
        drop(row.visitors);
        let words = row.server.stop(&folder.path().join(mode).join("out.log"))?;
        let there = broker.offsets(&format!("clicks-{mode}"));
        println!("{name}: {wanted} redirects, {there} clicks on the broker; its last words: {}", words.lines().last().unwrap_or_default());
        if there != wanted {
            return Err(io::Error::other(format!("{name}: offsets must equal the redirects")));
        }
    }
    Ok(())
}

fn closed(rows: &mut [Row], args: &Args, cpu: usize) -> io::Result<()> {
    let slice = Duration::from_secs(args.seconds);
    // One of each to warm up, and to see that every server answers with redirects.
    for n in 0..=args.slices {
        let order: Vec<usize> = if n % 2 == 0 { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for place in order {
            let row = &mut rows[place];
            let (before, all_before) = (row.server.used()?, busy(cpu)?);
            let seen = row.visitors.closed(if n == 0 { Duration::from_secs(1) } else { slice })?;
            let (after, all_after) = (row.server.used()?, busy(cpu)?);
            if seen.others > 0 {
                return Err(io::Error::other(format!("{}: {} answers were no redirects", row.server.name, seen.others)));
            }
            row.redirects += seen.redirects;
            if n == 0 {
                continue;
            }
            let own = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            let others = (all_after.saturating_sub(all_before).as_secs_f64() - own).max(0.0) / seen.took.as_secs_f64();
            let figure = (own * 1e6 / seen.redirects as f64, seen.redirects as f64 / seen.took.as_secs_f64());
            if others < DISTURBED { row.slices.push(figure) } else { row.disturbed.push(figure) }
        }
    }
    println!("closed loop, {} connections", args.connections);
    println!(
        "  {:<26} {:>7} {:>13} {:>9} {:>11} {:>11} {:>9}",
        "server", "slices", "cpu µs/req", "least", "x map+log", "x constant", "req/s"
    );
    let of = |row: &Row| median(row.counted().map(|slice| slice.0));
    let (constant, map) = (of(&rows[0]), of(&rows[1]));
    for row in rows.iter() {
        let cpu = of(row);
        println!(
            "  {:<26} {:>7} {:>13.2} {:>9.2} {:>11.2} {:>11.2} {:>9.0}",
            row.server.name,
            format!("{}/{}", row.slices.len(), args.slices),
            cpu,
            row.counted().map(|slice| slice.0).fold(f64::INFINITY, f64::min),
            map / cpu,
            constant / cpu,
            median(row.counted().map(|slice| slice.1)),
        );
    }
    println!("  x: requests per processor second, as a multiple of nginx's; slices: undisturbed of all (with none undisturbed, all count)");
    println!("\nresident memory with {} links", args.links);
    for row in rows.iter() {
        println!("  {:<26} {:>7} MB", row.server.name, row.server.used()?.resident / 1_000_000);
    }
    Ok(())
}

fn open(rows: &mut [Row], args: &Args, rate: f64) -> io::Result<()> {
    for n in 0..args.slices {
        for row in rows.iter_mut() {
            let seen = row.visitors.open(rate, Duration::from_secs(args.seconds), args.seed + n as u64)?;
            row.redirects += seen.redirects;
            row.open.add(&seen.latency).map_err(io::Error::other)?;
        }
    }
    println!("\nopen loop, {rate:.0} requests a second");
    println!("  {:<26} {:>9} {:>9} {:>9} {:>9}", "server", "p50 µs", "p99 µs", "p99.9 µs", "max ms");
    for row in rows.iter() {
        line(row.server.name, &row.open);
    }
    Ok(())
}

/// The same load while the broker is well, away, back, and slow.
fn outage(row: &mut Row, broker: &Broker, rate: f64, seed: u64) -> io::Result<()> {
    // Half of the load of the measurement before: the broker's return brings the spool on top, and shares the visitors' processor.
    let rate = rate / 2.0;
    println!("\n{}: open loop, {rate:.0} requests a second", row.server.name);
    println!("  {:<26} {:>9} {:>9} {:>9} {:>9}", "broker", "p50 µs", "p99 µs", "p99.9 µs", "max ms");
    for (name, seconds) in [("well", 30), ("away", 30), ("back", 30), ("2 s slow", 30), ("well again", 30)] {
        match name {
            "away" => broker.down(),
            "back" => broker.up(Duration::ZERO),
            "2 s slow" => broker.up(Duration::from_secs(2)),
            _ => broker.up(Duration::ZERO),
        }
        let seen = row.visitors.open(rate, Duration::from_secs(seconds), seed)?;
        row.redirects += seen.redirects;
        line(name, &seen.latency);
    }
    Ok(())
}

fn line(name: &str, latency: &Histogram<u64>) {
    let micros = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
    println!("  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.1}", name, micros(0.5), micros(0.99), micros(0.999), latency.max() as f64 / 1e6);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    fn new(server: Server, args: &Args, requests: &[Vec<u8>]) -> io::Result<Row> {
        let visitors = Visitors::connect(server.address, args.connections, requests.to_vec())?;
        let open = Histogram::new_with_bounds(100, 120_000_000_000, 3).map_err(io::Error::other)?;
        Ok(Row { server, visitors, slices: Vec::new(), disturbed: Vec::new(), open, redirects: 0 })
    }

    /// Undisturbed slices, or all where there is none.
    fn counted(&self) -> impl Iterator<Item = &(f64, f64)> {
        if self.slices.is_empty() { self.disturbed.iter() } else { self.slices.iter() }
    }
}

/// The broker that clicks go to.
struct Broker {
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    address: String,
}

impl Broker {
    fn start(address: Option<&str>) -> Broker {
        match address {
            Some(address) => Broker { mock: None, address: address.to_owned() },
            None => {
                let mock = MockCluster::new(1).expect("an embedded broker");
                let address = mock.bootstrap_servers();
                Broker { mock: Some(mock), address }
            }
        }
    }

    fn create(&self, topic: &str) {
        if let Some(mock) = &self.mock {
            mock.create_topic(topic, 4, 1).expect("a topic");
        }
    }

    fn down(&self) {
        if let Some(mock) = &self.mock {
            mock.broker_down(1).expect("the broker goes away");
        }
    }

    fn up(&self, round_trip: Duration) {
        if let Some(mock) = &self.mock {
            mock.broker_up(1).expect("the broker comes back");
            mock.broker_round_trip_time(1, round_trip).expect("the broker answers as late as asked");
        }
    }

    /// Records that have been written to a topic, also those that the embedded broker no longer keeps.
    fn offsets(&self, topic: &str) -> u64 {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.address).set("group.id", "bench").create().expect("a consumer");
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let partitions =
                consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).map(|metadata| metadata.topics()[0].partitions().len());
            let ends = partitions.and_then(|count| {
                (0..count)
                    .map(|n| consumer.fetch_watermarks(topic, i32::try_from(n).expect("few"), Duration::from_secs(10)).map(|(_, end)| end))
                    .sum::<Result<i64, _>>()
            });
            match ends {
                Ok(ends) => return u64::try_from(ends).expect("offsets"),
                Err(error) if Instant::now() > end => panic!("the broker does not say how many clicks it has: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
