//! What the end of a contact's properties means: record by record, and for properties that HubSpot does not take.

use crate::model::reason;
use crate::sinks::hubspot::account::Account;
use crate::sinks::hubspot::entries::Properties;
use crate::sinks::hubspot::lanes::Work;
use crate::sinks::hubspot::outcome::refused_everywhere;
use crate::sinks::hubspot::queue::Entry;
use crate::sinks::hubspot::run::Run;
use crate::sinks::hubspot::work::{Fate, Report};
use crate::state::ContactValue;
use std::time::Instant;

impl Run {
    /// Contacts whose properties were written.
    pub(in crate::sinks::hubspot) fn contacts_done(&mut self, portal: &str, report: Report<Properties>, now: Instant) {
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
                    entry.value.followed = entry.value.followed.saturating_add(1);
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
    pub(in crate::sinks::hubspot) fn written(&mut self, value: &Properties, outcome: &str) {
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
