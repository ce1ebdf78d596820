//! Every answered redirect is on the topic once, on a real Apache Kafka: killed under load, killed at each failpoint, with the broker frozen and slow,
//! with a disk that takes no more; and a copy of a spool is refused.
//!
//! Where Kafka's jars were not fetched (`tests/kafka/fetch`) there is nothing to run on and the tests return. `CLICKLINE_KILLS` makes them longer.

mod common;

use common::load::Load;
use common::node::{Broker, broker};
use common::process::{PATIENCE, Redirect};
use common::{SAFARI, request, wait_for};
use std::collections::BTreeSet;
use std::path::Path;
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
    let (answered, unanswered, _) = load.end();
    assert_eq!(redirect.stop(), Some(0));
    check(broker, "places", &answered, unanswered);
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

/// Whoever starts with a copy that is older than what Kafka knows of its spool is refused, and sends nothing.
#[test]
fn a_copied_spool_is_refused() {
    let Some(broker) = broker() else { return };
    let (folder, copy) = (tempfile::tempdir().expect("a temporary folder"), tempfile::tempdir().expect("another"));
    let clicks = |folder: &Path, count: usize| {
        let redirect = Redirect::start(folder, &broker.address, "copied", &["--capture", "durable"], None);
        for _ in 0..count {
            assert!(request(redirect.address, "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "));
        }
        redirect
    };
    assert_eq!(clicks(folder.path(), 3).stop(), Some(0));
    std::fs::create_dir(copy.path().join("spool")).expect("a folder");
    for file in std::fs::read_dir(folder.path().join("spool")).expect("the spool") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, copy.path().join("spool").join(file.file_name().expect("a name"))).expect("copied");
    }
    assert_eq!(clicks(folder.path(), 2).stop(), Some(0));
    let (code, said) = clicks(copy.path(), 0).ended();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(broker.ids("copied").len(), 5);
}
