//! What the loop does beside the deltas: get accounts ready, bring parked records back, forget old ledger rows, publish dead letters.

use super::dead_letters::{self, Published};
use super::entries::Records as _;
use super::lanes::Work;
use super::portal::NO_EVENTS;
use super::prepare;
use super::record::{Delta, Lane, Raw, Receipt};
use super::run::{Done, Run};
use super::work::Suspend;
use crate::model::reason;
use crate::model::time::{millis, now as wall_ms};
use crate::oauth::Feature;
use crate::state::{ALIVE_EVERY, DeadLetterRow, Park};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Parked records of one account that may be in memory.
const PARKED_HELD: usize = 500;
/// A parked record that was loaded is due again after this, should we crash.
const PARKED_LEASE_MS: u64 = 600_000;
/// How often parked records are looked for that nobody looks after.
const ORPHANS_EVERY: Duration = Duration::from_secs(600);
/// How often the time of parked records begins anew while their contacts may not be looked for.
const ANEW_EVERY: Duration = Duration::from_secs(3600);
/// Ledger rows forgotten at once.
const PRUNE: usize = 5_000;

impl Run {
    /// Begins the preparations that are due.
    pub(super) fn prepare(&mut self, now: Instant) {
        for (portal, account) in &mut self.accounts {
            if account.preparation.begins(now) {
                let (service, settings, portal) = (Arc::clone(&self.service), Arc::clone(&self.settings), portal.clone());
                self.chores.spawn_local(async move {
                    let prepared = prepare::account(&service, &settings, &portal).await;
                    Done::Prepared(portal, prepared)
                });
            }
        }
    }

    pub(super) fn prepared(&mut self, portal: &str, prepared: prepare::Prepared, now: Instant) {
        let prepare::Prepared { event_api, provisioned, refused, problem, again } = prepared;
        let gated = Work::ALL.map(|work| self.gate(portal, work).is_some());
        self.with(portal, |account| {
            account.preparation.ended();
            if let Some(after) = again {
                account.preparation.wish(now + after);
            }
            if provisioned {
                // What HubSpot refused before may be in order now; if not, it says so again.
                let before = std::mem::replace(&mut account.refused, refused.into_iter().collect());
                for (name, why) in account.refused.iter().filter(|(name, why)| before.get(*name) != Some(*why)) {
                    tracing::error!(event = "property_refused", portal, property = name, "this property can't be written: {why}");
                }
                if !account.refused.is_empty() {
                    account.look_again(now);
                }
            }
            account.event_api = event_api.or(account.event_api.take());
            account.provisioned |= provisioned;
            if problem.is_none() && again.is_none() {
                // Every request was answered, so what an earlier preparation ran into is out of the way.
                account.ready(gated);
            }
            if let Some(Suspend { lane, why }) = problem {
                let work = lane.map(Work::writes);
                if account.suspend(work, &why, now) {
                    tracing::error!(event = "hubspot_suspended", portal, ?work, "suspended: {why}");
                }
            }
        });
    }

    /// Suspends the work that a connection's scopes do not allow, before HubSpot refuses them; tries again what was given up when a
    /// portal was connected.
    fn look_at_connections(&mut self, now: Instant) {
        for portal in self.accounts.keys().cloned().collect::<Vec<_>>() {
            let revived = self.service.connections().revived(&portal);
            self.with(&portal, |account| {
                if std::mem::replace(&mut account.revived, revived) != revived {
                    account.connected();
                    if !(account.provisioned && account.refused.is_empty() && account.event_api.is_some()) {
                        account.preparation.wish(now);
                    }
                }
            });
            for work in Work::ALL {
                let Some(why) = self.gate(&portal, work) else { continue };
                self.with(&portal, |account| {
                    if account.suspend(Some(work), &why, now) {
                        tracing::error!(event = "hubspot_suspended", portal, ?work, "suspended: {why}");
                    }
                });
            }
        }
    }

    /// Why a connection does not allow a kind of work, if it does not.
    fn gate(&self, portal: &str, work: Work) -> Option<String> {
        let feature = match work {
            Work::Stages => Feature::MoveDeals,
            Work::Emails => Feature::FindContacts,
            Work::Contacts => Feature::ContactProperties,
            Work::Events => Feature::Events,
        };
        if work == Work::Events && self.settings.portals.get(portal).is_some_and(|portal| !portal.events_allowed()) {
            return Some(NO_EVENTS.to_owned());
        }
        let missing = self.service.connections().missing(portal, feature);
        (!missing.is_empty())
            .then(|| format!("to {feature} the app lacks the scope {}: add it and install the app again", missing.join(", ")))
    }

    /// Parked records that are due, contacts that appeared, old ledger rows, counters.
    pub(super) fn look_around(&mut self, now: Instant) -> anyhow::Result<()> {
        let wall = wall_ms();
        if now >= self.alive_at {
            self.alive_at = now + ALIVE_EVERY;
            self.state.alive(wall)?;
        }
        self.look_at_connections(now);
        for (portal, email) in std::mem::take(&mut self.appeared) {
            self.state.parked_appeared(&portal, &email, wall)?;
        }
        for portal in self.accounts.keys().cloned().collect::<Vec<_>>() {
            if !self.keep_addresses(&portal, wall, now)? {
                self.load_parked(&portal, wall, now)?;
            }
        }
        if now >= self.orphans_at {
            self.orphans_at = now + ORPHANS_EVERY;
            self.give_up_orphans(wall)?;
        }
        self.catch_up();
        let ledger_for = u64::try_from(self.settings.ledger_for.as_millis()).unwrap_or(u64::MAX);
        self.state.prune(wall.saturating_sub(ledger_for), PRUNE)?;
        self.state.prune_erasures(wall.saturating_sub(ledger_for))?;
        self.stats.parked = self.state.parked_count()?;
        let (open, oldest) = self.state.dead_letters_open()?;
        self.stats.dead_letters_open = open;
        self.stats.dead_letters_oldest_at = oldest.unwrap_or(0);
        self.tell_standings(now);
        Ok(())
    }

    /// Gives up parked records whose account or topic is no longer configured, once they have waited for as long as any other.
    fn give_up_orphans(&mut self, wall: u64) -> anyhow::Result<()> {
        let portals: Vec<String> = self.accounts.keys().cloned().collect();
        let before = wall.saturating_sub(millis(self.settings.park_for));
        for row in self.state.parked_orphans(&portals, &self.topics, before, PRUNE)? {
            tracing::warn!(
                event = "parked_given_up",
                portal = row.portal,
                topic = row.topic,
                "a parked record is given up: its account or topic is no longer configured"
            );
            self.stats.dead_letters += 1;
            self.settlement.dead.push(DeadLetterRow {
                id: 0,
                at: wall,
                reason: reason::NO_CONTACT.to_owned(),
                detail: "no contact appeared in time, and the record's account or topic is no longer configured".to_owned(),
                topic: row.topic,
                partition: row.partition,
                offset: row.offset,
                key: row.key,
                payload: row.payload,
            });
            self.settlement.done.push((row.ledger_key, format!("dead: {}", reason::NO_CONTACT)));
        }
        Ok(())
    }

    /// While an account's contacts may not be looked for by address, what waits for that is parked, so that it fills no memory that other
    /// records need, and the time that a parked record has does not run. Says whether that is so. They are due as soon as it is over.
    fn keep_addresses(&mut self, portal: &str, wall: u64, now: Instant) -> anyhow::Result<bool> {
        let Some(account) = self.accounts.get_mut(portal) else { return Ok(false) };
        let (suspended, closed) = account.suspended_alone(Work::Emails, now);
        let anew = if suspended { account.anew_at.is_none_or(|at| at <= now) } else { account.anew_at.is_some() };
        let waiting = if closed { account.lanes.emails.drain() } else { Vec::new() };
        if anew {
            account.anew_at = suspended.then(|| now + ANEW_EVERY);
            self.state.parked_anew(portal, wall)?;
        }
        for (email, mut value) in waiting {
            let mut receipts = Vec::new();
            value.each(|receipt| receipts.push(receipt.clone()));
            for receipt in receipts {
                let row = receipt.park(self.topic(receipt.lane), portal, &email, wall, wall);
                // It was not looked for.
                self.settlement.park.push(Park { tries: row.tries.saturating_sub(1), ..row });
                self.leave(&receipt);
            }
        }
        Ok(closed)
    }

    /// Brings an account's parked records back that are due, as many as it may have in memory.
    fn load_parked(&mut self, portal: &str, wall: u64, now: Instant) -> anyhow::Result<()> {
        let room = PARKED_HELD.saturating_sub(self.loaded.get(portal).map_or(0, HashSet::len));
        if room == 0 {
            return Ok(());
        }
        for mut row in self.state.parked_due(portal, wall, room)? {
            row.next_at = wall + PARKED_LEASE_MS;
            self.settlement.park.push(row.clone());
            let Some(lane) = Lane::of(&self.topics, &row.topic) else { continue };
            let Ok(delta) = Delta::decode(lane, &row.payload) else { continue };
            let raw = Raw { partition: row.partition, offset: row.offset, key: row.key, payload: row.payload };
            let parked = Some((row.parked_at, row.tries));
            let failing_since = self.state.failing_since(row.ledger_key)?;
            let person = delta.person().cloned();
            let receipt =
                Receipt { lane, portal: row.portal, raw, ledger_key: row.ledger_key, parked, failing_since, person, fresh: false };
            if self.loaded.entry(portal.to_owned()).or_default().insert(row.ledger_key) {
                self.with(portal, |account| account.lanes.push(delta, receipt, now));
            }
        }
        Ok(())
    }

    /// Brings refused records to their topic, one round at a time; after a round that failed not at once again.
    pub(super) fn publish(&mut self, now: Instant) {
        if self.publishing || self.published || now < self.publish_at {
            return;
        }
        self.publishing = true;
        let (dead_letters, commits) = (Arc::clone(&self.dead_letters), self.dead_commits);
        self.chores.spawn_local(async move { Done::Published(commits, dead_letters.publish().await) });
    }

    pub(super) fn was_published(&mut self, commits: u64, result: Published, now: Instant) {
        self.publishing = false;
        // What was committed meanwhile was not seen.
        self.published = result == Published::All && commits == self.dead_commits;
        self.publish_failures = match result {
            Published::Failed(why) => {
                tracing::warn!(
                    event = "dead_letters_stuck",
                    "dead letters wait in the state database, for they can't be brought to their topic: {why}"
                );
                self.publish_failures.saturating_add(1)
            }
            _ => 0,
        };
        self.publish_at = now + dead_letters::pause(self.publish_failures);
    }
}
