//! Reads and writes the rows of a [`Keeper`]: sealed, witnessed, and only those that may be used.

use super::endpoint::{Endpoint, Grant};
use super::features::{EventScopes, Feature, gated};
use super::keeper::{Access, Keeper, Link, TokenError};
use super::row::{Condition, Facts, Row, Secrets, fingerprint};
use crate::metrics::Portal;
use crate::model::time::{DAY, Ms};
use crate::secret::Secret;
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// A connection that nobody uses is refreshed after this.
const KEEP_ALIVE: Ms = 7 * DAY;

impl Keeper {
    /// A portal's row, if it may be used.
    pub(super) async fn row(&self, portal: &str) -> Result<Row, TokenError> {
        let stored = self.store.read(&self.environment, portal).await.map_err(|e| store_failed(&e))?;
        let Some(stored) = stored else { return Err(self.missing(portal)) };
        let row = self.seal.open(&stored).map_err(|e| TokenError::Unusable(format!("the row of portal {portal} is not used: {e}")))?;
        if let Some(version) = self.witness.stale(&row) {
            return Err(TokenError::Unusable(format!(
                "the row of portal {portal} is not used: it is at version {}, and version {version} had other tokens, so it was put back from a backup \
                 or belongs to another database. HubSpot was not asked, for an old refresh token can end the one in use. Bring the newest row back, or log in again",
                row.token_version
            )));
        }
        let ours = self.endpoint.as_ref().map_or("", Endpoint::client_id);
        if row.facts.client_id != ours {
            return Err(TokenError::Unusable(format!(
                "the row of portal {portal} is not used: its tokens belong to the app {}, and the configuration names {ours}; log in again",
                row.facts.client_id
            )));
        }
        self.gauge(&row);
        let before = self.scopes.lock().unwrap_or_else(PoisonError::into_inner).insert(portal.to_owned(), row.facts.scopes.clone());
        if before.as_ref() != Some(&row.facts.scopes) {
            for (feature, missing) in self.gated(portal, &row.facts.scopes) {
                tracing::warn!(event = "scope_missing", portal, "the app may not {feature}: the scope {} is missing", missing.join(", "));
            }
            if before.is_some_and(|before| !before.is_empty()) {
                self.revive(portal);
            }
        }
        Ok(row)
    }

    /// What scopes a portal's events take.
    pub(super) fn event_scopes(&self, portal: &str) -> EventScopes {
        self.events.get(portal).copied().unwrap_or_default()
    }

    /// What does not work in a portal with these scopes.
    pub(super) fn gated(&self, portal: &str, granted: &[String]) -> Vec<(Feature, Vec<&'static str>)> {
        gated(self.event_scopes(portal), granted)
    }

    fn missing(&self, portal: &str) -> TokenError {
        match self.seeds.get(portal) {
            Some(seed) if self.witness.left_behind(portal, seed) => TokenError::Unusable(format!(
                "the row of portal {portal} is gone, and HubSpot has replaced the refresh token that the configuration names since; log in again"
            )),
            _ => TokenError::NotConnected,
        }
    }

    /// Stores the tokens of an installation, whatever was there before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn install(&self, portal: &str, workspace: Option<&str>, grant: Grant) -> anyhow::Result<Row> {
        let endpoint = self.endpoint.as_ref().ok_or_else(|| anyhow::anyhow!("the configuration names no app"))?;
        let refresh_token = grant.refresh_token.ok_or_else(|| anyhow::anyhow!("HubSpot's answer has no refresh token"))?;
        loop {
            let before = self.store.read(&self.environment, portal).await?;
            let now = (self.now)();
            let facts = Facts {
                client_id: endpoint.client_id().to_owned(),
                workspace: workspace.map(str::to_owned),
                condition: Condition::Connected,
                scopes: grant.scopes.clone(),
                installed_at: now,
                expires_at: now + crate::model::time::millis(grant.lifetime),
                refreshed_at: now,
                // The token that the configuration names is older than this one, and must not replace it at a restart.
                seed: self.seeds.get(portal).cloned(),
                ..Facts::default()
            };
            let seen = before.as_ref().map(|row| row.token_version);
            let token_version = seen.unwrap_or(0).max(self.witness.version(portal)) + 1;
            let secrets = Secrets { access_token: Some(grant.access_token.clone()), refresh_token: refresh_token.clone() };
            let row = Row { portal: portal.to_owned(), token_version, facts, secrets };
            if self.store.swap(seen, &self.seal.close(&self.environment, &row)?).await? {
                self.noted(&row);
                return Ok(row);
            }
        }
    }

    /// Swaps; where the outcome is unknown, the row says what it was.
    pub(super) async fn swap(&self, seen: i64, next: &Row) -> anyhow::Result<bool> {
        let sealed = self.seal.close(&self.environment, next)?;
        match self.store.swap(Some(seen), &sealed).await {
            Ok(swapped) => Ok(swapped),
            Err(error) => match self.store.read(&self.environment, &next.portal).await {
                Ok(Some(found)) if found == sealed => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Shows when a connection was refreshed last, also by another process or before this one began.
    fn gauge(&self, row: &Row) {
        if row.facts.refreshed_at > 0 {
            let seconds = i64::try_from(row.facts.refreshed_at / 1000).unwrap_or(i64::MAX);
            self.metrics.last_refresh.get_or_create(&Portal { portal: row.portal.clone() }).set(seconds);
        }
    }

    /// Notes new tokens outside the store.
    pub(super) fn noted(&self, row: &Row) {
        self.gauge(row);
        if let Err(error) = self.witness.note(row) {
            tracing::warn!(
                event = "connection_rollback_unguarded",
                portal = row.portal,
                "an old row that is put back may go unnoticed: {error:#}"
            );
        }
    }

    pub(super) fn revive(&self, portal: &str) {
        tracing::info!(event = "connection_made", portal, "connected");
        *self.revived.lock().unwrap_or_else(PoisonError::into_inner).entry(portal.to_owned()).or_default() += 1;
    }

    /// Refreshes what nobody has asked for in a long while: a refresh token that is never used may end one day.
    pub(super) async fn keep_alive(&self) {
        for (portal, link) in &self.portals {
            if matches!(link, Link::App(_))
                && let Ok(row) = self.row(portal).await
                && row.facts.refreshed_at > 0
                && (self.now)() > row.facts.refreshed_at + KEEP_ALIVE
            {
                // What comes of it is in the row, and was said.
                let _ = self.get(portal, None).await;
            }
        }
    }

    /// Looks whether somebody has connected again what was not: another process, or a login. HubSpot is not asked.
    pub(super) async fn look_for_logins(&self) {
        for (portal, link) in &self.portals {
            let Link::App(cell) = link else { continue };
            // Whoever holds it finds out by himself.
            let Ok(mut cell) = cell.try_lock() else { continue };
            let wanting =
                |scopes: &BTreeMap<String, Vec<String>>| scopes.get(portal).is_some_and(|granted| !self.gated(portal, granted).is_empty());
            if cell.said.is_none() && !wanting(&self.scopes.lock().unwrap_or_else(PoisonError::into_inner)) {
                continue;
            }
            // Other scopes than before are noticed as the row is read.
            let Ok(Row { facts, secrets, .. }) = self.row(portal).await else { continue };
            let access = secrets.access_token.map(|token| Access { token: Secret::new(token) });
            let trial = access.is_some_and(|access| self.on_trial(portal, &facts, &access, cell.said.as_ref()));
            if facts.condition == Condition::Connected && !trial && cell.said.take().is_some() {
                self.revive(portal);
            }
        }
    }
}

pub(super) fn store_failed(error: &anyhow::Error) -> TokenError {
    TokenError::Store(format!("{error:#}"))
}

/// The fingerprint of a configured token, as [`Facts::seed`] has it.
pub(super) fn seed_of(token: &Secret) -> String {
    fingerprint(token.reveal())
}
