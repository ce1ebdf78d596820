//! Account information: details, and the day's API usage of private apps.

use crate::access::Access;
use crate::clock::iso;
use crate::error::ApiResult;
use crate::http::AppState;
use crate::limits::{DAY_MS, Holder};
use crate::oauth::inspect::hub_id;
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

/// The account routes.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for version in ["v3", "2026-09"] {
        router = router
            .route(&format!("/account-info/{version}/details"), get(details))
            .route(&format!("/account-info/{version}/api-usage/daily/private-apps"), get(usage));
    }
    router
}

async fn details(Extension(access): Extension<Access>) -> ApiResult<Json<Value>> {
    access.any_of(&["oauth"])?;
    Ok(Json(json!({
        "portalId": hub_id(&access.portal), "accountType": "DEVELOPER_TEST", "timeZone": "UTC", "companyCurrency": "EUR",
        "additionalCurrencies": [], "utcOffset": "+00:00", "utcOffsetMilliseconds": 0, "uiDomain": "app.hubspot.com",
        "dataHostingLocation": "na1",
    })))
}

/// What all static tokens of the account have used since midnight (UTC, as [`details`] says).
async fn usage(State(app): State<AppState>, Extension(access): Extension<Access>) -> ApiResult<Json<Value>> {
    access.any_of(&["oauth"])?;
    let now = app.now();
    let used = app.world().limits.used_today(&Holder::StaticTokens(access.portal), now);
    let usage = json!({
        "name": "private-apps-api-calls-daily", "usageLimit": app.config().static_daily_limit, "currentUsage": used,
        "collectedAt": iso(now), "resetsAt": iso((now / DAY_MS + 1) * DAY_MS), "fetchStatus": "SUCCESS",
    });
    Ok(Json(json!({ "results": [usage] })))
}
