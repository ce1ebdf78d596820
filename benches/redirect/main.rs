//! The redirect server beside nginx: processor time per request, latency at half load, memory, and what visitors notice of a broker that is away and
//! of a reload of all links.
//!
//! ```text
//! cargo bench -p clickline-redirect -- [--links 1000000] [--slices 8] [--seconds 3] [--mode fast,durable] [--before PROGRAM] [--outage] [--reload] [--kill]
//! ```
//!
//! Needs two processors, `nginx` and `taskset` (Debian: `nginx-light`, `util-linux`). The server has processor 0 with all its threads; visitors and
//! the embedded broker share processor 1. All servers run the whole time; slices of a few seconds alternate between them, so that what else
//! the machine does meets all alike.
//!
//! - **closed loop**, 64 connections: processor time per request, as the system counts it for the server's process, is the first figure; requests
//!   a second are limited by the visitors' processor. What a server still does after its last answer (the spool's end on its way to Kafka) counts.
//! - **open loop**, at half of what nginx holds with map and log: p50, p99, p99.9 from the moment at which a request was to be sent.
//! - **outage** (`--outage`): p99.9 of half of that load with the broker well, away for 30 s, back, and 2 s slow.
//! - **reload** (`--reload`): the open loop's load while the file with all links is read again.
//! - **kill** (`--kill`): which clicks of answered redirects a `kill -9` under that load loses, by their ids, and how many milliseconds of it that is; ends
//!   with an error when one is lost with `durable`, or came twice.
//! - Every click must be on the broker in the end: offsets must equal the redirects that visitors saw.
//!
//! Two rows of nginx: a constant `return 302` with the log off, which is the least a web server can do, and a `map` of all links with a JSON
//! access log and a 64 KiB buffer, which is the same work. Modes: `fast` and `durable` with a spool, `queue` without one.

mod broker;
mod kill;
mod links;
mod load;
mod rows;
mod servers;

use broker::Broker;
use clap::Parser;
use links::Nginx;
use rows::Row;
use servers::{Server, pin};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The redirect server beside nginx.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Links in the table.
    #[arg(long, default_value_t = 1_000_000)]
    links: usize,
    /// Slices of each server, in the closed and in the open loop; reloads and kills of each.
    #[arg(long, default_value_t = 8)]
    slices: usize,
    /// Length of a slice.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Kept-alive connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests a second of the open loop; half of what nginx held with map and log where absent. With --reload, --outage or --kill only that is
    /// measured, at this rate.
    #[arg(long)]
    rate: Option<f64>,
    /// How clicks are captured, comma separated: fast, durable, queue.
    #[arg(long, value_delimiter = ',', default_value = "fast")]
    mode: Vec<String>,
    /// Leave the open loop out.
    #[arg(long)]
    closed_only: bool,
    /// Measure visitors while the broker is away and slow.
    #[arg(long)]
    outage: bool,
    /// Seconds of each state of the broker.
    #[arg(long, default_value_t = 30)]
    phase: u64,
    /// Measure visitors while all links are read again.
    #[arg(long)]
    reload: bool,
    /// Kill the server under load, and count what is lost.
    #[arg(long)]
    kill: bool,
    /// Another build of the server, to be measured in the place of this one.
    #[arg(long)]
    program: Option<PathBuf>,
    /// An earlier build of the server, to be measured beside this one, in each mode.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Options for the server, e.g. --with=--kafka-property=compression.type=none
    #[arg(long, allow_hyphen_values = true)]
    with: Vec<String>,
    /// Where the spools are, for another disk than the temporary folder's.
    #[arg(long)]
    spools: Option<PathBuf>,
    /// Processor of the servers, and of visitors and broker.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    processors: Vec<usize>,
    /// Seed of the open loop's gaps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Behind the mode of an earlier build.
const BEFORE: &str = "-before";
/// How long the last clicks may be on their way to the broker: after an outage there are many.
const LAST: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let mut args = Args::parse();
    if args.before.is_some() {
        args.mode = args.mode.iter().flat_map(|mode| [format!("{mode}{BEFORE}"), mode.clone()]).collect();
    }
    let [server_cpu, visitor_cpu] = args.processors[..] else {
        return Err(io::Error::other("--processors wants two, e.g. 0,1"));
    };
    pin(visitor_cpu)?;
    let folder = tempfile::tempdir()?;
    let spools = tempfile::tempdir_in(args.spools.as_deref().unwrap_or(folder.path()))?;
    let setup = Setup {
        file: folder.path().join("links.jsonl"),
        folder: folder.path().to_owned(),
        spools: spools.path().to_owned(),
        requests: load::requests(links::DOMAIN, &links::asked(args.links)),
        broker: Broker::start(),
        args,
    };
    let args = &setup.args;
    links::write(&setup.file, args.links)?;
    let mut servers = Vec::new();
    for kind in [Nginx::Constant, Nginx::MapAndLog] {
        servers.push(Server::nginx(&setup.folder.join(format!("{kind:?}")), kind, server_cpu, args.links)?);
    }
    let nginx = servers.len();
    for mode in &args.mode {
        setup.broker.create(&topic(mode));
        servers.push(setup.start(mode)?);
    }
    // Connected once all of them run: a connection that asks for nothing is closed after a while.
    let rows = servers.into_iter().map(|server| Row::new(server, args, &setup.requests));
    let mut rows = rows.collect::<io::Result<Vec<Row>>>()?;
    println!(
        "{} links; server on processor {server_cpu}, visitors and broker on {visitor_cpu}; {} slices of {} s\n",
        args.links, args.slices, args.seconds
    );

    if args.slices > 0 && !args.given_rate_only() {
        rows::closed(&mut rows, args, server_cpu)?;
    }
    let rate = args.rate.unwrap_or_else(|| rows[1].held() / 2.0);
    if args.slices > 0 && !args.closed_only && !args.given_rate_only() {
        rows::open(&mut rows, args, rate)?;
    }
    if args.reload {
        for row in &mut rows[nginx..] {
            rows::reload(row, args, rate, &setup.file)?;
        }
    }
    if args.outage {
        for row in &mut rows[nginx..] {
            rows::outage(row, &setup.broker, rate, args)?;
        }
    }
    println!();
    for (row, mode) in rows.into_iter().skip(nginx).zip(&args.mode) {
        finish(row, &setup.broker, mode)?;
    }
    if args.kill {
        for mode in args.mode.iter().filter(|mode| !mode.starts_with("queue")) {
            kill::kill(&setup, mode, rate)?;
        }
    }
    Ok(())
}

impl Args {
    /// Only what was asked for by name, at a rate that is given.
    fn given_rate_only(&self) -> bool {
        self.rate.is_some() && (self.reload || self.outage || self.kill)
    }
}

fn topic(mode: &str) -> String {
    format!("clicks-{mode}")
}

/// What all servers are started with.
struct Setup {
    args: Args,
    folder: PathBuf,
    spools: PathBuf,
    /// All links.
    file: PathBuf,
    requests: Vec<Vec<u8>>,
    broker: Broker,
}

impl Setup {
    /// The server in one of its modes, on the spool that it had before.
    fn start(&self, mode: &str) -> io::Result<Server> {
        let name = match mode {
            "fast" => "clickline, fast",
            "durable" => "clickline, durable",
            "queue" => "clickline, no spool",
            "fast-before" => "clickline before, fast",
            "durable-before" => "clickline before, durable",
            "queue-before" => "clickline before, no spool",
            other => return Err(io::Error::other(format!("--mode {other:?}: fast, durable or queue"))),
        };
        let mut more = vec!["--clicks-topic".to_owned(), topic(mode), "--trusted-proxy".to_owned(), "127.0.0.0/8".to_owned()];
        let (capture, program) = match mode.strip_suffix(BEFORE) {
            Some(capture) => (capture, self.args.before.as_deref()),
            None => (mode, self.args.program.as_deref()),
        };
        if capture != "queue" {
            let spool = self.spools.join(mode);
            std::fs::create_dir_all(&spool)?;
            more.extend(["--capture", capture, "--spool", &spool.display().to_string()].map(str::to_owned));
        }
        more.extend_from_slice(&self.args.with);
        let cpu = self.args.processors[0];
        Server::clickline(&self.folder.join(mode), name, cpu, program, &self.file, &self.broker.address(), &more)
    }
}

/// Stops a server; each redirect must be one click on the broker.
fn finish(row: Row, broker: &Broker, mode: &str) -> io::Result<()> {
    let Row { server, visitors, redirects, .. } = row;
    drop(visitors);
    let name = server.name;
    rows::arrived(broker, &topic(mode), redirects, LAST);
    let words = server.stop()?;
    // Once more behind its end: no click came twice, none later.
    let there = broker.offsets(&topic(mode));
    println!("{name}: {redirects} redirects, {there} clicks on the broker; its last words: {}", words.lines().last().unwrap_or_default());
    if there == redirects { Ok(()) } else { Err(io::Error::other(format!("{name}: offsets must equal the redirects"))) }
}
