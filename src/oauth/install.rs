//! Installs the app in an account: sends a browser to HubSpot, and takes what it brings back.
//!
//! # Meaning
//! [`Installer::begin`] makes a random `state`, remembers its hash in the store for ten minutes together with workspace, redirect URI and the hash of a
//! second random value that the browser keeps, and gives back HubSpot's address. [`Installer::finish`] takes the state out (so it counts
//! once), compares the browser's value in constant time, exchanges the code for tokens and stores them.
//!
//! # Why nobody else can connect an account
//! A link from somebody else's browser carries a `state` whose second half this browser does not have. A portal that the configuration does
//! not give to the workspace is not connected, and its tokens are given back. The browser is sent to HubSpot's address from
//! the configuration and nowhere else, and the redirect URI never comes from a request.

use super::connections::{Connections, InstallError};
use super::features::Feature;
use super::ration::Ration;
use super::row::Row;
use super::seal::random;
use super::settings::ConnectionSettings;
use super::store::Pending;
use crate::metrics::{Install, InstallResult};
use crate::model::time;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use url::Url;

/// How long somebody may take on HubSpot's page.
pub const INSTALL_WITHIN: Duration = Duration::from_secs(600);

/// Installs the app for the workspaces of a configuration.
#[derive(Debug)]
pub struct Installer {
    connections: Arc<Connections>,
    /// Portals by workspace.
    workspaces: BTreeMap<String, Vec<String>>,
    authorize_url: Url,
    scopes: Vec<String>,
    optional_scopes: Vec<String>,
    redirect_uri: String,
    /// What has begun of late.
    begun: Mutex<Ration>,
}

/// An installation that has begun.
#[derive(Debug)]
pub struct Begun {
    /// HubSpot's page.
    pub address: String,
    /// Names the installation among others of the same browser; no secret.
    pub name: String,
    /// What the browser keeps until it is back.
    pub browser: String,
}

/// Why an installation does not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// There is none of that name, or none was named and there are several.
    #[error("name a workspace of the configuration that has portals")]
    Workspace,
    /// More than a minute takes.
    #[error("too many installations have begun within a minute; wait a little")]
    TooMany,
    /// The configuration names no app.
    #[error("the configuration connects no portal by an app: every one has an access token of its own")]
    NoApp,
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What HubSpot sent the browser back with.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Callback {
    /// The code to exchange.
    pub code: Option<String>,
    /// Ours, from the beginning.
    pub state: Option<String>,
    /// HubSpot's word where there is no code.
    pub error: Option<String>,
}

/// Why an installation does not end well.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Unknown, used, expired, or begun in another browser.
    #[error("this installation was begun in another browser, more than ten minutes ago, or is over already: begin again")]
    BadState,
    /// The person or HubSpot said no.
    #[error("HubSpot did not let the app in ({0})")]
    Denied(String),
    /// The rest.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Hash of a value that must not be stored.
fn hash(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

/// Names an installation by the hash of its state.
fn name(state: &[u8; 32]) -> String {
    state.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Installer {
    /// For these workspaces (name and portals); HubSpot sends browsers back to `redirect_uri`.
    ///
    /// # Errors
    /// When the authorize address is no URL.
    pub fn new(
        connections: Arc<Connections>,
        settings: &ConnectionSettings,
        workspaces: BTreeMap<String, Vec<String>>,
        redirect_uri: String,
    ) -> anyhow::Result<Self> {
        Ok(Installer {
            connections,
            workspaces: workspaces.into_iter().filter(|(_, portals)| !portals.is_empty()).collect(),
            authorize_url: Url::parse(&settings.authorize_url).context("hubspot.connections.authorize_url is no URL")?,
            scopes: settings.scopes.clone(),
            optional_scopes: settings.optional_scopes.clone(),
            redirect_uri,
            begun: Mutex::new(Ration::new(Instant::now())),
        })
    }

    /// Where HubSpot sends browsers back to; the app's settings must list it, letter by letter.
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// The workspace that is meant: the one named, or the only one.
    ///
    /// # Errors
    /// [`BeginError::Workspace`].
    pub fn workspace<'a>(&'a self, named: Option<&'a str>) -> Result<(&'a str, &'a [String]), BeginError> {
        let found = match named {
            Some(named) => self.workspaces.get_key_value(named),
            None if self.workspaces.len() == 1 => self.workspaces.first_key_value(),
            None => None,
        };
        found.map(|(name, portals)| (name.as_str(), portals.as_slice())).ok_or(BeginError::Workspace)
    }

    /// Begins an installation for a workspace, for a connection from `from`.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub async fn begin(&self, workspace: Option<&str>, from: Option<IpAddr>) -> Result<Begun, BeginError> {
        let (workspace, portals) = self.workspace(workspace)?;
        let client_id = self.connections.client_id().ok_or(BeginError::NoApp)?;
        if !self.begun.lock().unwrap_or_else(PoisonError::into_inner).take(from, Instant::now()) {
            return Err(BeginError::TooMany);
        }
        let code = |bytes: [u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
        let (state, browser) = (code(random()?), code(random()?));
        let key = hash(&state);
        let pending = Pending {
            workspace: workspace.to_owned(),
            redirect_uri: self.redirect_uri.clone(),
            browser: hash(&browser).to_vec(),
            expires_at: time::now() + time::millis(INSTALL_WITHIN),
        };
        self.connections.begin_install(key, pending).await?;
        let mut address = self.authorize_url.clone();
        {
            let mut query = address.query_pairs_mut();
            query
                .append_pair("client_id", client_id)
                .append_pair("redirect_uri", &self.redirect_uri)
                .append_pair("scope", &self.scopes.join(" "));
            let optional = self.optional_scopes(portals);
            if !optional.is_empty() {
                query.append_pair("optional_scope", &optional.join(" "));
            }
            query.append_pair("state", &state);
        }
        // With one portal HubSpot need not ask which account is meant.
        if let [portal] = portals
            && let Some(before) = address.path().strip_suffix("/oauth/authorize")
        {
            let path = format!("{before}/oauth/{portal}/authorize");
            address.set_path(&path);
        }
        Ok(Begun { address: address.into(), name: name(&key), browser })
    }

    /// What an installation asks for where the account can grant it: what the configuration says, and what the events of these portals take.
    fn optional_scopes<'a>(&'a self, portals: &[String]) -> Vec<&'a str> {
        let configured = |scope: &str| self.scopes.iter().chain(&self.optional_scopes).any(|known| known == scope);
        let beside = self.connections.scopes_beside(portals).into_iter().filter(|scope| !configured(scope));
        self.optional_scopes.iter().map(String::as_str).chain(beside).collect()
    }

    /// What does not work with the scopes of a row.
    pub fn gated(&self, row: &Row) -> Vec<(Feature, Vec<&'static str>)> {
        self.connections.gated(row)
    }

    /// The name of the installation that a callback belongs to, by which its browser's value is found.
    pub fn name(&self, callback: &Callback) -> Option<String> {
        callback.state.as_ref().map(|state| name(&hash(state)))
    }

    /// Ends an installation; `browser` is what the browser kept.
    ///
    /// # Errors
    /// See [`FinishError`]. A `state` counts once, whatever comes of it.
    pub async fn finish(&self, callback: &Callback, browser: Option<&str>) -> Result<Row, FinishError> {
        let done = self.take(callback, browser).await;
        let result = match &done {
            Ok(_) => InstallResult::Ok,
            Err(FinishError::BadState) => InstallResult::BadState,
            Err(FinishError::Denied(_)) => InstallResult::Denied,
            Err(FinishError::Install(InstallError::ForeignPortal(_))) => InstallResult::ForeignPortal,
            Err(FinishError::Install(_)) => InstallResult::Failed,
        };
        self.connections.metrics().installs.get_or_create(&Install { result }).inc();
        match &done {
            Ok(row) => {
                tracing::info!(
                    event = "connection_made",
                    portal = row.portal,
                    workspace = row.facts.workspace,
                    scopes = row.facts.scopes.join(" "),
                    "connected"
                )
            }
            Err(error) => tracing::warn!(event = "install_failed", "an installation did not connect an account: {error}"),
        }
        done
    }

    async fn take(&self, callback: &Callback, browser: Option<&str>) -> Result<Row, FinishError> {
        let state = callback.state.as_deref().ok_or(FinishError::BadState)?;
        let pending = self.connections.take_install(hash(state)).await.map_err(InstallError::Failed)?;
        let pending = pending.ok_or(FinishError::BadState)?;
        let kept = hash(browser.unwrap_or_default());
        if !bool::from(kept.as_slice().ct_eq(&pending.browser)) {
            return Err(FinishError::BadState);
        }
        let Some(code) = callback.code.as_deref().filter(|code| !code.is_empty()) else {
            // A word of HubSpot's, such as `access_denied`.
            let word = callback.error.as_deref().unwrap_or_default();
            let word: String = word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
            return Err(FinishError::Denied(if word.is_empty() { "no reason given".to_owned() } else { word }));
        };
        // The configuration may have changed since it began.
        let portals = self.workspaces.get(&pending.workspace).ok_or(FinishError::BadState)?;
        Ok(self.connections.install(code, &pending.redirect_uri, &pending.workspace, portals).await?)
    }
}
