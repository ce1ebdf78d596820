//! Runs the dataflow over what has been, and listens: to what goes in and to what it makes of it.
//!
//! # Meaning
//! The history is files of JSON lines, or the job's topics as of the moment of asking. Nothing is written, no topic is
//! made, no group or transaction is joined: topics are read like by the job itself, up to the tick of that moment, and
//! their end is known in the same way (`sources::kafka::watch`). What an [`Ear`] hears of a tick is all of it.
//!
//! # Ties and edges
//! Topics say only what they still hold: a period that began before that seems to begin where they do. With an end, the
//! clock runs on to it when the files end earlier: windows slide, holds expire. Without one it stops with the last record.
//!
//! # Cost
//! That of the job over the same records. An ear is locked once a batch; it alone decides what is kept in memory.

pub mod deals;

use crate::dataflow::compute;
use crate::dataflow::intake::Record;
use crate::dataflow::last_utm::UtmChange;
use crate::dataflow::plan::{Plan, Times};
use crate::dataflow::rows::{Advance, Arrival, CountChange, Heat, Resolved};
use crate::engine;
use crate::kafka::Kafka;
use crate::model::PackedClick;
use crate::model::time::{self, Ms, tick_end};
use crate::sources::files::{Files, files};
use crate::sources::kafka::broker_clock::BrokerClock;
use crate::sources::kafka::watch::Asker;
use crate::sources::kafka::{Limits, Reading, Resume, reached, topic};
use crate::sources::{Kind, Meter};
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::consumer::Consumer as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::source;
use timely::dataflow::operators::vec::Filter as _;
use timely::dataflow::operators::{Concatenate as _, Inspect as _, Probe as _};
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

/// How long a broker may take to say which topics there are.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at whether the end has been reached.
const LOOK: Duration = Duration::from_millis(5);

/// Where the records of the past are.
#[derive(Clone, Debug)]
pub enum History {
    /// Files of JSON lines; `-` is standard input.
    Files(Vec<(Kind, String)>),
    /// The job's topics, to be read up to now.
    Topics(Box<Kafka>, Limits),
}

/// What the dataflow makes of the records.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// A click or form that is no repetition.
    Taken(&'a Record),
    /// A click that found its person, once for each connection.
    Resolved(&'a Resolved),
    /// A click that found nobody.
    Unresolved(&'a PackedClick),
    /// A change of last campaign values.
    Values(&'a UtmChange),
    /// A change of a count, at the end of each tick that has one.
    Count(&'a CountChange),
    /// A hot period began, went on, or ended.
    Heat(&'a Heat),
    /// A deal that has earned its next stage.
    Advance(&'a Advance),
}

/// Who listens; it hears rows of any tick in any order, each once.
pub trait Ear: Send + 'static {
    /// Whether it hears everything; else advances only.
    const ALL: bool;
    /// A record that went in.
    fn arrival(&mut self, arrival: &Arrival, at: Ms);
    /// What was made of it.
    fn row(&mut self, row: Heard<'_>, at: Ms);
}

/// How to run over a history.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where the records are.
    pub history: History,
    /// Kinds that are read; the others are left where they are.
    pub kinds: Vec<Kind>,
    /// What is computed; `None`: only the arrivals are wanted.
    pub plan: Option<Arc<Plan>>,
    /// The clock's step and its bounds.
    pub times: Times,
    /// Worker threads.
    pub workers: usize,
    /// The last moment that counts, ms; for topics now at the latest. `None`: the last record's.
    pub until: Option<Ms>,
}

impl Run {
    /// Runs to the end; the ear, and the last tick's end that it has heard of.
    ///
    /// # Errors
    /// A file that can't be opened or read, brokers that do not answer, a topic that does not exist.
    pub fn listen<E: Ear>(self, ear: E, meter: &Arc<Meter>) -> anyhow::Result<(E, Ms)> {
        let Run { history, kinds, plan, times, workers, until } = self;
        // Of this run alone: it is asked when the end has been reached.
        let stop = Stop::new();
        let (mut opened, mut reading, mut end) = (None, None, until.map(|until| until - until % times.tick));
        match history {
            History::Files(files) => {
                let files: Vec<_> = files.into_iter().filter(|(kind, _)| kinds.contains(kind)).collect();
                opened = Some(Files::open(&files, times, Arc::clone(meter))?);
            }
            History::Topics(kafka, limits) => {
                let now = tick_end(time::now(), times.tick);
                end = Some(end.unwrap_or(now).min(now));
                let (meter, stop) = (Arc::clone(meter), stop.clone());
                // Who only looks writes nothing that the brokers could stamp; and what comes after `now` is not looked at.
                let clock = BrokerClock::wall(Arc::new(time::now));
                let mut of_topics = Reading {
                    kafka: *kafka,
                    times,
                    limits,
                    resume: Resume::default(),
                    snapshots: None,
                    clock,
                    asker: Asker::default(),
                    meter,
                    stop,
                };
                all_there(&of_topics, &kinds)?;
                // What came late counted when the job took it.
                of_topics.resume.reached = Arc::new(reached::look(&of_topics.kafka)?);
                reading = Some(of_topics);
            }
        }
        let plan = plan.map(|plan| Arc::new(Plan { tells_taken: E::ALL, ..Plan::clone(&plan) }));
        let ear = Arc::new(Mutex::new(ear));
        let (last, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&ear), Arc::clone(&last), Arc::clone(&over), stop.clone());
        let (from_files, opened) = (opened.is_some(), Mutex::new(opened));
        engine::run(workers, &stop, move |scope, worker, probe| {
            let (ear, last, over, stop) = &shared;
            let mut arrivals = Vec::new();
            if from_files {
                let opened = if worker == 0 { opened.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
                arrivals.push(files(scope, opened, probe.clone(), stop.clone()));
            }
            if let Some(reading) = &reading {
                arrivals.extend(kinds.iter().map(|kind| topic(scope, *kind, reading, probe.clone()).arrivals));
            }
            if let Some(end) = end {
                arrivals.push(run_on(scope, end, probe.clone(), Arc::clone(over), stop.clone()));
            }
            let end = end.unwrap_or(Ms::MAX);
            let (hears, last) = (Arc::clone(ear), Arc::clone(last));
            let arrivals = scope.concatenate(arrivals).filter(move |(_, at)| *at <= end).inspect_core(move |batch| {
                let Ok((_, rows)) = batch else { return };
                let mut ear = lock(&hears);
                for (arrival, at) in rows {
                    last.fetch_max(*at, Ordering::Relaxed);
                    ear.arrival(arrival, *at);
                }
            });
            let Some(plan) = &plan else {
                drop(arrivals.probe_with(probe));
                return;
            };
            let computed = compute(arrivals, plan);
            let to = Listening { ear, end, probe };
            to.hear(computed.advances, |advance| Heard::Advance(advance));
            if E::ALL {
                to.hear(computed.taken, |record| Heard::Taken(record));
                to.hear(computed.resolved, |resolved| Heard::Resolved(resolved));
                to.hear(computed.unresolved, |click| Heard::Unresolved(click));
                to.hear(computed.values, |change| Heard::Values(change));
                to.hear(computed.changes, |change| Heard::Count(change));
                to.hear(computed.heats, |heat| Heard::Heat(heat));
            }
        })?;
        anyhow::ensure!(over.load(Ordering::Relaxed) || !stop.asked(), "stopped before the end of the history");
        let last = end.unwrap_or_else(|| last.load(Ordering::Relaxed));
        let ear = Arc::into_inner(ear).context("a worker still listens")?;
        Ok((ear.into_inner().unwrap_or_else(PoisonError::into_inner), last))
    }
}

/// Where rows go on one worker.
struct Listening<'a, E> {
    ear: &'a Arc<Mutex<E>>,
    end: Ms,
    probe: &'a ProbeHandle<Ms>,
}

impl<E: Ear> Listening<'_, E> {
    fn hear<'scope, D: Clone + 'static>(&self, rows: StreamVec<'scope, Ms, (D, Ms)>, says: for<'d> fn(&'d D) -> Heard<'d>) {
        let (ear, end) = (Arc::clone(self.ear), self.end);
        let heard = rows.inspect_core(move |batch| {
            let Ok((_, rows)) = batch else { return };
            let mut ear = lock(&ear);
            for (row, at) in rows.iter().filter(|(_, at)| *at <= end) {
                ear.row(says(row), *at);
            }
        });
        // The history is over when every one of them has come to its end.
        drop(heard.probe_with(self.probe));
    }
}

fn lock<E>(ear: &Mutex<E>) -> MutexGuard<'_, E> {
    ear.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A topic that is missing would be waited for: the job makes its topics, whoever only looks does not.
fn all_there(reading: &Reading, kinds: &[Kind]) -> anyhow::Result<()> {
    let consumer = reading.consumer()?;
    for kind in kinds {
        let name = reading.topic(*kind);
        let metadata = consumer
            .fetch_metadata(Some(name), ANSWER)
            .with_context(|| format!("the brokers at {} do not answer; see `kafka.brokers`", reading.kafka.brokers))?;
        let found = metadata.topics().iter().any(|topic| topic.name() == name && topic.error().is_none() && !topic.partitions().is_empty());
        anyhow::ensure!(found, "the topic {name} does not exist; correct `kafka.topics`, or start the job once: it makes its topics");
    }
    Ok(())
}

/// A source without records that holds the clock up to `end`, and ends everything when the dataflow has come so far.
fn run_on<'scope>(
    scope: Scope<'scope, Ms>,
    end: Ms,
    done: ProbeHandle<Ms>,
    over: Arc<AtomicBool>,
    stop: Stop,
) -> StreamVec<'scope, Ms, (Arrival, Ms)> {
    source::<_, CapacityContainerBuilder<Vec<(Arrival, Ms)>>, _, _>(scope, "End", move |cap, info| {
        let activator = scope.activator_for(info.address);
        let mut held = cap;
        let beyond = end.saturating_add(1);
        held.downgrade(&beyond);
        move |_output| {
            if done.less_than(&beyond) {
                return activator.activate_after(LOOK);
            }
            // The capability is kept: nothing after `end` is anybody's business.
            debug_assert!(*held.time() == beyond, "held where it was put");
            if !stop.asked() {
                over.store(true, Ordering::Relaxed);
                stop.ask();
            }
        }
    })
}

#[cfg(test)]
mod tests;
