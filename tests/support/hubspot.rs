//! HubSpot's side of a test: requests to the sandbox, and the webhooks that it is to send.

use clickline_sandbox::Sandbox;
use serde_json::json;
use std::time::Duration;

/// A client as the job has it.
pub fn client() -> reqwest::Client {
    clickline::http::client(Duration::from_secs(10)).expect("a client")
}

/// The status of the answer, if there is one.
pub fn status(call: reqwest::RequestBuilder) -> Option<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move { Some(call.send().await.ok()?.status().as_u16()) })
}

/// Tells the sandbox where the app wants its webhooks, and which.
pub fn subscribe(sandbox: &Sandbox, target: &str) {
    let url = |path: &str| format!("{}/webhooks/v3/{}/{path}?hapikey=sandbox-developer-key", sandbox.url(), sandbox.app_id(0));
    let settings = json!({ "targetUrl": target, "throttling": { "maxConcurrentRequests": 10 } });
    let put = status(client().put(url("settings")).json(&settings)).expect("an answer");
    assert_eq!(put, 200);
    let mut wanted = vec![json!({ "eventType": "contact.privacyDeletion", "active": true })];
    for kind in ["contact", "deal"] {
        for what in ["creation", "deletion", "merge", "restore", "associationChange"] {
            wanted.push(json!({ "eventType": format!("{kind}.{what}"), "active": true }));
        }
    }
    for (kind, name) in
        [("contact", "email"), ("contact", "hs_additional_emails"), ("deal", "pipeline"), ("deal", "dealstage"), ("deal", "amount")]
    {
        wanted.push(json!({ "eventType": format!("{kind}.propertyChange"), "propertyName": name, "active": true }));
    }
    for subscription in wanted {
        assert_eq!(status(client().post(url("subscriptions")).json(&subscription)), Some(201));
    }
}
