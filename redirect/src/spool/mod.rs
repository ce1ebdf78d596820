//! Clicks on disk, from the moment they are made until Kafka has them.
//!
//! # Meaning
//! A spool is a queue of records in segment files. Every record has a sequence number that is never used again, not even
//! after a power cut that took records away: each start takes a new *run*, stored before its first record, and a number is the run in the upper
//! bits and a count in the lower [`COUNT_BITS`].
//!
//! ```text
//! DIR/lock                     held by the process
//! DIR/spool                    format, the spool's id, the last run; named `refused` when another process has sent the spool
//! DIR/position                 a hint: all before this number is committed to Kafka
//! DIR/00000001099511627776.seg segment, named by the first number it may hold
//! DIR/00000001099511627776.big a click that the brokers refuse for its size, by its number
//! ```
//!
//! # Guarantee
//! What [`Store::append`] has taken is given to the forwarder in order, once per reading. After a crash of the process nothing of it is missing; after a
//! power cut nothing that [`Store::sync`] has confirmed. Damage costs the records it hits; it is counted, and never ends the process. What is on a full
//! disk can be read, sent and removed.
//!
//! # Where things are
//! `frame.rs` bytes of records, `disk.rs` the file system, `meta.rs` whose spool it is, `recover.rs` what a start finds, `store.rs` the writing end, `shelf.rs` what the two ends
//! share and the reading end, `tail.rs` what was appended last and need not be read from the disk, `ages.rs` since when what waits has waited.

mod ages;
pub(crate) mod disk;
pub(crate) mod frame;
pub mod fuzzing;
#[cfg(test)]
mod memory;
mod meta;
#[cfg(test)]
mod model_tests;
mod recover;
#[cfg(test)]
mod recover_tests;
mod shelf;
mod store;
mod tail;

#[cfg(test)]
pub(crate) use disk::Appender;
pub(crate) use disk::{Disk, Folder};
pub(crate) use meta::{Identity, refuse};
pub(crate) use recover::{Found, recover};
pub(crate) use shelf::{Cursor, Shelf};
pub(crate) use store::{AppendError, Store};

use crate::Error;
use std::io;

/// Why a spool cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Somebody must change something: another start does not help.
    Wrong(String),
    /// The disk failed. It may be better at the next start.
    Disk(String),
}

impl Unusable {
    fn cannot(what: &str, error: &io::Error) -> Unusable {
        Unusable::by(error, format!("cannot {what} the spool ({error}); check its owner, permissions and disk"))
    }

    fn by(error: &io::Error, message: String) -> Unusable {
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem => Unusable::Wrong(message),
            _ => Unusable::Disk(message),
        }
    }
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Error {
        match unusable {
            Unusable::Wrong(message) => Error::Config(message),
            Unusable::Disk(message) => Error::Spool(message),
        }
    }
}

/// Bits of a sequence number that count within a run: 10^12 clicks.
pub(crate) const COUNT_BITS: u32 = 40;

/// Name of the file for a click that the brokers refuse for its size.
pub(crate) fn big_name(sequence: u64) -> String {
    format!("{sequence:020}.big")
}

/// Name of the segment whose first record has this number.
fn segment_name(base: u64) -> String {
    format!("{base:020}.seg")
}

fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}
