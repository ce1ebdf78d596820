//! Exported files as another implementation reads them: ClickHouse's own Parquet reader, against what the sink wrote from the same topics.

use super::{click, deltas, produce, put, wait_for_rows};
use crate::support::clickhouse::ClickHouse;
use crate::support::kafka::Broker;
use crate::support::process::wait_for;
use clickline::export::{Kind, Value, Writer};
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::outputs::Topic;
use clickline::model::time::{now, rfc3339};
use clickline::sinks::clickhouse::Sink;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs `clickline export`; what it said.
fn export(config: &Path, out: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    let ended = command.args(["export", "--config"]).arg(config).arg("--out").arg(out).args(more).output().expect("starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("text")
}

/// Names and bytes of a topic's files.
fn files(out: &Path, topic: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(out.join(topic)).expect("a folder of the topic").map(|entry| entry.expect("an entry"));
    entries.map(|entry| (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("reads"))).collect()
}

/// Columns and types of a table or file, in their order; ClickHouse's way of keeping few values apart is no other type.
fn described(server: &ClickHouse, what: &str) -> Vec<String> {
    let lines = server.ask(&format!("DESCRIBE {what} FORMAT TSVRaw"));
    let column = |line: &str| {
        let mut parts = line.split('\t');
        let (name, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{name} {}", kind.replace("LowCardinality(String)", "String"))
    };
    lines.lines().map(column).filter(|column| !column.starts_with("batch ")).collect()
}

/// Deletes all records of a topic so far.
fn delete_records(broker: &Broker, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = broker.client(&[]).create().expect("an admin client");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::End).expect("an offset");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.delete_records(&list, &AdminOptions::new())).expect("deleted");
}

#[test]
fn exported_files_hold_what_clickhouse_holds() {
    let (Some(broker), Some(server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let events = deltas::deltas(folder.path()).swap_remove(0).1;
    let timeline = Topic::Timeline.default_name();
    broker.create_topic("clicks", 3, &[]);
    broker.create_topic(timeline, 2, &[]);
    let made = 600;
    produce(&broker, "clicks", 0..made);
    put(&broker, "clicks", ["no click".to_owned()]);
    deltas::commit(&broker, &[(Topic::Timeline, events.clone())], &mut rand::SeedableRng::seed_from_u64(3));
    let settings = ClickHouse::settings(server.address(), ", deltas: [hubspot.timeline]");
    let sink = Sink::start(settings, &Kafka::at(broker.address()), &Metrics::default()).expect("starts");
    wait_for_rows(&server, made);
    let rows = |sql: &str| server.try_ask(sql).and_then(|rows| rows.parse::<usize>().ok());
    wait_for("all events", || (rows("SELECT count() FROM c.deltas")? == events.len()).then_some(()));
    sink.stop();

    let config = folder.path().join("clickline.yaml");
    fs::write(&config, format!("kafka: {{brokers: '{}'}}\nworkspaces: {{w: {{portals: ['1']}}}}\n", broker.address())).expect("writes");
    let out = folder.path().join("parquet");
    let today = rfc3339(now())[..10].to_owned();
    let all = ["--deltas", timeline, "--to", &today];
    let said = export(&config, &out, &all);
    assert!(said.contains("3 days, 800 records, 200 of them delivered before, 1 lines or records that are none"), "{said}");
    let of = |topic: &str| format!("file('{}', Parquet)", out.join(topic).join("*.parquet").display());
    for (topic, table, order) in [("clicks", "c.clicks", "id"), (timeline, "c.deltas", "portal, id")] {
        assert_eq!(described(&server, &of(topic)), described(&server, table), "{topic}: columns and types");
        // Which of two deliveries is the first one is not the same for both.
        let values = |from: &str| {
            server.ask(&format!("SELECT * EXCEPT (kafka_partition, kafka_offset) FROM {from} ORDER BY {order} FORMAT JSONEachRow"))
        };
        let found = values(&of(topic));
        assert!(!found.is_empty());
        assert!(found == values(&format!("(SELECT * EXCEPT (batch) FROM {table})")), "{topic}: values");
    }
    // Where a record was delivered once, both say from where it is.
    let places = |from: &str| {
        server.ask(&format!("SELECT id, kafka_partition, kafka_offset FROM {from} WHERE toUInt32(substring(id, 2)) % 3 != 0 ORDER BY id"))
    };
    assert_eq!(places(&of("clicks")), places("c.clicks"));
    let day_of_each = server.ask(&format!("SELECT countIf(concat(toString(toDate(ts)), '.parquet') != _file) FROM {}", of("clicks")));
    assert_eq!(day_of_each, "0");

    // Once more, and elsewhere: the same bytes.
    let again = folder.path().join("again");
    export(&config, &again, &all);
    for topic in ["clicks", timeline] {
        assert!(files(&again, topic) == files(&out, topic), "{topic}: the same bytes");
    }
    let said = export(&config, &out, &all);
    assert!(said.contains("clicks: 3 days were there already"), "{said}");
    // A day that is not over is left out unless it is asked for.
    let closed = folder.path().join("closed");
    export(&config, &closed, &[]);
    assert_eq!(files(&closed, "clicks").len(), 2);
    assert!(!files(&closed, "clicks").contains_key(&format!("{today}.parquet")));
    // From files.
    let lines = folder.path().join("lines");
    fs::write(&lines, (0..made).map(|n| click(n) + "\n").collect::<String>()).expect("writes");
    let from_files = folder.path().join("from_files");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    assert!(command.arg("export").arg("--clicks").arg(&lines).arg("--out").arg(&from_files).status().expect("starts").success());
    let count =
        |folder: &Path| server.ask(&format!("SELECT count(), uniqExact(id) FROM file('{}/clicks/*.parquet', Parquet)", folder.display()));
    assert_eq!(count(&from_files), format!("{made}\t{made}"));

    // Kafka deletes them: what was exported in time stays, and a part of a day is not taken for the day.
    let before = files(&out, "clicks");
    delete_records(&broker, "clicks", 3);
    produce(&broker, "clicks", made..made + 60);
    let said = export(&config, &out, &["--to", &today]);
    assert!(said.contains("records left out"), "{said}");
    assert!(files(&out, "clicks") == before);
    let cut = folder.path().join("cut");
    let said = export(&config, &cut, &["--to", &today]);
    assert!(said.contains("clicks: 0 days") && files(&cut, "clicks").is_empty(), "{said}");
    export(&config, &cut, &["--to", &today, "--replace"]);
    assert_eq!(count(&cut), "60\t60");
}

/// More than one page, more than one row group, every kind of column, against what ClickHouse works out from the row's number.
#[test]
fn large_files_are_read_by_clickhouse_as_they_were_written() {
    let Some(server) = ClickHouse::start_if_there() else { return };
    const SCHEMA: [(&str, Kind); 5] =
        [("n", Kind::Long), ("half", Kind::Int), ("at", Kind::Time), ("text", Kind::Text), ("list", Kind::Texts)];
    let folder = tempfile::tempdir().expect("a folder");
    let (path, rows) = (folder.path().join("large.parquet"), 210_000_i64);
    let mut writer = Writer::new(Vec::new(), &SCHEMA).expect("begins");
    for n in 0..rows {
        let text = format!("{}é{n}", "x".repeat((n % 300) as usize));
        let list: Vec<String> = (0..n % 4).map(|of| format!("{of}'{n}")).collect();
        let half = (n / 2) as i32 - 50_000;
        let row = [Value::Long(-n), Value::Int(half), Value::Time(n * 8_640_123), Value::Text(&text), Value::Texts(&list)];
        writer.push(&row).expect("takes it");
    }
    let bytes = writer.end().expect("ends");
    fs::write(&path, bytes).expect("writes");
    let found = server.ask(&format!(
        "SELECT count(), countIf(half = intDiv(-n, 2) - 50000), countIf(toUnixTimestamp64Milli(at) = -n * 8640123), \
         countIf(text = concat(repeat('x', toUInt64(-n % 300)), 'é', toString(-n))), \
         countIf(list = arrayMap(of -> concat(toString(of), '\\'', toString(-n)), range(toUInt64(-n % 4)))), uniqExact(n) FROM file('{}', Parquet)",
        path.display()
    ));
    assert_eq!(found, vec![rows.to_string(); 6].join("\t"));
    // The bounds of the row groups are used, and right.
    let some = server
        .ask(&format!("SELECT n FROM file('{}', Parquet) WHERE at = toDateTime64('1970-01-01 02:24:00.123', 3, 'UTC')", path.display()));
    assert_eq!(some, "-1");
    let groups = server.ask(&format!(
        "SELECT num_row_groups, num_rows, total_compressed_size < 40000000 FROM file('{}', ParquetMetadata)",
        path.display()
    ));
    let mut parts = groups.split('\t');
    assert!(parts.next().and_then(|groups| groups.parse::<u32>().ok()).is_some_and(|groups| groups > 1), "{groups}");
    assert_eq!(parts.collect::<Vec<_>>(), [rows.to_string().as_str(), "1"], "{groups}");
    let empty = folder.path().join("empty.parquet");
    fs::write(&empty, Writer::new(Vec::new(), &SCHEMA).expect("begins").end().expect("ends")).expect("writes");
    assert_eq!(server.ask(&format!("SELECT count() FROM file('{}', Parquet)", empty.display())), "0");
}
