//! What the search for an address's contact means for the records that name the address: on to the contact, parked, or given up.

use crate::model::reason;
use crate::model::time::{millis, now as wall_ms};
use crate::sinks::hubspot::entries::{Addressed, Records};
use crate::sinks::hubspot::lanes::Work;
use crate::sinks::hubspot::record::Receipt;
use crate::sinks::hubspot::run::Run;
use crate::sinks::hubspot::work::{Fate, Report};
use std::time::{Duration, Instant};

/// The longest wait between two looks for a parked record's contact.
const PARK_RETRY_MAX: Duration = Duration::from_secs(3600);

impl Run {
    /// E-mail addresses whose contact was looked for.
    pub(in crate::sinks::hubspot) fn emails_done(&mut self, portal: &str, report: Report<Addressed>, now: Instant) {
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
}
