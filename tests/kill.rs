//! The real `clickline run` on a real Apache Kafka, killed again and again while records come in: what readers of committed
//! records find in the end is what the oracle says, each output once.
//!
//! # Meaning
//! A producer appends random records. A supervisor starts the job, each time with another number of workers; most starts are
//! killed by `SIGKILL`: at a named place, where the program kills itself, or at a random moment, by the test. The first ones go
//! through all places, and each must be come to: a place that has gone fails the test. Before some starts a rule is taken away, added, or
//! told to backfill; the oracle learns from the records of progress when a start with the new rules got anywhere. All the while
//! the job's wall clock jumps by hours and days, the broker's does not. The log is then read back with the broker's append times, the oracle works its outputs out, and they are compared with what stands in
//! the topics, and with what a reader saw who was there all the time.
//!
//! As many kills as there are plans of places, or `CLICKLINE_KILLS=200`; `CLICKLINE_SEED=n` repeats the choices of a run, though not its timing.

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
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::clock::WrongClocks;
use support::kafka::Broker;
use support::process::{PATIENCE, wait_for};

/// How long a start may go on before it is killed, at the latest.
const LONGEST_START: Duration = Duration::from_secs(8);

/// When a start is to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// At a place, when it is come to so often.
    At(&'static str, u32),
    /// After so long.
    After(Duration),
}

impl Kill {
    /// What the program is told.
    fn failpoint(self) -> Option<String> {
        match self {
            // A transaction is only given up when it has failed.
            Kill::At(place @ "outbox.aborted", times) => Some(format!("outbox.commit@{times}!fail,{place}")),
            Kill::At(place, times) => Some(format!("{place}@{times}")),
            Kill::After(_) => None,
        }
    }

    /// Every place at its first and its seventh time; a start, a failed transaction and a farewell come once.
    fn planned() -> Vec<Kill> {
        let again = PLACES.iter().filter(|place| !once(place));
        PLACES.iter().map(|place| Kill::At(place, 1)).chain(again.map(|place| Kill::At(place, 7))).collect()
    }

    /// Any of the places at any time, or no place but a moment.
    fn random(rng: &mut StdRng) -> Kill {
        if rng.random_bool(0.5) {
            let place = *PLACES.choose(rng).expect("some");
            let times = rng.random_range(1..60);
            Kill::At(place, if once(place) { 1 } else { times })
        } else {
            Kill::After(Duration::from_millis(rng.random_range(0..4_000)))
        }
    }
}

/// Whether a start comes to this place once at most.
fn once(place: &str) -> bool {
    place.starts_with("start.") || place == "outbox.farewell"
}

/// A start of the job, with its log.
struct Start {
    child: Child,
    log: PathBuf,
}

impl Start {
    fn of(config: &Path, workers: usize, failpoint: Option<&str>, log: PathBuf, clocks: &WrongClocks) -> Start {
        let file = || fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--workers", &workers.to_string(), "--config"]).arg(config);
        command.stdin(Stdio::null()).stdout(file()).stderr(file()).env_remove("CLICKLINE_FAILPOINT").env("RUST_LOG", "info");
        clocks.give(&mut command, 0);
        if let Some(failpoint) = failpoint {
            command.env("CLICKLINE_FAILPOINT", failpoint);
        }
        Start { child: command.spawn().expect("starts"), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ask_to_stop(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "SIGTERM reaches our own child");
    }

    /// Whether it has ended; by SIGKILL, which only the place it was told can have sent.
    fn killed_itself(&mut self) -> bool {
        let Some(status) = self.child.try_wait().expect("our own child") else { return false };
        assert_eq!(status.signal(), Some(9), "the job ended by itself: {status}\n{}", self.said());
        true
    }

    /// Waits for it to kill itself; kills it when it has not in time. Whether it has.
    fn wait_or_kill(&mut self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        while !self.killed_itself() {
            if Instant::now() > deadline {
                self.child.kill().expect("our own child");
                self.child.wait().expect("our own child");
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Kills it, or has it kill itself; whether it was itself.
    fn end(&mut self, kill: Kill, must: bool, rng: &mut StdRng) -> bool {
        match kill {
            Kill::After(moment) => {
                assert!(!self.wait_or_kill(moment), "nothing was armed");
                false
            }
            Kill::At("outbox.farewell", _) => {
                wait_for("the job to begin", || {
                    assert!(!self.killed_itself(), "nobody has asked it to stop");
                    self.said().contains("ready: outputs are new").then_some(())
                });
                thread::sleep(Duration::from_millis(rng.random_range(0..1_500)));
                self.ask_to_stop();
                self.wait_or_kill(PATIENCE)
            }
            Kill::At(..) => self.wait_or_kill(if must { PATIENCE } else { LONGEST_START }),
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_at_any_moment_every_output_stands_there_once() {
    let Some(broker) = Broker::start_if_there() else { return };
    let planned = Kill::planned();
    let (kills, seed) = (number("CLICKLINE_KILLS", planned.len() as u64), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed} CLICKLINE_KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut course = Course::begin(broker, seed, kills);
    let folder = course.folder.path().to_owned();
    let clocks = WrongClocks::start(&folder, 1, seed);

    // How often each place was come to, and how often it was to be.
    let mut at_places = BTreeMap::<&str, (u64, u64)>::new();
    for number in 0..usize::try_from(kills).expect("few") {
        let must = number < planned.len();
        let kill = planned.get(number).copied().unwrap_or_else(|| Kill::random(&mut rng));
        let workers = *[1, 2, 4].choose(&mut rng).expect("some");
        if rng.random_bool(0.4) {
            course.change_rules(&mut rng);
        }
        let log = folder.join(format!("job{number}.log"));
        let mut start = Start::of(&course.config, workers, kill.failpoint().as_deref(), log, &clocks);
        let itself = start.end(kill, must, &mut rng);
        if let Kill::At(place, _) = kill {
            assert!(itself || !must, "seed {seed}: a run does not come to {kill:?}\n{}", start.said());
            let (come_to, armed) = at_places.entry(place).or_default();
            (*come_to, *armed) = (*come_to + u64::from(itself), *armed + 1);
        }
    }
    let end = course.last_tick();
    // The last start goes on until the clock has passed a moment after the last record.
    let mut last = Start::of(&course.config, 2, None, folder.join("last.log"), &clocks);
    wait_for("the job's clock", || {
        if let Some(status) = last.child.try_wait().expect("our own child") {
            panic!("the job ended by itself: {status}\n{}", last.said());
        }
        thread::sleep(Duration::from_millis(200));
        (frontier(&course.broker) > end).then_some(())
    });
    last.ask_to_stop();
    assert!(last.child.wait().expect("our own child").success(), "SIGTERM ends it with 0:\n{}", last.said());

    drop(clocks);
    let verdict = course.judge(end);
    let against_oracle::Verdict { records, outputs, changes, took } = verdict;
    let took = took.as_secs();
    println!(
        "{records} records, {outputs} outputs, {kills} kills in {took} s, come to of those armed {at_places:?}, {changes} versions and ends of rules"
    );
}
