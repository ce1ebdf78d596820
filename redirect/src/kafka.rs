//! Clicks to Kafka through librdkafka, without waiting.
//!
//! # Meaning
//! Clicks are copied into lanes; a thread hands what it finds there to librdkafka's bounded queue with one call, and librdkafka collects what comes
//! within [`LINGER_MS`] into one compressed batch. Each click is one message: no key, JSON, no create time of its own.
//!
//! # Guarantee
//! `acks=all` and an idempotent producer: a click that is reported delivered is on the topic once. *Not* guaranteed: that a click whose delivery is
//! reported as failed is not on the topic; a broker may have stored it without the answer reaching us. The job tells repeats by the click's id.
//!
//! # Limits
//! [`QUEUE_MESSAGES`] clicks or [`QUEUE_KBYTES`] of memory wait while Kafka is away; beyond that clicks are refused, counted, and logged by the
//! supervisor. After `message.timeout.ms` (librdkafka's default, five minutes) a waiting click is given up. A crash loses what waits; with a spool
//! ([`SpoolSink`](crate::SpoolSink)) it doesn't.

use crate::capture::ROUND;
use crate::capture::counts::Counts;
use crate::capture::lanes::Lanes;
use crate::capture::produce::BatchProducer;
use crate::sink::{ClickBatch, ClickSink, SinkCounts};
use crate::{Error, KafkaConfig, failpoint};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext, PurgeConfig};
use std::sync::atomic::{AtomicBool, Ordering, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for batches of hundreds under load, short enough that nobody sees it in a timeline.
const LINGER_MS: u32 = 10;
/// Clicks that wait at most while Kafka is away.
const QUEUE_MESSAGES: u32 = 400_000;
/// Memory that waiting clicks take at most, in KiB: 400,000 clicks of 650 bytes, as a browser makes them.
const QUEUE_KBYTES: u32 = 262_144;
/// Clicks that wait in the lanes for the carrier, in bytes; it comes every few milliseconds. What it has gathered and hands on no longer counts there,
/// and may be as much again.
const LANE_BYTES: u64 = 64 << 20;
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
            tracing::warn!(event = "librdkafka", facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(event = "librdkafka", facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(event = "librdkafka", facility, "librdkafka: {message}"),
    }
}

#[derive(Clone, Default)]
struct Context(Arc<Counts>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.set_broken(format!("the Kafka producer cannot go on: {reason}"));
        } else {
            tracing::warn!(event = "kafka_error", %error, "Kafka: {reason}");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.0.produced.fetch_add(1, Relaxed),
            Err((error, _)) => {
                self.0.note(error.to_string());
                self.0.failed.fetch_add(1, Relaxed)
            }
        };
    }
}

/// Writes clicks to a Kafka topic.
pub struct KafkaSink {
    lanes: Arc<Lanes>,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    /// Gives the producer back when it ends.
    carrier: Mutex<Option<JoinHandle<BatchProducer<Context>>>>,
}

impl KafkaSink {
    /// Makes the client; so many `workers` offer clicks. The brokers need not be there yet.
    ///
    /// # Errors
    /// When librdkafka refuses an option.
    pub fn new(kafka: &KafkaConfig, workers: usize) -> Result<KafkaSink, Error> {
        let context = Context::default();
        let counts = context.0.clone();
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
        let producer: BaseProducer<Context> = config.create_with_context(context)?;
        let producer = BatchProducer::new(producer, &kafka.clicks_topic)
            .ok_or_else(|| Error::Config(format!("{:?} is no name of a topic", kafka.clicks_topic)))?;
        let lanes = Arc::new(Lanes::new(workers, LANE_BYTES));
        let stopping = Arc::new(AtomicBool::new(false));
        let carrier = Producing { lanes: lanes.clone(), counts: counts.clone(), stopping: stopping.clone(), producer };
        let carrier = thread::Builder::new()
            .name("redirect-carrier".to_owned())
            .spawn(move || carrier.run())
            .map_err(|source| Error::Start { part: "the thread that hands clicks to Kafka", source })?;
        Ok(KafkaSink { lanes, counts, stopping, carrier: Mutex::new(Some(carrier)) })
    }

    /// Ends the carrier after its last round.
    fn end(&self) -> Option<BatchProducer<Context>> {
        let carrier = self.carrier.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        // Pairs with the carrier's look: what was left before this is gathered after it.
        self.stopping.store(true, Ordering::Release);
        carrier.thread().unpark();
        carrier
            .join()
            .inspect_err(|_| tracing::error!(event = "thread_panicked", "the thread that hands clicks to Kafka had panicked"))
            .ok()
    }
}

/// The thread between the lanes and librdkafka.
struct Producing {
    lanes: Arc<Lanes>,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    producer: BatchProducer<Context>,
}

impl Producing {
    fn run(mut self) -> BatchProducer<Context> {
        let (mut clicks, mut refused, mut idle) = (ClickBatch::default(), Vec::new(), 0);
        loop {
            // Looked at first: whatever was left before it is gathered below.
            let last = self.stopping.load(Ordering::Acquire);
            self.lanes.gather(&mut clicks, &mut Vec::new());
            idle = if clicks.is_empty() { idle + 1 } else { 0 };
            if !clicks.is_empty() {
                failpoint::panic("carrier.clicks");
                let reason = self.producer.produce(clicks.iter().map(|(_, json)| json), &mut refused);
                if let Some(reason) = reason {
                    self.counts.refused.fetch_add(refused.len() as u64, Relaxed);
                    self.counts.note(reason.to_string());
                    refused.clear();
                }
                clicks.clear();
            }
            self.producer.serve();
            if last {
                return self.producer;
            }
            self.lanes.rest(idle, false, ROUND);
        }
    }
}

impl ClickSink for KafkaSink {
    fn offer(&self, clicks: &ClickBatch) {
        if !self.lanes.leave(clicks, None, Instant::now()) {
            self.counts.refused.fetch_add(clicks.len() as u64, Relaxed);
        }
    }

    fn counts(&self) -> SinkCounts {
        self.counts.read()
    }

    fn trouble(&self) -> Option<String> {
        self.counts.trouble()
    }

    fn broken(&self) -> Option<String> {
        let ended = || {
            let carrier = self.carrier.lock().unwrap_or_else(PoisonError::into_inner);
            // Until it is told to end it does not.
            let ended = carrier.as_ref().is_some_and(JoinHandle::is_finished);
            ended.then(|| "the thread that hands clicks to Kafka ended; the log before this line says why".to_owned())
        };
        self.counts.broken().or_else(ended)
    }

    fn close(&self, timeout: Duration) -> SinkCounts {
        if let Some(producer) = self.end()
            && producer.flush(timeout).is_err()
        {
            // Whatever is still here is given up now, so that the counts are final.
            producer.producer().purge(PurgeConfig::default().queue().inflight());
            if let Err(error) = producer.flush(PURGE_TIMEOUT) {
                tracing::warn!(event = "clicks_unaccounted", %error, "some clicks ended without a report; they count neither as delivered nor as lost");
            }
        }
        self.counts()
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.end();
    }
}
