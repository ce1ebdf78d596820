//! The job: topics in, dataflow, topics out.
//!
//! # Meaning
//! On each start the job reads its inputs again, from a little more than the longest window before its frontier, and
//! computes everything again; outputs of ticks that it had committed before are dropped, and what is older than that
//! comes back from the job's own topic ([`crate::dataflow::carried`]). It ends when it is asked to, or when something happens that only a restart or a
//! person can mend.
//!
//! # Rules that are new
//! The progress says since when each rule has been known. A rule that it does not know was added at its frontier; when
//! there is no progress yet, all rules have always been there.

use crate::dataflow::build;
use crate::dataflow::carried::Reader;
use crate::dataflow::plan::Plan;
use crate::dataflow::rows::Arrival;
use crate::engine;
use crate::kafka::Kafka;
use crate::model::time::{DAY, Ms};
use crate::sinks::outbox::kafka::Outbox;
use crate::sinks::outbox::{Progress, deliver, topics};
use crate::sources::kafka::{Clock, Limits, Reading, Resume, topic};
use crate::sources::snapshot::Snapshots;
use crate::sources::{Kind, Meter};
use crate::stop::Stop;
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use timely::dataflow::operators::{Concatenate as _, Probe as _, ToStream as _};

/// What a job needs.
#[derive(Clone)]
pub struct JobConfig {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// What to compute; the job itself says since when its rules have been known.
    pub plan: Plan,
    /// Worker threads.
    pub workers: usize,
    /// Credit and slack of the sources.
    pub limits: Limits,
    /// Folder of the snapshots; `None`: a restart reads all from Kafka.
    pub snapshots: Option<PathBuf>,
    /// Whether to go on without records that were deleted before they were read.
    pub accept_gaps: bool,
    /// The wall clock that idle topics follow.
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
        let JobConfig { kafka, plan, workers, limits, snapshots, accept_gaps, now } = config;
        let resume = Resume { accept_gaps, ..Resume::default() };
        // A day more than is needed: while it catches up, the job may be that much ahead of what it has committed.
        let snapshots =
            snapshots.map(|folder| Snapshots { folder, keep_clicks: plan.clicks_back() + DAY, keep_forms: plan.forms_back() + DAY });
        let reading = Reading { kafka, times: plan.times, limits, resume, snapshots, now, meter: Arc::clone(&meter), stop: stop.clone() };
        drop(reading.consumer()?);
        let of_job = (Arc::clone(&committed), Arc::clone(&ready));
        let thread = thread::Builder::new().name("job".to_owned()).spawn(move || {
            let stop = reading.stop.clone();
            let ended = run(reading, plan, workers, &of_job);
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
            tracing::error!("the job failed: {error:#}");
        }
    }
}

fn run(mut reading: Reading, mut plan: Plan, workers: usize, told: &(Arc<AtomicU64>, Arc<AtomicBool>)) -> anyhow::Result<()> {
    let stop = reading.stop.clone();
    let opened =
        topics::ensure(&reading.kafka, &topics::needed(&reading.kafka, &plan), &stop).and_then(|()| Outbox::open(&reading.kafka, &stop));
    let outbox = match opened {
        Ok(outbox) => outbox,
        // Asked to end before it had begun: nothing is lost.
        Err(_) if stop.asked() => return stop.failure().map_or(Ok(()), Err),
        Err(error) => return Err(error),
    };
    let rules = plan.date_rules(outbox.progress().map(|progress| (&progress.rules, progress.frontier)));
    let resume = outbox.progress().map_or(0, |progress| progress.frontier);
    let state = match outbox.state() {
        Ok(state) => state,
        Err(_) if stop.asked() => return stop.failure().map_or(Ok(()), Err),
        Err(error) => return Err(error),
    };
    if let Some(Progress { frontier, offsets, .. }) = outbox.progress() {
        reading.resume.clicks_from = frontier.saturating_sub(plan.clicks_back());
        reading.resume.forms_from = frontier.saturating_sub(plan.forms_back());
        reading.resume.offsets = offsets.clone();
        reading.resume.frontier = *frontier;
    }
    (plan.carries, plan.outputs_from) = (true, resume);
    if !state.is_empty() {
        plan.resumes_at(resume);
    }
    let reader = Reader::new(&plan);
    let carried: Vec<(Arrival, Ms)> =
        state.iter().flat_map(|state| reader.rows(state)).map(|row| (Arrival::Carried(row), resume)).collect();
    drop(state);
    tracing::info!(workers, resume, rules = rules.len(), "the job starts");
    let (committer, thread) = outbox.start(rules, Arc::clone(&told.0), Arc::clone(&told.1))?;
    let (once, plan) = (Mutex::new(Some((committer, carried))), Arc::new(plan));
    let ended = engine::run(workers, &stop.clone(), move |scope, worker, probe| {
        // The outbox is worker 0's, there is only one; so is what is carried over, which then finds its workers.
        let of_worker = if worker == 0 { once.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let (door, carried) = of_worker.unzip();
        let carried = carried.unwrap_or_default().to_stream(scope);
        let (mut arrivals, marks): (Vec<_>, Vec<_>) = Kind::ALL.map(|kind| topic(scope, kind, &reading, probe.clone())).into_iter().unzip();
        arrivals.push(carried);
        let outputs = build(scope.concatenate(arrivals), &plan);
        deliver(outputs, scope.concatenate(marks), resume, door).probe_with(probe);
    });
    // The dataflow is gone and with it the outbox's input: it commits what it has taken, and ends.
    thread.join().map_err(|_| anyhow::anyhow!("the outbox broke down; its message stands above"))?;
    ended?;
    stop.failure().map_or(Ok(()), Err).context("the job cannot go on")
}

#[cfg(test)]
mod tests;
