//! `clickline run`: the job and the HubSpot sink.
//!
//! They share topics and nothing else. When one of them ends by itself the other is stopped, too: whoever supervises the
//! process starts both again.

use super::{Failure, setup};
use crate::config::Config;
use crate::job::{Job, JobConfig};
use crate::model::time::{Ms, millis};
use crate::sinks::hubspot::Sink;
use crate::stop::Stop;
use anyhow::{Context as _, anyhow};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

/// Between two looks at whether something has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Worker threads; wins over the configuration.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZero<usize>>,
    /// Leave the deltas in their topics; another process may write them to HubSpot.
    #[arg(long)]
    pub no_sink: bool,
}

/// Runs until a signal comes or something fails.
///
/// # Errors
/// A configuration that is wrong, or why the job or the sink failed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    let plan = config.plan(None).map_err(Failure::configuration)?;
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    let portals = config.portals();
    let settings = config.hubspot.filter(|_| !args.no_sink);
    if let Some(settings) = &settings {
        settings.read_client_secret().map_err(Failure::Configuration)?;
    }
    let workers = args.workers.map_or(config.workers, NonZero::get);
    let job = JobConfig { kafka: config.kafka.clone(), plan, workers, limits: config.limits, now: Arc::new(now) };
    let job = Job::start(job, stop.clone()).map_err(Failure::Configuration)?;
    let sink = match settings {
        Some(settings) => {
            let sink = Sink::start(settings, config.kafka, portals, &config.state).context("the HubSpot sink does not start")?;
            Some(sink)
        }
        None => {
            tracing::info!("no HubSpot sink: the deltas stay in their topics");
            None
        }
    };
    while !job.ended() && !stop.asked() && sink.as_ref().is_none_or(Sink::running) {
        thread::sleep(LOOK);
    }
    let asked = stop.asked() && !job.ended();
    let sink_ended = sink.as_ref().is_some_and(|sink| !sink.running());
    // The sink first: it waits for HubSpot, and the job may go on meanwhile.
    let sink = sink.map_or(Ok(()), |sink| sink.stop().map(drop)).context("the HubSpot sink failed");
    let job = job.stop().context("the job failed");
    job.and(sink)?;
    if sink_ended && !asked {
        return Err(anyhow!("the HubSpot sink has ended by itself").into());
    }
    tracing::info!("stopped as asked");
    Ok(())
}

/// The wall clock; a machine that thinks it is before 1970 is taken at 0.
fn now() -> Ms {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}
