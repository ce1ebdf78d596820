//! What an account must have before the first write: the event template of the app, the contact properties.
//!
//! Idempotent: look, make what is missing, take "exists already" for an answer.

use super::budget::Share;
use super::outcome::{Outcome, classify};
use super::request;
use super::secret::Secret;
use super::service::Service;
use super::settings::Settings;
use crate::http;
use serde_json::{Value, json};

/// The template's name in the app; by it an existing one is found.
const TEMPLATE_NAME: &str = "Short-link click";
/// The tokens of an event: the title, and what [`crate::dataflow::outputs::TOKENS`] lists.
const TOKENS: [(&str, &str); 6] = [
    ("title", "Title"),
    ("link_slug", "Link slug"),
    ("destination_url", "Destination URL"),
    ("campaign_name", "Campaign"),
    ("country", "Country"),
    ("device", "Device"),
];
/// The group that our contact properties are in.
const GROUP: &str = "elido";

/// The template, as HubSpot takes it. `extraData` is not rendered, so that it stays out of the default view.
fn template() -> Value {
    let tokens: Vec<Value> =
        TOKENS.iter().map(|(name, label)| json!({ "name": name, "label": label, "type": "string", "options": [] })).collect();
    let detail = "{{#if destination_url}}Destination: {{destination_url}}\n{{/if}}{{#if campaign_name}}Campaign: {{campaign_name}}\n{{/if}}\
                  {{#if country}}Country: {{country}}\n{{/if}}{{#if device}}Device: {{device}}{{/if}}";
    json!({ "name": TEMPLATE_NAME, "objectType": "contacts", "headerTemplate": "{{title}}", "detailTemplate": detail, "tokens": tokens })
}

/// Finds the app's event template, or makes it; gives back its id.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn event_template(http: &reqwest::Client, settings: &Settings, app_id: u64, key: &Secret) -> Result<String, Outcome> {
    let address = format!("{}{}/{app_id}/event-templates", settings.base_url, settings.paths.timeline);
    // The developer key travels in the query: HubSpot offers no other way. No message of ours quotes an address.
    let call = |method: reqwest::Method| http.request(method, &address).query(&[("hapikey", key.reveal())]);
    let listed = send(call(reqwest::Method::GET)).await?;
    let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some(TEMPLATE_NAME);
    let id = |t: &Value| t.get("id").and_then(super::outcome::text);
    if let Some(found) = super::work::results(&listed).iter().find(named).and_then(id) {
        return Ok(found);
    }
    let made = send(call(reqwest::Method::POST).json(&template())).await?;
    id(&made).ok_or_else(|| Outcome::Transient("a template without an id".to_owned(), None))
}

async fn send(call: reqwest::RequestBuilder) -> Result<Value, Outcome> {
    let lost = |_| Outcome::Transient("no answer".to_owned(), None);
    let response = call.send().await.map_err(lost)?;
    let status = response.status().as_u16();
    let body = http::body(response).await.map_err(|e| Outcome::Transient(e.to_string(), None))?;
    match classify(status, None, &body) {
        Outcome::Done(body) => Ok(body),
        outcome => Err(outcome),
    }
}

/// Makes those contact properties that the account does not have.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn contact_properties(service: &Service, settings: &Settings, portal: &str) -> Result<(), Outcome> {
    let area = format!("{}/contacts", settings.paths.properties);
    let create = async |path: String, body: Value| match service.call(portal, &request::create(path, body), Share::Bulk).await {
        Outcome::Done(_) | Outcome::Exists => Ok(()),
        outcome => Err(outcome),
    };
    for name in &settings.provision {
        match service.call(portal, &request::get(format!("{area}/{}", request::segment(name))), Share::Bulk).await {
            Outcome::Done(_) => continue,
            Outcome::NotFound(_) => {}
            outcome => return Err(outcome),
        }
        create(format!("{area}/groups"), json!({ "name": GROUP, "label": "Elido", "displayOrder": -1 })).await?;
        let label = name.replace('_', " ");
        let property =
            json!({ "groupName": GROUP, "name": name, "label": label, "type": "string", "fieldType": "text", "formField": false });
        create(area.clone(), property).await?;
        tracing::info!(portal, property = name, "contact property made");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_takes_every_token_that_the_dataflow_sends() {
        for name in crate::dataflow::outputs::TOKENS {
            assert!(TOKENS.iter().any(|(token, _)| *token == name), "{name}");
        }
    }
}
