//! The table of connections in PostgreSQL, for several processes.
//!
//! One connection to the server, made when it is needed and made again after it broke. Every call is one statement without a name, so that a
//! pooler between us and the server is no obstacle, and ends within [`WITHIN`]. A swap whose answer was lost may have happened: the
//! caller reads the row again, and finds its own. Over TLS the server's certificate must be trusted and be the host's, whatever `sslmode` says.
//!
//! # Limits
//! A few statements a request to HubSpot; one row a portal.

use super::store::{Answer, Pending, Store, Stored};
use crate::http::{install_provider, tls_error};
use crate::model::time::Ms;
use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a statement, or a connection, may take.
const WITHIN: Duration = Duration::from_secs(10);

/// One step a version; version `n` is what the first `n` steps make. Steps are added, never changed.
const STEPS: [&str; 1] = ["
CREATE TABLE clickline_connections (
    environment   TEXT   NOT NULL,
    portal        TEXT   NOT NULL,
    token_version BIGINT NOT NULL,
    facts         TEXT   NOT NULL,
    sealed        BYTEA  NOT NULL,
    PRIMARY KEY (environment, portal)
);
CREATE TABLE clickline_installs (
    state        BYTEA  PRIMARY KEY,
    workspace    TEXT   NOT NULL,
    redirect_uri TEXT   NOT NULL,
    browser      BYTEA  NOT NULL,
    expires_at   BIGINT NOT NULL
);"];

/// Makes two processes that start at once take turns; any number will do that nobody else uses.
const TURNS: i64 = 0x636c_6963_6b6c_696e;

/// The database.
pub struct Postgres {
    config: Config,
    tls: MakeRustlsConnect,
    client: Mutex<Option<Arc<Client>>>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration holds a password.
        f.debug_struct("Postgres").field("database", &self.config.get_dbname()).finish_non_exhaustive()
    }
}

/// Reads an address; what leaves this machine must be encrypted.
fn config(address: &str) -> anyhow::Result<Config> {
    // The parser's error may quote the address, and that has the password.
    let Ok(mut config) = address.parse::<Config>() else {
        bail!("the address of the PostgreSQL database can't be read; write `postgres://user:password@host/database?sslmode=require`");
    };
    let local = |host: &Host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => true,
    };
    if !config.get_hosts().iter().all(local) && config.get_ssl_mode() != SslMode::Require {
        bail!("the PostgreSQL database is on another machine: add `sslmode=require` to its address, tokens travel over it");
    }
    config.connect_timeout(WITHIN).tcp_user_timeout(WITHIN).keepalives_idle(WITHIN * 3);
    if config.get_application_name().is_none() {
        config.application_name("clickline");
    }
    Ok(config)
}

/// Trusts the system's certificate authorities and those of a file.
fn tls(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    install_provider();
    let mut authorities = Vec::new();
    if let Some(file) = ca_file {
        let what = || format!("hubspot.connections.postgres_ca_file: {} can't be read as certificates in PEM form", file.display());
        let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        authorities = found.with_context(what)?;
        if authorities.is_empty() {
            bail!("hubspot.connections.postgres_ca_file: {} holds no certificates in PEM form", file.display());
        }
    }
    let provider = CryptoProvider::get_default().context("TLS has no cryptography")?;
    let verifier = Verifier::new_with_extra_roots(authorities, Arc::clone(provider)).context("no certificate authorities can be read")?;
    Ok(ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Says of a connection that was not made what to do about it.
fn unreachable(error: tokio_postgres::Error) -> anyhow::Error {
    let untrusted = matches!(tls_error(&error), Some(rustls::Error::InvalidCertificate(_)));
    anyhow::Error::new(error).context(if untrusted {
        "PostgreSQL can't be reached, for its certificate is not trusted: name the authority that signed it by \
         hubspot.connections.postgres_ca_file, and write the host as the certificate has it"
    } else {
        "PostgreSQL can't be reached"
    })
}

impl Postgres {
    /// Connects, and makes the tables or brings them up to date. Certificate authorities in the PEM file `ca_file` are trusted beside the
    /// system's.
    ///
    /// # Errors
    /// When the address is wrong, the server can't be reached or is not trusted, or the tables were made by a newer version.
    pub async fn open(address: &str, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let config = config(address)?;
        let store = Postgres { config, tls: MakeRustlsConnect::new(tls(ca_file)?), client: Mutex::new(None) };
        store.migrate().await.context("the PostgreSQL database of the connections can't be used")?;
        Ok(store)
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let client = self.client().await?;
        // One request is one transaction, also through a pooler; the lock is held until its end.
        let table =
            format!("SELECT pg_advisory_xact_lock({TURNS}); CREATE TABLE IF NOT EXISTS clickline_schema (version BIGINT PRIMARY KEY);");
        client.batch_execute(&table).await?;
        let version = async || -> anyhow::Result<i64> {
            let row = client.query_typed_one("SELECT coalesce(max(version), 0) FROM clickline_schema", &[]).await?;
            Ok(row.try_get(0)?)
        };
        let (found, known) = (version().await?, i64::try_from(STEPS.len())?);
        if found > known {
            bail!("its tables have version {found} and this clickline knows {known}: use the version that made them");
        }
        for (step, statements) in (1_i64..).zip(STEPS).filter(|(step, _)| *step > found) {
            // Whoever comes second finds the version taken; the error takes back all of its step.
            let text = format!("SELECT pg_advisory_xact_lock({TURNS}); INSERT INTO clickline_schema VALUES ({step}); {statements}");
            match client.batch_execute(&text).await {
                Err(error) if error.code() != Some(&SqlState::UNIQUE_VIOLATION) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn client(&self) -> anyhow::Result<Arc<Client>> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (made, connection) = self.config.connect(self.tls.clone()).await.map_err(unreachable)?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told, too.
            if let Err(error) = connection.await {
                tracing::warn!(event = "postgres_lost", "the connection to PostgreSQL broke: {error}");
            }
        });
        let made = Arc::new(made);
        *client = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Runs one statement and gives back its rows.
    async fn ask(&self, statement: &str, values: &[(&(dyn ToSql + Sync), Type)]) -> anyhow::Result<Vec<Row>> {
        let asked = async { Ok(self.client().await?.query_typed(statement, values).await?) };
        match tokio::time::timeout(WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                // It may never come back to life; the next call makes another one.
                *self.client.lock().await = None;
                bail!("PostgreSQL did not answer within {WITHIN:?}")
            }
        }
    }
}

const ROW: &str = "environment, portal, token_version, facts, sealed";

fn stored(row: &Row) -> anyhow::Result<Stored> {
    Ok(Stored {
        environment: row.try_get(0)?,
        portal: row.try_get(1)?,
        token_version: row.try_get(2)?,
        facts: row.try_get(3)?,
        sealed: row.try_get(4)?,
    })
}

impl Store for Postgres {
    fn read<'a>(&'a self, environment: &'a str, portal: &'a str) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            let statement = format!("SELECT {ROW} FROM clickline_connections WHERE environment = $1 AND portal = $2");
            let rows = self.ask(&statement, &[(&environment, Type::TEXT), (&portal, Type::TEXT)]).await?;
            rows.first().map(stored).transpose()
        })
    }

    fn list(&self) -> Answer<'_, Vec<Stored>> {
        Box::pin(async move {
            let rows = self.ask(&format!("SELECT {ROW} FROM clickline_connections ORDER BY environment, portal"), &[]).await?;
            rows.iter().map(stored).collect()
        })
    }

    fn swap<'a>(&'a self, seen: Option<i64>, row: &'a Stored) -> Answer<'a, bool> {
        Box::pin(async move {
            let Stored { environment, portal, token_version, facts, sealed } = row;
            let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![
                (environment, Type::TEXT),
                (portal, Type::TEXT),
                (token_version, Type::INT8),
                (facts, Type::TEXT),
                (sealed, Type::BYTEA),
            ];
            let statement = match &seen {
                None => "INSERT INTO clickline_connections VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1",
                Some(seen) => {
                    values.push((seen, Type::INT8));
                    "UPDATE clickline_connections SET token_version = $3, facts = $4, sealed = $5
                     WHERE environment = $1 AND portal = $2 AND token_version = $6 RETURNING 1"
                }
            };
            Ok(!self.ask(statement, &values).await?.is_empty())
        })
    }

    fn begin_install<'a>(&'a self, state: &'a [u8], pending: &'a Pending, now: Ms) -> Answer<'a, ()> {
        Box::pin(async move {
            let Pending { workspace, redirect_uri, browser, expires_at } = pending;
            let time = |at: Ms| i64::try_from(at).unwrap_or(i64::MAX);
            let (now, expires_at) = (time(now), time(*expires_at));
            self.ask("DELETE FROM clickline_installs WHERE expires_at < $1", &[(&now, Type::INT8)]).await?;
            let statement = "INSERT INTO clickline_installs VALUES ($1, $2, $3, $4, $5)";
            let values: [(&(dyn ToSql + Sync), Type); 5] = [
                (&state, Type::BYTEA),
                (workspace, Type::TEXT),
                (redirect_uri, Type::TEXT),
                (browser, Type::BYTEA),
                (&expires_at, Type::INT8),
            ];
            self.ask(statement, &values).await.map(drop)
        })
    }

    fn take_install<'a>(&'a self, state: &'a [u8]) -> Answer<'a, Option<Pending>> {
        Box::pin(async move {
            let statement = "DELETE FROM clickline_installs WHERE state = $1 RETURNING workspace, redirect_uri, browser, expires_at";
            let rows = self.ask(statement, &[(&state, Type::BYTEA)]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let expires_at: i64 = row.try_get(3)?;
            let expires_at = Ms::try_from(expires_at).unwrap_or(0);
            Ok(Some(Pending { workspace: row.try_get(0)?, redirect_uri: row.try_get(1)?, browser: row.try_get(2)?, expires_at }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_travel_only_encrypted_or_within_the_machine() {
        for good in ["postgres://u:p@db.example/x?sslmode=require", "postgres://u@localhost/x", "host=/run/postgresql user=u"] {
            config(good).expect(good);
        }
        for bad in
            ["postgres://u:canary@db.example/x", "postgres://u:canary@db.example,localhost/x?sslmode=prefer", "postgres://u:canary@["]
        {
            let error = config(bad).expect_err(bad).to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
