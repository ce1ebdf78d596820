//! Sends one request: waits for the account's budget, adds the access token, keeps the deadline, says what the answer means.
//!
//! A 401 is answered with one refresh and one repetition; where the token can't be refreshed, with one other request, which says whether it is
//! the token that is refused. Whatever else fails is the caller's to repeat, because only the caller
//! knows what must be read again first. A 429 blocks the account's budget for all.

use super::allowance::{Allowance, told_by};
use super::budget::{Share, Wait};
use super::outcome::Outcome;
use super::request::{self, Method, Request};
use super::settings::Settings;
use crate::http;
use crate::metrics::Metrics;
use crate::model::time::now;
use crate::oauth::{Access, Connections, TokenError};
use crate::state::State;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// HubSpot, as far as the sink is concerned.
#[derive(Debug)]
pub struct Service {
    http: reqwest::Client,
    base_url: String,
    /// A request that every token of ours may make.
    any_request: Request,
    connections: Arc<Connections>,
    budgets: BTreeMap<String, Allowance>,
    /// Whether nothing more is to be sent.
    stopping: watch::Sender<bool>,
    /// Requests sent.
    pub calls: AtomicU64,
    /// Requests answered with 429.
    pub rate_limited: AtomicU64,
}

impl Service {
    /// For these accounts.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(settings: &Settings, connections: Arc<Connections>, portals: &[String]) -> anyhow::Result<Self> {
        let http = settings.client()?;
        let limits = settings.budget;
        let budget = |portal: &String| {
            let zone = settings.portals.get(portal).and_then(|portal| portal.zone().transpose()).transpose();
            let zone = zone.map_err(anyhow::Error::msg)?;
            Ok((portal.clone(), Allowance::new(limits, zone, settings.retry_cap)))
        };
        Ok(Service {
            connections,
            http,
            base_url: settings.base_url.clone(),
            any_request: request::any(&settings.paths),
            budgets: portals.iter().map(budget).collect::<anyhow::Result<_>>()?,
            stopping: watch::Sender::new(false),
            calls: AtomicU64::new(0),
            rate_limited: AtomicU64::new(0),
        })
    }

    /// The same, over connections of its own: for a process that reads HubSpot and has no sink.
    ///
    /// # Errors
    /// When a secret can't be read, or the state database can't be opened.
    pub fn open(settings: &Settings, state: &Path, portals: &[String], metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let database = Arc::new(State::open(state)?);
        let connections = Connections::open(settings, &database, state, portals, metrics)?;
        Service::new(settings, Arc::new(connections), portals)
    }

    /// Sends nothing more: requests under way go on, those that wait for their budget fail as [`Outcome::Unsent`].
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The connections that it sends over.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Refreshes of access tokens so far.
    pub fn refreshes(&self) -> u64 {
        self.connections.refreshes()
    }

    /// Requests of an account that may be sent at `now`, and how many are left of the day as far as is known.
    pub fn left(&self, portal: &str, now: Instant) -> (u64, Option<u64>) {
        self.budgets.get(portal).map_or((0, None), |budget| budget.left(now))
    }

    /// Whether a request would be sent at once, else when to ask again (none: after the next answer).
    ///
    /// # Errors
    /// When to ask again.
    pub fn ready(&self, portal: &str, share: Share, now: Instant) -> Result<(), Option<Instant>> {
        let Some(budget) = self.budgets.get(portal) else { return Err(None) };
        budget.ready(share, now).map_err(|wait| match wait {
            Wait::Until(at) => Some(at),
            Wait::Answer => None,
        })
    }

    /// Sends one request for an account and says what came of it. Never fails: no answer is an outcome, too.
    pub async fn call(&self, portal: &str, request: &Request, share: Share) -> Outcome {
        self.exchange(portal, request, Some(share)).await
    }

    /// As [`Service::call`], for what HubSpot counts apart from the account's window: it takes no place there, and a 429 is the
    /// caller's alone to heed.
    pub async fn call_apart(&self, portal: &str, request: &Request) -> Outcome {
        self.exchange(portal, request, None).await
    }

    async fn exchange(&self, portal: &str, request: &Request, share: Option<Share>) -> Outcome {
        let Some(budget) = self.budgets.get(portal) else { return Outcome::Disconnected };
        let mut access = match self.connections.access(portal).await {
            Ok(access) => access,
            Err(error) => return self.heeded(portal, budget, no_token(&error), share),
        };
        let mut outcome = self.send(budget, &access, request, share).await;
        if outcome == Outcome::Unauthorized && self.connections.fixed(portal) {
            // There is no other token to try, and to give this one up would shut the account: is it the token, or this request?
            outcome = match self.send(budget, &access, &self.any_request, share).await {
                Outcome::Unauthorized => no_token(&self.connections.refused(portal)),
                // It says nothing of the token; both are asked again.
                unknown @ (Outcome::Throttled(_) | Outcome::Transient(..) | Outcome::Unsent(..)) => unknown,
                _ => {
                    self.connections.accepted(portal, &access);
                    Outcome::Unauthorized
                }
            };
        } else if outcome == Outcome::Unauthorized {
            access = match self.connections.renew(portal, &access).await {
                Ok(access) => access,
                Err(error) => return self.heeded(portal, budget, no_token(&error), share),
            };
            outcome = self.send(budget, &access, request, share).await;
        }
        if matches!(outcome, Outcome::Done(_)) {
            self.connections.accepted(portal, &access);
        }
        self.heeded(portal, budget, outcome, share)
    }

    /// Does what an outcome means for the requests after it, and for the log.
    fn heeded(&self, portal: &str, budget: &Allowance, outcome: Outcome, share: Option<Share>) -> Outcome {
        match &outcome {
            Outcome::Throttled(_) if share.is_none() => {
                self.rate_limited.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Throttled(asked) => {
                self.rate_limited.fetch_add(1, Ordering::Relaxed);
                let pause = budget.throttle(*asked);
                tracing::warn!(
                    event = "hubspot_paused",
                    portal,
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "HubSpot asks for a pause"
                );
            }
            Outcome::Transient(..) | Outcome::Unsent(..) if *self.stopping.borrow() => {}
            Outcome::Unsent(why, after) => {
                let block = share.is_some().then_some(after.unwrap_or_default());
                if budget.unsent(why, block) {
                    tracing::warn!(
                        event = "hubspot_unreachable",
                        portal,
                        "nothing can be sent to HubSpot, and nothing is given up for it: {why}"
                    );
                }
            }
            Outcome::Transient(why, _) => tracing::warn!(event = "hubspot_call_failed", portal, why, "HubSpot failed; to be repeated"),
            _ => budget.unthrottled(),
        }
        if !matches!(outcome, Outcome::Unsent(..) | Outcome::Disconnected) && budget.sent() {
            tracing::info!(event = "hubspot_reachable_again", portal, "HubSpot is reached again");
        }
        outcome
    }

    async fn send(&self, budget: &Allowance, access: &Access, request: &Request, share: Option<Share>) -> Outcome {
        let Request { method, path, body } = request;
        let address = format!("{}{path}", self.base_url);
        let mut call = match method {
            Method::Get => self.http.get(address),
            Method::Post => self.http.post(address),
        };
        call = call.bearer_auth(access.token.reveal());
        if let Some(body) = body {
            call = call.json(body);
        }
        let place = match share {
            Some(share) => budget.place(share, self.stopping.subscribe()).await.map(Some),
            None => (!*self.stopping.borrow()).then_some(None),
        };
        let Some(_place) = place else {
            return Outcome::Unsent("the sink stops".to_owned(), None);
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let answer = http::exchange(call).await;
        if let (Ok(answer), Some(_)) = (&answer, share) {
            budget.told(told_by(&answer.headers), sent);
        }
        Outcome::of(answer, now())
    }
}

fn no_token(error: &TokenError) -> Outcome {
    match error {
        // Somebody must act; it was said when it was found, and until then nothing is given up.
        TokenError::NotConnected
        | TokenError::Disconnected(_)
        | TokenError::BadClient(_)
        | TokenError::BadStaticToken
        | TokenError::Unusable(_) => Outcome::Disconnected,
        TokenError::Rationed => Outcome::Unauthorized,
        TokenError::Transient(_, after) => Outcome::Unsent(error.to_string(), *after),
        TokenError::Store(_) => Outcome::Unsent(error.to_string(), None),
    }
}
