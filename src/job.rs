//! The job: topics in, dataflow, topics out.
//!
//! # Meaning
//! On each start the job reads its inputs again, from a little more than the longest window before its frontier, and
//! computes everything again; outputs of ticks that it had committed before are dropped, and what is older than that
//! comes back from the job's own topic ([`crate::dataflow::carried`]). It ends when it is asked to, or when something happens that only a restart or a
//! person can mend.
//!
//! # Several processes
//! The outbox is process 0's alone: it takes it over once all processes are there, reads how far the job had come, and
//! tells the others (`Start`). All of them work out from that, in the same way, where to begin and since when each rule
//! has been known.
//!
//! # Rules that are new
//! The progress says since when each rule has been known. A rule that it does not know was added at its frontier; when
//! there is no progress yet, all rules have always been there.

use crate::cluster::{Hosts, Links, Lost, Met, Terms, meet};
use crate::dataflow::build;
use crate::dataflow::carried::Reader;
use crate::dataflow::plan::Plan;
use crate::dataflow::publish;
use crate::dataflow::rows::Arrival;
use crate::engine::{self, Team};
use crate::kafka::Kafka;
use crate::model::outputs::State;
use crate::model::time::{DAY, Ms, tick_end};
use crate::sinks::outbox::kafka::Outbox;
use crate::sinks::outbox::topics::AWAY;
use crate::sinks::outbox::{Progress, deliver, topics};
use crate::sources::kafka::broker_clock::{BrokerClock, spread};
use crate::sources::kafka::reached::{self, AllKnown};
use crate::sources::kafka::watch::Asker;
use crate::sources::kafka::{Clock, Limits, Reading, Resume, topic};
use crate::sources::snapshot::Snapshots;
use crate::sources::{Kind, Meter};
use crate::stop::Stop;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use timely::dataflow::operators::core::Inspect as _;
use timely::dataflow::operators::{Concatenate as _, Probe as _, ToStream as _};

/// How long a process that has lost another one waits for its own signal: when all are stopped, one is the first.
const ONE_STOP: Duration = Duration::from_secs(3);

/// What a job needs.
#[derive(Clone)]
pub struct JobConfig {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// What to compute; the job itself says since when its rules have been known.
    pub plan: Plan,
    /// Worker threads, of each process.
    pub workers: usize,
    /// The processes, where there are several.
    pub hosts: Option<Hosts>,
    /// Credit and slack of the sources.
    pub limits: Limits,
    /// Folder of the snapshots; `None`: a restart reads all from Kafka.
    pub snapshots: Option<PathBuf>,
    /// Whether to go on without records that were deleted before they were read as often as they are needed.
    pub accept_gaps: bool,
    /// The wall clock, for brokers that stamp nothing ([`crate::sources::kafka::broker_clock`]); nothing depends on it with others.
    pub now: Clock,
}

/// A job that runs on threads of its own; dropping it stops it.
pub struct Job {
    stop: Stop,
    committed: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
    meter: Arc<Meter>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Job {
    /// Starts the job and returns at once; brokers that are away are waited for.
    ///
    /// `stop` ends it, and is asked when the job fails.
    ///
    /// # Errors
    /// Options under `kafka` that make no client, or a thread that can't be started.
    pub fn start(config: JobConfig, stop: Stop) -> anyhow::Result<Self> {
        let (committed, ready, meter) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(Meter::default()));
        let JobConfig { kafka, plan, workers, hosts, limits, snapshots, accept_gaps, now } = config;
        let resume = Resume { accept_gaps, ..Resume::default() };
        // A day more than is needed: while it catches up, the job may be that much ahead of what it has committed.
        let snapshots =
            snapshots.map(|folder| Snapshots { folder, keep_clicks: plan.clicks_back() + DAY, keep_forms: plan.forms_back() + DAY });
        let clock = BrokerClock::new(now);
        let reading = Reading {
            kafka,
            times: plan.times,
            limits,
            resume,
            snapshots,
            clock,
            asker: Asker::default(),
            meter: Arc::clone(&meter),
            stop: stop.clone(),
        };
        drop(reading.consumer()?);
        let of_job = (Arc::clone(&committed), Arc::clone(&ready));
        let thread = thread::Builder::new().name("job".to_owned()).spawn(move || {
            let stop = reading.stop.clone();
            let ended = run(reading, plan, (workers, hosts), &of_job);
            stop.ask();
            ended
        })?;
        Ok(Job { stop, committed, ready, meter, thread: Some(thread) })
    }

    /// All ticks that end before this are committed, ms.
    pub fn frontier(&self) -> Ms {
        self.committed.load(Ordering::Acquire)
    }

    /// Whether all has been gone through again that an earlier run had committed: from here on outputs are new.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What has been read since the start.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// How far it is, for others to look at while it runs.
    pub fn look(&self) -> Look {
        Look { committed: Arc::clone(&self.committed), ready: Arc::clone(&self.ready), meter: Arc::clone(&self.meter) }
    }

    /// Whether the job has ended, by itself or because it was asked.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the job ends.
    ///
    /// # Errors
    /// Why it failed.
    pub fn wait(mut self) -> anyhow::Result<()> {
        self.join()
    }

    /// Asks the job to end, and waits until its last transaction is through.
    ///
    /// # Errors
    /// Why it failed, if it had.
    pub fn stop(self) -> anyhow::Result<()> {
        self.stop.ask();
        self.wait()
    }

    fn join(&mut self) -> anyhow::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(anyhow::anyhow!("the job broke down; its message stands above")),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop.ask();
        if let Err(error) = self.join() {
            tracing::error!(event = "job_failed", "the job failed: {error:#}");
        }
    }
}

/// How far a running job is.
#[derive(Clone, Debug, Default)]
pub struct Look {
    committed: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
    /// What has been read since the start.
    pub meter: Arc<Meter>,
}

impl Look {
    /// As [`Job::frontier`].
    pub fn frontier(&self) -> Ms {
        self.committed.load(Ordering::Acquire)
    }

    /// As [`Job::ready`].
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// How far the job had come when it ended; what process 0 tells the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Start {
    /// What had been committed; `None` for a job that never ran.
    progress: Option<Progress>,
    /// Whether it wrote something down for this start.
    carries: bool,
    /// Whether to go on without records that were deleted.
    accept_gaps: bool,
}

/// What the job's frontier and readiness are told to.
type Told = (Arc<AtomicU64>, Arc<AtomicBool>);

fn run(reading: Reading, plan: Plan, of: (usize, Option<Hosts>), told: &Told) -> anyhow::Result<()> {
    let stop = reading.stop.clone();
    let ended = run_once(reading, plan, of, told);
    match ended {
        Err(error) if error.is::<Lost>() && wished_soon(&stop) => Ok(()),
        ended => ended,
    }
}

/// Whether the process is asked to stop within [`ONE_STOP`].
fn wished_soon(stop: &Stop) -> bool {
    let until = Instant::now() + ONE_STOP;
    while !stop.wished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    stop.wished()
}

/// The job has run with another step of its clock: what lies around the end of what is written would belong to another tick than it did.
#[derive(Debug, thiserror::Error)]
#[error(
    "`tick` was {was} ms when the job last ran and is {is} ms now: what happened just before {frontier} would be told twice, or not at all. \
     Set it back to {was} ms, or start once with --accept-gaps"
)]
pub struct OtherTick {
    was: Ms,
    is: Ms,
    frontier: Ms,
}

fn run_once(mut reading: Reading, mut plan: Plan, of: (usize, Option<Hosts>), told: &Told) -> anyhow::Result<()> {
    let (stop, (workers, hosts)) = (reading.stop.clone(), of);
    let begun = match begin(&reading, &plan, workers, hosts.as_ref()) {
        Ok(begun) => begun,
        // Asked to end before it had begun: nothing is lost.
        Err(_) if stop.asked() => return stop.failure().map_or(Ok(()), Err),
        Err(error) => return Err(error),
    };
    let Begun { start: Start { progress, carries, accept_gaps }, reached, met, outbox } = begun;
    // From here on to the dataflow: the same in all processes.
    let rules = plan.date_rules(progress.as_ref().map(|progress| (&progress.rules, progress.frontier)));
    let resume = progress.as_ref().map_or(0, |progress| progress.frontier);
    if let Some(Progress { frontier, offsets, tick, counts_since, .. }) = progress {
        let is = plan.times.tick;
        // 0: a build that did not say.
        if ![0, is].contains(&tick) && !accept_gaps {
            return Err(OtherTick { was: tick, is, frontier }.into());
        }
        // One of a build that published all counts at the second's end has not published those of the second in which it stopped.
        plan.counts_since = counts_since.unwrap_or_else(|| tick_end(frontier, publish::PACE));
        reading.resume.clicks_from = frontier.saturating_sub(plan.clicks_back());
        reading.resume.forms_from = frontier.saturating_sub(plan.forms_back());
        let (clicks, forms) = plan.counted_back(frontier);
        reading.resume.clicks_counted_from = frontier.saturating_sub(clicks);
        reading.resume.forms_counted_from = frontier.saturating_sub(forms);
        reading.resume.offsets = offsets;
        reading.resume.frontier = frontier;
    }
    reading.resume.reached = Arc::new(reached);
    // As long as the job's own topics keep what they are of.
    reading.resume.notes_kept = Some(plan.clicks_back().max(plan.forms_back()) + AWAY);
    reading.resume.accept_gaps = accept_gaps;
    (plan.carries, plan.outputs_from) = (true, resume);
    if carries {
        plan.resumes_at(resume);
    }
    tracing::info!(
        event = "job_started",
        workers,
        processes = hosts.map_or(1, |hosts| hosts.addresses.len()),
        resume,
        rules = rules.len(),
        "the job starts"
    );

    let (of_outbox, thread) = match outbox {
        Some((outbox, state)) => {
            let reader = Reader::new(&plan);
            let carried: Vec<(Arrival, Ms)> =
                state.iter().flat_map(|state| reader.rows(state)).map(|row| (Arrival::Carried(row), resume)).collect();
            let said = Progress { tick: plan.times.tick, counts_since: Some(plan.counts_since), rules, ..Progress::default() };
            let (committer, thread) = outbox.start(said, Arc::clone(&told.0), Arc::clone(&told.1), Arc::clone(&plan.board))?;
            (Some((committer, carried)), Some(thread))
        }
        None => (None, None),
    };
    let team = met.map_or(Team::Threads(workers), |met| Team::Processes(Links::new(met, workers, stop.clone())));
    let (once, plan, of_workers, alone) = (Mutex::new(of_outbox), Arc::new(plan), told.clone(), matches!(team, Team::Threads(_)));
    let ended = engine::run(team, &stop.clone(), move |scope, worker, probe| {
        // The outbox is worker 0's, there is only one; so is what is carried over, which then finds its workers.
        let of_worker = if worker == 0 { once.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let (door, carried) = of_worker.unzip();
        let carried = carried.unwrap_or_default().to_stream(scope);
        if !alone {
            spread(scope, &reading.clock, workers);
        }
        let (mut arrivals, mut marks, mut outputs) = (vec![carried], Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let of_topic = topic(scope, kind, &reading, probe.clone());
            arrivals.push(of_topic.arrivals);
            marks.push(of_topic.marks);
            outputs.push(of_topic.notes);
        }
        outputs.push(build(scope.concatenate(arrivals), &plan));
        let delivered = deliver(scope.concatenate(outputs), scope.concatenate(marks), resume, door);
        // Processes without the outbox learn so how far it is.
        let (committed, ready) = of_workers.clone();
        let delivered = delivered.inspect_core(move |event| {
            if let Err([frontier]) = event {
                committed.fetch_max(*frontier, Ordering::AcqRel);
                ready.fetch_or(*frontier > resume, Ordering::AcqRel);
            }
        });
        delivered.probe_with(probe);
    });
    // The dataflow is gone and with it the outbox's input: it commits what it has taken, and ends.
    if let Some(thread) = thread {
        thread.join().map_err(|_| anyhow::anyhow!("the outbox broke down; its message stands above"))?;
    }
    ended?;
    stop.failure().map_or(Ok(()), Err).context("the job cannot go on")
}

/// All that comes before the dataflow.
struct Begun {
    start: Start,
    /// When the job took records whose log does not say it: whoever reads their partition now takes them then. Each process reads these for
    /// itself, there may be many: nobody writes new ones before all are there.
    reached: AllKnown,
    /// The other processes, if there are any.
    met: Option<Met>,
    /// Process 0's: the outbox, and what was written down for this start.
    outbox: Option<(Outbox, Vec<State>)>,
}

/// Meets the other processes; process 0 then takes the outbox over and tells them how far the job had come.
fn begin(reading: &Reading, plan: &Plan, workers: usize, hosts: Option<&Hosts>) -> anyhow::Result<Begun> {
    let Reading { kafka, stop, .. } = reading;
    let mut met = match hosts {
        Some(hosts) => Some(meet(hosts, &Terms::of(plan, kafka, workers, hosts.addresses.len()), stop)?),
        None => None,
    };
    if let Some(other) = met.as_mut().filter(|met| !met.hosts.leads()) {
        tracing::info!(event = "processes_met", "all processes are there; process 0 takes the outbox over");
        let start = other.hear(stop)?;
        return Ok(Begun { start, reached: reached::read(kafka, stop)?, met, outbox: None });
    }
    topics::ensure(kafka, &topics::needed(kafka, plan), stop)?;
    // Only now, with all processes there: a job that still runs elsewhere is not ended for nothing.
    let outbox = Outbox::open(kafka, &reading.clock, stop)?;
    let (state, reached) = outbox.state()?;
    let (progress, accept_gaps) = (outbox.progress().cloned(), reading.resume.accept_gaps);
    let start = Start { progress, carries: !state.is_empty(), accept_gaps };
    if let Some(met) = &mut met {
        met.tell(&start)?;
    }
    Ok(Begun { start, reached, met, outbox: Some((outbox, state)) })
}

#[cfg(test)]
mod tests;
