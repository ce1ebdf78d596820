//! The ClickHouse sink on a real ClickHouse and a real Apache Kafka: whatever is killed, frozen or cut, each click is one row, and the
//! totals are what a plain recount says.

mod support;

use clickline::forget::How;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::time::now;
use clickline::sinks::clickhouse::{Of, Sink, Standing, Stats, addresses, forget, migrate, standing};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::clickhouse::ClickHouse;
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;
use support::proxy::Proxy;

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

/// Puts clicks on their topic; every third one twice.
fn produce(broker: &Broker, numbers: std::ops::Range<usize>) {
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[("linger.ms", "5")]).create().expect("a producer");
    for n in numbers {
        for _ in 0..if n % 3 == 0 { 2 } else { 1 } {
            producer.send(BaseRecord::<(), _>::to("clicks").payload(&click(n))).map_err(|(error, _)| error).expect("queued");
        }
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
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
    let found = server.ask("SELECT count(), uniqExact(id) FROM c.clicks");
    assert_eq!(found, format!("{ids}\t{ids}"), "each click is one row, without FINAL");
    let recounts = [
        ("clicks_by_link", "link", "link"),
        ("clicks_by_tag", "tag", "arrayJoin(arrayDistinct(tags))"),
        ("clicks_by_campaign", "campaign", "utm_campaign"),
        ("clicks_by_day", "''", "''"),
    ];
    for (table, column, of) in recounts {
        let kept = server.ask(&format!("SELECT {column} AS k, day, sum(clicks), sum(bots) FROM c.{table} GROUP BY k, day ORDER BY k, day"));
        let recount = server.ask(&format!(
            "SELECT {of} AS k, toDate(ts) AS day, countIf(bot = ''), countIf(bot != '') FROM c.clicks GROUP BY k, day ORDER BY k, day"
        ));
        assert!(!recount.is_empty());
        assert_eq!(kept, recount, "{table}");
    }
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

fn config(folder: &Path, broker: &Broker, address: &str) -> std::path::PathBuf {
    let path = folder.join("clickline.yaml");
    let text = format!(
        "kafka: {{brokers: '{}'}}\nclickhouse: {{url: 'http://{address}', database: c, batch_rows: 100, batch_wait: 50ms, deadline: 2s}}\n\
         workspaces: {{w: {{portals: ['1']}}}}\n",
        broker.address()
    );
    fs::write(&path, text).expect("writes");
    path
}

#[test]
fn each_click_is_one_row_whatever_is_killed_frozen_or_cut() {
    let (Some(broker), Some(mut server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    broker.create_topic("clicks", 3, &[]);
    let seed = std::env::var("CLICKLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("CLICKLINE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let [through] = free_addresses();
    let proxy = Proxy::start(&through, server.address());
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &broker, &through);
    let log = folder.path().join("log");
    let mut made = 0;
    let places = ["clickhouse.recorded@1", "clickhouse.inserted@1", "clickhouse.recorded@3", "clickhouse.inserted@4", "", "", ""];
    for (round, place) in places.iter().enumerate() {
        produce(&broker, made..made + 700);
        made += 700;
        let out = || File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--config"]).arg(&config).stdin(Stdio::null()).stdout(out()).stderr(out());
        command.env("CLICKLINE_FAILPOINT", place);
        let mut job = command.spawn().expect("starts");
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
}
