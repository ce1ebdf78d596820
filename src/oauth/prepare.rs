//! What is done with the table at a start: tokens that an older version left in the clear, tokens that the configuration names, rows whose
//! key has changed.

use super::keeper::Keeper;
use super::row::{Facts, Row, Secrets};
use crate::secret::Secret;
use crate::state::{ClearTokens, State};
use std::collections::BTreeMap;

impl Keeper {
    /// Brings the table up to date. Any number of processes may do so at once.
    ///
    /// # Errors
    /// When a store fails.
    pub(super) async fn prepare(&self, state: &State, configured: &BTreeMap<String, Secret>) -> anyhow::Result<()> {
        for clear in state.clear_tokens()? {
            self.take_over(&clear, configured.get(&clear.portal)).await?;
            state.forget_clear_tokens(&clear.portal)?;
        }
        for (portal, token) in configured {
            self.seed(portal, token).await?;
        }
        self.seal_again().await
    }

    fn client_id(&self) -> String {
        self.endpoint.as_ref().map(|endpoint| endpoint.client_id().to_owned()).unwrap_or_default()
    }

    /// Moves tokens of the first version into the table, unless there is a row.
    async fn take_over(&self, clear: &ClearTokens, configured: Option<&Secret>) -> anyhow::Result<()> {
        let seed = configured.filter(|token| clear.came_from(token.reveal())).map(super::rows::seed_of);
        let facts = Facts {
            client_id: self.client_id(),
            scopes: clear.scopes.clone(),
            expires_at: clear.expires_at,
            // When is not known; HubSpot's access tokens live for half an hour.
            refreshed_at: clear.expires_at.saturating_sub(1_800_000),
            rotations: clear.rotations,
            seed,
            ..Facts::default()
        };
        let secrets = Secrets { access_token: clear.access_token.clone(), refresh_token: clear.refresh_token.clone() };
        let row = Row { portal: clear.portal.clone(), token_version: clear.token_version, facts, secrets };
        if self.store.swap(None, &self.seal.close(&self.environment, &row)?).await? {
            tracing::info!(event = "tokens_migrated", portal = clear.portal, "tokens of an older version taken over");
        }
        Ok(())
    }

    /// Takes over the refresh token that the configuration names, unless it did so before: a restart must not undo a rotation, and
    /// a newly configured token (after a reinstall) must replace a dead one.
    async fn seed(&self, portal: &str, token: &Secret) -> anyhow::Result<()> {
        let seed = super::rows::seed_of(token);
        let before = self.store.read(&self.environment, portal).await?;
        if before.is_none() && self.witness.left_behind(portal, &seed) {
            // Said when somebody needs the row.
            return Ok(());
        }
        if let Some(before) = &before {
            // What can't be read is said when somebody needs it; it may be newer than the configuration.
            let Ok(facts) = serde_json::from_str::<Facts>(&before.facts) else { return Ok(()) };
            if facts.seed.as_ref() == Some(&seed) {
                return Ok(());
            }
        }
        let seen = before.map(|row| row.token_version);
        let facts = Facts { client_id: self.client_id(), installed_at: (self.now)(), seed: Some(seed), ..Facts::default() };
        let secrets = Secrets { access_token: None, refresh_token: token.reveal().to_owned() };
        let token_version = seen.unwrap_or(0).max(self.witness.version(portal)) + 1;
        let row = Row { portal: portal.to_owned(), token_version, facts, secrets };
        // Whoever is faster takes the same token from the same configuration.
        if self.store.swap(seen, &self.seal.close(&self.environment, &row)?).await? {
            self.noted(&row);
            tracing::info!(event = "token_replaced", portal, "the refresh token that the configuration names is in use from now on");
        }
        Ok(())
    }

    /// Seals rows again that were sealed with an older key, or not at all.
    async fn seal_again(&self) -> anyhow::Result<()> {
        for stored in self.store.list().await?.into_iter().filter(|row| row.environment == self.environment) {
            if self.seal.current(&stored) {
                continue;
            }
            // What does not open is said when somebody needs it.
            let Ok(row) = self.seal.open(&stored) else { continue };
            let row = Row { token_version: row.token_version + 1, ..row };
            if self.store.swap(Some(stored.token_version), &self.seal.close(&self.environment, &row)?).await? {
                tracing::info!(event = "tokens_resealed", portal = row.portal, "tokens sealed with the present key");
            }
        }
        Ok(())
    }
}
