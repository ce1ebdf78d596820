//! From fates to settlements: what each record's end means for ledger, offsets, parked records, dead letters and queues.
//!
//! Here is what all kinds of work have in common; `settle/` has a file for each of them, with the name of the file that sends it.
//!
//! # Safety
//! A record leaves memory by one of four doors, each of which is in the settlement that the same loop turn commits: the ledger
//! (delivered, dropped), the dead letters (with the ledger), the parked records, or back into its queue. Only the first three let the
//! offset pass.

mod contacts;
mod emails;
mod events;
mod stages;

use super::entries::Records;
use super::lanes::Work;
use super::queue::Entry;
use super::record::Receipt;
use super::run::Run;
use super::work::{Again, Fate, Report, Suspend};
use crate::metrics::FreshKind;
use crate::model::reason;
use crate::model::time::{Ms, millis, now as wall_ms};
use crate::state::DeadLetterRow;
use std::time::{Duration, Instant};

/// The pause after the first failed try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The pause after so many failed tries, between half and all of the doubled one: `spread` is 0 to 1.
pub fn backoff(attempts: u32, cap: Duration, spread: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.clamp(1, 20).saturating_sub(1)).min(cap);
    doubled.mul_f64(0.5 + 0.5 * spread.clamp(0.0, 1.0))
}

impl Run {
    /// What a click of `ts` has led to stands in HubSpot.
    fn fresh(&self, kind: FreshKind, ts: Ms) {
        self.service.connections().metrics().fresh(kind, wall_ms().saturating_sub(ts));
    }

    /// A record is done with.
    pub(super) fn settle(&mut self, receipt: &Receipt, outcome: String) {
        self.settlement.done.push((receipt.ledger_key, outcome));
        self.leave(receipt);
    }

    /// A record leaves memory; its offset may pass.
    pub(super) fn leave(&mut self, receipt: &Receipt) {
        match receipt.parked {
            Some(_) => {
                self.loaded.entry(receipt.portal.clone()).or_default().remove(&receipt.ledger_key);
            }
            None => {
                self.tracker.settled(receipt.lane, receipt.raw.partition, receipt.raw.offset);
                self.with(&receipt.portal, |account| account.held[receipt.lane.index()] -= 1);
            }
        }
    }

    /// A record is refused for good.
    pub(super) fn dead(&mut self, receipt: &Receipt, reason: &str, detail: &str) {
        self.stats.dead_letters += 1;
        self.settlement.dead.push(DeadLetterRow {
            id: 0,
            at: wall_ms(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            topic: self.topic(receipt.lane).to_owned(),
            partition: receipt.raw.partition,
            offset: receipt.raw.offset,
            key: receipt.raw.key.clone(),
            payload: receipt.raw.payload.clone(),
        });
        self.settle(receipt, format!("dead: {reason}"));
    }

    /// How to try an entry again: when, or not at all. Records that HubSpot has failed to take for too long become dead letters;
    /// time in which it was not asked, because the account or the work was suspended, does not count.
    fn again<V: Records>(
        &mut self,
        (portal, work): (&str, Work),
        entry: &mut Entry<V>,
        again: Again,
        spread: f64,
        now: Instant,
    ) -> Option<Instant> {
        let Again { counts, cap, after } = again;
        entry.tries.cap = cap.unwrap_or(entry.tries.cap).max(1);
        if !counts {
            return Some(now + after);
        }
        self.stats.retried += 1;
        entry.tries.attempts += 1;
        let wall = wall_ms();
        let account = self.accounts.get(portal);
        entry.value.each(|receipt| {
            if !receipt.failing_since.is_some_and(|since| account.is_some_and(|account| account.unbroken(work, since))) {
                receipt.failing_since = Some(wall);
                self.settlement.failing.push((receipt.ledger_key, wall));
            }
        });
        let limit = wall.saturating_sub(millis(self.settings.give_up_after));
        let given_up = entry.value.take_out(|receipt| receipt.failing_since.is_some_and(|since| since <= limit));
        given_up.iter().for_each(|receipt| self.dead(receipt, reason::GAVE_UP, "HubSpot kept failing"));
        let pause = backoff(entry.tries.attempts, self.settings.retry_cap, spread);
        (!entry.value.none_left()).then(|| now + pause.max(after))
    }

    /// What is the same for every kind of batch.
    fn reported<V>(&mut self, portal: &str, work: Work, report: Report<V>, now: Instant) -> Vec<(Entry<V>, Fate)> {
        let Report { mut fates, suspend, ignored, known, unsure, doubt } = report;
        let lane = work.lane();
        let done = |fate: &Fate| matches!((work, fate), (_, Fate::Delivered) | (Work::Emails, Fate::Contact(_) | Fate::NoContact));
        self.stats.ignored += ignored;
        self.stats.known += known;
        let Some(account) = self.accounts.get_mut(portal) else { return Vec::new() };
        account.in_flight[lane.index()] -= 1;
        if unsure {
            // A number of its own for each such send: entries of one number were in every such send together.
            self.sends += 1;
            fates.iter_mut().for_each(|(entry, _)| entry.tries.together = Some(self.sends));
        }
        if fates.iter().any(|(_, fate)| *fate == Fate::Delivered) {
            account.written(lane);
        }
        if let (Some(why), [(entry, fate)]) = (doubt, fates.as_mut_slice())
            && account.doubted(lane, &entry.key, &mut entry.tries.doubted)
        {
            // It does not seem to be the record's fault, so its time does not begin to run.
            *fate = Fate::Again(Again { cap: Some(1), ..Again::default() });
            if account.suspend_in_doubt(work, &why, now) {
                tracing::error!(event = "hubspot_suspended", portal, ?work, "suspended: {why}");
            }
        }
        account.suspects[work as usize].look(&mut fates, now, rand::random::<u16>().into());
        match suspend {
            // A scope that finding contacts lacks is in no other work's way.
            Some(Suspend { lane, why }) => {
                let stopped = lane.map(|_| work);
                if account.suspend(stopped, &why, now) {
                    tracing::error!(event = "hubspot_suspended", portal, ?stopped, "suspended: {why}");
                }
            }
            None if fates.iter().any(|(_, fate)| done(fate)) && account.resume(work) => {
                tracing::info!(event = "hubspot_resumed", portal, ?work, "resumed");
            }
            None => {}
        }
        fates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let cap = Duration::from_secs(60);
        assert_eq!(backoff(1, cap, 1.0), FIRST_PAUSE);
        assert_eq!(backoff(1, cap, 0.0), FIRST_PAUSE / 2);
        assert_eq!(backoff(4, cap, 1.0), FIRST_PAUSE * 8);
        assert_eq!(backoff(u32::MAX, cap, 1.0), cap);
    }
}
