//! One partition: where its records come from, and how far it has been read.

use super::RECHECK;
use super::idle::HOLLOW_END;
use crate::model::time::Ms;
use crate::sources::kafka::reached::Steps;
use crate::sources::snapshot::{Copied, Last, Row};
use crate::sources::{Kind, Mark};
use rdkafka::consumer::DefaultConsumerContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use std::rc::Rc;
use std::time::{Duration, Instant};

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
    /// The log time of the last record; 0 before the first.
    pub(super) taken: Ms,
    /// When records were taken whose log does not say it.
    pub(super) steps: Steps,
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
    /// An end that lies further than what could be fetched.
    pub(super) beyond: Option<Beyond>,
}

/// An end that lies further than what could be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beyond {
    end: i64,
    /// For how long the queue has been looked at since and was empty.
    empty: Duration,
    looked: Instant,
}

impl Beyond {
    /// Looked at now, when the queue was empty: `end` lies further. `before` is what the last look found.
    pub(super) fn look(end: i64, before: Option<Self>) -> Self {
        let looked = Instant::now();
        match before {
            // What came while nobody looked has not come to nothing: a pause of the process, or of this worker, counts as one look.
            Some(before) if before.end == end => {
                Beyond { end, empty: before.empty + looked.duration_since(before.looked).min(2 * RECHECK), looked }
            }
            _ => Beyond { end, empty: Duration::ZERO, looked },
        }
    }

    /// Whether nothing stands before `end` by now.
    pub(super) fn is_hollow(&self, end: i64) -> bool {
        self.end == end && self.empty > HOLLOW_END
    }
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
    /// Moves the partition's clock to the record at `offset`, and notes where the log does not say that it stands there. Gives back where it
    /// stood before. What was in no tick before `frontier` is in none of them now.
    /// It stands at `least` at least: what was taken from a snapshot was no time of the future when it was first taken, and is none now.
    pub(super) fn reach(&mut self, offset: i64, appended: Ms, least: Ms, frontier: Ms) -> Ms {
        if offset >= self.unread {
            self.low = self.low.max(frontier);
        }
        let stood = self.low.max(self.steps.at(offset));
        self.low = stood.max(appended).max(least);
        self.steps.took(offset, self.low, self.low > appended.max(self.taken));
        self.taken = self.low;
        stood
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A look after the last one was so long ago.
    fn look_after(pause: Duration, before: Beyond) -> Beyond {
        let looked = before.looked.checked_sub(pause).expect("this machine has been up for a while");
        Beyond::look(before.end, Some(Beyond { looked, ..before }))
    }

    #[test]
    fn a_pause_is_one_look_and_says_nothing_of_what_came_in_it() {
        let first = Beyond::look(7, None);
        let paused = look_after(Duration::from_secs(60), first);
        assert!(!paused.is_hollow(7));
        let (mut beyond, mut looks) = (paused, 0);
        while !beyond.is_hollow(7) {
            (beyond, looks) = (look_after(RECHECK, beyond), looks + 1);
        }
        assert!((90..=100).contains(&looks), "{looks} looks of 50 ms");
        assert!(!beyond.is_hollow(8) && !Beyond::look(8, Some(beyond)).is_hollow(8), "another end is another matter");
    }
}
