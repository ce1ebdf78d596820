//! What an account must have before the first write: a type of event, and contact properties that can be written.
//!
//! Idempotent: look, make what is missing, take "exists already" for an answer. With [`Change::Look`] nothing is made.

use super::budget::Share;
use super::event_api::{CUSTOM_EXTRA, EventApi, batch_max};
use super::outcome::{Outcome, text};
use super::portal::{Events, NO_EVENTS, Portal};
use super::request;
use super::service::Service;
use super::settings::Settings;
use super::work::listed;
use crate::http;
use crate::model::time::now;
use crate::oauth::Feature;
use crate::secret::Secret;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The template's name in the app, and the event's label in an account; by it an existing template is found.
const EVENT_LABEL: &str = "Short-link click";
/// The custom event's own name in an account.
const EVENT_NAME: &str = "short_link_click";
/// The tokens of an event: the title, and what [`crate::dataflow::outputs::TOKENS`] lists.
const TOKENS: [(&str, &str); 6] = [
    ("title", "Title"),
    ("link_slug", "Link slug"),
    ("destination_url", "Destination URL"),
    ("campaign_name", "Campaign"),
    ("country", "Country"),
    ("device", "Device"),
];
/// Why a property that is missing stays so.
const UNMADE: &str = "it is missing, and the app lacks the scope crm.schemas.contacts.write to make it: add the scope and install the app \
                      again, or make the property in HubSpot";
/// Why a type of event is taken as it is.
const GIVEN: &str = "the configuration names it";
/// The group that our contact properties are in.
const GROUP: &str = "elido";

/// How often a property is looked for that HubSpot says exists: what has just been made may take a moment to show.
const LOOKS: usize = 3;
/// Between two of these looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether to change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make what is missing.
    Make,
    /// Only look.
    Look,
}

/// How a thing that an account must have stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was there.
    Ready,
    /// It was missing and is there now.
    Made,
    /// It is missing.
    Missing,
    /// It is there and of no use, or can't be made; why, and what to do.
    Refused(String),
    /// Nobody has looked, or can; why.
    Unchecked(&'static str),
}

/// A thing that an account must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// How it stands.
    pub standing: Standing,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { what, standing } = self;
        match standing {
            Standing::Ready => write!(f, "{what}: ready"),
            Standing::Made => write!(f, "{what}: made"),
            Standing::Missing => write!(f, "{what}: missing; the next start makes it"),
            Standing::Refused(why) => write!(f, "{what}: {why}"),
            Standing::Unchecked(why) => write!(f, "{what}: not checked; {why}"),
        }
    }
}

/// A template, as HubSpot takes it. `extraData` is not rendered, so that it stays out of the default view.
fn template() -> Value {
    let detail = "{{#if destination_url}}Destination: {{destination_url}}\n{{/if}}{{#if campaign_name}}Campaign: {{campaign_name}}\n{{/if}}\
                  {{#if country}}Country: {{country}}\n{{/if}}{{#if device}}Device: {{device}}{{/if}}";
    let tokens: Vec<Value> = TOKENS.iter().map(|(name, label)| token(name, label)).collect();
    json!({ "name": EVENT_LABEL, "objectType": "contacts", "headerTemplate": "{{title}}", "detailTemplate": detail, "tokens": tokens })
}

fn token(name: &str, label: &str) -> Value {
    json!({ "name": name, "label": label, "type": "string", "options": [] })
}

/// A custom event's definition, as HubSpot takes it.
fn definition() -> Value {
    let labels = TOKENS.iter().map(|(name, label)| (*name, *label)).chain(CUSTOM_EXTRA.iter().map(|(name, label, _)| (*name, *label)));
    let properties: Vec<Value> = labels.map(|(name, label)| json!({ "name": name, "label": label, "type": "string" })).collect();
    json!({
        "name": EVENT_NAME, "label": EVENT_LABEL, "primaryObject": "CONTACT", "includeDefaultProperties": false,
        "propertyDefinitions": properties,
    })
}

/// Finds an account's type of event, or makes it; without one there is no [`EventApi`]. One that the configuration names is taken as it is:
/// [`super::given`] looks at it.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn event_type(
    service: &Service,
    settings: &Settings,
    portal: &str,
    change: Change,
) -> Result<(Option<EventApi>, Finding), Outcome> {
    let unusable = |e: anyhow::Error| Outcome::Transient(format!("{e:#}"), None);
    // Refused when the settings were checked.
    let Some(account) = settings.portals.get(portal) else { return Err(Outcome::Unauthorized) };
    if !account.events_allowed() {
        let finding = Finding { what: "type of event".to_owned(), standing: Standing::Refused(NO_EVENTS.to_owned()) };
        return Ok((None, finding));
    }
    let ready = |event_type: String, standing: Standing| {
        let batch_max = account.event_batch.map_or(batch_max(account.events), |most| most.min(batch_max(account.events)));
        let finding = Finding { what: format!("type of event {event_type}"), standing };
        Ok((Some(EventApi { api: account.events, event_type, batch_max }), finding))
    };
    let found = match account {
        Portal { events: Events::Timeline, event_template_id: Some(given), .. } => return ready(given.clone(), Standing::Unchecked(GIVEN)),
        Portal { events: Events::AppEvents | Events::CustomEvents, event_type: Some(given), .. } => {
            return ready(given.clone(), Standing::Unchecked(GIVEN));
        }
        Portal { events: Events::Timeline, app_id: Some(app_id), .. } => {
            let key = settings.read_developer_key().map_err(unusable)?.ok_or(Outcome::Unauthorized)?;
            let http = settings.client().map_err(unusable)?;
            event_template(&http, settings, *app_id, &key, change).await?
        }
        Portal { events: Events::CustomEvents, .. } => event_definition(service, settings, portal, change).await?,
        Portal { events: Events::Timeline | Events::AppEvents, .. } => return Err(Outcome::Unauthorized),
    };
    match found {
        Some((event_type, standing)) => ready(event_type, standing),
        None => Ok((None, Finding { what: format!("type of event {EVENT_LABEL:?}"), standing: Standing::Missing })),
    }
}

/// Finds the app's event template, or makes it; adds tokens that an older one lacks.
async fn event_template(
    http: &reqwest::Client,
    settings: &Settings,
    app_id: u64,
    key: &Secret,
    change: Change,
) -> Result<Option<(String, Standing)>, Outcome> {
    let address = format!("{}{}/{app_id}/event-templates", settings.base_url, settings.paths.timeline);
    // The developer key travels in the query: HubSpot offers no other way. No message of ours quotes an address.
    let call = |method: reqwest::Method, rest: &str| http.request(method, format!("{address}{rest}")).query(&[("hapikey", key.reveal())]);
    let answer = send(call(reqwest::Method::GET, "")).await?;
    let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some(EVENT_LABEL);
    let id = |t: &Value| t.get("id").and_then(text);
    // One that is not found is made, and an event has its id in one template only.
    if let Some(found) = listed(&answer)?.iter().find(named)
        && let Some(id) = id(found)
    {
        let has = |name: &str| found.get("tokens").and_then(Value::as_array).is_some_and(|tokens| tokens.iter().any(|t| t["name"] == name));
        let lacking: Vec<_> = TOKENS.iter().filter(|(name, _)| !has(name)).collect();
        if change == Change::Make {
            for (name, label) in &lacking {
                send(call(reqwest::Method::POST, &format!("/{id}/tokens")).json(&token(name, label))).await?;
            }
        }
        let standing = match (lacking.is_empty(), change) {
            (true, _) => Standing::Ready,
            (false, Change::Make) => Standing::Made,
            (false, Change::Look) => Standing::Missing,
        };
        return Ok(Some((id, standing)));
    }
    if change == Change::Look {
        return Ok(None);
    }
    let made = send(call(reqwest::Method::POST, "").json(&template())).await?;
    let id = id(&made).ok_or_else(|| Outcome::Transient("a template without an id".to_owned(), None))?;
    Ok(Some((id, Standing::Made)))
}

pub(super) async fn send(call: reqwest::RequestBuilder) -> Result<Value, Outcome> {
    match Outcome::of(http::exchange(call).await, now()) {
        Outcome::Done(body) => Ok(body),
        outcome => Err(outcome),
    }
}

/// Finds the account's definition of our custom event, or makes it.
async fn event_definition(
    service: &Service,
    settings: &Settings,
    portal: &str,
    change: Change,
) -> Result<Option<(String, Standing)>, Outcome> {
    let area = &settings.paths.event_definitions;
    let name = |body: &Value| body.get("fullyQualifiedName").and_then(Value::as_str).map(str::to_owned);
    let nameless = || Outcome::Transient("a definition without a name".to_owned(), None);
    let look = request::get(format!("{area}/{}", request::segment(&format!("pe{portal}_{EVENT_NAME}"))));
    match service.call(portal, &look, Share::Bulk).await {
        Outcome::Done(body) => return Ok(Some((name(&body).ok_or_else(nameless)?, Standing::Ready))),
        Outcome::NotFound(_) if change == Change::Look => return Ok(None),
        Outcome::NotFound(_) => {}
        outcome => return Err(outcome),
    }
    match service.call(portal, &request::create(area.clone(), definition()), Share::Bulk).await {
        Outcome::Done(body) => Ok(Some((name(&body).ok_or_else(nameless)?, Standing::Made))),
        // Somebody else has just made it; the next look finds it.
        Outcome::Exists => Err(Outcome::Transient("the definition has just been made".to_owned(), None)),
        outcome => Err(outcome),
    }
}

/// Looks at the contact properties that are written, and makes those that are missing; says of each how it stands.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn contact_properties(
    service: &Service,
    settings: &Settings,
    portal: &str,
    change: Change,
) -> Result<BTreeMap<String, Standing>, Outcome> {
    let area = format!("{}/contacts", settings.paths.properties);
    let create = async |path: String, body: Value| match service.call(portal, &request::create(path, body), Share::Bulk).await {
        Outcome::Done(_) => Ok(Creation::Made),
        Outcome::Exists => Ok(Creation::Exists),
        Outcome::Forbidden(_) => Ok(Creation::Not(UNMADE.to_owned())),
        Outcome::Refused(refusal) => Ok(Creation::Not(format!(
            "it is missing, and HubSpot does not make it: {}; make it in HubSpot, or name another property in field_mapping",
            refusal.detail()
        ))),
        outcome => Err(outcome),
    };
    let mut found = BTreeMap::new();
    if settings.provision.is_empty() {
        return Ok(found);
    }
    let answer = match service.call(portal, &request::get(area.clone()), Share::Bulk).await {
        Outcome::Done(body) => body,
        outcome => return Err(outcome),
    };
    let known: BTreeMap<&str, &Value> = listed(&answer)?.iter().filter_map(|p| Some((p.get("name")?.as_str()?, p))).collect();
    // What can't be made is in no other property's way; why nothing can.
    let mut none = (!service.connections().missing(portal, Feature::MakeProperties).is_empty()).then(|| UNMADE.to_owned());
    let mut grouped = false;
    for name in &settings.provision {
        let standing = match (known.get(name.as_str()), change) {
            (Some(property), _) => match unwritable(property) {
                Some(why) => Standing::Refused(why),
                None => Standing::Ready,
            },
            (None, Change::Look) => Standing::Missing,
            (None, Change::Make) => {
                if none.is_none() && !grouped {
                    let group = json!({ "name": GROUP, "label": "Elido", "displayOrder": -1 });
                    if let Creation::Not(why) = create(format!("{area}/groups"), group).await? {
                        none = Some(why);
                    }
                    grouped = true;
                }
                let label = name.replace('_', " ");
                let property =
                    json!({ "groupName": GROUP, "name": name, "label": label, "type": "string", "fieldType": "text", "formField": false });
                let created = match &none {
                    Some(why) => Creation::Not(why.clone()),
                    None => create(area.clone(), property).await?,
                };
                match created {
                    Creation::Made => {
                        tracing::info!(event = "property_made", portal, property = name, "contact property made");
                        Standing::Made
                    }
                    Creation::Exists => existing(service, portal, &area, name).await?,
                    Creation::Not(why) => {
                        // A missing scope is missing for the next one, too.
                        none = none.or_else(|| (why == UNMADE).then(|| why.clone()));
                        Standing::Refused(why)
                    }
                }
            }
        };
        found.insert(name.clone(), standing);
    }
    Ok(found)
}

/// What came of making something.
enum Creation {
    Made,
    Exists,
    /// Why not.
    Not(String),
}

/// How a property stands that was not listed and is there all the same: made by somebody else meanwhile, or archived.
async fn existing(service: &Service, portal: &str, area: &str, name: &str) -> Result<Standing, Outcome> {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        for query in ["", "?archived=true"] {
            match service.call(portal, &request::get(format!("{area}/{}{query}", request::segment(name))), Share::Bulk).await {
                Outcome::Done(property) => return Ok(unwritable(&property).map_or(Standing::Ready, Standing::Refused)),
                Outcome::NotFound(_) => {}
                outcome => return Err(outcome),
            }
        }
    }
    // The others are not made to wait for it.
    Ok(Standing::Refused(
        "HubSpot says that it exists, and does not show it; look for it in HubSpot, or name another property in field_mapping".to_owned(),
    ))
}

/// Why a property can't take a last UTM value, by HubSpot's own description of it; all fields may be missing.
fn unwritable(property: &Value) -> Option<String> {
    let flag = |place: &str| property.pointer(place).and_then(Value::as_bool) == Some(true);
    let problem = if flag("/modificationMetadata/readOnlyValue") || flag("/readOnlyValue") {
        "it is read-only in HubSpot".to_owned()
    } else if flag("/calculated") {
        "HubSpot calculates it".to_owned()
    } else if flag("/archived") {
        "it is archived in HubSpot".to_owned()
    } else {
        match property.get("type").and_then(Value::as_str) {
            // An enumeration takes its own options; a value that is none is refused record by record.
            None | Some("string" | "enumeration") => return None,
            Some(other) => format!("it is of type {other}, and campaign values are texts"),
        }
    };
    Some(format!("{problem}; name another property in field_mapping"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_event_take_every_token_that_the_dataflow_sends() {
        for name in crate::dataflow::outputs::TOKENS {
            assert!(TOKENS.iter().any(|(token, _)| *token == name), "{name}");
        }
        let properties = definition()["propertyDefinitions"].as_array().map_or(0, Vec::len);
        assert!((TOKENS.len()..=50).contains(&properties), "HubSpot takes 50 properties: {properties}");
    }

    #[test]
    fn a_property_that_cannot_be_written_says_why() {
        let why = |property: Value| unwritable(&property).unwrap_or_default();
        assert_eq!(why(json!({"name": "a", "type": "string", "modificationMetadata": {"readOnlyValue": false}, "archived": false})), "");
        assert!(why(json!({"type": "string", "modificationMetadata": {"readOnlyValue": true}})).contains("read-only"));
        assert!(why(json!({"type": "string", "calculated": true})).contains("calculates"));
        assert!(why(json!({"type": "string", "archived": true})).contains("archived"));
        assert!(why(json!({"type": "number"})).contains("type number"));
        assert_eq!(why(json!({})), "");
    }
}
