//! What is found out about visitors, and from which files.

use super::Visitors;
use super::address::{AddressKey, ClientAddress};
use crate::Error;
use crate::bots::BurstConfig;
use crate::identity::EidConfig;
use std::path::PathBuf;

/// What is found out about visitors. Files are read again when they change and on [`Server::reload`](crate::Server::reload). By default nothing but
/// what a request says itself.
#[derive(Clone, Debug, Default)]
pub struct VisitorConfig {
    /// Which `eid` counts.
    pub eid: EidConfig,
    /// User agents of machines, in the format of the crawler-user-agents project.
    pub bot_agents: Option<PathBuf>,
    /// Networks of scanners, one CIDR a line: their clicks are machines'.
    pub scanner_networks: Option<PathBuf>,
    /// What is a burst. `client` needs the visitors' own addresses: behind a proxy that doesn't tell them all visitors are one.
    pub burst: BurstConfig,
    /// Networks whose addresses may click as much as they like, one CIDR a line: offices, or proxies.
    pub burst_except: Option<PathBuf>,
    /// Database of countries in MaxMind's format. A country header goes before it.
    pub geoip: Option<PathBuf>,
    /// What the record keeps of client addresses.
    pub client_address: ClientAddress,
    /// Secret for hashed addresses; a random one when absent.
    pub address_key: Option<AddressKey>,
}

impl VisitorConfig {
    /// Reads and checks all files, and keeps none.
    ///
    /// # Errors
    /// What is wrong with the first bad one, and what to do.
    pub fn check(&self) -> Result<(), Error> {
        Visitors::new(self.clone()).map(drop)
    }
}
