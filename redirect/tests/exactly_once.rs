//! Every answered redirect is on the topic once, on a real Apache Kafka: killed under load, killed at each failpoint, with the broker frozen, with a
//! disk that takes no more.
//!
//! Where Kafka's jars were not fetched (`tests/kafka/fetch`) there is nothing to run on and the tests return. `CLICKLINE_KILLS` makes them longer.

mod common;

use common::*;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);

/// The node that all tests of this file share; it ends with this process.
fn broker() -> Option<&'static Broker> {
    static BROKER: OnceLock<Option<Broker>> = OnceLock::new();
    BROKER.get_or_init(Broker::start).as_ref()
}

struct Broker {
    address: String,
    process: u32,
}

impl Broker {
    fn start() -> Option<Broker> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        if !target.join("kafka/lib/.from").is_file() {
            eprintln!("left out: no Apache Kafka here; `tests/kafka/fetch` gets it");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let address = free.to_string();
        let (send, receive) = std::sync::mpsc::channel();
        let wanted = address.clone();
        // "Die with your parent" looks at the thread that started the child; this one lives as long as the process.
        std::thread::spawn(move || {
            let mut child = Command::new("setpriv")
                .args(["--pdeathsig", "TERM"])
                .arg(root.join("tests/kafka/broker"))
                .arg(&wanted)
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
        Some(Broker { address, process })
    }

    /// Stops or continues all of the broker's processes.
    fn signal(&self, name: &str) {
        let group = format!("-{}", self.process);
        assert!(Command::new("kill").args([name, "--", &group]).status().expect("kill runs").success());
    }

    /// Ids of the committed clicks on a topic, with how often each is there.
    fn ids(&self, topic: &str) -> BTreeMap<String, usize> {
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
        for partition in metadata.topics()[0].partitions() {
            from.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
        }
        reader.assign(&from).expect("assigned");
        let (mut ids, mut ended) = (BTreeMap::new(), BTreeSet::new());
        let end = Instant::now() + PATIENCE;
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
}

/// A redirect server as a process.
struct Redirect {
    child: Child,
    address: SocketAddr,
    /// Open as long as the process may write to it.
    _output: BufReader<ChildStdout>,
}

impl Redirect {
    fn start(folder: &Path, broker: &str, topic: &str, more: &[&str], failpoint: Option<&str>) -> Redirect {
        let links = folder.join("links.yaml");
        std::fs::write(&links, LINKS).expect("the links file");
        std::fs::create_dir_all(folder.join("spool")).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline-redirect"));
        command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--default-domain", "s.elido.me", "--log", "warn"]);
        command.args(["--kafka", broker, "--clicks-topic", topic]).arg("--links").arg(links).arg("--spool").arg(folder.join("spool"));
        command.args(more).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("CLICKLINE_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").expect("the address").parse().expect("an address");
        Redirect { child, address, _output: output }
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
    }

    /// SIGTERM, and the exit code.
    fn stop(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs").success());
        self.child.wait().expect("ends").code()
    }
}

/// Clients that click all the time, at whatever address is current, and remember the ids of their answers.
struct Load {
    address: Arc<Mutex<Option<SocketAddr>>>,
    ids: Arc<Mutex<Vec<String>>>,
    /// Requests of which nobody knows whether they were taken.
    unanswered: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(clients: usize) -> Load {
        let mut load = Load {
            address: Arc::default(),
            ids: Arc::default(),
            unanswered: Arc::default(),
            refused: Arc::default(),
            done: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..clients {
            let (address, ids, done) = (load.address.clone(), load.ids.clone(), load.done.clone());
            let (unanswered, refused) = (load.unanswered.clone(), load.refused.clone());
            load.threads.push(std::thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let Some(stream) = address.lock().expect("alive").and_then(|address| TcpStream::connect(address).ok()) else {
                        std::thread::yield_now();
                        continue;
                    };
                    click(stream, &done, &ids, &unanswered, &refused);
                }
            }));
        }
        load
    }

    fn answered(&self) -> usize {
        self.ids.lock().expect("alive").len()
    }

    fn aim(&self, redirect: &Redirect) {
        *self.address.lock().expect("alive") = Some(redirect.address);
    }

    /// Waits until so many more redirects were answered.
    fn wait(&self, more: usize) {
        let (begin, end) = (self.answered(), Instant::now() + PATIENCE);
        while self.answered() < begin + more {
            assert!(Instant::now() < end, "{} of {more} answers", self.answered() - begin);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(self) -> (BTreeSet<String>, u64, u64) {
        self.done.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client ends well"));
        let ids = self.ids.lock().expect("alive").drain(..).collect();
        (ids, self.unanswered.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst))
    }
}

/// Clicks on one connection until it breaks.
fn click(mut stream: TcpStream, done: &AtomicBool, ids: &Mutex<Vec<String>>, unanswered: &AtomicU64, refused: &AtomicU64) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4_096];
    while !done.load(Ordering::SeqCst) {
        let mut answer = Vec::new();
        let sent = stream.write_all(format!("GET /abc123 HTTP/1.1\r\nHost: x\r\n{SAFARI}\r\n").as_bytes());
        while sent.is_ok() && !answer.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        if !answer.ends_with("\r\n\r\n") {
            unanswered.fetch_add(1, Ordering::SeqCst);
            return;
        } else if answer.starts_with("HTTP/1.1 503 ") {
            refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let id = header(&answer, "X-Click-Id").expect("an id in each redirect");
        ids.lock().expect("alive").push(id.to_owned());
    }
}

/// All answered clicks are there, none is twice, and there are no more than were asked for.
fn check(broker: &Broker, topic: &str, answered: &BTreeSet<String>, unanswered: u64) {
    let there = broker.ids(topic);
    let doubled: Vec<_> = there.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{} of {} doubled, e.g. {:?}", doubled.len(), there.len(), doubled[0]);
    let missing = answered.iter().filter(|id| !there.contains_key(*id)).count();
    assert_eq!(missing, 0, "of {} answered clicks", answered.len());
    let more = (there.len() - answered.len()) as u64;
    assert!(more <= unanswered, "{more} more than answered, {unanswered} requests without an answer");
    eprintln!("{topic}: {} answered, {} on the topic, {unanswered} without an answer", answered.len(), there.len());
}

fn rounds(least: usize) -> usize {
    std::env::var("CLICKLINE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(least)
}

#[test]
fn killed_under_load() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start(8);
    for round in 0..rounds(6) {
        let redirect = Redirect::start(folder.path(), &broker.address, "killed", &["--capture", "durable"], None);
        load.aim(&redirect);
        // At moments that have nothing to do with the program's own rhythm.
        load.wait(40 + 137 * round % 400);
        redirect.kill();
    }
    let redirect = Redirect::start(folder.path(), &broker.address, "killed", &["--capture", "durable"], None);
    load.aim(&redirect);
    load.wait(50);
    let (answered, unanswered, refused) = load.end();
    assert_eq!((redirect.stop(), refused), (Some(0), 0));
    check(broker, "killed", &answered, unanswered);
}

#[test]
fn killed_at_each_place() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start(4);
    for (round, place) in clickline_redirect::failpoint::PLACES.iter().enumerate() {
        let mut redirect =
            Redirect::start(folder.path(), &broker.address, "places", &["--capture", "durable"], Some(&format!("{place}@{}", 2 + round)));
        load.aim(&redirect);
        let end = Instant::now() + PATIENCE;
        while redirect.child.try_wait().expect("ours").is_none() {
            assert!(Instant::now() < end, "never came to {place}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let redirect = Redirect::start(folder.path(), &broker.address, "places", &["--capture", "durable"], None);
    load.aim(&redirect);
    load.wait(20);
    let (answered, unanswered, _) = load.end();
    assert_eq!(redirect.stop(), Some(0));
    check(broker, "places", &answered, unanswered);
}

/// The broker is away at the start, comes, freezes, and comes back; the answers go on. A disk that is full refuses and loses nothing.
#[test]
fn broker_away_and_disk_full() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start(4);
    // Nobody listens there. About 1,300 clicks fill seven eighths of the spool.
    let small = ["--spool-bytes", "1048576", "--spool-full", "refuse"];
    let away = Redirect::start(folder.path(), "127.0.0.1:9", "away", &small, None);
    load.aim(&away);
    let end = Instant::now() + PATIENCE;
    while load.refused.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the spool never fills");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(away.stop(), Some(0), "all that was answered is in the spool");
    assert!(load.answered() > 500, "{} answered without a broker", load.answered());
    let redirect = Redirect::start(folder.path(), &broker.address, "away", &["--spool-full", "refuse"], None);
    load.aim(&redirect);
    load.wait(100);
    broker.signal("-STOP");
    load.wait(1_000);
    broker.signal("-CONT");
    load.wait(100);
    let (answered, unanswered, _) = load.end();
    assert_eq!(redirect.stop(), Some(0));
    check(broker, "away", &answered, unanswered);
}
