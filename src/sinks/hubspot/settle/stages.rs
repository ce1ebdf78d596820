//! What the end of a stage delta means, with the one line in the log that each of them leaves.

use crate::metrics::FreshKind;
use crate::model::outputs::DealStage;
use crate::model::reason;
use crate::sinks::hubspot::entries::{Records, Stages};
use crate::sinks::hubspot::lanes::Work;
use crate::sinks::hubspot::overwritten::Moved;
use crate::sinks::hubspot::queue::Tries;
use crate::sinks::hubspot::record::Receipt;
use crate::sinks::hubspot::run::Run;
use crate::sinks::hubspot::work::{Fate, Report};
use std::time::Instant;

impl Run {
    /// Stage deltas: each fate is that of the deal's oldest delta.
    pub(in crate::sinks::hubspot) fn stages_done(&mut self, portal: &str, report: Report<Stages>, now: Instant) {
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
}
