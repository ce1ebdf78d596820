//! Writes clicks, and deltas where configured, to ClickHouse.
//!
//! ```text
//!  Kafka: clicks, delta topics       settings.rs  the configuration      schema.rs   tables, views, migrations
//!     │ reader.rs  one consumer      batch.rs     cuts and their tokens  outcome.rs  what an answer means
//!     ▼                              record.rs    records as rows        stats.rs    what is counted
//!  run.rs   cut → record the cut → leave out known ids → insert → next
//!     │ service.rs  one request      sink.rs      threads                forget.rs   erasing a person
//!     ▼
//!  ClickHouse: clicks, deltas, batches, totals
//! ```
//!
//! # Guarantee
//! Each click id of a workspace is one row of `clicks`, and counted once in the totals, whatever is sent again and whoever is killed:
//! - where a batch is cut is recorded in the table `batches` before its rows are sent, so a successor sends the same rows again;
//! - its deduplication token names that cut, so the server takes it once, also into what the views feed;
//! - ids that an earlier batch wrote are left out, so a record that Kafka holds twice is one row;
//! - `ReplacingMergeTree` is the second net, not what this rests on.
//!
//! Not guaranteed: anything while two jobs write the same topic to the same database; order between partitions; rows that the server
//! loses after it acknowledged them (parts are synced to disk first).
//!
//! # Cost
//! Three requests a batch of up to `batch_rows` rows, one batch in flight a topic.

mod batch;
mod exposed;
mod forget;
mod outcome;
mod reader;
mod record;
mod run;
mod schema;
mod service;
mod settings;
mod sink;
mod stats;

pub use exposed::Exposed;
pub use forget::{Forgotten, Of, addresses, forget};
pub use outcome::{Class, classify};
pub use record::{ClickRow, DeltaRow, Key, Raw, Stream, with_click, with_delta};
pub use schema::{Standing, TABLES, migrate, standing};
pub use service::{Failure, Service};
pub use settings::{Settings, delta_topic};
pub use sink::Sink;
pub use stats::{Stats, Trouble};
