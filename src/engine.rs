//! Runs a dataflow on a number of worker threads, in one process or several, until it ends or the job is asked to stop.

use crate::cluster::link::{Links, threads};
use crate::model::time::Ms;
use crate::stop::Stop;
use anyhow::Context as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use timely::dataflow::{ProbeHandle, Scope};

/// How long a worker that has nothing to do waits before it looks whether it should stop.
const PARK: Duration = Duration::from_millis(20);

/// Who runs a dataflow.
pub enum Team {
    /// Threads of this process alone.
    Threads(usize),
    /// Threads of this process and of others.
    Processes(Links),
}

impl From<usize> for Team {
    fn from(workers: usize) -> Self {
        Team::Threads(workers)
    }
}

/// Tells the others when a worker panics: they would wait for it for ever.
struct Alarm(Stop, Arc<AtomicBool>);

impl Drop for Alarm {
    fn drop(&mut self) {
        // A worker that breaks down because another process is gone is not the reason.
        if std::thread::panicking() && !self.1.load(Ordering::SeqCst) {
            self.0.fail(anyhow::anyhow!("a worker of the dataflow broke down; its message stands above"));
        }
    }
}

/// Runs `build` on every worker of this process and steps until all dataflows have ended.
///
/// `build` gets the scope, the worker's number among those of all processes, and a probe that it must attach to the end
/// of the dataflow. When `stop` is asked, dataflows are dropped as they stand: an open tick stays open, also in the other
/// processes ([`crate::cluster`] says why).
///
/// # Errors
/// The failure that `stop` holds, or a worker that could not be started.
pub fn run<F>(team: impl Into<Team>, stop: &Stop, build: F) -> anyhow::Result<()>
where
    F: for<'scope> Fn(Scope<'scope, Ms>, usize, &ProbeHandle<Ms>) + Send + Sync + 'static,
{
    let (builders, comms) = match team.into() {
        Team::Threads(workers) => threads(workers).map_err(|error| anyhow::anyhow!("cannot start the workers: {error}"))?,
        Team::Processes(links) => links.build().context("cannot use the connections to the other processes")?,
    };
    // The machine has other work than polling for rows.
    let config = timely::WorkerConfig::default().idle_spin(Duration::ZERO);
    let (asked, lost) = (stop.clone(), comms.lost());
    let of_workers = Arc::clone(&lost);
    let guards = timely::execute::execute_from(builders, Box::new(()), config, move |worker| {
        let _alarm = Alarm(asked.clone(), Arc::clone(&of_workers));
        let index = worker.index();
        let probe = ProbeHandle::new();
        worker.dataflow_named("clickline", |scope| build(scope, index, &probe));
        while worker.has_dataflows() && !asked.asked() {
            worker.step_or_park(Some(PARK));
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    })
    .map_err(|error| anyhow::anyhow!("cannot start the workers: {error}"))?;
    let ended = guards.join();
    comms.leave();
    if let Some(failure) = stop.failure() {
        return Err(failure);
    }
    if lost.load(Ordering::SeqCst) && stop.asked() {
        // All are stopping, and another process was quicker: a worker that was still at it may have tripped over that.
        return Ok(());
    }
    ended.into_iter().collect::<Result<(), String>>().map_err(|error| anyhow::anyhow!("a worker broke down: {error}"))
}
