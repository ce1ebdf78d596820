//! Clicks on their way from the event loops to Kafka.
//!
//! ```text
//! worker ─► lane ┐             ┌─► produce_batch ─► Kafka                                        no spool: KafkaSink
//! worker ─► lane ┼─► carrier ──┤
//! worker ─► lane ┘             └─► spool ─► (fsync, answers) ─► forwarder, transactions ─► Kafka       SpoolSink
//! ```
//! An event loop copies the clicks of a turn into a lane that nobody else holds, and nothing else. One thread, the carrier, empties the lanes every
//! [`ROUND`] and hands on what it finds with one call.

mod carrier;
pub(crate) mod counts;
mod end;
pub(crate) mod forward;
pub(crate) mod lanes;
pub(crate) mod produce;
mod room;
mod spool_sink;
mod ticket;
mod traced;
mod transactions;

pub use spool_sink::SpoolSink;
pub use ticket::Ticket;
pub(crate) use traced::Traced;

use std::time::Duration;

/// How often the lanes are emptied. With the writing that follows it stays below the 5 ms that `--capture fast` promises.
pub(crate) const ROUND: Duration = Duration::from_millis(2);
