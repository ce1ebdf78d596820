//! Why the brokers take no more transactions from this producer.
//!
//! # Meaning
//! Brokers and client have one word, "fenced", for two things. Either another job has taken the outbox over: then this one must stay down,
//! since starting it again would shut the other one out, and so on for ever. Or a transaction was open for longer than the brokers keep one,
//! and they have ended it: then nobody else is there, and a start goes on where it was.
//!
//! # How they are told apart
//! - A record of progress behind this job's last one is another job's: it writes one as soon as it gets anywhere.
//! - Else, when the transaction had been open for as long as the brokers allow, they have ended it.
//! - Else it was another job that has not got anywhere yet: brokers shut nobody out before that time by themselves.
//!
//! # Not guaranteed
//! A job that was frozen for so long while another one took over and has written nothing yet is held for one whose time ran out. It starts
//! once more, and the next one of the two that is shut out is told the right thing.

use crate::kafka::{At, Kafka};
use crate::model::time::{self, Ms};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// For how long the brokers keep a transaction open, ms, unless the operator says otherwise.
pub const TIMEOUT: &str = "60000";
/// The option that says so.
pub const TIMEOUT_OPTION: &str = "transaction.timeout.ms";
/// How long the look into the topic may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Another job runs on the same topics; starting this one again would not help either of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another job runs on these topics: it has taken `{progress}` over. Stop one of them, or give it topics of its own (`kafka.topics`)"
)]
pub struct ShutOut {
    progress: String,
}

/// What the brokers say of a producer whose place another one has, or whose transaction they have ended.
fn fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

/// When a transaction began. Two clocks: one of them stands still while a machine is suspended, the other one may be set.
#[derive(Clone, Copy, Debug)]
pub struct Began(Instant, Ms);

impl Began {
    /// Now.
    pub fn now() -> Self {
        Began(Instant::now(), time::now())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(Duration::from_millis(time::now().saturating_sub(self.1)))
    }
}

/// Why, if `code` is for one of the two; `last` is the place of the last record of progress that is this job's own or its predecessor's.
pub fn why(code: RDKafkaErrorCode, kafka: &Kafka, last: Option<At>, began: Option<Began>) -> Option<anyhow::Error> {
    // What was not begun was not open.
    let open_for = began.map_or(Duration::ZERO, Began::elapsed);
    let limit = kafka.client(&[(TIMEOUT_OPTION, TIMEOUT)]).get(TIMEOUT_OPTION).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    // Brokers say this, too, of a transaction that is not open any more.
    let may_be = fenced(code) || code == RDKafkaErrorCode::InvalidTransactionalState;
    if may_be && written_behind(kafka, last) {
        return Some(ShutOut { progress: kafka.topics.progress.clone() }.into());
    }
    told(code, open_for, limit.unwrap_or(Duration::MAX), kafka)
}

/// The same where nobody else has written anything.
fn told(code: RDKafkaErrorCode, open_for: Duration, limit: Duration, kafka: &Kafka) -> Option<anyhow::Error> {
    let (fenced, gone) = (fenced(code), code == RDKafkaErrorCode::InvalidTransactionalState);
    if (fenced || gone) && open_for >= limit {
        let (open_for, limit) = (open_for.as_secs(), limit.as_secs());
        return Some(anyhow::anyhow!(
            "a transaction was open for {open_for} s, and the brokers end one after {limit} s ({TIMEOUT_OPTION}): this job stood still, or they were out of its reach; the next start goes on where it was"
        ));
    }
    fenced.then(|| ShutOut { progress: kafka.topics.progress.clone() }.into())
}

/// Whether a committed record stands behind that place; not, as far as the brokers do not say.
fn written_behind(kafka: &Kafka, last: Option<At>) -> bool {
    let options = [
        ("group.id", "clickline"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "error"),
    ];
    let Ok(consumer) = kafka.client(&options).create::<BaseConsumer>() else { return false };
    let (partition, next) = last.map_or((0, Offset::Beginning), |(partition, offset)| (partition, Offset::Offset(offset + 1)));
    let mut list = TopicPartitionList::new();
    if list.add_partition_offset(&kafka.topics.progress, partition, next).and_then(|()| consumer.assign(&list)).is_err() {
        return false;
    }
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match consumer.poll(PATIENCE.saturating_sub(began.elapsed())) {
            Some(Ok(_)) => return true,
            Some(Err(KafkaError::PartitionEOF(_))) | None => return false,
            // Such as a broker that is away for a moment.
            Some(Err(_)) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    #[test]
    fn another_job_is_told_from_a_time_that_ran_out() {
        use RDKafkaErrorCode as Code;
        let (kafka, second) = (Kafka::at("b:1"), Duration::from_secs(1));
        let told = |code, open_for| told(code, second * open_for, second * 60, &kafka);
        for code in [Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch] {
            let error = told(code, 59).expect("one of the two");
            assert!(error.context("the job cannot go on").is::<ShutOut>(), "found behind what is said before it");
            let error = told(code, 60).expect("one of the two");
            assert!(!error.is::<ShutOut>() && error.to_string().starts_with("a transaction was open for 60 s"), "{error}");
        }
        assert!(told(Code::InvalidTransactionalState, 59).is_none());
        assert!(told(Code::InvalidTransactionalState, 60).is_some_and(|error| !error.is::<ShutOut>()));
        assert!(told(Code::ClusterAuthorizationFailed, 600).is_none(), "somebody must mend a permission");
    }

    #[test]
    fn what_stands_behind_the_last_place_is_another_jobs() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        let kafka = Kafka::at(mock.bootstrap_servers());
        mock.create_topic(&kafka.topics.progress, 1, 1).expect("a topic");
        assert!(!written_behind(&kafka, None), "nothing stands there");
        let producer: BaseProducer = kafka.client(&[]).create().expect("a producer");
        for _ in 0..2 {
            producer.send(BaseRecord::<str, str>::to(&kafka.topics.progress).payload("{}")).map_err(|(error, _)| error).expect("sends");
            producer.flush(Duration::from_secs(10)).expect("delivered");
        }
        let behind = [None, Some((0, 0)), Some((0, 1))].map(|last| written_behind(&kafka, last));
        assert_eq!(behind, [true, true, false]);
    }
}
