//! The redirect server: answers short links and puts a click record on Kafka.
//!
//! ```text
//!            ┌────────────────────────── worker (one thread, one listener each) ─┐
//! visitor ──►│ head ─► link table ─► 302 ─► visitor      click ─► ClickSink::offer │──► Kafka `clicks`
//!            └──────────────▲────────────────────────────────────────────────────┘
//!                           │ a pointer is swapped; nobody waits
//!            file ──────────┤
//!            Kafka `links` ─┘
//! ```
//!
//! # Guarantees
//! - A visitor's answer never waits for Kafka, for a disk or for a lock that other work holds for long.
//! - Every redirect makes exactly one click record with an id of its own; the sink repeats none (idempotent producer).
//! - With a spool ([`SpoolConfig`]) each answered redirect's click is on the topic once, whenever the process is killed; [`Capture`] says from when on.
//! - *Not* guaranteed without one: that a click survives. A full queue, a broker that stays away longer than librdkafka's
//!   `message.timeout.ms`, or a crash loses clicks. What is lost without a crash is counted and logged.
//! - *Not* guaranteed: an order between clicks.
//!
//! # Example
//! ```no_run
//! use clickline_redirect::{Config, KafkaConfig, Server};
//! use std::time::Duration;
//!
//! let server = Server::start(Config {
//!     links_file: Some("links.yaml".into()),
//!     kafka: Some(KafkaConfig::at("127.0.0.1:9092")),
//!     ..Config::default()
//! })?;
//! assert!(server.ready(Duration::from_secs(10)));
//! println!("http://{}/abc123", server.address());
//! let stats = server.stop();
//! println!("{} clicks, {} on Kafka, {} lost", stats.served, stats.delivered, stats.lost);
//! # Ok::<(), clickline_redirect::Error>(())
//! ```

mod agent;
mod answer;
mod asked;
mod bots;
mod capture;
mod click;
mod config;
mod error;
pub mod failpoint;
#[doc(hidden)]
pub mod fuzzing;
mod geo;
mod http;
mod identity;
mod json;
mod kafka;
mod large_pages;
mod links;
#[cfg(test)]
mod lists_tests;
mod metrics;
mod pairs;
mod passing;
mod prefetch;
mod priority;
mod query;
#[doc(hidden)]
pub mod query_fuzzing;
mod server;
mod sink;
mod spool;
mod supervisor;
mod tracking;
mod visitor;
mod worker;

pub use bots::{BurstConfig, Limit};
pub use capture::{SpoolSink, Ticket};
pub use config::{Capture, ClientHeader, Clock, Config, KafkaConfig, Limits, ProxyConfig, SpoolConfig, WhenFull};
pub use error::Error;
pub use identity::{EidConfig, EidPolicy, Key, KeySource, Keys, Scope, sign};
pub use ipnet::IpNet;
pub use kafka::KafkaSink;
#[cfg(feature = "schema")]
pub use links::link_schema;
pub use links::{LinkFile, Problem, link_key};
pub use server::{Server, Stats};
pub use sink::{ClickBatch, ClickSink, Discard, SinkCounts};
#[doc(hidden)]
pub use spool::fuzzing::{recovery as fuzz_recovery, spool as fuzz_spool};
pub use visitor::{AddressKey, ClientAddress, EidCounts, VisitorConfig};
