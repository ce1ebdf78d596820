//! Everything the sandbox knows: portals, grants, templates, limits, subscriptions, scripted faults, the log of requests.

use crate::config::Config;
use crate::faults::Faults;
use crate::journal::Journals;
use crate::limits::Limits;
use crate::log::{Request, RequestLog};
use crate::oauth::OAuth;
use crate::portal::Portal;
use crate::timeline::templates::Templates;
use crate::webhooks::Webhooks;
use std::collections::BTreeMap;

/// The whole state, behind one lock: every call is a short piece of work in memory.
#[derive(Debug)]
pub(crate) struct World {
    portals: BTreeMap<String, Portal>,
    pub oauth: OAuth,
    pub templates: Templates,
    pub limits: Limits,
    pub journals: Journals,
    pub webhooks: Webhooks,
    pub faults: Faults,
    pub log: RequestLog,
}

impl World {
    /// A world with the configured portals, all empty.
    pub fn new(config: &Config) -> Self {
        let mut world = Self {
            portals: BTreeMap::new(),
            oauth: OAuth::default(),
            templates: Templates::default(),
            limits: Limits::default(),
            journals: Journals::default(),
            webhooks: Webhooks::default(),
            faults: Faults::default(),
            log: RequestLog::new(config),
        };
        for id in &config.portals {
            world.portal(id);
        }
        world
    }

    /// A portal; one that does not exist yet is opened.
    pub fn portal(&mut self, id: &str) -> &mut Portal {
        self.portals.entry(id.to_owned()).or_insert_with(|| Portal::new(id))
    }

    /// A portal together with the app's templates that its events are made from.
    pub fn portal_and_templates(&mut self, id: &str) -> (&mut Portal, &Templates) {
        let portal = self.portals.entry(id.to_owned()).or_insert_with(|| Portal::new(id));
        (portal, &self.templates)
    }

    /// A portal that exists.
    pub fn existing(&self, id: &str) -> Option<&Portal> {
        self.portals.get(id)
    }

    /// A portal that exists, to change it.
    pub fn existing_mut(&mut self, id: &str) -> Option<&mut Portal> {
        self.portals.get_mut(id)
    }

    /// The ids of all portals, in order.
    pub fn portal_ids(&self) -> Vec<String> {
        self.portals.keys().cloned().collect()
    }

    /// Empties one portal; its grants and tokens live on.
    pub fn reset_portal(&mut self, id: &str) {
        // Change numbers go on, so that a page that watches sees the portal empty.
        let changes = self.portals.get(id).map_or(0, |p| p.changes);
        let portal = self.portal(id);
        *portal = Portal::new(id);
        portal.changes = changes + 1;
        portal.emptied_at = changes + 1;
    }

    /// Back to the start: configured portals, empty; no grants, templates, subscriptions, faults or log. Other portals are gone.
    pub fn reset(&mut self, config: &Config) {
        let mut fresh = Self::new(config);
        fresh.log = self.log.emptied();
        let before: Vec<(String, u64)> = self.portals.iter().map(|(id, p)| (id.clone(), p.changes)).collect();
        *self = fresh;
        for (id, changes) in before {
            if let Some(portal) = self.portals.get_mut(&id) {
                portal.changes = changes + 1;
                portal.emptied_at = changes + 1;
            }
        }
    }

    /// Notes a request in the log.
    pub fn note(&mut self, request: impl Into<Request>) {
        self.log.note(request);
    }

    /// Hands what happened in the portals since the last time on to the journal and the webhooks.
    pub fn publish(&mut self, now: u64) {
        for (id, portal) in &mut self.portals {
            let changes = std::mem::take(&mut portal.feed);
            if !changes.is_empty() {
                self.journals.append(portal, &changes, now);
                self.webhooks.queue(id, &self.oauth, &changes);
            }
        }
    }
}

/// Whether this can be a HubSpot account id: a positive decimal number that fits 32 bits, as every spec has it.
pub(crate) fn valid_portal_id(id: &str) -> bool {
    id.parse::<i32>().is_ok_and(|n| n > 0 && n.to_string() == id)
}
