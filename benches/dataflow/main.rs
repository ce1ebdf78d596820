//! The dataflow alone, beside the same answers computed by hand.
//!
//! ```text
//! cargo bench --bench dataflow -- [--clicks 10000000] [--forms 1000000] [--seed 1] [--counts ruled|all] [--idle-rules 0] [--in-flight 2]
//!     [--idle-spin 0]
//! ```
//!
//! Records are made in memory, chunk by chunk, outside of what is timed, each as its reader has it: structures of texts for the
//! program by hand, as serde makes them, and packed clicks, as the job's sources make them, for the dataflow and for a second turn
//! of the program by hand; each chunk then goes through the baseline (one
//! thread), the dataflow on one worker, and the dataflow on two, in runs of their own. Timed is from decoded records to rows
//! of output (resolved clicks, counts, values, advances, expired holds) that are folded into a digest; the three digests
//! must be equal, or there is no result. Decoding and JSON are timed by other benchmarks. A step is the time from a chunk's
//! hand-over until the frontier has passed it; the dataflow has up to two chunks on the way, as behind a source that reads on, so
//! its steps overlap.
//!
//! `grown` is resident memory at the end less that at the beginning, of everything: the mirror, names, ids of 72 hours, forms,
//! holds, counts and the log of the window, and the allocator's slack; `B/click` is that for each click in the window.
//! `tests/memory.rs` counts the window's own bytes. On a machine with other work on it only the ratio of processor time says
//! something, and that of one worker only.

mod baseline;
mod generate;

use baseline::{Baseline, Clicked, Record};
use clap::Parser;
use clickline::dataflow::plan::{Counts, Plan};
use clickline::dataflow::rows::{Arrival, ClickId, Via, Who};
use clickline::dataflow::{Computed, compute};
use clickline::model::time::Ms;
use clickline::model::{Click, PackedClick};
use foldhash::fast::FixedState;
use generate::{Generator, Made, mirror, plan};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Inspect, Probe};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The dataflow alone, beside the same answers computed by hand.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Clicks in all.
    #[arg(long, default_value_t = 10_000_000)]
    clicks: u64,
    /// Forms in all.
    #[arg(long, default_value_t = 1_000_000)]
    forms: u64,
    /// Clicks that each worker is handed at once: what two topics of a worker hand over in a turn.
    #[arg(long, default_value_t = 2_000)]
    chunk: u64,
    /// Chunks that a worker may have been handed before the first of them is through: a source goes on reading, too.
    #[arg(long, default_value_t = 2)]
    in_flight: usize,
    /// How long a worker with nothing to do looks for something before it parks, µs; the job's workers park at once.
    #[arg(long, default_value_t = 0)]
    idle_spin: u64,
    /// Of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `ruled` or `all`.
    #[arg(long, default_value = "ruled")]
    counts: String,
    /// Rules beside the 22, on tags that no click carries.
    #[arg(long, default_value_t = 0)]
    idle_rules: usize,
    /// Numbers of workers.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An order-independent sum over all rows of a kind, with their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([(u64, u64); 5]);

impl Digest {
    fn add(&mut self, kind: usize, row: impl Hash) {
        let (n, sum) = &mut self.0[kind];
        *n += 1;
        *sum = sum.wrapping_add(FixedState::default().hash_one(row));
    }
    fn resolved(&mut self, click: &str, person: &str, form: Option<&str>, at: Ms) {
        self.add(0, (click, person, form, at));
    }
    fn unresolved(&mut self, click: &str, at: Ms) {
        self.add(1, (click, at));
    }
    fn value(&mut self, person: &str, property: &str, text: &str, click: (Ms, &ClickId), at: Ms) {
        self.add(2, (person, property, text, click, at));
    }
    #[expect(clippy::too_many_arguments, reason = "a row is as wide as it is")]
    fn advanced(&mut self, rule: u32, person: &str, deal: &str, since: Ms, count: u64, last: &str, at: Ms) {
        self.add(3, (rule, person, deal, since, count, last, at));
    }
    fn count(&mut self, person: &str, key: &str, n: u64, at: Ms) {
        self.add(4, (person, key, n, at));
    }
    fn join(&mut self, other: &Digest) {
        for ((n, sum), (more, of)) in self.0.iter_mut().zip(&other.0) {
            *n += more;
            *sum = sum.wrapping_add(*of);
        }
    }
}

thread_local! {
    static NAME: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Hands over a person's text, as an output has it.
fn named(who: Who, to: impl FnOnce(&str)) {
    NAME.with_borrow_mut(|name| {
        name.clear();
        who.write_to(name);
        to(name);
    });
}

/// A run's figures.
struct Figures {
    digest: Digest,
    wall: Duration,
    cpu: Duration,
    steps: Histogram<u64>,
    /// Resident memory at the end less that at the beginning.
    grown: u64,
}

fn run_baseline<C: Clicked>(args: &Args, plan: &Plan) -> Figures
where
    Record<C>: From<Made>,
{
    let before = resident();
    let mut generator = Generator::new(args.seed, args.clicks, args.forms);
    let mut baseline = Baseline::<C>::new(plan);
    let taken = |records: Vec<(Made, Ms)>| records.into_iter().map(|(made, at)| (made.into(), at)).collect::<Vec<_>>();
    baseline.run(&taken(mirror()));
    let mut figures = Figures { digest: Digest::default(), wall: Duration::ZERO, cpu: Duration::ZERO, steps: histogram(), grown: 0 };
    loop {
        let chunks: Vec<_> = made(&mut generator, args.chunk).into_iter().map(taken).collect();
        if chunks.is_empty() {
            break;
        }
        for records in chunks {
            let (began, cpu) = (Instant::now(), processor_time());
            baseline.run(&records);
            // The dataflow frees what it is given, too.
            drop(records);
            let took = began.elapsed();
            figures.wall += took;
            figures.cpu += processor_time() - cpu;
            figures.steps.saturating_record(micros(took));
        }
    }
    figures.digest = baseline.digest;
    figures.grown = resident().saturating_sub(before);
    figures
}

/// Chunks that are made at once, before what is timed.
const MADE_AT_ONCE: usize = 32;

/// The next chunks; none when there are no more.
fn made(generator: &mut Generator, clicks: u64) -> Vec<Vec<(Made, Ms)>> {
    (0..MADE_AT_ONCE).map(|_| generator.chunk(clicks)).take_while(|chunk| !chunk.is_empty()).collect()
}

/// Chunks, worker by worker, each with the end of its last tick.
type Dealt = Vec<Vec<(Vec<(Made, Ms)>, Ms)>>;

/// Deals chunks out, as partitions would be: runs of records on one worker.
fn dealt(chunks: Vec<Vec<(Made, Ms)>>, peers: usize) -> Dealt {
    let mut dealt: Dealt = vec![Vec::new(); peers];
    for chunk in chunks {
        let last = chunk.last().map_or(0, |(_, at)| *at);
        let mut parts = vec![Vec::new(); peers];
        for (n, record) in chunk.into_iter().enumerate() {
            parts[(n / 64) % peers].push(record);
        }
        for (of, part) in dealt.iter_mut().zip(parts) {
            of.push((part, last));
        }
    }
    dealt
}

fn run_dataflow(args: &Args, plan: &Arc<Plan>, workers: usize) -> Figures {
    let before = resident();
    let generator = Arc::new(Mutex::new(Generator::new(args.seed, args.clicks, args.forms)));
    let chunks: Arc<Mutex<Dealt>> = Arc::default();
    let barrier = Arc::new(Barrier::new(workers));
    let (plan, args) = (Arc::clone(plan), args.clone());
    let mut config = timely::Config::process(workers);
    config.worker = config.worker.idle_spin(Duration::from_micros(args.idle_spin));
    let guards = timely::execute(config, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let digest = std::rc::Rc::new(std::cell::RefCell::new(Digest::default()));
        let mut input = InputHandle::new();
        let probe = worker.dataflow::<Ms, _, _>(|scope| {
            let Computed { resolved, unresolved, values, counts, advances, .. } = compute(scope.input_from(&mut input), &plan);
            let probe = timely::dataflow::ProbeHandle::new();
            let of = std::rc::Rc::clone(&digest);
            let resolved = resolved.inspect(move |(row, at)| {
                let form = match &row.hit.via {
                    Some(Via::Form(form)) => Some(form.id.as_str()),
                    _ => None,
                };
                named(row.person, |who| of.borrow_mut().resolved(row.hit.click.id_text(), who, form, *at));
            });
            resolved.probe_with(&probe);
            let of = std::rc::Rc::clone(&digest);
            unresolved.inspect(move |(click, at)| of.borrow_mut().unresolved(click.id_text(), *at)).probe_with(&probe);
            let of = std::rc::Rc::clone(&digest);
            let values = values.inspect(move |(row, at)| {
                named(row.who, |who| {
                    for value in &row.values {
                        of.borrow_mut().value(who, &value.property, &value.text, (value.click.ts, &value.click.id), *at);
                    }
                });
            });
            values.probe_with(&probe);
            let of = std::rc::Rc::clone(&digest);
            let counts = counts.inspect(move |(row, at)| {
                named(row.subject.who, |who| of.borrow_mut().count(who, &row.measure.key, row.is, *at));
            });
            counts.probe_with(&probe);
            let of = std::rc::Rc::clone(&digest);
            let advances = advances.inspect(move |(row, at)| {
                let (rule, who, period) = (row.candidate.rule, row.candidate.subject.who, &row.period);
                named(who, |who| {
                    of.borrow_mut().advanced(rule, who, &row.deal, period.since, period.count, &period.last.id.to_string(), *at);
                });
            });
            advances.probe_with(&probe);
            probe
        });
        let mut figures = Figures { digest: Digest::default(), wall: Duration::ZERO, cpu: Duration::ZERO, steps: histogram(), grown: 0 };
        let mut first = true;
        loop {
            if index == 0 {
                let made =
                    if first { vec![mirror()] } else { made(&mut generator.lock().expect("not poisoned"), args.chunk * peers as u64) };
                *chunks.lock().expect("not poisoned") = dealt(made, peers);
            }
            barrier.wait();
            let mine = std::mem::take(&mut chunks.lock().expect("not poisoned")[index]);
            // Each worker reads its own partitions, and so allocates what they hold.
            let arrival = |(made, at): (Made, Ms)| (made.arrival(), at);
            let mine: Vec<(Vec<(Arrival, Ms)>, Ms)> =
                mine.into_iter().map(|(records, last)| (records.into_iter().map(arrival).collect(), last)).collect();
            barrier.wait();
            if mine.is_empty() {
                break;
            }
            let (began, cpu) = (Instant::now(), processor_time());
            let mut waits = VecDeque::new();
            let mut through = |waits: &mut VecDeque<(Ms, Instant)>, left: usize, figures: &mut Figures| {
                while waits.len() > left {
                    while let Some((end, handed_over)) = waits.front()
                        && !probe.less_than(end)
                    {
                        figures.steps.saturating_record(micros(handed_over.elapsed()));
                        waits.pop_front();
                    }
                    if waits.len() > left {
                        worker.step_or_park(Some(Duration::from_micros(200)));
                    }
                }
            };
            for (mut records, last) in mine {
                through(&mut waits, args.in_flight.saturating_sub(1), &mut figures);
                waits.push_back((last + 1, Instant::now()));
                input.send_batch(&mut records);
                input.advance_to(last + 1);
                input.flush();
            }
            through(&mut waits, 0, &mut figures);
            barrier.wait();
            if first {
                figures.steps.reset();
            } else {
                figures.wall += began.elapsed();
                figures.cpu += processor_time() - cpu;
            }
            first = false;
        }
        // The last tick closes as it does for the baseline: with what is due at it, and nothing later.
        let end = *input.time() + generate::TICK;
        input.advance_to(end);
        input.flush();
        while probe.less_than(&end) {
            worker.step();
        }
        figures.digest = *digest.borrow();
        figures.grown = resident().saturating_sub(before);
        barrier.wait();
        figures
    })
    .expect("workers start");
    let mut all: Vec<Figures> = guards.join().into_iter().map(|figures| figures.expect("a worker's figures")).collect();
    let mut first = all.remove(0);
    for other in all {
        first.digest.join(&other.digest);
    }
    first
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("an hour at most, three digits")
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Processor time of all threads, from the kernel.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Linux counts in hundredths of a second here, on every machine.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn main() {
    let args = Args::parse();
    let counts = if args.counts == "all" { Counts::All } else { Counts::Ruled };
    let plan = Arc::new(plan(counts, args.idle_rules));
    println!("{} clicks, {} forms, counts {}, {} rules, seed {}", args.clicks, args.forms, args.counts, plan.rules.len(), args.seed);
    println!(
        "{:<22} {:>10} {:>7} {:>12} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "clicks/s", "ratio", "clicks/cpu-s", "ratio", "step p50", "p99", "max", "grown MB", "B/click"
    );
    let base = run_baseline::<Click>(&args, &plan);
    let row = |name: &str, figures: &Figures| {
        let rate = |time: Duration| args.clicks as f64 / time.as_secs_f64();
        let ms = |quantile: f64| figures.steps.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "{name:<22} {:>10.0} {:>6.2}x {:>12.0} {:>6.2}x {:>7.1}ms {:>7.1}ms {:>7.1}ms {:>9.0} {:>9.0}",
            rate(figures.wall),
            base.wall.as_secs_f64() / figures.wall.as_secs_f64(),
            rate(figures.cpu),
            base.cpu.as_secs_f64() / figures.cpu.as_secs_f64(),
            ms(0.5),
            ms(0.99),
            figures.steps.max() as f64 / 1e3,
            figures.grown as f64 / 1e6,
            // Half of the generated clicks lie in the window of 30 days at the end.
            figures.grown as f64 / (args.clicks as f64 / 2.0),
        );
    };
    row("by hand, one thread", &base);
    row("by hand, packed clicks", &run_baseline::<PackedClick>(&args, &plan));
    for workers in &args.workers {
        let figures = run_dataflow(&args, &plan, *workers);
        row(&format!("dataflow, {workers} worker(s)"), &figures);
        if figures.digest != base.digest {
            println!("rows (resolved, expired, values, advances, counts) differ:\n{:?}\n{:?}", base.digest, figures.digest);
            std::process::exit(1);
        }
    }
    let [resolved, expired, values, advances, counts] = base.digest.0.map(|(n, _)| n);
    println!("equal in all: {resolved} resolved, {expired} expired, {values} changes of values, {advances} advances, {counts} counts");
}
