//! Everything the sandbox knows: portals, grants, templates, limits, the log of requests.

use crate::config::Config;
use crate::limits::Limits;
use crate::oauth::OAuth;
use crate::portal::Portal;
use crate::snapshot::Request;
use crate::timeline::templates::Templates;
use std::collections::{BTreeMap, VecDeque};

/// How many requests the log keeps; older ones are forgotten.
pub(crate) const REQUESTS_KEPT: usize = 50_000;

/// The whole state, behind one lock: every call is a short piece of work in memory.
#[derive(Debug)]
pub(crate) struct World {
    portals: BTreeMap<String, Portal>,
    pub oauth: OAuth,
    pub templates: Templates,
    pub limits: Limits,
    pub requests: VecDeque<Request>,
    /// Requests seen since the start or the last reset.
    pub request_count: u64,
}

impl World {
    /// A world with the configured portals, all empty.
    pub fn new(config: &Config) -> Self {
        let mut world = Self {
            portals: BTreeMap::new(),
            oauth: OAuth::default(),
            templates: Templates::default(),
            limits: Limits::default(),
            requests: VecDeque::new(),
            request_count: 0,
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

    /// A portal together with the templates that its events are made from.
    pub fn portal_and_templates(&mut self, id: &str) -> (&mut Portal, &Templates) {
        let portal = self.portals.entry(id.to_owned()).or_insert_with(|| Portal::new(id));
        (portal, &self.templates)
    }

    /// A portal that exists.
    pub fn existing(&self, id: &str) -> Option<&Portal> {
        self.portals.get(id)
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

    /// Back to the start: configured portals, empty; no grants, no templates, no log. Other portals are gone.
    pub fn reset(&mut self, config: &Config) {
        let fresh = Self::new(config);
        let before: Vec<(String, u64)> = self.portals.iter().map(|(id, p)| (id.clone(), p.changes)).collect();
        *self = fresh;
        for (id, changes) in before {
            if let Some(portal) = self.portals.get_mut(&id) {
                portal.changes = changes + 1;
                portal.emptied_at = changes + 1;
            }
        }
    }

    /// Notes a request, forgetting the oldest one when the log is full.
    pub fn note(&mut self, mut request: Request) {
        self.request_count += 1;
        request.number = self.request_count;
        if self.requests.len() == REQUESTS_KEPT {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

/// Whether this can be a HubSpot account id: a positive decimal number that fits 32 bits, as every spec has it.
pub(crate) fn valid_portal_id(id: &str) -> bool {
    id.parse::<i32>().is_ok_and(|n| n > 0 && n.to_string() == id)
}
