//! Short links: what one holds, which are refused, and the table of them.
//!
//! # Meaning
//! A link is `domain/slug`, a destination, and what a click on it says: workspace, title, tags, deal. The job reads
//! the click records, so the bounds here are at most the job's: every click on an accepted link is a record that the job takes.
//!
//! # Ties and edges
//! Domains compare without case, without a final dot and in their ASCII form (IDNA), slugs with case. A link of the topic hides a link of the
//! file with the same `domain/slug`; its tombstone shows the file's again. Where workspaces disagree on a domain, `owner.rs` says whose it is. A link that is disabled or has expired is answered as one
//! that never was.

mod check;
mod disputes;
mod file;
mod key;
mod link;
mod owner;
mod shard;
mod table;
mod topic;

#[cfg(feature = "schema")]
pub use check::link_schema;
pub(crate) use check::{Checked, plain_domain};
pub(crate) use disputes::Disputes;
pub use file::{LinkFile, Problem};
pub use key::link_key;
pub(crate) use link::Link;
use link::Tags;
pub(crate) use owner::Owner;
pub(crate) use table::{Layer, Live, Table};
pub(crate) use topic::TopicReader;
