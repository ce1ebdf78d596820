//! A HubSpot to run against on one machine.
//!
//! The sandbox answers as HubSpot's documents say HubSpot does: OAuth with expiring tokens and scopes, contacts and deals with
//! their history, properties, pipelines, associations, search, timeline events, the rolling rate limit, and the error bodies.
//! `README.md` says what is true to HubSpot and what is not. State lives in memory and is gone when the sandbox stops.
//!
//! ```text
//!  HTTP ──► log ──► guard: token, limit ──► crm / timeline ─┐
//!               └─► oauth, templates, control, page ────────┼──► World (one lock) ──► page's stream
//!  library calls (seed, snapshot) ──────────────────────────┘
//! ```
//!
//! # Example
//!
//! ```
//! use clickline_sandbox::{Config, Sandbox};
//!
//! let sandbox = Sandbox::start(Config::default())?;
//! let contact = sandbox.create_contact("4242", Some("801"), &[("email", "ada@example.com")]);
//! let deal = sandbox.create_deal("4242", None, &[("dealname", "Ada"), ("dealstage", "appointmentscheduled")], &[&contact]);
//! let refresh_token = sandbox.refresh_token("4242"); // exchange it at {url}/oauth/v3/token
//! assert!(refresh_token.starts_with("na1-"));
//! let snapshot = sandbox.snapshot("4242");
//! assert_eq!(snapshot.deal(&deal).map(|d| d.contact_ids.as_slice()), Some(&["801".to_owned()][..]));
//! sandbox.stop();
//! # Ok::<(), std::io::Error>(())
//! ```

mod access;
mod clock;
mod config;
mod control;
mod crm;
mod error;
mod http;
mod limits;
mod oauth;
mod page;
mod portal;
mod seed;
mod server;
mod snapshot;
mod timeline;
mod world;

pub use clock::{Clock, ManualClock};
pub use config::{App, Config, DuplicateEvents, Rotation};
pub use snapshot::{Contact, Deal, Request, Snapshot, StageChange, TimelineEvent};

use crate::crm::Kind;
use crate::error::ApiError;
use crate::http::AppState;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

/// A running sandbox. It stops when it is dropped.
///
/// The methods that seed stand for a person at work in HubSpot. They panic, saying why, when they are asked for what HubSpot
/// would not let that person do: an account or record id that is no number, an id that is taken, an unknown property or stage,
/// an associated record that does not exist. A portal that does not exist yet is opened.
pub struct Sandbox {
    state: AppState,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a sandbox on a thread of its own; when this returns, it answers.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, or a portal's id is not a number.
    pub fn start(config: Config) -> io::Result<Self> {
        if let Some(id) = config.portals.iter().find(|id| !world::valid_portal_id(id)) {
            let reason = format!("{id:?} is no HubSpot account id: use a positive number of up to 10 digits");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let listener = TcpListener::bind(config.listen)?;
        let address = listener.local_addr()?;
        let state = AppState::new(config);
        let thread = Some(server::spawn(listener, state.clone())?);
        Ok(Self { state, address, thread })
    }

    /// `http://127.0.0.1:PORT`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops serving; open requests get half a second to finish.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.state.stop();
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been printed by now; stopping has nothing to add.
            let _ = thread.join();
        }
    }

    /// Makes a contact and gives back its id. Properties that HubSpot's API shows as read-only may be set here.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn create_contact(&self, portal: &str, id: Option<&str>, properties: &[(&str, &str)]) -> String {
        done(self.state.seed(portal, Kind::Contact, id, &owned(properties), &[]))
    }

    /// Makes a deal with its contacts and gives back its id. A stage without a pipeline is one of the default pipeline.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn create_deal(&self, portal: &str, id: Option<&str>, properties: &[(&str, &str)], contact_ids: &[&str]) -> String {
        done(self.state.seed(portal, Kind::Deal, id, &owned(properties), contact_ids))
    }

    /// Changes a contact as a person does in HubSpot's pages.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn edit_contact(&self, portal: &str, id: &str, properties: &[(&str, &str)]) {
        done(self.state.edit(portal, Kind::Contact, id, &owned(properties)));
    }

    /// Changes a deal as a person does in HubSpot's pages.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn edit_deal(&self, portal: &str, id: &str, properties: &[(&str, &str)]) {
        done(self.state.edit(portal, Kind::Deal, id, &owned(properties)));
    }

    /// Merges the contact `other` into `primary`.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn merge_contacts(&self, portal: &str, primary: &str, other: &str) {
        done(self.state.merge(portal, Kind::Contact, primary, other));
    }

    /// Installs the first app in a portal with every scope there is; gives back a refresh token.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn refresh_token(&self, portal: &str) -> String {
        done(self.state.mint_refresh_token(portal, None, None))
    }

    /// Installs the app `client_id` in a portal with these scopes; gives back a refresh token.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn refresh_token_for(&self, portal: &str, client_id: &str, scopes: &[&str]) -> String {
        let scopes: Vec<String> = scopes.iter().map(|s| (*s).to_owned()).collect();
        done(self.state.mint_refresh_token(portal, Some(client_id), Some(&scopes)))
    }

    /// HubSpot's id of the app at `index` of [`Config::apps`], as template paths and histories name it.
    pub fn app_id(&self, index: usize) -> u64 {
        Config::app_id(index)
    }

    /// Everything in a portal; empty when there is no such portal.
    pub fn snapshot(&self, portal: &str) -> Snapshot {
        let empty = || Snapshot { portal: portal.to_owned(), contacts: Vec::new(), deals: Vec::new(), events: Vec::new() };
        self.state.snapshot(portal).unwrap_or_else(|_| empty())
    }

    /// The requests that were answered, oldest first; the log keeps the last 50,000.
    pub fn requests(&self) -> Vec<Request> {
        self.state.world().requests.iter().cloned().collect()
    }

    /// Back to the start: configured portals, empty; no grants, no templates, no log.
    pub fn reset(&self) {
        self.state.reset(None);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}

fn owned(properties: &[(&str, &str)]) -> Vec<(String, String)> {
    properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The result of a seeding call; what was wrong with it is the caller's own mistake.
fn done<T>(result: Result<T, ApiError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("sandbox: {}", error.message()),
    }
}
