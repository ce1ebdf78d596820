//! Clicks on disk, from the moment they are made until Kafka has them.
//!
//! # Meaning
//! A spool is a queue of records in segment files. Every record has a sequence number that is never used again, not even
//! after a power cut that took records away: each start takes a new *run*, stored before its first record, and a number is the run in the upper
//! bits and a count in the lower [`COUNT_BITS`].
//!
//! ```text
//! DIR/lock                     held by the process
//! DIR/spool                    format, the spool's id, the last run
//! DIR/position                 a hint: all before this number is committed to Kafka
//! DIR/00000001099511627776.seg segment, named by the first number it may hold
//! ```
//!
//! # Guarantee
//! What [`Store::append`] has taken is given to the forwarder in order, once per reading. After a crash of the process nothing of it is missing; after a
//! power cut nothing that [`Store::sync`] has confirmed. Damage costs the records it hits; it is counted, and never ends the process.
//!
//! # Where things are
//! `frame.rs` bytes of records, `disk.rs` the file system, `recover.rs` what a start finds, `store.rs` the writing end, `shelf.rs` what the two ends
//! share and the reading end, `ages.rs` since when what waits has waited.

mod ages;
pub(crate) mod disk;
pub(crate) mod frame;
pub mod fuzzing;
#[cfg(test)]
mod model_tests;
mod recover;
mod shelf;
mod store;

#[cfg(test)]
pub(crate) use disk::Appender;
pub(crate) use disk::{Disk, Folder};
pub(crate) use recover::{Found, recover};
pub(crate) use shelf::{Cursor, Shelf};
pub(crate) use store::{AppendError, Store};

/// Bits of a sequence number that count within a run: 10^12 clicks.
pub(crate) const COUNT_BITS: u32 = 40;

/// Name of the segment whose first record has this number.
fn segment_name(base: u64) -> String {
    format!("{base:020}.seg")
}

fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}
