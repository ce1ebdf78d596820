//! A real Apache Kafka, as `tests/kafka/broker` starts it, perhaps behind a proxy that is slow.

use super::process::PATIENCE;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A TCP proxy that passes on what the server sends after a while.
pub struct SlowProxy {
    address: String,
    listener: TcpListener,
    /// The while, in milliseconds.
    delay: Arc<AtomicU64>,
}

impl SlowProxy {
    fn listen() -> SlowProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        SlowProxy { address: listener.local_addr().expect("an address").to_string(), listener, delay: Arc::default() }
    }

    fn serve(&self, server: &str) {
        let (listener, server, delay) = (self.listener.try_clone().expect("a handle"), server.to_owned(), self.delay.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let back = [&server, &client].map(|end| end.try_clone().expect("a handle"));
                std::thread::spawn(move || pass(client, server, &AtomicU64::new(0)));
                let delay = delay.clone();
                let [from, to] = back;
                std::thread::spawn(move || pass(from, to, &delay));
            }
        });
    }

    /// From now on each answer takes so long.
    pub fn slow_by(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).expect("a short while"), Ordering::SeqCst);
    }
}

/// Passes bytes on until one of the two ends.
fn pass(mut from: TcpStream, mut to: TcpStream, delay: &AtomicU64) {
    let mut buffer = [0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(Duration::from_millis(delay.load(Ordering::SeqCst)));
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// The node that all tests of this file share; it ends with this process.
pub fn broker() -> Option<&'static Broker> {
    static BROKER: OnceLock<Option<Broker>> = OnceLock::new();
    BROKER.get_or_init(|| Broker::start(None)).as_ref()
}

/// A running node.
pub struct Broker {
    pub address: String,
    process: u32,
}

impl Broker {
    /// A node of one's own that its clients reach through a proxy, or `None` where Kafka was not fetched.
    pub fn start_behind_proxy() -> Option<(Broker, SlowProxy)> {
        let proxy = SlowProxy::listen();
        let broker = Broker::start(Some(&proxy))?;
        Some((broker, proxy))
    }

    fn start(proxy: Option<&SlowProxy>) -> Option<Broker> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        if !target.join("kafka/lib/.from").is_file() {
            eprintln!("left out: no Apache Kafka here; `tests/kafka/fetch` gets it");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let own = free.to_string();
        // What it tells its clients to connect to.
        let address = proxy.map_or(own.clone(), |proxy| proxy.address.clone());
        let (send, receive) = std::sync::mpsc::channel();
        let wanted = [own.clone(), address.clone()];
        // "Die with your parent" looks at the thread that started the child; this one lives as long as the process.
        std::thread::spawn(move || {
            let mut child = Command::new("setpriv")
                .args(["--pdeathsig", "TERM"])
                .arg(root.join("tests/kafka/broker"))
                .args(&wanted)
                .env("CARGO_TARGET_DIR", target)
                .process_group(0)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("the broker's script starts");
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
            let up = lines.any(|line| line.contains("listens on"));
            send.send(up.then(|| child.id())).expect("the test waits");
            lines.for_each(drop);
            let _ = child.wait();
        });
        let process = receive.recv_timeout(PATIENCE).expect("the broker starts").expect("the broker listens");
        if let Some(proxy) = proxy {
            proxy.serve(&own);
        }
        Some(Broker { address, process })
    }

    /// Stops or continues all of the broker's processes.
    pub fn signal(&self, name: &str) {
        let group = format!("-{}", self.process);
        assert!(Command::new("kill").args([name, "--", &group]).status().expect("kill runs").success());
    }

    /// Ids of the committed clicks on a topic, with how often each is there.
    pub fn ids(&self, topic: &str) -> BTreeMap<String, usize> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("group.id", "test")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a consumer");
        let metadata = reader.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        let mut from = TopicPartitionList::new();
        let partitions = metadata.topics()[0].partitions().len();
        let end = Instant::now() + PATIENCE;
        for partition in metadata.topics()[0].partitions() {
            self.wait_for_markers(&reader, topic, partition.id(), end);
            from.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
        }
        reader.assign(&from).expect("assigned");
        let (mut ids, mut ended) = (BTreeMap::new(), BTreeSet::new());
        while ended.len() < partitions {
            assert!(Instant::now() < end, "the topic cannot be read to its end");
            match reader.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let click: serde_json::Value = serde_json::from_slice(message.payload().expect("a payload")).expect("JSON");
                    *ids.entry(click["id"].as_str().expect("an id").to_owned()).or_default() += 1;
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                Some(Err(_)) | None => {}
            }
        }
        ids
    }

    /// Waits until no transaction is open. Kafka says that one is committed before the markers that say so are on the partitions, and for readers of
    /// committed records a partition ends before the first record that has none.
    fn wait_for_markers(&self, reader: &BaseConsumer, topic: &str, partition: i32, end: Instant) {
        let all: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("group.id", "test")
            .set("isolation.level", "read_uncommitted")
            .create()
            .expect("a consumer");
        let end_of = |reader: &BaseConsumer| reader.fetch_watermarks(topic, partition, PATIENCE).expect("the ends").1;
        while end_of(reader) < end_of(&all) {
            assert!(Instant::now() < end, "a transaction stays open");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
