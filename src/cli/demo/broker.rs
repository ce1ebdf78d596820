//! The demonstration's Kafka: librdkafka's mock cluster in this process, or a real one with topics of this run's own.
//!
//! # Limits of the mock cluster
//! It keeps 5 MB per partition and silently drops the head, stamps no append time, and only pretends at transactions.
//! The week is some hundred records of about 1 KB, far below that.

use crate::kafka::{Kafka, Topics};
use anyhow::Context;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with the topics of one run.
pub struct Broker {
    /// How the parts reach it.
    pub kafka: Kafka,
    /// The embedded one; it lives as long as this.
    _mock: Option<MockCluster<'static, DefaultProducerContext>>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Broker {
    /// Starts the embedded broker, or makes topics on the one at `address`.
    pub async fn start(address: Option<&str>) -> anyhow::Result<Self> {
        let (kafka, mock) = match address {
            None => {
                let mock = MockCluster::new(1).context("the embedded broker does not start")?;
                let kafka = Kafka::at(mock.bootstrap_servers());
                for topic in names(&kafka.topics) {
                    mock.create_topic(topic, 1, 1).with_context(|| format!("topic {topic}"))?;
                }
                (kafka, Some(mock))
            }
            Some(address) => {
                let mut kafka = Kafka::at(address);
                kafka.topics = own_topics();
                make_topics(&kafka).await?;
                (kafka, None)
            }
        };
        let producer = kafka.client(&[("linger.ms", "1")]).create().context("a producer")?;
        Ok(Broker { kafka, _mock: mock, producer })
    }

    /// Appends a record with its time, ms.
    pub fn append(&self, topic: &str, key: &str, value: Option<&[u8]>, at: u64) -> anyhow::Result<()> {
        let at = i64::try_from(at).context("a time beyond i64")?;
        let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).key(key).timestamp(at);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record).map_err(|(error, _)| error).with_context(|| format!("a record for {topic}"))
    }

    /// Waits until all that was appended is there.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.producer.flush(PATIENCE).context("the broker takes no records")
    }

    /// How many committed records a topic of one partition holds.
    pub fn count(&self, topic: &str) -> anyhow::Result<usize> {
        let consumer: BaseConsumer = self
            .kafka
            .client(&[("group.id", "clickline-demo"), ("isolation.level", "read_committed"), ("enable.partition.eof", "true")])
            .create()?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning)?;
        consumer.assign(&from)?;
        let (began, mut records) = (Instant::now(), 0);
        while began.elapsed() < PATIENCE {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(_)) => records += 1,
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return Ok(records),
                Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
                None => {}
            }
        }
        anyhow::bail!("the end of {topic} was not reached within {} s", PATIENCE.as_secs())
    }
}

/// Topics that no other run has: a real broker keeps what earlier ones wrote.
fn own_topics() -> Topics {
    let run = uuid::Uuid::now_v7().simple().to_string();
    let of = |name: String| format!("demo-{}.{name}", &run[..12]);
    let Topics {
        clicks,
        forms,
        contacts,
        deals,
        links,
        progress,
        state,
        sources,
        changes,
        timeline,
        contact_properties,
        deal_stages,
        unresolved,
        counts,
        dead_letters,
    } = Topics::default();
    Topics {
        clicks: of(clicks),
        forms: of(forms),
        contacts: of(contacts),
        deals: of(deals),
        links: of(links),
        progress: of(progress),
        state: of(state),
        sources: of(sources),
        changes: of(changes),
        timeline: of(timeline),
        contact_properties: of(contact_properties),
        deal_stages: of(deal_stages),
        unresolved: of(unresolved),
        counts: of(counts),
        dead_letters: of(dead_letters),
    }
}

fn names(topics: &Topics) -> [&str; 15] {
    let Topics {
        clicks,
        forms,
        contacts,
        deals,
        links,
        progress,
        state,
        sources,
        changes,
        timeline,
        contact_properties,
        deal_stages,
        unresolved,
        counts,
        dead_letters,
    } = topics;
    [
        clicks,
        forms,
        contacts,
        deals,
        links,
        progress,
        state,
        sources,
        changes,
        timeline,
        contact_properties,
        deal_stages,
        unresolved,
        counts,
        dead_letters,
    ]
}

/// A week passes in seconds, so these topics carry the week's time and not the broker's, and keep it whatever its age.
async fn make_topics(kafka: &Kafka) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = kafka.client(&[]).create().context("an admin client")?;
    let topics: Vec<NewTopic<'_>> = names(&kafka.topics)
        .into_iter()
        .map(|name| {
            NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("message.timestamp.type", "CreateTime").set("retention.ms", "-1")
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let made = admin.create_topics(&topics, &options).await.with_context(|| format!("no Kafka answers at {}", kafka.brokers))?;
    for result in made {
        result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
    }
    Ok(())
}
