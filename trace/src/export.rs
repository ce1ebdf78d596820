//! Sends spans to a collector by OTLP over HTTP, on a thread of its own.

use crate::settings::Error;
use crate::tracer::Message;
use crate::{Kind, Span, Value, tracer};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Spans that are sent at once, at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// What a collector has for its answer; `OTEL_EXPORTER_OTLP_TIMEOUT` may say less.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two words about spans that were lost.
const SAY: Duration = Duration::from_secs(30);

/// Starts the thread.
pub(crate) fn start(service: &'static str, version: &'static str, endpoint: Option<&str>, spans: Receiver<Message>) -> Result<(), Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Exporter(error.to_string());
    // An error says that somebody else in the process installed a provider first; then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(ANSWER).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| wrong(&error))?;
    let mut exporter = SpanExporter::builder().with_http().with_http_client(client);
    if let Some(endpoint) = endpoint {
        exporter = exporter.with_endpoint(endpoint);
    }
    let mut exporter = exporter.build().map_err(|error| wrong(&error))?;
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| service.to_owned());
    let resource = Resource::builder().with_service_name(name).with_attribute(KeyValue::new("service.version", version));
    exporter.set_resource(&resource.build());
    let scope = InstrumentationScope::builder(service).with_version(version).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let sender = Sender { exporter, scope, runtime, lost: 0, said: None };
    thread::Builder::new().name("traces".to_owned()).spawn(move || sender.run(&spans)).map_err(Error::Thread)?;
    Ok(())
}

struct Sender {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    runtime: tokio::runtime::Runtime,
    /// Spans that no collector got and of which nothing was said.
    lost: u64,
    said: Option<Instant>,
}

impl Sender {
    fn run(mut self, spans: &Receiver<Message>) {
        let mut batch = Vec::new();
        let mut since = Instant::now();
        loop {
            let left = if batch.is_empty() { GATHER } else { GATHER.saturating_sub(since.elapsed()) };
            match spans.recv_timeout(left) {
                Ok(Message::Span(span)) => {
                    if batch.is_empty() {
                        since = Instant::now();
                    }
                    batch.push(self.data(*span));
                    if batch.len() < BATCH {
                        continue;
                    }
                    self.send(&mut batch);
                }
                Ok(Message::Flush(done)) => {
                    self.send(&mut batch);
                    // Who does not wait any more needs no answer.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.send(&mut batch),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn send(&mut self, batch: &mut Vec<SpanData>) {
        let count = batch.len() as u64;
        let sent = if count > 0 { self.runtime.block_on(self.exporter.export(std::mem::take(batch))) } else { Ok(()) };
        self.lost += tracer().map_or(0, |tracer| tracer.dropped()) + if sent.is_err() { count } else { 0 };
        if self.lost > 0 && self.said.is_none_or(|said| said.elapsed() >= SAY) {
            let why = sent.map_or_else(|error| error.to_string(), |()| "too many at once".to_owned());
            tracing::warn!(event = "traces_lost", spans = self.lost, why, "spans did not reach the collector");
            (self.lost, self.said) = (0, Some(Instant::now()));
        }
    }

    fn data(&self, span: Span) -> SpanData {
        let Span { trace, id, parent, kind, name, start, end, attributes, failure } = span;
        let attribute = |(key, value)| match value {
            Value::Text(text) => KeyValue::new(key, text),
            Value::Number(number) => KeyValue::new(key, number),
        };
        let context = SpanContext::new(
            TraceId::from_bytes(trace.bytes()),
            SpanId::from_bytes(id.to_be_bytes()),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        SpanData {
            span_context: context,
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_be_bytes())),
            // The redirect server's and the job's spans come from other machines.
            parent_span_is_remote: parent.is_some(),
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
                Kind::Consumer => SpanKind::Consumer,
            },
            name: name.into(),
            start_time: start,
            end_time: end.max(start),
            attributes: attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}
