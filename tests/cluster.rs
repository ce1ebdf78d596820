//! The real `clickline run` as several processes over timely's cluster: how they begin, fail and end together.
//!
//! # Meaning
//! On a real Apache Kafka, against the oracle: the job runs as one, two or three processes with one or two workers each, one of
//! them is killed by `SIGKILL`, at a named place or at a random moment, or stopped alone; the others must end with exit
//! code 1 in time, and all are started again. Each one's wall clock jumps by hours and days meanwhile, the broker's does not. In the end
//! each output stands there once. What needs no broker is below.
//!
//! Nine rounds, or `CLICKLINE_CLUSTER_ROUNDS=100`; `CLICKLINE_SEED=n` repeats the choices of a run, though not its timing.

mod against_oracle;
mod oracle_model;
mod support;

use against_oracle::{Course, frontier, now, number};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::clock::WrongClocks;
use support::kafka::Broker;
use support::network::Network;
use support::ports::free_addresses;
use support::process::{PATIENCE, wait_for};

/// How long the others may take to notice that one of them is gone, and to end.
const TO_FAIL: Duration = Duration::from_secs(15);
/// The same where nobody says so: the kernel's ten seconds, three to see whether all are being stopped, and a slow machine.
const TO_MISS: Duration = Duration::from_secs(30);
/// What the contract gives a job that is asked to stop.
const TO_STOP: Duration = Duration::from_secs(10);

/// One process of a job, with its log.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(config: &Path, log: PathBuf, arguments: &[&str], failpoint: Option<&str>) -> Self {
        Process::start_by(config, log, arguments, failpoint, None)
    }

    /// The same, by the wrong clock of that number.
    fn start_by(config: &Path, log: PathBuf, arguments: &[&str], failpoint: Option<&str>, clock: Option<(&WrongClocks, usize)>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        if let Some((clocks, number)) = clock {
            clocks.give(&mut command, number);
        }
        Process::run(command, config, log, arguments, failpoint)
    }

    /// The program by this command.
    fn run(mut command: Command, config: &Path, log: PathBuf, arguments: &[&str], failpoint: Option<&str>) -> Self {
        let file = || File::options().create(true).append(true).open(&log).expect("a log");
        command.args(["run", "--no-sink", "--config"]).arg(config).args(arguments);
        command.stdin(Stdio::null()).stdout(file()).stderr(file()).env_remove("CLICKLINE_FAILPOINT").env("RUST_LOG", "info");
        if let Some(failpoint) = failpoint {
            command.env("CLICKLINE_FAILPOINT", failpoint);
        }
        let child = command.spawn().expect("starts");
        Process { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    fn wait_to_say(&mut self, words: &str) {
        wait_for(&format!("a process to say `{words}`"), || {
            let ended = self.ended();
            assert!(ended.is_none() || self.said().contains(words), "it ended ({ended:?}):\n{}", self.said());
            self.said().contains(words).then_some(())
        });
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill -{name} reaches our own child");
    }

    fn ask_to_stop(&self) {
        self.signal("TERM");
    }

    /// Waits for its end, and checks how it ended.
    fn expect(&mut self, code: i32, within: Duration) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(began.elapsed() < within, "still there after {within:?}:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(code), "{status}:\n{}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job's processes.
struct Cluster(Vec<Process>);

impl Cluster {
    /// Starts all of them, in the order of `order`, with one of them armed.
    fn start(course: &Course, clocks: &WrongClocks, name: &str, order: &[usize], workers: usize, armed: Option<(usize, &str)>) -> Self {
        Cluster::start_shown(course, clocks, name, order, (workers, armed), None)
    }

    /// The same; each tells of its share at one of these addresses.
    fn start_shown(
        course: &Course,
        clocks: &WrongClocks,
        name: &str,
        order: &[usize],
        (workers, armed): (usize, Option<(usize, &str)>),
        shown: Option<&[String; 3]>,
    ) -> Self {
        let processes = order.len();
        let hostfile = course.folder.path().join(format!("{name}.hosts"));
        fs::write(&hostfile, free_addresses::<3>()[..processes].join("\n")).expect("writes");
        let hostfile = hostfile.display().to_string();
        let mut all: Vec<Option<Process>> = (0..processes).map(|_| None).collect();
        for process in order {
            let [index, count, workers] = [*process, processes, workers].map(|number| number.to_string());
            let mut arguments = vec!["--workers", &workers];
            if processes > 1 {
                arguments.extend(["--hostfile", &hostfile, "--process", &index, "--processes", &count]);
            }
            let shown = shown.map(|addresses| addresses[*process].clone());
            arguments.extend(shown.iter().flat_map(|address| ["--metrics", address.as_str()]));
            let failpoint = armed.filter(|(of, _)| of == process).map(|(_, failpoint)| failpoint);
            let log = course.folder.path().join(format!("{name}.{process}.log"));
            all[*process] = Some(Process::start_by(&course.config, log, &arguments, failpoint, Some((clocks, *process))));
        }
        Cluster(all.into_iter().flatten().collect())
    }

    /// Waits until the dataflow stands in all of them, or one of them has met its failpoint.
    fn wait_to_begin(&mut self) {
        wait_for("all processes to begin", || {
            let begun = self.0.iter().all(|process| process.said().contains("the job starts"));
            (begun || self.0.iter_mut().any(|process| process.ended().is_some())).then_some(())
        });
    }

    /// The others have no reason but this one to end; how long they took.
    fn expect_to_fail_without(mut self, gone: usize, round: u64) -> Duration {
        let began = Instant::now();
        for (index, process) in self.0.iter_mut().enumerate().filter(|(index, _)| *index != gone) {
            process.expect(1, TO_FAIL);
            let said = process.said();
            let reason = said.contains("has ended or can't be reached") && said.contains("start all of them again");
            assert!(reason, "round {round}, process {index}:\n{said}");
            assert!(!said.contains("panicked"), "round {round}, process {index}:\n{said}");
        }
        began.elapsed()
    }
}

#[test]
fn killed_one_at_a_time_every_output_stands_there_once() {
    let Some(broker) = Broker::start_if_there() else { return };
    let (rounds, seed) = (number("CLICKLINE_CLUSTER_ROUNDS", 9), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed} CLICKLINE_CLUSTER_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut course = Course::begin(broker, seed, 2 * rounds);
    let clocks = WrongClocks::start(course.folder.path(), 3, seed);
    // In turn every index of three processes, one by itself between them, and both of two; at a place of a commit, of the sources, or at a moment. The first
    // two rounds come to a place of each for sure: a place that has gone fails the test.
    let victims = [(3, 0), (3, 1), (1, 0), (3, 2), (2, 0), (2, 1)];
    let places = ["outbox.commit", "outbox.committed", "outbox.sent", "start.progress"];
    let mut at_places = 0;
    for round in 0..rounds {
        let (processes, victim) = victims[usize::try_from(round).expect("few") % victims.len()];
        let workers = *[1, 2].choose(&mut rng).expect("some");
        let failpoint = match (victim, rng.random_bool(0.6)) {
            (_, false) => None,
            (0, true) => match *places.choose(&mut rng).expect("some") {
                // Come to once, when all have met and the others wait for the start.
                place if place.starts_with("start.") => Some(format!("{place}@1")),
                place => Some(format!("{place}@{}", rng.random_range(1..8))),
            },
            (_, true) => Some(format!("source.taken@{}", rng.random_range(1..40))),
        };
        let sure = ["outbox.commit@1", "source.taken@1"].get(usize::try_from(round).expect("few"));
        let failpoint = sure.map(|place| (*place).to_owned()).or(failpoint);
        let mut order: Vec<usize> = (0..processes).collect();
        order.shuffle(&mut rng);
        if rng.random_bool(0.4) {
            course.change_rules(&mut rng);
        }
        let armed = failpoint.as_deref().map(|failpoint| (victim, failpoint));
        let mut cluster = Cluster::start(&course, &clocks, &format!("round{round}"), &order, workers, armed);
        cluster.wait_to_begin();
        // A place that is not come to in time is as good as a moment.
        let longest = Duration::from_millis(if failpoint.is_some() { 6_000 } else { rng.random_range(0..3_000) });
        let deadline = Instant::now() + if sure.is_some() { PATIENCE } else { longest };
        while cluster.0[victim].ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let how = if let Some(status) = cluster.0[victim].ended() {
            assert_eq!(status.signal(), Some(9), "round {round}: it ended by itself: {status}\n{}", cluster.0[victim].said());
            at_places += 1;
            failpoint.unwrap_or_default()
        } else if let Some(place) = sure {
            panic!("round {round}, seed {seed}: a run does not come to {place}\n{}", cluster.0[victim].said());
        } else if round % 4 == 3 {
            // Stopped alone: it was asked to, the others were not.
            cluster.0[victim].ask_to_stop();
            cluster.0[victim].expect(0, TO_STOP);
            "asked to stop".to_owned()
        } else {
            let _ = cluster.0[victim].child.kill();
            "at a moment".to_owned()
        };
        let took = cluster.expect_to_fail_without(victim, round).as_millis();
        println!(
            "round {round}: of {processes} processes with {workers} workers each, {victim} is gone ({how}), the others after {took} ms"
        );
    }

    assert!(at_places >= rounds.min(2), "{at_places}");

    let end = course.last_tick();
    let shown = free_addresses::<3>();
    let mut cluster = Cluster::start_shown(&course, &clocks, "last", &[2, 1, 0], (2, None), Some(&shown));
    // The others wait for one that is frozen.
    cluster.wait_to_begin();
    cluster.0[1].signal("STOP");
    thread::sleep(Duration::from_secs(2));
    cluster.0[1].signal("CONT");
    wait_for("the job's clock", || {
        for process in &mut cluster.0 {
            if let Some(status) = process.ended() {
                panic!("a process ended by itself: {status}\n{}", process.said());
            }
        }
        thread::sleep(Duration::from_millis(200));
        (frontier(&course.broker) > end).then_some(())
    });
    for process in &mut cluster.0 {
        process.wait_to_say("ready: outputs are new");
    }
    assert_shares(&course.broker, &shown);
    cluster.0.iter().for_each(Process::ask_to_stop);
    for process in &mut cluster.0 {
        process.expect(0, TO_STOP);
    }
    drop((cluster, clocks));
    let verdict = course.judge(end);
    let against_oracle::Verdict { records, outputs, changes, took } = verdict;
    let took = took.as_secs();
    println!(
        "{records} records, {outputs} outputs, {rounds} rounds, {at_places} of them at a named place, in {took} s; {changes} versions and ends of rules"
    );
}

/// An answer of a process's own HTTP server, with its head.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Processes other than 0 tell of their partitions, each of which is one process's, and of nothing that process 0 alone knows.
fn assert_shares(broker: &Broker, shown: &[String; 3]) {
    assert!(TcpStream::connect(&shown[0]).is_err(), "process 0 has what the configuration says");
    let mut seen = BTreeSet::new();
    for address in &shown[1..] {
        assert!(get(address, "/readyz").ends_with("ready\n") && get(address, "/healthz").ends_with("ok\n"));
        assert!(get(address, "/status").starts_with("HTTP/1.1 404") && get(address, "/").starts_with("HTTP/1.1 404"));
        let text = get(address, "/metrics");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("# EOF\n"), "{text}");
        for line in text.lines().filter(|line| line.starts_with("clickline_partition_lag{")) {
            assert!(seen.insert(line.split('}').next().expect("labels").to_owned()), "two processes have {line}");
        }
        assert!(text.contains("\nclickline_held_clicks ") && text.contains("\nclickline_ready 1"), "{text}");
        assert!(!text.contains("clickline_transactions") && !text.contains("hubspot_"), "{text}");
    }
    let reader: BaseConsumer = broker.client(&[]).create().expect("a consumer");
    let metadata = reader.fetch_metadata(None, Duration::from_secs(30)).expect("the broker answers");
    let read = ["clicks", "forms", "crm.contacts", "crm.deals"];
    let partitions: usize =
        metadata.topics().iter().filter(|topic| read.contains(&topic.name())).map(|topic| topic.partitions().len()).sum();
    assert!(!seen.is_empty() && seen.len() < partitions, "of {partitions} partitions they have {seen:?}");
}

/// A machine is unplugged: the other one gets no answer, no reset and no end of the connection. Which one the seed says; both in the long form.
#[test]
fn a_machine_that_vanishes_without_a_word_is_noticed_and_nothing_is_lost() {
    let Some(network) = Network::lay_if_possible(2) else { return };
    let Some(broker) = Broker::start_on_if_there(&network.here()) else { return };
    let (rounds, seed) = (number("CLICKLINE_CLUSTER_ROUNDS", 9), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed}");
    let mut course = Course::begin(broker, seed, 40);
    let hostfile = course.folder.path().join("machines.hosts");
    fs::write(&hostfile, [0, 1].map(|machine| format!("{}:2101", network.address(machine))).join("\n")).expect("writes");
    let hostfile = hostfile.display().to_string();
    let start = |course: &Course, name: &str| {
        [0, 1].map(|machine| {
            let command = network.command(machine, env!("CARGO_BIN_EXE_clickline"));
            let arguments = ["--hostfile", &hostfile, "--process", &machine.to_string()];
            Process::run(command, &course.config, course.folder.path().join(format!("{name}.{machine}.log")), &arguments, None)
        })
    };
    for vanishes in [0, 1].into_iter().filter(|machine| rounds > 9 || seed % 2 == *machine as u64) {
        let mut all = start(&course, &format!("without{vanishes}"));
        // In the middle of its work.
        all.iter_mut().for_each(|process| process.wait_to_say("ready"));
        network.unplug(vanishes);
        let began = Instant::now();
        // To the one that vanished it is the other that did, and the brokers: it takes its leave of them in vain.
        for machine in [1 - vanishes, vanishes] {
            let process = &mut all[machine];
            process.expect(1, if machine == vanishes { TO_MISS + TO_STOP } else { TO_MISS });
            println!("machine {vanishes} is gone; {machine} has ended after {} ms", began.elapsed().as_millis());
            let said = process.said();
            assert!(said.contains("has ended or can't be reached") && !said.contains("panicked"), "without {vanishes}:\n{said}");
        }
        network.plug_in(vanishes);
    }
    let mut all = start(&course, "last");
    let end = course.last_tick();
    wait_for("the job's clock", || {
        if let Some(ended) = all.iter_mut().find_map(|process| Some((process.ended()?, process.said()))) {
            panic!("a process ended by itself: {ended:?}");
        }
        (frontier(&course.broker) > end).then_some(())
    });
    all.iter().for_each(Process::ask_to_stop);
    all.iter_mut().for_each(|process| process.expect(0, TO_STOP));
    let verdict = course.judge(end);
    println!("{} records, {} outputs in {} s", verdict.records, verdict.outputs, verdict.took.as_secs());
}

/// A configuration that no broker answers.
fn configuration(folder: &Path, name: &str, threshold: u64, cluster: &str) -> PathBuf {
    let text = format!(
        "kafka: {{brokers: '127.0.0.1:1'}}
{cluster}
workspaces:
  w:
    portals: [1]
    rules:
      - trigger: {{link_tag: x, contact_window: 30d, click_threshold: {threshold}}}
        action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}
"
    );
    let path = folder.join(name);
    fs::write(&path, text).expect("writes");
    path
}

#[test]
fn a_process_with_another_configuration_is_refused_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses = free_addresses::<3>();
    let cluster = format!("cluster: {{hosts: ['{}']}}", addresses.join("', '"));
    let (ours, other) = (configuration(folder.path(), "ours", 2, &cluster), configuration(folder.path(), "other", 3, &cluster));
    let start =
        |process: &str, config: &Path| Process::start(config, folder.path().join(format!("{process}.log")), &["--process", process], None);
    let mut all = vec![start("0", &ours), start("1", &ours)];
    all[0].wait_to_say(&format!("waiting for process 1 at {}, process 2 at {}", addresses[1], addresses[2]));
    all[1].wait_to_say(&format!("waiting for process 2 at {}", addresses[2]));
    all.push(start("2", &other));
    for process in &mut all {
        process.expect(2, TO_FAIL);
        let said = process.said();
        let named = format!(
            "process 2 at {} does not have the configuration of process 0 at {}: they differ in rules;",
            addresses[2], addresses[0]
        );
        assert!(said.contains(&named), "{said}");
    }
}

#[test]
fn asked_to_stop_before_all_are_there_a_process_ends_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses = free_addresses::<2>();
    let hostfile = folder.path().join("hosts");
    fs::write(&hostfile, addresses.join("\n")).expect("writes");
    let (config, hostfile) = (configuration(folder.path(), "c", 2, ""), hostfile.display().to_string());
    for process in ["0", "1"] {
        let log = folder.path().join(format!("{process}.log"));
        let mut process = Process::start(&config, log, &["--hostfile", &hostfile, "--process", process], None);
        process.wait_to_say("waiting for process");
        process.ask_to_stop();
        process.expect(0, TO_STOP);
    }
    // Both are there, but no broker is.
    let mut all = ["0", "1"].map(|process| {
        let log = folder.path().join(format!("again{process}.log"));
        Process::start(&config, log, &["--hostfile", &hostfile, "--process", process], None)
    });
    all[1].wait_to_say("all processes are there");
    all[0].wait_to_say("do not answer");
    all.iter().for_each(Process::ask_to_stop);
    for process in &mut all {
        process.expect(0, TO_STOP);
    }
}

#[test]
fn wrong_numbers_and_addresses_are_mistakes_of_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = configuration(folder.path(), "c", 2, "");
    let hostfile = folder.path().join("hosts");
    let name = hostfile.display().to_string();
    for (number, (hosts, arguments, says)) in [
        ("a:1\n", vec!["--processes", "2", "--process", "0"], "has 1 addresses for 2 processes"),
        ("a:1\na:1\n", vec!["--process", "0"], "line 2, `a:1`, stands there twice"),
        ("a:1\nb:2\n", vec!["--process", "2"], "numbered from 0 to 1"),
        ("a:1\nb:2\n", vec![], "--process 0 to 1"),
        ("192.0.2.1:2101\nb:2\n", vec!["--process", "0"], "not an address of this machine"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&hostfile, hosts).expect("writes");
        let arguments: Vec<&str> = ["--hostfile", &name].into_iter().chain(arguments).collect();
        let mut process = Process::start(&config, folder.path().join(format!("{number}.log")), &arguments, None);
        process.expect(2, TO_FAIL);
        assert!(process.said().contains(says), "{says}: {}", process.said());
    }
    let arguments = ["--hostfile", "no-such-file", "--process", "0"];
    let mut process = Process::start(&config, folder.path().join("none.log"), &arguments, None);
    process.expect(2, TO_FAIL);
    assert!(process.said().contains("cannot read the hostfile no-such-file"), "{}", process.said());
    let arguments = ["--processes", "2", "--process", "1", "--metrics", "0.0.0.0:0"];
    let mut process = Process::start(&config, folder.path().join("open.log"), &arguments, None);
    process.expect(2, TO_FAIL);
    let says = "--metrics: http.listen: 0.0.0.0:0 is open to other machines";
    assert!(process.said().contains(says) && process.said().contains("http.token_env"), "{}", process.said());
    let wrong = configuration(folder.path(), "wrong", 2, "cluster: {hosts: ['a:1', 'b']}");
    let mut process = Process::start(&wrong, folder.path().join("wrong.log"), &[], None);
    process.expect(2, TO_FAIL);
    assert!(process.said().contains("cluster.hosts: line 2, `b`, is no address"), "{}", process.said());
}
