//! Traces of clicks, from the redirect to the call that tells HubSpot, for [OpenTelemetry](https://opentelemetry.io).
//!
//! ```text
//!  redirect server        job                           HubSpot sink
//!  [redirect]  ──Kafka──► [resolve]  ──Kafka──► [hubspot timeline]      one trace: the click's id
//! ```
//!
//! # Meaning
//! A click's id is its trace ([`Trace`]): its 16 bytes are the trace's id, and what is sampled follows from them. So nothing is
//! carried along, neither through topics nor through the dataflow: every part that handles a click knows its trace, and agrees with the others on
//! whether it is sampled. A span names its parent by a number that follows from the trace and the parent's name.
//!
//! # Ties and edges
//! - Off unless the process was built with the feature `otel` and `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set: then [`tracer`] is
//!   `None`, which is all that a click is asked.
//! - Nobody waits for a collector: spans that find the queue full are dropped and counted in the log, and so is what a collector does not take.
//! - Spans hold ids, names of links, workspaces and accounts; no address, no contact.
//!
//! # Cost
//! For a click that is not sampled: reading its id and one comparison. For one that is: a few hundred bytes in the queue for each span.

mod context;
#[cfg(feature = "otlp")]
mod export;
mod settings;
mod span;
mod tracer;

pub use context::{Ratio, Trace};
pub use settings::Error;
pub use span::{Kind, Span, Value};
pub use tracer::{Flush, Tracer, install, install_to, tracer};
