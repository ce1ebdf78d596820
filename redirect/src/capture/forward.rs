//! From the spool to Kafka, each click once.
//!
//! # Why each click is on the topic once
//! The forwarder's producer is transactional, with the spool's own id. A transaction holds the clicks up to some sequence number and, as the offset of
//! a consumer group of the spool's own, that number: either both are committed or neither. A start first initialises its producer, which waits until
//! the last transaction of the process before it is committed or aborted and fences that producer: what of it is still in
//! a socket is refused from then on. Then it reads the number back and sends what stands in the spool from there. So it does not matter where the process
//! was killed, nor whether it learned of its last commit.
//!
//! This holds for readers of committed records (`isolation.level=read_committed`). Others also see what was aborted, and tell it by the click's id.
//!
//! *One case can repeat*: Kafka forgets a group's offset after `offsets.retention.minutes` (a week) without a commit. A spool that waits longer
//! than that goes on from its own note of the position, which a crash may leave one transaction behind.
//!
//! # A spool that was copied
//! Two processes with copies of one spool would use one number, and take each other's clicks for their own. Whoever finds a position that it cannot have
//! stored sends and removes nothing more, marks the spool so that later starts refuse it (see `spool/meta.rs`), is broken and says so. Without the mark a few
//! starts would do: each has a higher number, until Kafka's is below it, and what was answered meanwhile would pass for sent.
//!
//! *Not found* is a copy whose starts have gone beyond the position that the other one stored before it first asks for it.
//!
//! # Clicks that are too large
//! A click has less than 300 kB, and librdkafka and brokers take a megabyte unless they are told otherwise. One that is refused for its size in a transaction
//! of its own is put aside, in a file of the spool, and counted; the position goes on behind it.

use super::counts::Counts;
use super::end::End;
use super::room::Room;
use super::transactions::{Batch, Outcome, Session, Stop, Transactions};
use crate::priority::{LOWER, give_way};
use crate::spool::{Cursor, Disk, Found, Shelf, big_name, refuse};
use crate::{Error, KafkaConfig, failpoint};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// From one transaction's start to the next one's, at least: a commit costs the brokers some writes, and both sides a millisecond, whatever it holds.
const PACE: Duration = Duration::from_millis(50);
/// The same while there are many clicks: they would fill it twice.
const PACE_OF_MANY: Duration = Duration::from_millis(100);
/// Clicks of a transaction that are many: it begins with 20,000 a second, and ends below 10,000, since the longer pace gathers twice as many.
const MANY: usize = 1_000;
/// How long to wait for something to send before the end is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Before a new try after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Sends the spool; one thread's.
pub(crate) struct Forwarder {
    transactions: Transactions,
    disk: Arc<dyn Disk>,
    shelf: Arc<Shelf>,
    counts: Arc<Counts>,
    end: Arc<End>,
    /// First number of this run.
    first: u64,
    /// All before it is committed, as far as this process knows.
    position: u64,
    /// Kafka has told its position once.
    known: bool,
    /// The last commit's position, when nobody knows whether it was made.
    unsure: Option<u64>,
    /// What was sent before, in this process or an earlier one, ends here.
    sent: u64,
    /// What the next transaction may hold.
    room: Room,
    /// What is sent could not be removed the last time.
    not_removed: bool,
}

impl Forwarder {
    /// Checks the options; no thread and no connection yet.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        found: &Found,
        disk: Arc<dyn Disk>,
        shelf: Arc<Shelf>,
        counts: Arc<Counts>,
    ) -> Result<Forwarder, Error> {
        let transactions = Transactions::new(kafka, found.identity.id, counts.clone())?;
        let end = transactions.end.clone();
        let (first, position) = (found.identity.first(), found.position);
        Ok(Forwarder {
            transactions,
            disk,
            shelf,
            counts,
            end,
            first,
            position,
            known: false,
            unsure: None,
            sent: first,
            room: Room::default(),
            not_removed: false,
        })
    }

    pub(crate) fn end(&self) -> Arc<End> {
        self.end.clone()
    }

    /// Sends until the end.
    pub(crate) fn run(mut self) {
        // Visitors go before a backlog; librdkafka's threads are started from here.
        give_way(LOWER);
        loop {
            match self.session() {
                Ok(()) | Err(Stop::Over) => return,
                Err(Stop::Broken(reason)) => {
                    self.counts.set_broken(reason);
                    return;
                }
                Err(Stop::Foreign) => {
                    if let Err(error) = refuse(&*self.disk) {
                        tracing::error!(
                            event = "spool_not_marked",
                            %error,
                            "the spool could not be marked as one that another process sends; keep it from being started again"
                        );
                    }
                    self.counts.set_broken(Stop::Foreign.to_string());
                    return;
                }
                Err(stop) => {
                    tracing::warn!(event = "spool_waits", "{stop}; clicks wait in the spool");
                    self.counts.note(stop.to_string());
                }
            }
            if self.end.over() {
                return;
            }
            thread::sleep(AGAIN);
        }
    }

    /// One producer's life. Ends well when all is sent and nothing more comes.
    fn session(&mut self) -> Result<(), Stop> {
        let mut session = self.transactions.session()?;
        self.learn(session.stored)?;
        let mut cursor = Cursor::default();
        let mut buffer = Vec::new();
        let mut batch = Batch::default();
        loop {
            session.producer.serve();
            let started = Instant::now();
            if !self.shelf.wait(&cursor, LOOK) {
                if self.end.told() {
                    self.shelf.clear_if_done(&*self.disk, &cursor)?;
                    return Ok(());
                }
                continue;
            }
            let mut ahead = cursor.clone();
            let (next, again) = self.gather(&mut ahead, &mut batch, &mut buffer)?;
            if batch.is_empty() {
                // All of it was committed before, as a crash right behind a commit leaves it. It must make room now: a full spool gets nothing more
                // that would be sent.
                cursor = ahead;
                self.done(&cursor);
                continue;
            }
            failpoint::panic("forward.batch");
            let full = batch.size() >= self.room.bytes();
            self.sent = self.sent.max(next);
            match self.transactions.transact(&mut session, &batch, next, &mut self.unsure)? {
                Outcome::Committed => {
                    failpoint::hit("forward.committed");
                    self.room.committed(batch.size());
                    self.counts.produced.fetch_add(batch.len() as u64, Relaxed);
                    self.counts.replayed.fetch_add(again, Relaxed);
                }
                Outcome::TooLarge if batch.len() == 1 => {
                    if !self.put_aside(&mut session, &batch, next)? {
                        continue;
                    }
                }
                // The same clicks again, from the same place, fewer at a time.
                undone => {
                    self.room.undone(undone == Outcome::TooLarge);
                    continue;
                }
            }
            (self.position, cursor) = (next, ahead);
            self.done(&cursor);
            failpoint::hit("forward.noted");
            if !self.end.told() {
                thread::sleep(pause(batch.len(), full, started.elapsed()));
            }
        }
    }

    /// Reads the next transaction's clicks: the number behind the last of them, and how many were sent before.
    fn gather(&self, ahead: &mut Cursor, batch: &mut Batch, buffer: &mut Vec<u8>) -> Result<(u64, u64), Stop> {
        batch.clear();
        let (mut next, mut again) = (self.position, 0);
        while batch.size() < self.room.bytes() {
            let read = ahead.read(&self.shelf, &*self.disk, buffer, |sequence, json| {
                if sequence >= next {
                    batch.push(json);
                    again += u64::from(sequence < self.sent);
                    next = sequence + 1;
                }
                batch.size() < self.room.bytes()
            })?;
            let Some(damaged) = read else { break };
            // What was damaged at the start was counted then.
            if damaged > 0 && next > self.first {
                self.counts.corrupt.fetch_add(1, Relaxed);
                tracing::error!(
                    event = "spool_damaged",
                    bytes = damaged,
                    "the spool is damaged: at least one click is lost; look after its disk"
                );
            }
        }
        Ok((next, again))
    }

    /// Puts the only click of a batch aside, which is too large for the topic, and moves the position behind it; false when that was undone.
    fn put_aside(&mut self, session: &mut Session, batch: &Batch, next: u64) -> Result<bool, Stop> {
        let name = big_name(next - 1);
        // There, and whole, when the process was killed right behind it, or the position was undone.
        let before = self.disk.len(&name).is_ok_and(|length| length == batch.size() as u64);
        let _ = self.disk.remove(&name);
        let mut file = self.disk.create(&name)?;
        file.append(batch.bytes())?;
        file.sync()?;
        self.disk.sync_names()?;
        if !before {
            self.counts.parked.fetch_add(1, Relaxed);
            tracing::error!(
                event = "click_put_aside",
                bytes = batch.size(),
                "the brokers refuse a click for its size; it is in the spool's file {name}: let the topic take larger records (`max.message.bytes`)"
            );
        }
        let done = self.transactions.transact(session, &Batch::default(), next, &mut self.unsure)?;
        Ok(done == Outcome::Committed)
    }

    /// Removes what is before the cursor; all of that is committed.
    fn done(&mut self, cursor: &Cursor) {
        let done = self.shelf.done(&*self.disk, cursor, self.position);
        let before = std::mem::replace(&mut self.not_removed, done.is_err());
        // Once, not twenty times a second.
        if let Err(error) = done
            && !before
        {
            tracing::warn!(event = "spool_not_removed", %error, "what is sent could not be removed from the spool, or not be noted there");
        }
    }

    /// Takes Kafka's word on how far the spool is committed.
    fn learn(&mut self, stored: Option<u64>) -> Result<(), Stop> {
        let Some(stored) = stored else {
            if self.position > 0 {
                tracing::warn!(
                    event = "spool_progress_forgotten",
                    "Kafka has forgotten how far this spool was sent; going on from the spool's own note"
                );
            }
            // What this run commits from here on is its own, however often it must ask again.
            (self.known, self.unsure) = (true, None);
            return Ok(());
        };
        // Of this run nobody else can have sent anything.
        let possible = if self.known { stored == self.position || Some(stored) == self.unsure } else { stored <= self.first };
        if !possible {
            // Kafka's word went back, as after an election of a broker that had not followed: nobody has sent more than this process. The next start goes on.
            if stored < self.position {
                return Err(Stop::Broken(
                    "Kafka's offset of this spool went back; starting again goes on from the spool's own note".to_owned(),
                ));
            }
            return Err(Stop::Foreign);
        }
        if Some(stored) == self.unsure && stored > self.position {
            tracing::info!(event = "transaction_found_committed", "the last transaction had been committed");
        }
        (self.known, self.unsure, self.position) = (true, None, self.position.max(stored));
        Ok(())
    }
}

/// How long to wait after a transaction of so many clicks that began `elapsed` ago. One that is full leaves more behind, and only then: the spool
/// is read until there is nothing more or the transaction is full. Waiting would let the spool fill while Kafka is well.
fn pause(clicks: usize, full: bool, elapsed: Duration) -> Duration {
    if full {
        return Duration::ZERO;
    }
    let pace = if clicks < MANY { PACE } else { PACE_OF_MANY };
    pace.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_transaction_is_followed_at_once() {
        assert_eq!(pause(12_000, true, Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(1, true, Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(12_000, false, Duration::ZERO), PACE_OF_MANY);
    }

    #[test]
    fn others_begin_at_their_pace() {
        let after = |clicks: usize, millis| pause(clicks, false, Duration::from_millis(millis));
        assert_eq!(after(1, 0), PACE);
        assert_eq!(after(MANY - 1, 20), Duration::from_millis(30));
        assert_eq!(after(MANY, 20), Duration::from_millis(80));
        assert_eq!([after(1, 50), after(1, 700), after(MANY, 100)], [Duration::ZERO; 3]);
    }
}
