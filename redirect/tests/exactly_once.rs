//! Every answered redirect is on the topic once, on a real Apache Kafka: killed under load, killed at each failpoint, with the broker frozen and slow,
//! with a disk that takes no more, with clicks that are too large; and a copy of a spool is refused.
//!
//! Where Kafka's jars were not fetched (`tests/kafka/fetch`) there is nothing to run on and the tests return. `CLICKLINE_KILLS` makes them longer.

mod common;

use common::load::Load;
use common::node::{Broker, broker};
use common::process::{PATIENCE, Redirect};
use common::{SAFARI, header, request, wait_for};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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

const PRODUCED: &str = r#"redirect_clicks_total{outcome="produced"}"#;

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
    assert_eq!(redirect.stop(), Some(0));
    // A disk that a busy machine makes slow refuses; such a click may be there.
    check(broker, "killed", &answered, unanswered + refused);
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
    let (answered, unanswered, refused) = load.end();
    assert_eq!(redirect.stop(), Some(0));
    // What waited too long for a busy disk was refused, and may be there.
    check(broker, "places", &answered, unanswered + refused);
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

/// A broker that answers two seconds late: visitors go on, clicks wait on the disk, and all of them arrive.
#[test]
fn slow_broker() {
    let Some((broker, proxy)) = Broker::start_behind_proxy() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start(4);
    let redirect = Redirect::start(folder.path(), &broker.address, "slow", &["--capture", "durable"], None);
    load.aim(&redirect);
    wait_for(|| redirect.metric(PRODUCED) > 0.0);
    proxy.slow_by(Duration::from_secs(2));
    // An answer has come two seconds late by then, and the next transaction waits for its own.
    wait_for(|| redirect.metric("redirect_spool_oldest_seconds") >= 2.0);
    load.wait(200);
    let (answered, unanswered, refused) = load.end();
    assert!(redirect.metric("redirect_spool_bytes") > 0.0, "clicks wait");
    proxy.slow_by(Duration::ZERO);
    // What waited is more than a slow machine sends before the deadline of a stop.
    wait_for(|| redirect.metric("redirect_spool_oldest_seconds") == 0.0);
    assert_eq!(redirect.stop(), Some(0));
    // A disk that a busy machine makes slow refuses, too: such a click may be there.
    check(&broker, "slow", &answered, unanswered + refused);
}

/// Whoever starts with a copy that is older than what Kafka knows of its spool is refused, and sends nothing; and so is every later start, before it
/// answers anybody. What was answered before it noticed is there, and is sent under an id of its own.
#[test]
fn a_copied_spool_is_refused() {
    let Some(broker) = broker() else { return };
    let (folder, copy) = (tempfile::tempdir().expect("a temporary folder"), tempfile::tempdir().expect("another"));
    let start = |folder: &Path, address: &str| Redirect::start(folder, address, "copied", &["--capture", "durable"], None);
    let click = |redirect: &Redirect| {
        let (head, _) = request(redirect.address, "GET", "/abc123", SAFARI);
        header(&head, "X-Click-Id").map(str::to_owned)
    };
    let clicks = |redirect: &Redirect, count: usize| -> Vec<String> { (0..count).map(|_| click(redirect).expect("a redirect")).collect() };
    let first = start(folder.path(), &broker.address);
    clicks(&first, 3);
    assert_eq!(first.stop(), Some(0));
    std::fs::create_dir(copy.path().join("spool")).expect("a folder");
    for file in std::fs::read_dir(folder.path().join("spool")).expect("the spool") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, copy.path().join("spool").join(file.file_name().expect("a name"))).expect("copied");
    }
    // The original goes on for a few starts, so that the copy's next ones are below it.
    for count in [2, 50, 2] {
        let original = start(folder.path(), &broker.address);
        clicks(&original, count);
        assert_eq!(original.stop(), Some(0));
    }
    let there = broker.ids("copied").len();
    assert_eq!(there, 57);
    // Kafka is away for its first start: it answers. Then it learns.
    let away = start(copy.path(), "127.0.0.1:9");
    let mut answered: BTreeSet<String> = clicks(&away, 5).into_iter().collect();
    away.kill();
    let mut refused = start(copy.path(), &broker.address);
    while refused.child.try_wait().expect("ours").is_none() {
        // The connection may break when the server ends.
        let id = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| click(&refused))).ok().flatten();
        answered.extend(id);
    }
    assert_eq!(refused.ended().0, Some(1));
    let spool = copy.path().join("spool");
    let segments = |spool: &Path| -> BTreeSet<String> {
        let names = std::fs::read_dir(spool).expect("the spool").map(|file| file.expect("a file").file_name().into_string().expect("text"));
        names.filter(|name| name.ends_with(".seg")).collect()
    };
    let kept = segments(&spool);
    for _ in 0..5 {
        let (code, said) = start_and_fail(copy.path(), &broker.address);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("another process has sent this spool") && said.contains("adopt"), "{said}");
        assert_eq!(segments(&spool), kept);
    }
    assert_eq!(broker.ids("copied").len(), there, "nothing was sent");
    std::fs::rename(spool.join("refused"), spool.join("adopt")).expect("renamed");
    let adopted = start(copy.path(), &broker.address);
    wait_for(|| adopted.metric("redirect_spool_oldest_seconds") == 0.0 && adopted.metric(PRODUCED) >= answered.len() as f64);
    assert_eq!(adopted.stop(), Some(0));
    let ids = broker.ids("copied");
    assert!(answered.iter().all(|id| ids.contains_key(id)), "{} answered by the copy", answered.len());
}

/// A start that is expected to fail: its exit code, and what it says.
fn start_and_fail(folder: &Path, broker: &str) -> (Option<i32>, String) {
    // One that does not fail would run on.
    let output = Command::new("timeout")
        .args(["30", env!("CARGO_BIN_EXE_clickline-redirect")])
        .args(["--listen", "127.0.0.1:0", "--kafka", broker, "--links"])
        .arg(folder.join("links.yaml"))
        .arg("--spool")
        .arg(folder.join("spool"))
        .output()
        .expect("the program runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Clicks that the brokers refuse for their size are put aside, and keep no other from the topic. (Here librdkafka refuses them: it is told the least that
/// it can be told.)
#[test]
fn clicks_that_are_too_large_are_put_aside() {
    const LARGE: usize = 2;
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Together in the first transactions.
    let away = Redirect::start(folder.path(), "127.0.0.1:9", "large", &["--capture", "durable"], None);
    let click = |number: usize| {
        let more = if number % 20 == 10 { format!("?utm_term={}", "x".repeat(500)) } else { String::new() };
        let (head, _) = request(away.address, "GET", &format!("/abc123{more}"), SAFARI);
        header(&head, "X-Click-Id").expect("a redirect").to_owned()
    };
    let ids: Vec<String> = (0..20 * LARGE).map(click).collect();
    away.kill();
    let redirect = Redirect::start(folder.path(), &broker.address, "large", &["--kafka-property", "message.max.bytes=1000"], None);
    let end = Instant::now() + PATIENCE;
    while redirect.metric("redirect_spool_oldest_seconds") > 0.0 {
        // Read the other way round, since both grow.
        let replayed = redirect.metric(r#"redirect_clicks_total{outcome="replayed"}"#);
        assert!(replayed <= redirect.metric(PRODUCED), "{replayed} replayed");
        assert!(Instant::now() < end, "the spool is never empty");
    }
    assert_eq!(redirect.metric(PRODUCED), (19 * LARGE) as f64);
    assert_eq!(redirect.metric(r#"redirect_clicks_total{outcome="parked"}"#), LARGE as f64);
    assert_eq!(redirect.stop(), Some(0));
    let (large, small): (Vec<_>, Vec<_>) = ids.into_iter().enumerate().partition(|(number, _)| number % 20 == 10);
    let small: BTreeSet<String> = small.into_iter().map(|(_, id)| id).collect();
    check(broker, "large", &small, 0);
    let aside: Vec<String> = std::fs::read_dir(folder.path().join("spool"))
        .expect("the spool")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "big"))
        .map(|path| std::fs::read_to_string(path).expect("a record"))
        .collect();
    assert_eq!(aside.len(), LARGE);
    assert!(large.iter().all(|(_, id)| aside.iter().any(|record| record.contains(id.as_str()))));
}
