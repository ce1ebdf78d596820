//! The whole dataflow against a plain reading of the contract, over random logs.
//!
//! The oracle (`oracle_model`) works each tick's end out from nothing and writes down every output record in full. The dataflow
//! must give the same records however the log comes: one record at a time, in random batches, all at once; with 1, 2 and 4
//! workers; and cut by restarts at random places, each with rules added, taken away and changed.
//!
//! # Seeds
//! The usual ones are the same in every run; `CLICKLINE_NEW_SEEDS=n..m` adds others, which `tests/run` chooses anew in continuous
//! integration, and `CLICKLINE_SEEDS=n..m cargo test --test oracle` runs that range alone. A failing seed is printed with the command that
//! shows it again, with `CLICKLINE_SHOW=1` the log, too. It is kept: put it into [`REGRESSIONS`], with a word on what it found, in the commit
//! that mends it.

mod oracle_model;

use clickline::config::rules::{self, Mode, Rule};
use clickline::dataflow::carried::Reader;
use clickline::dataflow::plan::{Plan, Times};
use clickline::dataflow::rows::Arrival;
use clickline::dataflow::step::AHEAD;
use clickline::model::inputs::Input as _;
use clickline::model::outputs::{Output, State, Topic};
use clickline::model::time::{DAY, Ms, tick_end};
use oracle_model::expect::{Reached, expect, shown};
use oracle_model::feed::{Feed, lines, run, run_as_bytes};
use oracle_model::{Log, RULES, Record, TICK, Term, World, differences};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Seeds that failed once; every run has them.
const REGRESSIONS: [u64; 0] = [];

/// Records in a log.
const RECORDS: usize = 160;

/// The seeds to run: those that ever failed, twenty, and those of `CLICKLINE_NEW_SEEDS=from..to`; or those of `CLICKLINE_SEEDS=from..to`.
fn seeds() -> Vec<u64> {
    match (range("CLICKLINE_SEEDS"), range("CLICKLINE_NEW_SEEDS")) {
        (Some(alone), _) => alone.collect(),
        (None, new) => REGRESSIONS.into_iter().chain(0..20).chain(new.into_iter().flatten()).collect(),
    }
}

/// A range of seeds that a variable names.
fn range(variable: &str) -> Option<Range<u64>> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    match text.split_once("..").map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => Some(from..to),
        _ => panic!("{variable}={text}; write it like 0..1000"),
    }
}

/// What is behind a failure, and how to see it again.
fn failed(seed: u64, test: &str, how: &str, differences: &str) -> ! {
    panic!("{differences}\nseed {seed}, {how}; again with\n  CLICKLINE_SEEDS={seed}..{} cargo test --test oracle {test}", seed + 1)
}

/// Prints a log where `CLICKLINE_SHOW` is set.
fn show(log: &Log) {
    for (offset, at, record) in log.0.iter().filter(|_| std::env::var_os("CLICKLINE_SHOW").is_some()) {
        let (topic, key, value) = record.message();
        let (key, value) = (key.unwrap_or_default(), value.map(|value| String::from_utf8_lossy(&value).replace("null", "-")));
        println!("{offset} {at} {topic} {key} {}", value.unwrap_or_default());
    }
}

/// Adds up which cases the logs came to, and how many records of each topic.
#[derive(Default)]
struct Met(BTreeMap<String, u64>);

impl Met {
    fn add(&mut self, lines: &[String], reached: &Reached) {
        for topic in lines.iter().filter_map(|line| line.split(' ').nth(1)) {
            *self.0.entry(topic.to_owned()).or_default() += 1;
        }
        for (case, n) in &reached.0 {
            *self.0.entry((*case).to_owned()).or_default() += n;
        }
    }

    /// The usual seeds must reach every case: a test that no longer does says nothing.
    fn all(&self, least: u64) {
        println!("{:#?}", self.0);
        if std::env::var_os("CLICKLINE_SEEDS").is_none() {
            let rare: Vec<_> = self.0.iter().filter(|(_, n)| **n < least).collect();
            assert!(rare.is_empty(), "hardly or never met: {rare:?}");
        }
    }
}

#[test]
fn any_log_gives_what_the_contract_says() {
    let world = World::new();
    let plan = Arc::new(world.plan(World::times(), &world.rules()));
    let mut met = Met::default();
    for seed in seeds() {
        let log = Log::random(&mut StdRng::seed_from_u64(seed), RECORDS, 390 * DAY);
        let expected = expect(&world, &log);
        // Every way with every number of workers for a few seeds; for the others three of the nine, in turn.
        let ways = Feed::ALL.into_iter().enumerate().flat_map(|(n, feed)| [1, 2, 4].map(|workers| (n as u64, feed, workers)));
        for (_, feed, workers) in ways.filter(|(n, _, workers)| seed.is_multiple_of(10) || (n + workers / 2 + seed).is_multiple_of(3)) {
            let said = lines(&run(&plan, log.arrivals(), log.end() + 1, workers as usize, feed, seed ^ workers));
            if let Some(differences) = differences(&expected.lines, &said) {
                show(&log);
                failed(seed, "any_log", &format!("{workers} workers, {feed:?}"), &differences);
            }
        }
        met.add(&expected.lines, &expected.reached);
    }
    // Rules that are added later are the other test's.
    met.0.remove("a backfill");
    for topic in Topic::ALL {
        met.0.entry(topic.default_name().to_owned()).or_default();
    }
    met.all(2);
}

/// A tick of many rows looks ahead within itself, one of few across its end.
#[test]
fn ticks_of_many_records_give_what_the_contract_says() {
    let world = World::new();
    let plan = Arc::new(world.plan(World::times(), &world.rules()));
    let mut most = 0;
    for seed in seeds() {
        let rng = &mut StdRng::seed_from_u64(seed);
        // Forms are kept for 400 days.
        let log = Log::random(rng, 3 * RECORDS, 390 * DAY).crowded(rng, 3 * RECORDS, 9 * DAY);
        let workers = [1, 1, 2, 4][seed as usize % 4];
        if workers == 1 {
            let of_ticks = log.0.chunk_by(|a, b| tick_end(a.1, TICK) == tick_end(b.1, TICK));
            let click = |record: &&(i64, Ms, Record)| matches!(&record.2, Record::Click(_));
            most = most.max(of_ticks.map(|tick| tick.iter().filter(click).count()).max().unwrap_or(0));
        }
        let expected = expect(&world, &log);
        let feed = Feed::ALL[seed as usize % Feed::ALL.len()];
        let said = lines(&run(&plan, log.arrivals(), log.end() + 1, workers, feed, seed));
        if let Some(differences) = differences(&expected.lines, &said) {
            show(&log);
            failed(seed, "ticks_of_many", &format!("{workers} workers, {feed:?}"), &differences);
        }
    }
    assert!(std::env::var_os("CLICKLINE_SEEDS").is_some() || most > AHEAD, "no tick of one worker had more than {most} clicks");
}

#[test]
fn rows_that_cross_as_bytes_say_the_same() {
    let world = World::new();
    // `carries`: rows for the next start cross, too; they are no outputs of the oracle's.
    let plan = Arc::new(Plan { carries: true, ..world.plan(World::times(), &world.rules()) });
    for seed in seeds().into_iter().step_by(3) {
        let log = Log::random(&mut StdRng::seed_from_u64(seed), RECORDS, 390 * DAY);
        let expected = expect(&world, &log);
        let workers = 2 + usize::from(seed.is_multiple_of(2));
        let said = lines(&run_as_bytes(&plan, log.arrivals(), log.end() + 1, workers, Feed::Batches, seed));
        if let Some(differences) = differences(&expected.lines, &said) {
            failed(seed, "rows_that_cross", &format!("{workers} workers"), &differences);
        }
    }
}

/// The rules of one run: of those before it some are taken away, changed, told to backfill, only to watch, or put back.
fn change(rng: &mut StdRng, bank: &[Rule], before: &[Option<Rule>]) -> Vec<Option<Rule>> {
    let mut rules = before.to_vec();
    for (place, rule) in rules.iter_mut().enumerate() {
        match rng.random_range(0..12) {
            0 | 1 => *rule = None,
            2..6 => *rule = Some(Rule { backfill: rng.random_bool(0.6), ..bank[place].clone() }),
            // Another threshold is another rule.
            6 => *rule = Some(Rule { threshold: bank[place].threshold + 1, ..bank[place].clone() }),
            7 => rule.iter_mut().for_each(|rule| rule.backfill = !rule.backfill),
            8 => rule.iter_mut().for_each(|rule| rule.mode = *[Mode::Live, Mode::Shadow, Mode::Off].choose(rng).expect("some")),
            9 => rule.iter_mut().for_each(|rule| rule.name += "'"),
            _ => {}
        }
    }
    rules
}

/// What a run leaves behind for the next one, as the job writes it.
#[derive(Default)]
struct Left {
    dates: BTreeMap<String, Ms>,
    /// The newest record of each key of the state topic.
    state: BTreeMap<String, Vec<u8>>,
}

impl Left {
    /// Takes the records of committed ticks, in the order in which the outbox writes them.
    fn take(&mut self, outputs: &[(Ms, Output)]) {
        let mut written: Vec<&(Ms, Output)> = outputs.iter().filter(|(_, output)| output.topic == Topic::State).collect();
        written.sort();
        for (_, output) in written {
            match output.value.as_slice() {
                [] => drop(self.state.remove(&output.key)),
                value => drop(self.state.insert(output.key.clone(), value.to_vec())),
            }
        }
    }
}

/// A job that is killed and started again at random ticks reads only what the topics keep and what it wrote down, and says what
/// the contract says of the whole log.
fn check_restarts(seed: u64, met: &mut Met) {
    let rng = &mut StdRng::seed_from_u64(seed);
    // Here the limit on lateness holds: a form that is needed later is not in the topics any more.
    let log = Log::random(rng, 2 * RECORDS, 30 * DAY);
    let mut ticks: Vec<Ms> = log.0.iter().flat_map(|(_, at, _)| [tick_end(*at, TICK), tick_end(*at, TICK) + TICK]).collect();
    ticks.shuffle(rng);
    ticks.truncate(rng.random_range(1..5));
    let frontiers: Vec<Ms> = ticks.into_iter().collect::<BTreeSet<_>>().into_iter().collect();

    let mut world = World::with(Vec::new());
    let bank = rules::read(RULES).expect("rules");
    let mut rules: Vec<Option<Rule>> = bank.iter().map(|rule| rng.random_bool(0.6).then(|| rule.clone())).collect();
    let (mut left, mut said) = (Left::default(), Vec::new());
    let mut starts = vec![0];
    starts.extend(frontiers);
    // So many of the runs are of a build that published all counts at the second's end.
    let earlier = StdRng::seed_from_u64(!seed).random_range(0..starts.len());
    world.counts_since = tick_end(starts[earlier], 1_000);
    for (n, resume) in starts.iter().copied().enumerate() {
        let until = starts.get(n + 1).copied().unwrap_or(log.end() + 1);
        if n > 0 {
            rules = change(rng, &bank, &rules);
        }
        let there: Vec<Rule> = rules.iter().flatten().filter(|rule| rule.mode != Mode::Off).cloned().collect();
        let all: Vec<Rule> = rules.iter().flatten().cloned().collect();

        // As `job::run`.
        let mut plan = world.plan(Times::with_tick(TICK), &all);
        left.dates = plan.date_rules((n > 0).then_some((&left.dates, resume)));
        let kept = match n {
            0 => Log(log.0.clone()),
            _ => log.kept(resume - plan.clicks_back(), resume - plan.forms_back(), rng),
        };
        (plan.carries, plan.outputs_from) = (true, resume);
        plan.counts_since = if n < earlier { Ms::MAX } else { world.counts_since };
        if !left.state.is_empty() {
            plan.resumes_at(resume);
        }
        let reader = Reader::new(&plan);
        let states = left.state.values().map(|value| serde_json::from_slice::<State>(value).expect("a state"));
        let carried: Vec<_> = states.flat_map(|state| reader.rows(&state)).map(|row| (Arrival::Carried(row), resume)).collect();
        let mut arrivals = kept.arrivals();
        let place = arrivals.partition_point(|(_, at)| *at < resume);
        arrivals.splice(place..place, carried);
        arrivals.retain(|(_, at)| *at < until);
        let (workers, feed) = (*[1, 2, 4].choose(rng).expect("some"), *Feed::ALL.choose(rng).expect("some"));
        let plan: Arc<Plan> = Arc::new(plan);
        let mut outputs = run(&plan, arrivals, until, workers, feed, seed);
        outputs.retain(|(at, _)| *at >= resume);
        left.take(&outputs);
        said.extend(outputs);

        // What the contract is told of the rules.
        for rule in there {
            let same = world
                .terms
                .iter_mut()
                .find(|term| term.until == resume && term.versions.first().is_some_and(|(_, first)| first.meaning() == rule.meaning()));
            match same {
                Some(term) if n > 0 => {
                    term.versions.push((resume, rule));
                    term.until = until;
                }
                _ => {
                    let shown = if n > 0 { shown(&rule, &kept, resume) } else { Default::default() };
                    world.terms.push(Term { versions: vec![(resume, rule)], until, shown });
                }
            }
        }
    }
    let expected = expect(&world, &log);
    if let Some(differences) = differences(&expected.lines, &lines(&said)) {
        let rules: Vec<_> = world
            .terms
            .iter()
            .map(|term| {
                let versions: Vec<_> =
                    term.versions.iter().map(|(from, rule)| format!("{from} {:?} {:?} {}", rule.mode, rule.name, rule.backfill)).collect();
                format!("{versions:?} until {}", term.until)
            })
            .collect();
        show(&log);
        failed(seed, "restarts", &format!("started at {starts:?} with {rules:#?}"), &differences);
    }
    met.add(&expected.lines, &expected.reached);
}

#[test]
fn restarts_and_changes_of_rules_leave_no_trace() {
    let mut met = Met::default();
    for seed in seeds() {
        check_restarts(seed, &mut met);
    }
    // Some cases of the first test need more time than a run of a rule has.
    met.0.retain(|case, _| {
        ["a backfill", "a deal that a period from before the rule leaves alone"].contains(&case.as_str()) || case.contains('.')
    });
    met.all(3);
}

#[test]
fn the_model_reads_what_the_oracle_writes() {
    let log = Log::random(&mut StdRng::seed_from_u64(1), 50, 30 * DAY);
    for click in log.clicks() {
        let bytes = serde_json::to_vec(click).expect("JSON");
        let read = clickline::model::Click::read(&bytes).expect("accepted");
        assert_eq!((&read.id, read.ts, &read.link), (&click.id, click.ts, &click.link));
        // A tag that stands there twice is one tag.
        assert!(read.tags.iter().all(|tag| click.tags.contains(tag)) && click.tags.iter().all(|tag| read.tags.contains(tag)));
    }
}
