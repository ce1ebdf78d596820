//! A disk that is full, one whose fsync fails, threads that panic, and a kill, under the running program: what was answered is kept, and what is lost is counted or bounded.

mod common;

use common::load::Load;
use common::process::{PATIENCE, Redirect};
use common::*;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nobody listens there.
const AWAY: &str = "127.0.0.1:9";
const SPOOLED: &str = r#"redirect_clicks_total{outcome="spooled"}"#;
const PRODUCED: &str = r#"redirect_clicks_total{outcome="produced"}"#;
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

/// A mount namespace in which the spool is a file system of 1 MiB, a quarter of it taken; it goes with this.
struct SmallDisk {
    holder: Child,
    /// A namespace of users, too, where the tests' user may not mount.
    user: bool,
}

impl SmallDisk {
    /// `None` where that is not allowed.
    fn mount(folder: &Path) -> Option<SmallDisk> {
        let script = r#"mount -t tmpfs -o size=1m none "$0" && head -c 262144 /dev/zero > "$0/ballast" && echo mounted && exec sleep 1000"#;
        let spool = folder.join("spool");
        std::fs::create_dir_all(&spool).expect("a folder");
        [false, true].into_iter().find_map(|user| {
            let mut command = Command::new("unshare");
            command
                .args(user.then_some(["--user", "--map-root-user"]).into_iter().flatten())
                .args(["--mount", "sh", "-c", script])
                .arg(&spool);
            let holder = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
            let mut disk = SmallDisk { holder, user };
            let mut line = String::new();
            BufReader::new(disk.holder.stdout.take().expect("piped")).read_line(&mut line).expect("text");
            (line == "mounted\n").then_some(disk)
        })
    }

    /// The program with its spool there.
    fn start(&self, folder: &Path, broker: &str, more: &[&str]) -> Redirect {
        let mut command = Command::new("nsenter");
        command.args(self.user.then_some(["--user", "--preserve-credentials"]).into_iter().flatten());
        command.args(["--mount", "--target", &self.holder.id().to_string(), env!("CARGO_BIN_EXE_clickline-redirect")]);
        Redirect::start_by(command, folder, broker, "clicks", more, None)
    }

    /// The disk as the processes see it.
    fn inside(&self, folder: &Path) -> PathBuf {
        let spool = folder.join("spool");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(spool.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Clicks until the disk takes no more: those that were answered.
fn fill(redirect: &Redirect) -> BTreeSet<String> {
    let (mut answered, end) = (BTreeSet::new(), Instant::now() + PATIENCE);
    while let Some(id) = click(redirect) {
        answered.insert(id);
        assert!(Instant::now() < end, "the disk never fills");
    }
    assert!(answered.len() > 100, "{} answered", answered.len());
    answered
}

const LEFT_OUT: &str = "left out: no file system may be mounted here; `a_disk_that_takes_no_more_drops_and_counts` has a limit instead";

/// A full disk refuses visitors, keeps what it has answered, and goes on when there is room.
#[test]
fn a_full_disk_refuses_until_there_is_room() {
    for capture in ["durable", "fast"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Some(disk) = SmallDisk::mount(folder.path()) else { return eprintln!("{LEFT_OUT}") };
        let redirect = disk.start(folder.path(), AWAY, &["--spool-full", "refuse", "--capture", capture]);
        let mut answered = fill(&redirect);
        std::fs::remove_file(disk.inside(folder.path()).join("ballast")).expect("room");
        let end = Instant::now() + PATIENCE;
        let id = loop {
            assert!(Instant::now() < end, "never answered again");
            if let Some(id) = click(&redirect) {
                break id;
            }
        };
        answered.insert(id);
        wait_for(|| redirect.metric(SPOOLED) == answered.len() as f64);
        assert_eq!(redirect.metric(DROPPED), 0.0);
        // Its own end would wait for the broker.
        redirect.kill();
        all_arrive_from(&disk, folder.path(), &answered);
    }
}

/// A process that is killed on a full disk starts again on it, with nobody's help: what is there is sent, and makes room for new clicks. So it does
/// where the position could never be noted.
#[test]
fn a_full_disk_is_emptied_after_a_kill() {
    for noted in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Some(disk) = SmallDisk::mount(folder.path()) else { return eprintln!("{LEFT_OUT}") };
        let options = ["--spool-full", "refuse", "--capture", "durable"];
        let redirect = disk.start(folder.path(), AWAY, &options);
        let answered = fill(&redirect);
        redirect.kill();
        let inside = disk.inside(folder.path());
        if !noted {
            std::fs::remove_file(inside.join("position")).expect("it was made at the start");
        }
        take_the_rest(&inside);
        // Nobody is there to send it to yet.
        let redirect = disk.start(folder.path(), AWAY, &options);
        assert_eq!(click(&redirect), None, "the disk is full");
        redirect.kill();
        take_the_rest(&inside);
        all_arrive_from(&disk, folder.path(), &answered);
    }
}

/// Leaves no byte on the disk, and no entry in its folder.
fn take_the_rest(disk: &Path) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(disk.join("rest")).expect("a file");
    while file.write(&[0; 512]).is_ok_and(|count| count > 0) {}
    assert!(std::fs::write(disk.join("more"), [0; 512]).is_err(), "it is full");
}

/// Starts again on the same disk, with a broker: all of `answered` come, once, and there is room for more.
fn all_arrive_from(disk: &SmallDisk, folder: &Path, answered: &BTreeSet<String>) {
    let mock = MockCluster::new(1).expect("an embedded broker");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    let redirect = disk.start(folder, &mock.bootstrap_servers(), &["--spool-full", "refuse", "--capture", "durable"]);
    assert_eq!(&ids(&mock, "clicks", answered.len()), answered);
    wait_for(|| redirect.metric("redirect_spool_oldest_seconds") == 0.0);
    wait_for(|| click(&redirect).is_some());
    assert_eq!(redirect.stop(), Some(0));
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

/// A thread that panics takes the program down, for its restart: neither do visitors wait for ever, nor do clicks pile up unseen.
#[test]
fn a_thread_that_panics_ends_the_program() {
    let mock = MockCluster::new(1).expect("an embedded broker");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    for place in clickline_redirect::failpoint::PANICS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut redirect = Redirect::start(folder.path(), &mock.bootstrap_servers(), "clicks", &["--capture", "durable"], Some(place));
        // One whose click the thread had in its hands has no answer, or is told to try again.
        let answered = click(&redirect).is_some();
        assert_eq!(answered, place == "forward.batch", "{place}");
        assert_eq!(redirect.ended().0, Some(1), "{place}");
    }
}

/// Transactions that the broker undoes are repeated, smaller, until they come through; each click is there once and counts once.
#[test]
fn transactions_that_are_undone_are_repeated() {
    const UNDONE: usize = 4;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let away = Redirect::start(folder.path(), AWAY, "clicks", &["--capture", "durable"], None);
    let answered: BTreeSet<String> = (0..100).map(|_| click(&away).expect("kept")).collect();
    away.kill();
    let mock = MockCluster::new(1).expect("an embedded broker");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE; UNDONE]);
    let redirect = Redirect::start(folder.path(), &mock.bootstrap_servers(), "clicks", &["--capture", "durable"], None);
    let end = Instant::now() + PATIENCE;
    while redirect.metric("redirect_spool_oldest_seconds") > 0.0 {
        assert!(Instant::now() < end, "never sent");
        // Read in this order, since both grow.
        let replayed = redirect.metric(r#"redirect_clicks_total{outcome="replayed"}"#);
        assert!(replayed <= redirect.metric(PRODUCED), "{replayed} replayed");
    }
    assert_eq!(&ids(&mock, "clicks", answered.len()), &answered);
    assert_eq!([PRODUCED, r#"redirect_clicks_total{outcome="replayed"}"#].map(|series| redirect.metric(series)), [100.0, 100.0]);
    assert_eq!(redirect.stop(), Some(0));
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
