//! A real Apache Kafka for a test: one KRaft node of the test's own, on free ports, in a temporary folder.
//!
//! # Meaning
//! [`Broker::start`] formats a folder, starts the node and returns when it answers clients. The node stamps append times
//! (`LogAppendTime`), as clickline wants it. It can be stopped as an administrator would, killed as a power cut would,
//! frozen, and started again on the same address and the same folder.
//!
//! # Ties and edges
//! - The jars come from Maven (`tests/kafka/fetch`). Where they are not, [`Broker::start_if_there`] returns `None`; the
//!   test returns, and `tests/zz_left_out.rs` names what was left out.
//! - The node ends with the test's process, however that ends: the kernel is asked to see to it (`setpriv --pdeathsig`).
//!
//! # Cost
//! About 3 s and 250 MB a node.

use super::ports::free_addresses;
use super::process::wait_for;
use super::process::{PATIENCE, bound_to_this_process};
pub use super::proxy::Proxy;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode::{self, AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How its virtual machine runs. In tests with the client compiler alone: it starts in half the time, and none runs long enough to miss the other. An optimised build
/// measures, beside a broker as one runs in production.
const MACHINE: &[&str] = if cfg!(debug_assertions) {
    &["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
} else {
    &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"]
};
/// The same for both ways of starting a node; `tests/kafka/broker` is the other.
const PROPERTIES: &str = include_str!("../kafka/server.properties");

/// The folder of Kafka's jars, if they were fetched.
pub fn jars() -> Option<PathBuf> {
    // Cargo's folder for tests is `target/tmp`.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let lib = target.join("kafka").join("lib");
    lib.join(".from").is_file().then_some(lib)
}

/// A running (or stopped) node.
pub struct Broker {
    dir: tempfile::TempDir,
    lib: PathBuf,
    clients: String,
    process: Option<Child>,
}

impl Broker {
    /// A node, or `None` where Kafka's jars were not fetched: then the test has nothing to run on and returns.
    ///
    /// # Panics
    /// When the jars are there and the node does not start: that is a failure, not a reason to leave something out.
    pub fn start_if_there() -> Option<Broker> {
        let Some(lib) = jars() else {
            eprintln!("left out: no Apache Kafka here; `tests/kafka/fetch` gets it");
            return None;
        };
        Some(Broker::start(lib))
    }

    /// A node from the jars in `lib`.
    ///
    /// # Panics
    /// When it does not start; with the node's own last words.
    pub fn start(lib: PathBuf) -> Broker {
        let [clients, controller] = free_addresses();
        Broker::start_at(lib, &clients, clients.clone(), &controller)
    }

    /// A node at another address of this machine; `None` where Kafka's jars were not fetched.
    pub fn start_on_if_there(address: &str) -> Option<Broker> {
        let lib = jars()?;
        let [clients, controller] = free_addresses::<2>().map(|free| free.replace("127.0.0.1", address));
        Some(Broker::start_at(lib, &clients, clients.clone(), &controller))
    }

    /// A node that its clients, and it itself, reach through a proxy; `None` where Kafka's jars were not fetched.
    pub fn start_behind_proxy_if_there() -> Option<(Broker, Proxy)> {
        let lib = jars()?;
        let [listens, clients, controller] = free_addresses();
        let proxy = Proxy::start(&clients, &listens);
        Some((Broker::start_at(lib, &listens, clients, &controller), proxy))
    }

    fn start_at(lib: PathBuf, listens: &str, clients: String, controller: &str) -> Broker {
        let dir = tempfile::Builder::new().prefix("clickline-kafka-").tempdir().expect("a temporary folder");
        let data = dir.path().join("data");
        let properties = PROPERTIES
            .replace("advertised.listeners=CLIENTS://@CLIENTS@", &format!("advertised.listeners=CLIENTS://{clients}"))
            .replace("@CLIENTS@", listens)
            .replace("@CONTROLLER@", controller)
            .replace("@DIR@", data.to_str().expect("temporary folders have plain names"));
        std::fs::write(dir.path().join("server.properties"), properties).expect("writes the configuration");
        let mut broker = Broker { dir, lib, clients, process: None };
        broker.format();
        broker.restart();
        broker
    }

    /// `host:port` for clients.
    pub fn address(&self) -> &str {
        &self.clients
    }

    /// Options for any client of this node.
    pub fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.clients);
        config.set("fetch.wait.max.ms", "20");
        for (key, value) in own {
            config.set(*key, *value);
        }
        config
    }

    /// Creates a topic of one replica with options such as `("cleanup.policy", "compact")`, and waits until it has leaders.
    pub fn create_topic(&self, name: &str, partitions: i32, options: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client(&[]).create().expect("an admin client");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in options {
            topic = topic.set(key, value);
        }
        let until = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        match runtime.block_on(admin.create_topics([&topic], &until)).expect("the node answers").remove(0) {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => panic!("topic {topic}: {code}"),
        }
        let leaders = || {
            let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).ok()?;
            let found = metadata.topics().first()?.partitions();
            (i32::try_from(found.len()) == Ok(partitions) && found.iter().all(|p| p.leader() >= 0)).then_some(())
        };
        wait_for(&format!("leaders of topic {name}"), leaders);
    }

    /// Gives `each` every record that is in a topic now, as readers of this isolation level (`read_committed`,
    /// `read_uncommitted`) see it, partition by partition in its order.
    ///
    pub fn read(&self, topic: &str, isolation: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
        let options = [("isolation.level", isolation), ("enable.partition.eof", "true"), ("group.id", "unused")];
        let reader: BaseConsumer = self.client(&options).create().expect("a consumer");
        let metadata = wait_for(&format!("the partitions of {topic}"), || {
            let metadata = reader.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
            (!metadata.topics().first()?.partitions().is_empty()).then_some(metadata)
        });
        let mut from = TopicPartitionList::new();
        let mut open = BTreeSet::new();
        for partition in metadata.topics()[0].partitions() {
            from.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
            open.insert(partition.id());
        }
        reader.assign(&from).expect("assigned");
        let mut heard = Instant::now();
        while !open.is_empty() {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => each(&message),
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) if !passes(&error) => panic!("{topic}: {error}"),
                None | Some(Err(_)) => {
                    assert!(heard.elapsed() < PATIENCE, "the node gave nothing of {topic} for {PATIENCE:?}");
                    continue;
                }
            }
            heard = Instant::now();
        }
    }

    /// Ends the node as an administrator does (SIGTERM) and waits for it.
    pub fn stop(&mut self) {
        self.signal("TERM");
        if let Some(mut process) = self.process.take() {
            let ended = || process.try_wait().ok().flatten();
            wait_for("the node to stop", ended);
        }
    }

    /// Ends the node as a power cut does (SIGKILL); what it had acknowledged is in the kernel's page cache.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own child");
            process.wait().expect("our own child");
        }
    }

    /// Freezes the node (SIGSTOP): it holds its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Starts a node that was stopped or killed, on the same address and folder; returns when it answers.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "stop or kill the node first");
        let mut command = self.java("kafka.Kafka");
        command.arg(self.dir.path().join("server.properties"));
        self.process = Some(bound_to_this_process(command));
        let started = Instant::now();
        let probe: BaseConsumer = self.client(&[("log_level", "0")]).create().expect("a client");
        loop {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(ended.is_none(), "the node ended ({ended:?}):\n{}", self.last_words());
            let metadata = probe.fetch_metadata(None, Duration::from_secs(1));
            if metadata.is_ok_and(|metadata| !metadata.brokers().is_empty()) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the node does not answer:\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn format(&self) {
        let mut command = self.java("kafka.tools.StorageTool");
        // Any id of 16 bytes in URL-safe base 64 will do; the nodes of two tests never meet.
        command.args(["format", "--standalone", "-t", "Y2xpY2tsaW5lLXRlc3RzMA", "-c"]).arg(self.dir.path().join("server.properties"));
        let status = command.status().expect("java starts (apt install openjdk-17-jre-headless)");
        assert!(status.success(), "the storage tool refused:\n{}", self.last_words());
    }

    fn java(&self, class: &str) -> Command {
        let log = || File::options().create(true).append(true).open(self.log()).expect("writes its log");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "java"])
            .args(MACHINE)
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(self.lib.join("*"))
            .arg(class)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("node.log")
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            let status = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
            assert!(status.is_ok_and(|status| status.success()), "kill -{name} reaches our own child");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A frozen process dies of SIGKILL too.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether a client says this of a connection that broke (the node was frozen or killed before) and that it makes again by
/// itself.
pub fn passes(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumption(AllBrokersDown | BrokerTransportFailure | OperationTimedOut))
}
