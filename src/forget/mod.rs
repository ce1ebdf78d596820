//! Forgets a person: everywhere at once, and from then on.
//!
//! ```text
//!  HubSpot's contact.privacyDeletion ──► mirror ──┐   person.rs  which ids and addresses are one person's
//!  clickline forget ──────────────────────────────┤
//!                                                 ▼
//!   state database, one transaction: parked, values, refused records ──► gone      state/erasures.rs
//!                                    ids, hashes of addresses        ──► refused   sinks/hubspot/erased.rs
//!                                                 ▼
//!   sweep.rs: ledger, dead letters, carried states, counts, the mirror's record, ClickHouse
//!             at once, and once a day in a running job (keeper.rs) for what comes later
//! ```
//!
//! # Meaning
//! A person is one contact of one HubSpot account with all that was merged into it, and all addresses that it has had. What stands in
//! a database is deleted; what stands in a compacted topic is ended by a tombstone; what stands in another topic stays until the topic's
//! own retention, and [`sweep::Left`] says how much that is and when it goes.
//!
//! # Guarantee
//! Whatever was done is kept: every step can be repeated, and the second time finds nothing. Whom the state database remembers is written
//! to HubSpot by no request that is begun after that, and no contact is made for them.
//!
//! # Not guaranteed
//! - That a deal does not move for other reasons: rules that count a deal's own links name no person.
//! - Backups, logs of proxies, and whatever else read the topics.
//! - A contact that is made in HubSpot anew has a new id, and is another person here; until the mirror has it, its address is refused.

pub mod keeper;
pub mod person;
pub mod sweep;
#[cfg(test)]
mod tests;
mod topics;

pub use person::{Asked, find};
pub use sweep::{Stores, sweep};

/// Whether to look or to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Say what there is and change nothing.
    Look,
    /// Remove it.
    Remove,
}
