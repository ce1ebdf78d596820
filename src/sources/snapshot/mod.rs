//! Snapshots: what was read of a partition, decoded, on this machine's disk, so that a restart need not read it again.
//!
//! ```text
//! FOLDER/clicks-3/lock                        held by the job that writes here
//! FOLDER/clicks-3/00000000000000000000.seg    label, then blocks; named by the first offset that it may hold
//! FOLDER/clicks-3/00000000000000731254.seg    goes on where the one before it ended
//! ```
//!
//! # Meaning
//! A snapshot is a copy of one partition's log: the same records in the same order, each with its append time.
//! It grows as the partition is read, and its oldest segments go when the longest window has left them. A
//! restart reads the copy, then the partition from where the copy ends. So no number of workers, no rule and no
//! operator's state stands in it, nor when the job took a record that came late ([`super::kafka::reached`]): it can be out of date, but
//! not wrong.
//!
//! # Ties and edges
//! - It is a cache: it may be deleted or damaged at will, also in part and while the job is down. Every block has a
//!   checksum. Where one does not fit, or a block breaks off, the copy ends, with a warning, and Kafka has the rest.
//! - Nothing is flushed to the disk by force: what a power cut takes away is read from Kafka again.
//! - A copy of another topic of the same name is known by its last record, which must stand in the partition at the same
//!   offset with the same time and bytes. A copy by a build or configuration that reads records in another way is known
//!   by its label. A copy that does not reach back as far as the rules need is of no use. Each is said, thrown away,
//!   and begun anew.
//! - A folder that another job holds, a full disk, or a disk that does not keep up: the job goes on without.
//!
//! # Cost
//! Around 90 bytes of disk for a click of the redirect server, written by a thread of its own. Reading it saves the
//! brokers, the network and the parser; what the dataflow then does with a click is the same (`benches/restart`).

mod block;
mod reader;
mod rows;
mod segment;
mod writer;

pub use reader::{Copied, Next};
use rows::Damaged;
pub use rows::Row;
pub use segment::{Last, Opened, clear};
pub use writer::{Place, Recorder};

use super::Kind;
use crate::cluster::terms::EXECUTABLE;
use crate::dataflow::plan::Times;
use crate::model::time::Ms;
use std::path::PathBuf;

/// Where snapshots are kept, and for how long.
#[derive(Clone, Debug)]
pub struct Snapshots {
    /// The folder; made when it is missing. Every process has its own, or one that it shares with others on its machine.
    pub folder: PathBuf,
    /// How long clicks are needed after they were appended, ms.
    pub keep_clicks: Ms,
    /// The same for forms.
    pub keep_forms: Ms,
}

impl Snapshots {
    /// How long records of `kind` are kept; `None`: they are not copied. States are few and compaction changes them.
    pub fn keep(&self, kind: Kind) -> Option<Ms> {
        match kind {
            Kind::Clicks => Some(self.keep_clicks),
            Kind::Forms => Some(self.keep_forms),
            Kind::Contacts | Kind::Deals => None,
        }
    }

    /// Of one partition.
    pub fn of(&self, kind: Kind, topic: &str, partition: i32, times: &Times) -> Spot {
        let Times { tick, max_future, dedupe_horizon: _, max_lateness: _ } = times;
        // Not the version alone: a build in the making has the one of the last.
        let build = &*EXECUTABLE;
        Spot {
            folder: self.folder.join(format!("{}-{partition}", kind.name())),
            label: format!("clickline snapshot 2, build {build}, partition {partition} of {topic}, tick {tick}, max_future {max_future}\n"),
            partition,
        }
    }
}

/// Where one partition's snapshot is, and what must stand at the head of its files.
#[derive(Clone, Debug)]
pub struct Spot {
    folder: PathBuf,
    label: String,
    partition: i32,
}

#[cfg(test)]
mod tests;
