//! `clickline hubspot`: connects accounts, gets them ready, and says how they stand.

mod login;
mod setup;
mod status;

pub use setup::accounts;

use super::Failure;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::time;
use crate::oauth::{Connections, new_key};
use crate::sinks::hubspot::Settings;
use crate::state::State;
use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use std::path::PathBuf;
use std::sync::Arc;

/// What to do about HubSpot.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect a HubSpot account: let the app in with a browser, and keep its tokens.
    Login(login::Args),
    /// Make what the accounts must have (contact properties, their group, the type of event); `--check` only looks.
    Setup(setup::Args),
    /// Say how each account is connected: state, scopes and what they do not allow, last refresh. HubSpot is asked only whether it accepts
    /// the access tokens that the configuration names.
    Status(status::Args),
    /// Make a key that seals tokens at rest, for the environment variable CLICKLINE_TOKEN_KEYS.
    Key,
}

/// Which configuration.
#[derive(Debug, clap::Args)]
struct Of {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// A configuration with its connections open.
struct Open {
    config: Config,
    settings: Settings,
    connections: Arc<Connections>,
}

impl Of {
    /// Reads the configuration and finds out whether every secret is there.
    fn load(&self) -> Result<(Config, Settings, Vec<String>), Failure> {
        let config = Config::load(&self.config).map_err(Failure::configuration)?;
        let settings =
            config.hubspot.clone().context("there is no `hubspot` block in the configuration").map_err(Failure::Configuration)?;
        let portals = config.portals();
        if portals.is_empty() {
            return Err(Failure::Configuration(anyhow!(
                "no workspace has a portal: list HubSpot account ids under workspaces.NAME.portals"
            )));
        }
        settings.read_secrets(&portals).map_err(Failure::Configuration)?;
        Ok((config, settings, portals))
    }

    fn open(&self) -> Result<Open, Failure> {
        let (config, settings, portals) = self.load()?;
        let state = Arc::new(State::open(&config.state)?);
        let connections = Connections::open(&settings, &state, &config.state, &portals, Arc::new(Metrics::default()))?;
        Ok(Open { config, settings, connections: Arc::new(connections) })
    }
}

/// Does what was asked.
///
/// # Errors
/// A [`Failure`], which names the exit code.
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Login(args) => login::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Status(args) => status::run(args),
        Command::Key => {
            let today: String = time::rfc3339(time::now()).chars().take(10).collect();
            println!("{}", new_key(&today)?);
            Ok(())
        }
    }
}
