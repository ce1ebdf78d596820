//! Asks the brokers how far a topic's partitions reach, so that "read to its end" is known and not guessed.
//!
//! # Meaning
//! The brokers' clock ([`super::broker_clock`]) is looked at *before* the question is sent: whoever has read up to an answer has read all that was
//! appended before that moment. An empty fetch queue would say nothing, and the end that a fetch reports is as old as
//! that fetch. So a partition that is merely slow, or a broker that does not answer, stops the clock and never lets it
//! run past records that exist.
//!
//! Partitions that are new are asked for their snapshots, too: whether the record that a copy ends with stands in the
//! partition ([`super::super::snapshot`]).
//!
//! # Cost
//! One request per worker, topic and leader for each tick, at the moment from which on its answer closes the tick: earlier it would close none, and what is
//! later adds to the latency of clicks while other topics are idle. Ticks longer than [`LONGEST_PAUSE`] have several, of ticks shorter than [`LEAST_PAUSE`]
//! several share one. One request for the partitions every [`PARTITIONS_EVERY`].

use super::Reading;
use crate::model::time::{Ms, tick_end};
use crate::sources::Kind;
use crate::sources::snapshot::{Last, Opened};
use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use timely::scheduling::SyncActivator;

/// Between two looks at the ends, at least: with ticks that are shorter, an answer closes several.
const LEAST_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at the ends, at most: with ticks that are longer, new partitions and what is still to be read are known all the same.
const LONGEST_PAUSE: Duration = Duration::from_millis(110);
/// While the brokers' clock is not known, or they did not answer.
const UNKNOWN: Duration = Duration::from_millis(40);
/// Between two looks at the partitions.
const PARTITIONS_EVERY: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two warnings about the same thing.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What is known of the partitions that one worker reads.
#[derive(Debug, Default)]
pub struct Seen {
    /// This worker's partitions, ascending; `None` until the topic has been seen.
    pub mine: Option<Vec<i32>>,
    /// First offsets that the partitions still hold.
    pub starts: BTreeMap<i32, i64>,
    /// Where reading begins: the first record appended, or taken, at the time from which on they are needed, where the broker can say so; else
    /// the first of all, which costs time and nothing else.
    pub begins: BTreeMap<i32, i64>,
    /// Snapshots of new partitions, empty where nothing is in them that can be used.
    pub copies: BTreeMap<i32, Opened>,
    /// The moment before the question, 0 while the brokers' clock is not known, and the offsets after the last record by the answer.
    pub ends: Option<(Ms, BTreeMap<i32, i64>)>,
}

/// The thread that asks; it ends when this is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    closed: Arc<AtomicBool>,
}

/// The client of all questions of one [`Reading`], made for the first one. It reads nothing: a broker answers what comes over a connection in its order, so
/// behind a fetch that waits for records an answer would come as late as they do.
#[derive(Clone, Default)]
pub struct Asker(Arc<Mutex<Option<Arc<BaseConsumer>>>>);

impl Asker {
    /// The client, with the options of `reading`.
    ///
    /// # Errors
    /// An option that librdkafka does not understand.
    pub fn client(&self, reading: &Reading) -> anyhow::Result<Arc<BaseConsumer>> {
        let mut client = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if client.is_none() {
            *client = Some(Arc::new(reading.consumer()?));
        }
        Ok(Arc::clone(client.as_ref().expect("made above")))
    }
}

/// What the thread needs.
pub struct Question {
    /// The client that is asked with.
    pub asker: Arc<BaseConsumer>,
    /// What the topic holds.
    pub kind: Kind,
    /// Brokers, times, snapshots.
    pub reading: Reading,
    /// This worker and how many there are: worker `i` reads the partitions `p` with `p mod workers = i`.
    pub worker: (usize, usize),
}

impl Watch {
    /// Starts asking; `wake` is called after each answer.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn start(question: Question, wake: Arc<SyncActivator>) -> anyhow::Result<Self> {
        let watch = Watch { seen: Arc::default(), closed: Arc::default() };
        let (seen, closed) = (Arc::clone(&watch.seen), Arc::clone(&watch.closed));
        let name = format!("watch {}", question.topic());
        thread::Builder::new().name(name).spawn(move || question.run(&seen, &closed, &wake))?;
        Ok(watch)
    }

    /// What is known now.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Not joined: it may be waiting for a broker that is away.
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl Question {
    fn topic(&self) -> &str {
        self.reading.topic(self.kind)
    }

    fn run(&self, seen: &Mutex<Seen>, closed: &AtomicBool, wake: &SyncActivator) {
        let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut partitions_due = Instant::now();
        let mut complaints = Complaints::default();
        while !closed.load(Ordering::Relaxed) && !self.reading.stop.asked() {
            // It has no records, only complaints, and those of the clients that read say the same.
            while self.asker.poll(Duration::ZERO).is_some() {}
            if partitions_due <= Instant::now() {
                match self.partitions() {
                    Ok(mine) => {
                        lock().mine = Some(mine);
                        partitions_due = Instant::now() + PARTITIONS_EVERY;
                    }
                    Err(error) => complaints.warn(self.topic(), &error),
                }
            }
            let (mine, unknown) = {
                let seen = lock();
                let mine = seen.mine.clone().unwrap_or_default();
                let unknown: Vec<i32> = mine.iter().filter(|p| !seen.starts.contains_key(p)).copied().collect();
                (mine, unknown)
            };
            let starts = self.starts(&unknown);
            let starts = starts.map_err(anyhow::Error::from).and_then(|starts| {
                // Of partitions whose leader answers: the others come again.
                let known: Vec<i32> = starts.0.keys().copied().collect();
                Ok((starts, self.copies(&known)?))
            });
            // The order matters: first the clock, then the question.
            let at = self.reading.clock.now().unwrap_or(0);
            let answer = starts.and_then(|starts| Ok((starts, self.ask(&mine, Offset::End)?)));
            let now = self.reading.clock.now();
            let pause = match answer {
                Ok((((starts, begins), copies), ends)) => {
                    let mut seen = lock();
                    seen.copies.extend(copies);
                    seen.starts.extend(starts);
                    seen.begins.extend(begins);
                    seen.ends = Some((at, ends));
                    let Reading { times, limits, .. } = &self.reading;
                    now.map_or(UNKNOWN, |now| pause(at, now, times.tick, limits.idle_slack))
                }
                Err(error) => {
                    complaints.warn(self.topic(), &error.to_string());
                    UNKNOWN
                }
            };
            if wake.activate().is_err() {
                return; // the worker is gone
            }
            thread::sleep(pause);
        }
    }

    /// This worker's partitions.
    fn partitions(&self) -> Result<Vec<i32>, String> {
        let metadata = self.asker.fetch_metadata(Some(self.topic()), ANSWER).map_err(|error| error.to_string())?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic());
        let count = match topic {
            Some(topic) if topic.error().is_none() && !topic.partitions().is_empty() => topic.partitions().len(),
            _ => return Err("the topic does not exist; create it, or correct `kafka.topics`".to_owned()),
        };
        let (worker, workers) = self.worker;
        Ok((0..count).filter(|p| p % workers == worker).filter_map(|p| i32::try_from(p).ok()).collect())
    }

    /// Where `partitions` begin, and where reading them does.
    fn starts(&self, partitions: &[i32]) -> KafkaResult<(BTreeMap<i32, i64>, BTreeMap<i32, i64>)> {
        let starts = self.ask(partitions, Offset::Beginning)?;
        let mut begins = starts.clone();
        let from = self.reading.resume.from(self.kind);
        if from > 0 {
            let found = self.ask(partitions, Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX)))?;
            for (partition, begin) in &mut begins {
                let taken = self.reading.resume.taken_from(self.kind, *partition).unwrap_or(i64::MAX);
                *begin = found.get(partition).map_or(*begin, |found| taken.min(*found).max(*begin));
            }
        }
        Ok((starts, begins))
    }

    /// The snapshots of `partitions`; those that can't be used come empty, those that can't be had not at all.
    fn copies(&self, partitions: &[i32]) -> anyhow::Result<BTreeMap<i32, Opened>> {
        let mut copies = BTreeMap::new();
        let Some(snapshots) = self.reading.snapshots.as_ref().filter(|of| of.keep(self.kind).is_some()) else { return Ok(copies) };
        for partition in partitions {
            let spot = snapshots.of(self.kind, self.topic(), *partition, &self.reading.times);
            let opened = match Opened::open(spot) {
                Ok(Some(mut opened)) => match opened.last() {
                    Some(last) if !self.stands(*partition, last)? => {
                        tracing::warn!(
                            event = "snapshot_begun_anew",
                            topic = self.topic(),
                            partition,
                            offset = last.offset,
                            "the snapshot does not end with a record of this partition; it is begun anew"
                        );
                        opened.discard().map(|()| Some(opened))
                    }
                    _ => Ok(Some(opened)),
                },
                other => other,
            };
            match opened {
                Ok(Some(opened)) => drop(copies.insert(*partition, opened)),
                Ok(None) => {
                    let folder = snapshots.folder.display();
                    tracing::warn!(event = "snapshot_unusable", %folder, topic = self.topic(), partition, "another job holds the snapshot; going on without");
                }
                Err(error) => {
                    tracing::warn!(event = "snapshot_unusable", %error, topic = self.topic(), partition, "cannot use the snapshot; going on without")
                }
            }
        }
        Ok(copies)
    }

    /// Whether a record stands in a partition.
    fn stands(&self, partition: i32, last: Last) -> anyhow::Result<bool> {
        let consumer = self.reading.consumer()?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(self.topic(), partition, Offset::Offset(last.offset))?;
        consumer.assign(&list)?;
        let began = Instant::now();
        while began.elapsed() < ANSWER {
            anyhow::ensure!(!self.reading.stop.asked(), "stopped");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let time = message.timestamp().to_millis().unwrap_or(0);
                    return Ok(Last::of(message.offset(), time, message.payload().unwrap_or_default()) == last);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))) => {
                    return Ok(false);
                }
                Some(Err(_)) | None => {}
            }
        }
        Err(anyhow::anyhow!("no answer about the last record of the snapshot")).context("brokers do not answer")
    }

    /// Where `partitions` begin or end, or what is the first record of a time; those whose leader is away are left out.
    fn ask(&self, partitions: &[i32], which: Offset) -> KafkaResult<BTreeMap<i32, i64>> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            // In this question the offset stands for a time, and the logical offsets for the first and last one.
            list.add_partition_offset(self.topic(), *partition, which)?;
        }
        let answers = self.asker.offsets_for_times(list, ANSWER)?;
        let known = answers.elements().into_iter().filter(|answer| answer.error().is_ok());
        Ok(known.filter_map(|answer| Some((answer.partition(), exact(answer.offset())?))).collect())
    }
}

/// How long after `now` until the brokers' clock has passed by `idle_slack` the end of the tick that an answer to a question at `asked` has not closed: an answer
/// to a question from then on closes it. All in ms.
fn pause(asked: Ms, now: Ms, tick: Ms, idle_slack: Ms) -> Duration {
    let closes = tick_end(asked.saturating_sub(idle_slack), tick) + idle_slack + 1;
    // The clock is known in whole milliseconds, rounded down: one more, lest the question come a moment too early for its tick.
    Duration::from_millis(closes.saturating_sub(now) + 1).clamp(LEAST_PAUSE, LONGEST_PAUSE)
}

/// An offset that is a place, not a word for one.
pub fn exact(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// Warns now and then instead of each time.
#[derive(Debug, Default)]
pub struct Complaints(Option<Instant>);

impl Complaints {
    /// Says that `topic` can't be read at the moment.
    pub fn warn(&mut self, topic: &str, error: &str) {
        if self.0.is_none_or(|last| last.elapsed() > WARN_EVERY) {
            self.0 = Some(Instant::now());
            tracing::warn!(event = "topic_unreadable", topic, error, "cannot read the topic; still trying");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tick_is_asked_for_when_an_answer_closes_it() {
        // The tick that ends at 1,000 is closed by what moves a partition beyond 1,000, so at 1,051 at the earliest.
        for (now, after) in [(951, 101), (1_000, 52), (1_040, 12), (1_049, 5), (1_050, 5), (1_051, 101), (1_052, 100), (1_053, 99)] {
            assert_eq!(pause(now, now, 100, 50).as_millis(), after, "at {now}");
        }
        // The clock has passed the moment while the question was under way: the tick is still open.
        assert_eq!([1_045, 1_050].map(|asked| pause(asked, 1_053, 100, 50)), [LEAST_PAUSE; 2]);
        assert_eq!(pause(1_051, 1_053, 100, 50).as_millis(), 99);
        assert_eq!(pause(1_051, 1_051, 10_000, 50), LONGEST_PAUSE);
        assert_eq!(pause(1_051, 1_051, 1, 50), LEAST_PAUSE);
        assert_eq!(pause(0, 0, 100, 50), Duration::from_millis(52), "a clock that stands at the beginning of time");
    }
}
