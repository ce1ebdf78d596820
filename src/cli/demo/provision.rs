//! What a portal needs before the sink can write to it: three contact properties and an event template.
//!
//! Made through HubSpot's own API, as a setup would: properties with an account token, the template with the
//! developer key.

use crate::dataflow::outputs::TOKENS;
use crate::dataflow::plan::UtmProperties;
use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Where and as whom to set a portal up.
pub struct Access<'a> {
    /// The sandbox's address.
    pub url: &'a str,
    /// OAuth client.
    pub client: (&'a str, &'a str),
    /// The app's refresh token in the portal.
    pub refresh_token: &'a str,
    /// HubSpot's id of the app.
    pub app_id: u64,
    /// The developer key.
    pub developer_key: &'a str,
}

/// Sets a portal up; returns the event template's id.
pub async fn provision(http: &reqwest::Client, access: &Access<'_>) -> anyhow::Result<String> {
    let Access { url, client, refresh_token, app_id, developer_key } = access;
    let form = [("grant_type", "refresh_token"), ("client_id", client.0), ("client_secret", client.1), ("refresh_token", refresh_token)];
    let token = json_of(http.post(format!("{url}/oauth/v1/token")).form(&form)).await.context("an access token")?;
    let token = token["access_token"].as_str().context("the token answer has no access_token")?.to_owned();

    let group = json!({"name": "clickline", "label": "clickline"});
    json_of(http.post(format!("{url}/crm/v3/properties/contacts/groups")).bearer_auth(&token).json(&group))
        .await
        .context("a property group")?;
    for (name, label) in UtmProperties::default().names.iter().zip(["Last UTM source", "Last UTM campaign", "Last UTM medium"]) {
        let property = json!({"name": name, "label": label, "type": "string", "fieldType": "text", "groupName": "clickline"});
        json_of(http.post(format!("{url}/crm/v3/properties/contacts")).bearer_auth(&token).json(&property)).await.context("a property")?;
    }

    let tokens: Vec<Value> = TOKENS.iter().map(|name| json!({"name": name, "label": name.replace('_', " "), "type": "string"})).collect();
    let template = json!({
        "name": "Short link click", "objectType": "contacts", "tokens": tokens,
        "headerTemplate": "{{title}}", "detailTemplate": "Destination: {{destination_url}}",
    });
    let made = http.post(format!("{url}/crm/v3/timeline/{app_id}/event-templates")).query(&[("hapikey", developer_key)]).json(&template);
    let made = json_of(made).await.context("an event template")?;
    made["id"].as_str().map(str::to_owned).context("the template answer has no id")
}

async fn json_of(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?;
    let (status, body) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "HubSpot answered {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}
