//! The whole dataflow against a plain reading of the contract, over random logs.
//!
//! The oracle keeps every record ever seen and works each tick's end out from nothing, as the contract words it: no
//! indexes, no cursors, no incremental state but what the contract itself calls memory (a click is resolved once, a
//! deal moves once in a hot period, an unchanged value is silent). It shares types with the job, no decisions.
//!
//! A failing seed is printed; `CLICKLINE_SEEDS=n..m cargo test --test oracle` runs that range of seeds.

mod oracle_model;

use clickline::dataflow::build;
use clickline::dataflow::carried::Reader;
use clickline::dataflow::plan::{Plan, Times};
use clickline::dataflow::rows::Arrival;
use clickline::model::inputs::Input as _;
use clickline::model::outputs::{Output, State, Topic};
use clickline::model::time::Ms;
use oracle_model::{Log, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Inspect, Probe};

/// Runs the dataflow over a log's arrivals, dealt to `workers` at random and flushed at random.
fn run(plan: &Arc<Plan>, arrivals: Vec<(Arrival, Ms)>, workers: usize, seed: u64) -> Vec<(Ms, Output)> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (sink, plan) = (Arc::clone(&said), Arc::clone(plan));
    let end = arrivals.last().map_or(0, |(_, at)| *at);
    let mut rng = StdRng::seed_from_u64(seed);
    let dealt: Arc<Vec<(Arrival, Ms, usize, bool)>> =
        Arc::new(arrivals.into_iter().map(|(arrival, at)| (arrival, at, rng.random_range(0..workers), rng.random_bool(0.3))).collect());
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
        let said = lines(&run(&world.plan, log.arrivals(), workers, seed ^ workers as u64));
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
    let mut kinds = BTreeMap::new();
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

/// A restart that reads only what the topics keep, and what the job wrote down for it: from its first tick on it must say
/// what a job says that was never stopped.
fn check_restart(seed: u64) -> usize {
    let world = World::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let log = Log::random(&mut rng, 3 * RECORDS);
    // Here the limit on lateness holds: a form that is needed later is not in the topics any more.
    let plan = Arc::new(Plan { carries: true, times: Times::with_tick(oracle_model::TICK), ..(*world.plan).clone() });
    let whole = run(&plan, log.arrivals(), 1, seed);
    let ticks: Vec<Ms> = log.arrivals().iter().map(|(_, at)| *at).collect();
    let resume = ticks[rng.random_range(ticks.len() * 2 / 3..ticks.len())];

    let mut state = BTreeMap::new();
    let mut written: Vec<&(Ms, Output)> = whole.iter().filter(|(at, output)| *at < resume && output.topic == Topic::State).collect();
    written.sort();
    for (_, output) in written {
        match output.value.as_slice() {
            [] => drop(state.remove(&output.key)),
            value => drop(state.insert(output.key.clone(), serde_json::from_slice::<State>(value).expect("a state"))),
        }
    }
    let reader = Reader::new(&plan);
    let carried = state.values().flat_map(|state| reader.rows(state)).map(|row| (Arrival::Carried(row), resume));
    let mut arrivals = log.since(resume - plan.clicks_back(), resume - plan.forms_back()).arrivals();
    let place = arrivals.partition_point(|(_, at)| *at < resume);
    arrivals.splice(place..place, carried);
    let mut plan = (*plan).clone();
    plan.resumes_at(resume);
    let plan = Arc::new(plan);

    let after = |outputs: &[(Ms, Output)]| {
        let others = |(at, output): &&(Ms, Output)| *at >= resume && output.topic != Topic::State;
        lines(&outputs.iter().filter(others).cloned().collect::<Vec<_>>())
    };
    let expected = after(&whole);
    let workers = 1 + usize::from(seed.is_multiple_of(2));
    let said = after(&run(&plan, arrivals, workers, seed));
    let missing: Vec<_> = expected.iter().filter(|line| !said.contains(line)).collect();
    let surplus: Vec<_> = said.iter().filter(|line| !expected.contains(line)).collect();
    assert!(said == expected, "seed {seed}, resumed at {resume}\nmissing {missing:#?}\nsurplus {surplus:#?}");
    expected.len()
}

#[test]
fn a_restart_over_what_is_kept_goes_on_as_if_nothing_had_happened() {
    let said: usize = seeds().map(check_restart).sum();
    assert!(said > 20, "{said} outputs after the restarts");
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
