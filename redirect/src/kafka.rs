//! Clicks to Kafka through librdkafka, without waiting.
//!
//! # Meaning
//! Offering a click copies it into librdkafka's bounded queue; a background thread collects what comes within [`LINGER_MS`] into
//! one compressed batch. Each click is one message: no key, JSON, create time = event time.
//!
//! # Guarantee
//! `acks=all` and an idempotent producer: a click that is reported delivered is on the topic once. *Not* guaranteed: that a click whose delivery is
//! reported as failed is not on the topic; a broker may have stored it without the answer reaching us. The job tells repeats by the click's id.
//!
//! # Limits
//! [`QUEUE_MESSAGES`] clicks or [`QUEUE_KBYTES`] of memory wait while Kafka is away; beyond that clicks are refused, counted, and logged by the
//! supervisor. After `message.timeout.ms` (librdkafka's default, five minutes) a waiting click is given up.

use crate::sink::{ClickBatch, ClickSink, SinkCounts};
use crate::{Error, KafkaConfig};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Long enough for batches of hundreds under load, short enough that nobody sees it in a timeline.
const LINGER_MS: u32 = 10;
/// Clicks that wait at most while Kafka is away.
const QUEUE_MESSAGES: u32 = 400_000;
/// Memory that waiting clicks take at most, in KiB: 400,000 clicks of 650 bytes, as a browser makes them.
const QUEUE_KBYTES: u32 = 262_144;
/// How long a purge may take to report what it threw away.
const PURGE_TIMEOUT: Duration = Duration::from_millis(500);

/// Options that every Kafka client of the server shares; the configured properties are added last and win.
pub(crate) fn client(kafka: &KafkaConfig, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "clickline-redirect");
    for (name, value) in own {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config
}

/// librdkafka's log lines as ours.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
    }
}

/// What librdkafka reports back, counted.
#[derive(Debug, Default)]
struct Reports {
    delivered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    /// Why a click was last lost.
    trouble: Mutex<Option<KafkaError>>,
    fatal: OnceLock<String>,
}

impl Reports {
    /// Keeps the reason; one line a click would flood the log, so the supervisor tells it with the sum.
    fn note(&self, error: &KafkaError) {
        // A worker may be here: it does not wait, another loss will be noted.
        if let Ok(mut trouble) = self.trouble.try_lock() {
            *trouble = Some(error.clone());
        }
    }
}

#[derive(Clone, Default)]
struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!("the Kafka producer cannot go on ({reason}); restart the server");
            let _ = self.0.fatal.set(reason.to_owned());
        } else {
            tracing::warn!(%error, "Kafka: {reason}");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.0.delivered.fetch_add(1, Relaxed),
            Err((error, _)) => {
                self.0.note(error);
                self.0.failed.fetch_add(1, Relaxed)
            }
        };
    }
}

/// Writes clicks to a Kafka topic.
pub struct KafkaSink {
    producer: ThreadedProducer<Context>,
    topic: String,
    reports: Arc<Reports>,
}

impl KafkaSink {
    /// Makes the client. The brokers need not be there yet.
    ///
    /// # Errors
    /// When librdkafka refuses an option.
    pub fn new(kafka: &KafkaConfig) -> Result<KafkaSink, Error> {
        let context = Context::default();
        let reports = context.0.clone();
        let config = client(
            kafka,
            &[
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("linger.ms", &LINGER_MS.to_string()),
                // lz4 costs the least CPU of those that halve JSON; zstd is a property away.
                ("compression.type", "lz4"),
                ("queue.buffering.max.messages", &QUEUE_MESSAGES.to_string()),
                ("queue.buffering.max.kbytes", &QUEUE_KBYTES.to_string()),
            ],
        );
        let producer = config.create_with_context(context)?;
        Ok(KafkaSink { producer, topic: kafka.clicks_topic.clone(), reports })
    }
}

impl ClickSink for KafkaSink {
    fn offer(&self, clicks: &ClickBatch) {
        let mut refused = 0;
        let mut reason = None;
        for (ts, json) in clicks.iter() {
            let record = BaseRecord::<(), [u8]>::to(&self.topic).payload(json).timestamp(i64::try_from(ts).unwrap_or(i64::MAX));
            if let Err((error, _)) = self.producer.send(record) {
                refused += 1;
                reason = Some(error);
            }
        }
        if let Some(error) = reason {
            self.reports.refused.fetch_add(refused, Relaxed);
            self.reports.note(&error);
        }
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts {
            delivered: self.reports.delivered.load(Relaxed),
            refused: self.reports.refused.load(Relaxed),
            failed: self.reports.failed.load(Relaxed),
        }
    }

    fn trouble(&self) -> Option<String> {
        self.reports.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ToString::to_string)
    }

    fn broken(&self) -> Option<String> {
        self.reports.fatal.get().cloned()
    }

    fn close(&self, timeout: Duration) -> SinkCounts {
        if self.producer.flush(timeout).is_err() {
            // Whatever is still here is given up now, so that the counts are final.
            self.producer.purge(PurgeConfig::default().queue().inflight());
            if let Err(error) = self.producer.flush(PURGE_TIMEOUT) {
                tracing::warn!(%error, "some clicks ended without a report; they count neither as delivered nor as lost");
            }
        }
        self.counts()
    }
}
