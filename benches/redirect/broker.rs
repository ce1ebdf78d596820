//! The broker that clicks go to: librdkafka's mock cluster, in this process. It keeps 5 MB of each partition and counts on, so offsets tell how
//! many clicks came; it takes transactions and writes no control records.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
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
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.address()).set("group.id", "bench").create().expect("a consumer");
        let end = Instant::now() + PATIENCE;
        loop {
            let ends = (0..PARTITIONS)
                .map(|partition| consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).map(|(_, end)| end))
                .sum::<Result<i64, _>>();
            match ends {
                Ok(ends) => return u64::try_from(ends).expect("offsets"),
                Err(error) if Instant::now() > end => panic!("the broker does not say how many clicks it has: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
