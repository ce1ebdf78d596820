//! `clickline clickhouse migrate`: makes the tables, or only says how they stand.

use super::Failure;
use crate::config::Config;
use crate::sinks::clickhouse::{Service, Standing, migrate, standing};
use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use std::path::PathBuf;

/// What to do about ClickHouse.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the database, its tables and views, or bring them up to date. `run` does so itself unless `migrate: false`.
    Migrate(Migrate),
}

/// Arguments of `clickhouse migrate`.
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Change nothing; exit code 1 when something is missing.
    #[arg(long)]
    check: bool,
}

/// Does what was asked.
///
/// # Errors
/// A configuration without ClickHouse, what ClickHouse says, or with `--check` that something is missing.
pub fn run(command: &Command) -> Result<(), Failure> {
    let Command::Migrate(args) = command;
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    let settings = config.clickhouse.context("there is no `clickhouse` block in the configuration").map_err(Failure::Configuration)?;
    let service = Service::new(&settings).map_err(Failure::Configuration)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    if args.check {
        let Standing { has, needs } = runtime.block_on(standing(&service)).context("cannot look")?;
        println!("database {}: version {has}, this build needs {needs}", service.database());
        return if has == needs { Ok(()) } else { Err(anyhow!("the database has another version").into()) };
    }
    let Standing { has, needs } = runtime.block_on(migrate(&service, &settings))?;
    match has == needs {
        true => println!("database {}: version {needs}, nothing to do", service.database()),
        false => println!("database {}: from version {has} to {needs}", service.database()),
    }
    Ok(())
}
