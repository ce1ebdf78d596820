//! The ClickHouse sink on a real ClickHouse and a real Apache Kafka: whatever is killed, frozen or cut, each click is one row, and the
//! totals are what a plain recount says.

#[path = "clickhouse/deltas.rs"]
mod deltas;
#[path = "clickhouse/disk.rs"]
mod disk;
#[path = "clickhouse/erased.rs"]
mod erased;
#[path = "clickhouse/export.rs"]
mod export;
#[path = "clickhouse/faults.rs"]
mod faults;
#[path = "clickhouse/scenario.rs"]
mod scenario;
mod support;

use clickline::cli::doctor::{Level, clickhouse::look};
use clickline::forget::How;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::outputs::Topic;
use clickline::model::time::now;
use clickline::sinks::clickhouse::{Of, Settings, Sink, Standing, Stats, TABLES, addresses, forget, migrate, standing};
use clickline::status::Status;
use deltas::{assert_equal, committed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::clickhouse::ClickHouse;
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;
use support::proxy::Proxy;
use support::recount::differences;

/// Days of the clicks: this month's and others', so that a batch is several parts.
const AGES: [u64; 3] = [0, 40, 100];

/// A click; everything about it follows from its number.
fn click(n: usize) -> String {
    let ts = now() / 86_400_000 * 86_400_000 - AGES[n % 3] * 86_400_000 + n as u64;
    let tags = [json!(["x", "x", "it's"]), json!([]), json!(["y'); DROP TABLE c.clicks --"])][n % 3].clone();
    let bot = n.is_multiple_of(7).then_some("crawler");
    json!({"id": format!("c{n}"), "ts": ts, "workspace": "w", "link": format!("d/{}", n % 5), "tags": tags, "bot": bot,
        "utm": {"campaign": format!("k{}", n % 2)}, "contact_id": (n % 4).to_string()})
    .to_string()
}

/// Puts records on a topic.
fn put(broker: &Broker, topic: &str, records: impl IntoIterator<Item = String>) {
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[("linger.ms", "5")]).create().expect("a producer");
    for record in records {
        producer.send(BaseRecord::<(), _>::to(topic).payload(&record)).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
}

/// Puts clicks on a topic; every third one twice.
fn produce(broker: &Broker, topic: &str, numbers: std::ops::Range<usize>) {
    put(broker, topic, numbers.flat_map(|n| std::iter::repeat_n(click(n), if n % 3 == 0 { 2 } else { 1 })));
}

/// Ids that the topic holds.
fn ids(broker: &Broker) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    broker.read("clicks", "read_uncommitted", |message| {
        if let Ok(record) = serde_json::from_slice::<serde_json::Value>(message.payload().unwrap_or_default()) {
            *found.entry(record["id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    });
    found
}

/// Each of these ids is one row, and the totals are those of a recount.
fn assert_exact(server: &ClickHouse, ids: usize) {
    let found = server.ask("SELECT count(), uniqExact(id), (SELECT sum(clicks + bots) FROM c.clicks_by_day) FROM c.clicks");
    assert_eq!(found, format!("{ids}\t{ids}\t{ids}"), "each click is one row, without FINAL, and counted once");
    assert_eq!(differences(server), "");
}

fn wait_for_rows(server: &ClickHouse, count: usize) {
    wait_for(&format!("{count} rows"), || {
        let found = server.try_ask("SELECT uniqExact(id) FROM c.clicks")?;
        (found.parse::<usize>().ok()? >= count).then_some(())
    });
}

fn clicks(sink: &Sink) -> Stats {
    sink.stats().first().expect("clicks are always written").1
}

fn config(folder: &Path, broker: &Broker, address: &str, http: &str) -> std::path::PathBuf {
    let path = folder.join("clickline.yaml");
    let text = format!(
        "kafka: {{brokers: '{}'}}\nclickhouse: {{url: 'http://{address}', database: c, batch_rows: 100, batch_wait: 50ms, deadline: 2s, \
         deltas: [hubspot.timeline, hubspot.contact-properties]}}\n\
         http: {{listen: '{http}'}}\nworkspaces: {{w: {{portals: ['1']}}}}\n",
        broker.address()
    );
    fs::write(&path, text).expect("writes");
    path
}

/// What the job's own server answers, if it is 200.
fn get(address: &str, path: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = clickline::http::local_client(Duration::from_secs(10)).expect("a client");
    runtime.block_on(async {
        let answer = client.get(format!("http://{address}{path}")).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.text().await.ok()
    })
}

/// What the doctor says of each thing: how it stands, and in which words.
fn doctor(settings: &Settings) -> BTreeMap<String, (Level, String)> {
    look(settings).into_iter().map(|finding| (finding.what, (finding.level, finding.says))).collect()
}

#[test]
fn each_click_is_one_row_whatever_is_killed_frozen_or_cut() {
    let (Some(broker), Some(mut server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    broker.create_topic("clicks", 3, &[]);
    let seed = std::env::var("CLICKLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("CLICKLINE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let [through, http] = free_addresses();
    let proxy = Proxy::start(&through, server.address());
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &broker, &through, &http);
    let log = folder.path().join("log");
    let out = || File::options().create(true).append(true).open(&log).expect("a log");
    let run = |place: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--config"]).arg(&config).stdin(Stdio::null()).stdout(out()).stderr(out());
        command.env("CLICKLINE_FAILPOINT", place);
        command.spawn().expect("starts")
    };
    // A server that answers nothing keeps nobody waiting but the sink.
    server.signal("STOP");
    let mut made = 100;
    produce(&broker, "clicks", 0..made);
    let mut job = run("");
    let persons = (0..made).filter(|n| !n.is_multiple_of(7)).count();
    wait_for("each click's event", || (committed(&broker, Topic::Timeline).len() == persons).then_some(()));
    assert_eq!(get(&http, "/readyz").as_deref(), Some("ready\n"), "what can't be written to ClickHouse waits in its topic");
    wait_for("/status to say so", || {
        let status: Status = serde_json::from_str(&get(&http, "/status")?).expect("a status");
        let of = status.sinks.clickhouse.iter().find(|of| of.topic == "clicks").expect("clicks are always written");
        (of.trouble.as_ref()?.class == "transient" && of.rows == 0).then_some(())
    });
    job.kill().expect("our own child");
    job.wait().expect("our own child");
    server.signal("CONT");
    let places = ["clickhouse.recorded@1", "clickhouse.inserted@1", "clickhouse.recorded@3", "clickhouse.inserted@4", "", "", ""];
    for (round, place) in places.iter().enumerate() {
        produce(&broker, "clicks", made..made + 700);
        made += 700;
        let mut job = run(place);
        match round {
            // It kills itself.
            0..4 => {
                wait_for("the job to come to its end", || job.try_wait().expect("our own child"));
            }
            // The server dies, freezes, or loses its connections in the middle of whatever it does.
            _ => {
                let before: usize = server.ask("SELECT count() FROM c.clicks").parse().expect("a number");
                wait_for_rows(&server, before + 1);
                for _ in 0..4 {
                    match rng.random_range(0..3) {
                        0 => {
                            server.kill();
                            server.restart();
                        }
                        1 => {
                            server.signal("STOP");
                            std::thread::sleep(Duration::from_millis(rng.random_range(50..2_500)));
                            server.signal("CONT");
                        }
                        _ => proxy.reset(),
                    }
                }
                job.kill().expect("our own child");
                job.wait().expect("our own child");
            }
        }
    }
    // The whole rest, and then once more from where the last one was killed.
    for _ in 0..2 {
        let sink = Sink::start(ClickHouse::settings(&through, ""), &Kafka::at(broker.address()), &Metrics::default()).expect("starts");
        wait_for_rows(&server, made);
        wait_for("the last batch to be acknowledged", || (clicks(&sink).batches > 0 || clicks(&sink).known > 0).then_some(()));
        sink.stop();
    }
    let settings = ClickHouse::settings(&through, ", deltas: [hubspot.timeline, hubspot.contact-properties]");
    let sink = Sink::start(settings, &Kafka::at(broker.address()), &Metrics::default()).expect("starts");
    for topic in [Topic::Timeline, Topic::ContactProperties] {
        let all = committed(&broker, topic).len().to_string();
        let found = format!("SELECT uniqExact(id) FROM c.deltas WHERE topic = '{}'", topic.default_name());
        wait_for("all deltas", || (server.try_ask(&found)? == all).then_some(()));
    }
    sink.stop();
    for topic in [Topic::Timeline, Topic::ContactProperties] {
        assert_equal(&broker, &server, topic);
    }
    let held = ids(&broker);
    assert!(held.len() == made && held.values().any(|times| *times == 2), "the topic holds some of {made} twice");
    assert_exact(&server, made);
    // Without its own records of progress it reads all again, and nothing changes.
    server.ask("TRUNCATE TABLE c.batches");
    let sink = Sink::start(ClickHouse::settings(&through, ""), &Kafka::at(broker.address()), &Metrics::default()).expect("starts");
    wait_for("everything to be known", || (clicks(&sink).known as usize == held.values().sum::<usize>()).then_some(()));
    sink.stop();
    assert_exact(&server, made);
}

#[test]
fn tables_are_made_once_and_a_person_is_erased() {
    let Some(server) = ClickHouse::start_if_there() else { return };
    let (service, settings) = (server.service(), ClickHouse::settings(server.address(), ""));
    let says = |settings: &Settings, what: &str, level: Level, part: &str| {
        let found = doctor(settings);
        assert!(found.get(what).is_some_and(|(of, says)| *of == level && says.contains(part)), "{what}, {part}: {found:?}");
    };
    says(&settings, "clickhouse", Level::Ok, "answers, version 26.7");
    says(&settings, "clickhouse clock", Level::Ok, "within");
    says(&settings, "clickhouse rights", Level::Ok, "may do all");
    says(&settings, "clickhouse tables", Level::Warning, "the next start of the job makes them");
    says(&Settings { migrate: false, ..settings.clone() }, "clickhouse tables", Level::Failed, "clickhouse migrate");
    says(&Settings { user: "nobody".to_owned(), ..settings.clone() }, "clickhouse", Level::Failed, "code 516");
    let [nowhere] = free_addresses();
    says(&ClickHouse::settings(&nowhere, ""), "clickhouse", Level::Failed, "is reachable from here");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        assert_eq!(standing(&service).await.expect("answers").has, 0);
        // Several at once, as processes that start together.
        let (a, b, c) = tokio::join!(migrate(&service, &settings), migrate(&service, &settings), migrate(&service, &settings));
        for made in [a, b, c] {
            made.expect("migrates");
        }
        let Standing { has, needs } = standing(&service).await.expect("answers");
        assert_eq!(has, needs);
        let tables = service.query("SELECT name FROM system.tables WHERE database = 'c'", &[]).await.expect("answers");
        let tables = String::from_utf8(tables).expect("text");
        assert_eq!(tables.lines().collect::<BTreeSet<_>>(), TABLES.into_iter().collect());
        let nasty = r"o'b\n\";
        let row = |id: &str, contact: &str| json!({"workspace": "w", "id": id, "ts": "2026-01-01T00:00:00Z", "contact_id": contact, "link": "l"});
        let delta = |id: &str, email: &str, click: &str| {
            json!({"topic": "hubspot.timeline", "portal": "1", "id": id, "at": "2026-01-01T00:00:00Z", "email": email, "click_id": click})
        };
        let clicks = format!("{}\n{}\n{}\n", row("a", nasty), row("b", "2"), row("c", ""));
        let mut other = delta("f", "ada@example.com", "b");
        other["portal"] = json!("2");
        let deltas = format!("{}\n{}\n{other}\n", delta("d", "ada@example.com", "c"), delta("e", "bob@example.com", "b"));
        // Kept for as long as the clock of this machine allows.
        for table in ["clicks", "deltas"] {
            service.query(&format!("ALTER TABLE {table} REMOVE TTL"), &[]).await.expect("no TTL");
        }
        service.insert("clicks", "one", clicks.into_bytes()).await.expect("inserts");
        service.insert("deltas", "two", deltas.into_bytes()).await.expect("inserts");
        let mut known = addresses(&service, "1").await.expect("searches");
        known.sort();
        assert_eq!(known, ["ada@example.com", "bob@example.com"]);
        let of = |workspace: &str| Of { portal: "1", workspaces: vec![workspace.to_owned()] };
        let nobody = forget(&service, &of("w"), &["x' OR 1=1 --".to_owned()], &[], How::Remove).await.expect("searches");
        assert_eq!((nobody.clicks, nobody.deltas), (0, 0));
        let ada = ([nasty.to_owned()], [" Ada@Example.com ".to_owned()]);
        let elsewhere = forget(&service, &of("other"), &ada.0, &[], How::Remove).await.expect("searches");
        assert_eq!((elsewhere.clicks, elsewhere.deltas), (0, 0), "another workspace's clicks");
        for (how, found) in [(How::Look, (2, 1)), (How::Remove, (2, 1)), (How::Remove, (0, 0))] {
            let gone = forget(&service, &of("w"), &ada.0, &ada.1, how).await.expect("erases");
            assert_eq!((gone.clicks, gone.deltas), found, "{how:?}");
        }
    });
    assert_eq!(server.ask("SELECT id FROM c.clicks"), "b");
    assert_eq!(server.ask("SELECT groupArray(id) FROM (SELECT id FROM c.deltas ORDER BY id)"), "['e','f']", "f is another account's");
    assert_eq!(server.ask("SELECT sum(clicks) FROM c.clicks_by_day"), "3", "totals name nobody and stay");
    assert!(doctor(&settings).values().all(|(level, _)| *level == Level::Ok), "{:?}", doctor(&settings));
    server.ask("RENAME TABLE c.batches TO c.away");
    says(&settings, "clickhouse tables", Level::Failed, "batches is gone");
    server.ask("RENAME TABLE c.away TO c.batches");
    server.ask("INSERT INTO c.migrations (version) SELECT max(version) + 1 FROM c.migrations");
    says(&settings, "clickhouse tables", Level::Failed, "run the newer clickline");
}
