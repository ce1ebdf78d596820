//! From fates to settlements: what each record's end means for ledger, offsets, parked records, dead letters and queues.
//!
//! # Safety
//! A record leaves memory by one of four doors, each of which is in the settlement that the same loop turn commits: the ledger
//! (delivered, dropped), the dead letters (with the ledger), the parked records, or back into its queue. Only the first three let the
//! offset pass.

use super::account::Account;
use super::entries::{Addressed, Event, Properties, Records, Stages};
use super::lanes::Work;
use super::outcome::refused_everywhere;
use super::overwritten::Moved;
use super::queue::{Entry, Tries};
use super::reason;
use super::record::Receipt;
use super::run::Run;
use super::work::{Again, Fate, Report, Suspend};
use crate::metrics::FreshKind;
use crate::model::outputs::DealStage;
use crate::model::time::{Ms, millis, now as wall_ms};
use crate::state::{ContactValue, DeadLetterRow};
use std::time::{Duration, Instant};

/// The pause after the first failed try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest wait between two looks for a parked record's contact.
const PARK_RETRY_MAX: Duration = Duration::from_secs(3600);

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

    /// Stage deltas: each fate is that of the deal's oldest delta.
    pub(super) fn stages_done(&mut self, portal: &str, report: Report<Stages>, now: Instant) {
        let spread = rand::random();
        let mut moved = Vec::new();
        for (mut entry, fate) in self.reported(portal, Work::Stages, report, now) {
            let sent = entry.value.steps.front().map(|(_, receipt)| receipt.ledger_key);
            self.drop_erased_of(portal, &entry.key, &mut entry.value);
            let left = entry.value.steps.len();
            if entry.value.steps.front().map(|(_, receipt)| receipt.ledger_key) != sent {
                // What came of the request is not to be known of an erased person.
            } else if let Fate::Again(again) = fate {
                if let Some(at) = self.again((portal, Work::Stages), &mut entry, again, spread, now)
                    && entry.value.steps.len() == left
                {
                    self.with(portal, |account| account.lanes.stages.put_back(entry, at));
                    continue;
                }
            } else if let Some((delta, receipt)) = entry.value.steps.pop_front() {
                if fate == Fate::Delivered {
                    let DealStage { deal_id, rule, from_stage, to_stage, .. } = delta.clone();
                    moved.push(Moved { deal: deal_id, rule, from_stage, to_stage });
                }
                self.stage_done(portal, &delta, &receipt, fate);
            }
            if entry.value.none_left() {
                self.with(portal, |account| account.lanes.stages.release(&entry.key));
            } else {
                // The deal's next delta begins anew.
                entry.value.sent = false;
                entry.tries = Tries::new(now);
                self.with(portal, |account| account.lanes.stages.put_back(entry, now));
            }
        }
        self.look_back(portal, &moved);
    }

    fn stage_done(&mut self, portal: &str, delta: &DealStage, receipt: &Receipt, fate: Fate) {
        let DealStage { deal_id: deal, rule, to_stage, .. } = delta;
        match fate {
            Fate::Delivered => {
                self.stats.stages += 1;
                self.fresh(FreshKind::Stage, delta.last_click.ts);
                tracing::info!(event = "deal_moved", portal, deal, rule, to_stage, "deal moved");
                self.settle(receipt, "delivered".to_owned());
            }
            Fate::Dropped(reason) => {
                self.stats.dropped += 1;
                tracing::info!(event = "deal_not_moved", portal, deal, rule, reason, "deal not moved");
                self.settle(receipt, format!("dropped: {reason}"));
            }
            Fate::Dead(reason, detail) => self.stage_refused(portal, delta, receipt, reason, &detail),
            _ => self.stage_refused(portal, delta, receipt, reason::REFUSED, "HubSpot's answer makes no sense for this record"),
        }
    }

    /// The words of HubSpot's are in the dead letter, not in the log.
    fn stage_refused(&mut self, portal: &str, delta: &DealStage, receipt: &Receipt, reason: &str, detail: &str) {
        tracing::warn!(
            event = "deal_not_moved",
            portal,
            deal = delta.deal_id,
            rule = delta.rule,
            reason,
            "deal not moved: HubSpot refuses"
        );
        self.dead(receipt, reason, detail);
    }

    /// Timeline events.
    pub(super) fn events_done(&mut self, portal: &str, report: Report<Event>, now: Instant) {
        let spread = rand::random();
        for (mut entry, fate) in self.reported(portal, Work::Events, report, now) {
            if self.drop_erased_of(portal, &entry.key, &mut entry.value) {
                self.with(portal, |account| account.lanes.events.release(&entry.key));
                continue;
            }
            match fate {
                Fate::Again(again) => {
                    if let Some(at) = self.again((portal, Work::Events), &mut entry, again, spread, now) {
                        self.with(portal, |account| account.lanes.events.put_back(entry, at));
                        continue;
                    }
                }
                Fate::Contact(survivor) => {
                    entry.value.contact = Some(survivor);
                    entry.value.looked_up = true;
                    self.with(portal, |account| account.lanes.events.put_back(entry, now));
                    continue;
                }
                Fate::Dead(reason, detail) => entry.value.receipts.iter().for_each(|r| self.dead(r, reason, &detail)),
                _ => {
                    self.fresh(FreshKind::Event, entry.value.delta.ts);
                    for receipt in &entry.value.receipts {
                        self.stats.events += 1;
                        self.settle(receipt, "delivered".to_owned());
                    }
                }
            }
            self.with(portal, |account| account.lanes.events.release(&entry.key));
        }
    }

    /// E-mail addresses whose contact was looked for.
    pub(super) fn emails_done(&mut self, portal: &str, report: Report<Addressed>, now: Instant) {
        let spread = rand::random();
        for (mut entry, fate) in self.reported(portal, Work::Emails, report, now) {
            if self.drop_erased_of(portal, &entry.key, &mut entry.value) {
                self.with(portal, |account| account.lanes.emails.release(&entry.key));
                continue;
            }
            match fate {
                Fate::Contact(id) => {
                    // Whatever is parked for the address need not wait either.
                    self.appeared.push((portal.to_owned(), entry.key.clone()));
                    self.with(portal, |account| account.lanes.found(&entry.key, &id, entry.value, now));
                }
                Fate::Again(again) => match self.again((portal, Work::Emails), &mut entry, again, spread, now) {
                    Some(at) => self.with(portal, |account| account.lanes.emails.put_back(entry, at)),
                    None => self.with(portal, |account| account.lanes.emails.release(&entry.key)),
                },
                fate => {
                    let mut receipts = Vec::new();
                    entry.value.each(|receipt| receipts.push(receipt.clone()));
                    for receipt in receipts {
                        match &fate {
                            Fate::NoContact => self.park(portal, &entry.key, &receipt),
                            Fate::Dead(reason, detail) => self.dead(&receipt, reason, detail),
                            _ => self.dead(&receipt, reason::REFUSED, "HubSpot's answer makes no sense for this record"),
                        }
                    }
                    self.with(portal, |account| account.lanes.emails.release(&entry.key));
                }
            }
        }
    }

    /// Puts a record aside until the contact of its address appears, or gives it up.
    fn park(&mut self, portal: &str, email: &str, receipt: &Receipt) {
        let now = wall_ms();
        let (since, tries) = receipt.parked.unwrap_or((now, 0));
        if now >= since.saturating_add(millis(self.settings.park_for)) {
            self.dead(receipt, reason::NO_CONTACT, "no contact with this e-mail address appeared in time");
            return;
        }
        let pause = self.settings.park_retry.saturating_mul(1 << tries.min(16)).min(PARK_RETRY_MAX);
        let topic = self.topic(receipt.lane).to_owned();
        self.settlement.park.push(receipt.park(&topic, portal, email, now, now.saturating_add(millis(pause))));
        self.leave(receipt);
    }

    /// Contacts whose properties were written.
    pub(super) fn contacts_done(&mut self, portal: &str, report: Report<Properties>, now: Instant) {
        let spread = rand::random();
        for (mut entry, fate) in self.reported(portal, Work::Contacts, report, now) {
            if self.drop_erased_of(portal, &entry.key, &mut entry.value) {
                self.with(portal, |account| account.lanes.contacts.release(&entry.key));
                continue;
            }
            match fate {
                Fate::Delivered => {
                    for (property, change) in std::mem::take(&mut entry.value.changes) {
                        let (ts, click_id) = change.from;
                        let (portal, contact) = (portal.to_owned(), entry.key.clone());
                        self.settlement.values.push(ContactValue { portal, contact, property, ts, click_id });
                    }
                    self.written(&entry.value, "delivered");
                    self.with(portal, |account| account.lanes.contacts.release(&entry.key));
                }
                Fate::Contact(survivor) if survivor != entry.key => {
                    entry.value.looked_up = true;
                    self.with(portal, |account| {
                        account.lanes.contacts.release(&entry.key);
                        account.lanes.contacts.push(survivor, entry.value, now);
                    });
                }
                fate => self.not_written(portal, entry, fate, spread, now),
            }
        }
    }

    /// The records of a contact that is done with: those that name a refused property are dead letters.
    pub(super) fn written(&mut self, value: &Properties, outcome: &str) {
        for (receipt, names) in &value.receipts {
            if let Some((name, code)) = names.iter().find_map(|name| value.refused.get_key_value(name)) {
                self.dead(receipt, reason::PROPERTY_REFUSED, &format!("HubSpot does not take the property {name}: {code}"));
                continue;
            }
            match outcome {
                "delivered" => self.stats.properties += 1,
                _ => self.stats.superseded += 1,
            }
            self.settle(receipt, outcome.to_owned());
        }
    }

    fn not_written(&mut self, portal: &str, mut entry: Entry<Properties>, fate: Fate, spread: f64, now: Instant) {
        let back = |entry, at| move |account: &mut Account| account.lanes.contacts.put_back(entry, at);
        let (reason, detail) = match fate {
            Fate::Again(again) => {
                return match self.again((portal, Work::Contacts), &mut entry, again, spread, now) {
                    Some(at) => self.with(portal, back(entry, at)),
                    None => self.with(portal, |account| account.lanes.contacts.release(&entry.key)),
                };
            }
            Fate::WithoutProperties(refused) => {
                self.refuse_everywhere(portal, &refused, now);
                if entry.value.refuse(refused.iter().map(|(name, code)| (name, code))) {
                    // What is left is written by the next batch; nothing may be left.
                    return self.with(portal, back(entry, now));
                }
                (reason::REFUSED, "HubSpot refuses a property".to_owned())
            }
            Fate::Dead(reason, detail) => (reason, detail),
            _ => (reason::REFUSED, "HubSpot's answer makes no sense for this record".to_owned()),
        };
        for (receipt, _) in &entry.value.receipts {
            self.dead(receipt, reason, &detail);
        }
        self.with(portal, |account| account.lanes.contacts.release(&entry.key));
    }

    /// A property that is not there, or read-only, is not sent to the account again before it was looked at again.
    fn refuse_everywhere(&mut self, portal: &str, refused: &[(String, String)], now: Instant) {
        for (name, code) in refused.iter().filter(|(_, code)| refused_everywhere(code)) {
            let mut new = false;
            self.with(portal, |account| {
                new = account.refused.insert(name.clone(), code.clone()).is_none();
                account.look_again(now);
            });
            if new {
                tracing::error!(
                    event = "property_refused",
                    portal,
                    property = name,
                    code,
                    "HubSpot does not take this property: correct the field mapping"
                );
            }
        }
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
