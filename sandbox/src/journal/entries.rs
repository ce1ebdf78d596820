//! The journals of all apps: subscriptions, filters, entries, snapshots.

use super::feed::{about, event};
use super::filters::Filter;
use super::subscriptions::Subscription;
use crate::changes::{Change, What};
use crate::clock::iso;
use crate::limits::DAY_MS;
use crate::portal::Portal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// How long an entry is kept.
const KEPT_MS: u64 = 3 * DAY_MS;

/// One entry: what one moment brought to one portal.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub offset: Uuid,
    pub at: u64,
    pub portal: String,
    events: Vec<Value>,
}

impl Entry {
    /// The file behind the entry. Its format is not in the specification: it is what clients in the field read.
    pub fn file(&self) -> Value {
        json!({ "offset": self.offset.to_string(), "publishedAt": iso(self.at), "journalEvents": self.events })
    }
}

/// A snapshot that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub app: usize,
    pub at: u64,
    /// None when it was made.
    pub error: Option<(&'static str, String)>,
}

/// Everything that apps have subscribed to, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Journals {
    pub(super) subscriptions: BTreeMap<u64, Subscription>,
    pub(super) filters: BTreeMap<u64, Filter>,
    pub(super) snapshots: BTreeMap<Uuid, Snapshot>,
    entries: BTreeMap<usize, VecDeque<Entry>>,
    made: u64,
}

impl Journals {
    /// A number for a subscription or a filter.
    pub(super) fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Writes what happened in a portal into the journals of the apps that subscribe to it.
    pub fn append(&mut self, portal: &Portal, changes: &[Change], now: u64) {
        let mut by_app: BTreeMap<usize, Vec<(usize, Value)>> = BTreeMap::new();
        for subscription in self.subscriptions.values().filter(|s| s.portal == portal.id) {
            let filters: Vec<&Filter> = self.filters.values().filter(|f| f.subscription == subscription.id).collect();
            let mut seen = Vec::new();
            for (at, change) in changes.iter().enumerate() {
                let record = (change.kind, change.id);
                // All new values of a record are one event, and a new record tells its values with its creation.
                let first = !matches!(change.what, What::Set { .. }) || !seen.contains(&record);
                if matches!(change.what, What::Set { .. } | What::Created) {
                    seen.push(record);
                }
                if !first || !subscription.wants(change, &changes[at..]) {
                    continue;
                }
                if !filters.is_empty() && !filters.iter().any(|f| f.passes(portal, change)) {
                    continue;
                }
                let event = event(subscription, portal, change, about(change, &changes[at..]));
                by_app.entry(subscription.app).or_default().push((at, event));
            }
        }
        for (app, mut events) in by_app {
            events.sort_by_key(|(at, _)| *at);
            self.put(app, &portal.id, events.into_iter().map(|(_, event)| event).collect(), now);
        }
    }

    /// Adds an entry, and forgets those that are too old.
    pub(super) fn put(&mut self, app: usize, portal: &str, events: Vec<Value>, now: u64) {
        let entries = self.entries.entry(app).or_default();
        entries.push_back(Entry { offset: Uuid::now_v7(), at: now, portal: portal.to_owned(), events });
        while entries.front().is_some_and(|e| e.at + KEPT_MS <= now) {
            entries.pop_front();
        }
    }

    /// The entries of an app (in one portal, when one is named) that are not too old, oldest first.
    pub(super) fn entries(&self, app: usize, portal: Option<&str>, now: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let all = self.entries.get(&app).into_iter().flatten();
        all.filter(move |e| now < e.at + KEPT_MS && portal.is_none_or(|p| p == e.portal))
    }

    /// The entry with this offset, of whatever app.
    pub(super) fn entry(&self, offset: Uuid, now: u64) -> Option<&Entry> {
        self.entries.values().flatten().find(|e| e.offset == offset && now < e.at + KEPT_MS)
    }
}
