//! `clickline forget` as people type it, where ClickHouse has rows of the person.

use crate::support::clickhouse::ClickHouse;
use crate::support::kafka::Broker;
use clickline::model::time::{now, rfc3339};
use clickline::sinks::clickhouse::migrate;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Two clicks and a delta of contact 801, of which one click is known by the delta alone, and a click and a delta of contact 802.
fn fill(server: &ClickHouse) {
    let (service, settings) = (server.service(), ClickHouse::settings(server.address(), ""));
    let at = rfc3339(now());
    let click = |id: &str, contact: &str| json!({"workspace": "w", "id": id, "ts": at, "contact_id": contact, "link": "l"}).to_string();
    let delta = |id: &str, contact: &str, click: &str| {
        json!({"topic": "hubspot.timeline", "portal": "1", "id": id, "at": at, "contact_id": contact, "click_id": click}).to_string()
    };
    let clicks = [click("a", "801"), click("b", "802"), click("c", "")].join("\n");
    let deltas = [delta("d", "801", "c"), delta("e", "802", "b")].join("\n");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        migrate(&service, &settings).await.expect("migrates");
        service.insert("clicks", "one", clicks.into_bytes()).await.expect("inserts");
        service.insert("deltas", "two", deltas.into_bytes()).await.expect("inserts");
    });
}

/// The ids of the clicks and of the deltas that are there.
fn there(server: &ClickHouse) -> [String; 2] {
    ["clicks", "deltas"].map(|table| server.ask(&format!("SELECT groupArray(id) FROM (SELECT id FROM c.{table} ORDER BY id)")))
}

/// Has contact 801 forgotten: the exit code, what was told, and what was complained of.
fn forget(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    let output = command.args(["forget", "--contact", "801", "--config"]).arg(config).args(more).output().expect("starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What a run that succeeds says of ClickHouse, for tools.
fn rows(config: &Path, more: &[&str]) -> Value {
    let (code, told, errors) = forget(config, &[&["--format", "json"], more].concat());
    assert_eq!(code, Some(0), "{told}\n{errors}");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    told["accounts"][0]["clickhouse"].clone()
}

#[test]
fn the_command_removes_a_contacts_rows_and_says_how_many() {
    let (Some(broker), Some(mut server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("clickline.yaml");
    let text = format!(
        "kafka: {{brokers: '{}'}}\nclickhouse: {{url: 'http://{}', database: c, deadline: 5s}}\nworkspaces: {{w: {{portals: ['1']}}}}\n",
        broker.address(),
        server.address()
    );
    fs::write(&config, text).expect("writes");
    fill(&server);

    assert_eq!(rows(&config, &["--check"]), json!({"clicks": 2, "deltas": 1}));
    assert_eq!(there(&server), ["['a','b','c']", "['d','e']"], "it was only looked");

    let (code, told, errors) = forget(&config, &[]);
    assert_eq!(code, Some(0), "{told}\n{errors}");
    let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("gone ") && words.contains("ClickHouse: clicks 2") && words.contains("ClickHouse: deltas 1"), "{told}");
    assert_eq!(there(&server), ["['b']", "['e']"], "and nobody else's");

    assert_eq!(rows(&config, &[]), json!({"clicks": 0, "deltas": 0}));
    assert_eq!(there(&server), ["['b']", "['e']"]);

    server.kill();
    let (code, told, errors) = forget(&config, &[]);
    assert_eq!(code, Some(1), "{told}\n{errors}");
    assert!(told.contains("FAILED: ClickHouse: ClickHouse's table deltas can't be searched"), "{told}");
    assert!(errors.contains("not gone through, run it again: ClickHouse: "), "{errors}");
}
