//! Arguments that say which past to look at: files, or the topics of a configuration.

use super::{Inputs, length};
use crate::cli::Failure;
use crate::config::rules::Rule;
use crate::config::{self, Config, raw};
use crate::dataflow::plan::{Plan, Times, WorkspaceSpec};
use crate::history::History;
use crate::model::time::{DAY, Ms};
use anyhow::anyhow;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::num::NonZero;
use std::path::PathBuf;

/// Where the past stands and what is computed from it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Past {
    /// Files.
    #[command(flatten)]
    pub inputs: Inputs,
    /// Take workspaces, times and rules from this configuration, and without --clicks the topics, too; they are only read.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Rules; they take the place of the configuration's, and apply to every workspace unless they say otherwise.
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Worker threads; with a configuration its own.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZero<usize>>,
    /// The clock's step; it divides a minute. For files 1s, for topics that of the configuration.
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub tick: Option<raw::Length>,
}

/// A past that is ready to be looked at.
#[derive(Debug)]
pub struct World {
    /// Where the records are.
    pub history: History,
    /// The rules that are in question.
    pub rules: Vec<Rule>,
    /// Worker threads.
    pub workers: usize,
    tick: Ms,
    from: From,
}

/// What says which workspaces there are.
#[derive(Debug)]
enum From {
    Config(Box<Config>),
    Files(Vec<WorkspaceSpec>),
}

impl Past {
    /// Reads configuration and rules, and finds out what belongs to what.
    ///
    /// # Errors
    /// What is wrong with them; files that name several portals without `--connect`.
    pub fn world(&self) -> Result<World, Failure> {
        let given = self.rules.as_deref().map(config::read_rules).transpose().map_err(Failure::configuration)?;
        let files = self.inputs.files();
        let Some(path) = &self.config else {
            let (from, tick) = (From::Files(self.inputs.specs()?), self.tick.map_or(1_000, |tick| tick.0));
            let (history, workers) = (History::Files(files), self.workers.map_or(1, NonZero::get));
            return Ok(World { history, rules: given.unwrap_or_default(), workers, tick, from });
        };
        let config = Config::load(path).map_err(Failure::configuration)?;
        if self.inputs.clicks.is_empty() && !files.is_empty() {
            return Err(Failure::Configuration(anyhow!(
                "clicks come from the topics and the rest from files: give --clicks too, or no files at all"
            )));
        }
        let topics = files.is_empty();
        let history = if topics { History::Topics(Box::new(config.kafka.clone()), config.limits) } else { History::Files(files) };
        let tick = self.tick.map_or(if topics { config.times.tick } else { 1_000 }, |tick| tick.0);
        let workers = self.workers.map_or(config.workers, NonZero::get);
        Ok(World { history, rules: given.unwrap_or_else(|| config.rules.clone()), workers, tick, from: From::Config(Box::new(config)) })
    }
}

impl World {
    /// What the dataflow is asked to compute with these rules.
    ///
    /// # Errors
    /// A rule for a workspace that does not exist; a tick that does not divide a minute.
    pub fn plan(&self, rules: Vec<Rule>) -> Result<Plan, Failure> {
        match &self.from {
            From::Config(config) => Config { rules, ..(**config).clone() }.plan(Some(self.tick)).map_err(Failure::configuration),
            From::Files(specs) => Plan::new(Times::with_tick(self.tick), specs, &rules, |_, _| 0).map_err(Failure::configuration),
        }
    }
}

/// A moment as it is typed: a day in UTC, which stands for its beginning, or a time with its zone.
///
/// # Errors
/// How it is written.
pub fn moment(text: &str) -> Result<Ms, String> {
    read_moment(text).map(|(at, _)| at)
}

/// The same where the whole day is meant: the last millisecond of it.
///
/// # Errors
/// How it is written.
pub fn moment_or_day(text: &str) -> Result<Ms, String> {
    read_moment(text).map(|(at, day)| if day { at + DAY - 1 } else { at })
}

fn read_moment(text: &str) -> Result<(Ms, bool), String> {
    let wrong =
        || format!("`{text}` is no moment after 1970; write a day (UTC) such as 2026-11-25, or a time such as 2026-11-25T13:00:00Z");
    let text = text.trim();
    let (at, day) = match text.parse::<Date>() {
        // A time is read as a date, too, by what stands before its `T`.
        Ok(date) if text.len() <= 10 => (TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| wrong())?, true),
        _ => (text.parse::<jiff::Timestamp>().map_err(|_| wrong())?, false),
    };
    Ok((Ms::try_from(at.as_millisecond()).map_err(|_| wrong())?, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_days_or_times() {
        assert_eq!(moment("2025-11-22"), Ok(1_763_769_600_000));
        assert_eq!(moment_or_day("2025-11-22"), Ok(1_763_855_999_999));
        assert_eq!(moment("2025-11-22T08:26:40.123Z"), Ok(1_763_800_000_123));
        assert_eq!(moment_or_day("2025-11-22T09:26:40+01:00"), Ok(1_763_800_000_000));
        for bad in ["", "yesterday", "2025-13-01", "1969-12-31", "2025-11-22T08:26", "1763800000123"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
