//! A real job held to the oracle: random records go into a real Apache Kafka while the job runs, is killed, and runs again,
//! and what stands in the output topics in the end is what the oracle says, each output once.
//!
//! # Meaning
//! A [`Course`] makes the topics, appends records on a thread of its own, and follows the outputs from the beginning as a
//! reader of committed records. The test starts and kills jobs. At the end the log is read back with the broker's append
//! times, later where the job has noted that it took a record later, the oracle works its outputs out, and they are compared with what stands in the topics, and with what the
//! follower saw.

mod letters;

use crate::oracle_model::expect::{expect_until, shown};
use crate::oracle_model::{self, Log, Record, TICK, Term, World, differences};
use crate::support::kafka::{Broker, passes};
use clickline::config::rules::{self, Rule};
use clickline::dataflow::plan::rule_key;
use clickline::kafka::Topics;
use clickline::model::outputs::{Output, Topic};
pub use clickline::model::time::now;
use clickline::model::time::{DAY, HOUR, Ms, tick_end};
use clickline::sources::kafka::reached::Reached;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const INPUTS: [&str; 4] = ["clicks", "forms", "crm.contacts", "crm.deals"];
const PARTITIONS: i32 = 3;

/// A number from the environment.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// One run against the oracle; see the module.
pub struct Course {
    pub broker: Broker,
    pub folder: tempfile::TempDir,
    /// The configuration of the jobs.
    pub config: PathBuf,
    changed: Changed,
    /// What the configuration says beside brokers, workspaces and rules.
    more: String,
    /// `times.idle_slack`.
    slack: &'static str,
    seed: u64,
    began: Instant,
    done: Arc<AtomicBool>,
    producer: Option<JoinHandle<usize>>,
    /// Records that the producer has appended; none where others fill the topics.
    sent: Option<usize>,
    followed: Arc<AtomicBool>,
    follower: JoinHandle<Vec<Found>>,
}

/// The oracle's word on a run.
pub struct Verdict {
    pub records: usize,
    pub outputs: usize,
    /// Versions and ends of rules.
    pub changes: usize,
    pub took: Duration,
}

impl Course {
    /// Makes the topics and begins to append records, to read outputs; the more kills, the slower.
    pub fn begin(broker: Broker, seed: u64, kills: u64) -> Self {
        // The default, which a machine that has other work to do exceeds: records come late.
        let mut course = Course::around(broker, seed, "50ms", String::new());
        course.producer = Some(produce(&course.broker, seed, kills, &course.done));
        course
    }

    /// The same without a producer: the test fills the topics, and says `more` in the configuration. `slack` is how far a partition that has been
    /// read to its end stays behind the clock.
    pub fn around(broker: Broker, seed: u64, slack: &'static str, more: String) -> Self {
        for topic in INPUTS {
            broker.create_topic(topic, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")]);
        }
        for topic in outputs() {
            broker.create_topic(topic, PARTITIONS, &[]);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let config = configuration(&broker, folder.path(), &Changed::default(), slack, &more);
        let followed = Arc::new(AtomicBool::new(false));
        let follower = Follower::of(&broker, &outputs()).follow(&followed);
        Course {
            broker,
            folder,
            config,
            changed: Changed::default(),
            more,
            slack,
            seed,
            began: Instant::now(),
            done: Arc::new(AtomicBool::new(false)),
            producer: None,
            sent: None,
            followed,
            follower,
        }
    }

    /// Takes a rule away, puts one back, or tells one to backfill or not to, for the jobs that start from now on.
    pub fn change_rules(&mut self, rng: &mut StdRng) {
        self.changed.change(rng, oracle_model::RULES.matches("- name: ").count());
        self.config = configuration(&self.broker, self.folder.path(), &self.changed, self.slack, &self.more);
    }

    /// Appends no more records; a tick that lies a moment after the last one.
    pub fn last_tick(&mut self) -> Ms {
        self.done.store(true, Ordering::Relaxed);
        if let Some(producer) = self.producer.take() {
            self.sent = Some(producer.join().expect("produces"));
        }
        tick_end(now() + 3_000, TICK)
    }

    /// Compares; the job must have gone past `end`, and have ended.
    pub fn judge(self, end: Ms) -> Verdict {
        let Course {
            broker,
            folder: _folder,
            config: _,
            changed: _,
            more: _,
            slack: _,
            seed,
            began,
            done: _,
            producer: _,
            sent,
            followed,
            follower,
        } = self;
        let mut records: Vec<Found> = Follower::isolated(&broker, &INPUTS, "read_uncommitted").all();
        assert_eq!(records.len(), sent.unwrap_or(records.len()), "the log is all that was sent");
        let read_back = records.len();
        taken(&broker, &mut records);
        records.sort_by_key(|(_, partition, offset, at, ..)| (tick_end(*at, TICK), *partition, *offset));
        let read = |(topic, _, _, at, key, value): &Found| {
            (*at, Record::read(topic, key.as_deref(), (!value.is_empty()).then_some(value.as_slice())))
        };
        let log = Log::of(records.iter().map(read).collect());
        let world = World::with(terms(&progress(&broker), &log));
        let mut expected: Vec<String> =
            expect_until(&world, &log, end).lines.into_iter().map(|line| letters::in_place(line, &records)).collect();
        expected.sort();

        let committed = Follower::of(&broker, &outputs()).all();
        followed.store(true, Ordering::Relaxed);
        let place = |found: &Found| (found.0.clone(), found.1, found.2);
        let followed: BTreeSet<_> = follower.join().expect("follows").iter().map(place).collect();
        assert_eq!(followed, committed.iter().map(place).collect::<BTreeSet<_>>(), "who was there all the time saw the same");

        let line = |(topic, _, _, _, key, value): &Found| {
            let topic = *Topic::ALL.iter().find(|of| of.default_name() == topic).expect("an output topic");
            let record: serde_json::Value = serde_json::from_slice(value).expect("JSON");
            let at = record["at"].as_u64().expect("a tick");
            (at <= end).then(|| oracle_model::line(at, &Output { topic, key: key.clone().unwrap_or_default(), value: value.clone() }))
        };
        let mut said: Vec<String> = committed.iter().filter_map(line).collect();
        said.sort();
        if let Some(differences) = differences(&expected, &said) {
            panic!("seed {seed}\n{differences}");
        }
        assert!(expected.len() > 100, "the run says something");
        let changes = world.terms.iter().map(|term| term.versions.len() + usize::from(term.until < Ms::MAX)).sum();
        Verdict { records: read_back, outputs: expected.len(), changes, took: began.elapsed() }
    }
}

fn outputs() -> Vec<&'static str> {
    Topic::ALL.into_iter().map(Topic::default_name).collect()
}

/// Appends random records until it is asked to stop; the more kills, the slower: the oracle works every tick out from nothing.
fn produce(broker: &Broker, seed: u64, kills: u64, ask: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        broker.client(&[("linger.ms", "5"), ("enable.idempotence", "true")]).create().expect("a producer");
    let (mut rng, ask) = (StdRng::seed_from_u64(seed), Arc::clone(ask));
    thread::spawn(move || {
        let mut sent: Vec<Record> = Vec::new();
        while !ask.load(Ordering::Relaxed) {
            // Bounds of the contract are reached while the test runs: ages a few seconds short of them.
            let age = *[0, 0, 0, HOUR, 2 * HOUR, DAY, 3 * DAY, 14 * DAY, 30 * DAY].choose(&mut rng).expect("some");
            let ts = (now() - age).saturating_add_signed(*[-500, -1, 0, 0, 1, 500, 3_000, 10_000, 20_000].choose(&mut rng).expect("some"));
            let again = rng.random_bool(0.1).then(|| sent.choose(&mut rng).cloned()).flatten();
            let record = again.unwrap_or_else(|| Record::random(&mut rng, sent.len(), ts));
            let (topic, key, value) = record.message();
            let mut message = BaseRecord::<str, [u8]>::to(topic);
            (message.key, message.payload) = (key.as_deref(), value.as_deref());
            producer.send(message).map_err(|(error, _)| error).expect("queued");
            sent.push(record);
            thread::sleep(Duration::from_millis(rng.random_range(0..(5 * kills).clamp(40, 500))));
        }
        producer.flush(Duration::from_secs(20)).expect("delivered");
        sent.len()
    })
}

/// A reader of committed records that begins at the beginning of topics.
struct Follower {
    consumer: BaseConsumer,
    open: BTreeSet<(String, i32)>,
}

/// Topic, partition, offset, append time, key, value.
type Found = (String, i32, i64, Ms, Option<String>, Vec<u8>);

impl Follower {
    fn of(broker: &Broker, topics: &[&str]) -> Self {
        Follower::isolated(broker, topics, "read_committed")
    }

    /// The same, isolated as the topics' readers are: the job takes its inputs as they were appended. A click of a transaction that was
    /// aborted comes again with the same id.
    fn isolated(broker: &Broker, topics: &[&str], isolation: &str) -> Self {
        let options =
            [("group.id", "none"), ("enable.auto.commit", "false"), ("isolation.level", isolation), ("enable.partition.eof", "true")];
        let consumer: BaseConsumer = broker.client(&options).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let mut open = BTreeSet::new();
        for topic in topics {
            for partition in 0..PARTITIONS {
                list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
                open.insert(((*topic).to_owned(), partition));
            }
        }
        consumer.assign(&list).expect("assigned");
        Follower { consumer, open }
    }

    /// The next record, if one comes soon; partitions whose end is reached leave `open`.
    fn next(&mut self) -> Option<Found> {
        match self.consumer.poll(Duration::from_millis(100))? {
            Ok(message) => {
                let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned());
                let at = message.timestamp().to_millis().and_then(|at| Ms::try_from(at).ok()).expect("an append time");
                let value = message.payload().map(<[u8]>::to_vec);
                // A tombstone among the inputs is a record without a value; outputs have none.
                let value = value.unwrap_or_default();
                Some((message.topic().to_owned(), message.partition(), message.offset(), at, key, value))
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                let ended = self.open.iter().filter(|(_, of)| *of == partition).cloned().collect::<Vec<_>>();
                // The event names no topic: a partition is at its end when the position says so.
                for (topic, partition) in ended {
                    let position = self.consumer.position().ok();
                    let at = position.as_ref().and_then(|list| list.find_partition(&topic, partition).map(|p| p.offset()));
                    // A broker that has just come back does not know them yet; there will be another end.
                    let Ok((_, end)) = self.consumer.fetch_watermarks(&topic, partition, Duration::from_secs(5)) else { continue };
                    if at.is_none_or(|at| at == Offset::Offset(end)) || end == 0 {
                        self.open.remove(&(topic, partition));
                    }
                }
                None
            }
            Err(error) if passes(&error) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// All that comes until it is `enough`, and no more is there.
    fn follow(mut self, enough: &Arc<AtomicBool>) -> JoinHandle<Vec<Found>> {
        let enough = Arc::clone(enough);
        thread::spawn(move || {
            let mut seen = Vec::new();
            let mut quiet = Instant::now();
            while !enough.load(Ordering::Relaxed) || quiet.elapsed() < Duration::from_secs(2) {
                if let Some(record) = self.next() {
                    seen.push(record);
                    quiet = Instant::now();
                }
            }
            seen
        })
    }

    /// All there is.
    fn all(mut self) -> Vec<Found> {
        let mut found = Vec::new();
        let began = Instant::now();
        let mut quiet = Instant::now();
        // Markers of transactions stand behind the last record: quiet is the other sign of an end.
        while !self.open.is_empty() && quiet.elapsed() < Duration::from_secs(3) {
            if let Some(record) = self.next() {
                found.push(record);
                quiet = Instant::now();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the topics have an end");
        }
        found
    }
}

/// Places of rules: those that are not there, and those that backfill.
#[derive(Default)]
struct Changed {
    without: BTreeSet<usize>,
    backfill: BTreeSet<usize>,
}

impl Changed {
    /// Takes a rule away or puts it back; now and then tells one to backfill, or not to.
    fn change(&mut self, rng: &mut StdRng, rules: usize) {
        let (set, rule) = (if rng.random_bool(0.7) { &mut self.without } else { &mut self.backfill }, rng.random_range(0..rules));
        if !set.remove(&rule) {
            set.insert(rule);
        }
    }
}

/// The configuration with such rules.
fn configuration(broker: &Broker, folder: &Path, changed: &Changed, slack: &str, more: &str) -> PathBuf {
    let rules: Vec<&str> = oracle_model::RULES.split("- name: ").skip(1).collect();
    let mut text = format!(
        "kafka: {{brokers: '{}'}}\ntick: {TICK}ms\ntimes: {{max_lateness: 366d, idle_slack: {slack}}}\nstate: '{}'\nworkspaces:\n",
        broker.address(),
        folder.join("state.sqlite").display()
    );
    for (workspace, portals, counts) in [("one", "[1]", "all"), ("two", "[1, 2]", "ruled"), ("three", "[]", "ruled")] {
        text += &format!("  {workspace}:\n    portals: {portals}\n    counts: {counts}\n");
        if workspace == "two" {
            text += &format!("    field_mapping: {{utm_medium: {}}}\n", World::property(workspace, "medium"));
        }
        let mut items = String::new();
        for (n, rule) in rules.iter().enumerate().filter(|(n, _)| !changed.without.contains(n)) {
            let of = rule.lines().find_map(|line| line.trim().strip_prefix("workspace: "));
            if of.is_none_or(|of| of == workspace) {
                let lines = rule.lines().filter(|line| !line.trim().starts_with("workspace: ") && !line.trim().is_empty());
                let more = changed.backfill.contains(&n).then_some("backfill: true");
                let body: Vec<String> = lines.skip(1).chain(more).map(|line| format!("        {}", line.trim())).collect();
                items += &format!("      - name: '{}'\n{}\n", rule.lines().next().expect("a name").replace('\'', "''"), body.join("\n"));
            }
        }
        text += &if items.is_empty() { "    rules: []\n".to_owned() } else { format!("    rules:\n{items}") };
    }
    text += more;
    let path = folder.join("clickline.yaml");
    fs::write(&path, text).expect("writes");
    path
}

/// The frontier that was committed last; 0 before the first.
pub fn frontier(broker: &Broker) -> Ms {
    progress(broker).last().map_or(0, |(frontier, _)| *frontier)
}

/// What stands in a record of progress: the frontier, and since when each rule has been known.
type Progress = (Ms, BTreeMap<String, Ms>);

/// All progress that was committed, in its order.
fn progress(broker: &Broker) -> Vec<Progress> {
    let mut all = Vec::new();
    broker.read("clickline.progress", "read_committed", |message| {
        let progress: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("progress");
        let rules = serde_json::from_value(progress["rules"].clone()).expect("rules");
        all.push((progress["frontier"].as_u64().expect("a number"), rules));
    });
    all
}

/// Gives each record the log time at which the job took it: its append time, unless the clock had passed that, of which the job's own notes
/// tell. That all starts took it then is what the comparison shows.
fn taken(broker: &Broker, records: &mut [Found]) {
    let mut notes: BTreeMap<(String, i32), BTreeMap<i64, Ms>> = BTreeMap::new();
    broker.read("clickline.state", "read_committed", |message| {
        let Some(note) = message.payload().and_then(Reached::read) else { return };
        let topic = note.topic.topic(&Topics::default()).to_owned();
        notes.entry((topic, note.partition)).or_default().insert(note.offset, note.log_time);
    });
    let mut low: BTreeMap<(String, i32), Ms> = BTreeMap::new();
    records.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
    let mut late = 0;
    for (topic, partition, offset, at, ..) in records {
        let of = (topic.clone(), *partition);
        let noted = notes.get(&of).and_then(|notes| notes.range(..=*offset).next_back()).map_or(0, |(_, log_time)| *log_time);
        let low = low.entry(of).or_default();
        *low = noted.max(*at).max(*low);
        late += u32::from(*low > *at);
        *at = *low;
    }
    println!("{late} records came late");
}

/// The rules of the whole run as the oracle must know them. A start goes on at the frontier that was committed last, with the
/// rules that its own records of progress name.
fn terms(progress: &[Progress], log: &Log) -> Vec<Term> {
    let mut terms = Vec::new();
    for rule in rules::read(oracle_model::RULES).expect("rules") {
        let key = rule_key(rule.workspace.as_deref().unwrap_or("one"), &rule.meaning());
        let mut running: Option<Term> = None;
        let mut resumed = 0;
        for (frontier, known) in progress {
            let backfill = known.contains_key(&format!("{key}, backfills"));
            let now = Rule { backfill, ..rule.clone() };
            match (&mut running, known.contains_key(&key)) {
                (Some(term), true) if term.rule_at(resumed).is_some_and(|was| was.backfill != backfill) => {
                    term.versions.push((resumed, now))
                }
                (Some(_), true) | (None, false) => {}
                (Some(term), false) => {
                    term.until = resumed;
                    terms.extend(running.take());
                }
                (None, true) => {
                    let shown = if resumed > 0 { shown(&now, log, resumed) } else { Default::default() };
                    running = Some(Term { versions: vec![(resumed, now)], until: Ms::MAX, shown });
                }
            }
            resumed = *frontier;
        }
        terms.extend(running);
    }
    terms
}
