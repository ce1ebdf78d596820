//! A disk that is really full: a server on a file system of its own, of which something else takes the rest.

use super::faults::{log_length, said};
use super::{assert_exact, clicks, differences, produce, wait_for_rows};
use crate::support::clickhouse::ClickHouse;
use crate::support::kafka::Broker;
use crate::support::process::wait_for;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::sinks::clickhouse::Sink;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Its name holds that of the other faults' topic, by which lines of the log are known.
const TOPIC: &str = "faults-disk";

/// Writes until no more fits; why it ended.
fn fill(ballast: &Path) -> std::io::Error {
    // Closed at the end: what is open takes its room, also when it is removed.
    let mut file = File::create(ballast).expect("a file");
    let block = vec![0; 65_536];
    loop {
        if let Err(error) = file.write_all(&block) {
            return error;
        }
    }
}

/// What does not fit waits, and comes when there is room, once.
pub fn is_full(broker: &Broker) {
    // Where none may be mounted `tests/zz_left_out.rs` says so; a limit of the server's own is tried all the same.
    let Some((server, disk)) = ClickHouse::start_on_a_small_disk() else { return };
    broker.create_topic(TOPIC, 1, &[]);
    let mut kafka = Kafka::at(broker.address());
    kafka.topics.clicks = TOPIC.to_owned();
    let sink = Sink::start(ClickHouse::settings(server.address(), ""), &kafka, &Metrics::default()).expect("starts");
    produce(broker, TOPIC, 0..30);
    wait_for_rows(&server, 30);

    let (from, before, ballast) = (log_length(), clicks(&sink).transient, disk.join("ballast"));
    let end = fill(&ballast);
    assert_eq!(end.kind(), ErrorKind::StorageFull, "{end}");
    produce(broker, TOPIC, 30..60);
    wait_for("the sink to meet the full disk twice", || (clicks(&sink).transient >= before + 2).then_some(()));
    let line = wait_for("the sink to say so", || said(from, &["still trying"]));
    assert!(line.contains("WARN") && line.contains("code 243: NOT_ENOUGH_SPACE"), "{line}");

    fs::remove_file(&ballast).expect("room");
    wait_for_rows(&server, 60);
    wait_for("the batch to be acknowledged", || (clicks(&sink).oldest_at == 0 && differences(&server).is_empty()).then_some(()));
    sink.stop();
    assert_exact(&server, 60);
}
