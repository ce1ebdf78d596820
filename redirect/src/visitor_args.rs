//! The part of the command line that is about visitors.

use clap::Args;
use clickline_redirect::{AddressKey, BurstConfig, ClientAddress, EidConfig, EidPolicy, Error, KeySource, Keys, Limit, VisitorConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Keys for signed ids, where no file is given.
pub(crate) const KEYS: &str = "CLICKLINE_EID_KEYS";
/// Secret for hashed addresses.
const ADDRESS_KEY: &str = "CLICKLINE_ADDRESS_KEY";

#[derive(Debug, Args)]
#[command(next_help_heading = "Visitors")]
pub(crate) struct VisitorArgs {
    /// Which `eid` counts: require (only signed), prefer (signed or plain) or off (only plain), for all workspaces or for one; may be repeated
    /// [default: off, with keys prefer]
    #[arg(long, value_name = "[WORKSPACE=]POLICY")]
    eid: Vec<String>,

    /// Keys that sign `eid`, one `ID SECRET [WORKSPACE…]` per line; read again when the file changes. Without it: CLICKLINE_EID_KEYS
    #[arg(long, value_name = "FILE")]
    eid_keys: Option<PathBuf>,

    /// User agents of machines, beside those known here: JSON as of the crawler-user-agents project; read again when the file changes
    #[arg(long, value_name = "FILE")]
    bot_agents: Option<PathBuf>,

    /// Networks of scanners, one CIDR per line: their clicks are machines'; read again when the file changes
    #[arg(long, value_name = "FILE")]
    scanner_networks: Option<PathBuf>,

    /// Clicks of one contact that make a burst, or off
    #[arg(long, value_name = "COUNT/TIME", default_value = "5/2s", value_parser = limit)]
    burst_contact: Off<Limit>,

    /// Different links that make a burst when one contact (without one: one address and user agent) clicks them, or off
    #[arg(long, value_name = "COUNT/TIME", default_value = "3/2s", value_parser = limit)]
    burst_links: Off<Limit>,

    /// Clicks of one address that make a burst, e.g. 10/2s. Only where this server sees visitors' own addresses: behind a proxy that
    /// doesn't tell them, everybody would be a machine
    #[arg(long, value_name = "COUNT/TIME", default_value = "off", value_parser = limit)]
    burst_client: Off<Limit>,

    /// Networks whose addresses make no burst, one CIDR per line: offices with many people; read again when the file changes
    #[arg(long, value_name = "FILE")]
    burst_except: Option<PathBuf>,

    /// Database of countries in MaxMind's format; read again when the file changes
    #[arg(long, value_name = "FILE")]
    geoip: Option<PathBuf>,

    /// What the record keeps of the client's address: none, truncated (/24, /48) or hashed (with CLICKLINE_ADDRESS_KEY, anew each day)
    #[arg(long, value_name = "HOW", default_value = "none", value_parser = str::parse::<ClientAddress>)]
    client_address: ClientAddress,
}

/// A value, or `off`. (clap would take an `Option` for an option that may be missing.)
#[derive(Clone, Copy, Debug)]
struct Off<T>(Option<T>);

fn limit(text: &str) -> Result<Off<Limit>, String> {
    if text == "off" { Ok(Off(None)) } else { text.parse().map(|limit| Off(Some(limit))) }
}

/// The keys of a file, else of the environment, if there are any.
pub(crate) fn key_source(file: Option<&PathBuf>) -> Result<Option<KeySource>, Error> {
    match (file, std::env::var(KEYS)) {
        (Some(path), _) => Ok(Some(KeySource::File(path.clone()))),
        (None, Ok(text)) => match Keys::parse(&text) {
            Ok(keys) => Ok(Some(KeySource::Given(keys))),
            Err(message) => Err(Error::Config(format!("{KEYS}, {message}"))),
        },
        (None, Err(_)) => Ok(None),
    }
}

impl VisitorArgs {
    /// What the options mean. Reads the environment and no file.
    pub(crate) fn config(&self) -> Result<VisitorConfig, Error> {
        let keys = key_source(self.eid_keys.as_ref())?;
        let mut default = if keys.is_some() { EidPolicy::Prefer } else { EidPolicy::Off };
        let mut workspaces = BTreeMap::new();
        for text in &self.eid {
            let (workspace, policy) = text.rsplit_once('=').map_or((None, text.as_str()), |(workspace, policy)| (Some(workspace), policy));
            let policy = policy.parse().map_err(|message| Error::Config(format!("--eid {text}: {message}")))?;
            match workspace {
                Some(workspace) => drop(workspaces.insert(workspace.to_owned(), policy)),
                None => default = policy,
            }
        }
        let address_key = match std::env::var(ADDRESS_KEY) {
            Ok(secret) => Some(AddressKey::new(secret.as_bytes()).ok_or_else(|| {
                Error::Config(format!("{ADDRESS_KEY} is shorter than 16 bytes; make one with `openssl rand -base64 32`"))
            })?),
            Err(_) => None,
        };
        Ok(VisitorConfig {
            eid: EidConfig { keys, default, workspaces },
            bot_agents: self.bot_agents.clone(),
            scanner_networks: self.scanner_networks.clone(),
            burst: BurstConfig { contact: self.burst_contact.0, links: self.burst_links.0, client: self.burst_client.0 },
            burst_except: self.burst_except.clone(),
            geoip: self.geoip.clone(),
            client_address: self.client_address,
            address_key,
        })
    }
}
