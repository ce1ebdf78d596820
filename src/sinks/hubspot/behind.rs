//! Accounts that can't keep up: their records are passed over and read again later, so that no other account waits behind them.
//!
//! An account that has its share of records in memory and gets more is *held back* in that partition: the reader goes on, and the
//! partition's offset stays before the first record that was passed over. When half of its share is free, the account's records are read
//! again from there, a chunk at a time, by a consumer made for it. Once a chunk has come as far as the reader, the account is like any
//! other. So per deal and contact deltas keep their order, and memory does not depend on how long an account is away.
//!
//! # Cost
//! Each chunk reads past the other accounts' records. After a restart the partition is read from where the offset stands; what was
//! delivered meanwhile is skipped by the ledger.

use super::reader;
use super::record::{Lane, Raw};
use super::run::Run;
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// How long a chunk is read for; also how long it may hold up a stop.
const CHUNK_FOR: Duration = Duration::from_secs(3);

/// What is to be read again.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of which topic.
    pub lane: Lane,
    /// In which partition.
    pub partition: i32,
    /// Whose records.
    pub portal: String,
    /// From this offset …
    pub from: i64,
    /// … to before this one.
    pub to: i64,
    /// At most so many.
    pub max: usize,
}

/// What was read again.
#[derive(Debug)]
pub struct Chunk {
    /// What was asked for.
    pub wanted: Wanted,
    /// The records, or what went wrong.
    pub read: anyhow::Result<Vec<Raw>>,
    /// Where to read on.
    pub next: i64,
    /// Records, of whichever account, that were deleted before they were read again, at most.
    pub lost: u64,
}

/// Whose record it is; all else is looked at later.
#[derive(Deserialize)]
struct Portal<'a> {
    #[serde(borrow)]
    portal: Cow<'a, str>,
}

/// Reads one account's records; blocks.
fn read(kafka: &crate::kafka::Kafka, topic: &str, wanted: Wanted) -> Chunk {
    let (mut next, mut lost) = (wanted.from, 0);
    let read = fill(kafka, topic, &wanted, &mut next, &mut lost);
    Chunk { wanted, read, next, lost }
}

fn fill(kafka: &crate::kafka::Kafka, topic: &str, wanted: &Wanted, next: &mut i64, lost: &mut u64) -> anyhow::Result<Vec<Raw>> {
    let consumer = reader::consumer(kafka)?;
    let (begin, end) = consumer.fetch_watermarks(topic, wanted.partition, CHUNK_FOR)?;
    // Where the topic was made anew, the reader finds out and begins anew.
    anyhow::ensure!(*next <= end, "the partition ends at offset {end}, before the first of them, {next}");
    if begin > *next {
        *lost = begin.min(wanted.to).abs_diff(*next);
        *next = begin.min(wanted.to);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, wanted.partition, Offset::Offset(*next))?;
    consumer.assign(&list)?;
    let mut records = Vec::new();
    let until = Instant::now() + CHUNK_FOR;
    while records.len() < wanted.max && *next < wanted.to && Instant::now() < until {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) if message.offset() < wanted.to => {
                *next = message.offset() + 1;
                let payload = message.payload().unwrap_or_default();
                // What does not even say whose it is was a dead letter when the reader came by.
                if serde_json::from_slice::<Portal<'_>>(payload).is_ok_and(|record| record.portal == wanted.portal) {
                    let (partition, offset) = (message.partition(), message.offset());
                    records.push(Raw { partition, offset, key: message.key().map(<[u8]>::to_vec), payload: payload.to_vec() });
                }
            }
            // The reader has not come this far, or there is nothing behind but the marks of transactions.
            Some(Ok(_)) | Some(Err(KafkaError::PartitionEOF(_))) => *next = wanted.to,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(records)
}

/// Whose turn it is: the account after the one that had its turn last, so that none whose records can't be read keeps the others
/// waiting. Accounts come in the order of their ids.
fn turn<'a, T>(behind: impl Iterator<Item = (&'a str, T)>, last: &str) -> Option<(&'a str, T)> {
    let mut first = None;
    for (portal, what) in behind {
        if portal > last {
            return Some((portal, what));
        }
        first = first.or(Some((portal, what)));
    }
    first
}

impl Run {
    /// Has records that were held back read again, for accounts that have room for them.
    pub(super) fn catch_up(&mut self) {
        let max = self.share() / 2;
        for lane in Lane::ALL {
            if self.reading_again[lane.index()] {
                continue;
            }
            let room = self.accounts.iter().filter(|(_, account)| account.held[lane.index()] <= max);
            let behind = room.filter_map(|(portal, _)| Some((portal.as_str(), self.tracker.behind(lane, portal)?)));
            let Some((portal, (partition, from, to))) = turn(behind, &self.read_again_last[lane.index()]) else { continue };
            let wanted = Wanted { lane, partition, portal: portal.to_owned(), from, to, max };
            self.read_again_last[lane.index()] = portal.to_owned();
            let (kafka, topic) = (self.kafka.clone(), self.topic(lane).to_owned());
            self.reading_again[lane.index()] = true;
            self.chores.spawn_blocking(move || super::run::Done::Behind(read(&kafka, &topic, wanted)));
        }
    }

    /// Takes in what was read again.
    pub(super) fn again_read(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let Chunk { wanted: Wanted { lane, partition, portal, from, .. }, read, next, lost } = chunk;
        self.reading_again[lane.index()] = false;
        if self.tracker.behind_in(lane, partition, &portal) != Some(from) {
            // The topic was made anew meanwhile.
            return Ok(());
        }
        match read {
            Ok(records) => {
                if lost > 0 {
                    self.stats.lost += lost;
                    let topic = self.topic(lane);
                    tracing::error!(
                        event = "parked_records_lost",
                        portal,
                        topic,
                        partition,
                        "up to {lost} records that were held back were deleted before they were read again"
                    );
                }
                let taken = records.len() as u64;
                for raw in records {
                    self.tracker.read(lane, partition, raw.offset);
                    self.record(lane, raw, true)?;
                }
                self.tracker.caught_up_to(lane, partition, &portal, next, taken);
                self.catch_up();
            }
            // The next look tries again.
            Err(error) => tracing::warn!(
                event = "topic_unreadable",
                portal,
                topic = self.topic(lane),
                "records that were held back can't be read: {error:#}"
            ),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_take_turns() {
        let all = [("1", 'a'), ("2", 'b'), ("3", 'c')];
        let next = |last: &str| turn(all.into_iter(), last);
        assert_eq!(
            [next(""), next("1"), next("2"), next("3"), next("9")].map(|found| found.map(|(portal, _)| portal)),
            [Some("1"), Some("2"), Some("3"), Some("1"), Some("1"),]
        );
        assert_eq!(turn(std::iter::empty::<(&str, ())>(), "1"), None);
    }
}
