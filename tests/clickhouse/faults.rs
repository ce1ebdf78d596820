//! What ClickHouse refuses, loses, delays or breaks off, one after the other on one real server.
//!
//! Each scenario (`tests/scenarios/clickhouse`) brings a fault about, puts clicks on their topic, waits until the sink has said what it found, and mends it; so do
//! the tests here that no script can play. Then the tables are held to a recount: one row a click, nothing lost, nothing counted twice.

use super::scenario::{self, Scenario, Scripted};
use super::{assert_exact, clicks, differences, produce, put, wait_for_rows};
use crate::support::clickhouse::ClickHouse;
use crate::support::http_faults::{Fault, HttpFaults};
use crate::support::kafka::Broker;
use crate::support::ports::free_addresses;
use crate::support::process::wait_for;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::outputs::DeadLetter;
use clickline::model::time::now;
use clickline::sinks::clickhouse::{Class, Failure, Service, Settings, Sink, Stats};
use rdkafka::Message as _;
use serde_json::json;
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Named so that lines of the log are known to be of this test.
const TOPIC: &str = "faults";
/// Clicks of one case.
const CLICKS: usize = 30;

/// The log of this process.
static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The first line of this test's sink from byte `from` on that holds all of these words.
pub fn said(from: usize, words: &[impl AsRef<str>]) -> Option<String> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&log[from..]).into_owned();
    text.lines().find(|line| line.contains(TOPIC) && words.iter().all(|word| line.contains(word.as_ref()))).map(str::to_owned)
}

pub fn log_length() -> usize {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// The parts of this test, and how many clicks were put on the topic.
struct World {
    broker: Broker,
    server: ClickHouse,
    proxy: HttpFaults,
    through: String,
    kafka: Kafka,
    made: usize,
}

/// Requests of every kind.
const ANY: &str = "POST ";

fn settings(through: &str, more: &str) -> Settings {
    let text = format!("{{url: 'http://{through}', database: c, batch_wait: 100ms, deadline: 1s{more}}}");
    serde_saphyr::from_str(&text).expect("settings")
}

fn count(stats: &Stats, class: &str) -> u64 {
    match class {
        "transient" => stats.transient,
        "rows" => stats.of_rows,
        "setup" => stats.setup,
        other => panic!("the sink does not count {other}"),
    }
}

impl World {
    fn produce(&mut self) {
        self.produce_some(CLICKS);
    }

    fn produce_some(&mut self, count: usize) {
        produce(&self.broker, TOPIC, self.made..self.made + count);
        self.made += count;
    }

    fn sink(&self) -> Sink {
        Sink::start(settings(&self.through, ""), &self.kafka, &Metrics::default()).expect("starts")
    }

    /// Nothing is missing, nothing is there twice.
    fn assert_exact(&self, sink: &Sink, name: &str) {
        println!("{name}: mended");
        wait_for_rows(&self.server, self.made);
        // Totals come right behind their rows.
        wait_for("the batch to be acknowledged", || (clicks(sink).oldest_at == 0 && differences(&self.server).is_empty()).then_some(()));
        assert_exact(&self.server, self.made);
    }

    fn play(&mut self, sink: &Sink, name: &str, scenario: &Scenario) {
        println!("{name}: {}", scenario.about);
        let rows = |server: &ClickHouse| server.ask("SELECT count() FROM c.clicks").parse::<usize>().expect("a number");
        let (from, had, before) = (log_length(), rows(&self.server), clicks(sink));
        if let Some(Scripted { requests, fault }) = scenario.faults.first() {
            self.proxy.set(&requests.head, fault.clone());
        }
        for step in &scenario.steps {
            for (class, least) in &step.once {
                wait_for(&format!("{class}: {least}"), || (count(&clicks(sink), class) >= count(&before, class) + least).then_some(()));
            }
            if !step.says.is_empty() {
                let line = wait_for(&format!("the sink to say `{}`", step.says.join(" … ")), || said(from, &step.says));
                println!("{line}");
            }
            if step.clear_faults {
                assert!(self.proxy.hits() >= 2, "{name}: the fault has struck, and struck again");
                self.proxy.lift();
            }
            step.sql.iter().for_each(|sql| drop(self.server.ask(sql)));
            self.produce_some(step.clicks);
        }
        self.assert_exact(sink, name);
        assert_eq!(rows(&self.server) - had, scenario.expect.rows, "{name}: rows that came of it");
    }

    /// A server that takes longer than the deadline: it goes on with what nobody waits for any more, beside what is sent again.
    fn slow(&mut self, sink: &Sink) {
        let before = clicks(sink).transient;
        self.server.ask("CREATE MATERIALIZED VIEW c.slow ENGINE = Memory AS SELECT sleep(1.5) AS x FROM c.clicks");
        self.produce();
        wait_for("two deadlines to pass", || (clicks(sink).transient >= before + 2).then_some(()));
        self.server.ask("DROP VIEW c.slow");
        self.assert_exact(sink, "slower than the deadline");
    }

    /// It dies while it works on a batch.
    fn dies(&mut self, sink: &Sink) {
        let from = log_length();
        self.server.ask("CREATE MATERIALIZED VIEW c.slow ENGINE = Memory AS SELECT sleep(0.7) AS x FROM c.clicks");
        self.produce();
        wait_for("it to be at work", || {
            let at_work = self.server.ask("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO clicks%'");
            (at_work != "0").then_some(())
        });
        self.server.kill();
        wait_for("the sink to notice", || said(from, &["ClickHouse does not answer"]));
        self.server.restart();
        self.server.ask("DROP VIEW c.slow");
        self.assert_exact(sink, "killed within a batch");
    }

    /// Rows that the table can't take are dead letters, and all others are rows.
    fn poison(&mut self, sink: &Sink) {
        self.server.ask("ALTER TABLE c.clicks ADD CONSTRAINT theirs CHECK link != 'poison'");
        self.server.ask("ALTER TABLE c.clicks RENAME COLUMN utm_term TO away");
        self.server.ask("ALTER TABLE c.clicks ADD COLUMN utm_term UInt32");
        let refused = clicks(sink).refused;
        let poison = |id: &str, link: &str, term: &str| {
            json!({"id": id, "ts": now(), "workspace": "w", "link": link, "utm": {"term": term}}).to_string()
        };
        let (made, half) = (self.made, self.made + CLICKS / 2);
        produce(&self.broker, TOPIC, made..half);
        put(&self.broker, TOPIC, [poison("poison1", "poison", ""), poison("poison2", "d/1", "no number"), poison("poison3", "d/1", "-")]);
        produce(&self.broker, TOPIC, half..made + CLICKS);
        self.made += CLICKS;
        wait_for("all three to be dead letters", || (clicks(sink).refused == refused + 3).then_some(()));
        self.assert_exact(sink, "rows that can't be taken");
        let mut letters: Vec<DeadLetter> = Vec::new();
        self.broker.read("dead-letters", "read_committed", |message| {
            letters.push(serde_json::from_slice(message.payload().unwrap_or_default()).expect("a dead letter"));
        });
        let mut codes: Vec<&str> = letters.iter().map(|letter| letter.detail.as_str()).collect();
        codes.sort_unstable();
        let codes: Vec<bool> =
            codes.iter().zip(["code 27", "code 469", "code 72"]).map(|(detail, code)| detail.contains(&format!("{code}:"))).collect();
        assert_eq!(codes, [true; 3], "{letters:?}");
        for letter in &letters {
            assert_eq!((letter.reason.as_str(), letter.source.as_str()), ("clickhouse", TOPIC));
            let mut there = None;
            self.broker.read(TOPIC, "read_uncommitted", |message| {
                if (message.partition(), message.offset()) == (letter.partition, letter.offset) {
                    there = message.payload().map(<[u8]>::to_vec);
                }
            });
            let text = String::from_utf8(there.expect("the record it names")).expect("text");
            assert!(text.contains("poison"), "the letter names the record that is to blame");
        }
        self.server.ask("ALTER TABLE c.clicks DROP CONSTRAINT theirs");
        self.server.ask("ALTER TABLE c.clicks DROP COLUMN utm_term");
        self.server.ask("ALTER TABLE c.clicks RENAME COLUMN away TO utm_term");
    }

    /// Somebody has changed the table, and everything goes in all the same.
    fn drifts(&mut self, sink: &Sink) {
        let before = clicks(sink).setup;
        self.server.ask("ALTER TABLE c.clicks ADD COLUMN theirs UInt32 DEFAULT 7 FIRST, MODIFY COLUMN title LowCardinality(String)");
        self.produce();
        self.assert_exact(sink, "a column more, and another type that takes the same");
        assert_eq!(self.server.ask(&format!("SELECT count() FROM c.clicks WHERE theirs = 7 AND id = 'c{}'", self.made - 1)), "1");
        self.server.ask("ALTER TABLE c.clicks DROP COLUMN theirs, MODIFY COLUMN title String");
        self.produce();
        self.assert_exact(sink, "the column is gone again");
        assert_eq!(clicks(sink).setup, before, "nobody must act");
    }

    /// What is older than the table keeps is gone as soon as it is in, or with the next merge; totals count it, and it holds nobody up.
    fn forgets(&mut self, more: usize) {
        self.server.ask("ALTER TABLE c.clicks MODIFY TTL toDateTime(ts) + INTERVAL 60 DAY SETTINGS materialize_ttl_after_modify = 0");
        let sink = self.sink();
        self.produce();
        // Of each three clicks one is 100 days old.
        let (all, young) = ((self.made + more).to_string(), self.made * 2 / 3 + more);
        wait_for("the totals", || (self.server.ask("SELECT sum(clicks + bots) FROM c.clicks_by_day") == all).then_some(()));
        wait_for("the batch to be acknowledged", || (clicks(&sink).oldest_at == 0).then_some(()));
        let kept = self.server.ask("SELECT count(), uniqExact(id) FROM c.clicks WHERE ts > now() - INTERVAL 60 DAY");
        assert_eq!(kept, format!("{young}\t{young}"));
        let old = format!("SELECT count() FROM c.clicks WHERE id IN ('c{}', 'c{}')", self.made - 1, self.made - 4);
        assert_eq!(self.server.ask(&old), "0", "numbers that leave 2 are old");
        sink.stop();
    }

    /// What the requests' own settings must see to, whatever the server's defaults are.
    fn settings_hold(&self) {
        let (runtime, service) =
            (tokio::runtime::Runtime::new().expect("a runtime"), Service::new(&ClickHouse::settings(&self.through, "")).expect("a client"));
        let ask = |sql: &str| runtime.block_on(service.query(sql, &[]));
        assert_eq!(self.server.ask("SELECT getSetting('async_insert')"), "true", "26.7 inserts later, unless it is told not to");
        assert_eq!(ask("SELECT getSetting('async_insert')").expect("answers"), b"false\n");
        // More than the server keeps back, also when it is packed.
        let late = "SELECT throwIf(number = 150000), hex(sipHash128(number)) FROM numbers(1000000) \
                    SETTINGS max_threads = 1, max_block_size = 1000, output_format_parallel_formatting = 0 FORMAT TSV";
        assert!(matches!(ask(late), Err(Failure::Refused { code: 395, .. })), "an answer is whole before it begins");
        // A proxy between us may see to it that it is not.
        self.proxy.set(ANY, Fault::Instead { of: "wait_end_of_query=1".into(), by: "wait_end_of_query=0".into() });
        let failure = ask(late).expect_err("there is an exception behind the rows");
        self.proxy.lift();
        assert!(matches!(&failure, Failure::Unanswered(_)), "{failure:?}");
        assert_eq!(failure.class(), Class::Transient);
        // The server ends its body with the exception, or breaks it off there; a deadline that had passed would say so.
        let why = format!("{:#}", anyhow::Error::from(failure));
        assert!((why.contains("broke off") || why.contains("had begun")) && !why.contains("timed out"), "{why}");
    }
}

#[test]
fn whatever_clickhouse_refuses_or_loses_each_click_is_one_row() {
    let (Some(broker), Some(server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    // The only test of this process that installs a subscriber.
    let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(|| Log);
    tracing::subscriber::set_global_default(lines.finish()).expect("no other subscriber");
    broker.create_topic(TOPIC, 3, &[]);
    broker.create_topic("dead-letters", 1, &[]);
    let [through] = free_addresses();
    let proxy = HttpFaults::start(&through, server.address());
    let mut kafka = Kafka::at(broker.address());
    kafka.topics.clicks = TOPIC.to_owned();
    let mut world = World { broker, server, proxy, through, kafka, made: 0 };
    // It is not there at the start, and then without its tables.
    world.server.kill();
    let from = log_length();
    world.produce();
    let sink = world.sink();
    wait_for("the sink to miss it", || (clicks(&sink).transient > 0).then_some(()));
    world.server.restart();
    world.assert_exact(&sink, "not there at the start");
    assert!(said(from, &["its tables can't be made: ClickHouse does not answer"]).is_some());
    let scenarios = scenario::all();
    assert!(scenarios.len() >= 18, "{} scenarios", scenarios.len());
    for (name, scenario) in &scenarios {
        world.play(&sink, name, scenario);
    }
    world.slow(&sink);
    world.dies(&sink);
    world.poison(&sink);
    world.drifts(&sink);
    world.settings_hold();
    let rows = clicks(&sink).rows;
    assert!(rows as usize >= world.made, "{rows}");
    sink.stop();
    // All of it again: nothing is new but the three rows that nothing refuses any more.
    world.server.ask("TRUNCATE TABLE c.batches");
    let sink = world.sink();
    wait_for("everything to be known", || (clicks(&sink).known as usize >= world.made).then_some(()));
    wait_for_rows(&world.server, world.made + 3);
    wait_for("their totals", || differences(&world.server).is_empty().then_some(()));
    sink.stop();
    assert_exact(&world.server, world.made + 3);
    world.forgets(3);
    super::disk::is_full(&world.broker);
}
