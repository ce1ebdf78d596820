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
use clickline::stop::Stop;
use rdkafka::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
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
    let rules = rules::read("trigger: {link_tag: x, contact_window: 30d, click_threshold: 3}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}").expect("a rule");
    let specs = [WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], ..WorkspaceSpec::default() }];
    let plan = Plan::new(Times::with_tick(100), &specs, &rules, |_, _| 0).expect("a plan");
    let config = JobConfig {
        kafka: Kafka::at(broker.address()),
        plan,
        workers: 2,
        hosts: None,
        limits: Default::default(),
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

/// The clicks whose events stand in the topic, as a reader of committed records finds them.
fn told(broker: &Broker) -> Vec<String> {
    let options = [("group.id", "none"), ("isolation.level", "read_committed"), ("enable.auto.commit", "false")];
    let consumer: BaseConsumer = broker.client(&options).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some("hubspot.timeline"), PATIENCE).expect("metadata");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset("hubspot.timeline", partition.id(), Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut told = Vec::new();
    while let Some(message) = consumer.poll(Duration::from_secs(2)) {
        let event: serde_json::Value = serde_json::from_slice(message.expect("a record").payload().unwrap_or_default()).expect("JSON");
        told.push(event["click_id"].as_str().expect("an id").to_owned());
    }
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
    // What has been read may go.
    delete_before(&broker, 15);
    assert_eq!(run_to_now(start(&broker, false)), 5);
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
