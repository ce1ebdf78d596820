//! A disk that is full, one whose fsync fails, and a kill, with the running program: what was answered is kept, and what is lost is counted or bounded.

mod common;

use common::load::Load;
use common::process::{PATIENCE, Redirect};
use common::*;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Nobody listens there.
const AWAY: &str = "127.0.0.1:9";
const SPOOLED: &str = r#"redirect_clicks_total{outcome="spooled"}"#;
const DROPPED: &str = r#"redirect_clicks_total{outcome="dropped"}"#;

/// One click: its id, or `None` for a 503.
fn click(redirect: &Redirect) -> Option<String> {
    let (head, _) = request(redirect.address, "GET", "/abc123", SAFARI);
    if head.starts_with("HTTP/1.1 503 ") {
        return None;
    }
    assert!(head.starts_with("HTTP/1.1 302 "), "{head}");
    Some(header(&head, "X-Click-Id").expect("an id").to_owned())
}

fn consumer(mock: &MockCluster<'_, DefaultProducerContext>) -> BaseConsumer {
    let mut options = ClientConfig::new();
    options.set("bootstrap.servers", mock.bootstrap_servers()).set("group.id", "test");
    options.create().expect("a consumer")
}

/// Ids on a topic of an embedded broker, once there are `count`; none may come twice.
fn ids(mock: &MockCluster<'_, DefaultProducerContext>, topic: &str, count: usize) -> BTreeSet<String> {
    let consumer = consumer(mock);
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&from).expect("assigned");
    let (mut ids, end) = (BTreeSet::new(), Instant::now() + PATIENCE);
    while ids.len() < count {
        assert!(Instant::now() < end, "{} of {count} clicks", ids.len());
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let click: serde_json::Value = serde_json::from_slice(message.payload().expect("a payload")).expect("JSON");
            assert!(ids.insert(click["id"].as_str().expect("an id").to_owned()), "twice");
        }
    }
    let (_, last) = consumer.fetch_watermarks(topic, 0, PATIENCE).expect("the ends");
    assert_eq!(last, i64::try_from(count).expect("few"));
    ids
}

/// Starts again on the same spool, with a broker: all of `answered` come, and nothing else.
fn all_arrive(folder: &Path, answered: &BTreeSet<String>) {
    let mock = MockCluster::new(1).expect("an embedded broker");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    let redirect = Redirect::start(folder, &mock.bootstrap_servers(), "clicks", &[], None);
    assert_eq!(&ids(&mock, "clicks", answered.len()), answered);
    assert_eq!(redirect.stop(), Some(0));
}

/// The program in a mount namespace of its own, in which the spool is a file system of 1 MiB, a quarter of it taken. `None` where that is not allowed.
fn on_a_small_disk(folder: &Path, more: &[&str]) -> Option<Redirect> {
    let script = r#"mount -t tmpfs -o size=1m none "$0" && head -c 262144 /dev/zero > "$0/ballast" && exec "$@""#;
    let spool = folder.join("spool");
    std::fs::create_dir_all(&spool).expect("a folder");
    let enter = |user: &[&str], program: &str| {
        let mut command = Command::new("unshare");
        command.args(user).args(["--mount", "sh", "-c", script]).arg(&spool).arg(program);
        command
    };
    let user = [&[][..], &["--user", "--map-root-user"]]
        .into_iter()
        .find(|user| enter(user, "true").output().is_ok_and(|output| output.status.success()))?;
    Some(Redirect::start_by(enter(user, env!("CARGO_BIN_EXE_clickline-redirect")), folder, AWAY, "clicks", more, None))
}

/// The small disk as the process sees it.
fn inside(redirect: &Redirect, folder: &Path) -> PathBuf {
    let spool = folder.join("spool");
    Path::new("/proc").join(redirect.child.id().to_string()).join("root").join(spool.strip_prefix("/").expect("an absolute path"))
}

/// A full disk refuses visitors, keeps what it has answered, and goes on when there is room.
#[test]
fn a_full_disk_refuses_until_there_is_room() {
    for capture in ["durable", "fast"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Some(redirect) = on_a_small_disk(folder.path(), &["--spool-full", "refuse", "--capture", capture]) else {
            eprintln!("left out: no file system may be mounted here; `a_disk_that_takes_no_more_drops_and_counts` has a limit instead");
            return;
        };
        let disk = inside(&redirect, folder.path());
        let (mut answered, end) = (BTreeSet::new(), Instant::now() + PATIENCE);
        while let Some(id) = click(&redirect) {
            answered.insert(id);
            assert!(Instant::now() < end, "the disk never fills");
        }
        assert!(answered.len() > 100, "{} answered", answered.len());
        std::fs::remove_file(disk.join("ballast")).expect("room");
        let id = loop {
            assert!(Instant::now() < end, "never answered again");
            if let Some(id) = click(&redirect) {
                break id;
            }
        };
        answered.insert(id);
        wait_for(|| redirect.metric(SPOOLED) == answered.len() as f64);
        assert_eq!(redirect.metric(DROPPED), 0.0);
        // The disk goes with the process; another finds a copy of its files.
        let copy = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(copy.path().join("spool")).expect("a folder");
        for file in std::fs::read_dir(&disk).expect("the spool") {
            let file = file.expect("a file").path();
            std::fs::copy(&file, copy.path().join("spool").join(file.file_name().expect("a name"))).expect("copied");
        }
        // Its own end would wait for the broker.
        redirect.kill();
        all_arrive(copy.path(), &answered);
    }
}

/// A disk that takes no more (here: a limit of the system for files) drops clicks, counts them, and redirects on.
#[test]
fn a_disk_that_takes_no_more_drops_and_counts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Blocks of 512 bytes. Without the trap the signal of the limit would end the process.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 512; exec "$@""#, "sh", env!("CARGO_BIN_EXE_clickline-redirect")]);
    let redirect = Redirect::start_by(command, folder.path(), AWAY, "clicks", &[], None);
    let (mut answered, end) = (0, Instant::now() + PATIENCE);
    while redirect.metric(DROPPED) < 10.0 {
        assert!(Instant::now() < end, "nothing is dropped");
        assert!(click(&redirect).is_some(), "visitors are redirected");
        answered += 1;
    }
    wait_for(|| redirect.metric(SPOOLED) + redirect.metric(DROPPED) == f64::from(answered));
    let spooled = redirect.metric(SPOOLED);
    assert!(spooled > 100.0, "{spooled} on the disk");
    redirect.kill();
}

/// The fsync of the third click fails once: its visitor is told to try again, the program ends by itself, and the two before it are not lost. A second
/// fsync would have said that all is well.
#[test]
fn a_failed_fsync_ends_the_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut redirect = Redirect::start(folder.path(), AWAY, "clicks", &["--capture", "durable"], Some("disk.sync@3"));
    let answered: BTreeSet<String> = (0..2).map(|_| click(&redirect).expect("kept")).collect();
    assert_eq!(click(&redirect), None);
    let (code, _) = redirect.ended();
    assert_eq!(code, Some(1));
    all_arrive(folder.path(), &answered);
}

/// How far back a kill may reach here, at most. The program promises 5 ms where its threads get their time (`cargo bench -p clickline-redirect -- --kill`
/// measures it); a machine that runs tests gives a thread no time for seconds now and then. So this shows that a kill reaches back for a moment and not for a
/// file, a segment or a transaction, and no more.
const BACK: Duration = Duration::from_secs(2);

/// Killed under load with `--capture fast`: click by click, what was answered earlier than [`BACK`] before is there, once.
#[test]
fn a_kill_takes_only_what_was_answered_a_moment_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redirect = Redirect::start(folder.path(), AWAY, "clicks", &["--capture", "fast"], None);
    // Some thousand clicks: the embedded broker forgets what is beyond 5 MB.
    let load = Load::start_paced(4, Duration::from_millis(2));
    load.aim(&redirect);
    let begin = Instant::now();
    load.wait(300);
    std::thread::sleep((BACK + Duration::from_secs(2)).saturating_sub(begin.elapsed()));
    let killed_at = Instant::now();
    redirect.kill();
    let answered = load.end_with_times();

    let mock = MockCluster::new(1).expect("an embedded broker");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    let redirect = Redirect::start(folder.path(), &mock.bootstrap_servers(), "clicks", &[], None);
    wait_for(|| redirect.metric("redirect_spool_bytes") == 0.0);
    let (_, last) = consumer(&mock).fetch_watermarks("clicks", 0, PATIENCE).expect("the ends");
    let there = ids(&mock, "clicks", usize::try_from(last).expect("few"));
    assert_eq!(redirect.stop(), Some(0));

    let early = answered.iter().filter(|(_, at)| *at + BACK < killed_at);
    let (count, gone): (usize, Vec<_>) = (early.clone().count(), early.filter(|(id, _)| !there.contains(id)).collect());
    assert!(count >= 200, "only {count} of {} were answered early enough to tell", answered.len());
    assert!(gone.is_empty(), "{} of {count} that were answered {BACK:?} before are gone, e.g. {:?}", gone.len(), gone[0]);
    let lost = answered.iter().filter(|(id, _)| !there.contains(id));
    eprintln!(
        "{} answered, {} lost, the first {:?} before the kill",
        answered.len(),
        lost.clone().count(),
        lost.map(|(_, at)| killed_at.saturating_duration_since(*at)).max()
    );
}
