//! Links from the compacted `links` topic.
//!
//! # Meaning
//! Every partition is read from its beginning, by this process alone (no consumer group). The key is `domain/slug`; a record sets the link,
//! a tombstone deletes it. When each partition has been read to its end once, the server is ready. Changes are gathered for up to [`GATHER`] and
//! become visible together.
//!
//! # Ties and edges
//! A record that cannot be read leaves the link as it was, and is logged with partition and offset. Where links of several workspaces are on one domain, or
//! the file's workspace is another, only one's are served ([`owner`](super::owner)); the log says so when it begins. A topic that isn't there yet is waited for.
//! Partitions that are added later are found within [`LOOK`].

use super::{Checked, Layer, plain_domain};
use crate::answer::Shared;
use crate::kafka::{client, log};
use crate::{Error, KafkaConfig};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Changes within this time become visible together: one copy of the changed shards instead of many.
const GATHER: Duration = Duration::from_millis(50);
/// How often partitions are looked for when all is well.
const LOOK: Duration = Duration::from_secs(30);
/// How often the topic is looked for while it is not there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long one question to the brokers may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// librdkafka's log lines as ours.
struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of the topic is what the reader waits for, and it hears of it from `poll`, too.
        if !matches!(error, KafkaError::PartitionEOF(_) | KafkaError::Global(RDKafkaErrorCode::PartitionEOF)) {
            tracing::warn!(event = "kafka_error", %error, "Kafka: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

/// The thread that reads the topic; dropping it ends it.
pub(crate) struct TopicReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TopicReader {
    pub(crate) fn start(kafka: &KafkaConfig, topic: &str, shared: Arc<Shared>) -> Result<TopicReader, Error> {
        let own = [
            // librdkafka wants a name; nothing is ever committed under it.
            ("group.id", "clickline-redirect"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("allow.auto.create.topics", "false"),
            // A changed link is visible at once, also when the topic is otherwise quiet.
            ("fetch.wait.max.ms", "100"),
        ];
        let consumer: BaseConsumer<Context> = client(kafka, &own).create_with_context(Context)?;
        let stop = Arc::new(AtomicBool::new(false));
        let reading = Reading {
            consumer,
            topic: topic.to_owned(),
            shared,
            layer: Layer::default(),
            assigned: BTreeSet::new(),
            unread: BTreeSet::new(),
            look_at: Instant::now(),
        };
        let told = stop.clone();
        let thread = thread::Builder::new()
            .name("redirect-links".to_owned())
            .spawn(move || reading.run(&told))
            .map_err(|source| Error::Start { part: "the thread that reads links", source })?;
        Ok(TopicReader { stop, thread: Some(thread) })
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(event = "thread_panicked", "the thread that reads links had panicked");
        }
    }
}

struct Reading {
    consumer: BaseConsumer<Context>,
    topic: String,
    shared: Arc<Shared>,
    /// The next table's links; shares all but its changes with the current one.
    layer: Layer,
    assigned: BTreeSet<i32>,
    /// Partitions whose end has not been reached yet.
    unread: BTreeSet<i32>,
    look_at: Instant,
}

impl Reading {
    fn run(mut self, stop: &AtomicBool) {
        let mut changed_at: Option<Instant> = None;
        while !stop.load(Ordering::Acquire) {
            if Instant::now() >= self.look_at {
                self.look();
            }
            match self.consumer.poll(GATHER) {
                None => {}
                Some(Ok(message)) => {
                    take(&mut self.layer, &message);
                    changed_at.get_or_insert_with(Instant::now);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.unread.remove(&partition);
                }
                Some(Err(error)) => {
                    tracing::warn!(event = "topic_unreadable", %error, topic = self.topic, "cannot read links just now; trying on")
                }
            }
            // While the topic is read for the first time nobody relies on it: publish it once, whole.
            let all_read = !self.assigned.is_empty() && self.unread.is_empty();
            let first = all_read && !self.shared.ready.load(Ordering::Acquire);
            if first || all_read && changed_at.is_some_and(|at| at.elapsed() >= GATHER) {
                changed_at = None;
                if first {
                    self.layer.enlarge_pages();
                }
                self.shared.live.set_topic(self.layer.clone());
                self.shared.tell_disputes();
            }
            if first {
                tracing::info!(event = "links_topic_read", links = self.layer.len(), topic = self.topic, "read the links topic to its end");
                self.shared.ready.store(true, Ordering::Release);
            }
        }
    }

    /// Finds the topic's partitions and begins to read those that are new.
    fn look(&mut self) {
        let partitions: BTreeSet<i32> = match self.consumer.fetch_metadata(Some(&self.topic), ASK_TIMEOUT) {
            Ok(metadata) => metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect(),
            Err(error) => {
                tracing::warn!(event = "topic_unreadable", %error, topic = self.topic, "cannot ask for the links topic; trying on");
                BTreeSet::new()
            }
        };
        let new: Vec<i32> = partitions.difference(&self.assigned).copied().collect();
        if !new.is_empty() {
            let mut list = TopicPartitionList::new();
            for partition in &new {
                list.add_partition_offset(&self.topic, *partition, Offset::Beginning)
                    .expect("Beginning is an offset that every list takes");
            }
            match self.consumer.incremental_assign(&list) {
                Ok(()) => {
                    self.unread.extend(&new);
                    self.assigned.extend(&new);
                }
                Err(error) => {
                    tracing::warn!(event = "topic_unreadable", %error, topic = self.topic, "cannot read new partitions of the links topic; trying on")
                }
            }
        } else if self.assigned.is_empty() {
            tracing::info!(event = "topic_missing", topic = self.topic, "waiting for the links topic to be created");
        }
        self.look_at = Instant::now() + if self.assigned.is_empty() { LOOK_AGAIN } else { LOOK };
    }
}

fn take(layer: &mut Layer, message: &BorrowedMessage<'_>) {
    if let Err(problem) = apply(layer, message.key(), message.payload()) {
        tracing::warn!(
            event = "link_refused",
            partition = message.partition(),
            offset = message.offset(),
            "a link was not taken: {problem}"
        );
    }
}

/// Applies one record of the topic.
fn apply(layer: &mut Layer, key: Option<&[u8]>, payload: Option<&[u8]>) -> Result<(), String> {
    let key = key
        .map(|key| std::str::from_utf8(key).map_err(|_| "its key is not UTF-8; write `domain/slug`".to_owned()))
        .transpose()?
        .map(plain_key);
    match (key, payload) {
        (Some(key), None) => {
            layer.remove(&key);
            Ok(())
        }
        (None, None) => Err("a tombstone without a key; write `domain/slug`".to_owned()),
        (key, Some(payload)) => {
            let link = Checked::from_json(payload)?;
            if let Some(key) = key.filter(|key| *key != link.key) {
                return Err(format!("its key is {key:?} and its record {:?}; write both alike", link.key));
            }
            layer.insert(&link, 0);
            Ok(())
        }
    }
}

/// The key as the table has it: the domain in lower case.
fn plain_key(key: &str) -> String {
    match key.split_once('/') {
        Some((domain, slug)) => format!("{}/{slug}", plain_domain(domain).unwrap_or_else(|| domain.to_owned())),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_tombstones() {
        let mut layer = Layer::default();
        let record = br#"{"v":1,"domain":"D.example","slug":"a","workspace":"w","destination":"https://x.example/"}"#;
        apply(&mut layer, Some(b"d.example/a"), Some(record)).expect("a link");
        assert_eq!(layer.len(), 1);
        assert!(apply(&mut layer, Some(b"d.example/b"), Some(record)).expect_err("keys differ").contains("both alike"));
        assert!(apply(&mut layer, Some(b"d.example/a"), Some(b"{")).is_err());
        assert!(apply(&mut layer, None, None).is_err());
        assert!(layer.get("d.example/a").is_some(), "a record that cannot be read changes nothing");
        apply(&mut layer, Some(b"D.example/a"), None).expect("a tombstone");
        assert_eq!(layer.len(), 0);
    }
}
