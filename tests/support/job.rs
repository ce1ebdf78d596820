//! The real `clickline run` as a process of a test, clicks for it, and what readers of committed records find of them.

use super::kafka::Broker;
use super::process::wait_for;
use clickline::model::time::now;
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A job in a process of its own, with its log.
pub struct Job {
    pub child: Child,
    log: PathBuf,
}

impl Job {
    /// Starts one; its log is in `folder`.
    pub fn start(broker: &Broker, folder: &Path, name: &str) -> Job {
        Job::start_with(broker, folder, name, None)
    }

    /// One that ends at a place of [`clickline::failpoint`].
    pub fn start_with(broker: &Broker, folder: &Path, name: &str, failpoint: Option<&str>) -> Job {
        let text = format!("kafka: {{brokers: '{}'}}\nworkspaces: {{w: {{portals: ['1'], counts: all}}}}\n", broker.address());
        Job::start_configured(&text, folder, name, failpoint)
    }

    /// The same with another configuration.
    pub fn start_configured(text: &str, folder: &Path, name: &str, failpoint: Option<&str>) -> Job {
        let config = folder.join("clickline.yaml");
        fs::write(&config, text).expect("writes");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--workers", "2", "--config"]).arg(config);
        if let Some(place) = failpoint {
            command.env("CLICKLINE_FAILPOINT", place);
        }
        Job::of(command, folder, name)
    }

    /// One that `command` starts.
    pub fn of(mut command: Command, folder: &Path, name: &str) -> Job {
        let log = folder.join(format!("{name}.log"));
        let file = || File::options().create(true).append(true).open(&log).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(file()).stderr(file()).env("RUST_LOG", "info").spawn().expect("starts");
        Job { child, log }
    }

    /// Its log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of its log.
    pub fn wait_to_say(&self, words: &str) {
        wait_for(&format!("the job to say `{words}`"), || self.said().contains(words).then_some(()));
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} reaches our own child");
    }

    /// Sends SIGTERM and waits; how it ended, and after how long.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal("TERM");
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

/// The topics whose partitions these tests count on.
pub fn topics(broker: &Broker) {
    broker.create_topic("clicks", 2, &[("message.timestamp.type", "LogAppendTime")]);
    broker.create_topic("hubspot.timeline", 2, &[]);
}

/// Puts clicks on their topic, five thousand a second: `a0`, `a1`, … for the name `a`.
pub fn produce(broker: &Broker, name: &str, count: usize) {
    let now = now();
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[("linger.ms", "5")]).create().expect("a producer");
    for n in 0..count {
        let click = format!(r#"{{"id":"{name}{n}","ts":{now},"workspace":"w","link":"d/1","tags":["x"],"contact_id":"{}"}}"#, n % 500 + 1);
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
pub fn events(broker: &Broker) -> Vec<String> {
    let mut found = Vec::new();
    broker.read("hubspot.timeline", "read_committed", |message| {
        let event: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        found.push(event["click_id"].as_str().expect("an id").to_owned());
    });
    found
}

/// Waits until so many clicks have an event.
pub fn wait_for_events(broker: &Broker, count: usize) {
    wait_for(&format!("{count} events"), || (events(broker).len() >= count).then_some(()));
}

/// Each click has one event.
pub fn assert_once(broker: &Broker, names: &[(&str, usize)]) {
    let mut found = events(broker);
    found.sort();
    let mut expected: Vec<String> = names.iter().flat_map(|(name, count)| (0..*count).map(move |n| format!("{name}{n}"))).collect();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "each click once");
}
