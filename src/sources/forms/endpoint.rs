//! `POST /forms/WORKSPACE`: form posts, signed, as JSON or as a browser sends a form.
//!
//! # Guarantee
//! A post is answered with 200 when the brokers have its record, and not before; with 503 and `Retry-After` when they do not take it in
//! time. Then it may be in the topic or not, and the same post may be sent again: it has the same id, and counts once.
//!
//! # Ties and edges
//! - The id is the field `id`, else a function of key, timestamp and body: what is signed anew without an `id` is another form.
//! - The form's time is the field `ts`, else the signed timestamp. A form from the future is refused, because the dataflow would.

use super::signature::{self, Forged};
use super::submission::{Fields, record};
use crate::model::time::Ms;
use crate::sinks::hubspot::Secret;
use crate::sources::crm::time;
use crate::sources::kafka::Clock;
use crate::sources::writer::{Record, Writer};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long the brokers may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Largest post, bytes.
const BODY_MAX: usize = 64 * 1024;

/// What the endpoint needs.
pub struct Endpoint {
    /// Key id → workspace and secret.
    pub keys: BTreeMap<String, (String, Secret)>,
    /// The topic.
    pub topic: String,
    /// The way there, which gives up within [`PATIENCE`].
    pub writer: Writer,
    /// How far a form may lie ahead, ms.
    pub max_future: Ms,
    /// Counts the forms that were taken.
    pub taken: Counter,
    /// The wall clock.
    pub now: Clock,
}

/// The route.
pub fn routes(endpoint: Endpoint) -> Router {
    Router::new().route("/forms/{workspace}", post(take)).layer(DefaultBodyLimit::max(BODY_MAX)).with_state(Arc::new(endpoint))
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}

async fn take(State(endpoint): State<Arc<Endpoint>>, Path(workspace): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = header("x-clickline-key");
    // A key that is not known and a signature that does not fit are answered alike.
    let secret = key.and_then(|id| endpoint.keys.get(id)).filter(|(of, _)| *of == workspace).map(|(_, secret)| secret.reveal().as_bytes());
    let (timestamp, signed) = (header("x-clickline-timestamp"), header("x-clickline-signature"));
    let now = (endpoint.now)();
    let checked = match key {
        Some(_) => signature::check(secret, timestamp, signed, &body, now),
        None => Err(Forged::Headers),
    };
    let stamp = match checked {
        Ok(stamp) => stamp,
        Err(forged @ Forged::Headers) => return refuse(StatusCode::BAD_REQUEST, &forged.to_string()),
        Err(forged) => return refuse(StatusCode::UNAUTHORIZED, &forged.to_string()),
    };
    let kind = header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fields = match kind.as_str() {
        "application/json" => match serde_json::from_slice(&body) {
            Ok(Value::Object(object)) => Fields::of_json(&object),
            _ => return refuse(StatusCode::BAD_REQUEST, "the body is no JSON object"),
        },
        "application/x-www-form-urlencoded" => Fields::of_form(&body),
        _ => return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json or application/x-www-form-urlencoded"),
    };
    let at = match fields.get("ts").map(|ts| time(&Value::from(ts))) {
        None => stamp,
        Some(Some(at)) if at <= now.saturating_add(endpoint.max_future) => at,
        Some(Some(_)) => return refuse(StatusCode::BAD_REQUEST, "`ts` lies ahead of the server's clock; it is in milliseconds since 1970"),
        Some(None) => return refuse(StatusCode::BAD_REQUEST, "`ts` is no time: milliseconds since 1970, or 2026-11-23T08:15:30Z"),
    };
    let id = fields.get("id").map_or_else(|| id_of(key.unwrap_or_default(), stamp, &body), str::to_owned);
    let value = match record(&workspace, &id, at, &fields, None) {
        Ok(value) => value,
        Err(refusal) => return refuse(StatusCode::BAD_REQUEST, &refusal.detail),
    };
    match endpoint.writer.write(&[Record { topic: &endpoint.topic, key: workspace, value: Some(value) }]).await {
        Ok(()) => {
            endpoint.taken.inc();
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], json!({ "id": id }).to_string()).into_response()
        }
        Err(error) => {
            tracing::warn!(event = "form_not_written", %error, "a form could not be written; its sender is to try again");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], "Try again later, with the same request.\n").into_response()
        }
    }
}

/// The id of a post that brings none.
fn id_of(key: &str, stamp: Ms, body: &[u8]) -> String {
    let of_key = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key.as_bytes());
    uuid::Uuid::new_v5(&of_key, &[stamp.to_be_bytes().as_slice(), body].concat()).to_string()
}
