//! How the real `clickline run` ends on a real Apache Kafka: asked to, under load, with brokers that do not answer, and shut
//! out by a second job.

mod support;

use std::time::Duration;
use support::job::{Job, assert_once, events, produce, topics, wait_for_events};
use support::kafka::Broker;

/// What the contract gives a job that is asked to stop.
const TO_STOP: Duration = Duration::from_secs(10);

#[test]
fn a_second_job_shuts_the_first_one_out_which_says_so() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Job::start(&broker, folder.path(), "first");
    produce(&broker, "a", 200);
    wait_for_events(&broker, 200);
    let mut second = Job::start(&broker, folder.path(), "second");
    produce(&broker, "b", 200);
    let status = first.child.wait().expect("our own child");
    assert_eq!(status.code(), Some(1), "{}", first.said());
    let said = first.said();
    assert!(said.contains("another job with the progress topic `clickline.progress` has taken over"), "{said}");
    wait_for_events(&broker, 400);
    let (status, _) = second.stop();
    assert!(status.success(), "{}", second.said());
    assert_once(&broker, &[("a", 200), ("b", 200)]);
}

#[test]
fn asked_to_stop_under_load_it_drains_and_goes_on_where_it_was() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    // Four seconds' worth.
    let clicks = 20_000;
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("ready");
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, "a", clicks));
        wait_for_events(&broker, 1);
        let (status, took) = job.stop();
        assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
        producer.join().expect("produces");
    });
    let before = events(&broker).len();
    assert!(before < clicks, "it was stopped in the middle: {before} events");
    // Stopped again while it reads again what it had read.
    let mut job = Job::start(&broker, folder.path(), "again");
    job.wait_to_say("the job starts");
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    let mut job = Job::start(&broker, folder.path(), "last");
    wait_for_events(&broker, clicks);
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    assert_once(&broker, &[("a", clicks)]);
}

#[test]
fn asked_to_stop_while_brokers_do_not_answer_it_ends_in_time() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    produce(&broker, "a", 100);
    wait_for_events(&broker, 100);
    produce(&broker, "b", 100);
    broker.freeze();
    std::thread::sleep(Duration::from_millis(1_500));
    let (status, took) = job.stop();
    broker.thaw();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
    let mut job = Job::start(&broker, folder.path(), "again");
    wait_for_events(&broker, 200);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 100), ("b", 100)]);
}

#[test]
fn asked_to_stop_before_any_broker_answered_it_ends_in_time() {
    let Some(mut broker) = Broker::start_if_there() else { return };
    broker.kill();
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = Job::start(&broker, folder.path(), "job");
    job.wait_to_say("do not answer");
    let (status, took) = job.stop();
    assert!(status.success() && took < TO_STOP, "{status} after {took:?}\n{}", job.said());
}
