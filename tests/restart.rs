//! What a restart reads again, on a real Apache Kafka, and what it refuses to overlook.
//!
//! The input topics of these tests carry the producer's times, so that a record can be older than the test.

mod support;

use clickline::config::rules;
use clickline::dataflow::plan::{Plan, Times, WorkspaceSpec};
use clickline::job::{Job, JobConfig};
use clickline::kafka::Kafka;
use clickline::model::time::{DAY, Ms, now};
use clickline::sources::Kind;
use clickline::sources::kafka::Limits;
use clickline::stop::Stop;
use rdkafka::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use support::job::Job as Process;
use support::kafka::Broker;
use support::process::wait_for;

const PATIENCE: Duration = Duration::from_secs(20);

fn broker() -> Option<Broker> {
    let broker = Broker::start_if_there()?;
    for topic in ["clicks", "forms"] {
        make(&broker, topic);
    }
    Some(broker)
}

fn make(broker: &Broker, topic: &str) {
    broker.create_topic(topic, 1, &[("message.timestamp.type", "CreateTime"), ("retention.ms", "-1")]);
}

/// Appends clicks that happened, and were appended, at `ts` and the milliseconds after it.
fn produce(broker: &Broker, name: &str, ts: Ms, count: u64) {
    produce_to(broker, 0, name, ts, count);
}

fn produce_to(broker: &Broker, partition: i32, name: &str, ts: Ms, count: u64) {
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[("linger.ms", "5")]).create().expect("a producer");
    for n in 0..count {
        let at = ts + n;
        let payload = format!(r#"{{"id":"{name}{n}","ts":{at},"workspace":"w","link":"d/1","tags":["x"],"contact_id":"801"}}"#);
        let record = BaseRecord::<(), _>::to("clicks").payload(&payload).partition(partition);
        let record = record.timestamp(i64::try_from(at).expect("in range"));
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(PATIENCE).expect("delivered");
}

fn start(broker: &Broker, accept_gaps: bool) -> Job {
    start_with(broker, accept_gaps, None)
}

fn start_with(broker: &Broker, accept_gaps: bool, snapshots: Option<&Path>) -> Job {
    start_limited(broker, accept_gaps, snapshots, Limits::default())
}

fn start_limited(broker: &Broker, accept_gaps: bool, snapshots: Option<&Path>, limits: Limits) -> Job {
    let rules = rules::read("trigger: {link_tag: x, contact_window: 30d, click_threshold: 3}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}").expect("a rule");
    let specs = [WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], ..WorkspaceSpec::default() }];
    let plan = Plan::new(Times::with_tick(100), &specs, &rules, |_, _| 0).expect("a plan");
    let config = JobConfig {
        kafka: Kafka::at(broker.address()),
        plan,
        workers: 2,
        hosts: None,
        limits,
        snapshots: snapshots.map(Path::to_owned),
        accept_gaps,
        now: Arc::new(now),
    };
    Job::start(config, Stop::new()).expect("starts")
}

/// Lets the job pass this moment; what it had read by then.
fn run_to_now(job: Job) -> u64 {
    let all = now() + 200;
    wait_for("the job's clock", || (job.ended() || job.frontier() > all).then_some(()));
    let read = job.meter().records(Kind::Clicks);
    job.stop().expect("ends as asked");
    read
}

/// The same for a job with snapshots: clicks read, and those of them that a snapshot had.
fn run_with(broker: &Broker, snapshots: &Path) -> (u64, u64) {
    let job = start_with(broker, false, Some(snapshots));
    let meter = Arc::clone(job.meter());
    (run_to_now(job), meter.copied())
}

/// The segments of the clicks' snapshot.
fn segments(snapshots: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(snapshots.join("clicks-0")).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect()
}

fn admin(broker: &Broker) -> (AdminClient<DefaultClientContext>, tokio::runtime::Runtime) {
    let admin = broker.client(&[]).create().expect("an admin client");
    (admin, tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

/// Deletes the records of `clicks` before an offset, as retention would.
fn delete_before(broker: &Broker, offset: i64) {
    let (admin, runtime) = admin(broker);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("clicks", 0, Offset::Offset(offset)).expect("an offset");
    runtime.block_on(admin.delete_records(&list, &AdminOptions::new())).expect("deleted");
}

/// Gives the topic of the clicks more partitions.
fn grow(broker: &Broker, partitions: usize) {
    let (admin, runtime) = admin(broker);
    let grown = runtime.block_on(admin.create_partitions(&[NewPartitions::new("clicks", partitions)], &AdminOptions::new()));
    grown.expect("answers").remove(0).expect("grown");
    wait_for("leaders", || {
        let metadata = admin.inner().fetch_metadata(Some("clicks"), PATIENCE).ok()?;
        let all = metadata.topics().first()?.partitions();
        (all.len() == partitions && all.iter().all(|partition| partition.leader() >= 0)).then_some(())
    });
}

/// The records of an output topic, as a reader of committed records finds them.
fn outputs(broker: &Broker, topic: &str) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    broker.read(topic, "read_committed", |message| {
        found.push(serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON"));
    });
    found
}

/// The clicks whose events stand in the topic.
fn told(broker: &Broker) -> Vec<String> {
    let events = outputs(broker, "hubspot.timeline");
    let mut told: Vec<String> = events.iter().map(|event| event["click_id"].as_str().expect("an id").to_owned()).collect();
    told.sort();
    told
}

fn ids(names: &[(&str, u64)]) -> Vec<String> {
    let mut ids: Vec<String> = names.iter().flat_map(|(name, count)| (0..*count).map(move |n| format!("{name}{n}"))).collect();
    ids.sort();
    ids
}

/// Deletes the topic of the clicks and makes another one of its name.
fn remake(broker: &Broker) {
    let (admin, runtime) = admin(broker);
    runtime.block_on(admin.delete_topics(&["clicks"], &AdminOptions::new())).expect("answers").remove(0).expect("deleted");
    wait_for("the topic to be gone", || {
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).ok()?;
        metadata.topics().iter().all(|topic| topic.name() != "clicks").then_some(())
    });
    make(broker, "clicks");
}

#[test]
fn a_restart_reads_a_little_more_than_the_longest_window() {
    let Some(broker) = broker() else { return };
    produce(&broker, "old", now() - 40 * DAY, 500);
    produce(&broker, "window", now() - 20 * DAY, 50);
    produce(&broker, "new", now() - 1_000, 5);
    assert_eq!(run_to_now(start(&broker, false)), 555, "the first start reads everything");
    assert_eq!(run_to_now(start(&broker, false)), 55, "what is older than the window and 72 hours is not needed");
    produce(&broker, "newer", now(), 7);
    assert_eq!(run_to_now(start(&broker, false)), 62);
}

#[test]
fn records_that_were_deleted_unread_stop_the_job_and_are_named() {
    let Some(broker) = broker() else { return };
    produce(&broker, "read", now() - 5_000, 20);
    assert_eq!(run_to_now(start(&broker, false)), 20);
    produce(&broker, "unread", now(), 30);
    delete_before(&broker, 40);
    let error = start(&broker, false).wait().expect_err("a gap");
    let text = format!("{error:#}");
    for part in ["up to 20 records of partition 0 of clicks", "offsets 20 to 40", "--accept-gaps"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(run_to_now(start(&broker, true)), 10);
    assert_eq!(run_to_now(start(&broker, false)), 10, "a gap that was accepted is accepted once and for all");
}

/// What counted before and is in the window must still be there, in the topic or in a snapshot: without it counts would fall, in silence.
#[test]
fn records_that_have_counted_and_are_gone_stop_a_restart_and_are_named() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    produce(&broker, "older", now() - 20 * DAY, 10);
    produce(&broker, "newer", now() - 5_000, 20);
    assert_eq!(run_with(&broker, folder.path()), (30, 0));
    delete_before(&broker, 15);
    assert_eq!(run_with(&broker, folder.path()), (30, 30), "a snapshot has them");
    for _ in 0..2 {
        let text = format!("{:#}", start(&broker, false).wait().expect_err("a gap"));
        for part in ["partition 0 of clicks that have counted", "offsets 0 to 15", "retention.ms", "--accept-gaps"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // A snapshot that turns out to be damaged does not have them all.
    let path = segments(folder.path()).pop().expect("a segment");
    let mut bytes = fs::read(&path).expect("a file");
    let label = bytes.iter().position(|byte| *byte == b'\n').expect("a label");
    bytes[label + 100] ^= 1;
    fs::write(&path, bytes).expect("a disk");
    let text = format!("{:#}", start_with(&broker, false, Some(folder.path())).wait().expect_err("a gap"));
    assert!(text.contains("that have counted"), "{text}");

    assert_eq!(run_to_now(start(&broker, true)), 15);
    assert_eq!(run_to_now(start(&broker, false)), 15, "a gap that was accepted is accepted once and for all");
    assert_eq!(told(&broker), ids(&[("older", 10), ("newer", 20)]), "and nothing was told again");
}

/// What is older than a restart needs may go, however little comes.
#[test]
fn records_that_are_not_needed_any_more_may_go() {
    let Some(broker) = broker() else { return };
    produce(&broker, "old", now() - 40 * DAY, 10);
    assert_eq!(run_to_now(start(&broker, false)), 10);
    delete_before(&broker, 10);
    assert_eq!(run_to_now(start(&broker, false)), 0, "a topic that has become empty");
    produce(&broker, "new", now() - 1_000, 5);
    assert_eq!(run_to_now(start(&broker, false)), 5);
    assert_eq!(run_to_now(start(&broker, false)), 5, "and one that is younger than the window");
}

/// A job that is slower than its input is kept for says so, and at its next start how much it has lost.
#[test]
fn records_that_are_deleted_while_the_job_runs_stop_it() {
    let Some(broker) = broker() else { return };
    // More than a client fetches ahead, each record in a tick of its own.
    let (from, count) = (now() - 3_600_000, 30_000);
    let producer: ThreadedProducer<DefaultProducerContext> =
        broker.client(&[("linger.ms", "5"), ("queue.buffering.max.kbytes", "1000000")]).create().expect("a producer");
    let fill = "x".repeat(2_000);
    for n in 0..count {
        let at = from + n * 100;
        let click = format!(r#"{{"id":"{n}","ts":{at},"workspace":"w","link":"d/1","contact_id":"801","fill":"{fill}"}}"#);
        let record = BaseRecord::<(), _>::to("clicks").payload(&click).partition(0).timestamp(i64::try_from(at).expect("in range"));
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(PATIENCE).expect("delivered");
    // So little at once that it can't keep up.
    let job = start_limited(&broker, false, None, Limits { in_flight_bytes: 32_768, ..Limits::default() });
    wait_for("the job", || job.ready().then_some(()));
    let read = job.meter().records(Kind::Clicks);
    delete_before(&broker, i64::try_from(count).expect("small"));
    let text = format!("{:#}", job.wait().expect_err("a gap"));
    assert!(text.contains("records of clicks were deleted before the job had read them"), "after {read} records: {text}");
    let text = format!("{:#}", start(&broker, false).wait().expect_err("a gap"));
    assert!(text.contains("records of partition 0 of clicks were deleted before the job had read them"), "{text}");
}

/// A click that became readable after the clock had passed its append time was given to whom the forms of that moment named, and is theirs
/// after every restart.
#[test]
fn what_came_late_counts_after_a_restart_as_it_did_before() {
    let Some(broker) = broker() else { return };
    for topic in ["crm.contacts", "crm.deals"] {
        make(&broker, topic);
    }
    let put = |topic: &str, key: &str, at: Ms, payload: String| {
        let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[]).create().expect("a producer");
        let record = BaseRecord::to(topic).key(key).payload(&payload).timestamp(i64::try_from(at).expect("in range"));
        producer.send(record).map_err(|(error, _)| error).expect("sent");
        producer.flush(PATIENCE).expect("delivered");
    };
    let begins = now() - 60_000;
    for (id, email) in [("801", "one@example.com"), ("802", "two@example.com")] {
        let contact = format!(r#"{{"portal":"1","contact_id":"{id}","email":"{email}"}}"#);
        put("crm.contacts", &format!("1/{id}"), begins, contact);
        let deal = format!(r#"{{"portal":"1","deal_id":"9{id}","pipeline":"p","stage":"a","contact_ids":["{id}"]}}"#);
        put("crm.deals", &format!("1/9{id}"), begins, deal);
    }
    let form = |n: u64, email: &str, at: Ms| {
        let form = format!(r#"{{"id":"f{n}","ts":{},"workspace":"w","email":"{email}","gclid":"g"}}"#, begins + n);
        put("forms", "w", at, form);
    };
    let click = |id: &str, at: Ms, of: &str| {
        let click = format!(r#"{{"id":"{id}","ts":{},"workspace":"w","link":"d/1","tags":["x"],{of}}}"#, begins + 5);
        put("clicks", id, at, click);
    };
    let past = |job: &Job, at: Ms| wait_for("the job's clock", || (job.ended() || job.frontier() > at + 200).then_some(()));
    form(1, "one@example.com", begins + 10_000);
    form(2, "two@example.com", begins + 20_000);

    let job = start(&broker, false);
    past(&job, now());
    // Appended when only the first form was there; the clock has passed the second one, and it is the nearer one.
    click("late", begins + 15_000, r#""gclid":"g""#);
    wait_for("the late click", || (job.meter().records(Kind::Clicks) == 1).then_some(()));
    click("second", now(), r#""contact_id":"802""#);
    run_to_now(job);
    let who = |broker: &Broker| {
        let events = outputs(broker, "hubspot.timeline");
        let mut who: Vec<_> = events.iter().map(|event| (event["click_id"].to_string(), event["contact_id"].to_string())).collect();
        who.sort();
        who
    };
    let of = |id: &str| (format!("\"{id}\""), "\"802\"".to_owned());
    assert_eq!(who(&broker), [of("late"), of("second")]);

    run_to_now(start(&broker, false));
    click("third", now(), r#""contact_id":"802""#);
    run_to_now(start(&broker, false));
    assert_eq!(who(&broker), [of("late"), of("second"), of("third")], "nothing is told twice, or otherwise");
    let stages = outputs(&broker, "hubspot.deal-stages");
    let [stage] = stages.as_slice() else { panic!("one deal moves: {stages:?}") };
    assert_eq!((&stage["deal_id"], &stage["count"]), (&"9802".into(), &3.into()), "the late click counts for whom it was told of");
}

/// What a start says while it reads again, and of a snapshot that is damaged.
#[test]
fn a_start_tells_how_far_it_is_and_of_a_damaged_snapshot() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    produce(&broker, "a", now() - 60_000, 10_000);
    let mut job = Process::start(&broker, folder.path(), "first");
    job.wait_to_say("ready");
    wait_for("all of it", || (outputs(&broker, "hubspot.timeline").len() == 10_000).then_some(()));
    assert!(job.stop().0.success(), "{}", job.said());
    let snapshots = folder.path().join("clickline-snapshots");
    let path = segments(&snapshots).pop().expect("a segment");
    let mut bytes = fs::read(&path).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("a disk");

    let mut job = Process::start(&broker, folder.path(), "damaged");
    job.wait_to_say("ready");
    assert!(job.said().contains("snapshot_damaged"), "{}", job.said());
    assert!(job.stop().0.success(), "{}", job.said());

    fs::remove_dir_all(&snapshots).expect("a disk");
    // Stopped in the middle for longer than it says nothing.
    let mut job = Process::start_with(&broker, folder.path(), "without", Some("source.taken@100!stop"));
    wait_for("it to stand still", || fs::read_to_string(format!("/proc/{}/stat", job.child.id())).ok()?.contains(") T ").then_some(()));
    thread::sleep(Duration::from_secs(4));
    job.signal("CONT");
    job.wait_to_say("ready");
    let said = job.said();
    let line = said.lines().find(|line| line.contains("catching_up")).unwrap_or_else(|| panic!("how far it is: {said}"));
    assert!(line.contains("of=10000"), "{line}");
    assert!(job.stop().0.success(), "{}", job.said());
}

#[test]
fn a_topic_that_was_made_anew_stops_the_job() {
    let Some(broker) = broker() else { return };
    produce(&broker, "first", now() - 5_000, 20);
    assert_eq!(run_to_now(start(&broker, false)), 20);
    remake(&broker);
    produce(&broker, "second", now() - 1_000, 5);
    let text = format!("{:#}", start(&broker, false).wait().expect_err("another topic"));
    assert!(text.contains("ends at offset 5, but had been read up to 20"), "{text}");
    assert_eq!(run_to_now(start(&broker, true)), 5);
    assert_eq!(run_to_now(start(&broker, false)), 5, "what was accepted is accepted once and for all");
    assert_eq!(told(&broker), ids(&[("first", 20), ("second", 5)]));
}

#[test]
fn a_snapshot_is_read_instead_and_may_be_lost_or_damaged() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    produce(&broker, "old", now() - 20 * DAY, 50);
    assert_eq!(run_with(&broker, folder.path()), (50, 0), "the first start reads everything from Kafka");
    produce(&broker, "new", now() - 1_000, 7);
    assert_eq!(run_with(&broker, folder.path()), (57, 50));
    assert_eq!(run_with(&broker, folder.path()), (57, 57));

    // In the second block of two.
    let path = segments(folder.path()).pop().expect("a segment");
    let mut bytes = fs::read(&path).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("a disk");
    assert_eq!(run_with(&broker, folder.path()), (57, 50), "Kafka has what the damaged block held");
    assert_eq!(run_with(&broker, folder.path()), (57, 57), "and it was copied again");

    fs::remove_dir_all(folder.path()).expect("a disk");
    assert_eq!(run_with(&broker, folder.path()), (57, 0));
    assert_eq!(run_with(&broker, folder.path()), (57, 57));
}

#[test]
fn a_snapshot_of_another_topic_is_not_taken() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = now() - 5_000;
    produce(&broker, "first", at, 20);
    assert_eq!(run_with(&broker, folder.path()), (20, 0));
    remake(&broker);
    // As many records of the same times.
    produce(&broker, "other", at, 20);
    assert_eq!(run_with(&broker, folder.path()), (20, 0));
    assert_eq!(run_with(&broker, folder.path()), (20, 20));
}

#[test]
fn a_snapshot_that_does_not_reach_back_is_begun_anew() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    produce(&broker, "older", now() - 20 * DAY, 30);
    produce(&broker, "newer", now() - 1_000, 10);
    assert_eq!(run_with(&broker, folder.path()), (40, 0));
    // As if the rules had had a shorter window: only what came last was copied.
    let path = segments(folder.path()).pop().expect("a segment");
    fs::rename(&path, path.with_file_name(format!("{:020}.seg", 30))).expect("a disk");
    assert_eq!(run_with(&broker, folder.path()), (40, 0));
    assert_eq!(run_with(&broker, folder.path()), (40, 40));
}

#[test]
fn two_jobs_do_not_share_a_snapshot() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    produce(&broker, "a", now() - 1_000, 20);
    assert_eq!(run_with(&broker, folder.path()), (20, 0));
    let first = start_with(&broker, false, Some(folder.path()));
    wait_for("the first job", || first.ready().then_some(()));
    // The second one shuts the first one out, whose process still holds the folder.
    let second = start_with(&broker, false, Some(folder.path()));
    let meter = Arc::clone(second.meter());
    assert_eq!(run_to_now(second), 20);
    assert_eq!(meter.copied(), 0);
    first.wait().expect_err("shut out");
}

/// Partitions that come while the job runs, or while it is away, are read from their beginning: also records that were
/// appended before what had been committed by then, and none of them twice.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let Some(broker) = broker() else { return };
    produce(&broker, "first", now() - 5_000, 5);
    let job = start(&broker, false);
    wait_for("the job", || job.ready().then_some(()));
    grow(&broker, 2);
    produce_to(&broker, 1, "running", now() - 3_000, 4);
    wait_for("the new partition", || (job.ended() || job.meter().records(Kind::Clicks) == 9).then_some(()));
    run_to_now(job);
    assert_eq!(told(&broker), ids(&[("first", 5), ("running", 4)]));

    grow(&broker, 3);
    produce_to(&broker, 2, "away", now() - 60_000, 3);
    assert_eq!(run_to_now(start(&broker, false)), 12);
    let all = ids(&[("first", 5), ("running", 4), ("away", 3)]);
    assert_eq!(told(&broker), all);
    run_to_now(start(&broker, false));
    assert_eq!(told(&broker), all, "nothing is told again");
}
