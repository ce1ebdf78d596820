//! Brings refused records from the state database to the dead-letter topic.
//!
//! The refusal itself is in the database, in the transaction that settled the record; so neither a Kafka outage nor a crash loses it.
//! A crash between Kafka's acknowledgement and our note of it puts the record on the topic a second time.

use crate::kafka::{Acknowledged, Delivery, Kafka};
use crate::model::outputs::{DeadLetter, Topic};
use crate::state::{DeadLetterRow, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;
use std::time::Duration;

/// Records brought over at once.
const BATCH: usize = 100;
/// How long the brokers may take to acknowledge one.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same at the end.
const FAREWELL: Duration = Duration::from_millis(100);

/// What came of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Everything is on the topic.
    All,
    /// There may be more.
    Some,
    /// Some of it stays in the database; why.
    Failed(String),
}

/// The pause after so many failed rounds in a row: 1, 2, 4 … 60 s.
pub fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => Duration::from_secs(1 << (failures - 1).min(6)).min(Duration::from_secs(60)),
    }
}

/// Writes to the dead-letter topic.
#[derive(Debug)]
pub struct DeadLetters {
    producer: Acknowledged,
    topic: String,
    state: Arc<State>,
}

impl DeadLetters {
    /// For a cluster.
    ///
    /// # Errors
    /// When the Kafka client can't be made.
    pub fn new(kafka: &Kafka, state: Arc<State>) -> anyhow::Result<Self> {
        let producer = Acknowledged::new(kafka, Some(PATIENCE))?;
        Ok(DeadLetters { producer, topic: kafka.topics.output(Topic::DeadLetters).to_owned(), state })
    }

    /// Brings over what is not yet there, a batch at a time. Records that are larger than the topic takes stay in the database, and in no
    /// other's way.
    ///
    /// # Errors
    /// When the state database fails.
    pub async fn publish(&self) -> anyhow::Result<Published> {
        let (mut after, mut too_large) = (0, 0);
        loop {
            let rows = self.state.dead_letters_unpublished(after, BATCH)?;
            let (failure, larger) = self.send(&rows).await?;
            too_large += larger;
            let full = rows.len() == BATCH;
            return Ok(match (failure, too_large) {
                (Some(why), _) => Published::Failed(why),
                (None, 0) if full => Published::Some,
                (None, 0) => Published::All,
                // A full batch of them hides what comes after it.
                (None, _) if full => {
                    after = rows.last().map_or(after, |row| row.id);
                    continue;
                }
                (None, _) => Published::Failed(format!(
                    "{too_large} records are larger than {} takes: raise its max.message.bytes, and message.max.bytes under kafka.properties",
                    self.topic
                )),
            });
        }
    }

    /// Sends rows and notes which arrived; gives back why others did not, and how many of them are too large.
    async fn send(&self, rows: &[DeadLetterRow]) -> anyhow::Result<(Option<String>, usize)> {
        let mut sent = Vec::with_capacity(rows.len());
        for row in rows {
            sent.push((row, self.offer(row)?));
        }
        let (mut published, mut suspects, mut failure) = (Vec::with_capacity(rows.len()), Vec::new(), None);
        for (row, delivery) in sent {
            match arrived(delivery).await {
                Ok(()) => published.push(row.id),
                Err(error) if too_large(&error) => suspects.push(row),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        // A broker refuses what travels together as a whole: each on its own then.
        let mut larger = 0;
        for row in suspects {
            match arrived(self.offer(row)?).await {
                Ok(()) => published.push(row.id),
                Err(error) if too_large(&error) => larger += 1,
                Err(error) => failure = Some(error.to_string()),
            }
        }
        self.state.dead_letters_published(&published)?;
        Ok((failure, larger))
    }

    /// Gives a record to the producer.
    fn offer(&self, row: &DeadLetterRow) -> anyhow::Result<Result<Delivery, KafkaError>> {
        let value = serde_json::to_vec(&record(row))?;
        Ok(self.producer.offer(&self.topic, Some(row.topic.as_bytes()), Some(&value)))
    }
}

/// What became of a record that was offered.
async fn arrived(offered: Result<Delivery, KafkaError>) -> Result<(), KafkaError> {
    offered?.arrived().await
}

fn too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        // What does not get out now is still in the database.
        self.producer.drain(FAREWELL);
    }
}

fn record(row: &DeadLetterRow) -> DeadLetter {
    DeadLetter {
        v: 1,
        reason: row.reason.clone(),
        detail: row.detail.clone(),
        source: row.topic.clone(),
        partition: row.partition,
        offset: row.offset,
        key_base64: row.key.as_ref().map(|key| STANDARD.encode(key)),
        payload_base64: STANDARD.encode(&row.payload),
        at: row.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Settlement;
    use rdkafka::mocking::MockCluster;

    #[test]
    fn rounds_that_fail_come_ever_more_rarely() {
        assert_eq!([0, 1, 2, 6, 7, u32::MAX].map(|failures| pause(failures).as_secs()), [0, 1, 2, 32, 60, 60]);
    }

    #[tokio::test]
    async fn what_is_too_large_stays_and_is_in_nobodys_way() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        let kafka =
            Kafka { properties: [("message.max.bytes".to_owned(), "2000".to_owned())].into(), ..Kafka::at(mock.bootstrap_servers()) };
        mock.create_topic("dead-letters", 1, 1).expect("a topic");
        let folder = tempfile::tempdir().expect("a folder");
        let state = Arc::new(State::open(&folder.path().join("state.db")).expect("opens"));
        let row = |offset: i64, size: usize| DeadLetterRow {
            id: 0,
            at: 1,
            reason: "refused".into(),
            detail: "d".into(),
            topic: "t".into(),
            partition: 0,
            offset,
            key: None,
            payload: vec![b'x'; size],
        };
        // More large ones than a batch holds, and small ones before, among and after them.
        let large = BATCH as i64 + 20;
        let dead = (0..large + 3).map(|n| row(n, if [0, 50, large + 2].contains(&n) { 10 } else { 5_000 })).collect();
        state.settle(&Settlement { dead, ..Default::default() }, 1).expect("settles");
        let letters = DeadLetters::new(&kafka, Arc::clone(&state)).expect("a producer");
        let Published::Failed(why) = letters.publish().await.expect("the database works") else { panic!("large ones are left") };
        assert!(why.contains(&format!("{large} records are larger")), "{why}");
        let left = state.dead_letters_unpublished(0, 1_000).expect("reads");
        assert!(left.len() == large as usize && left.iter().all(|row| row.payload.len() == 5_000), "{}", left.len());
    }
}
