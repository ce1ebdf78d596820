//! Gives out access tokens and refreshes them: the decisions of [`super::decide`], carried out.
//!
//! ```text
//!  access ──► one at a time in this process ──► read row ──► step ──► use it
//!                                                  ▲          │ lease and intent, compare-and-set
//!                                                  │          ▼
//!                                                  └── store ◄── token endpoint
//! ```
//!
//! # Why no token is lost or burnt
//! - Before a call the row says who calls and since when, by compare-and-set: of all threads and processes, one calls.
//! - It calls only if enough of its lease is left after the claim is stored, and gives the call up before the lease ends, also when it
//!   was asleep until then.
//! - The answer is stored before it is used. A swap that lost means that the row changed: if its tokens are still those of the call, our
//!   answer is the newest there is and goes on top; if not, somebody stored newer ones and ours are thrown away.
//! - A swap whose outcome is unknown (PostgreSQL went away) is looked up, and tried again for a minute.
//! - A row that does not open, or that the witness knows to be old, is never sent to HubSpot.

use super::decide::{Caller, Refusal, Step, call_within, settle, step};
use super::endpoint::{Endpoint, Reply};
use super::features::EventScopes;
use super::row::{Facts, Row, Secrets, Why};
use super::rows::store_failed;
use super::seal::Seal;
use super::store::Store;
use super::witness::Witness;
use crate::metrics::{Metrics, Portal, Refresh, RefreshResult};
use crate::model::time::Ms;
use crate::secret::Secret;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at a row that another process is refreshing, at least.
const LOOK: Duration = Duration::from_millis(50);
/// How long somebody waits for another process, or for the store to take an answer.
const PATIENCE: Ms = 60_000;

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No app was ever installed.
    #[error("the account is not connected: log in (`clickline hubspot login`)")]
    NotConnected,
    /// The grant is gone.
    #[error("{0}; log in again (`clickline hubspot login`)")]
    Disconnected(Why),
    /// The app's own credentials are wrong.
    #[error("HubSpot does not accept the app's credentials ({0}): check client_id and client_secret")]
    BadClient(String),
    /// The token that the configuration names is refused.
    #[error("HubSpot does not accept the access token that the configuration names: put in a new one")]
    BadStaticToken,
    /// HubSpot refuses one request with a token that it accepts for others, and a fresh one did not help.
    #[error("HubSpot refuses the access token for this request, and accepts it for others")]
    Rationed,
    /// The row must not be used; says why and what to do. HubSpot was not asked.
    #[error("{0}")]
    Unusable(String),
    /// It may work later, not before this pause where one is known.
    #[error("the token endpoint failed: {0}")]
    Transient(String, Option<Duration>),
    /// The store failed.
    #[error("the table of connections can't be read or written: {0}")]
    Store(String),
}

/// An access token in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The token.
    pub token: Secret,
}

/// How a portal is connected.
#[derive(Debug)]
pub enum Link {
    /// By a token that does not change: a private app's or a service key.
    Static {
        /// The token.
        token: Secret,
        /// Whether HubSpot refused it last, so that it is said once.
        refused: AtomicBool,
    },
    /// By an installed app. The lock makes callers of one process take turns.
    App(tokio::sync::Mutex<Cell>),
}

/// What a process remembers of a connection.
#[derive(Debug, Default)]
pub struct Cell {
    /// The last access token that was good, and until when it is used while the store can't be read.
    last: Option<(Access, Ms)>,
    /// What was said last of its condition, so that it is said once.
    pub(super) said: Option<TokenError>,
    /// Why the last call to the token endpoint failed, if it did.
    failed: Option<String>,
}

/// Everything behind [`super::Connections`].
#[derive(Debug)]
pub struct Keeper {
    pub(super) environment: String,
    pub(super) store: Arc<dyn Store>,
    pub(super) seal: Seal,
    pub(super) witness: Witness,
    /// The app, where a portal is connected by one.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) portals: BTreeMap<String, Link>,
    /// Fingerprints of the tokens that the configuration names.
    pub(super) seeds: BTreeMap<String, String>,
    /// What scopes the events of each portal take.
    pub(super) events: BTreeMap<String, EventScopes>,
    /// This process.
    pub(super) holder: String,
    pub(super) lease_for: Ms,
    /// Where in the spread of early refreshes this process is.
    pub(super) spread: f64,
    pub(super) now: fn() -> Ms,
    pub(super) metrics: Arc<Metrics>,
    /// Calls to the token endpoint so far.
    pub(super) refreshes: AtomicU64,
    /// Calls whose answer is not stored yet.
    pub(super) open_calls: AtomicUsize,
    /// Scopes of each portal as they were seen last.
    pub(super) scopes: Mutex<BTreeMap<String, Vec<String>>>,
    /// How often each portal's connection came back to life, or got other scopes.
    pub(super) revived: Mutex<BTreeMap<String, u64>>,
    /// The access token of each portal that HubSpot accepted last, so far as this process has seen.
    pub(super) accepted: Mutex<BTreeMap<String, Access>>,
}

/// An access token, and the row that it is from.
#[derive(Debug)]
struct Obtained {
    access: Access,
    /// When it ends.
    until: Ms,
    facts: Facts,
}

/// Counts a call until its answer is stored.
struct OpenCall<'a>(&'a AtomicUsize);

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Keeper {
    /// An access token; with `spent`, another one than that, which HubSpot has refused.
    pub async fn get(&self, portal: &str, spent: Option<&Access>) -> Result<Access, TokenError> {
        let mut cell = match self.portals.get(portal).ok_or(TokenError::NotConnected)? {
            Link::Static { token, .. } if spent.is_none() => return Ok(Access { token: token.clone() }),
            Link::Static { .. } => return Err(self.refused(portal)),
            Link::App(cell) => cell.lock().await,
        };
        let got = self.obtain(portal, spent, &mut cell.failed).await;
        let got = match (got, &cell.last) {
            // The store is away; the token is not.
            (Err(TokenError::Store(why)), Some((last, until))) if spent != Some(last) && (self.now)() < *until => {
                tracing::warn!(
                    event = "connections_unreachable",
                    portal,
                    "the table of connections is away, the last access token is used while it lasts: {why}"
                );
                return Ok(last.clone());
            }
            (got, _) => got,
        };
        self.tell(portal, &got, &mut cell);
        got.map(|Obtained { access, until, .. }| {
            cell.last = Some((access.clone(), until));
            access
        })
    }

    /// HubSpot refuses the access token of a portal, whatever is asked with it; says it once.
    pub fn refused(&self, portal: &str) -> TokenError {
        if let Some(Link::Static { refused, .. }) = self.portals.get(portal) {
            self.metrics.connected.get_or_create(&Portal { portal: portal.to_owned() }).set(0);
            if !refused.swap(true, Ordering::Relaxed) {
                tracing::error!(event = "token_refused", portal, "{}", TokenError::BadStaticToken);
            }
        }
        TokenError::BadStaticToken
    }

    /// HubSpot has accepted a portal's access token.
    pub fn accepted(&self, portal: &str, access: &Access) {
        match self.portals.get(portal) {
            // Of a static one nothing else is known.
            Some(Link::Static { refused, .. }) => {
                self.metrics.connected.get_or_create(&Portal { portal: portal.to_owned() }).set(1);
                if refused.swap(false, Ordering::Relaxed) {
                    tracing::info!(event = "token_accepted_again", portal, "HubSpot accepts the access token again");
                }
            }
            Some(Link::App(_)) => {
                let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
                if accepted.get(portal) != Some(access) {
                    accepted.insert(portal.to_owned(), access.clone());
                }
            }
            None => {}
        }
    }

    /// Whether HubSpot has accepted this access token of a portal's.
    pub(super) fn was_accepted(&self, portal: &str, access: &Access) -> bool {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).get(portal) == Some(access)
    }

    /// Whether it is still open what an access token is worth: HubSpot had refused those before it, gave it in a trial, and has not
    /// accepted it so far.
    pub(super) fn on_trial(&self, portal: &str, facts: &Facts, access: &Access, said: Option<&TokenError>) -> bool {
        let shut = matches!(said, Some(TokenError::Disconnected(Why::AccessRefused)));
        // An installation begins anew, with no time of a forced refresh.
        shut && facts.forced_at > 0 && !self.was_accepted(portal, access)
    }

    /// Logs and gauges, when something has changed.
    fn tell(&self, portal: &str, got: &Result<Obtained, TokenError>, cell: &mut Cell) {
        let gauge = self.metrics.connected.get_or_create(&Portal { portal: portal.to_owned() });
        match got {
            Ok(Obtained { access, facts, .. }) if self.on_trial(portal, facts, access, cell.said.as_ref()) => {}
            Ok(_) => {
                gauge.set(1);
                if cell.said.take().is_some() {
                    self.revive(portal);
                }
            }
            Err(TokenError::Transient(..) | TokenError::Store(_) | TokenError::Rationed) => {}
            Err(error) => {
                gauge.set(0);
                if cell.said.as_ref() != Some(error) {
                    tracing::error!(event = "connection_lost", portal, "{error}");
                    cell.said = Some(error.clone());
                }
            }
        }
    }

    async fn obtain(&self, portal: &str, spent: Option<&Access>, failed: &mut Option<String>) -> Result<Obtained, TokenError> {
        let began = (self.now)();
        let endpoint = self.endpoint.as_ref().ok_or(TokenError::NotConnected)?;
        let credentials = endpoint.credentials();
        loop {
            let row = self.row(portal).await?;
            let access = row.secrets.access_token.as_ref().map(|token| Access { token: Secret::new(token.as_str()) });
            let now = (self.now)();
            let caller = Caller {
                holder: &self.holder,
                credentials: &credentials,
                now,
                lease_for: self.lease_for,
                spread: self.spread,
                spent: spent.is_some() && spent == access.as_ref(),
                accepted: access.as_ref().is_some_and(|access| self.was_accepted(portal, access)),
            };
            match step(&row, &caller) {
                Step::Use => {
                    let access = access.ok_or(TokenError::NotConnected)?;
                    return Ok(Obtained { access, until: row.facts.expires_at, facts: row.facts });
                }
                Step::Refuse(refusal) => return Err(refused(refusal, failed.as_deref(), now)),
                Step::Look(_) if now > began + PATIENCE => {
                    return Err(TokenError::Transient("another process has been at it for long".to_owned(), None));
                }
                Step::Look(until) => {
                    let most = LOOK + Duration::from_millis(rand::random_range(0..50));
                    tokio::time::sleep(most.min(Duration::from_millis(until.saturating_sub(now).max(1)))).await;
                }
                Step::Shut(facts) => {
                    let secrets = Secrets { access_token: None, ..row.secrets.clone() };
                    let next = Row { token_version: row.token_version + 1, facts: *facts, secrets, portal: row.portal };
                    // Where somebody else was faster, the row says what is to be done now.
                    self.swap(row.token_version, &next).await.map_err(|e| store_failed(&e))?;
                }
                // Each time the lease was nearly over when it was stored.
                Step::Call(_) if now > began + PATIENCE => {
                    return Err(TokenError::Transient("the table of connections takes too long to store a claim".to_owned(), None));
                }
                Step::Call(facts) => *failed = self.call(endpoint, row, *facts).await?,
            }
        }
    }

    /// Takes the lease, calls, and stores what came. Whether that helped, the row says; gives back why it has not, where only the
    /// endpoint's failure says that.
    async fn call(&self, endpoint: &Endpoint, row: Row, facts: Facts) -> Result<Option<String>, TokenError> {
        let portal = row.portal.clone();
        let claimed = Row { token_version: row.token_version + 1, facts, ..row.clone() };
        self.open_calls.fetch_add(1, Ordering::SeqCst);
        let _open = OpenCall(&self.open_calls);
        if !self.swap(row.token_version, &claimed).await.map_err(|e| store_failed(&e))? {
            return Ok(None);
        }
        // The clock is looked at again: since the lease's end was set, this process may have been asleep, or the store slow.
        let looked = tokio::time::Instant::now();
        let Some(within) = call_within(&claimed.facts, (self.now)(), self.lease_for) else {
            tracing::warn!(
                event = "token_lease_short",
                portal,
                "no call to the token endpoint: its lease was nearly over by the time it was stored"
            );
            // Where this fails somebody else has the lease, or takes it once it has run out.
            let back = Row { token_version: claimed.token_version + 1, ..row };
            return self.swap(claimed.token_version, &back).await.map(|_| None).map_err(|e| store_failed(&e));
        };
        if let Some(since) = row.facts.unanswered_since {
            let since = crate::model::time::rfc3339(since);
            tracing::warn!(
                event = "token_earlier_tried",
                portal,
                since,
                "an earlier refresh was begun and its answer never stored; trying the refresh token from before it"
            );
        }
        crate::failpoint::hit("token.calling");
        let until = looked + Duration::from_millis(within);
        let call = async {
            if tokio::time::Instant::now() >= until {
                return Reply::Unsent("this process stood still for longer than its lease".to_owned());
            }
            endpoint.refresh(&row.secrets.refresh_token).await
        };
        // The time is asked first at every turn: who stood still with the connection half made sends nothing either.
        let reply = tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => Reply::Failed("no answer while the lease lasted".to_owned(), None),
            reply = call => reply,
        };
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let why = match &reply {
            Reply::Failed(why, _) | Reply::Unsent(why) | Reply::Odd(why) => Some(why.clone()),
            _ => None,
        };
        crate::failpoint::hit("token.answered");
        let result = self.keep(endpoint, &row, claimed, reply).await;
        if let Ok(result) = &result {
            self.metrics.refresh_attempts.get_or_create(&Refresh { portal, result: *result }).inc();
        }
        result.map(|_| why)
    }

    /// Stores a reply on top of `claimed`, or of what has become of it; `called` is the row with whose tokens it was asked for.
    async fn keep(&self, endpoint: &Endpoint, called: &Row, claimed: Row, reply: Reply) -> Result<RefreshResult, TokenError> {
        let result = match &reply {
            Reply::Granted(_) => RefreshResult::Ok,
            Reply::Dead => RefreshResult::BadRefreshToken,
            Reply::BadClient(_) => RefreshResult::BadClient,
            Reply::Throttled(_) => RefreshResult::Throttled,
            Reply::Failed(..) | Reply::Unsent(_) => RefreshResult::Failed,
            Reply::Odd(_) => RefreshResult::Refused,
        };
        if let Reply::Failed(why, _) | Reply::Unsent(why) | Reply::Odd(why) = &reply {
            tracing::warn!(event = "token_refresh_failed", portal = called.portal, "the token endpoint failed: {why}");
        }
        let deadline = (self.now)() + PATIENCE;
        let mut below = claimed;
        loop {
            let seen = below.token_version;
            let now = (self.now)();
            let mut next = settle(below.clone(), &called.facts, reply.clone(), &endpoint.credentials(), now, rand::random());
            next.token_version = seen + 1;
            match self.swap(seen, &next).await {
                Ok(true) => {
                    self.stored(called, &next, result);
                    return Ok(result);
                }
                Ok(false) => match self.row(&called.portal).await {
                    Ok(found) if found.secrets != called.secrets => return Ok(RefreshResult::Overtaken),
                    // Only the lease has changed hands: ours is the newest answer to this refresh token.
                    Ok(found) if result == RefreshResult::Ok => {
                        below = found;
                        continue;
                    }
                    // Whoever has the lease will hear the same.
                    Ok(_) => return Ok(result),
                    Err(TokenError::Store(why)) if now <= deadline => trying_again(called, &why),
                    Err(error) => return Err(error),
                },
                Err(error) if now <= deadline => trying_again(called, &format!("{error:#}")),
                Err(error) => return Err(store_failed(&error.context("the answer of the token endpoint could not be stored"))),
            }
            tokio::time::sleep(LOOK * 5).await;
        }
    }

    /// What follows from a stored reply.
    fn stored(&self, called: &Row, next: &Row, result: RefreshResult) {
        if result != RefreshResult::Ok {
            return;
        }
        let portal = Portal { portal: next.portal.clone() };
        let rotated = called.secrets.refresh_token != next.secrets.refresh_token;
        if rotated {
            self.metrics.refresh_rotations.get_or_create(&portal).inc();
        }
        tracing::debug!(event = "token_refreshed", portal = next.portal, rotated, version = next.token_version, "access token refreshed");
        self.noted(next);
    }
}

fn trying_again(called: &Row, why: &str) {
    tracing::warn!(
        event = "token_store_failed",
        portal = called.portal,
        "the answer of the token endpoint is not stored yet, trying again: {why}"
    );
}

fn refused(refusal: Refusal, failed: Option<&str>, now: Ms) -> TokenError {
    match refusal {
        Refusal::Dead(why) => TokenError::Disconnected(why),
        Refusal::BadClient(code) => TokenError::BadClient(code),
        Refusal::Rationed => TokenError::Rationed,
        Refusal::Later(at) => {
            let why = failed.unwrap_or("it failed a moment ago").to_owned();
            TokenError::Transient(why, Some(Duration::from_millis(at.saturating_sub(now))))
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
