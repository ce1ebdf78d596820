//! What the end of an event means.

use crate::metrics::FreshKind;
use crate::sinks::hubspot::entries::Event;
use crate::sinks::hubspot::lanes::Work;
use crate::sinks::hubspot::run::Run;
use crate::sinks::hubspot::work::{Fate, Report};
use std::time::Instant;

impl Run {
    /// Timeline events.
    pub(in crate::sinks::hubspot) fn events_done(&mut self, portal: &str, report: Report<Event>, now: Instant) {
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
}
