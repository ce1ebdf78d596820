//! How the sink stands with each account, told once a second to whoever shows it.

use super::account::Account;
use super::lanes::{Lanes, Work};
use super::run::Run;
use super::service::Service;
use crate::model::time::{Ms, millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

/// How the sink stands with an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStanding {
    /// HubSpot's account id.
    pub portal: String,
    /// Requests that may be sent now before the account's window is full.
    pub window_left: u64,
    /// Requests that are left of the day, by HubSpot's or our own count, whichever is less; none where neither is known.
    pub daily_left: Option<u64>,
    /// Keys that wait, by kind of work: `stages` (deals), `emails` (addresses to look up), `contacts` (properties), `events`.
    pub queues: BTreeMap<String, u64>,
    /// For how long the oldest of them has waited since it was read, ms; 0 when nothing waits.
    pub oldest_waits_ms: Ms,
    /// Whether some of its work is suspended until somebody acts.
    pub suspended: bool,
}

impl AccountStanding {
    fn of(portal: &str, account: &Account, service: &Service, now: Instant) -> Self {
        let Lanes { stages, emails, contacts, events } = &account.lanes;
        let oldest = [stages.oldest(), emails.oldest(), contacts.oldest(), events.oldest()].into_iter().flatten().min();
        let queues =
            [(Work::Stages, stages.len()), (Work::Emails, emails.len()), (Work::Contacts, contacts.len()), (Work::Events, events.len())];
        let (window_left, daily_left) = service.left(portal, now);
        AccountStanding {
            portal: portal.to_owned(),
            window_left,
            daily_left,
            queues: queues.into_iter().map(|(work, len)| (format!("{work:?}").to_lowercase(), len as u64)).collect(),
            oldest_waits_ms: oldest.map_or(0, |at| millis(now.saturating_duration_since(at))),
            suspended: account.suspended(),
        }
    }
}

impl Run {
    /// Tells how it stands with each account.
    pub(super) fn tell_standings(&self, now: Instant) {
        let standings = self.accounts.iter().map(|(portal, account)| AccountStanding::of(portal, account, &self.service, now)).collect();
        *self.service.connections().metrics().standings.lock().unwrap_or_else(PoisonError::into_inner) = standings;
    }
}
