//! The `hubspot.connections` block of the configuration: where tokens are kept and how, and what an installation asks for.

use super::features::{OPTIONAL_SCOPES, SCOPES};
use super::seal::Seal;
use crate::secret::{Secret, read as read_secret};
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where keys are looked for unless the configuration says otherwise.
const KEYS_ENV: &str = "CLICKLINE_TOKEN_KEYS";

/// How connections to HubSpot are kept and made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionSettings {
    /// A name for this installation of clickline, such as `production` or `staging`. Tokens belong to it: a database that was copied to
    /// another environment is not used there.
    pub environment: String,
    /// Environment variable that holds the keys that seal tokens at rest, `id:base64` with commas between them: the first one seals, all
    /// open. `clickline hubspot key` makes one. Default `CLICKLINE_TOKEN_KEYS`.
    pub keys_env: Option<String>,
    /// File that holds them.
    pub keys_file: Option<PathBuf>,
    /// The keys themselves; only for callers in the same process, never read from a file.
    #[serde(skip)]
    pub keys: Option<Secret>,
    /// `off` keeps tokens in the clear, for who reads the database to take. Default `on`: no start without a key.
    pub seal: Sealing,
    /// Environment variable that holds the address of a PostgreSQL database (`postgres://user:password@host/db?sslmode=require`) where several
    /// processes share the connections. Without it they are in the state database.
    pub postgres_env: Option<String>,
    /// The address itself; only for callers in the same process.
    #[serde(skip)]
    pub postgres: Option<Secret>,
    /// PEM file of certificate authorities that are trusted for it beside the system's.
    pub postgres_ca_file: Option<PathBuf>,
    /// The file by which a database that was put back from a backup is noticed. Default: the state database's name with `.witness` after
    /// it. Best kept where a restore of the database does not restore it, too.
    pub witness: Option<PathBuf>,
    /// HubSpot's page on which a person lets the app into an account.
    pub authorize_url: String,
    /// Scopes that an installation asks for. Must include those that the app's settings require.
    pub scopes: Vec<String>,
    /// Scopes that it asks for where the account can grant them; those of custom events come by themselves where a portal has such events.
    pub optional_scopes: Vec<String>,
}

/// Whether tokens are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sealing {
    /// Yes.
    #[default]
    On,
    /// No.
    Off,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        let owned = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect();
        ConnectionSettings {
            environment: "production".to_owned(),
            keys_env: None,
            keys_file: None,
            keys: None,
            seal: Sealing::On,
            postgres_env: None,
            postgres: None,
            postgres_ca_file: None,
            witness: None,
            authorize_url: "https://app.hubspot.com/oauth/authorize".to_owned(),
            scopes: owned(&SCOPES),
            optional_scopes: owned(&OPTIONAL_SCOPES),
        }
    }
}

impl ConnectionSettings {
    /// Checks what serde can't. Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        let word =
            |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        ensure!(
            word(&self.environment),
            "connections.environment: {:?} must be letters, digits, `-`, `_` and `.`, at most 64",
            self.environment
        );
        ensure!(self.scopes.iter().any(|scope| scope == "oauth"), "connections.scopes must include `oauth`");
        for scope in self.scopes.iter().chain(&self.optional_scopes) {
            ensure!(word(scope), "connections.scopes: {scope:?} is no scope");
        }
        let url = url::Url::parse(&self.authorize_url)
            .with_context(|| format!("connections.authorize_url: {:?} is no URL", self.authorize_url))?;
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            bail!("connections.authorize_url: {:?} must be https (http only to this machine)", self.authorize_url);
        }
        Ok(())
    }

    /// How tokens are sealed.
    ///
    /// # Errors
    /// When there is no key, or it can't be read; says what to do.
    pub fn read_seal(&self) -> anyhow::Result<Seal> {
        let what = "hubspot.connections.keys";
        if self.seal == Sealing::Off {
            return Ok(Seal::Off);
        }
        // The default name only counts where nothing else is named.
        let env = match (&self.keys_env, &self.keys_file) {
            (None, None) => std::env::var_os(KEYS_ENV).map(|_| KEYS_ENV),
            (env, _) => env.as_deref(),
        };
        let keys = read_secret(what, self.keys.as_ref(), env, self.keys_file.as_ref())?.with_context(|| {
            format!(
                "there is no key to seal HubSpot's tokens with: put one into the environment variable {KEYS_ENV} (`clickline hubspot key` makes \
                 one), or write `seal: off` under hubspot.connections to keep tokens in the clear"
            )
        })?;
        Seal::parse(keys.reveal()).with_context(|| what.to_owned())
    }

    /// The address of the PostgreSQL database, if there is one.
    ///
    /// # Errors
    /// When the variable can't be read.
    pub fn read_postgres(&self) -> anyhow::Result<Option<Secret>> {
        read_secret("hubspot.connections.postgres", self.postgres.as_ref(), self.postgres_env.as_deref(), None)
    }

    /// Where the witness is.
    pub fn witness_path(&self, state: &Path) -> PathBuf {
        self.witness.clone().unwrap_or_else(|| {
            let mut name = state.as_os_str().to_owned();
            name.push(".witness");
            PathBuf::from(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_it_says_what_to_do() {
        let settings = ConnectionSettings { keys_file: Some("/nowhere/keys".into()), ..ConnectionSettings::default() };
        assert!(format!("{:#}", settings.read_seal().expect_err("no file")).contains("/nowhere/keys"));
        if std::env::var_os(KEYS_ENV).is_none() {
            let said = format!("{:#}", ConnectionSettings::default().read_seal().expect_err("no key"));
            assert!(said.contains("clickline hubspot key") && said.contains("seal: off"), "{said}");
        }
        let off = ConnectionSettings { seal: Sealing::Off, ..ConnectionSettings::default() };
        assert!(matches!(off.read_seal(), Ok(Seal::Off)));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let wrong = |change: fn(&mut ConnectionSettings)| {
            let mut settings = ConnectionSettings::default();
            settings.check().expect("the defaults are right");
            change(&mut settings);
            settings.check().expect_err("is wrong").to_string()
        };
        assert!(wrong(|s| s.environment = "a b".into()).contains("environment"));
        assert!(wrong(|s| s.scopes = vec!["timeline".into()]).contains("oauth"));
        assert!(wrong(|s| s.optional_scopes = vec!["a b".into()]).contains("no scope"));
        assert!(wrong(|s| s.authorize_url = "http://app.hubspot.com/oauth/authorize".into()).contains("https"));
    }
}
