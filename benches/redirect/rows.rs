//! What is measured of each server, and the tables of it.

use crate::Args;
use crate::broker::Broker;
use crate::load::{Seen, Visitors};
use crate::servers::{Server, busy};
use hdrhistogram::Histogram;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Slices in which others had more of the servers' processor than this are shown and not counted.
const DISTURBED: f64 = 0.08;
/// Runs between two looks at how many reloads there were.
const RELOAD_SLICE: Duration = Duration::from_secs(1);

/// All slices of one server.
pub struct Row {
    pub server: Server,
    pub visitors: Visitors,
    /// Microseconds of processor time per request and requests a second, of slices that nobody disturbed.
    slices: Vec<(f64, f64)>,
    disturbed: Vec<(f64, f64)>,
    open: Histogram<u64>,
    /// The same, slice by slice: p50 and p99 in microseconds.
    open_slices: Vec<(f64, f64)>,
    /// Redirects that visitors saw, of all kinds of runs.
    pub redirects: u64,
}

impl Row {
    pub fn new(server: Server, args: &Args, requests: &[Vec<u8>]) -> io::Result<Row> {
        let visitors = Visitors::connect(server.address, args.connections, requests.to_vec())?;
        Ok(Row { server, visitors, slices: Vec::new(), disturbed: Vec::new(), open: empty()?, open_slices: Vec::new(), redirects: 0 })
    }

    /// Requests a second in the closed loop.
    pub fn held(&self) -> f64 {
        median(self.counted().map(|slice| slice.1))
    }

    /// Undisturbed slices, or all where there is none.
    fn counted(&self) -> impl Iterator<Item = &(f64, f64)> {
        if self.slices.is_empty() { self.disturbed.iter() } else { self.slices.iter() }
    }

    /// Every answer must be a redirect.
    fn count(&mut self, seen: &Seen) -> io::Result<()> {
        self.redirects += seen.redirects;
        if seen.others == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: {} answers were no redirects", self.server.name, seen.others)))
    }
}

/// Processor time per request, all visitors asking again as soon as they have their answer.
pub fn closed(rows: &mut [Row], args: &Args, cpu: usize) -> io::Result<()> {
    let slice = Duration::from_secs(args.seconds);
    // One of each to warm up.
    for n in 0..=args.slices {
        let order: Vec<usize> = if n % 2 == 0 { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for place in order {
            let row = &mut rows[place];
            let (before, all_before, start) = (row.server.used()?, busy(cpu)?, Instant::now());
            let seen = row.visitors.closed(if n == 0 { Duration::from_secs(1) } else { slice })?;
            row.count(&seen)?;
            // What it still does for these requests belongs to them.
            row.server.settle()?;
            let (after, all_after) = (row.server.used()?, busy(cpu)?);
            if n == 0 {
                continue;
            }
            let own = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            let others = (all_after.saturating_sub(all_before).as_secs_f64() - own).max(0.0) / start.elapsed().as_secs_f64();
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
            row.held(),
        );
    }
    println!("  x: requests per processor second, as a multiple of nginx's; slices: undisturbed of all (with none undisturbed, all count)");
    println!("\nresident memory with {} links", args.links);
    for row in rows.iter() {
        println!("  {:<26} {:>7} MB", row.server.name, row.server.used()?.resident / 1_000_000);
    }
    Ok(())
}

/// Latency at a fixed rate.
pub fn open(rows: &mut [Row], args: &Args, rate: f64) -> io::Result<()> {
    for n in 0..args.slices {
        let order: Vec<usize> = if n % 2 == 0 { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for place in order {
            let row = &mut rows[place];
            let seen = row.visitors.open(rate, Duration::from_secs(args.seconds), args.seed + n as u64)?;
            row.count(&seen)?;
            row.open_slices.push((micros(&seen.latency, 0.5), micros(&seen.latency, 0.99)));
            row.open.add(&seen.latency).map_err(io::Error::other)?;
        }
    }
    println!("\nopen loop, {rate:.0} requests a second");
    heading("server");
    for row in rows.iter() {
        line(row.server.name, &row.open);
    }
    println!("  slice by slice, median (least to most):");
    for row in rows.iter() {
        let spread = |of: fn(&(f64, f64)) -> f64| {
            let all = || row.open_slices.iter().map(of);
            format!("{:.0} ({:.0} to {:.0})", median(all()), all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
        };
        println!("  {:<26} p50 {:<22} p99 {}", row.server.name, spread(|slice| slice.0), spread(|slice| slice.1));
    }
    Ok(())
}

/// The same load while the file of all links is put in place and read again, one time after the other.
pub fn reload(row: &mut Row, args: &Args, rate: f64, file: &Path) -> io::Result<()> {
    println!("\n{}: open loop, {rate:.0} requests a second, {} links read again", row.server.name, args.links);
    heading("links");
    let (mut quiet, mut busy) = (empty()?, empty()?);
    let mut seed = args.seed;
    let mut run = |row: &mut Row, time: Duration, into: &mut Histogram<u64>| {
        seed += 1;
        let seen = row.visitors.open(rate, time, seed)?;
        row.count(&seen)?;
        into.add(&seen.latency).map_err(io::Error::other)
    };
    let mut took = Vec::new();
    for _ in 0..args.slices {
        run(row, Duration::from_secs(args.seconds), &mut quiet)?;
        let before = row.server.reloads()?;
        // Another file with the same links, as whoever makes it would put it in place.
        let beside = file.with_extension("new");
        std::fs::copy(file, &beside)?;
        std::fs::rename(&beside, file)?;
        let start = Instant::now();
        row.server.hang_up()?;
        while row.server.reloads()? == before {
            run(row, RELOAD_SLICE, &mut busy)?;
        }
        took.push(start.elapsed().as_secs_f64());
    }
    line("as they are", &quiet);
    line("being read again", &busy);
    println!("  {} reloads, {:.0} s each (median, in whole slices of {} s)", took.len(), median(took.into_iter()), RELOAD_SLICE.as_secs());
    Ok(())
}

/// The same load while the broker is well, away, back, and slow.
pub fn outage(row: &mut Row, broker: &Broker, rate: f64, args: &Args) -> io::Result<()> {
    // Half of the load of the measurement before: the broker's return brings the spool on top, and shares the visitors' processor.
    let rate = rate / 2.0;
    println!("\n{}: open loop, {rate:.0} requests a second", row.server.name);
    heading("broker");
    for name in ["well", "away", "back", "2 s slow", "well again"] {
        match name {
            "away" => broker.down(),
            "2 s slow" => broker.up(Duration::from_secs(2)),
            _ => broker.up(Duration::ZERO),
        }
        let seen = row.visitors.open(rate, Duration::from_secs(args.phase), args.seed)?;
        row.count(&seen)?;
        line(name, &seen.latency);
    }
    Ok(())
}

fn heading(first: &str) {
    println!("  {first:<26} {:>9} {:>9} {:>9} {:>9}", "p50 µs", "p99 µs", "p99.9 µs", "max ms");
}

fn line(name: &str, latency: &Histogram<u64>) {
    let micros = |quantile| micros(latency, quantile);
    println!("  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.1}", name, micros(0.5), micros(0.99), micros(0.999), latency.max() as f64 / 1e6);
}

fn micros(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1e3
}

fn empty() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(100, 120_000_000_000, 3).map_err(io::Error::other)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Waits until all clicks of a row are on the broker; how many there are.
pub fn arrived(broker: &Broker, topic: &str, wanted: u64, within: Duration) -> u64 {
    let end = Instant::now() + within;
    loop {
        let there = broker.offsets(topic);
        if there >= wanted || Instant::now() > end {
            return there;
        }
        thread::sleep(Duration::from_millis(200));
    }
}
