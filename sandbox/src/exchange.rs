//! One request and its answer: read whole, hit by the scripted fault if there is one, noted in the log, sent.

use crate::access::{PortalTag, bearer};
use crate::crm::Kind;
use crate::error::ApiError;
use crate::faults::Hit;
use crate::faults::alter::{Answer, alter, applies, empty_batch, take_inputs};
use crate::faults::script::{Asked, Fault};
use crate::faults::wire::Wire;
use crate::http::{AppState, Pairs};
use crate::log::Exchange;
use crate::world::World;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Largest body that is read: a batch of 100 events of 1 MB each fits.
const BODY_MAX: usize = 110 * 1024 * 1024;

/// Stands around every call of HubSpot's. The sandbox's own pages and control calls pass: nobody counts requests for them, and
/// no fault hits them.
pub(crate) async fn observe(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let writes = request.method() != Method::GET;
    if request.uri().path() == "/" || request.uri().path().starts_with("/sandbox/") {
        let response = next.run(request).await;
        if writes {
            app.changed();
        }
        return response;
    }
    let at_ms = app.now();
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, BODY_MAX).await else {
        return ApiError::bare(StatusCode::PAYLOAD_TOO_LARGE, "HTTP 413 Request Entity Too Large").into_response();
    };
    let asked = parts.clone();
    let token = bearer(&asked.headers);
    let (portal, hit) = {
        let mut world = app.world();
        let portal = portal_of(&world, &parts, token, &bytes);
        let path = asked.uri.path();
        let hit = world.faults.hit(Asked { method: asked.method.as_str(), path, portal: portal.as_deref(), body: &bytes });
        if let Some(hit) = &hit {
            strike(&mut world, &hit.fault, token, portal.as_deref(), at_ms);
        }
        (portal, hit)
    };
    if let (Some(Hit { name, fault: Fault::Edit { object, id, properties }, .. }), Some(portal)) = (&hit, portal.as_deref()) {
        let values: Vec<(String, String)> = properties.clone().into_iter().collect();
        if let Err(error) = Kind::parse(object).and_then(|kind| app.edit(portal, kind, id, &values)) {
            tracing::error!(event = "sandbox_edit_failed", rule = name, reason = error.message(), "a scripted edit could not be made");
        }
    }
    let name = hit.as_ref().map(|hit| hit.name.clone());
    let applied = hit.as_ref().is_none_or(|hit| applies(&hit.fault));
    let (answer, wire, tag) = perform(parts, bytes.clone(), hit, next, at_ms).await;
    let portal = tag.or(portal);
    let status = answer.as_ref().map_or(0, |a| a.status.as_u16());
    tracing::debug!(event = "sandbox_request", method = %asked.method, status, portal, fault = name, "request");
    app.world().note(Exchange {
        at_ms,
        portal,
        method: asked.method.as_str(),
        path: asked.uri.path(),
        query: asked.uri.query(),
        token,
        request_type: content_type(&asked.headers),
        request_body: &bytes,
        status,
        content_type: answer.as_ref().map(|a| content_type(&a.headers)).unwrap_or_default(),
        response_body: answer.as_ref().map(|a| a.body.as_ref()).unwrap_or_default(),
        fault: name,
        applied,
    });
    if writes && applied {
        app.changed();
    }
    wire.send(answer).await
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// The portal that a request is about, as far as its token or form tells.
fn portal_of(world: &World, parts: &Parts, token: Option<&str>, body: &Bytes) -> Option<String> {
    if let Some(token) = token {
        return world.oauth.portal_of(token).map(str::to_owned);
    }
    if !parts.uri.path().starts_with("/oauth/") {
        return None;
    }
    let form = Pairs::parse(std::str::from_utf8(body).ok());
    ["refresh_token", "code", "token"].iter().find_map(|name| world.oauth.portal_of(form.get(name)?)).map(str::to_owned)
}

/// The faults that are about tokens strike before the call is looked at.
fn strike(world: &mut World, fault: &Fault, token: Option<&str>, portal: Option<&str>, now: u64) {
    match fault {
        Fault::ExpireToken => {
            if let Some(token) = token {
                world.oauth.expire(token, now);
            }
        }
        Fault::RevokeGrant => {
            if let Some(portal) = portal {
                world.oauth.revoke_all(portal);
            }
        }
        _ => {}
    }
}

/// Lets the call happen as far as the fault allows. Gives back the answer (none when nothing is to be sent), how it is to be
/// sent, and the portal that the call turned out to be about.
async fn perform(parts: Parts, bytes: Bytes, hit: Option<Hit>, next: Next, now: u64) -> (Option<Answer>, Wire, Option<String>) {
    let Some(mut hit) = hit else {
        let (answer, tag) = call(parts, bytes, next).await;
        return (Some(answer), Wire::Whole, tag);
    };
    let (mut body, mut taken) = (bytes, Vec::new());
    if let Fault::Partial { inputs, share, .. } = &hit.fault
        && let Some((rest, out)) = take_inputs(inputs, *share, &body, &mut hit.rng)
    {
        (body, taken) = (rest, out);
    }
    let emptied = !taken.is_empty() && body.windows(11).any(|w| w == b"\"inputs\":[]");
    let (answer, tag) = match &hit.fault {
        fault if !applies(fault) => (None, None),
        _ if emptied => (Some(empty_batch(now)), None),
        _ => {
            let (answer, tag) = call(parts, body, next).await;
            (Some(answer), tag)
        }
    };
    let (answer, wire) = alter(&hit.fault, answer, &taken, &mut hit.rng, now);
    (answer, wire, tag)
}

async fn call(mut parts: Parts, body: Bytes, next: Next) -> (Answer, Option<String>) {
    // A fault may have made the body shorter than the header says.
    parts.headers.remove(header::CONTENT_LENGTH);
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (mut parts, body) = response.into_parts();
    // The server writes its own, also when a fault changes the body.
    parts.headers.remove(header::CONTENT_LENGTH);
    let tag = parts.extensions.get::<PortalTag>().map(|tag| tag.0.clone());
    // Answers are made in memory, so they are complete and reading them cannot fail.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    (Answer { status: parts.status, headers: parts.headers, body }, tag)
}
