//! One HubSpot account: its records, their associations, definitions, pipelines and timeline.

mod links;
mod store;
mod timeline;

use crate::changes::{Change, What};
use crate::crm::Kind;
use crate::crm::defaults;
use crate::crm::pipelines::{Pipeline, Stage};
use crate::crm::record::{Record, Source};
use crate::crm::schema::{Authority, Invalid, Schema, validation_error};
use crate::custom_events::definitions::Definitions;
use crate::error::{ApiError, ApiResult};
use crate::forms::Forms;
use crate::timeline::events::{Event, EventKey};
use std::collections::{BTreeMap, HashMap};

pub(crate) use store::{Found, Store};

/// One account.
#[derive(Debug)]
pub(crate) struct Portal {
    pub id: String,
    pub contacts: Store,
    pub deals: Store,
    contact_schema: Schema,
    deal_schema: Schema,
    pub pipelines: Vec<Pipeline>,
    /// Address (also additional ones) → contact.
    emails: BTreeMap<String, u64>,
    /// Timeline events in the order of their creation.
    pub events: Vec<Event>,
    pub event_index: HashMap<EventKey, usize>,
    pub events_of: BTreeMap<(Kind, u64), Vec<usize>>,
    pub event_definitions: Definitions,
    pub forms: Forms,
    /// What happened and was not handed on yet.
    pub feed: Vec<Change>,
    next_id: u64,
    /// Number of the last change.
    pub changes: u64,
    /// The change number at which the portal was emptied last.
    pub emptied_at: u64,
    /// Change number → the record whose last change it was.
    pub recent: BTreeMap<u64, (Kind, u64)>,
}

impl Portal {
    /// An empty account with HubSpot's built-in properties and default pipeline.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            contacts: Store::default(),
            deals: Store::default(),
            contact_schema: Schema::new(Kind::Contact),
            deal_schema: Schema::new(Kind::Deal),
            pipelines: vec![defaults::pipeline()],
            emails: BTreeMap::new(),
            events: Vec::new(),
            event_index: HashMap::new(),
            events_of: BTreeMap::new(),
            event_definitions: Definitions::default(),
            forms: Forms::default(),
            feed: Vec::new(),
            next_id: 100_001,
            changes: 0,
            emptied_at: 0,
            recent: BTreeMap::new(),
        }
    }

    pub fn store(&self, kind: Kind) -> &Store {
        match kind {
            Kind::Contact => &self.contacts,
            Kind::Deal => &self.deals,
        }
    }

    pub fn store_mut(&mut self, kind: Kind) -> &mut Store {
        match kind {
            Kind::Contact => &mut self.contacts,
            Kind::Deal => &mut self.deals,
        }
    }

    pub fn schema(&self, kind: Kind) -> &Schema {
        match kind {
            Kind::Contact => &self.contact_schema,
            Kind::Deal => &self.deal_schema,
        }
    }

    pub fn schema_mut(&mut self, kind: Kind) -> &mut Schema {
        match kind {
            Kind::Contact => &mut self.contact_schema,
            Kind::Deal => &mut self.deal_schema,
        }
    }

    /// A number that no record or pipeline has.
    pub fn new_id(&mut self) -> u64 {
        while self.contacts.taken(self.next_id) || self.deals.taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// The pipeline and stage with this stage id.
    pub fn stage(&self, id: &str) -> Option<(&Pipeline, &Stage)> {
        self.pipelines.iter().find_map(|p| p.stages.iter().find(|s| s.id == id).map(|s| (p, s)))
    }

    /// Finds a record by id, or by a unique property when one is named.
    pub fn find(&self, kind: Kind, id: &str, id_property: Option<&str>) -> ApiResult<Found> {
        let store = self.store(kind);
        match id_property {
            None | Some("hs_object_id") => Ok(id.parse().map_or(Found::Missing, |id| store.find(id))),
            Some("email") if kind == Kind::Contact => {
                Ok(self.emails.get(id.trim().to_lowercase().as_str()).map_or(Found::Missing, |id| Found::Live(*id)))
            }
            Some(name) if self.schema(kind).unique(name) => {
                let mut live = store.live();
                Ok(live.find(|r| r.get(name) == Some(id)).map_or(Found::Missing, |r| Found::Live(r.id)))
            }
            Some(name) => Err(ApiError::validation(format!("{name} is not a unique property of {}", kind.plural()))),
        }
    }

    /// Checks values for a record (none for a new one): definitions, stage in pipeline, unique values.
    pub fn check(
        &self,
        kind: Kind,
        record: Option<u64>,
        values: &[(String, String)],
        authority: Authority,
    ) -> ApiResult<Vec<(String, String)>> {
        let checked = self.schema(kind).check(values, authority);
        let mut invalid = checked.as_ref().err().cloned().unwrap_or_default();
        if kind == Kind::Deal {
            invalid.extend(self.check_stage(record, values));
        }
        let checked = match checked {
            Ok(checked) if invalid.is_empty() => checked,
            _ => return Err(validation_error(&invalid)),
        };
        for (name, value) in checked.iter().filter(|(name, value)| !value.is_empty() && self.schema(kind).unique(name)) {
            if let Found::Live(other) = self.find(kind, value, Some(name))?
                && Some(other) != record
            {
                let what = match kind {
                    Kind::Contact => "Contact",
                    Kind::Deal => "Deal",
                };
                return Err(ApiError::conflict(format!("{what} already exists. Existing ID: {other}")));
            }
        }
        Ok(checked)
    }

    /// A stage must belong to the pipeline that the deal is in after the write.
    fn check_stage(&self, record: Option<u64>, values: &[(String, String)]) -> Option<Invalid> {
        let sent = |name: &str| values.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let now = |name: &str| record.and_then(|id| self.deals.records.get(&id)).and_then(|r| r.get(name));
        if sent("pipeline").is_none() && sent("dealstage").is_none() {
            return None;
        }
        let pipeline = sent("pipeline").or_else(|| now("pipeline")).unwrap_or("default");
        let Some(found) = self.pipelines.iter().find(|p| p.id == pipeline) else {
            let known: Vec<&str> = self.pipelines.iter().map(|p| p.id.as_str()).collect();
            return Some(not_an_option("pipeline", pipeline, &known));
        };
        let stage = sent("dealstage").or_else(|| now("dealstage"))?;
        if stage.is_empty() || found.stages.iter().any(|s| s.id == stage) {
            return None;
        }
        let known: Vec<&str> = found.stages.iter().map(|s| s.id.as_str()).collect();
        Some(not_an_option("dealstage", stage, &known))
    }

    /// Makes a record of checked values. `id` must be free.
    pub fn create(&mut self, kind: Kind, id: Option<u64>, checked: &[(String, String)], source: Source, now: u64) -> u64 {
        let id = id.unwrap_or_else(|| self.new_id());
        self.store_mut(kind).records.insert(id, Record::new(id, now));
        self.feed.push(Change { kind, id, at: now, source, what: What::Created });
        if kind == Kind::Deal && checked.iter().any(|(n, _)| n == "dealstage") && !checked.iter().any(|(n, _)| n == "pipeline") {
            self.apply(kind, id, &[("pipeline".to_owned(), "default".to_owned())], source, now);
        }
        self.apply(kind, id, checked, source, now);
        self.touch(kind, id);
        id
    }

    /// Writes checked values; gives back the names of everything that is set by it, derived values among them.
    pub fn apply(&mut self, kind: Kind, id: u64, checked: &[(String, String)], source: Source, now: u64) -> Vec<String> {
        let mut names: Vec<String> = checked.iter().map(|(name, _)| name.clone()).collect();
        let mut all: Vec<(&str, String, Source)> = checked.iter().map(|(n, v)| (n.as_str(), v.clone(), source)).collect();
        if kind == Kind::Deal {
            let derived = self.derived(checked);
            names.extend(derived.iter().map(|(name, _)| (*name).to_owned()));
            all.extend(derived.into_iter().map(|(n, v)| (n, v, Source::Calculated)));
        }
        let Some(record) = self.store_mut(kind).records.get_mut(&id) else { return names };
        let old_email = record.get("email").map(str::to_owned);
        let mut news = Vec::new();
        for (name, value, source) in all {
            if record.set(name, &value, now, source) {
                news.push(Change { kind, id, at: now, source, what: What::Set { name: name.to_owned(), value } });
            }
        }
        let changed = !news.is_empty();
        let email = record.get("email").map(str::to_owned);
        if changed {
            record.updated_at = now;
            if kind == Kind::Contact && old_email != email {
                old_email.and_then(|e| self.emails.remove(&e));
                email.and_then(|e| self.emails.insert(e, id));
            }
            self.feed.append(&mut news);
            self.touch(kind, id);
        }
        names
    }

    /// What HubSpot calculates when these values of a deal are set.
    fn derived(&self, checked: &[(String, String)]) -> Vec<(&'static str, String)> {
        let mut derived = Vec::new();
        for (name, value) in checked {
            if name == "amount" {
                derived.push(("amount_in_home_currency", value.clone()));
            }
            if name == "dealstage"
                && let Some((_, stage)) = self.stage(value)
            {
                let won = stage.closed() && stage.probability().parse::<f64>().is_ok_and(|p| p >= 1.0);
                derived.push(("hs_is_closed", stage.closed().to_string()));
                derived.push(("hs_is_closed_won", won.to_string()));
                derived.push(("hs_deal_stage_probability", stage.probability().to_owned()));
            }
        }
        derived
    }

    /// Puts a record to the archive: reads no longer find it. Its associations go.
    pub fn archive(&mut self, kind: Kind, id: u64, source: Source, now: u64) {
        self.unlink_all(kind, id, source, now);
        let Some(record) = self.store_mut(kind).records.get_mut(&id) else { return };
        record.archived_at = Some(now);
        record.updated_at = now;
        self.forget_addresses(kind, id);
        self.feed.push(Change { kind, id, at: now, source, what: What::Deleted });
        self.touch(kind, id);
    }

    /// Takes a record out of the archive again, without the associations it had. False when it is not there.
    pub fn restore(&mut self, kind: Kind, id: u64, source: Source, now: u64) -> bool {
        let Some(record) = self.store_mut(kind).records.get_mut(&id).filter(|r| r.archived_at.is_some()) else { return false };
        record.archived_at = None;
        record.updated_at = now;
        if let Some(email) = record.get("email").map(str::to_owned)
            && kind == Kind::Contact
        {
            self.emails.entry(email).or_insert(id);
        }
        self.feed.push(Change { kind, id, at: now, source, what: What::Restored });
        self.touch(kind, id);
        true
    }

    /// Deletes a contact for good: record, history, associations, timeline. Its id is never used again.
    pub fn erase(&mut self, id: u64, source: Source, now: u64) {
        let kind = Kind::Contact;
        let archived = self.contacts.records.get(&id).is_some_and(|r| r.archived_at.is_some());
        self.unlink_all(kind, id, source, now);
        let Some(record) = self.contacts.records.remove(&id) else { return };
        self.recent.remove(&record.touched);
        self.forget_addresses(kind, id);
        self.contacts.erased.insert(id);
        self.contacts.linked.remove(&id);
        self.keep_events(|event| event.kind != kind || event.object_id != id);
        self.forms.forget(&record);
        if !archived {
            self.feed.push(Change { kind, id, at: now, source, what: What::Deleted });
        }
        self.feed.push(Change { kind, id, at: now, source, what: What::PrivacyDeleted });
        self.changes += 1;
    }

    fn forget_addresses(&mut self, kind: Kind, id: u64) {
        self.emails.retain(|_, contact| kind != Kind::Contact || *contact != id);
    }
}

fn not_an_option(name: &str, value: &str, known: &[&str]) -> Invalid {
    let message = format!("{value} was not one of the allowed options: [{}]", known.join(", "));
    Invalid { name: name.to_owned(), code: "INVALID_OPTION", message }
}
