//! The `hubspot` block of the configuration.
//!
//! Everything HubSpot may change has a setting: host, the path of each area with its version, the budget. Secrets are named by
//! the environment variable or file that holds them, read once at the start, and never printed.

use super::paths::Paths;
use super::portal::Portal;
use crate::http;
use crate::oauth::{App, Configured, ConnectionSettings, EventScopes};
use crate::secret::{self, Secret};
use anyhow::{Context, bail};
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The whole block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Scheme and host of the API, without a slash at its end (one in the file is taken away); another one for the sandbox or a
    /// regional host.
    #[serde(default = "base_url", deserialize_with = "without_slash")]
    pub base_url: String,
    /// How connections are kept and made.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// The app's public id. Not needed where every portal has an access token of its own.
    #[serde(default)]
    pub client_id: String,
    /// Environment variable that holds the app's secret; or `client_secret_file`.
    #[serde(default)]
    pub client_secret_env: Option<String>,
    /// File that holds the app's secret (white space around it is ignored).
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The secret itself; only for callers in the same process, never read from a file.
    #[serde(skip)]
    pub client_secret: Option<Secret>,
    /// Environment variable that holds the developer key, for accounts without an `event_template_id`; or `developer_key_file`.
    #[serde(default)]
    pub developer_key_env: Option<String>,
    /// File that holds it.
    #[serde(default)]
    pub developer_key_file: Option<PathBuf>,
    /// The key itself; only for callers in the same process.
    #[serde(skip)]
    pub developer_key: Option<Secret>,
    /// Contact properties that the sink makes, as single-line texts, where an account does not have them.
    #[serde(default = "provision")]
    pub provision: Vec<String>,
    /// Full address of the token endpoint, where it is not below `base_url`.
    #[serde(default)]
    pub token_url: Option<String>,
    /// Paths of the API's areas.
    #[serde(default)]
    pub paths: Paths,
    /// The accounts, by HubSpot's account id.
    #[serde(default)]
    pub portals: BTreeMap<String, Portal>,
    /// Requests the sink allows itself in each account.
    #[serde(default)]
    pub budget: Budget,
    /// Deadline of one request, body included. An answer that comes later counts as lost.
    #[serde(default = "request_timeout", deserialize_with = "duration")]
    pub request_timeout: Duration,
    /// How long making a connection to HubSpot may take, its TLS included; at most half of `request_timeout`.
    #[serde(default = "connect_timeout", deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// File of certificate authorities (PEM) that are trusted beside the system's: that of a proxy that opens TLS.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long an event or a property waits for others to fill a batch.
    #[serde(default = "linger", deserialize_with = "duration")]
    pub linger: Duration,
    /// Requests in flight at once, per account.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Records of one kind of delta that may be in memory, about 2 KB each; several accounts share them equally.
    #[serde(default = "held")]
    pub held: usize,
    /// How long events and properties of an e-mail address wait for its contact to appear.
    #[serde(default = "three_days", deserialize_with = "duration")]
    pub park_for: Duration,
    /// The first pause between two looks for such a contact; it doubles up to an hour.
    #[serde(default = "park_retry", deserialize_with = "duration")]
    pub park_retry: Duration,
    /// How long a write is tried again while HubSpot answers with errors of its own; then it is a dead letter.
    #[serde(default = "three_days", deserialize_with = "duration")]
    pub give_up_after: Duration,
    /// The longest pause between two tries.
    #[serde(default = "retry_cap", deserialize_with = "duration")]
    pub retry_cap: Duration,
    /// How long the ledger remembers what was delivered. Must exceed what the delta topics retain.
    #[serde(default = "ledger_for", deserialize_with = "duration")]
    pub ledger_for: Duration,
    /// How long a stop waits for requests in flight, and for dead letters to reach their topic. The process as a whole ends within 9 s, or 4 s
    /// after this where that is later; what supervises it must wait for longer.
    #[serde(default = "stop_grace", deserialize_with = "duration")]
    pub stop_grace: Duration,
}

/// Requests in a rolling window.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// At most this many requests …
    pub requests: usize,
    /// … in any span of this length.
    #[serde(deserialize_with = "duration")]
    pub per: Duration,
    /// Of them kept free for deal stages.
    pub reserve: usize,
    /// At most this many requests a day; none unless given (HubSpot sets OAuth apps none). The last `reserve` are for deal stages.
    pub daily: Option<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        // What one batch of deals takes: read them, read their contacts, move them.
        Budget { requests: 110, per: Duration::from_secs(10), reserve: 3, daily: None }
    }
}

fn base_url() -> String {
    "https://api.hubapi.com".to_owned()
}

fn provision() -> Vec<String> {
    ["elido_last_utm_source", "elido_last_utm_campaign", "elido_last_utm_medium"].map(str::to_owned).to_vec()
}

fn request_timeout() -> Duration {
    Duration::from_secs(15)
}

fn connect_timeout() -> Duration {
    http::CONNECT
}

fn linger() -> Duration {
    Duration::from_millis(250)
}

/// HubSpot's own clients keep 6 in flight; at 11 requests/s four are enough up to 360 ms a request.
fn concurrency() -> usize {
    4
}

/// Twenty seconds' worth at HubSpot's limit: a batch is never waited for.
fn held() -> usize {
    20_000
}

fn three_days() -> Duration {
    Duration::from_secs(72 * 3600)
}

fn park_retry() -> Duration {
    Duration::from_secs(30)
}

fn retry_cap() -> Duration {
    Duration::from_secs(60)
}

/// The topics keep 33 days; three times that forgives an operator who doubles it.
fn ledger_for() -> Duration {
    Duration::from_secs(100 * 86_400)
}

/// Half of what the contract gives a process that is asked to stop: most answers come within a second, and what is not answered is sent
/// again, by id.
fn stop_grace() -> Duration {
    Duration::from_secs(5)
}

/// Paths begin with a slash, and HubSpot does not know addresses with two.
fn without_slash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.trim_end_matches('/').to_owned())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|e| de::Error::custom(format!("{text:?} is no length of time such as 10s or 72h: {e}")))
}

impl Settings {
    /// Settings with every default, for an app and no portal yet.
    pub fn new(base_url: &str, client_id: &str, client_secret: &str) -> Self {
        Settings {
            base_url: base_url.trim_end_matches('/').to_owned(),
            connections: ConnectionSettings::default(),
            client_id: client_id.to_owned(),
            client_secret_env: None,
            client_secret_file: None,
            client_secret: Some(Secret::new(client_secret)),
            developer_key_env: None,
            developer_key_file: None,
            developer_key: None,
            provision: provision(),
            token_url: None,
            paths: Paths::default(),
            portals: BTreeMap::new(),
            budget: Budget::default(),
            request_timeout: request_timeout(),
            connect_timeout: connect_timeout(),
            ca_file: None,
            linger: linger(),
            concurrency: concurrency(),
            held: held(),
            park_for: three_days(),
            park_retry: park_retry(),
            give_up_after: three_days(),
            retry_cap: retry_cap(),
            ledger_for: ledger_for(),
            stop_grace: stop_grace(),
        }
    }

    /// Settings for a sandbox at `url` that was started with its default developer key: every portal with the refresh token given;
    /// event template and properties are made at the start. Batches wait for less than they would in front of HubSpot.
    pub fn for_sandbox(url: &str, client_id: &str, client_secret: &str, refresh_tokens: BTreeMap<String, String>) -> Self {
        let portal = |token: String| Portal { refresh_token: Some(Secret::new(token)), app_id: Some(SANDBOX_APP), ..Portal::default() };
        let portals = refresh_tokens.into_iter().map(|(id, token)| (id, portal(token))).collect();
        let linger = Duration::from_millis(50);
        let connections = ConnectionSettings {
            environment: "sandbox".to_owned(),
            keys: Some(crate::oauth::passing_key()),
            authorize_url: format!("{}/oauth/authorize", url.trim_end_matches('/')),
            ..ConnectionSettings::default()
        };
        Settings {
            connections,
            portals,
            linger,
            developer_key: Some(Secret::new(SANDBOX_DEVELOPER_KEY)),
            ..Settings::new(url, client_id, client_secret)
        }
    }

    /// The app's secret.
    ///
    /// # Errors
    /// When none is named or it can't be read.
    pub fn read_client_secret(&self) -> anyhow::Result<Secret> {
        secret::read(
            "hubspot.client_secret",
            self.client_secret.as_ref(),
            self.client_secret_env.as_deref(),
            self.client_secret_file.as_ref(),
        )?
        .context("hubspot: name the app's secret by client_secret_env or client_secret_file")
    }

    /// Reads every secret that connections need, to find out early what can't be read.
    ///
    /// # Errors
    /// Names the secret and what to do.
    pub fn read_secrets(&self, portals: &[String]) -> anyhow::Result<()> {
        let mut app = false;
        for portal in portals {
            app |= self.read_access_token(portal)?.is_none();
            self.read_refresh_token(portal)?;
        }
        if app {
            self.read_client_secret()?;
            self.connections.read_seal()?;
            self.connections.read_postgres()?;
        }
        Ok(())
    }

    /// The refresh token that the configuration gives a portal, if it does.
    ///
    /// # Errors
    /// When it names a variable or file that can't be read.
    pub fn read_refresh_token(&self, portal: &str) -> anyhow::Result<Option<Secret>> {
        let Some(Portal { refresh_token_env, refresh_token_file, refresh_token, .. }) = self.portals.get(portal) else { return Ok(None) };
        let what = format!("hubspot.portals.{portal}.refresh_token");
        secret::read(&what, refresh_token.as_ref(), refresh_token_env.as_deref(), refresh_token_file.as_ref())
    }

    /// The access token that the configuration gives a portal, if it does: then the portal is not connected by an app.
    ///
    /// # Errors
    /// When it names a variable or file that can't be read.
    pub fn read_access_token(&self, portal: &str) -> anyhow::Result<Option<Secret>> {
        let Some(Portal { access_token_env, access_token_file, access_token, .. }) = self.portals.get(portal) else {
            return Ok(None);
        };
        let what = format!("hubspot.portals.{portal}.access_token");
        secret::read(&what, access_token.as_ref(), access_token_env.as_deref(), access_token_file.as_ref())
    }

    /// The developer key, if one is named.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read_developer_key(&self) -> anyhow::Result<Option<Secret>> {
        let (env, file) = (self.developer_key_env.as_deref(), self.developer_key_file.as_ref());
        secret::read("hubspot.developer_key", self.developer_key.as_ref(), env, file)
    }

    /// A client for HubSpot.
    ///
    /// # Errors
    /// When certificate authorities can't be read.
    pub fn client(&self) -> anyhow::Result<reqwest::Client> {
        http::client_to(self.request_timeout, self.connect_timeout, self.ca_file.as_deref())
    }

    /// The token endpoint's address.
    pub fn token_url(&self) -> String {
        self.token_url.clone().unwrap_or_else(|| format!("{}{}", self.base_url, self.paths.token))
    }

    /// Checks what serde can't: bounds and what depends on other fields. Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self, portals: &[String]) -> anyhow::Result<()> {
        for (what, address) in [("base_url", self.base_url.clone()), ("token_url", self.token_url())] {
            let parsed = url::Url::parse(&address).with_context(|| format!("hubspot.{what}: {address:?} is no URL"))?;
            let local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            if parsed.scheme() != "https" && !(parsed.scheme() == "http" && local) {
                bail!("hubspot.{what}: {address:?} must be https (http only to this machine): tokens travel over it");
            }
        }
        let Budget { requests, per, reserve, daily } = self.budget;
        if reserve >= requests || per.is_zero() {
            bail!("hubspot.budget: requests must exceed reserve, and per must not be zero");
        }
        if daily.is_some_and(|daily| daily <= reserve as u64) {
            bail!("hubspot.budget.daily must exceed reserve, or properties and events would never be sent; leave it out for no limit");
        }
        if self.held < portals.len() * 2 {
            bail!("hubspot.held must be at least 2 for each portal; leave it out for {}", held());
        }
        if self.connect_timeout.is_zero() || self.request_timeout.is_zero() {
            bail!("hubspot.connect_timeout and hubspot.request_timeout must not be zero");
        }
        if self.concurrency == 0 {
            bail!("hubspot.concurrency must be at least 1");
        }
        self.connections.check()?;
        for portal in portals {
            let Some(settings) = self.portals.get(portal) else {
                bail!("hubspot.portals: portal {portal} is connected to a workspace but has no entry here");
            };
            if settings.fixed() {
                if settings.refresh_token.is_some() || settings.refresh_token_env.is_some() || settings.refresh_token_file.is_some() {
                    bail!(
                        "hubspot.portals.{portal}: give an access token (a private app's) or a refresh token (an installed app's), not both"
                    );
                }
            } else if self.client_id.is_empty() {
                bail!("hubspot.client_id: name the app that is installed in portal {portal}, or give the portal an access_token_env");
            }
            let key = self.developer_key.is_some() || self.developer_key_env.is_some() || self.developer_key_file.is_some();
            settings.check(key).map_err(|problem| anyhow::anyhow!("hubspot.portals.{portal}: {problem}"))?;
        }
        Ok(())
    }
}

impl Configured for Settings {
    fn connections(&self) -> &ConnectionSettings {
        &self.connections
    }

    fn app(&self) -> anyhow::Result<App> {
        Ok(App {
            client_id: self.client_id.clone(),
            client_secret: self.read_client_secret()?,
            token_url: self.token_url(),
            http: self.client()?,
        })
    }

    fn access_token(&self, portal: &str) -> anyhow::Result<Option<Secret>> {
        self.read_access_token(portal)
    }

    fn refresh_token(&self, portal: &str) -> anyhow::Result<Option<Secret>> {
        self.read_refresh_token(portal)
    }

    fn event_scopes(&self) -> BTreeMap<String, EventScopes> {
        self.portals.iter().map(|(portal, of)| (portal.clone(), of.event_scopes())).collect()
    }

    fn call_within(&self) -> Duration {
        self.request_timeout
    }
}

/// The id of a sandbox's first app.
const SANDBOX_APP: u64 = 1_000_001;
/// The developer key that a sandbox has unless it is told otherwise.
const SANDBOX_DEVELOPER_KEY: &str = "sandbox-developer-key";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Settings, serde_saphyr::Error> {
        serde_saphyr::from_str(yaml)
    }

    #[test]
    fn a_slash_at_the_end_of_the_address_is_of_no_consequence() {
        let settings = parse("base_url: https://api-eu1.hubapi.com//\nclient_id: c\n").expect("parses");
        assert_eq!(settings.base_url, "https://api-eu1.hubapi.com");
        assert_eq!(settings.token_url(), "https://api-eu1.hubapi.com/oauth/2026-03/token");
    }

    #[test]
    fn a_short_block_gets_the_defaults() {
        let settings = parse("client_id: c\nportals:\n  \"4242\":\n    event_template_id: \"1\"\nbudget:\n  per: 20s\n").expect("parses");
        assert_eq!(settings.token_url(), "https://api.hubapi.com/oauth/2026-03/token");
        assert_eq!((settings.budget.requests, settings.budget.per), (110, Duration::from_secs(20)));
        assert_eq!(settings.park_for, Duration::from_secs(259_200));
        settings.check(&["4242".to_owned()]).expect("is right");
        let error = settings.check(&["1".to_owned()]).expect_err("portal 1 is not there").to_string();
        assert!(error.contains("portal 1"), "{error}");
    }

    #[test]
    fn unknown_fields_and_odd_lengths_are_refused() {
        assert!(parse("client_id: c\nclient_secret: oops\n").is_err(), "a secret has no place in the file");
        assert!(parse("client_id: c\nlinger: soon\n").expect_err("no length").to_string().contains("10s"));
    }

    #[test]
    fn secrets_are_never_printed() {
        let tokens = BTreeMap::from([("4242".to_owned(), "canary-token".to_owned())]);
        let settings = Settings::for_sandbox("http://127.0.0.1:1", "c", "canary-secret", tokens);
        assert!(!format!("{settings:?}").contains("canary"));
        assert_eq!(settings.read_client_secret().expect("given").reveal(), "canary-secret");
        assert_eq!(settings.read_refresh_token("4242").expect("given").expect("given").reveal(), "canary-token");
    }

    #[test]
    fn tokens_travel_only_over_tls_or_within_the_machine() {
        assert!(Settings::new("http://example.com", "c", "s").check(&[]).is_err());
        assert!(Settings::new("http://127.0.0.1:8080", "c", "s").check(&[]).is_ok());
    }
}
