//! Effects as HTTP requests. Pure.

use super::entries::Properties;
use super::paths::Paths;
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

/// What the sink must know of a deal before it moves it.
pub const DEAL_PROPERTIES: [&str; 4] = ["pipeline", "dealstage", "amount", "hs_is_closed"];

fn post(path: String, body: Value) -> Request {
    Request { method: Method::Post, path, body: Some(body) }
}

/// Reads a path.
pub fn get(path: String) -> Request {
    Request { method: Method::Get, path, body: None }
}

/// What costs HubSpot least to say of a token: whatever the answer is but 401, it knows the token.
pub fn any(paths: &Paths) -> Request {
    get(format!("{}/contacts/groups", paths.properties))
}

/// Creates something at a path.
pub fn create(path: String, body: Value) -> Request {
    post(path, body)
}

/// Makes contacts that have nothing but an e-mail address; the trace id of each is its place in the batch.
pub fn create_contacts<'a>(paths: &Paths, emails: impl IntoIterator<Item = &'a str>) -> Request {
    let input =
        |(at, email): (usize, &str)| json!({ "properties": { "email": email }, "associations": [], "objectWriteTraceId": at.to_string() });
    let inputs: Vec<Value> = emails.into_iter().enumerate().map(input).collect();
    post(format!("{}/batch/create", paths.contacts), json!({ "inputs": inputs }))
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

/// Reads one deal by id; a merged one answers with the survivor's id, or 404.
pub fn get_deal(paths: &Paths, id: &str) -> Request {
    get(format!("{}/{}?properties=dealstage", paths.deals, segment(id)))
}

/// Reads which stages deals have been in.
pub fn read_stage_histories<'a>(paths: &Paths, ids: impl IntoIterator<Item = &'a str>) -> Request {
    let inputs: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    post(format!("{}/batch/read", paths.deals), json!({ "properties": [], "propertiesWithHistory": ["dealstage"], "inputs": inputs }))
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
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(get_contact(&Paths::default(), "1/../x y").path, "/crm/objects/2026-03/contacts/1%2F..%2Fx%20y?properties=email");
    }
}
