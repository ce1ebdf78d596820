//! When to call the token endpoint, and what its answer makes of a connection. No clock, no network, no store.
//!
//! # Meaning
//! [`step`] says what a caller who needs an access token does with the row as it stands; [`settle`] gives the facts after an answer.
//! Every change goes through the store's compare-and-set, so that of any number of processes that decide the same, one does it.
//!
//! | the row | the caller |
//! | --- | --- |
//! | access token good for longer than `early` | uses it |
//! | somebody else holds the lease | uses the old token while it lasts, else looks again |
//! | a call failed a moment ago | uses the old token while it lasts, else comes back at `retry_at` |
//! | HubSpot refuses an access token that is not old | calls until a call gives another; that one refused, too, within [`DEAD_RETRY`], the connection is shut, unless it had been accepted: then no call |
//! | grant or credentials refused, connection shut | one call every [`DEAD_RETRY`]; new tokens or credentials end that at once |
//! | otherwise | takes the lease and calls |
//!
//! # A caller that stalls
//! Before the claim is stored a caller may lose any time: it looks at the clock again when it holds the lease ([`call_within`]), and its call
//! is given up before the lease ends. One that freezes after that look and wakes up too late sends nothing, unless it froze in the instant
//! of sending. Between the answer and its storing a frozen caller can't be told from one that has crashed: the next one calls
//! with the same refresh token, and the one that wakes up finds what came of that. `decide_model.rs` tries everything else in every order.
//!
//! # Crash between HubSpot's answer and the stored row
//! The lease, written before the call, is also the record of the intent: it stays in the row, with the time in `unanswered_since`. The next
//! caller waits until the lease has run out and calls with the old refresh token. If HubSpot does not rotate, that works, and nothing
//! was lost; if it does, the refusal is reported as what it is ([`Why::LostAnswer`]).

use super::endpoint::Reply;
use super::row::{Condition, Facts, Lease, Row, Secrets, Why};
use crate::model::time::{Ms, millis};
use std::time::Duration;

/// Refresh this long before the end, and up to [`SPREAD`] earlier, so that not all connections do it at once …
const EARLY: Ms = 90_000;
/// … the spread.
const SPREAD: Ms = 30_000;
/// An access token is used until this long before its end when it can't be refreshed.
const LAST_USE: Ms = 5_000;
/// A refused grant, or refused credentials, are tried again after this: the answer may have been wrong. At most three calls an hour.
pub const DEAD_RETRY: Ms = 30 * 60_000;
/// What of a lease is for storing the answer.
pub const STORE_WITHIN: Ms = 5_000;
/// The longest pause after failures that pass by themselves …
const PAUSE_MAX: Ms = 60_000;
/// … and after refusals that nobody has documented.
const ODD_PAUSE_MAX: Ms = 20 * 60_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The process.
    pub holder: &'a str,
    /// Fingerprint of the app's credentials.
    pub credentials: &'a str,
    /// Now.
    pub now: Ms,
    /// How long a call may take, with [`STORE_WITHIN`] to store its answer.
    pub lease_for: Ms,
    /// Between 0 and 1: where in the spread this caller refreshes.
    pub spread: f64,
    /// Whether HubSpot has refused the row's access token.
    pub spent: bool,
    /// Whether it had accepted that token for another request.
    pub accepted: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Use the row's access token.
    Use,
    /// Look at the row again, at this time or before.
    Look(Ms),
    /// There is no access token.
    Refuse(Refusal),
    /// Store these facts, and if that succeeds and [`call_within`] allows it, call the token endpoint.
    Call(Box<Facts>),
    /// Store these facts without an access token, and look again.
    Shut(Box<Facts>),
}

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The grant is gone.
    Dead(Why),
    /// The app's credentials are wrong, with HubSpot's code.
    BadClient(String),
    /// It failed; not before this time again.
    Later(Ms),
    /// The access token that was refused is good for other requests, and a forced refresh was not long ago.
    Rationed,
}

/// What a caller does with the row.
pub fn step(row: &Row, caller: &Caller<'_>) -> Step {
    let Row { facts, secrets, .. } = row;
    let Caller { holder, credentials, now, lease_for, spread, spent, accepted } = *caller;
    let lifetime = facts.expires_at.saturating_sub(facts.refreshed_at);
    let spread = if (0.0..=1.0).contains(&spread) { SPREAD as f64 * spread } else { 0.0 };
    let early = (EARLY + spread as Ms).min(lifetime / 4);
    let has = secrets.access_token.is_some() && !spent;
    if has && now + early < facts.expires_at {
        return Step::Use;
    }
    // Refreshing early must never cost a token that still works.
    let or_use = |step: Step| if has && now + LAST_USE.min(early) < facts.expires_at { Step::Use } else { step };
    match &facts.condition {
        Condition::ReinstallRequired(why) if now < facts.retry_at => return or_use(Step::Refuse(Refusal::Dead(why.clone()))),
        Condition::BadClient(code) if now < facts.retry_at && facts.refused_credentials.as_deref() == Some(credentials) => {
            return or_use(Step::Refuse(Refusal::BadClient(code.clone())));
        }
        _ => {}
    }
    if let Some(Lease { until, .. }) = &facts.lease
        && now < *until
    {
        return or_use(Step::Look(*until));
    }
    if facts.condition == Condition::Connected && now < facts.retry_at {
        return or_use(Step::Refuse(Refusal::Later(facts.retry_at)));
    }
    let forced = spent && now < facts.expires_at;
    // A refresh whose answer is not here has not failed to help: the access token is still the one from before it.
    let refreshed = facts.forced_at > 0 && facts.unanswered_since.is_none();
    if forced && refreshed && now < facts.forced_at + DEAD_RETRY {
        // The refresh has not helped, and another would not.
        if accepted {
            // It is not the token: other requests must not stop for this one.
            return Step::Refuse(Refusal::Rationed);
        }
        let condition = Condition::ReinstallRequired(Why::AccessRefused);
        return Step::Shut(Box::new(Facts { condition, retry_at: now + DEAD_RETRY, ..facts.clone() }));
    }
    let trial = facts.condition == Condition::ReinstallRequired(Why::AccessRefused);
    Step::Call(Box::new(Facts {
        lease: Some(Lease { holder: holder.to_owned(), until: now + lease_for }),
        unanswered_since: facts.unanswered_since.or(Some(now)),
        forced_at: if forced || trial { now } else { facts.forced_at },
        attempts: facts.attempts + 1,
        ..facts.clone()
    }))
}

/// How long a call may take whose claim is stored, seen at `now`: until it must be over and its answer stored, because then the lease ends
/// and another caller sends the same refresh token. `None`: too little of the lease is left, the caller has stalled on its way here. It
/// must not call, and puts the row back as it was.
pub fn call_within(claim: &Facts, now: Ms, lease_for: Ms) -> Option<Ms> {
    let left = claim.lease.as_ref()?.until.checked_sub(now)?;
    let within = left.checked_sub(STORE_WITHIN)?;
    (within > 0 && within >= lease_for.saturating_sub(STORE_WITHIN) / 2).then_some(within)
}

/// The row after a reply to a call that was made with the tokens of `row`, which holds the caller's lease. `called`: the facts before the
/// call. `jitter` is between 0 and 1.
pub fn settle(row: Row, called: &Facts, reply: Reply, credentials: &str, now: Ms, jitter: f64) -> Row {
    let Row { portal, token_version, facts, secrets } = row;
    let before = called.unanswered_since;
    // No other reply brings a token, so none that a forced refresh brought can have been refused.
    let forced_at = if matches!(reply, Reply::Granted(_)) { facts.forced_at } else { called.forced_at };
    let facts = Facts { lease: None, forced_at, ..facts };
    let failures = facts.failures.saturating_add(1);
    let failed = Facts { failures, ..facts.clone() };
    let (facts, secrets) = match reply {
        Reply::Granted(grant) => {
            let refresh_token = grant.refresh_token.unwrap_or_else(|| secrets.refresh_token.clone());
            let facts = Facts {
                condition: Condition::Connected,
                // An answer need not list them; then they are as before.
                scopes: if grant.scopes.is_empty() { facts.scopes } else { grant.scopes },
                expires_at: now + millis(grant.lifetime),
                refreshed_at: now,
                rotations: facts.rotations + u64::from(refresh_token != secrets.refresh_token),
                failures: 0,
                retry_at: 0,
                unanswered_since: None,
                refused_credentials: None,
                ..facts
            };
            (facts, Secrets { access_token: Some(grant.access_token), refresh_token })
        }
        Reply::Dead => {
            let why = match (&facts.condition, before) {
                // A later try that is refused, too, says nothing new.
                (Condition::ReinstallRequired(why), _) if *why != Why::AccessRefused => why.clone(),
                (_, Some(asked_at)) => Why::LostAnswer { asked_at },
                (_, None) => Why::Refused,
            };
            (
                Facts { condition: Condition::ReinstallRequired(why), retry_at: now + DEAD_RETRY, unanswered_since: before, ..failed },
                secrets,
            )
        }
        Reply::BadClient(code) => {
            let condition = Condition::BadClient(code);
            let refused_credentials = Some(credentials.to_owned());
            (Facts { condition, refused_credentials, retry_at: now + DEAD_RETRY, unanswered_since: before, ..failed }, secrets)
        }
        Reply::Throttled(after) => {
            let retry_at = now + pause(failures, 1_000, PAUSE_MAX, after, jitter);
            (Facts { retry_at, unanswered_since: before, ..failed }, secrets)
        }
        Reply::Unsent(_) => {
            let retry_at = now + pause(failures, 1_000, PAUSE_MAX, None, jitter);
            (Facts { retry_at, unanswered_since: before, ..failed }, secrets)
        }
        // It may have been done and the answer lost, so `unanswered_since` stays.
        Reply::Failed(_, after) => (Facts { retry_at: now + pause(failures, 1_000, PAUSE_MAX, after, jitter), ..failed }, secrets),
        Reply::Odd(_) => {
            let retry_at = now + pause(failures, 60_000, ODD_PAUSE_MAX, None, jitter);
            (Facts { retry_at, unanswered_since: before, ..failed }, secrets)
        }
    };
    // What was refused were other credentials: these have only failed, which passes by itself, and not at once.
    let facts = match &facts.condition {
        Condition::BadClient(_) if facts.refused_credentials.as_deref() != Some(credentials) => {
            Facts { condition: Condition::Connected, refused_credentials: None, ..facts }
        }
        _ => facts,
    };
    // What was refused before stays refused until it is granted: a hiccup of the token endpoint is no new try.
    let facts = match (&facts.condition, facts.retry_at) {
        (Condition::ReinstallRequired(_) | Condition::BadClient(_), at) => Facts { retry_at: at.max(now + DEAD_RETRY), ..facts },
        _ => facts,
    };
    Row { portal, token_version, facts, secrets }
}

/// `first`, doubled with each failure up to `most`, a random quarter less; never shorter than what was asked for (an hour at most).
fn pause(failures: u32, first: Ms, most: Ms, asked: Option<Duration>, jitter: f64) -> Ms {
    let full = first.saturating_mul(1 << (failures.saturating_sub(1)).min(20)).min(most);
    let less = full as f64 / 4.0 * if (0.0..=1.0).contains(&jitter) { jitter } else { 0.0 };
    (full - less as Ms).max(asked.map_or(0, millis).min(3_600_000))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "decide_model.rs"]
mod model;
