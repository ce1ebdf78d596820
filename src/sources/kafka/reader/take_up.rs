//! Takes partitions up: where to begin with each, from its snapshot or from Kafka, and whether what it had for us is gone.

use super::Reader;
use super::tail::{Extent, From, Tail};
use crate::model::time::{Ms, rfc3339};
use crate::sources::kafka::reached::Steps;
use crate::sources::snapshot::Place as CopyEnd;
use anyhow::Context as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{Consumer as _, DefaultConsumerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Reader {
    /// Partitions that are new and the offsets they have; `None` while those that the topic began with are not all known:
    /// the clock must not run without one of them.
    pub(super) fn places(&self) -> Option<Vec<Extent>> {
        let seen = self.watch.seen();
        let mine = seen.mine.as_ref()?;
        if mine.len() <= self.tails.len() {
            return Some(Vec::new());
        }
        let (_, ends) = seen.ends.as_ref()?;
        let extent = |partition: &i32| {
            let (start, begin) = (*seen.starts.get(partition)?, *seen.begins.get(partition)?);
            Some(Extent { partition: *partition, start, begin, end: *ends.get(partition)? })
        };
        let new = mine.iter().filter(|p| !self.tails.iter().any(|tail| tail.partition == **p));
        let known: Vec<Option<Extent>> = new.map(extent).collect();
        let all = known.iter().all(Option::is_some);
        (all || !self.tails.is_empty()).then(|| known.into_iter().flatten().collect())
    }

    /// Where to begin with a partition, unless what it had for us is gone. `copied` is the offset up to which a snapshot has it, `steps` what is
    /// known of it besides.
    fn begin(&self, extent: Extent, copied: Option<i64>, steps: &Steps) -> anyhow::Result<i64> {
        let Extent { partition, start, begin, end } = extent;
        let Some(unread) = self.resume.unread(self.kind, partition) else { return Ok(copied.map_or(begin, |copied| copied.max(start))) };
        let (topic, accepted) = (&self.topic, "start with --accept-gaps to go on without them");
        let missing = copied.unwrap_or(unread).max(unread);
        let counted = self.resume.counted_from(self.kind).and_then(|needed| steps.missing(copied.unwrap_or(0), start, needed));
        let gone = match (copied, counted) {
            _ if unread > end => {
                format!(
                    "partition {partition} of {topic} ends at offset {end}, but had been read up to {unread}: the topic was made anew, or records were lost; {accepted}"
                )
            }
            _ if missing < start => {
                let gone = start - missing;
                format!(
                    "up to {gone} records of partition {partition} of {topic} were deleted before the job had read them (offsets {missing} to {start}): they were kept too short for how long it was away; {accepted}"
                )
            }
            (_, Some((offset, taken))) => {
                let since = rfc3339(taken);
                format!(
                    "records of partition {partition} of {topic} that have counted, and are needed again, were deleted, and no snapshot has them (offsets {offset} to {start}, from {since} on): without them counts fall, hot periods end and begin, and deals may move twice; raise the topic's retention.ms, and {accepted}"
                )
            }
            (Some(copied), None) => return Ok(copied.max(start)),
            // The index of times must not lead past what was not read.
            (None, None) => return Ok(begin.min(unread).max(start)),
        };
        anyhow::ensure!(self.resume.accept_gaps, gone);
        tracing::warn!(event = "input_records_lost", "{gone}");
        Ok(copied.unwrap_or(begin.min(unread)).max(start))
    }

    /// Begins with partitions that are new.
    pub(super) fn take_up(&mut self, new: &[Extent], clock: Ms) -> anyhow::Result<()> {
        for extent in new.iter().copied() {
            let Extent { partition, begin, end, .. } = extent;
            let copy = self.watch.seen().copies.remove(&partition);
            let known = self.resume.unread(self.kind, partition);
            // Made anew: nothing of it was in a tick that was committed.
            let anew = known.is_some_and(|unread| unread > end);
            let unread = if anew { 0 } else { known.unwrap_or(i64::MAX) };
            let mut steps =
                Steps::new(self.kind, partition, self.resume.known(self.kind, partition), self.times.tick, self.resume.frontier);
            let reaches_back = copy.as_ref().and_then(|copy| copy.after()).map(|after| after <= begin.min(unread));
            let (from, next) = match (copy, reaches_back) {
                (Some(copy), Some(true)) => {
                    let taken = self.resume.taken_from(self.kind, partition).unwrap_or(i64::MAX);
                    let copied = copy.read(self.resume.from(self.kind), taken.min(begin).min(unread));
                    let next = copied.position();
                    let rest = u64::try_from(end - copied.end()).unwrap_or(0);
                    self.meter.waiting.fetch_add(copied.left() + rest, Ordering::Relaxed);
                    (From::Snapshot(Box::new(copied)), next)
                }
                (copy, reaches_back) => {
                    let begin = self.begin(extent, None, &steps)?;
                    // Those of what is gone say no more than where its first record stands now.
                    let gone = if anew { i64::MAX } else { extent.start };
                    steps.forget(0..gone, clock);
                    self.meter.waiting.fetch_add(u64::try_from(end - begin).unwrap_or(0), Ordering::Relaxed);
                    let place = copy.map(|mut copy| {
                        if reaches_back.is_some() {
                            tracing::info!(
                                event = "snapshot_begun_anew",
                                topic = self.topic,
                                partition,
                                "the snapshot does not reach back far enough; it is begun anew"
                            );
                        }
                        copy.discard().map(|()| copy.begin(begin))
                    });
                    (From::Queue(self.assign(partition, begin, place)?), begin)
                }
            };
            self.tails.push(Tail {
                partition,
                from,
                fresh: Vec::new(),
                unread,
                low: clock,
                taken: 0,
                steps,
                next,
                at: clock,
                marked: None,
                passed: Vec::new(),
                ended: None,
                beyond: None,
            });
            if clock > 0 {
                tracing::warn!(
                    event = "partition_added",
                    topic = self.topic,
                    partition,
                    "a new partition: what it holds counts from now on"
                );
            }
        }
        Ok(())
    }

    /// Reads a partition from Kafka from now on, and goes on with its snapshot.
    fn assign(
        &mut self,
        partition: i32,
        begin: i64,
        place: Option<io::Result<CopyEnd>>,
    ) -> anyhow::Result<Rc<PartitionQueue<DefaultConsumerContext>>> {
        match place {
            Some(Ok(place)) => self.recorder.open(place),
            Some(Err(error)) => {
                tracing::warn!(event = "snapshot_unusable", %error, topic = self.topic, partition, "cannot use the snapshot; going on without")
            }
            None => {}
        }
        // Before the partition is assigned: librdkafka then leaves its queue alone. Otherwise records that are
        // fetched in between come through the client's own queue, past the credit.
        let queue = self.consumer.split_partition_queue(&self.topic, partition);
        let mut queue = queue.with_context(|| format!("cannot read partition {partition} of {}", self.topic))?;
        let wake = Arc::clone(&self.wake);
        queue.set_nonempty_callback(move || {
            // An error says that the worker is gone, and so will be the queue.
            let _ = wake.activate();
        });
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(begin))?;
        self.consumer.incremental_assign(&list).with_context(|| format!("cannot read the topic {}", self.topic))?;
        Ok(Rc::new(queue))
    }

    /// The snapshot of a partition has been read: Kafka has the rest.
    pub(super) fn go_on(&mut self, place: usize) -> anyhow::Result<()> {
        let tail = &mut self.tails[place];
        let (partition, next) = (tail.partition, tail.next);
        let From::Snapshot(copied) = std::mem::replace(&mut tail.from, From::Nowhere) else { return Ok(()) };
        let place_of_copy = copied.finish();
        let (start, end) = {
            let seen = self.watch.seen();
            let end = seen.ends.as_ref().and_then(|(_, ends)| ends.get(&partition)).copied().unwrap_or(next);
            (seen.starts.get(&partition).copied().unwrap_or(0), end)
        };
        let begin = self.begin(Extent { partition, start, begin: next, end }, Some(next), &self.tails[place].steps)?;
        let low = self.tails[place].low;
        self.tails[place].steps.forget(next..start.max(next), low);
        let queue = self.assign(partition, begin, Some(Ok(place_of_copy)))?;
        self.tails[place].from = From::Queue(queue);
        self.tails[place].next = begin;
        Ok(())
    }
}
