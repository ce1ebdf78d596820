//! HubSpot's side of a test: requests to the sandbox, and the webhooks that it is to send.

use clickline_sandbox::Sandbox;
use serde_json::{Value, json};
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

/// Tells the sandbox where the app wants its webhooks, and which: those of the app's project that is shipped.
pub fn subscribe(sandbox: &Sandbox, target: &str) {
    let url = |path: &str| format!("{}/webhooks/v3/{}/{path}?hapikey=sandbox-developer-key", sandbox.url(), sandbox.app_id(0));
    let settings = json!({ "targetUrl": target, "throttling": { "maxConcurrentRequests": 10 } });
    let put = status(client().put(url("settings")).json(&settings)).expect("an answer");
    assert_eq!(put, 200);
    let file: Value = serde_json::from_str(include_str!("../../deploy/hubspot/src/app/webhooks/webhooks-hsmeta.json")).expect("JSON");
    let listed = |name: &str| file["config"]["subscriptions"][name].as_array().expect("a list").clone();
    let wanted: Vec<Value> = ["legacyCrmObjects", "hubEvents"].into_iter().flat_map(listed).collect();
    assert!(wanted.len() > 10);
    for mut subscription in wanted {
        // The same by another name in the API.
        subscription["eventType"] = subscription["subscriptionType"].take();
        subscription.as_object_mut().expect("an object").remove("subscriptionType");
        assert_eq!(status(client().post(url("subscriptions")).json(&subscription)), Some(201));
    }
}
