//! How the real `clickline run` ends on a real Apache Kafka: asked to, under load, with brokers or a HubSpot that do not answer, shut
//! out by a second job, and by brokers that have waited for too long.

mod support;

use clickline_sandbox::{Config, Sandbox};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::http_faults::{Fault, HttpFaults};
use support::job::{Job, assert_once, events, produce, topics, wait_for_events};
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;

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
    assert_eq!(status.code(), Some(2), "{}", first.said());
    let said = first.said();
    assert!(said.contains("another job runs on these topics: it has taken `clickline.progress` over. Stop one of them"), "{said}");
    wait_for_events(&broker, 400);
    let (status, _) = second.stop();
    assert!(status.success(), "{}", second.said());
    assert_once(&broker, &[("a", 200), ("b", 200)]);
}

/// A job as systemd runs it with the unit in `deploy/`: one that fails is started again two seconds later, one that ends with 2 is not.
#[derive(Default)]
struct Supervised {
    starts: AtomicU32,
    over: AtomicBool,
}

impl Supervised {
    /// Runs it until it ends for good; its last exit code.
    fn run(&self, broker: &Broker, folder: &Path) -> Option<i32> {
        loop {
            let start = self.starts.fetch_add(1, Ordering::SeqCst);
            let mut job = Job::start(broker, folder, &format!("start{start}"));
            let status = loop {
                match job.child.try_wait().expect("our own child") {
                    Some(status) => break status,
                    None if self.over.load(Ordering::SeqCst) => break job.stop().0,
                    None => thread::sleep(Duration::from_millis(20)),
                }
            };
            if status.code() != Some(1) || self.over.load(Ordering::SeqCst) {
                return status.code();
            }
            thread::sleep(Duration::from_secs(2));
        }
    }
}

/// Ends the supervision, also when a test fails.
struct Over<'a>([&'a Supervised; 2]);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|job| job.over.store(true, Ordering::SeqCst));
    }
}

#[test]
fn of_two_supervised_jobs_on_the_same_topics_one_stays_and_neither_starts_again() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [first, second] = <[Supervised; 2]>::default();
    let codes = thread::scope(|scope| {
        let over = Over([&first, &second]);
        let earlier = scope.spawn(|| first.run(&broker, folders[0].path()));
        produce(&broker, "a", 200);
        wait_for_events(&broker, 200);
        let later = scope.spawn(|| second.run(&broker, folders[1].path()));
        let began = Instant::now();
        // Long enough for a fight of some rounds.
        let mut rounds = 0;
        while began.elapsed() < Duration::from_secs(15) {
            produce(&broker, &format!("b{rounds}-"), 50);
            rounds += 1;
            thread::sleep(Duration::from_millis(500));
        }
        let names: Vec<String> = (0..rounds).map(|round| format!("b{round}-")).collect();
        let all: Vec<(&str, usize)> = names.iter().map(|name| (&**name, 50)).chain([("a", 200)]).collect();
        let starts = [&first, &second].map(|job| job.starts.load(Ordering::SeqCst));
        wait_for("each click's event", || (events(&broker).len() >= 200 + 50 * rounds).then_some(()));
        drop(over);
        let codes = [earlier, later].map(|job| job.join().expect("runs"));
        assert_eq!(starts, [1, 1], "no fight: {codes:?}");
        assert_once(&broker, &all);
        codes
    });
    assert_eq!(codes, [Some(2), Some(0)]);
}

/// Whether the process stands still.
fn stands(job: &Job) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", job.child.id())).unwrap_or_default();
    // Behind the program's name, which is in parentheses.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

#[test]
fn one_that_stood_still_for_too_long_is_to_be_started_again() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "kafka: {{brokers: '{}', properties: {{transaction.timeout.ms: '5000'}}}}\nworkspaces: {{w: {{portals: ['1'], counts: all}}}}\n",
        broker.address()
    );
    // It stands still with a transaction whose records the broker has.
    let mut job = Job::start_configured(&text, folder.path(), "job", Some("outbox.drained@1!stop"));
    produce(&broker, "a", 100);
    wait_for("the job to stand still", || stands(&job).then_some(()));
    // The broker's time, and two of its looks at it.
    thread::sleep(Duration::from_secs(5 + 3));
    job.signal("CONT");
    let status = job.child.wait().expect("our own child");
    let said = job.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("a transaction was open for") && !said.contains("another job"), "{said}");
    let mut job = Job::start_configured(&text, folder.path(), "again", None);
    wait_for_events(&broker, 100);
    assert!(job.stop().0.success(), "{}", job.said());
    assert_once(&broker, &[("a", 100)]);
}

const PORTAL: &str = "1";

/// A job with a sink that has every default, apart from HubSpot's address.
fn with_sink(broker: &Broker, sandbox: &Sandbox, hubspot: &str, folder: &Path, name: &str) -> Job {
    let config = folder.join("clickline.yaml");
    let text = format!(
        "kafka: {{brokers: '{}'}}\nstate: '{}'\nworkspaces: {{w: {{portals: ['{PORTAL}']}}}}\nhubspot:\n  base_url: 'http://{hubspot}'\n  \
         client_id: clickline\n  client_secret_env: HUBSPOT_SECRET\n  developer_key_env: DEVELOPER_KEY\n  connections: {{seal: 'off'}}\n  \
         portals: {{'{PORTAL}': {{refresh_token_env: REFRESH, app_id: {}}}}}\n",
        broker.address(),
        folder.join("state.sqlite").display(),
        sandbox.app_id(0),
    );
    fs::write(&config, text).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["run", "--config"]).arg(config);
    command.env("HUBSPOT_SECRET", "sandbox-secret").env("DEVELOPER_KEY", "sandbox-developer-key");
    command.env("REFRESH", sandbox.refresh_token(PORTAL));
    Job::of(command, folder, name)
}

#[test]
fn asked_to_stop_while_hubspot_does_not_answer_it_ends_in_time_and_delivers_after_the_next_start() {
    let Some(broker) = Broker::start_if_there() else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let sandbox = Sandbox::start(Config { portals: vec![PORTAL.to_owned()], ..Config::default() }).expect("a sandbox");
    let contacts = 60;
    for contact in 1..=contacts {
        sandbox.create_contact(PORTAL, Some(&contact.to_string()), &[("email", &format!("c{contact}@example.com"))]);
    }
    let [address] = free_addresses();
    let proxy = HttpFaults::start(&address, sandbox.url().trim_start_matches("http://"));
    let delivered = || sandbox.snapshot(PORTAL).events.len();
    let mut job = with_sink(&broker, &sandbox, &address, folder.path(), "job");
    produce(&broker, "a", 20);
    wait_for("the first events", || (delivered() == 20).then_some(()));
    proxy.set("", Fault::Silence);
    produce(&broker, "b", contacts);
    wait_for("a request that is not answered", || (proxy.hits() > 0).then_some(()));
    wait_for_events(&broker, 20 + contacts);
    let (status, took) = job.stop();
    // The contract's, and what a busy machine may add; much less than the deadline of a request and twice a grace.
    assert!(status.success() && took < TO_STOP + Duration::from_secs(2), "{status} after {took:?}\n{}", job.said());
    assert!(job.said().contains("stopped with requests in flight"), "{}", job.said());
    assert_eq!(delivered(), 20, "none of them was answered");
    proxy.lift();
    let mut job = with_sink(&broker, &sandbox, &address, folder.path(), "again");
    wait_for("all events", || (delivered() >= 20 + contacts).then_some(()));
    assert!(job.stop().0.success(), "{}", job.said());
    let mut times = BTreeMap::<String, usize>::new();
    sandbox.snapshot(PORTAL).events.into_iter().for_each(|event| *times.entry(event.id).or_default() += 1);
    assert!(times.len() == 20 + contacts && times.values().all(|times| *times == 1), "each event once: {times:?}");
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
    thread::scope(|scope| {
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
    thread::sleep(Duration::from_millis(1_500));
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
