//! Changes by HubSpot's webhooks: an endpoint that writes down what has changed, and the reader of what was written.
//!
//! ```text
//!  HubSpot ──► POST /hubspot/webhooks ──► clickline.changes (Kafka) ──► read again from HubSpot ──► crm.contacts, crm.deals
//!              signature v3                acknowledged before the 2xx
//! ```
//!
//! # Guarantee
//! A delivery is answered with 204 only when the brokers have all of what it names; else with 503, and HubSpot delivers it again (ten
//! times within a day). What was written down is read after a restart from where the last cursor stands.
//!
//! Not guaranteed: what HubSpot could not deliver for a day. It comes with the next load.

use super::events;
use super::mirror::Hints;
use super::signature::{Forged, Signed};
use crate::kafka::Kafka;
use crate::sinks::hubspot::Secret;
use crate::sources::kafka::Clock;
use crate::sources::trouble::Trouble;
use crate::sources::writer::{Record, Writer};
use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Where HubSpot delivers, below `http.public_url`.
pub const PATH: &str = "/hubspot/webhooks";
/// HubSpot waits 5 s for the answer.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The topic's one partition: what is written down is read in its order.
const PARTITION: i32 = 0;
/// Records taken at once.
const AT_ONCE: usize = 500;
/// How long one call to the brokers may take.
const CALL: Duration = Duration::from_secs(3);

/// What the endpoint needs.
#[derive(Debug)]
pub struct Endpoint {
    /// The app's secret, with which HubSpot signs.
    pub secret: Secret,
    /// Scheme and host by which HubSpot reaches us, without a slash at its end.
    pub public_url: String,
    /// The accounts that are mirrored; what concerns another one is answered with 204 and forgotten.
    pub portals: BTreeSet<String>,
    /// The topic.
    pub topic: String,
    /// The way there, which gives up within [`PATIENCE`].
    pub writer: Writer,
}

/// The route.
pub fn routes(endpoint: Endpoint, now: Clock) -> Router {
    Router::new().route(PATH, post(take)).with_state((Arc::new(endpoint), now))
}

async fn take(
    State((endpoint, now)): State<(Arc<Endpoint>, Clock)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = Signed {
        method: method.as_str(),
        uri: &format!("{}{}", endpoint.public_url, uri.path_and_query().map_or("", |path| path.as_str())),
        body: &body,
        signature: header("x-hubspot-signature-v3"),
        timestamp: header("x-hubspot-request-timestamp"),
    };
    if let Err(forged) = signed.check(endpoint.secret.reveal().as_bytes(), now()) {
        let status = if forged == Forged::Headers { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
        // Whoever finds the address can send what HubSpot would not: that is no news. A signature that does not fit may be.
        match forged {
            Forged::Headers => tracing::debug!(event = "webhook_refused", "a webhook was refused: {forged}"),
            Forged::Time | Forged::Signature => tracing::warn!(event = "webhook_refused", "a webhook was refused: {forged}"),
        }
        return (status, format!("{forged}\n")).into_response();
    }
    let Ok(Value::Array(events)) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "The body is no JSON array of events.\n").into_response();
    };
    let mut hints: BTreeMap<String, Hints> = BTreeMap::new();
    for (portal, named) in events.iter().filter_map(events::hint).filter(|(portal, _)| endpoint.portals.contains(portal)) {
        hints.entry(portal).or_default().extend(named);
    }
    let records: Vec<Record<'_>> = hints
        .into_iter()
        .map(|(portal, hints)| Record { topic: &endpoint.topic, key: portal, value: serde_json::to_vec(&hints).ok() })
        .collect();
    match endpoint.writer.write(&records).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::warn!(event = "webhook_not_written", %error, "a webhook could not be written down; HubSpot will deliver it again");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], "Try again later.\n").into_response()
        }
    }
}

/// Reads what was written down for one account.
pub struct Changes {
    consumer: BaseConsumer,
    topic: String,
    portal: String,
    /// What was taken and is not done with, and the offset after it.
    open: Option<(Hints, i64)>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("portal", &self.portal).finish_non_exhaustive()
    }
}

fn consumer(kafka: &Kafka) -> anyhow::Result<BaseConsumer> {
    let own = [
        ("group.id", "clickline"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // What was deleted unread must not be passed over in silence.
        ("auto.offset.reset", "error"),
        ("fetch.wait.max.ms", "100"),
        ("queued.max.messages.kbytes", "1024"),
    ];
    kafka.client(&own).create().context("the options under `kafka` do not make a consumer")
}

/// The offset of the next record that will be written down. Blocks for as long as the brokers take.
///
/// # Errors
/// When the brokers do not answer.
pub fn end(kafka: &Kafka) -> anyhow::Result<i64> {
    let (_, end) = consumer(kafka)?.fetch_watermarks(&kafka.topics.changes, PARTITION, CALL)?;
    Ok(end)
}

impl Changes {
    /// From `next` on.
    ///
    /// # Errors
    /// Options that do not make a consumer.
    pub fn new(kafka: &Kafka, portal: &str, next: i64) -> anyhow::Result<Self> {
        let consumer = consumer(kafka)?;
        let topic = kafka.topics.changes.clone();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, PARTITION, Offset::Offset(next))?;
        consumer.assign(&list)?;
        Ok(Changes { consumer, topic, portal: portal.to_owned(), open: None })
    }

    /// What has come since, and the offset after it; never waits. The same again until it is [done](Changes::done) with.
    ///
    /// # Errors
    /// [`Trouble::Lost`] when records were deleted before they were read.
    pub fn take(&mut self) -> Result<Option<(Hints, i64)>, Trouble> {
        if self.open.is_some() {
            return Ok(self.open.clone());
        }
        for _ in 0..AT_ONCE {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let (hints, next) = self.open.get_or_insert_default();
                    *next = message.offset() + 1;
                    if message.key() == Some(self.portal.as_bytes())
                        && let Some(named) = message.payload().and_then(|payload| serde_json::from_slice::<Hints>(payload).ok())
                    {
                        hints.extend(named);
                    }
                }
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::NoOffset,
                ))) => return Err(Trouble::Lost(format!("records of {} were deleted before they were read", self.topic))),
                // Brokers that are away: the client keeps trying.
                Some(Err(error)) => {
                    tracing::debug!(event = "topic_unreadable", topic = self.topic, %error, "cannot read the topic; still trying");
                    break;
                }
            }
        }
        Ok(self.open.clone())
    }

    /// What was taken has been read from HubSpot and written.
    pub fn done(&mut self) {
        self.open = None;
    }
}
