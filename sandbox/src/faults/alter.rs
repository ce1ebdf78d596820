//! What a fault makes of a request and its answer.

use super::script::{Fault, Page, Reply};
use super::wire::Wire;
use crate::clock::iso;
use crate::error::{ApiError, correlation_id};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

/// An answer in full.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Whether the request takes effect at all.
pub(crate) fn applies(fault: &Fault) -> bool {
    match fault {
        Fault::Reply(Reply { apply, .. }) | Fault::Close { apply } | Fault::Hold { apply, .. } => *apply,
        _ => true,
    }
}

/// Takes inputs out of a batch, so that they have no effect. Gives back the smaller body and what was taken; nothing when the
/// body is no batch.
pub(crate) fn take_inputs(inputs: &[usize], share: Option<f64>, body: &[u8], rng: &mut StdRng) -> Option<(Bytes, Vec<Value>)> {
    let mut batch: Value = serde_json::from_slice(body).ok()?;
    let all = std::mem::take(batch.get_mut("inputs")?.as_array_mut()?);
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    for (at, input) in all.into_iter().enumerate() {
        let chance = share.is_some_and(|share| rng.random_bool(share));
        if chance || inputs.contains(&at) { taken.push(input) } else { kept.push(input) }
    }
    batch["inputs"] = kept.into();
    Some((batch.to_string().into(), taken))
}

/// The answer to a batch without inputs, which HubSpot would refuse: here all of them were taken out.
pub(crate) fn empty_batch(now: u64) -> Answer {
    let body = json!({ "status": "COMPLETE", "results": [], "startedAt": iso(now), "completedAt": iso(now) });
    json_answer(StatusCode::OK, &body)
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Answer { status, headers, body: body.to_string().into() }
}

/// What is sent instead of `answer` (none when the request had no effect), and how.
pub(crate) fn alter(fault: &Fault, answer: Option<Answer>, taken: &[Value], rng: &mut StdRng, now: u64) -> (Option<Answer>, Wire) {
    match fault {
        Fault::Reply(reply) => (Some(written(reply)), Wire::Whole),
        Fault::Close { .. } => (None, Wire::Close { after_ms: 0 }),
        Fault::Hold { ms, .. } => (None, Wire::Close { after_ms: *ms }),
        Fault::Delay { ms } => (answer, Wire::Late { ms: *ms }),
        Fault::Dribble { bytes, every_ms } => (answer, Wire::Dribble { bytes: *bytes, every_ms: *every_ms }),
        Fault::Truncate { bytes } => (answer, Wire::Truncate { bytes: *bytes }),
        Fault::Endless => (answer, Wire::Endless),
        Fault::Bomb { bytes } => (answer, Wire::Bomb { bytes: *bytes }),
        Fault::Reorder => (answer.map(|answer| reorder(answer, rng)), Wire::Whole),
        Fault::Partial { status, category, message, reorder: shuffled, .. } => {
            let errors = taken.iter().map(|input| entry(input, category, message)).collect();
            let answer = answer.map(|answer| with_errors(answer, *status, errors, now));
            (if *shuffled { answer.map(|answer| reorder(answer, rng)) } else { answer }, Wire::Whole)
        }
        Fault::ExpireToken | Fault::RevokeGrant | Fault::Edit { .. } => (answer, Wire::Whole),
    }
}

fn written(reply: &Reply) -> Answer {
    let Reply { status, body, page, policy, retry_after, headers, apply: _ } = reply;
    // Checked when the script was read.
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = match (body, page) {
        (Some(Value::String(text)), _) => Answer { status, headers: content_type(text), body: text.clone().into() },
        (Some(json), _) => json_answer(status, json),
        (None, Page::Empty) => Answer { status, headers: HeaderMap::new(), body: Bytes::new() },
        (None, Page::Html) => {
            let code = status.as_u16();
            let text = format!(
                "<!DOCTYPE html>\n<html><head><title>{code}</title></head><body><h1>Error {code}</h1><p>cloudflare</p></body></html>\n"
            );
            Answer { status, headers: content_type(&text), body: text.into() }
        }
        (None, Page::Error) => json_answer(status, &error_body(status, policy.as_deref())),
    };
    if let Some(seconds) = retry_after {
        answer.headers.insert(header::RETRY_AFTER, (*seconds).into());
    }
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            answer.headers.insert(name, value);
        }
    }
    answer
}

fn content_type(text: &str) -> HeaderMap {
    let kind = if text.trim_start().starts_with('<') { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))])
}

/// HubSpot's body for a status that a fault asks for.
fn error_body(status: StatusCode, policy: Option<&str>) -> Value {
    let error = match status {
        StatusCode::TOO_MANY_REQUESTS => {
            let policy = policy.unwrap_or("TEN_SECONDLY_ROLLING");
            let error = ApiError::too_many_requests(policy, &policy.to_lowercase(), "publicapi:sandbox".into());
            if policy == "DAILY" { error.with_request_id() } else { error }
        }
        StatusCode::UNAUTHORIZED => ApiError::unauthenticated(),
        StatusCode::FORBIDDEN => ApiError::missing_scopes(&[]),
        StatusCode::NOT_FOUND => ApiError::not_found("resource not found"),
        StatusCode::CONFLICT => ApiError::conflict("There was a conflict"),
        StatusCode::BAD_REQUEST => ApiError::validation("Invalid input"),
        StatusCode::LOCKED => ApiError::new(status, "LOCKED", "The resource is currently locked"),
        _ if status.as_u16() == 477 => {
            ApiError::new(status, "MIGRATION_IN_PROGRESS", "This account is being migrated between data centers")
        }
        _ => ApiError::new(status, "INTERNAL_ERROR", "internal error"),
    };
    error.body(correlation_id())
}

/// Another order of the `results` than the answer has.
fn reorder(answer: Answer, rng: &mut StdRng) -> Answer {
    let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return answer };
    if let Some(results) = body.get_mut("results").and_then(Value::as_array_mut)
        && results.len() > 1
    {
        let before = results.clone();
        results.shuffle(rng);
        if *results == before {
            results.rotate_left(1);
        }
    }
    Answer { body: body.to_string().into(), ..answer }
}

/// An entry in the `errors` of a batch for an input that was taken out.
fn entry(input: &Value, category: &str, message: &str) -> Value {
    let mut context = json!({});
    if let Some(id) = input.get("id").or_else(|| input.pointer("/from/id")) {
        context["ids"] = json!([id]);
    }
    if let Some(trace) = input.get("objectWriteTraceId") {
        context["objectWriteTraceId"] = json!([trace]);
    }
    json!({ "status": "error", "category": category, "message": message, "context": context, "errors": [], "links": {} })
}

/// The answer to a batch with more errors. Only a batch that was done gets them: one that HubSpot refused stays refused.
fn with_errors(answer: Answer, status: u16, errors: Vec<Value>, now: u64) -> Answer {
    if !answer.status.is_success() || errors.is_empty() {
        return answer;
    }
    let mut body: Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| json!({ "status": "COMPLETE", "results": [], "startedAt": iso(now), "completedAt": iso(now) }));
    let mut all = body.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
    all.extend(errors);
    body["numErrors"] = all.len().into();
    body["errors"] = all.into();
    let mut headers = answer.headers;
    headers.extend(json_answer(answer.status, &Value::Null).headers);
    Answer { status: StatusCode::from_u16(status).unwrap_or(StatusCode::MULTI_STATUS), headers, body: body.to_string().into() }
}
