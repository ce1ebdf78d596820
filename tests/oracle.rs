//! The whole dataflow against a plain reading of the contract, over random logs.
//!
//! The oracle keeps every record ever seen and works each tick's end out from nothing, as the contract words it: no
//! indexes, no cursors, no incremental state but what the contract itself calls memory (a click is resolved once, a
//! deal moves once in a hot period, an unchanged value is silent). It shares types with the job, no decisions.
//!
//! A failing seed is printed; `CLICKLINE_SEEDS=n..m cargo test --test oracle` runs that range of seeds.

mod oracle_model;

use clickline::dataflow::build;
use clickline::dataflow::rows::Arrival;
use clickline::model::inputs::Input as _;
use clickline::model::outputs::Output;
use clickline::model::time::Ms;
use oracle_model::{Log, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, Mutex};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Inspect, Probe};

/// Runs the dataflow over a log, dealt to `workers` at random and flushed at random.
fn run(world: &World, log: &Log, workers: usize, seed: u64) -> Vec<(Ms, Output)> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (sink, plan, arrivals) = (Arc::clone(&said), Arc::clone(&world.plan), log.arrivals());
    let mut rng = StdRng::seed_from_u64(seed);
    let dealt: Arc<Vec<(Arrival, Ms, usize, bool)>> =
        Arc::new(arrivals.into_iter().map(|(arrival, at)| (arrival, at, rng.random_range(0..workers), rng.random_bool(0.3))).collect());
    let end = log.end();
    timely::execute(timely::Config::process(workers), move |worker| {
        let sink = Arc::clone(&sink);
        let mut input = InputHandle::new();
        let me = worker.index();
        let probe = worker.dataflow::<Ms, _, _>(|scope| {
            let arrivals = scope.input_from(&mut input);
            let (probe, _said) =
                build(arrivals, &plan).inspect(move |(output, at)| sink.lock().expect("not poisoned").push((*at, output.clone()))).probe();
            probe
        });
        for (arrival, at, to, flush) in dealt.iter() {
            if *flush {
                input.advance_to(*at);
                while probe.less_than(input.time()) {
                    worker.step();
                }
            }
            if *to == me {
                input.send((arrival.clone(), *at));
            }
        }
        input.advance_to(end + 1);
        input.flush();
        while probe.less_than(input.time()) {
            worker.step();
        }
    })
    .expect("starts")
    .join()
    .into_iter()
    .for_each(|worker| worker.expect("runs"));
    Arc::try_unwrap(said).expect("workers are gone").into_inner().expect("not poisoned")
}

fn lines(outputs: &[(Ms, Output)]) -> Vec<String> {
    let mut lines: Vec<String> = outputs.iter().map(|(at, output)| oracle_model::line(*at, output)).collect();
    lines.sort();
    lines
}

/// Records in a log.
const RECORDS: usize = 140;

/// The seeds to run: twenty, or those of `CLICKLINE_SEEDS=from..to`.
fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("CLICKLINE_SEEDS").ok();
    let range = wanted.as_deref().and_then(|text| text.split_once("..")).map(|(from, to)| (from.parse(), to.parse()));
    match (wanted, range) {
        (None, _) => 0..20,
        (_, Some((Ok(from), Ok(to)))) => from..to,
        (Some(wanted), _) => panic!("CLICKLINE_SEEDS={wanted}; write it like 0..1000"),
    }
}

fn check(seed: u64) -> usize {
    let world = World::new();
    let log = Log::random(&mut StdRng::seed_from_u64(seed), RECORDS);
    let mut expected = oracle_model::expect(&world, &log);
    expected.sort();
    for workers in 1..=3 {
        let said = lines(&run(&world, &log, workers, seed ^ workers as u64));
        if said != expected {
            let missing: Vec<_> = expected.iter().filter(|line| !said.contains(line)).collect();
            let surplus: Vec<_> = said.iter().filter(|line| !expected.contains(line)).collect();
            panic!(
                "seed {seed}, {workers} workers\nmissing {missing:#?}\nsurplus {surplus:#?}\n{} and {} lines",
                said.len(),
                expected.len()
            );
        }
    }
    expected.len()
}

#[test]
fn any_log_gives_what_the_contract_says() {
    let mut kinds = std::collections::BTreeMap::new();
    for seed in seeds() {
        assert!(check(seed) > 0, "seed {seed} says something");
        let world = World::new();
        for line in oracle_model::expect(&world, &Log::random(&mut StdRng::seed_from_u64(seed), RECORDS)) {
            let kind = line.split(' ').nth(1).unwrap_or_default().to_owned();
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    println!("{kinds:?}");
    if std::env::var_os("CLICKLINE_SEEDS").is_some() {
        return;
    }
    // The logs reach every kind of output often, or the test above says little.
    println!("{kinds:?}");
    for kind in ["timeline", "properties", "stage", "unresolved", "count"] {
        assert!(kinds.get(kind).is_some_and(|n| *n >= 30), "{kind}: {kinds:?}");
    }
}

#[test]
fn the_model_reads_what_the_oracle_writes() {
    let log = Log::random(&mut StdRng::seed_from_u64(1), 50);
    for click in log.clicks() {
        let bytes = serde_json::to_vec(click).expect("JSON");
        let read = clickline::model::Click::read(&bytes).expect("accepted");
        assert_eq!((&read.id, read.ts, &read.contact_id, &read.gclid), (&click.id, click.ts, &click.contact_id, &click.gclid));
        // A tag that stands there twice is one tag.
        assert!(read.tags.iter().all(|tag| click.tags.contains(tag)) && click.tags.iter().all(|tag| read.tags.contains(tag)));
    }
}
