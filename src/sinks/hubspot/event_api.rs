//! One event, three of HubSpot's APIs to write it to.
//!
//! Pure. An event has an id, a contact, a time, tokens and extra data, whichever API takes it; here is what they differ in.
//!
//! | | timeline (templates, v3) | app events | custom events |
//! | --- | --- | --- | --- |
//! | the id | `id` | `id` | `uuid`, made from the id |
//! | at most | 100 | 500 (seen, not documented) | 500 |
//! | a batch | each event by itself | all of it or nothing | accepted as a whole |
//! | an id that is known | 409 or 400 | 409, for all of the batch | rejected without a word |
//! | extra data | kept | kept | as properties |
//!
//! An event always names its contact by id: an e-mail address could make a contact, and with an id it would change the contact's address.
//! Of the page that the visitor came from only the public part leaves ([`referrer::public`]).

use super::entries::Event;
use super::paths::Paths;
use super::portal::Events;
use super::referrer;
use super::request::{self, Request};
use crate::model::time::rfc3339;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Longest text of a token or of extra data, bytes. HubSpot takes 510 KB; a referrer of that length is an attack, not a referrer.
const TEXT_MAX: usize = 2048;
/// Longest value of a custom event's property, characters …
const CUSTOM_MAX: usize = 256;
/// … and of one that holds an address.
const CUSTOM_ADDRESS_MAX: usize = 1024;

/// An account's event API, and the type of event that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventApi {
    /// Which one.
    pub api: Events,
    /// Template id, type name or definition name.
    pub event_type: String,
    /// The most events in one request.
    pub batch_max: usize,
}

/// What a success that is not itemised says of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Each event must be in the answer's results.
    Itemised,
    /// The status speaks for all.
    Whole,
}

/// The most events that an API takes in one request.
pub fn batch_max(api: Events) -> usize {
    match api {
        Events::Timeline => 100,
        Events::AppEvents | Events::CustomEvents => 500,
    }
}

impl EventApi {
    /// What a success without results means.
    pub fn acceptance(&self) -> Acceptance {
        match self.api {
            Events::Timeline => Acceptance::Itemised,
            Events::AppEvents | Events::CustomEvents => Acceptance::Whole,
        }
    }

    /// Whether a batch is stored as a whole or not at all.
    pub fn all_or_nothing(&self) -> bool {
        self.api == Events::AppEvents
    }

    /// Creates events: one alone where the API has a path for it, else a batch.
    pub fn request<'a>(&self, paths: &Paths, events: impl IntoIterator<Item = &'a Event>) -> Request {
        let mut inputs: Vec<Value> = events.into_iter().map(|event| self.input(event)).collect();
        let (single, batch) = match self.api {
            // A batch of one is answered as any other batch.
            Events::Timeline => (None, format!("{}/events/batch/create", paths.timeline)),
            Events::AppEvents => (Some(format!("{}/events", paths.app_events)), format!("{}/events/batch", paths.app_events)),
            Events::CustomEvents => (Some(paths.custom_events.clone()), format!("{}/batch", paths.custom_events)),
        };
        match (single, inputs.len()) {
            (Some(path), 1) => request::create(path, inputs.swap_remove(0)),
            _ => request::create(batch, json!({ "inputs": inputs })),
        }
    }

    /// One event as the API takes it.
    pub fn input(&self, event: &Event) -> Value {
        let delta = &event.delta;
        let mut input = match self.api {
            Events::Timeline | Events::AppEvents => {
                let (tokens, extra_data) = shortened(event);
                let (event_type, values) = match self.api {
                    Events::Timeline => ("eventTemplateId", "tokens"),
                    _ => ("eventTypeName", "properties"),
                };
                json!({ event_type: self.event_type, "id": delta.id, "timestamp": rfc3339(delta.ts), values: tokens, "extraData": extra_data })
            }
            Events::CustomEvents => json!({
                "eventName": self.event_type, "uuid": uuid_of(&delta.id), "occurredAt": rfc3339(delta.ts), "properties": custom_properties(event),
            }),
        };
        if let Some(contact) = event.contact() {
            input["objectId"] = contact.into();
        }
        input
    }
}

/// A custom event's own id: the same for the same event, whenever it is sent.
pub fn uuid_of(id: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("clickline:{id}").as_bytes()).to_string()
}

/// Tokens, the title among them, and extra data; what was too long is cut, and the extra data say so.
fn shortened(event: &Event) -> (Map<String, Value>, Value) {
    let mut truncated = false;
    let mut tokens = tokens(event);
    for value in tokens.values_mut() {
        truncated |= shorten(value);
    }
    let mut extra_data = extra_data(event);
    truncated |= shorten(&mut extra_data);
    if truncated && let Value::Object(fields) = &mut extra_data {
        fields.insert("truncated".to_owned(), true.into());
    }
    (tokens, extra_data)
}

/// The extra data as they may leave.
fn extra_data(event: &Event) -> Value {
    let mut data = event.delta.extra_data.clone();
    if let Some(referrer) = data.get_mut("referrer")
        && let Some(whole) = referrer.as_str()
    {
        *referrer = Some(referrer::public(whole)).filter(|part| !part.is_empty()).into();
    }
    data
}

fn tokens(event: &Event) -> Map<String, Value> {
    let mut tokens: Map<String, Value> = event.delta.tokens.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    tokens.insert("title".to_owned(), event.delta.title.clone().into());
    tokens
}

/// What custom events keep of the extra data, which they have no place for: property, label, and where it stands.
pub const CUSTOM_EXTRA: [(&str, &str, &str); 8] = [
    ("utm_source", "UTM source", "/utm/source"),
    ("utm_medium", "UTM medium", "/utm/medium"),
    ("utm_campaign", "UTM campaign", "/utm/campaign"),
    ("utm_term", "UTM term", "/utm/term"),
    ("utm_content", "UTM content", "/utm/content"),
    ("referrer", "Referrer", "/referrer"),
    ("os", "Operating system", "/user_agent/os"),
    ("browser", "Browser", "/user_agent/browser"),
];

fn custom_properties(event: &Event) -> Map<String, Value> {
    let mut properties = tokens(event);
    let extra_data = extra_data(event);
    for (name, _, place) in CUSTOM_EXTRA {
        if let Some(value) = extra_data.pointer(place).and_then(Value::as_str) {
            properties.insert(name.to_owned(), value.into());
        }
    }
    for (name, value) in &mut properties {
        let max = if matches!(name.as_str(), "referrer" | "destination_url") { CUSTOM_ADDRESS_MAX } else { CUSTOM_MAX };
        if let Value::String(text) = value
            && let Some((at, _)) = text.char_indices().nth(max)
        {
            text.truncate(at);
        }
    }
    properties
}

/// Shortens every text that is too long; says whether there was one.
fn shorten(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.len() > TEXT_MAX => {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
            true
        }
        Value::Array(list) => list.iter_mut().map(shorten).filter(|cut| *cut).count() > 0,
        Value::Object(fields) => fields.values_mut().map(shorten).filter(|cut| *cut).count() > 0,
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::model::outputs::Person;

    fn api(api: Events) -> EventApi {
        EventApi { api, event_type: "7".into(), batch_max: batch_max(api) }
    }

    fn event() -> Event {
        Event::new(fixtures::event("clk:c1:4242", "801"))
    }

    #[test]
    fn the_same_event_in_three_forms() {
        let paths = Paths::default();
        let of = |which: Events, count: usize| api(which).request(&paths, &vec![event(); count]);
        let body = |request: Request| request.body.expect("a body");

        assert_eq!(of(Events::Timeline, 1).path, "/integrators/timeline/v3/events/batch/create");
        let input = body(of(Events::Timeline, 1))["inputs"][0].clone();
        assert_eq!((input["eventTemplateId"].as_str(), input["objectId"].as_str()), (Some("7"), Some("801")));
        assert_eq!((input["id"].as_str(), input["timestamp"].as_str()), (Some("clk:c1:4242"), Some("2025-11-22T08:26:40.123Z")));
        assert_eq!(input["tokens"]["title"], "Clicked: Q2 pricing PDF (s.elido.me/abc123)");

        assert_eq!(of(Events::AppEvents, 2).path, "/integrators/timeline/2026-03/events/batch");
        assert_eq!(of(Events::AppEvents, 1).path, "/integrators/timeline/2026-03/events");
        let input = body(of(Events::AppEvents, 1));
        assert_eq!((input["eventTypeName"].as_str(), input["properties"]["country"].as_str()), (Some("7"), Some("FR")));
        assert_eq!(input["extraData"]["utm"]["source"], "webinar");

        assert_eq!(of(Events::CustomEvents, 2).path, "/events/2026-03/send/batch");
        assert_eq!(of(Events::CustomEvents, 1).path, "/events/2026-03/send");
        let input = body(of(Events::CustomEvents, 1));
        assert_eq!((input["eventName"].as_str(), input["uuid"].as_str()), (Some("7"), Some(uuid_of("clk:c1:4242").as_str())));
        assert_eq!(
            (input["occurredAt"].as_str(), input["properties"]["utm_source"].as_str()),
            (Some("2025-11-22T08:26:40.123Z"), Some("webinar"))
        );
    }

    #[test]
    fn an_event_never_names_an_address() {
        let mut by_address = event();
        by_address.delta.person = Person::Email("ada@example.com".into());
        let resolved = Event { contact: Some("9".into()), ..by_address.clone() };
        for which in [Events::Timeline, Events::AppEvents, Events::CustomEvents] {
            assert!(!api(which).input(&by_address).to_string().contains('@'));
            assert_eq!(api(which).input(&resolved)["objectId"], "9");
        }
    }

    #[test]
    fn no_address_leaves_with_the_page_before() {
        let with = |referrer: &str| {
            let mut event = event();
            event.delta.extra_data["referrer"] = referrer.into();
            event
        };
        for which in [Events::Timeline, Events::AppEvents, Events::CustomEvents] {
            let referrer = |event: &Event| {
                let input = api(which).input(event);
                let place = if which == Events::CustomEvents { "/properties/referrer" } else { "/extraData/referrer" };
                input.pointer(place).and_then(Value::as_str).map(str::to_owned)
            };
            assert_eq!(referrer(&with("https://mail.example/inbox?u=ada@example.com")).as_deref(), Some("https://mail.example/inbox"));
            assert_eq!(referrer(&with("mailto:ada@example.com")), None, "nothing of it may leave");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_said_to_be() {
        let mut event = event();
        event.delta.tokens.insert("destination_url".into(), "ü".repeat(5000));
        event.delta.tokens.insert("campaign_name".into(), "ü".repeat(5000));
        let input = api(Events::Timeline).input(&event);
        assert_eq!(input["tokens"]["destination_url"].as_str().map(str::len), Some(TEXT_MAX));
        assert_eq!(input["extraData"]["truncated"], true);
        let input = api(Events::CustomEvents).input(&event);
        let length = |name: &str| input["properties"][name].as_str().map(|text| text.chars().count());
        assert_eq!((length("destination_url"), length("campaign_name")), (Some(CUSTOM_ADDRESS_MAX), Some(CUSTOM_MAX)));
    }
}
