//! How the real `clickline run` ends on a real Apache Kafka: asked to, under load, with brokers that do not answer, and shut
//! out by a second job.

mod support;

use clickline::model::time::{Ms, millis};
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::kafka::{Broker, wait_for};

/// What the contract gives a job that is asked to stop.
const TO_STOP: Duration = Duration::from_secs(10);

/// A job in a process of its own, with its log.
struct Job {
    child: Child,
    log: PathBuf,
}

impl Job {
    fn start(broker: &Broker, folder: &Path, name: &str) -> Job {
        let config = folder.join("clickline.yaml");
        let text = format!("kafka: {{brokers: '{}'}}\nworkspaces: {{w: {{portals: ['1'], counts: all}}}}\n", broker.address());
        fs::write(&config, text).expect("writes");
        let log = folder.join(format!("{name}.log"));
        let file = || File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--workers", "2", "--config"]).arg(config);
        let child = command.stdin(Stdio::null()).stdout(file()).stderr(file()).env("RUST_LOG", "info").spawn().expect("starts");
        Job { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_to_say(&self, words: &str) {
        wait_for(&format!("the job to say `{words}`"), || self.said().contains(words).then_some(()));
    }

    /// Sends SIGTERM and waits; how it ended, and after how long.
    fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        Command::new("kill").arg(self.child.id().to_string()).status().expect("a signal");
        (self.child.wait().expect("our own child"), began.elapsed())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn topics(broker: &Broker) {
    broker.create_topic("clicks", 2, &[("message.timestamp.type", "LogAppendTime")]);
    broker.create_topic("hubspot.timeline", 2, &[]);
}

fn produce(broker: &Broker, name: &str, count: usize) {
    let now: Ms = millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970"));
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[("linger.ms", "5")]).create().expect("a producer");
    for n in 0..count {
        let click = format!(r#"{{"id":"{name}{n}","ts":{now},"workspace":"w","link":"d/1","tags":["x"],"contact_id":"{}"}}"#, n % 500);
        while producer.send(BaseRecord::<(), _>::to("clicks").payload(&click)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if n % 100 == 99 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
}

/// Ids of the clicks that have an event, as readers of committed records find them.
fn events(broker: &Broker) -> Vec<String> {
    let mut found = Vec::new();
    broker.read("hubspot.timeline", "read_committed", |message| {
        let event: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        found.push(event["click_id"].as_str().expect("an id").to_owned());
    });
    found
}

fn wait_for_events(broker: &Broker, count: usize) {
    wait_for(&format!("{count} events"), || (events(broker).len() >= count).then_some(()));
}

/// Each click has one event.
fn assert_once(broker: &Broker, names: &[(&str, usize)]) {
    let mut found = events(broker);
    found.sort();
    let mut expected: Vec<String> = names.iter().flat_map(|(name, count)| (0..*count).map(move |n| format!("{name}{n}"))).collect();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "each click once");
}

#[test]
fn a_second_job_shuts_the_first_one_out_which_says_so() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Job::start(&broker, folder.path(), "first");
    produce(&broker, "a", 200);
    wait_for_events(&broker, 200);
    let mut second = Job::start(&broker, folder.path(), "second");
    produce(&broker, "b", 200);
    let status = first.child.wait().expect("our own child");
    assert_eq!(status.code(), Some(1), "{}", first.said());
    let said = first.said();
    assert!(said.contains("another job with the progress topic `clickline.progress` has taken over"), "{said}");
    wait_for_events(&broker, 400);
    let (status, _) = second.stop();
    assert!(status.success(), "{}", second.said());
    assert_once(&broker, &[("a", 200), ("b", 200)]);
}

#[test]
fn asked_to_stop_under_load_it_drains_and_goes_on_where_it_was() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    // Four seconds' worth.
    let clicks = 20_000;
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("ready");
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", clicks));
        wait_for_events(&broker, 1);
        let (status, took) = job.stop();
        assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
        producer.join().expect("produces");
    });
    let before = events(&broker).len();
    assert!(before < clicks, "it was stopped in the middle: {before} events");
    // Stopped again while it reads again what it had read.
    let mut job = Job::start(&broker, folder.path(), "again");
    job.wait_to_say("the job starts");
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    let mut job = Job::start(&broker, folder.path(), "last");
    wait_for_events(&broker, clicks);
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    assert_once(&broker, &[("a", clicks)]);
}

#[test]
fn asked_to_stop_while_brokers_do_not_answer_it_ends_in_time() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    produce(&broker, "a", 100);
    wait_for_events(&broker, 100);
    produce(&broker, "b", 100);
    broker.freeze();
    std::thread::sleep(Duration::from_millis(1_500));
    let (status, took) = job.stop();
    broker.thaw();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    let mut job = Job::start(&broker, folder.path(), "again");
    wait_for_events(&broker, 200);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 100), ("b", 100)]);
}

#[test]
fn asked_to_stop_before_any_broker_answered_it_ends_in_time() {
    let Some(mut broker) = Broker::start_if_there() else { return };
    broker.kill();
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("do not answer");
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
}
