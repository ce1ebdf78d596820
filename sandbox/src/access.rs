//! Who is calling: bearer token to portal and app, the rate limit in front of every call, scopes.

use crate::error::{ApiError, ApiResult};
use crate::http::AppState;
use crate::limits::{BURST_MS, Budget, SEARCH_MS, Verdict};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The caller, as its access token tells.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// HubSpot account.
    pub portal: String,
    /// Index of the app in the configuration.
    pub app: usize,
    /// What was granted.
    pub scopes: Arc<BTreeSet<String>>,
}

impl Access {
    /// 403 unless one of `scopes` was granted.
    pub fn any_of(&self, scopes: &[&str]) -> ApiResult<()> {
        if scopes.iter().any(|scope| self.scopes.contains(*scope)) { Ok(()) } else { Err(ApiError::missing_scopes(scopes)) }
    }
}

/// The portal a request was about, left on the response for the request log.
#[derive(Clone)]
pub(crate) struct PortalTag(pub String);

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Stands in front of every call that takes an access token: 401, then 429, then the handler.
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
        let refused = match budget {
            Budget::Exempt => None,
            Budget::Search => match world.limits.ask(None, &access.portal, now, config.search_limit, SEARCH_MS) {
                Verdict::Pass { .. } => None,
                Verdict::Refuse { after_ms } => Some((ApiError::too_many_requests("SECONDLY", "secondly", group(&access)), after_ms)),
            },
            Budget::Burst => {
                let verdict = world.limits.ask(Some(access.app), &access.portal, now, config.burst_limit, BURST_MS);
                let remaining = if let Verdict::Pass { remaining } = verdict { remaining } else { 0 };
                headers.insert("x-hubspot-ratelimit-max", number(config.burst_limit as u64));
                headers.insert("x-hubspot-ratelimit-remaining", number(remaining as u64));
                headers.insert("x-hubspot-ratelimit-interval-milliseconds", number(BURST_MS));
                match verdict {
                    Verdict::Pass { .. } => None,
                    Verdict::Refuse { after_ms } => {
                        let error = ApiError::too_many_requests("TEN_SECONDLY_ROLLING", "ten_secondly_rolling", group(&access));
                        Some((error, after_ms))
                    }
                }
            }
        };
        if let Some((error, after_ms)) = refused {
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

fn group(access: &Access) -> String {
    format!("publicapi:oauth:{}:{}", crate::config::Config::app_id(access.app), access.portal)
}

fn number(n: u64) -> HeaderValue {
    HeaderValue::from(n)
}
