//! A job of several processes: how they find each other, agree, and end together.
//!
//! ```text
//! process 0 ◄── hello, terms ──► process 1 … n      each pair over one connection
//!     │  takes the outbox over, reads progress and state
//!     └── start ──────────────────► process 1 … n   how far the job had come
//!     ◄═══ timely's rows and progress ═══►           the same connections, from then on
//! ```
//!
//! # Meaning
//! Addresses are timely's: one `host:port` for each process, in the order of their indexes ([`hosts`]). The processes
//! connect ([`meet`]), compare what has to be the same in all of them ([`terms`]), and are told by process 0 where the job
//! takes the log up. Then the connections are timely's ([`link`]).
//!
//! # Why no tick closes early when a process ends
//! - A worker's share of every open tick stands in the others' books as a capability or as rows that are under way, until
//!   that worker itself says that it is done with them.
//! - A worker that is killed, or whose dataflow is dropped as it stands, says nothing any more: timely tells the others
//!   only at the end of a worker's step.
//! - So the frontier at worker 0 stays where it was, and the outbox commits no tick that a process had a share in.
//!
//! # Ties and edges
//! - Processes share their fate. When a connection ends, each process that was not asked to stop fails with [`Lost`].
//! - A process that dials early waits, as long as it takes; so does one that listens. Asked to stop, either ends.
//!
//! # Not guaranteed
//! Secrecy, or that the other end is who it says it is: timely's connections know neither. Private networks only.

pub mod hosts;
pub mod link;
pub mod meet;
pub mod terms;
#[cfg(test)]
mod testing;

pub use hosts::Hosts;
pub use link::{Links, Lost};
pub use meet::{Met, Misfit, meet};
pub use terms::Terms;
