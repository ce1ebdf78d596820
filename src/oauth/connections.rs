//! The connections of a process: opened once, asked for access tokens from any thread or runtime.
//!
//! Refreshes run on a thread of their own. Whoever asks may go away; a call that was begun is finished and its answer stored all the same.

use super::configured::Configured;
use super::endpoint::{Endpoint, Grant, Reply};
use super::features::Feature;
use super::keeper::{Access, Keeper, Link, TokenError};
use super::row::{Facts, Row};
use super::seal::Seal;
use super::store::{Pending, Store};
use super::witness::Witness;
use crate::metrics::Metrics;
use crate::model::time::{self, millis};
use crate::secret::Secret;
use crate::state::State;
use anyhow::{Context as _, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What it takes to store an answer, beside the deadline of the call.
const STORE_WITHIN: Duration = Duration::from_millis(super::decide::STORE_WITHIN);

/// Between two looks whether somebody has logged in, where a portal is not connected.
const LOOK_FOR_LOGINS: Duration = Duration::from_secs(1);

/// Between two looks whether a connection was not used for long.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3600);

/// How a portal is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By an installed app.
    App,
    /// By a token that does not change: a private app's or a service key.
    Static,
}

/// A connection as it stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// HubSpot's account id.
    pub portal: String,
    /// How it is connected.
    pub mode: Mode,
    /// What is known of it; none for a static token, and where the row is missing or must not be used.
    pub facts: Option<Facts>,
    /// Where the row stands.
    pub token_version: Option<i64>,
    /// Why there are no facts, where there should be: no app was ever installed, or the row must not be used.
    pub problem: Option<String>,
    /// Whether there is a row at all.
    pub installed: bool,
    /// What does not work, with the scopes that are missing.
    pub gated: Vec<(Feature, Vec<&'static str>)>,
}

/// The connections of a process.
#[derive(Debug)]
pub struct Connections {
    keeper: Arc<Keeper>,
    /// Until it is dropped.
    runtime: Option<Runtime>,
    /// How long a drop waits for answers under way.
    grace: Duration,
}

impl Connections {
    /// Opens the table and brings it up to date. `state_path` is where `state` is.
    ///
    /// # Errors
    /// When a secret, key or store can't be read; says what to do.
    pub fn open(
        settings: &impl Configured,
        state: &Arc<State>,
        state_path: &Path,
        portals: &[String],
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut links = BTreeMap::new();
        let mut configured = BTreeMap::new();
        for portal in portals {
            let link = match settings.access_token(portal)? {
                Some(token) => Link::Static { token, refused: AtomicBool::new(false) },
                None => Link::App(tokio::sync::Mutex::default()),
            };
            if let (Link::App(_), Some(token)) = (&link, settings.refresh_token(portal)?) {
                configured.insert(portal.clone(), token);
            }
            links.insert(portal.clone(), link);
        }
        let (of, call_within) = (settings.connections(), settings.call_within());
        let app = links.values().any(|link| matches!(link, Link::App(_)));
        let (seal, endpoint) = if app { (of.read_seal()?, Some(Endpoint::new(settings.app()?)?)) } else { (Seal::Off, None) };
        let postgres = of.read_postgres()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("hubspot-tokens").enable_all().build()?;
        let ca_file = of.postgres_ca_file.clone();
        let store: Arc<dyn Store> = match postgres.filter(|_| app) {
            Some(address) => {
                let opened = async move { super::postgres::Postgres::open(address.reveal(), ca_file.as_deref()).await };
                Arc::new(wait(&runtime, opened)??)
            }
            None => Arc::<State>::clone(state),
        };
        let keeper = Arc::new(Keeper {
            environment: of.environment.clone(),
            store,
            seal,
            witness: Witness::open(&of.witness_path(state_path), &of.environment)?,
            endpoint,
            portals: links,
            seeds: configured.iter().map(|(portal, token)| (portal.clone(), super::rows::seed_of(token))).collect(),
            events: settings.event_scopes(),
            holder: uuid::Uuid::now_v7().to_string(),
            lease_for: millis(call_within + STORE_WITHIN),
            spread: rand::random(),
            now: time::now,
            metrics,
            refreshes: AtomicU64::new(0),
            open_calls: AtomicUsize::new(0),
            scopes: Mutex::default(),
            revived: Mutex::default(),
            accepted: Mutex::default(),
        });
        let grace = call_within + STORE_WITHIN;
        let connections = Connections { keeper: Arc::clone(&keeper), runtime: Some(runtime), grace };
        if app {
            let state = Arc::clone(state);
            let prepared = Arc::clone(&keeper);
            connections.wait(async move { prepared.prepare(&state, &configured).await })??;
            connections.runtime.as_ref().context("it is stopping")?.spawn(async move {
                let mut alive_at = Instant::now();
                loop {
                    tokio::time::sleep(LOOK_FOR_LOGINS).await;
                    keeper.look_for_logins().await;
                    if alive_at.elapsed() >= KEEP_ALIVE_EVERY {
                        alive_at = Instant::now();
                        keeper.keep_alive().await;
                    }
                }
            });
        }
        Ok(connections)
    }

    /// An access token that is good for a while.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn access(&self, portal: &str) -> Result<Access, TokenError> {
        self.get(portal, None).await
    }

    /// Another access token than `spent`, which HubSpot has refused.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn renew(&self, portal: &str, spent: &Access) -> Result<Access, TokenError> {
        self.get(portal, Some(spent.clone())).await
    }

    async fn get(&self, portal: &str, spent: Option<Access>) -> Result<Access, TokenError> {
        let (keeper, portal) = (Arc::clone(&self.keeper), portal.to_owned());
        let stopped = || TokenError::Transient("it is stopping".to_owned(), None);
        let runtime = self.runtime.as_ref().ok_or_else(stopped)?;
        runtime.spawn(async move { keeper.get(&portal, spent.as_ref()).await }).await.map_err(|_| stopped())?
    }

    /// Whether a portal has an access token of the configuration's, which can't be renewed.
    pub fn fixed(&self, portal: &str) -> bool {
        matches!(self.keeper.portals.get(portal), Some(Link::Static { .. }))
    }

    /// HubSpot refuses such a token whatever is asked with it; gives back what that means for requests.
    pub fn refused(&self, portal: &str) -> TokenError {
        self.keeper.refused(portal)
    }

    /// HubSpot has answered a request of a portal's, sent with this access token, as one that may be made.
    pub fn accepted(&self, portal: &str, access: &Access) {
        self.keeper.accepted(portal, access);
    }

    /// Calls to the token endpoint for refreshes so far, by this process.
    pub fn refreshes(&self) -> u64 {
        self.keeper.refreshes.load(Ordering::Relaxed)
    }

    /// The scopes that are missing for a feature, as far as the granted ones are known.
    pub fn missing(&self, portal: &str, feature: Feature) -> Vec<&'static str> {
        let scopes = self.keeper.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.get(portal).filter(|granted| !granted.is_empty()).map_or(Vec::new(), |granted| {
            let events = self.keeper.event_scopes(portal);
            feature.missing(events, granted)
        })
    }

    /// What does not work with the scopes of a portal's row, with those that are missing.
    pub fn gated(&self, row: &Row) -> Vec<(Feature, Vec<&'static str>)> {
        self.keeper.gated(&row.portal, &row.facts.scopes)
    }

    /// The scopes that the events of these portals take beside those that every installation asks for.
    pub(super) fn scopes_beside(&self, portals: &[String]) -> BTreeSet<&'static str> {
        portals.iter().flat_map(|portal| self.keeper.event_scopes(portal).beside()).copied().collect()
    }

    /// How often a portal that was not connected was connected again, or got other scopes: when it grows, what was given up may be tried.
    pub fn revived(&self, portal: &str) -> u64 {
        self.keeper.revived.lock().unwrap_or_else(PoisonError::into_inner).get(portal).copied().unwrap_or(0)
    }

    /// The app's id, where a portal is connected by an app.
    pub fn client_id(&self) -> Option<&str> {
        self.keeper.endpoint.as_ref().map(Endpoint::client_id)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.keeper.metrics
    }

    /// How every portal is connected, without asking HubSpot.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn status(&self) -> anyhow::Result<Vec<Status>> {
        let keeper = Arc::clone(&self.keeper);
        self.wait(async move {
            let mut all = Vec::new();
            for (portal, link) in &keeper.portals {
                all.push(keeper.status(portal, link).await?);
            }
            Ok(all)
        })?
    }

    /// Exchanges the code of an installation and stores its tokens, if it is for one of `portals`; gives back the account.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn install(&self, code: &str, redirect_uri: &str, workspace: &str, portals: &[String]) -> Result<Row, InstallError> {
        let (keeper, code, redirect_uri) = (Arc::clone(&self.keeper), code.to_owned(), redirect_uri.to_owned());
        let (workspace, portals) = (workspace.to_owned(), portals.to_owned());
        let stopped = || InstallError::Failed(anyhow!("it is stopping"));
        let runtime = self.runtime.as_ref().ok_or_else(stopped)?;
        let installed = async move { keeper.exchange(&code, &redirect_uri, &workspace, &portals).await };
        runtime.spawn(installed).await.map_err(|_| stopped())?
    }

    /// Remembers an installation that begins ([`Store::begin_install`]).
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn begin_install(&self, state: [u8; 32], pending: Pending) -> anyhow::Result<()> {
        let keeper = Arc::clone(&self.keeper);
        let runtime = self.runtime.as_ref().context("it is stopping")?;
        runtime.spawn(async move { keeper.store.begin_install(&state, &pending, (keeper.now)()).await }).await?
    }

    /// Takes an installation out ([`Store::take_install`]), unless it has expired.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn take_install(&self, state: [u8; 32]) -> anyhow::Result<Option<Pending>> {
        let keeper = Arc::clone(&self.keeper);
        let runtime = self.runtime.as_ref().context("it is stopping")?;
        let taken = runtime.spawn(async move { keeper.store.take_install(&state).await }).await??;
        Ok(taken.filter(|pending| time::now() < pending.expires_at))
    }

    /// Runs something on the connections' thread and waits for it; may be called where waiting for a runtime is not allowed.
    fn wait<T: Send + 'static>(&self, what: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
        wait(self.runtime.as_ref().context("it is stopping")?, what)
    }
}

fn wait<T: Send + 'static>(runtime: &Runtime, what: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
    let (sender, receiver) = mpsc::channel();
    runtime.spawn(async move {
        // Whoever asked waits.
        let _ = sender.send(what.await);
    });
    receiver.recv().context("the thread of the connections has panicked")
}

impl Drop for Connections {
    /// Waits for answers of the token endpoint that are under way: one that is not stored may be the only copy of a refresh token.
    fn drop(&mut self) {
        let until = Instant::now() + self.grace;
        while self.keeper.open_calls.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why an installation did not connect an account.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It was for an account that the workspace does not have. Its tokens were given back.
    #[error("the app was installed in account {0}, which is not among the portals of this workspace")]
    ForeignPortal(String),
    /// HubSpot does not take the code.
    #[error("HubSpot does not accept the code: it was used, or is more than a few minutes old")]
    BadCode,
    /// Something failed.
    #[error(transparent)]
    Failed(anyhow::Error),
}

impl Keeper {
    async fn exchange(&self, code: &str, redirect_uri: &str, workspace: &str, portals: &[String]) -> Result<Row, InstallError> {
        let failed = |what: String| InstallError::Failed(anyhow!(what));
        let endpoint = self.endpoint.as_ref().ok_or_else(|| failed("the configuration names no app".to_owned()))?;
        let grant: Grant = match endpoint.exchange(code, redirect_uri).await.map_err(InstallError::Failed)? {
            Reply::Granted(grant) => grant,
            Reply::Dead => return Err(InstallError::BadCode),
            Reply::BadClient(code) => return Err(failed(TokenError::BadClient(code).to_string())),
            Reply::Throttled(_) => return Err(failed("HubSpot asks for a pause; try again in a minute".to_owned())),
            Reply::Failed(why, _) | Reply::Unsent(why) | Reply::Odd(why) => {
                return Err(failed(format!("the token endpoint failed: {why}")));
            }
        };
        let Some(hub_id) = grant.hub_id else {
            return Err(failed(
                "HubSpot did not say which account the installation is in (no hub_id): set paths.token to a dated path".to_owned(),
            ));
        };
        let portal = hub_id.to_string();
        if !portals.contains(&portal) || !matches!(self.portals.get(&portal), Some(Link::App(_))) {
            if let Some(token) = &grant.refresh_token {
                endpoint.revoke(token).await;
            }
            return Err(InstallError::ForeignPortal(portal));
        }
        self.install(&portal, Some(workspace), grant).await.map_err(InstallError::Failed)
    }

    async fn status(&self, portal: &str, link: &Link) -> anyhow::Result<Status> {
        let status = |mode| Status {
            portal: portal.to_owned(),
            mode,
            facts: None,
            token_version: None,
            problem: None,
            installed: true,
            gated: Vec::new(),
        };
        if let Link::Static { .. } = link {
            return Ok(status(Mode::Static));
        }
        match self.row(portal).await {
            Ok(row) => {
                let gated = self.gated(portal, &row.facts.scopes);
                Ok(Status { facts: Some(row.facts), token_version: Some(row.token_version), gated, ..status(Mode::App) })
            }
            Err(TokenError::Store(why)) => Err(anyhow!(why)),
            Err(error) => {
                let elsewhere =
                    self.store.list().await?.into_iter().filter(|row| row.portal == portal && row.environment != self.environment);
                let elsewhere: Vec<String> = elsewhere.map(|row| row.environment).collect();
                let problem = match (&error, elsewhere.as_slice()) {
                    (TokenError::NotConnected, [_, ..]) => {
                        format!("{error}. The table has rows of the environment {}; this one is {}", elsewhere.join(", "), self.environment)
                    }
                    _ => error.to_string(),
                };
                Ok(Status { problem: Some(problem), installed: error != TokenError::NotConnected, ..status(Mode::App) })
            }
        }
    }
}

/// A key for callers in the same process whose table ends with them.
pub(crate) fn passing_key() -> Secret {
    // Without random bytes there is no key, and without a key no start.
    Secret::new(super::seal::new_key("passing").unwrap_or_default())
}
