//! What a portal holds, as plain owned data: for tests, for the demo's summary, and as JSON from the control API.

use crate::crm::Kind;
use crate::portal::Portal;
use crate::timeline::render::Renderer;
use crate::timeline::templates::Templates;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything in one portal at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// HubSpot account.
    pub portal: String,
    /// All contacts, by id.
    pub contacts: Vec<Contact>,
    /// All deals, by id.
    pub deals: Vec<Deal>,
    /// All timeline events, in the order of their creation.
    pub events: Vec<TimelineEvent>,
}

/// One contact.
#[derive(Clone, Debug, Serialize)]
pub struct Contact {
    /// HubSpot's id.
    pub id: String,
    /// Every property that has a value.
    pub properties: BTreeMap<String, String>,
    /// How many values each property has had; writing the value that is there already does not count.
    pub history: BTreeMap<String, usize>,
    /// Contacts that were merged into this one, oldest first.
    pub merged_ids: Vec<String>,
}

/// One deal.
#[derive(Clone, Debug, Serialize)]
pub struct Deal {
    /// HubSpot's id.
    pub id: String,
    /// Every property that has a value.
    pub properties: BTreeMap<String, String>,
    /// How many values each property has had.
    pub history: BTreeMap<String, usize>,
    /// Associated contacts, by id.
    pub contact_ids: Vec<String>,
    /// Every stage the deal has been in, oldest first.
    pub stages: Vec<StageChange>,
}

/// A deal's arrival in a stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageChange {
    /// The stage's id.
    pub stage: String,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who moved it: `INTEGRATION` (an app), `CRM_UI` (a person), `IMPORT` (seeding), …
    pub source_type: String,
    /// For an app, its id.
    pub source_id: Option<String>,
}

/// One event on a timeline.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineEvent {
    /// The event's own id, unique per template.
    pub id: String,
    /// Its template; the full name of its type when it is an app event, of its definition when it is a custom one.
    pub template_id: String,
    /// The app that wrote it.
    pub app_id: u64,
    /// `contact` or `deal`.
    pub object_type: String,
    /// The record whose timeline it is on.
    pub object_id: String,
    /// The rendered header.
    pub title: String,
    /// The rendered detail.
    pub detail: String,
    /// When it happened, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Its tokens.
    pub tokens: BTreeMap<String, String>,
    /// Its extra data; null when it has none.
    pub extra_data: serde_json::Value,
}

impl Snapshot {
    /// Copies a portal.
    pub(crate) fn of(portal: &Portal, templates: &Templates) -> Self {
        let contacts = portal.contacts.live().map(|r| {
            let (properties, history) = values(portal, Kind::Contact, r);
            Contact { id: r.id.to_string(), properties, history, merged_ids: r.merged.iter().map(u64::to_string).collect() }
        });
        let deals = portal.deals.live().map(|r| {
            let (properties, history) = values(portal, Kind::Deal, r);
            let stages = r.values.get("dealstage").into_iter().flatten().map(|v| StageChange {
                stage: v.value.clone(),
                at_ms: v.at,
                source_type: v.source.source_type().to_owned(),
                source_id: v.source.source_id(),
            });
            let contact_ids = portal.deals.linked_to(r.id).map(|id| id.to_string()).collect();
            Deal { id: r.id.to_string(), properties, history, contact_ids, stages: stages.collect() }
        });
        let renderer = Renderer::new(templates);
        let events = portal.events.iter().map(|e| {
            let (title, detail) = renderer.title_and_detail(portal, e);
            TimelineEvent {
                id: e.key.1.clone(),
                template_id: e.key.0.clone(),
                app_id: e.app_id,
                object_type: e.kind.singular().to_owned(),
                object_id: e.object_id.to_string(),
                title,
                detail,
                timestamp_ms: e.timestamp,
                created_at_ms: e.created_at,
                tokens: e.tokens.read(),
                extra_data: e.extra_data.read(),
            }
        });
        Self { portal: portal.id.clone(), contacts: contacts.collect(), deals: deals.collect(), events: events.collect() }
    }

    /// The contact with this id.
    pub fn contact(&self, id: &str) -> Option<&Contact> {
        self.contacts.iter().find(|c| c.id == id)
    }

    /// The deal with this id.
    pub fn deal(&self, id: &str) -> Option<&Deal> {
        self.deals.iter().find(|d| d.id == id)
    }
}

type ValuesAndCounts = (BTreeMap<String, String>, BTreeMap<String, usize>);

fn values(portal: &Portal, kind: Kind, record: &crate::crm::record::Record) -> ValuesAndCounts {
    let names = portal.schema(kind).properties.keys();
    let set = names.filter_map(|name| Some((name.clone(), record.read(kind, name)?))).collect();
    (
        set,
        record.values.iter().filter(|(_, versions)| !versions.is_empty()).map(|(name, versions)| (name.clone(), versions.len())).collect(),
    )
}
