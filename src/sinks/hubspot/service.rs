//! Sends one request: waits for the account's budget, adds the access token, keeps the deadline, says what the answer means.
//!
//! A 401 is answered with one refresh and one repetition; whatever else fails is the caller's to repeat, because only the caller
//! knows what must be read again first. A 429 blocks the account's budget for all.

use super::budget::{Share, Told, Wait, Window};
use super::daily::{Daily, Midnight};
use super::outcome::{Outcome, Pause, classify};
use super::request::{Method, Request};
use super::settings::Settings;
use crate::http;
use crate::metrics::Metrics;
use crate::oauth::{Access, Connections, TokenError};
use crate::state::State;
use reqwest::header::HeaderMap;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// HubSpot, as far as the sink is concerned.
#[derive(Debug)]
pub struct Service {
    http: reqwest::Client,
    base_url: String,
    connections: Arc<Connections>,
    budgets: BTreeMap<String, Budget>,
    /// Whether nothing more is to be sent.
    stopping: watch::Sender<bool>,
    /// Requests sent.
    pub calls: AtomicU64,
    /// Requests answered with 429.
    pub rate_limited: AtomicU64,
}

#[derive(Debug)]
struct Budget {
    window: Mutex<Window>,
    daily: Mutex<Daily>,
    /// The account's time zone, where it is known.
    zone: Option<jiff::tz::TimeZone>,
    /// The wall clock.
    wall: fn() -> jiff::Timestamp,
    /// Told of each answer.
    answered: Notify,
    /// Throttled answers without a pause of their own, since the last other answer.
    throttled: AtomicU64,
}

/// A place in the budget, given back when the request is answered or given up.
struct Place<'a>(&'a Budget);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.window().answered(Instant::now());
        self.0.answered.notify_waiters();
    }
}

impl Budget {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daily(&self) -> MutexGuard<'_, Daily> {
        self.daily.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far away midnight is.
    fn midnight(&self) -> Midnight {
        let now = (self.wall)();
        Midnight {
            here: self.zone.as_ref().and_then(|zone| until_midnight(now, zone)),
            utc: until_midnight(now, &jiff::tz::TimeZone::UTC).unwrap_or(Duration::from_secs(86_400)),
        }
    }

    /// Whether a request would be sent at once.
    fn ready(&self, share: Share, now: Instant) -> Result<(), Wait> {
        self.daily().ready(share, now, || self.midnight()).map_err(Wait::Until)?;
        self.window().ready(share, now)
    }

    /// Takes a place.
    fn take(&self, share: Share, now: Instant) -> Result<(), Wait> {
        let mut daily = self.daily();
        daily.ready(share, now, || self.midnight()).map_err(Wait::Until)?;
        self.window().take(share, now)?;
        daily.sent();
        Ok(())
    }

    /// Takes in what HubSpot says of its own count, in the answer to a request sent at `sent`.
    fn told(&self, told: Told, sent: Instant) {
        self.window().told(told, sent, Instant::now());
        if let Some(left) = told.daily_remaining {
            self.daily().told(left);
        }
    }

    /// Waits for a place; there is none any more once the sink stops.
    async fn place(&self, share: Share, mut stopping: watch::Receiver<bool>) -> Option<Place<'_>> {
        loop {
            if *stopping.borrow_and_update() {
                return None;
            }
            // Made before the question, so that an answer in between is not missed.
            let answered = self.answered.notified();
            let taken = self.take(share, Instant::now());
            match taken {
                Ok(()) => return Some(Place(self)),
                Err(Wait::Until(at)) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    _ = stopping.changed() => {}
                },
                Err(Wait::Answer) => tokio::select! {
                    () = answered => {}
                    _ = stopping.changed() => {}
                },
            }
        }
    }

    /// How long a throttled answer that does not say so itself blocks: 1, 2, 4 … 60 s.
    fn throttle(&self, asked: Pause) -> Duration {
        let times = self.throttled.fetch_add(1, Ordering::Relaxed).min(6);
        let pause = match asked {
            Pause::Day => self.midnight().hubspot(),
            asked => asked.or(Duration::from_secs(1 << times).min(Duration::from_secs(60))),
        };
        self.window().block_until(Instant::now() + pause);
        pause
    }
}

impl Service {
    /// For these accounts.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(settings: &Settings, connections: Arc<Connections>, portals: &[String]) -> anyhow::Result<Self> {
        let http = http::client(settings.request_timeout)?;
        let limits = settings.budget;
        let budget = |portal: &String| {
            let zone = settings.portals.get(portal).and_then(|portal| portal.zone().transpose()).transpose();
            let budget = Budget {
                window: Mutex::new(Window::new(limits.requests, limits.reserve, limits.per)),
                daily: Mutex::new(Daily::new(limits.daily, limits.reserve as u64)),
                zone: zone.map_err(anyhow::Error::msg)?,
                wall: jiff::Timestamp::now,
                answered: Notify::new(),
                throttled: AtomicU64::new(0),
            };
            Ok((portal.clone(), budget))
        };
        Ok(Service {
            connections,
            http,
            base_url: settings.base_url.clone(),
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

    /// Sends nothing more: requests under way go on, those that wait for their budget fail as [`Outcome::Transient`].
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
        self.budgets.get(portal).map_or((0, None), |budget| (budget.window().left(now) as u64, budget.daily().left(now)))
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
            Err(error) => return no_token(portal, &error),
        };
        let mut outcome = self.send(budget, &access, request, share).await;
        if outcome == Outcome::Unauthorized {
            access = match self.connections.renew(portal, &access).await {
                Ok(access) => access,
                Err(error) => return no_token(portal, &error),
            };
            outcome = self.send(budget, &access, request, share).await;
        }
        if matches!(outcome, Outcome::Done(_)) {
            self.connections.accepted(portal, &access);
        }
        match &outcome {
            Outcome::Throttled(_) if share.is_none() => {
                self.rate_limited.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Throttled(asked) => {
                self.rate_limited.fetch_add(1, Ordering::Relaxed);
                let pause = budget.throttle(*asked);
                tracing::warn!(portal, pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "HubSpot asks for a pause");
            }
            Outcome::Transient(..) if *self.stopping.borrow() => {}
            Outcome::Transient(why, _) => tracing::warn!(portal, why, "HubSpot failed; to be repeated"),
            _ => budget.throttled.store(0, Ordering::Relaxed),
        }
        outcome
    }

    async fn send(&self, budget: &Budget, access: &Access, request: &Request, share: Option<Share>) -> Outcome {
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
            return Outcome::Transient("the sink stops".to_owned(), None);
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        // Addresses may hold e-mails and are left out of every message.
        let response = match call.send().await {
            Ok(response) => response,
            Err(error) => return Outcome::Transient(kind_of(&error).to_owned(), None),
        };
        let status = response.status().as_u16();
        if share.is_some() {
            budget.told(rate(response.headers()), sent);
        }
        let retry_after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).map(str::to_owned);
        match http::body(response).await {
            Ok(body) => classify(status, retry_after.as_deref(), &body),
            Err(error) => Outcome::Transient(error.to_string(), None),
        }
    }
}

fn until_midnight(now: jiff::Timestamp, zone: &jiff::tz::TimeZone) -> Option<Duration> {
    let now = now.to_zoned_datetime(zone.clone());
    let tomorrow = now.tomorrow().ok()?.start_of_day().ok()?;
    Duration::try_from(tomorrow.duration_since(&now)).ok()
}

/// HubSpot's own count; all of its headers may be missing.
fn rate(headers: &HeaderMap) -> Told {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let count = |name: &str| number(name).and_then(|count| usize::try_from(count).ok());
    Told {
        max: count("x-hubspot-ratelimit-max"),
        remaining: count("x-hubspot-ratelimit-remaining"),
        interval: number("x-hubspot-ratelimit-interval-milliseconds").map(Duration::from_millis),
        daily_remaining: number("x-hubspot-ratelimit-daily-remaining"),
    }
}

fn kind_of(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    }
}

fn no_token(portal: &str, error: &TokenError) -> Outcome {
    match error {
        // Somebody must act; it was said when it was found, and until then nothing is given up.
        TokenError::NotConnected
        | TokenError::Disconnected(_)
        | TokenError::BadClient(_)
        | TokenError::BadStaticToken
        | TokenError::Unusable(_) => Outcome::Disconnected,
        TokenError::Rationed => Outcome::Unauthorized,
        TokenError::Transient(_, after) => {
            tracing::warn!(portal, "{error}");
            Outcome::Transient("no access token".to_owned(), *after)
        }
        TokenError::Store(_) => {
            tracing::error!(portal, "{error}");
            Outcome::Transient("no access token".to_owned(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half past eleven in the evening in New York, on the day on which summer time ends, and a blink before that midnight.
    const EVENING: &str = "2026-11-02T04:30:00Z";
    const BLINK: &str = "2026-11-02T04:59:59.7Z";

    fn budget(zone: Option<&str>, wall: fn() -> jiff::Timestamp) -> Budget {
        Budget {
            window: Mutex::new(Window::new(10, 1, Duration::from_secs(10))),
            daily: Mutex::new(Daily::new(Some(1), 0)),
            zone: zone.map(|zone| jiff::tz::TimeZone::get(zone).expect("a zone")),
            wall,
            answered: Notify::new(),
            throttled: AtomicU64::new(0),
        }
    }

    #[test]
    fn the_day_ends_at_the_accounts_midnight() {
        let evening = || EVENING.parse().expect("a time");
        let half = Duration::from_secs(1800);
        let midnight = budget(Some("America/New_York"), evening).midnight();
        assert_eq!((midnight.hubspot(), midnight.own()), (half, half));
        let unknown = budget(None, evening).midnight();
        assert_eq!(unknown.own(), Duration::from_secs(19 * 3600) + half, "in UTC");
        // At its first moment: the day on which summer time ends has 25 hours.
        let morning = || "2026-11-01T04:00:00Z".parse().expect("a time");
        assert_eq!(budget(Some("America/New_York"), morning).midnight().own(), Duration::from_secs(25 * 3600));
    }

    /// Both kinds of daily limit, ours and the one that HubSpot tells of.
    #[test]
    fn a_pause_until_midnight_ends_by_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for told in [None, Some(0)] {
            let budget = budget(Some("America/New_York"), || BLINK.parse().expect("a time"));
            let (_stop, stopping) = watch::channel(false);
            runtime.block_on(async {
                let began = Instant::now();
                drop(budget.place(Share::Full, stopping.clone()).await.expect("the last request of the day"));
                if let Some(left) = told {
                    budget.daily().told(left);
                }
                assert!(budget.ready(Share::Full, began).is_err(), "nothing is left");
                let waits = tokio::time::timeout(Duration::from_secs(60), budget.place(Share::Full, stopping));
                drop(waits.await.expect("it ends").expect("a place"));
                assert!(began.elapsed() >= Duration::from_millis(300), "not before midnight");
            });
        }
    }

    #[test]
    fn a_pause_of_a_quarter_of_an_hour_does_not_last_until_midnight() {
        let budget = budget(Some("America/New_York"), || EVENING.parse().expect("a time"));
        let quarter = Duration::from_secs(900);
        assert_eq!(budget.throttle(Pause::For(quarter)), quarter);
        assert_eq!(budget.throttle(Pause::Day), Duration::from_secs(1800), "{EVENING}");
    }
}
