//! Takes in what the readers bring: decodes it, passes over what is settled or held back, and queues the rest.

use super::reader::{Read, Start};
use super::record::{Delta, Lane, Raw, Receipt};
use super::run::Run;
use crate::model::Named;
use crate::model::reason;
use crate::state::{LedgerKey, Standing};
use std::collections::BTreeMap;
use std::time::Instant;

/// Accounts that are named as not configured; of further ones nothing is said.
const STRANGERS: usize = 100;

impl Run {
    /// What a reader brings.
    pub(super) fn take_in(&mut self, lane: Lane, read: Read) -> anyhow::Result<()> {
        match read {
            Read::Assigned(partitions) => {
                for (partition, Start { next, end }) in partitions {
                    self.tracker.start(lane, partition, next, end);
                    self.ends[lane.index()].insert(partition, false);
                }
            }
            Read::End(partition) => {
                self.ends[lane.index()].insert(partition, true);
            }
            Read::Gap { partition, to, records } => {
                self.stats.lost += records;
                self.tracker.pass(lane, partition, to);
            }
            Read::Anew(partition, Start { next, end }) => {
                let gone = self.tracker.anew(lane, partition, next, end);
                self.ends[lane.index()].insert(partition, false);
                self.stats.lost += gone;
                if gone > 0 {
                    tracing::error!(
                        event = "parked_records_lost",
                        topic = self.topic(lane),
                        partition,
                        "{gone} records that were held back are gone with the topic that was there before"
                    );
                }
            }
            Read::Record(raw) => {
                self.ends[lane.index()].insert(raw.partition, false);
                self.tracker.read(lane, raw.partition, raw.offset);
                self.record(lane, raw, false)?;
            }
        }
        Ok(())
    }

    /// Records of a lane that one account may have in memory.
    pub(super) fn share(&self) -> usize {
        (self.settings.held / self.accounts.len().max(1)).max(1)
    }

    /// A record of a delta topic; `again` when it was held back before.
    pub(super) fn record(&mut self, lane: Lane, raw: Raw, again: bool) -> anyhow::Result<()> {
        let delta = match Delta::decode(lane, &raw.payload) {
            Ok(delta) => delta,
            Err(detail) => {
                self.stats.read += 1;
                let place = format!("{}:{}", raw.partition, raw.offset);
                let ledger_key = LedgerKey::of(self.topic(lane), &place);
                let receipt =
                    Receipt { lane, portal: String::new(), ledger_key, raw, parked: None, failing_since: None, person: None, fresh: false };
                if self.erased.named(&Named::in_record(&receipt.raw.payload), &BTreeMap::new()) {
                    self.drop_erased(&receipt);
                    return Ok(());
                }
                self.dead(&receipt, reason::MALFORMED, &detail);
                return Ok(());
            }
        };
        let (several, share, portal) = (self.accounts.len() > 1, self.share(), delta.portal().to_owned());
        let Some(account) = self.accounts.get_mut(&portal) else {
            self.stats.read += 1;
            self.stats.foreign += 1;
            if self.strangers.len() < STRANGERS && self.strangers.insert(portal.clone()) {
                tracing::warn!(
                    event = "delta_passed_over",
                    portal,
                    topic = self.topic(lane),
                    "deltas for an account that is not configured are passed over for good"
                );
            }
            self.tracker.settled(lane, raw.partition, raw.offset);
            return Ok(());
        };
        let full = several && !again && account.held[lane.index()] >= share;
        if full || (!again && self.tracker.held_back(lane, raw.partition, &portal)) {
            self.tracker.hold_back(lane, raw.partition, &portal, raw.offset);
            return Ok(());
        }
        self.stats.read += 1;
        let ledger_key = LedgerKey::of(self.topic(lane), delta.id());
        let mut fresh = self.tracker.fresh(lane, raw.partition, raw.offset);
        let failing_since = match self.state.standing(ledger_key)? {
            Standing::Settled => {
                self.stats.skipped += 1;
                self.tracker.settled(lane, raw.partition, raw.offset);
                return Ok(());
            }
            Standing::Failing(since) => Some(since),
            Standing::Replayed => {
                fresh = false;
                None
            }
            Standing::New => None,
        };
        let person = delta.person().cloned();
        let receipt = Receipt { lane, portal: portal.clone(), ledger_key, raw, parked: None, failing_since, person, fresh };
        self.with(&portal, |account| account.held[lane.index()] += 1);
        if receipt.person.as_ref().is_some_and(|person| self.erased.person(&portal, person)) {
            self.drop_erased(&receipt);
            return Ok(());
        }
        if matches!(&delta, Delta::Stage(delta) if delta.shadow) {
            self.stats.shadow += 1;
            self.settle(&receipt, "shadow".to_owned());
        } else {
            self.with(&portal, |account| account.lanes.push(delta, receipt, Instant::now()));
        }
        Ok(())
    }
}
