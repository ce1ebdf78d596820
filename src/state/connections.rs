//! The table of connections in the state database ([`crate::oauth::Store`]), and tokens that an older version left there in the clear.
//!
//! Several processes may use the file at once: each statement is a transaction, and writers wait for each other.

use super::State;
use crate::model::time::Ms;
use crate::oauth::{Answer, Pending, Store, Stored};
use rusqlite::{OptionalExtension as _, Row, params};
use std::fmt;

/// A row of version 1's table.
#[derive(Clone, PartialEq, Eq)]
pub struct ClearTokens {
    /// HubSpot's account id.
    pub portal: String,
    /// The last access token, if there was one.
    pub access_token: Option<String>,
    /// The refresh token.
    pub refresh_token: String,
    /// When the access token ends, ms since the Unix epoch.
    pub expires_at: Ms,
    /// How often a refresh had brought another refresh token.
    pub rotations: u64,
    /// What was granted.
    pub scopes: Vec<String>,
    /// Where it stood.
    pub token_version: i64,
    /// Names the configured token that it began with.
    seed: Option<Vec<u8>>,
}

impl ClearTokens {
    /// Whether the row began with this token of the configuration.
    pub fn came_from(&self, token: &str) -> bool {
        let seed = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, token.as_bytes());
        self.seed.as_deref() == Some(seed.as_bytes().as_slice())
    }
}

impl fmt::Debug for ClearTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClearTokens").field("portal", &self.portal).finish_non_exhaustive()
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { environment: row.get(0)?, portal: row.get(1)?, token_version: row.get(2)?, facts: row.get(3)?, sealed: row.get(4)? })
}

fn time(at: Ms) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

impl State {
    /// What version 1 left: tokens in the clear.
    ///
    /// # Errors
    /// When the database fails.
    pub fn clear_tokens(&self) -> anyhow::Result<Vec<ClearTokens>> {
        let db = self.db();
        let mut statement = db
            .prepare_cached("SELECT portal, access_token, refresh_token, expires_at, rotations, scopes, token_version, seed FROM tokens")?;
        let rows = statement.query_map([], |row| {
            Ok(ClearTokens {
                portal: row.get(0)?,
                access_token: row.get(1)?,
                refresh_token: row.get(2)?,
                expires_at: row.get::<_, i64>(3)?.try_into().unwrap_or(0),
                rotations: row.get::<_, i64>(4)?.try_into().unwrap_or(0),
                scopes: row.get::<_, String>(5)?.split_whitespace().map(str::to_owned).collect(),
                token_version: row.get(6)?,
                seed: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets a portal's tokens in the clear, and overwrites what was in the file.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_clear_tokens(&self, portal: &str) -> anyhow::Result<()> {
        let db = self.db();
        db.execute("DELETE FROM tokens WHERE portal = ?1", [portal])?;
        // The write-ahead log still has the old page.
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

const ROW: &str = "environment, portal, token_version, facts, sealed";

impl Store for State {
    fn read<'a>(&'a self, environment: &'a str, portal: &'a str) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            let db = self.db();
            let mut statement = db.prepare_cached(&format!("SELECT {ROW} FROM connections WHERE environment = ?1 AND portal = ?2"))?;
            Ok(statement.query_row([environment, portal], stored).optional()?)
        })
    }

    fn list(&self) -> Answer<'_, Vec<Stored>> {
        Box::pin(async move {
            let db = self.db();
            let mut statement = db.prepare_cached(&format!("SELECT {ROW} FROM connections ORDER BY environment, portal"))?;
            let rows = statement.query_map([], stored)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
    }

    fn swap<'a>(&'a self, seen: Option<i64>, row: &'a Stored) -> Answer<'a, bool> {
        Box::pin(async move {
            let Stored { environment, portal, token_version, facts, sealed } = row;
            let db = self.db();
            let changed = match seen {
                None => {
                    let statement = "INSERT INTO connections VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
                    db.prepare_cached(statement)?.execute(params![environment, portal, token_version, facts, sealed])?
                }
                Some(seen) => {
                    let statement = "UPDATE connections SET token_version = ?3, facts = ?4, sealed = ?5
                                     WHERE environment = ?1 AND portal = ?2 AND token_version = ?6";
                    db.prepare_cached(statement)?.execute(params![environment, portal, token_version, facts, sealed, seen])?
                }
            };
            Ok(changed == 1)
        })
    }

    fn begin_install<'a>(&'a self, state: &'a [u8], pending: &'a Pending, now: Ms) -> Answer<'a, ()> {
        Box::pin(async move {
            let Pending { workspace, redirect_uri, browser, expires_at } = pending;
            let db = self.db();
            db.execute("DELETE FROM installs WHERE expires_at < ?1", [time(now)])?;
            let statement = "INSERT INTO installs VALUES (?1, ?2, ?3, ?4, ?5)";
            db.execute(statement, params![state, workspace, redirect_uri, browser, time(*expires_at)])?;
            Ok(())
        })
    }

    fn take_install<'a>(&'a self, state: &'a [u8]) -> Answer<'a, Option<Pending>> {
        Box::pin(async move {
            let statement = "DELETE FROM installs WHERE state = ?1 RETURNING workspace, redirect_uri, browser, expires_at";
            let pending = |row: &Row<'_>| {
                let expires_at = row.get::<_, i64>(3)?.try_into().unwrap_or(0);
                Ok(Pending { workspace: row.get(0)?, redirect_uri: row.get(1)?, browser: row.get(2)?, expires_at })
            };
            Ok(self.db().query_row(statement, [state], pending).optional()?)
        })
    }
}
