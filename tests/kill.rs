//! The real `clickline run` on a real Apache Kafka, killed again and again while records come in: what readers of committed
//! records find in the end is what the oracle says, each output once.
//!
//! # Meaning
//! A producer appends random records. A supervisor starts the job, each time with another number of workers; most starts are
//! killed by `SIGKILL`, at a named place of a commit or at a random moment. Before some starts a rule is taken away, added, or
//! told to backfill; the oracle learns from the records of progress when a start with the new rules got anywhere. All the while
//! the job's wall clock jumps by hours and days, the broker's does not. The log is then read back with the broker's append times, the oracle works its outputs out, and they are compared with what stands in
//! the topics, and with what a reader saw who was there all the time.
//!
//! Twenty kills, or `CLICKLINE_KILLS=200`; `CLICKLINE_SEED=n` repeats the choices of a run, though not its timing.

mod against_oracle;
mod oracle_model;
mod support;

use against_oracle::{Course, frontier, now, number};
use clickline::failpoint::PLACES;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::clock::WrongClocks;
use support::kafka::Broker;
use support::process::wait_for;

/// How long a start may go on before it is killed, at the latest.
const LONGEST_START: Duration = Duration::from_secs(8);

fn start(config: &Path, workers: usize, failpoint: Option<&str>, log: &Path, clocks: &WrongClocks) -> Child {
    let log = || fs::File::options().create(true).append(true).open(log).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["run", "--no-sink", "--workers", &workers.to_string(), "--config"]).arg(config);
    command.stdin(Stdio::null()).stdout(log()).stderr(log()).env_remove("CLICKLINE_FAILPOINT").env("RUST_LOG", "info");
    clocks.give(&mut command, 0);
    if let Some(failpoint) = failpoint {
        command.env("CLICKLINE_FAILPOINT", failpoint);
    }
    command.spawn().expect("starts")
}

/// Waits for the end; kills at `deadline`. Whether it was killed, by whomever.
fn wait_or_kill(child: &mut Child, deadline: Instant, log: &Path) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            assert_eq!(status.signal(), Some(9), "the job ended by itself: {status}\n{}", fs::read_to_string(log).unwrap_or_default());
            return true;
        }
        if Instant::now() > deadline {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_moment_every_output_stands_there_once() {
    let Some(broker) = Broker::start_if_there() else { return };
    let (kills, seed) = (number("CLICKLINE_KILLS", 20), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed} CLICKLINE_KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut course = Course::begin(broker, seed, kills);
    let (config, log) = (course.config.clone(), course.folder.path().join("job.log"));
    let clocks = WrongClocks::start(course.folder.path(), 1, seed);

    // Every place at its first and its seventh time; then any of them at any time, or no place but a moment.
    let mut planned: Vec<String> = PLACES.iter().filter(|place| **place != "outbox.farewell").map(|place| format!("{place}@1")).collect();
    planned.extend(
        PLACES.iter().filter(|place| !place.starts_with("start.") && **place != "outbox.farewell").map(|place| format!("{place}@7")),
    );
    let mut at_places = BTreeMap::<String, u64>::new();
    for kill in 0..kills {
        let failpoint = match usize::try_from(kill).ok().and_then(|kill| planned.get(kill)) {
            Some(failpoint) => Some(failpoint.clone()),
            None if rng.random_bool(0.5) => {
                let place = PLACES.choose(&mut rng).expect("some");
                Some(format!("{place}@{}", rng.random_range(1..60)))
            }
            None => None,
        };
        let workers = *[1, 2, 4].choose(&mut rng).expect("some");
        if rng.random_bool(0.4) {
            course.change_rules(&mut rng);
        }
        let deadline = match &failpoint {
            Some(_) => LONGEST_START,
            None => Duration::from_millis(rng.random_range(0..4_000)),
        };
        let mut child = start(&config, workers, failpoint.as_deref(), &log, &clocks);
        assert!(wait_or_kill(&mut child, Instant::now() + deadline, &log));
        *at_places
            .entry(failpoint.map_or("any moment".to_owned(), |at| at.split('@').next().unwrap_or_default().to_owned()))
            .or_default() += 1;
    }
    let end = course.last_tick();
    // The last start goes on until the clock has passed a moment after the last record.
    let mut child = start(&config, 2, None, &log, &clocks);
    wait_for("the job's clock", || {
        if let Some(status) = child.try_wait().expect("our own child") {
            panic!("the job ended by itself: {status}\n{}", fs::read_to_string(&log).unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(200));
        (frontier(&course.broker) > end).then_some(())
    });
    Command::new("kill").arg(child.id().to_string()).status().expect("a signal");
    assert!(child.wait().expect("our own child").success(), "SIGTERM ends it with 0:\n{}", fs::read_to_string(&log).unwrap_or_default());

    drop(clocks);
    let verdict = course.judge(end);
    let against_oracle::Verdict { records, outputs, changes, took } = verdict;
    let took = took.as_secs();
    println!("{records} records, {outputs} outputs, {kills} kills in {took} s at {at_places:?}, {changes} versions and ends of rules");
}
