//! One partition: where its records come from, and how far it has been read.

use crate::model::time::Ms;
use crate::sources::snapshot::{Copied, Last, Row};
use crate::sources::{Kind, Mark};
use rdkafka::consumer::DefaultConsumerContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use std::rc::Rc;
use std::time::Instant;

/// One partition and how far it has been read.
pub(super) struct Tail {
    pub(super) partition: i32,
    /// Where its records come from.
    pub(super) from: From,
    /// What has been read and waits for room to be copied.
    pub(super) fresh: Vec<(Row, Last)>,
    /// Records from this offset on were in no tick that was committed.
    pub(super) unread: i64,
    /// The log time it has reached: no record that is still to come is older.
    pub(super) low: Ms,
    /// The offset after the last record; before the first, where reading begins.
    pub(super) next: i64,
    /// The tick of that record; the clock's before the first.
    pub(super) at: Ms,
    /// What the last mark said.
    pub(super) marked: Option<i64>,
    /// Marks that were passed since the last turn.
    pub(super) passed: Vec<(Mark, Ms)>,
    /// Since when nothing more could be fetched.
    pub(super) ended: Option<Instant>,
    /// An end that lies further than what could be fetched, and since when it is known.
    pub(super) beyond: Option<(i64, Instant)>,
}

/// Where a partition's records come from.
pub(super) enum From {
    /// From its snapshot, to begin with.
    Snapshot(Box<Copied>),
    /// From Kafka; shared with a turn that reads it while the rest changes.
    Queue(Rc<PartitionQueue<DefaultConsumerContext>>),
    /// From nowhere: something went wrong, and the job is about to stop.
    Nowhere,
}

impl Tail {
    /// Notes how far it has been read, unless that was said before.
    pub(super) fn mark(&mut self, kind: Kind) {
        if self.marked != Some(self.next) {
            self.marked = Some(self.next);
            self.passed.push((Mark { kind, partition: self.partition, next: self.next }, self.at));
        }
    }

    /// The record at `offset` belongs to the tick that ends at `at`: all before it to an earlier one, if that is another.
    pub(super) fn read(&mut self, kind: Kind, offset: i64, at: Ms) {
        if at != self.at {
            self.mark(kind);
            self.at = at;
        }
        self.next = offset + 1;
    }
}

/// A partition's offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) partition: i32,
    /// The first that it still holds.
    pub(super) start: i64,
    /// The first that is needed.
    pub(super) begin: i64,
    /// The one after the last.
    pub(super) end: i64,
}
