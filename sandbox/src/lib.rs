//! A HubSpot to run against on one machine.
//!
//! The sandbox answers as HubSpot's documents say HubSpot does: OAuth with expiring tokens and scopes, contacts and deals with
//! their history, properties, pipelines, associations, search, the three kinds of events, forms, webhooks and their journal,
//! the rate limits, and the error bodies. Faults can be scripted, and every request can be read afterwards. `README.md` says
//! what is true to HubSpot and what is not. State lives in memory and is gone when the sandbox stops.
//!
//! ```text
//!  HTTP ──► exchange: fault? ──► guard: token, limit ──► crm, events, forms ─┐             ┌──► page's stream
//!           (then the log)   └─► oauth, templates, journal, webhooks ────────┼──► World ───┼──► journal
//!  library calls, control API ───────────────────────────────────────────────┘  (one lock) └──► webhooks out
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
mod account;
mod changes;
mod clock;
mod config;
mod control;
mod crm;
mod custom_events;
mod error;
mod exchange;
mod faults;
mod forms;
mod http;
mod journal;
mod limits;
mod log;
mod oauth;
mod page;
mod portal;
mod seed;
mod server;
mod snapshot;
mod timeline;
mod webhooks;
mod world;

pub use clock::{Clock, ManualClock};
pub use config::{App, AppEvents, Config, DuplicateEvents, JournalEnd, Rotation};
pub use log::Request;
pub use snapshot::{Contact, Deal, Snapshot, StageChange, TimelineEvent};
pub use webhooks::deliver::Delivery;

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
    /// The address cannot be listened on, the request log cannot be opened, a portal's id is not a number, or the machine
    /// has no usable TLS.
    pub fn start(mut config: Config) -> io::Result<Self> {
        if let Some(id) = config.portals.iter().find(|id| !world::valid_portal_id(id)) {
            let reason = format!("{id:?} is no HubSpot account id: use a positive number of up to 10 digits");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        if config.request_log.is_none() {
            config.request_log = log::from_environment();
        }
        if let Some(path) = &config.request_log {
            log::open(path).map_err(|e| io::Error::new(e.kind(), format!("opening the request log {}: {e}", path.display())))?;
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

    /// The requests in memory, oldest first: the last [`Config::requests_kept`]. All of them are in [`Config::request_log`].
    pub fn requests(&self) -> Vec<Request> {
        self.state.world().log.requests().cloned().collect()
    }

    /// Back to the start: configured portals, empty; no grants, templates, subscriptions, faults or log.
    pub fn reset(&self) {
        self.state.reset(None);
    }
}

/// What a person does besides: all panic as the methods that seed do.
impl Sandbox {
    /// Puts a contact to the archive.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn archive_contact(&self, portal: &str, id: &str) {
        done(self.state.archive(portal, Kind::Contact, id));
    }

    /// Puts a deal to the archive.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn archive_deal(&self, portal: &str, id: &str) {
        done(self.state.archive(portal, Kind::Deal, id));
    }

    /// Takes a contact out of the archive.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn restore_contact(&self, portal: &str, id: &str) {
        done(self.state.restore(portal, Kind::Contact, id));
    }

    /// Deletes a contact for good, as the GDPR wants it.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn erase_contact(&self, portal: &str, id: &str) {
        done(self.state.erase(portal, id));
    }

    /// Associates a contact with a deal.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn associate(&self, portal: &str, contact: &str, deal: &str) {
        done(self.state.associate(portal, contact, deal, true));
    }

    /// Takes an association away.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn dissociate(&self, portal: &str, contact: &str, deal: &str) {
        done(self.state.associate(portal, contact, deal, false));
    }

    /// Makes a form whose fields are these properties of contacts; gives back its guid.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn create_form(&self, portal: &str, guid: Option<&str>, name: &str, fields: &[&str]) -> String {
        let field = |name: &&str| forms::definitions::Field { name: (*name).into(), label: (*name).into(), required: false, hidden: false };
        done(self.state.put_form(portal, guid, name, fields.iter().map(field).collect())).guid
    }

    /// Submits a form from a page, as a visitor does.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn submit_form(&self, portal: &str, form: &str, values: &[(&str, &str)], page_url: &str) {
        use forms::submissions::{Context, FieldValue, Sent};
        let value = |(name, value): &(&str, &str)| FieldValue { name: (*name).into(), value: (*value).into(), object_type_id: None };
        let context = Context { page_uri: Some(page_url.to_owned()) };
        let sent = Sent { fields: values.iter().map(value).collect(), submitted_at: None, context };
        done(self.state.submit_form(portal, form, sent));
        self.state.changed();
    }

    /// A token as a private app or a service key has it, with these scopes or with all there are.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`].
    pub fn static_token(&self, portal: &str, scopes: Option<&[&str]>) -> String {
        let scopes: Option<Vec<String>> = scopes.map(|all| all.iter().map(|s| (*s).to_owned()).collect());
        done(self.state.mint_static_token(portal, scopes.as_deref()))
    }

    /// Puts an app event type into the app at `index` of [`Config::apps`], in the format of a project's file
    /// (`{"uid":…,"config":{…}}`); gives back its full name.
    ///
    /// # Panics
    ///
    /// See [`Sandbox`]; also when it is no event type.
    pub fn app_event_type(&self, index: usize, file: serde_json::Value) -> String {
        let new = serde_json::from_value(file).map_err(ApiError::bad_json);
        done(new.and_then(|new| timeline::app_event_types::put(&self.state, index, new)))
    }
}

/// What goes wrong, and how the sandbox behaves.
impl Sandbox {
    /// Adds a rule to the fault script (`README.md` has the format); gives back its name.
    ///
    /// # Panics
    ///
    /// The rule has a mistake.
    pub fn fault(&self, rule: serde_json::Value) -> String {
        let spec = serde_json::from_value(rule).map_err(|e| e.to_string());
        scripted(spec.and_then(|spec| self.state.world().faults.add(spec)))
    }

    /// Plays a fault script instead of the one before.
    ///
    /// # Panics
    ///
    /// The script has a mistake.
    pub fn play_faults(&self, script: serde_json::Value) {
        let script = serde_json::from_value(script).map_err(|e| e.to_string());
        scripted(script.and_then(|script| self.state.world().faults.play(script)));
    }

    /// Ends the fault script.
    pub fn clear_faults(&self) {
        self.state.world().faults.clear();
    }

    /// Changes the configuration while the sandbox runs. Address, apps, clock and what concerns the log stay as they were when
    /// it started.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        self.state.configure(change);
    }

    /// Lets every access token of a portal expire.
    pub fn expire_access_tokens(&self, portal: &str) {
        let now = self.state.now();
        self.state.world().oauth.expire_all(portal, now);
    }

    /// Kills every refresh token of a portal.
    pub fn revoke_grants(&self, portal: &str) {
        self.state.world().oauth.revoke_all(portal);
    }

    /// The attempts to deliver webhooks, oldest first; the last 10,000.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.state.world().webhooks.deliveries().cloned().collect()
    }

    /// How a secret stands in the log.
    pub fn fingerprint(secret: &str) -> String {
        log::fingerprint(secret)
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

fn scripted<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("sandbox: the fault script has a mistake: {why}"),
    }
}
