//! Associations between contacts and deals.

use super::Portal;
use crate::changes::{Change, What};
use crate::crm::Kind;
use crate::crm::record::Source;

impl Portal {
    /// Associates a contact and a deal, both ways.
    pub fn link(&mut self, contact: u64, deal: u64, source: Source, now: u64) {
        let new = self.contacts.linked.entry(contact).or_default().insert(deal);
        self.deals.linked.entry(deal).or_default().insert(contact);
        if new {
            self.tell_association(contact, deal, false, source, now);
        }
        self.touch(Kind::Deal, deal);
    }

    /// Takes an association away, both ways.
    pub fn unlink(&mut self, contact: u64, deal: u64, source: Source, now: u64) {
        let was = self.contacts.linked.entry(contact).or_default().remove(&deal);
        self.deals.linked.entry(deal).or_default().remove(&contact);
        if was {
            self.tell_association(contact, deal, true, source, now);
        }
        self.touch(Kind::Deal, deal);
    }

    /// Takes every association of a record away.
    pub fn unlink_all(&mut self, kind: Kind, id: u64, source: Source, now: u64) {
        let linked: Vec<u64> = self.store(kind).linked_to(id).collect();
        for other in linked {
            let (contact, deal) = kind.contact_and_deal(id, other);
            self.unlink(contact, deal, source, now);
        }
    }

    /// Both ends of an association tell of it.
    fn tell_association(&mut self, contact: u64, deal: u64, removed: bool, source: Source, now: u64) {
        for (kind, id, with) in [(Kind::Contact, contact, deal), (Kind::Deal, deal, contact)] {
            self.feed.push(Change { kind, id, at: now, source, what: What::Associated { with, removed } });
        }
    }
}
