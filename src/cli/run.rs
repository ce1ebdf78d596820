//! `clickline run`: the job.

use super::{Failure, setup};
use crate::config::Config;
use crate::job::{Job, JobConfig};
use crate::model::time::{Ms, millis};
use crate::stop::Stop;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Worker threads; wins over the configuration.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZero<usize>>,
}

/// Runs until a signal comes or something fails.
///
/// # Errors
/// A configuration that is wrong, or why the job failed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    let plan = config.plan(None).map_err(Failure::configuration)?;
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    let workers = args.workers.map_or(config.workers, NonZero::get);
    let job = JobConfig { kafka: config.kafka, plan, workers, limits: config.limits, now: Arc::new(now) };
    let job = Job::start(job, stop).map_err(Failure::configuration)?;
    job.wait()?;
    tracing::info!("stopped as asked");
    Ok(())
}

/// The wall clock; a machine that thinks it is before 1970 is taken at 0.
fn now() -> Ms {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}
