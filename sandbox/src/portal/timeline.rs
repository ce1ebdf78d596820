//! The events on a portal's records.

use super::Portal;
use crate::crm::Kind;
use crate::timeline::events::Event;

impl Portal {
    /// Stores an event of a timeline. When its key is taken the last one wins: the record that had it loses it.
    pub fn put_event(&mut self, event: Event) {
        let (kind, object_id) = (event.kind, event.object_id);
        match self.event_index.get(&event.key).copied() {
            Some(at) => {
                let before = (self.events[at].kind, self.events[at].object_id);
                if let Some(list) = self.events_of.get_mut(&before) {
                    list.retain(|other| *other != at);
                }
                self.touch(before.0, before.1);
                self.events[at] = event;
                self.events_of.entry((kind, object_id)).or_default().push(at);
            }
            None => {
                self.event_index.insert(event.key.clone(), self.events.len());
                self.events_of.entry((kind, object_id)).or_default().push(self.events.len());
                self.events.push(event);
            }
        }
        self.touch(kind, object_id);
    }

    /// Removes every event of the timelines that `keep` does not want.
    pub fn keep_events(&mut self, keep: impl Fn(&Event) -> bool) {
        let kept: Vec<Event> = std::mem::take(&mut self.events).into_iter().filter(keep).collect();
        self.event_index = kept.iter().enumerate().map(|(at, e)| (e.key.clone(), at)).collect();
        let touched: Vec<(Kind, u64)> = self.events_of.keys().copied().collect();
        self.events_of.clear();
        for (at, event) in kept.iter().enumerate() {
            self.events_of.entry((event.kind, event.object_id)).or_default().push(at);
        }
        self.events = kept;
        for (kind, id) in touched {
            self.touch(kind, id);
        }
    }

    /// Lets an address stand for a contact as an additional one.
    pub fn also_known_as(&mut self, email: &str, contact: u64) {
        self.emails.insert(email.to_owned(), contact);
    }

    /// Marks a record as changed for those who watch.
    pub fn touch(&mut self, kind: Kind, id: u64) {
        self.changes += 1;
        let change = self.changes;
        if let Some(record) = self.store_mut(kind).records.get_mut(&id) {
            let before = std::mem::replace(&mut record.touched, change);
            self.recent.remove(&before);
            self.recent.insert(change, (kind, id));
        }
    }
}
