//! Who is calling: token to portal and app, the rate limits in front of every call, scopes.

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::AppState;
use crate::limits::{BURST_MS, Budget, DAY_MS, Holder, Limits, SEARCH_MS, Verdict};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What kind of token a call carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An OAuth access token of the app at this index of the configuration.
    App(usize),
    /// A static token (private app or service key), by its number.
    Static(u64),
}

/// The caller, as its token tells.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// HubSpot account.
    pub portal: String,
    pub caller: Caller,
    /// What was granted.
    pub scopes: Arc<BTreeSet<String>>,
}

impl Access {
    /// 403 unless one of `scopes` was granted.
    pub fn any_of(&self, scopes: &[&str]) -> ApiResult<()> {
        if scopes.iter().any(|scope| self.scopes.contains(*scope)) { Ok(()) } else { Err(ApiError::missing_scopes(scopes)) }
    }

    /// The app behind an OAuth token. 403 for a static one: there are calls that HubSpot keeps for OAuth apps.
    pub fn oauth_app(&self) -> ApiResult<usize> {
        match self.caller {
            Caller::App(index) => Ok(index),
            Caller::Static(_) => Err(ApiError::oauth_only()),
        }
    }

    /// HubSpot's id of the app, as histories name it.
    pub fn app_id(&self) -> u64 {
        match self.caller {
            Caller::App(index) => Config::app_id(index),
            Caller::Static(number) => Config::static_app_id(number),
        }
    }

    fn holder(&self) -> Holder {
        match self.caller {
            Caller::App(index) => Holder::App(index, self.portal.clone()),
            Caller::Static(number) => Holder::Static(number, self.portal.clone()),
        }
    }

    fn day(&self, config: &Config) -> Option<(Holder, u64)> {
        match self.caller {
            Caller::App(index) => config.oauth_daily_limit.map(|max| (Holder::App(index, self.portal.clone()), max)),
            Caller::Static(_) => Some((Holder::StaticTokens(self.portal.clone()), config.static_daily_limit)),
        }
    }
}

/// The portal a request was about, left on the response for the request log.
#[derive(Clone)]
pub(crate) struct PortalTag(pub String);

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Stands in front of every call that takes an account's token: 401, then 429, then the handler.
///
/// Refused calls (401) do not count against a budget: without a token there is no portal whose budget it would be.
pub(crate) async fn guard(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let now = app.now();
    let config = app.config();
    let budget = Budget::of(request.uri().path());
    let mut headers = HeaderMap::new();
    let access = {
        let mut world = app.world();
        let access = match bearer(request.headers()).ok_or_else(ApiError::unauthenticated).and_then(|t| world.oauth.access(t, now)) {
            Ok(access) => access,
            Err(error) => return error.into_response(),
        };
        if let Err((error, after_ms)) = admit(&mut world.limits, &config, &access, budget, now, &mut headers) {
            if config.retry_after {
                headers.insert(header::RETRY_AFTER, number(after_ms.div_ceil(1000)));
            }
            let mut response = (headers, error).into_response();
            response.extensions_mut().insert(PortalTag(access.portal));
            return response;
        }
        access
    };
    let portal = access.portal.clone();
    request.extensions_mut().insert(access);
    let mut response = next.run(request).await;
    response.headers_mut().extend(headers);
    response.extensions_mut().insert(PortalTag(portal));
    response
}

/// Asks every budget that a call draws on; the first one that is used up refuses it. Leaves the limits' headers.
fn admit(
    limits: &mut Limits,
    config: &Config,
    access: &Access,
    budget: Budget,
    now: u64,
    headers: &mut HeaderMap,
) -> Result<(), (ApiError, u64)> {
    if budget == Budget::Exempt {
        return Ok(());
    }
    if budget == Budget::Search {
        let holder = Holder::Search(access.portal.clone());
        if let Verdict::Refuse { after_ms } = limits.ask(holder, now, config.search_limit, SEARCH_MS) {
            return Err((ApiError::too_many_requests("SECONDLY", "secondly", group(access)), after_ms));
        }
    } else {
        let max = if matches!(access.caller, Caller::App(_)) { config.burst_limit } else { config.static_burst_limit };
        let verdict = limits.ask(access.holder(), now, max, BURST_MS);
        let remaining = if let Verdict::Pass { remaining } = verdict { remaining } else { 0 };
        headers.insert("x-hubspot-ratelimit-max", number(max as u64));
        headers.insert("x-hubspot-ratelimit-remaining", number(remaining));
        headers.insert("x-hubspot-ratelimit-interval-milliseconds", number(BURST_MS));
        if let Verdict::Refuse { after_ms } = verdict {
            return Err((ApiError::too_many_requests("TEN_SECONDLY_ROLLING", "ten_secondly_rolling", group(access)), after_ms));
        }
    }
    if let Some((holder, max)) = access.day(config) {
        let verdict = limits.ask_day(holder, now, max);
        if budget != Budget::Search {
            headers.insert("x-hubspot-ratelimit-daily", number(max));
            headers.insert(
                "x-hubspot-ratelimit-daily-remaining",
                number(if let Verdict::Pass { remaining } = verdict { remaining } else { 0 }),
            );
        }
        if let Verdict::Refuse { after_ms } = verdict {
            return Err((ApiError::too_many_requests("DAILY", "daily", group(access)).with_request_id(), after_ms.min(DAY_MS)));
        }
    }
    Ok(())
}

fn group(access: &Access) -> String {
    match access.caller {
        Caller::App(_) => format!("publicapi:oauth:{}:{}", access.app_id(), access.portal),
        Caller::Static(_) => format!("publicapi:private-apps-api-calls-by-portal:{}", access.portal),
    }
}

fn number(n: u64) -> HeaderValue {
    HeaderValue::from(n)
}
