//! `clickline replay`: the same dataflow over files.

pub mod show;

use super::inputs::{Inputs, length};
use super::{Failure, setup};
use crate::config::{self, Config, raw};
use crate::dataflow::plan::{Plan, Times};
use crate::replay::Replay;
use crate::sources::Meter;
use crate::stop::Stop;
use anyhow::anyhow;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `replay`. Files are JSON lines, plain or gzip; `-` is standard input.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files.
    #[command(flatten)]
    pub inputs: Inputs,
    /// Rules; without a configuration they apply to every workspace of the clicks.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub rules: Option<PathBuf>,
    /// Folder for the outputs; files of an earlier replay in it are replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Take workspaces, rules and times from this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, value_name = "N", default_value = "1")]
    pub workers: NonZero<usize>,
    /// The clock's step; it divides a minute.
    #[arg(long, value_name = "LENGTH", default_value = "1s", value_parser = length)]
    pub tick: raw::Length,
}

/// Replays and prints what came of it.
///
/// # Errors
/// Arguments or rules that are wrong; a file that can't be read or written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    let plan = plan(args)?;
    if args.inputs.clicks.is_empty() {
        return Err(Failure::Configuration(anyhow!("a replay reads files: give --clicks FILE")));
    }
    let files = args.inputs.files();
    let meter = Arc::new(Meter::default());
    let replay = Replay { files: files.clone(), plan, out: args.out.clone(), workers: args.workers.get() };
    let bar = show::Bar::start(&files, &meter);
    let ended = replay.run(&meter, &stop);
    drop(bar);
    let summary = ended?;
    if stop.asked() {
        return Err(anyhow!("stopped before the end of the files; what stands in {} is incomplete", args.out.display()).into());
    }
    print!("{}", show::summary(&summary, &args.out));
    Ok(())
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    if let Some(path) = &args.config {
        let config = Config::load(path).map_err(Failure::configuration)?;
        return config.plan(Some(args.tick.0)).map_err(Failure::configuration);
    }
    let rules = match &args.rules {
        Some(path) => config::read_rules(path).map_err(Failure::configuration)?,
        None => Vec::new(),
    };
    Plan::new(Times::with_tick(args.tick.0), &args.inputs.specs()?, &rules, |_, _| 0).map_err(Failure::configuration)
}

#[cfg(test)]
mod tests;
