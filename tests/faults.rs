//! Faults that the real `clickline run` has to survive beside being killed (`tests/kill.rs`), on a real Apache Kafka: a worker
//! that breaks down, a process that is frozen, a broker that answers slowly, connections that break. What follows is always
//! held to the same: each click has its event, once.

mod support;

use std::thread;
use std::time::{Duration, Instant};
use support::job::{Job, assert_once, produce, topics, wait_for_events};
use support::kafka::Broker;
use support::process::wait_for;

#[test]
fn a_worker_that_breaks_down_ends_the_process() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start_with(&broker, folder.path(), "job", Some("source.taken@40!panic"));
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", 5_000));
        job.wait_to_say("panicked");
        let began = Instant::now();
        let ended = wait_for("the process to end", || job.child.try_wait().expect("our own child"));
        assert_eq!(ended.code(), Some(1), "{}", job.said());
        assert!(began.elapsed() < Duration::from_secs(5), "it hung for {:?}", began.elapsed());
        assert!(job.said().contains("a worker of the dataflow broke down"), "{}", job.said());
        producer.join().expect("produces");
    });
    let mut job = Job::start(&broker, folder.path(), "again");
    wait_for_events(&broker, 5_000);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 5_000)]);
}

#[test]
fn frozen_for_a_while_it_goes_on_where_it_was() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("ready");
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", 20_000));
        wait_for_events(&broker, 1);
        job.signal("STOP");
        // Longer than a client's session, shorter than a transaction may take.
        thread::sleep(Duration::from_secs(10));
        job.signal("CONT");
        producer.join().expect("produces");
    });
    produce(&broker, "b", 100);
    wait_for_events(&broker, 20_100);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 20_000), ("b", 100)]);
}

#[test]
fn brokers_that_answer_slowly_are_waited_for_without_a_storm() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("ready");
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", 10_000));
        for _ in 0..6 {
            broker.freeze();
            thread::sleep(Duration::from_millis(1_800));
            broker.thaw();
            thread::sleep(Duration::from_millis(200));
        }
        producer.join().expect("produces");
    });
    wait_for_events(&broker, 10_000);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 10_000)]);
    let complaints = job.said().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(complaints < 60, "{complaints} complaints within twelve seconds:\n{}", job.said());
}

#[test]
fn connections_that_break_lose_and_double_nothing() {
    let Some((broker, proxy)) = Broker::start_behind_proxy_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("ready");
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", 20_000));
        wait_for_events(&broker, 1);
        // Not in step with anything: in the middle of fetches, of records, of commits.
        for pause in [310, 70, 530, 190, 23, 410, 137, 290] {
            proxy.reset();
            thread::sleep(Duration::from_millis(pause));
        }
        producer.join().expect("produces");
    });
    assert!(proxy.broken() >= 16, "{} ends were broken", proxy.broken());
    wait_for_events(&broker, 20_000);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 20_000)]);
}
