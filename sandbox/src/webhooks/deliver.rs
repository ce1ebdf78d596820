//! Sending: batches out of the queue, signed, tried again until they are answered with 2xx or the retries are used up.

use super::Batch;
use super::sign;
use crate::http::AppState;
use reqwest::Client;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an app may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One attempt to deliver a batch.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// When it was sent, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Where to.
    pub url: String,
    /// 0 for the first attempt, 1 for the first retry, …
    pub attempt: usize,
    /// The events' ids.
    pub event_ids: Vec<u64>,
    /// HTTP status of the answer; none when there was none in time.
    pub status: Option<u16>,
}

/// A request as it goes out.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub url: String,
    pub body: Vec<u8>,
    pub timestamp_ms: u64,
    pub signature: String,
    pub signature_v1: String,
}

impl Signed {
    /// Signs a body for an app.
    pub fn new(url: String, body: Vec<u8>, secret: &str, timestamp_ms: u64) -> Self {
        let signature = sign::v3(secret, "POST", &url, &body, timestamp_ms);
        Self { signature, signature_v1: sign::v1(secret, &body), url, body, timestamp_ms }
    }
}

/// Sends what the queue holds.
#[derive(Clone)]
pub(crate) struct Sender(Client);

impl Sender {
    /// # Errors
    ///
    /// The machine has no usable TLS.
    pub fn new() -> io::Result<Self> {
        // An error means that another part of the process has chosen a provider, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none()).no_proxy().build();
        client.map(Self).map_err(io::Error::other)
    }

    /// Sends until the sandbox stops.
    pub async fn run(self, app: AppState) {
        let mut changes = app.watch();
        let mut open = JoinSet::new();
        let mut limits: BTreeMap<usize, Arc<Semaphore>> = BTreeMap::new();
        loop {
            loop {
                let next = app.world().webhooks.take();
                let Some(batch) = next else { break };
                let permits = usize::try_from(batch.settings.max_concurrent_requests).unwrap_or(1).max(1);
                let limit = Arc::clone(limits.entry(batch.app).or_insert_with(|| Arc::new(Semaphore::new(permits))));
                open.spawn(deliver(self.clone(), app.clone(), batch, limit));
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() || !*changes.borrow_and_update() { return },
                Some(_) = open.join_next() => {}
            }
        }
    }

    /// Sends one request; gives back the status of its answer.
    pub async fn send(&self, signed: Signed) -> Option<u16> {
        let request = self
            .0
            .post(&signed.url)
            .header("content-type", "application/json")
            .header("x-hubspot-signature-v3", signed.signature)
            .header("x-hubspot-request-timestamp", signed.timestamp_ms)
            .header("x-hubspot-signature", signed.signature_v1)
            .header("x-hubspot-signature-version", "v1")
            .body(signed.body);
        request.send().await.ok().map(|response| response.status().as_u16())
    }
}

async fn deliver(sender: Sender, app: AppState, mut batch: Batch, limit: Arc<Semaphore>) {
    for attempt in 0.. {
        let config = app.config();
        let Some(client) = config.apps.get(batch.app) else { return };
        for event in &mut batch.events {
            event["attemptNumber"] = attempt.into();
        }
        let (url, at_ms) = (batch.settings.target_url.clone(), app.now());
        let body = serde_json::to_vec(&batch.events).unwrap_or_default();
        let status = {
            // The semaphore is never closed.
            let _permit = limit.acquire().await;
            sender.send(Signed::new(url.clone(), body, &client.client_secret, at_ms)).await
        };
        let event_ids = batch.events.iter().filter_map(|e| e.get("eventId").and_then(Value::as_u64)).collect();
        app.world().webhooks.note(Delivery { at_ms, url, attempt, event_ids, status });
        if status.is_some_and(|s| (200..300).contains(&s)) {
            return;
        }
        let Some(pause) = config.webhook_retries.get(attempt) else {
            tracing::warn!(event = "sandbox_webhooks_given_up", events = batch.events.len(), "webhook events are given up");
            return;
        };
        sleep(*pause).await;
    }
}
