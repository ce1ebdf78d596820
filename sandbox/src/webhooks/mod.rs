//! Push webhooks: settings and subscriptions of an app ([`admin`]), what becomes an event ([`payload`]), signing and sending
//! ([`sign`], [`deliver`]).
//!
//! Events go to the one target of the app that they belong to, from every portal the app is installed in: at least once, in
//! no promised order, up to 100 in a request.

pub(crate) mod admin;
pub(crate) mod deliver;
mod payload;
pub(crate) mod sign;

use crate::changes::Change;
use crate::oauth::OAuth;
use deliver::Delivery;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// Events of one request.
pub(crate) const BATCH_MAX: usize = 100;
/// How many attempts the log keeps.
const DELIVERIES_KEPT: usize = 10_000;

/// Where an app wants its events.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub target_url: String,
    pub max_concurrent_requests: u32,
    created_at: u64,
    updated_at: u64,
}

/// One subscription of an app.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    id: u64,
    /// `contact.propertyChange`
    event_type: String,
    property_name: Option<String>,
    active: bool,
    created_at: u64,
    updated_at: u64,
}

/// The webhooks of one app.
#[derive(Debug, Default)]
struct Hooks {
    settings: Option<Settings>,
    subscriptions: BTreeMap<u64, Subscription>,
    queue: VecDeque<Value>,
}

/// The webhooks of all apps.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    by_app: BTreeMap<usize, Hooks>,
    /// Subscriptions, and events, that were ever made.
    made: u64,
    deliveries: VecDeque<Delivery>,
}

/// What is to be sent to one app, in one request.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub app: usize,
    pub settings: Settings,
    pub events: Vec<Value>,
}

impl Webhooks {
    fn hooks(&mut self, app: usize) -> &mut Hooks {
        self.by_app.entry(app).or_default()
    }

    /// Queues what happened in a portal for the apps that are installed there and subscribe to it.
    pub fn queue(&mut self, portal: &str, oauth: &OAuth, changes: &[Change]) {
        for (app, hooks) in &mut self.by_app {
            if hooks.settings.is_none() || hooks.subscriptions.is_empty() || !oauth.portals_of(*app).contains(portal) {
                continue;
            }
            for change in changes {
                for subscription in hooks.subscriptions.values().filter(|s| s.active) {
                    if let Some(event) = payload::event(*app, portal, subscription, change, self.made + 1) {
                        self.made += 1;
                        hooks.queue.push_back(event);
                    }
                }
            }
        }
    }

    /// The next request to send, if there is one.
    pub fn take(&mut self) -> Option<Batch> {
        let (app, hooks) = self.by_app.iter_mut().find(|(_, hooks)| hooks.settings.is_some() && !hooks.queue.is_empty())?;
        let events = hooks.queue.drain(..hooks.queue.len().min(BATCH_MAX)).collect();
        Some(Batch { app: *app, settings: hooks.settings.clone()?, events })
    }

    /// Notes an attempt.
    pub fn note(&mut self, delivery: Delivery) {
        if self.deliveries.len() == DELIVERIES_KEPT {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(delivery);
    }

    /// The attempts of late, oldest first.
    pub fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// Where an app's events go, if it has said so.
    pub fn settings(&self, app: usize) -> Option<&Settings> {
        self.by_app.get(&app)?.settings.as_ref()
    }
}
