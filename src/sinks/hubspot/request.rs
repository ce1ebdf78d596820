//! Effects as HTTP requests. Pure.

use super::lanes::{Event, Properties};
use super::settings::Paths;
use crate::model::outputs::Person;
use crate::model::time::rfc3339;
use serde_json::{Map, Value, json};

/// One request to HubSpot, but for host and token.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path below the base URL, with query.
    pub path: String,
    /// JSON body; absent for a GET.
    pub body: Option<Value>,
}

/// HTTP methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read one.
    Get,
    /// Everything else.
    Post,
}

/// Longest text of a token or of extra data, bytes. HubSpot takes 510 KB; a referrer of that length is an attack, not a referrer.
const TEXT_MAX: usize = 2048;

/// What the sink must know of a deal before it moves it.
pub const DEAL_PROPERTIES: [&str; 4] = ["pipeline", "dealstage", "amount", "hs_is_closed"];

fn post(path: String, body: Value) -> Request {
    Request { method: Method::Post, path, body: Some(body) }
}

/// Reads a path.
pub fn get(path: String) -> Request {
    Request { method: Method::Get, path, body: None }
}

/// Creates something at a path.
pub fn create(path: String, body: Value) -> Request {
    post(path, body)
}

fn cut(text: &str) -> Option<&str> {
    (text.len() > TEXT_MAX).then(|| &text[..text.floor_char_boundary(TEXT_MAX)])
}

/// Shortens every text that is too long; says whether there was one.
fn shorten(value: &mut Value) -> bool {
    match value {
        Value::String(text) => match cut(text) {
            Some(short) => {
                *text = short.to_owned();
                true
            }
            None => false,
        },
        Value::Array(list) => list.iter_mut().map(shorten).filter(|cut| *cut).count() > 0,
        Value::Object(fields) => fields.values_mut().map(shorten).filter(|cut| *cut).count() > 0,
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// One timeline event. Either `objectId` or `email`, never both: together they would change the contact's address.
pub fn event_input(event: &Event, template: &str) -> Value {
    let delta = &event.delta;
    let mut truncated = false;
    let mut tokens: Map<String, Value> = delta.tokens.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    tokens.insert("title".to_owned(), delta.title.clone().into());
    for value in tokens.values_mut() {
        truncated |= shorten(value);
    }
    let mut extra_data = delta.extra_data.clone();
    truncated |= shorten(&mut extra_data);
    if truncated && let Value::Object(fields) = &mut extra_data {
        fields.insert("truncated".to_owned(), true.into());
    }
    let mut input = json!({
        "eventTemplateId": template, "id": delta.id, "timestamp": rfc3339(delta.ts), "tokens": tokens, "extraData": extra_data,
    });
    match (&event.merged_into, &delta.person) {
        (Some(id), _) | (None, Person::ContactId(id)) => input["objectId"] = id.as_str().into(),
        (None, Person::Email(email)) => input["email"] = email.as_str().into(),
    }
    input
}

/// Creates events.
pub fn create_events<'a>(paths: &Paths, template: &str, events: impl IntoIterator<Item = &'a Event>) -> Request {
    let inputs: Vec<Value> = events.into_iter().map(|event| event_input(event, template)).collect();
    post(format!("{}/events/batch/create", paths.timeline), json!({ "inputs": inputs }))
}

/// Reads contacts by e-mail address: who is there at all.
pub fn find_contacts<'a>(paths: &Paths, emails: impl IntoIterator<Item = &'a str>) -> Request {
    let inputs: Vec<Value> = emails.into_iter().map(|email| json!({ "id": email })).collect();
    let properties = ["email", "hs_additional_emails"];
    let body = json!({ "idProperty": "email", "properties": properties, "propertiesWithHistory": [], "inputs": inputs });
    post(format!("{}/batch/read", paths.contacts), body)
}

/// Reads one contact by id; a merged one answers with the survivor's id, or 404.
pub fn get_contact(paths: &Paths, id: &str) -> Request {
    get(format!("{}/{}?properties=email", paths.contacts, segment(id)))
}

/// Reads one contact by e-mail address.
pub fn get_contact_by_email(paths: &Paths, email: &str) -> Request {
    get(format!("{}/{}?idProperty=email&properties=email", paths.contacts, segment(email)))
}

/// Updates contacts; the trace id of each is its place in the batch.
pub fn update_contacts<'a>(paths: &Paths, contacts: impl IntoIterator<Item = (&'a str, &'a Properties)>) -> Request {
    let input = |(at, (id, properties)): (usize, (&str, &Properties))| {
        let values: Map<String, Value> = properties.changes.iter().map(|(name, c)| (name.clone(), c.value.clone().into())).collect();
        json!({ "id": id, "properties": values, "objectWriteTraceId": at.to_string() })
    };
    let inputs: Vec<Value> = contacts.into_iter().enumerate().map(input).collect();
    post(format!("{}/batch/update", paths.contacts), json!({ "inputs": inputs }))
}

/// Reads deals.
pub fn read_deals<'a>(paths: &Paths, ids: impl IntoIterator<Item = &'a str>) -> Request {
    let inputs: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    post(format!("{}/batch/read", paths.deals), json!({ "properties": DEAL_PROPERTIES, "propertiesWithHistory": [], "inputs": inputs }))
}

/// Reads the contacts of deals: a deal's id, and where to read on.
pub fn read_deal_contacts<'a>(paths: &Paths, deals: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Request {
    let input = |(id, after): (&str, Option<&str>)| match after {
        Some(after) => json!({ "id": id, "after": after }),
        None => json!({ "id": id }),
    };
    let inputs: Vec<Value> = deals.into_iter().map(input).collect();
    post(format!("{}/deals/contacts/batch/read", paths.associations), json!({ "inputs": inputs }))
}

/// Moves deals: `dealstage` alone, so that a deal that somebody took to another pipeline is not dragged back.
pub fn move_deals<'a>(paths: &Paths, moves: impl IntoIterator<Item = (&'a str, &'a str)>) -> Request {
    let input = |(at, (id, stage)): (usize, (&str, &str))| json!({ "id": id, "properties": { "dealstage": stage }, "objectWriteTraceId": at.to_string() });
    let inputs: Vec<Value> = moves.into_iter().enumerate().map(input).collect();
    post(format!("{}/batch/update", paths.deals), json!({ "inputs": inputs }))
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn event(person: Person) -> Event {
        let mut delta = fixtures::event("clk:c1:4242", "801");
        delta.person = person;
        Event { delta, merged_into: None, receipts: Vec::new() }
    }

    #[test]
    fn an_event_names_its_contact_in_one_way_only() {
        let by_id = event_input(&event(Person::ContactId("801".into())), "7");
        assert_eq!((by_id["objectId"].as_str(), by_id.get("email")), (Some("801"), None));
        assert_eq!(by_id["timestamp"], "2025-11-22T08:26:40.123Z");
        assert_eq!(by_id["tokens"]["title"], "Clicked: Q2 pricing PDF (s.elido.me/abc123)");
        let by_email = event_input(&event(Person::Email("ada@example.com".into())), "7");
        assert_eq!((by_email.get("objectId"), by_email["email"].as_str()), (None, Some("ada@example.com")));
        let merged = event_input(&Event { merged_into: Some("9".into()), ..event(Person::ContactId("801".into())) }, "7");
        assert_eq!(merged["objectId"], "9");
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_said_to_be() {
        let mut event = event(Person::ContactId("801".into()));
        event.delta.tokens.insert("destination_url".into(), "ü".repeat(5000));
        let input = event_input(&event, "7");
        assert_eq!(input["tokens"]["destination_url"].as_str().map(str::len), Some(TEXT_MAX));
        assert_eq!(input["extraData"]["truncated"], true);
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(get_contact(&Paths::default(), "1/../x y").path, "/crm/objects/2026-03/contacts/1%2F..%2Fx%20y?properties=email");
    }
}
