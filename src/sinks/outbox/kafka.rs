//! The outbox as Kafka topics: outputs of closed ticks and the progress they make, in one transaction.
//!
//! # Meaning
//! One thread per job owns a transactional producer. It takes batches of closed ticks, as many as are waiting up to a
//! bound, and commits them with a record of [`Progress`] in the progress topic. While nothing is said, only the
//! progress is written, every few seconds, also where it is the same; and once right at the start. The sources live by it: the brokers'
//! clock comes from when these records were stamped ([`BrokerClock`]).
//!
//! # Why each record is there exactly once, for readers with `read_committed`
//! - `init_transactions` comes first: it ends whatever a predecessor had open, and shuts the predecessor out.
//! - Only then the progress is read, with `read_committed`, so nobody can add to it any more.
//! - Outputs before its frontier are in the topics, because they were committed with it; later ones are not.
//! - A transaction that fails is aborted and written again from memory; what can't be mended ends the job. Whoever is shut out says so with
//!   [`ShutOut`], and must not be started again.
//!
//! # Not guaranteed
//! On a broker that only pretends at transactions (librdkafka's mock cluster) an aborted record stays visible.

mod shut_out;
mod stamps;

pub use shut_out::ShutOut;

use super::size::fitting;
use super::{Batch, Door, PER_BATCH, Progress};
use crate::failpoint::{fails, hit};
use crate::kafka::{At, Isolation, Kafka, scan};
use crate::model::outputs::{Output, State, Topic};
use crate::model::time::{self, Ms};
use crate::sources::kafka::broker_clock::BrokerClock;
use crate::sources::kafka::reached::{AllKnown, Newest};
use crate::sources::{Mark, Offsets};
use crate::status::Board;
use crate::stop::Stop;
use crate::traces;
use anyhow::Context as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use shut_out::Began;
use stamps::{Sent, Stamps};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use timely::scheduling::SyncActivator;

/// Batches that may wait for the thread; the operator keeps the rest, and the sources stop for lack of credit.
const WAITING: usize = 16;
/// Between two records of progress while nothing else is written.
const IDLE_PROGRESS: Duration = Duration::from_secs(2);
/// How long one call to the brokers may take before it is made again.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for a job that is to stop.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether all that was sent has arrived.
const LOOK: Duration = Duration::from_millis(1);
/// The pause after a call that failed at once; after failed transactions it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries of a transaction: somebody may be mending a permission.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long a job that is to stop goes on trying a transaction that failed. With one call that had begun before it was
/// asked, and one of each kind after, it ends within ten seconds.
const FAREWELL: Duration = Duration::from_secs(2);
/// The key of all records of progress: the topic is compacted.
const PROGRESS_KEY: &str = "job";

/// The producer after it has shut out its predecessor, and what that one had committed.
pub struct Outbox {
    kafka: Kafka,
    producer: ThreadedProducer<Stamps>,
    progress: Option<Progress>,
    stop: Stop,
}

/// The operator's end of the outbox.
pub struct Committer {
    batches: SyncSender<Batch>,
    committed: Arc<AtomicU64>,
    /// Set with the first batch: all that had been committed before has been gone through.
    ready: Arc<AtomicBool>,
    wake: Arc<OnceLock<SyncActivator>>,
}

impl Outbox {
    /// Takes the outbox over and reads how far the job had come; waits for brokers that are away. `clock` learns from what they stamp.
    ///
    /// # Errors
    /// Options that do not make a client, progress that this build can't read, or `stop` was asked.
    pub fn open(kafka: &Kafka, clock: &BrokerClock, stop: &Stop) -> anyhow::Result<Self> {
        let id = format!("{}-outbox", kafka.topics.progress);
        let config = kafka.client(&[
            // One progress topic, one job: whoever comes later shuts the earlier one out.
            ("transactional.id", &id),
            (shut_out::TIMEOUT_OPTION, shut_out::TIMEOUT),
            // zstd takes six tenths of the room, and a fifth more processor time of job and brokers together (docs/performance.md).
            ("compression.type", "lz4"),
            ("linger.ms", "2"),
        ]);
        let stamps = Stamps::new(clock.clone());
        let producer: ThreadedProducer<_> =
            config.create_with_context(stamps).context("the options under `kafka` do not make a producer")?;
        loop {
            anyhow::ensure!(!stop.asked(), "stopped before the brokers answered");
            match producer.init_transactions(PATIENCE) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_fatal() => {
                    return Err(error).context("the brokers refuse transactions to this job");
                }
                Err(error) => {
                    tracing::warn!(event = "outbox_unavailable", %error, "cannot take the outbox over; still trying");
                    thread::sleep(PAUSE);
                }
            }
        }
        hit("start.fenced");
        let (progress, last) = read_progress(kafka, stop)?;
        if let Some(last) = last {
            producer.context().found(last);
        }
        hit("start.progress");
        Ok(Outbox { kafka: kafka.clone(), producer, progress, stop: stop.clone() })
    }

    /// What had been committed; `None` for a job that never ran.
    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// What the job wrote down for its next start: how things stood, and when it took which records; the newest record of each key.
    ///
    /// # Errors
    /// A record that this build can't read, or `stop` was asked.
    pub fn state(&self) -> anyhow::Result<(Vec<State>, AllKnown)> {
        let topic = &self.kafka.topics.state;
        let (mut newest, mut notes): (HashMap<Vec<u8>, State>, Newest) = Default::default();
        self.kafka.read_all(topic, Isolation::Committed, &self.stop, |place, key, payload| {
            let of_notes = notes.take(key, payload);
            let key = key.unwrap_or_default().to_vec();
            match payload {
                None => drop(newest.remove(&key)),
                Some(_) if of_notes => {}
                Some(payload) => {
                    let state: State = serde_json::from_slice(payload)
                        .ok()
                        .filter(|state: &State| state.v == 1)
                        .with_context(|| format!("the record {place:?} of the topic {topic} is not a state that this build can read"))?;
                    newest.insert(key, state);
                }
            }
            Ok(())
        })?;
        hit("start.state");
        Ok((newest.into_values().collect(), notes.all()))
    }

    /// Starts the thread. What `job` says of the job is written into every record of progress; how far it got is the thread's to say.
    ///
    /// `committed` follows what has been committed, `ready` says that ticks come that were not, `board` learns of each transaction. The thread ends when the [`Committer`] is dropped.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn start(
        self,
        job: Progress,
        committed: Arc<AtomicU64>,
        ready: Arc<AtomicBool>,
        board: Arc<Board>,
    ) -> anyhow::Result<(Committer, JoinHandle<()>)> {
        let (sender, batches) = sync_channel(WAITING);
        let wake = Arc::new(OnceLock::new());
        let frontier = self.progress.as_ref().map_or(0, |progress| progress.frontier);
        // Partitions that are read no more keep their place: they may come back.
        let offsets = self.progress.as_ref().map(|progress| progress.offsets.clone()).unwrap_or_default();
        committed.fetch_max(frontier, Ordering::AcqRel);
        let committer = Committer { batches: sender, committed: Arc::clone(&committed), ready, wake: Arc::clone(&wake) };
        let writer = Writer {
            kafka: self.kafka,
            producer: self.producer,
            progress: Progress { v: 1, frontier, offsets: Offsets::new(), ..job },
            read: offsets,
            recorded_at: None,
            began: None,
            committed,
            wake,
            board,
            stop: self.stop,
        };
        let thread = thread::Builder::new().name("outbox".to_owned()).spawn(move || writer.run(&batches))?;
        Ok((committer, thread))
    }
}

impl Door for Committer {
    fn offer(&mut self, batch: Batch) -> Result<(), Batch> {
        self.ready.store(true, Ordering::Release);
        self.batches.try_send(batch).map_err(|error| match error {
            // A thread that is gone has said why, and the job is about to stop.
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }

    fn committed(&self) -> Ms {
        self.committed.load(Ordering::Acquire)
    }

    fn wake(&mut self, activator: SyncActivator) {
        // Set once: a job has one outbox operator.
        let _ = self.wake.set(activator);
    }
}

/// Reads the newest committed progress, and where the last record of it stands.
fn read_progress(kafka: &Kafka, stop: &Stop) -> anyhow::Result<(Option<Progress>, Option<At>)> {
    let topic = &kafka.topics.progress;
    let (mut newest, mut last): (Option<Progress>, _) = (None, None);
    kafka.read_all(topic, Isolation::Committed, stop, |place, _, payload| {
        let progress = parse(payload.unwrap_or_default())
            .with_context(|| format!("the record {place:?} of the topic {topic} is not progress that this build can read"))?;
        if newest.as_ref().is_none_or(|newest| newest.frontier <= progress.frontier) {
            newest = Some(progress);
        }
        last = Some(place);
        Ok(())
    })?;
    Ok((newest, last))
}

/// How far a job has come, and since when it knows its rules, for a command that only looks: it waits for nobody, and a job that never ran
/// has said nothing.
///
/// # Errors
/// Brokers that do not answer, or progress that this build can't read.
pub fn look(kafka: &Kafka) -> anyhow::Result<Option<Progress>> {
    let topic = &kafka.topics.progress;
    let mut newest: Option<Progress> = None;
    scan(kafka, "clickline", topic, |seen| {
        let Some(payload) = seen.payload else { return Ok(()) };
        let progress = parse(payload).with_context(|| format!("a record of the topic {topic} is not progress that this build can read"))?;
        if newest.as_ref().is_none_or(|newest| newest.frontier <= progress.frontier) {
            newest = Some(progress);
        }
        Ok(())
    })?;
    Ok(newest)
}

fn parse(payload: &[u8]) -> anyhow::Result<Progress> {
    let progress: Progress = serde_json::from_slice(payload)?;
    anyhow::ensure!(progress.v == 1, "it has schema version {}; this build reads version 1", progress.v);
    Ok(progress)
}

/// What to do about a transaction that did not go through.
enum Trouble {
    /// Abort it and write it again.
    Again(KafkaError),
    /// Nobody can mend this.
    Fatal(KafkaError),
}

impl From<KafkaError> for Trouble {
    fn from(error: KafkaError) -> Self {
        match &error {
            KafkaError::Transaction(inner) if inner.is_fatal() => Trouble::Fatal(error),
            KafkaError::MessageProduction(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::Fenced) => Trouble::Fatal(error),
            _ => Trouble::Again(error),
        }
    }
}

/// The thread's state.
struct Writer {
    kafka: Kafka,
    producer: ThreadedProducer<Stamps>,
    /// As it was committed last.
    progress: Progress,
    /// First offsets that the ticks taken so far do not need.
    read: Offsets,
    /// When progress was written last.
    recorded_at: Option<Instant>,
    /// When the last transaction began.
    began: Option<Began>,
    committed: Arc<AtomicU64>,
    wake: Arc<OnceLock<SyncActivator>>,
    board: Arc<Board>,
    stop: Stop,
}

impl Writer {
    fn run(mut self, batches: &Receiver<Batch>) {
        loop {
            let (upper, outputs) = match batches.recv_timeout(self.due()) {
                Ok(batch) => self.gather(batch, batches),
                Err(RecvTimeoutError::Timeout) => (self.standing(), Vec::new()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if (!outputs.is_empty() || self.due().is_zero())
                && let Err(error) = self.write(upper, &outputs)
            {
                if self.stop.asked() {
                    return tracing::warn!(event = "outbox_stopped_early", %error, "stopped before all was committed; the next start computes it again");
                }
                return self.stop.fail(error);
            }
            // Without outputs there is nothing that a restart could repeat: the frontier may move before it is recorded.
            if self.committed.swap(upper, Ordering::AcqRel) < upper {
                hit("outbox.told");
            }
            if let Some(wake) = self.wake.get() {
                let _ = wake.activate();
            }
        }
        hit("outbox.farewell");
        // So that the next start has as little as possible to look through.
        let standing = self.standing();
        if standing > self.progress.frontier
            && let Err(error) = self.write(standing, &[])
        {
            tracing::warn!(event = "outbox_stopped_early", %error, "the last progress could not be written; the next start repeats a little more work");
        }
    }

    /// How long until progress must be written, whatever comes.
    fn due(&self) -> Duration {
        self.recorded_at.map_or(Duration::ZERO, |at| IDLE_PROGRESS.saturating_sub(at.elapsed()))
    }

    /// The outputs of a batch and of those that wait behind it, as they are written, and the end of their ticks.
    fn gather(&mut self, mut batch: Batch, batches: &Receiver<Batch>) -> (Ms, Vec<Output>) {
        hit("outbox.taken");
        self.note(&batch.read);
        let (mut upper, mut outputs) = (batch.upper, batch.take_sorted());
        while outputs.len() < PER_BATCH
            && let Ok(mut next) = batches.try_recv()
        {
            outputs.append(&mut next.take_sorted());
            self.note(&next.read);
            upper = next.upper;
        }
        (upper, outputs)
    }

    /// All ticks that end before this have been committed, or had nothing to say.
    fn standing(&self) -> Ms {
        self.committed.load(Ordering::Acquire)
    }

    /// Notes how far the inputs of closed ticks had been read; it is written with the next progress. Batches come in order,
    /// and the first one covers all that a restart went through again: what it says holds also where it is less than what
    /// was known, for a topic that was made anew.
    fn note(&mut self, read: &[Mark]) {
        for Mark { kind, partition, next } in read {
            self.read.entry(*kind).or_default().insert(*partition, *next);
        }
    }

    /// Commits the outputs of the ticks before `upper`, however often it takes.
    fn write(&mut self, upper: Ms, outputs: &[Output]) -> anyhow::Result<()> {
        let progress = Progress { frontier: upper, offsets: self.read.clone(), ..self.progress.clone() };
        let (mut stop_since, mut pause) = (None, PAUSE);
        loop {
            match self.attempt(outputs, &progress) {
                Ok(()) => {
                    self.progress = progress;
                    self.recorded_at = Some(Instant::now());
                    self.board.outbox.committed(outputs, time::now());
                    traces::committed(outputs);
                    return Ok(());
                }
                Err(Trouble::Again(error)) => {
                    self.board.outbox.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(event = "transaction_repeated", %error, "a transaction failed; writing it again");
                    if self.stop.asked() && stop_since.get_or_insert_with(Instant::now).elapsed() > FAREWELL {
                        return Err(error).context("the brokers are away");
                    }
                    self.abort().map_err(|error| self.explain(error))?;
                    hit("outbox.aborted");
                    thread::sleep(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Err(Trouble::Fatal(error)) => return Err(self.explain(error)),
            }
        }
    }

    fn explain(&self, error: KafkaError) -> anyhow::Error {
        match self.producer.client().fatal_error() {
            Some((code, text)) => shut_out::why(code, &self.kafka, self.producer.context().last(), self.began)
                .unwrap_or_else(|| anyhow::anyhow!("the outbox cannot go on ({code}): {text}")),
            None => anyhow::Error::new(error).context("the outbox cannot go on"),
        }
    }

    fn patience(&self) -> Duration {
        if self.stop.asked() { SHORT_PATIENCE } else { PATIENCE }
    }

    fn attempt(&mut self, outputs: &[Output], progress: &Progress) -> Result<(), Trouble> {
        // A record that says what was said before puts nothing at stake.
        let news = progress.frontier > self.progress.frontier;
        let hit = |place| {
            if news {
                hit(place)
            }
        };
        self.began = Some(Began::now());
        self.producer.begin_transaction()?;
        hit("outbox.begun");
        for output in outputs {
            match fitting(output) {
                None => {
                    // Only states end: a tombstone lets compaction forget them.
                    let value = (output.topic != Topic::State || !output.value.is_empty()).then_some(output.value.as_slice());
                    self.send(self.kafka.topics.output(output.topic), &output.key, value, 0)?;
                }
                Some(letter) => self.send(self.kafka.topics.output(letter.topic), &letter.key, Some(&letter.value), 0)?,
            }
            hit("outbox.sent");
        }
        let record = serde_json::to_vec(progress).expect("numbers and strings are always JSON");
        let sent = self.producer.context().now();
        self.send(&self.kafka.topics.progress, PROGRESS_KEY, Some(&record), sent)?;
        hit("outbox.commit");
        self.drain();
        hit("outbox.drained");
        if news && fails("outbox.commit") {
            return Err(Trouble::Again(KafkaError::Canceled));
        }
        loop {
            match self.producer.commit_transaction(self.patience()) {
                Ok(()) => {
                    hit("outbox.committed");
                    return Ok(());
                }
                // A commit that may have gone through must be asked again, not aborted.
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !self.stop.asked() => {
                    tracing::warn!(event = "outbox_slow", %error, "a commit takes long; still trying");
                }
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) if !self.stop.asked() => {
                    tracing::warn!(event = "outbox_slow", "the brokers take long; still trying");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the brokers have what was sent, or for as long as one call may take. A commit waits for that, too, but looks
    /// whether it is so ten times a second only: the client's `flush` sleeps 100 ms if it is not so at once.
    fn drain(&self) {
        let until = Instant::now() + self.patience();
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }

    fn send(&self, topic: &str, key: &str, value: Option<&[u8]>, sent: Sent) -> Result<(), Trouble> {
        let mut record = BaseRecord::with_opaque_to(topic, sent).key(key);
        record.payload = value;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Ends a failed transaction.
    fn abort(&self) -> Result<(), KafkaError> {
        loop {
            match self.producer.abort_transaction(self.patience()) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !self.stop.asked() => {
                    tracing::warn!(event = "outbox_slow", %error, "a transaction cannot be aborted yet; still trying");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Kind;

    #[test]
    fn progress_of_a_later_version_is_not_guessed_at() {
        let read = parse(br#"{"v":1,"frontier":7,"rules":{"w: tag":3}}"#).expect("version 1");
        assert_eq!((read.frontier, read.rules["w: tag"]), (7, 3));
        assert!(read.offsets.is_empty() && read.counts_since.is_none(), "written by a build that knew of none");
        let read = parse(br#"{"v":1,"frontier":7,"offsets":{"clicks":{"0":12,"1":3}},"rules":{}}"#).expect("version 1");
        assert_eq!(read.offsets[&Kind::Clicks], [(0, 12), (1, 3)].into());
        assert!(parse(br#"{"v":2,"frontier":7,"rules":{}}"#).expect_err("version 2").to_string().contains("version 2"));
        assert!(parse(b"").is_err());
    }
}
