//! Tokens: one row an account, changed only by compare-and-set on `token_version`.

use super::State;
use rusqlite::{OptionalExtension, named_params};
use std::fmt;

/// What is known of an account's tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// The last access token; absent before the first refresh.
    pub access_token: Option<String>,
    /// The refresh token as it came back last.
    pub refresh_token: String,
    /// When the access token ends, ms since the Unix epoch.
    pub expires_at: u64,
    /// Grows by one with every change.
    pub token_version: i64,
    /// How often a refresh brought another refresh token.
    pub rotations: i64,
    /// What the account granted, space separated; empty before the first refresh or where HubSpot did not say.
    pub scopes: String,
}

impl fmt::Debug for TokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRow").field("token_version", &self.token_version).field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// The answer to a refresh.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenUpdate {
    /// The new access token.
    pub access_token: String,
    /// The refresh token that came with it, the same one or another.
    pub refresh_token: String,
    /// When the access token ends, ms since the Unix epoch.
    pub expires_at: u64,
    /// What was granted, space separated.
    pub scopes: String,
}

impl State {
    /// An account's row.
    ///
    /// # Errors
    /// When the database fails.
    pub fn token(&self, portal: &str) -> anyhow::Result<Option<TokenRow>> {
        let db = self.db();
        let mut statement = db.prepare_cached(
            "SELECT access_token, refresh_token, expires_at, token_version, rotations, scopes FROM tokens WHERE portal = ?1",
        )?;
        let row = statement
            .query_row([portal], |row| {
                Ok(TokenRow {
                    access_token: row.get(0)?,
                    refresh_token: row.get(1)?,
                    expires_at: row.get::<_, i64>(2)?.try_into().unwrap_or(0),
                    token_version: row.get(3)?,
                    rotations: row.get(4)?,
                    scopes: row.get(5)?,
                })
            })
            .optional()?;
        Ok(row)
    }

    /// Takes over the refresh token that the configuration names, unless it did so before: a restart must not undo a rotation, and
    /// a newly configured token (after a reinstall) must replace a dead one. Says whether it did.
    ///
    /// # Errors
    /// When the database fails.
    pub fn seed_token(&self, portal: &str, refresh_token: &str) -> anyhow::Result<bool> {
        let seed = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, refresh_token.as_bytes()).into_bytes();
        let changed = self.db().execute(
            "INSERT INTO tokens (portal, access_token, refresh_token, expires_at, token_version, rotations, scopes, seed)
             VALUES (:portal, NULL, :token, 0, 1, 0, '', :seed)
             ON CONFLICT (portal) DO UPDATE SET access_token = NULL, refresh_token = excluded.refresh_token, expires_at = 0,
                 token_version = token_version + 1, scopes = '', seed = excluded.seed
             WHERE seed IS NOT excluded.seed",
            named_params! { ":portal": portal, ":token": refresh_token, ":seed": seed.as_slice() },
        )?;
        Ok(changed > 0)
    }

    /// Stores what a refresh brought, if the row is still at `seen`. `false`: somebody else was faster; read their row.
    ///
    /// # Errors
    /// When the database fails.
    pub fn swap_token(&self, portal: &str, seen: i64, update: &TokenUpdate) -> anyhow::Result<bool> {
        let changed = self.db().execute(
            "UPDATE tokens SET access_token = :access, expires_at = :expires, token_version = token_version + 1, scopes = :scopes,
                 rotations = rotations + (refresh_token <> :refresh), refresh_token = :refresh
             WHERE portal = :portal AND token_version = :seen",
            named_params! {
                ":portal": portal,
                ":seen": seen,
                ":access": update.access_token,
                ":refresh": update.refresh_token,
                ":expires": i64::try_from(update.expires_at).unwrap_or(i64::MAX),
                ":scopes": update.scopes,
            },
        )?;
        Ok(changed == 1)
    }

    /// Stores the tokens of a fresh installation, whatever was there before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn install_token(&self, portal: &str, update: &TokenUpdate) -> anyhow::Result<()> {
        self.db().execute(
            "INSERT INTO tokens (portal, access_token, refresh_token, expires_at, token_version, rotations, scopes, seed)
             VALUES (:portal, :access, :refresh, :expires, 1, 0, :scopes, NULL)
             ON CONFLICT (portal) DO UPDATE SET access_token = excluded.access_token, refresh_token = excluded.refresh_token,
                 expires_at = excluded.expires_at, token_version = token_version + 1, scopes = excluded.scopes",
            named_params! {
                ":portal": portal,
                ":access": update.access_token,
                ":refresh": update.refresh_token,
                ":expires": i64::try_from(update.expires_at).unwrap_or(i64::MAX),
                ":scopes": update.scopes,
            },
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open;
    use super::*;

    fn update(refresh_token: &str) -> TokenUpdate {
        TokenUpdate { access_token: "a".into(), refresh_token: refresh_token.into(), expires_at: 5, scopes: "oauth".into() }
    }

    #[test]
    fn only_the_first_of_two_swaps_wins() {
        let (_folder, state) = open();
        assert!(state.seed_token("1", "r0").expect("seeds"));
        let seen = state.token("1").expect("reads").expect("is there").token_version;
        assert!(state.swap_token("1", seen, &update("r1")).expect("swaps"));
        assert!(!state.swap_token("1", seen, &update("r2")).expect("swaps"));
        let row = state.token("1").expect("reads").expect("is there");
        assert_eq!((row.refresh_token.as_str(), row.rotations, row.token_version), ("r1", 1, seen + 1));
        assert!(state.swap_token("1", row.token_version, &update("r1")).expect("swaps"));
        assert_eq!(state.token("1").expect("reads").expect("is there").rotations, 1, "the same token came back");
    }

    #[test]
    fn a_restart_keeps_the_rotated_token_and_a_new_configuration_replaces_it() {
        let (_folder, state) = open();
        state.seed_token("1", "r0").expect("seeds");
        state.swap_token("1", 1, &update("r1")).expect("swaps");
        assert!(!state.seed_token("1", "r0").expect("seeds"));
        assert_eq!(state.token("1").expect("reads").expect("is there").refresh_token, "r1");
        assert!(state.seed_token("1", "new").expect("seeds"));
        let row = state.token("1").expect("reads").expect("is there");
        assert_eq!((row.refresh_token.as_str(), row.access_token), ("new", None));
    }

    #[test]
    fn tokens_are_not_printed() {
        let (_folder, state) = open();
        state.seed_token("1", "canary").expect("seeds");
        assert!(!format!("{:?}", state.token("1").expect("reads")).contains("canary"));
    }
}
