//! The command line: what was typed, and which part of the library does it.

pub mod backtest;
pub mod check;
pub mod clickhouse;
pub mod dead_letters;
mod deadline;
pub mod demo;
pub mod doctor;
#[cfg(test)]
mod documented;
pub mod explain;
pub mod export;
pub mod forget;
pub mod hubspot;
pub mod inputs;
mod reload;
pub mod replay;
pub mod run;
pub mod schema;
mod setup;
mod text;
mod topics;

use clap::{Parser, Subcommand, ValueEnum};

/// Turns short-link clicks into CRM action.
#[derive(Debug, Parser)]
#[command(name = "clickline", version, about)]
pub struct Cli {
    /// How log lines are written to standard error; RUST_LOG says which (default: info; for demo, backtest, explain and hubspot: warn).
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a small company's week on this machine: nothing to install, nothing leaves it.
    Demo(demo::Demo),
    /// Run the job: topics in, deltas out.
    Run(run::Args),
    /// Read the configuration and say what it means; opens no connection unless asked to.
    Check(check::Args),
    /// Hold the configuration against the real brokers, topics and HubSpot accounts; changes nothing there.
    Doctor(doctor::Args),
    /// Run the same dataflow over JSON-lines files.
    Replay(replay::Args),
    /// Try rules on a history: which deals they would have advanced, for many thresholds and windows at once.
    Backtest(backtest::Args),
    /// Connect HubSpot accounts, get them ready, say how they stand.
    #[command(subcommand)]
    Hubspot(hubspot::Command),
    /// The tables in ClickHouse: make them, or say how they stand.
    #[command(subcommand)]
    Clickhouse(clickhouse::Command),
    /// Write clicks and deltas as Parquet files, one a day: analytics without ClickHouse.
    Export(export::Args),
    /// Say why a contact's or deal's state is what it is: clicks, counts, rules, guards, deltas.
    Explain(explain::Args),
    /// Remove a person from everything that is clickline's, refuse what comes of them later, and say what was removed and what stays.
    Forget(forget::Args),
    /// Records that could not be read or that HubSpot refused: list them, show one, send some once more, drop some.
    DeadLetters(dead_letters::Args),
    /// The JSON Schema of each topic's records: print one, write all, or hold them against older ones.
    Schema(schema::Args),
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The configuration or the arguments are wrong, or another job runs on the same topics: starting again won't help. Exit code 2.
    Configuration(anyhow::Error),
    /// Something failed: starting again may help. Exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    /// A mistake in configuration or arguments.
    pub fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Failure::Configuration(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// A [`Failure`], which names the exit code.
    pub fn run(self) -> Result<(), Failure> {
        // The demonstration tells its story itself; the others answer a question.
        let quiet = matches!(self.command, Command::Demo(_) | Command::Backtest(_) | Command::Explain(_) | Command::Hubspot(_));
        setup::logging(self.log, if quiet { "warn" } else { "info" });
        match self.command {
            Command::Demo(demo) => demo.run(),
            Command::Run(args) => run::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Backtest(args) => backtest::run(&args),
            Command::Clickhouse(command) => clickhouse::run(&command),
            Command::Explain(args) => explain::run(&args),
            Command::Forget(args) => forget::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Hubspot(command) => hubspot::run(&command),
            Command::DeadLetters(args) => dead_letters::run(&args),
            Command::Schema(args) => schema::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
