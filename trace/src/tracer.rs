//! The process's tracer: takes spans from any thread, waits for nobody.

use crate::settings::{Error, Settings};
use crate::{Ratio, Span, Trace};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Spans that wait to be sent, at most: a few MB.
const QUEUE: usize = 8_192;
/// What the last spans have to reach the collector when the process ends.
const FAREWELL: Duration = Duration::from_secs(2);

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// What comes by the queue.
pub(crate) enum Message {
    /// To be sent.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nobody sends"))]
    Span(Box<Span>),
    /// Send what is there, then say so.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nobody sends"))]
    Flush(SyncSender<()>),
}

/// Takes the spans of sampled clicks.
#[derive(Debug)]
pub struct Tracer {
    ratio: Ratio,
    queue: SyncSender<Message>,
    dropped: AtomicU64,
}

/// The process's tracer, where traces are asked for.
pub fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

impl Tracer {
    /// The trace of a click, if it is sampled.
    pub fn sampled(&self, click: &str) -> Option<Trace> {
        Some(Trace::of(click)).filter(|trace| trace.sampled(self.ratio))
    }

    /// Takes a span; drops it where too many wait.
    pub fn take(&self, span: Span) {
        if self.queue.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that were dropped since this was asked last.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nobody sends"))]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Sends what is left when it is dropped, within two seconds.
#[derive(Debug)]
#[must_use = "what is left is sent when it is dropped"]
pub struct Flush(());

impl Drop for Flush {
    fn drop(&mut self) {
        let Some(tracer) = tracer() else { return };
        let (done, wait) = sync_channel(1);
        // A full queue means a collector that takes nothing: then nothing is waited for.
        if tracer.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FAREWELL);
        }
    }
}

/// Sends traces from now on, under the name `service`, if the environment asks for it. Once in a process.
///
/// # Errors
/// What stands in the environment is wrong, or the thread can't be started.
pub fn install(service: &'static str, version: &'static str) -> Result<Flush, Error> {
    match Settings::read(|name| std::env::var(name).ok())? {
        Some(settings) => install_as(service, version, &settings),
        None => Ok(Flush(())),
    }
}

/// The same for a `share` of the clicks, to the collector at `endpoint` (`http://host:4318/v1/traces`), whatever the environment says.
///
/// # Errors
/// A share that is none, an endpoint that is none, or the thread can't be started.
pub fn install_to(endpoint: &str, share: f64, service: &'static str, version: &'static str) -> Result<Flush, Error> {
    let ratio = Ratio::of(share).ok_or(Error::Share)?;
    install_as(service, version, &Settings { ratio, share, endpoint: Some(endpoint.to_owned()) })
}

fn install_as(service: &'static str, version: &'static str, settings: &Settings) -> Result<Flush, Error> {
    let (queue, spans) = sync_channel(QUEUE);
    if started(service, version, settings, spans)? {
        tracing::info!(event = "traces_on", share = settings.share, "traces of clicks go to the collector");
        // Of two the first one serves.
        let _ = TRACER.set(Tracer { ratio: settings.ratio, queue, dropped: AtomicU64::new(0) });
    }
    Ok(Flush(()))
}

#[cfg(feature = "otlp")]
fn started(service: &'static str, version: &'static str, settings: &Settings, spans: Receiver<Message>) -> Result<bool, Error> {
    crate::export::start(service, version, settings.endpoint.as_deref(), spans).map(|()| true)
}

#[cfg(not(feature = "otlp"))]
fn started(_: &'static str, _: &'static str, _: &Settings, _: Receiver<Message>) -> Result<bool, Error> {
    tracing::warn!(
        event = "traces_not_built",
        "`OTEL_…` asks for traces, and this program was built without: `cargo build --features otel`"
    );
    Ok(false)
}
