//! Runs a dataflow on a number of worker threads until it ends or the job is asked to stop.

use crate::model::time::Ms;
use crate::stop::Stop;
use std::time::Duration;
use timely::dataflow::{ProbeHandle, Scope};

/// How long a worker that has nothing to do waits before it looks whether it should stop.
const PARK: Duration = Duration::from_millis(20);

/// Tells the others when a worker panics: they would wait for it for ever.
struct Alarm(Stop);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(anyhow::anyhow!("a worker of the dataflow broke down; its message stands above"));
        }
    }
}

/// Runs `build` on every worker and steps until all dataflows have ended.
///
/// `build` gets the scope, the worker's number, and a probe that it must attach to the end of the dataflow. When
/// `stop` is asked, dataflows are dropped as they stand: an open tick stays open.
///
/// # Errors
/// The failure that `stop` holds, or a worker that could not be started.
pub fn run<F>(workers: usize, stop: &Stop, build: F) -> anyhow::Result<()>
where
    F: for<'scope> Fn(Scope<'scope, Ms>, usize, &ProbeHandle<Ms>) + Send + Sync + 'static,
{
    let mut config = timely::Config::process(workers.max(1));
    // The machine has other work than polling for rows.
    config.worker = config.worker.idle_spin(Duration::ZERO);
    let asked = stop.clone();
    let guards = timely::execute(config, move |worker| {
        let _alarm = Alarm(asked.clone());
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
    if let Some(failure) = stop.failure() {
        return Err(failure);
    }
    ended.into_iter().collect::<Result<(), String>>().map_err(|error| anyhow::anyhow!("a worker broke down: {error}"))
}
