//! The rolling limits, with the clock in the test's hand.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

const PATH: &str = "/crm/v3/objects/contacts";

#[tokio::test]
async fn a_hundred_and_ten_requests_in_any_ten_seconds() {
    let bench = Bench::start().await;
    for n in 0..60 {
        let answer = bench.get(PATH).await;
        answer.ok(200);
        assert_eq!(answer.header("X-HubSpot-RateLimit-Max"), Some("110"));
        assert_eq!(answer.header("X-HubSpot-RateLimit-Remaining"), Some((109 - n).to_string().as_str()));
        assert_eq!(answer.header("X-HubSpot-RateLimit-Interval-Milliseconds"), Some("10000"));
        assert_eq!(answer.header("X-HubSpot-RateLimit-Daily"), None);
    }
    bench.clock.advance(Duration::from_secs(6));
    for _ in 0..50 {
        bench.get(PATH).await.ok(200);
    }
    let refused = bench.get(PATH).await;
    let body = refused.error(429);
    assert_eq!((&body["errorType"], &body["policyName"]), (&"RATE_LIMIT".into(), &"TEN_SECONDLY_ROLLING".into()));
    assert_eq!(body["message"], "You have reached your ten_secondly_rolling limit.");
    assert!(body["groupName"].as_str().unwrap().starts_with("publicapi:"));
    assert_eq!((refused.header("X-HubSpot-RateLimit-Remaining"), refused.header("Retry-After")), (Some("0"), None));

    bench.clock.advance(Duration::from_millis(3_999));
    bench.get(PATH).await.error(429);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.get(PATH).await.header("X-HubSpot-RateLimit-Remaining"), Some("59"), "the first sixty have left, the fifty have not");
}

#[tokio::test]
async fn each_account_has_its_own_budget_and_some_calls_have_none() {
    let bench = Bench::start_with(|config| {
        config.burst_limit = 2;
        config.retry_after = true;
    })
    .await;
    let other = bench.access_token(&bench.sandbox.refresh_token("77")).await;
    bench.get(PATH).await.ok(200);
    bench.clock.advance(Duration::from_secs(3));
    bench.post("/integrators/timeline/v3/events", json!({})).await.error(400);
    assert_eq!(bench.get(PATH).await.header("Retry-After"), Some("7"), "timeline calls count, and so do calls that fail");
    let elsewhere = bench.send(bench.request(Method::GET, PATH).bearer_auth(other)).await;
    assert_eq!(elsewhere.status, 200, "another account");
    let associations = bench.post("/crm/v4/associations/contacts/deals/batch/read", json!({ "inputs": [{ "id": "1" }] })).await;
    assert_eq!((associations.status, associations.header("X-HubSpot-RateLimit-Max")), (207, None), "batch associations are exempt");
}

#[tokio::test]
async fn search_has_five_a_second() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, None, &[]);
    let search = || bench.post("/crm/v3/objects/contacts/search", json!({}));
    for _ in 0..5 {
        let answer = search().await;
        assert_eq!(answer.ok(200)["total"], 1);
        assert_eq!(answer.header("X-HubSpot-RateLimit-Max"), None, "no headers on search answers");
    }
    let answer = search().await;
    assert_eq!(
        (&answer.error(429)["policyName"], &answer.body["message"]),
        (&"SECONDLY".into(), &"You have reached your secondly limit.".into())
    );
    bench.clock.advance(Duration::from_secs(1));
    search().await.ok(200);
    assert_eq!(bench.get(PATH).await.header("X-HubSpot-RateLimit-Remaining"), Some("109"), "search is outside the burst budget");
}

#[tokio::test]
async fn static_tokens_have_a_day_that_they_share_and_a_window_of_their_own() {
    let bench = Bench::start_with(|config| {
        config.static_daily_limit = 5;
        config.static_burst_limit = 3;
    })
    .await;
    let (one, two) = (bench.sandbox.static_token(PORTAL, None), bench.sandbox.static_token(PORTAL, None));
    let get = async |token: &str| bench.call_as(token, Method::GET, PATH, None).await;
    for remaining in ["4", "3", "2"] {
        let answer = get(&one).await;
        assert_eq!((answer.status, answer.header("X-HubSpot-RateLimit-Daily-Remaining")), (200, Some(remaining)));
    }
    assert_eq!(get(&one).await.error(429)["policyName"], "TEN_SECONDLY_ROLLING");
    get(&two).await.ok(200);
    get(&two).await.ok(200);
    let refused = get(&two).await;
    assert_eq!((&refused.error(429)["policyName"], refused.header("Retry-After")), (&"DAILY".into(), None));
    assert!(refused.body["requestId"].is_string());
    bench.get(PATH).await.ok(200);
    let usage = bench.get("/account-info/v3/api-usage/daily/private-apps").await;
    let shown = &usage.ok(200)["results"][0];
    assert_eq!(
        (&shown["currentUsage"], &shown["usageLimit"], &shown["resetsAt"]),
        (&5.into(), &5.into(), &"2026-11-24T00:00:00.000Z".into())
    );
    bench.clock.advance(Duration::from_secs(86_400));
    get(&two).await.ok(200);
}

#[tokio::test]
async fn a_daily_limit_can_be_set_for_oauth_apps_as_well() {
    let bench = Bench::start_with(|config| {
        config.oauth_daily_limit = Some(2);
        config.retry_after = true;
    })
    .await;
    bench.get(PATH).await.ok(200);
    bench.get(PATH).await.ok(200);
    let refused = bench.get(PATH).await;
    assert_eq!((&refused.error(429)["policyName"], refused.header("Retry-After")), (&"DAILY".into(), Some("56670")), "until midnight");
    assert_eq!(bench.post("/events/v3/send", json!({ "eventName": "x", "properties": {} })).await.status, 400, "exempt");
}
