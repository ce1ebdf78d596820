//! The broker that clicks go to: librdkafka's mock cluster, in this process. It keeps 5 MB of each partition and counts on, so offsets tell how
//! many clicks came, and which, whoever reads at once; it takes transactions and writes no control records.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;

/// How long it may take to say how many clicks it has: after it was away and slow, some.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Broker {
    mock: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    pub fn start() -> Broker {
        Broker { mock: MockCluster::new(1).expect("an embedded broker") }
    }

    pub fn address(&self) -> String {
        self.mock.bootstrap_servers()
    }

    pub fn create(&self, topic: &str) {
        self.mock.create_topic(topic, PARTITIONS, 1).expect("a topic");
    }

    /// Takes no connections any more and ends those that it has.
    pub fn down(&self) {
        self.mock.broker_down(1).expect("the broker goes away");
    }

    /// Takes connections, and answers each request after `round_trip`.
    pub fn up(&self, round_trip: Duration) {
        self.mock.broker_up(1).expect("the broker comes back");
        self.mock.broker_round_trip_time(1, round_trip).expect("the broker answers as late as asked");
    }

    /// Records that have been written to a topic, also those that are no longer kept.
    pub fn offsets(&self, topic: &str) -> u64 {
        u64::try_from(ends(&self.consumer(), topic).iter().sum::<i64>()).expect("offsets")
    }

    /// Reads what comes to a topic from now on.
    pub fn reader(&self, topic: &str) -> Reader {
        let consumer = self.consumer();
        let next = ends(&consumer, topic);
        let mut from = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(&next) {
            from.add_partition_offset(topic, partition, Offset::Offset(*offset)).expect("an offset");
        }
        consumer.assign(&from).expect("assigned");
        Reader { consumer, topic: topic.to_owned(), next, ids: HashMap::new() }
    }

    fn consumer(&self) -> BaseConsumer {
        // Nothing is passed over: what the broker has forgotten before it was read is an error.
        let mut options = ClientConfig::new();
        options.set("bootstrap.servers", self.address()).set("group.id", "bench").set("auto.offset.reset", "error");
        options.create().expect("a consumer")
    }
}

/// Where the partitions of a topic end.
fn ends(consumer: &BaseConsumer, topic: &str) -> Vec<i64> {
    let end = Instant::now() + PATIENCE;
    loop {
        let ends = (0..PARTITIONS)
            .map(|partition| consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).map(|(_, end)| end))
            .collect::<Result<Vec<i64>, _>>();
        match ends {
            Ok(ends) => return ends,
            Err(error) if Instant::now() > end => panic!("the broker does not say how many clicks it has: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The clicks that come to a topic, by their ids.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
    /// The next offset of each partition.
    next: Vec<i64>,
    /// How often each was there.
    pub ids: HashMap<Id, u32>,
}

impl Reader {
    /// Reads until `wanted` clicks are there, or for `within` none has come.
    pub fn read(&mut self, wanted: usize, within: Duration) -> io::Result<()> {
        let mut end = Instant::now() + within;
        while self.ids.len() < wanted && Instant::now() < end {
            if self.read_one(Duration::from_millis(100))? {
                end = Instant::now() + within;
            }
        }
        Ok(())
    }

    /// Reads to where the topic ends now.
    pub fn read_to_end(&mut self) -> io::Result<()> {
        let (ends, end) = (ends(&self.consumer, &self.topic), Instant::now() + PATIENCE);
        while self.next.iter().zip(&ends).any(|(next, end)| next < end) {
            if Instant::now() > end {
                return Err(io::Error::other("the embedded broker does not give the clicks that it has"));
            }
            self.read_one(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn read_one(&mut self, timeout: Duration) -> io::Result<bool> {
        let message = match self.consumer.poll(timeout) {
            None => return Ok(false),
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return Err(forgotten()),
            // The broker was away, as it is meant to be.
            Some(Err(_)) => return Ok(false),
            Some(Ok(message)) => message,
        };
        let next = &mut self.next[usize::try_from(message.partition()).map_err(io::Error::other)?];
        if message.offset() != *next {
            return Err(forgotten());
        }
        *next += 1;
        let id = message.payload().and_then(id_in).ok_or_else(|| io::Error::other("a click without an id"))?;
        *self.ids.entry(id).or_default() += 1;
        Ok(true)
    }
}

fn forgotten() -> io::Error {
    io::Error::other("the embedded broker has forgotten clicks before they were read; give a lower --rate")
}

/// The id of a click, by its text.
pub type Id = [u8; 36];

/// The id in a click's record.
fn id_in(record: &[u8]) -> Option<Id> {
    let at = memchr::memmem::find(record, b"\"id\":\"")? + 6;
    record.get(at..at + 36)?.try_into().ok()
}
