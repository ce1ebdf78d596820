//! Reads the dead-letter topic to its end, and appends records to where they came from.

use super::Id;
use crate::kafka::Kafka;
use crate::model::outputs::DeadLetter;
use anyhow::{Context as _, anyhow, bail};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender as Told, channel};
use std::time::{Duration, Instant};

/// How long the brokers may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives `each` every dead letter that is on the topic now. Records that are none are passed over, with a warning.
///
/// # Errors
/// What `each` says, or the brokers don't answer.
pub fn read(kafka: &Kafka, topic: &str, mut each: impl FnMut(Id, DeadLetter) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let config = kafka.client(&[
        ("group.id", "clickline-dead-letters"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("fetch.wait.max.ms", "50"),
    ]);
    let consumer: BaseConsumer = config.create().context("the options under `kafka` do not make a consumer")?;
    let metadata = match consumer.fetch_metadata(Some(topic), PATIENCE) {
        Ok(metadata) => metadata,
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => return Ok(()),
        Err(error) => return Err(anyhow!(error).context(format!("the brokers do not say what the topic {topic} has"))),
    };
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    let mut open: BTreeSet<i32> = found.flat_map(|found| found.partitions()).map(|partition| partition.id()).collect();
    let mut list = TopicPartitionList::with_capacity(open.len());
    for partition in &open {
        list.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let id = Id { partition: message.partition(), offset: message.offset() };
                match serde_json::from_slice(message.payload().unwrap_or_default()) {
                    Ok(letter) => each(id, letter)?,
                    Err(_) => tracing::warn!(%id, topic, "this record is no dead letter of clickline's"),
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) if heard.elapsed() > PATIENCE => {
                return Err(anyhow!(error).context(format!("the topic {topic} can't be read")));
            }
            None if heard.elapsed() > PATIENCE => bail!("the topic {topic} can't be read: the brokers send nothing"),
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}

/// Says of each record whether Kafka has it.
struct Deliveries(Told<Result<(), KafkaError>>);

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // Nobody listens any more when the command was given up.
        let _ = self.0.send(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// Appends records to topics, one at a time, each acknowledged.
pub struct Sender {
    producer: BaseProducer<Deliveries>,
    delivered: Receiver<Result<(), KafkaError>>,
}

impl Sender {
    /// For a cluster.
    ///
    /// # Errors
    /// The options under `kafka` make no producer.
    pub fn new(kafka: &Kafka) -> anyhow::Result<Self> {
        let (told, delivered) = channel();
        let config = kafka.client(&[("enable.idempotence", "true"), ("message.timeout.ms", "30000"), ("linger.ms", "0")]);
        let producer = config.create_with_context(Deliveries(told)).context("the options under `kafka` do not make a producer")?;
        Ok(Sender { producer, delivered })
    }

    /// Appends a record; it is there when this returns.
    ///
    /// # Errors
    /// Kafka does not take it, or does not say so in time: it may be there all the same.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, payload: &[u8]) -> anyhow::Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        self.producer.send(record).map_err(|(error, _)| error).with_context(|| format!("the topic {topic} takes no record"))?;
        self.producer.flush(PATIENCE * 2).with_context(|| format!("the topic {topic} does not acknowledge the record"))?;
        let delivered = self.delivered.try_recv().map_err(|_| anyhow!("the topic {topic} does not acknowledge the record"))?;
        delivered.with_context(|| format!("the topic {topic} takes no record"))
    }
}
