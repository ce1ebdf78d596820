//! All real clicks of 1.usa.gov through a real Apache Kafka, the whole job and the HubSpot sink into a sandbox, and what a
//! plain program says must come.
//!
//! # Meaning
//! `usagov/convert.py` makes click, form, contact and deal records of the recorded clicks; they are put on the topics as the
//! redirect server and the mirror would; the job runs until its clock has passed them; what readers of committed records
//! find on the output topics is compared, record by record, with what `usagov/expect.py` works out from the same files. On the
//! way the job is stopped and started again, and the broker is killed and started again. Then
//! the sink writes all of it to a sandbox at HubSpot's own rate, and what the sandbox holds in the end is compared too: every
//! event, every contact's last campaign values, every stage that a deal was in.
//!
//! # Ties and edges
//! The clicks are thirteen years old, and an append time cannot be chosen. So the input topics of this test keep the
//! producer's times: the greatest event time so far, as in a replay. When they have been read to their end the job's clock
//! jumps to the present; `--run-on` tells the plain program.

mod support;

use clickline::config::rules;
use clickline::dataflow::plan::{Plan, Times, WorkspaceSpec};
use clickline::job::{Job, JobConfig};
use clickline::kafka::Kafka;
use clickline::model::outputs::Topic;
use clickline::model::time::{Ms, now};
use clickline::sinks::hubspot::{Settings, Sink};
use clickline::sources::kafka::Limits;
use clickline::stop::Stop;
use clickline_sandbox::Sandbox;
use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::kafka::Broker;

/// The workspace and portal that `convert.py` writes.
const WORKSPACE: &str = "usagov";
const PORTAL: &str = "1776";
const TICK: Ms = 1_000;
/// When the job is stopped, and when the broker is killed, by the job's clock: 15 January and 9 February 2013.
const STOP_AT: Ms = 1_358_208_000_000;
const KILL_AT: Ms = 1_360_368_000_000;
/// For each wait; the whole takes about four minutes.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn every_real_click_through_kafka_and_the_job_comes_out_as_expected() {
    let Some(clicks) = recorded_clicks() else { return };
    let Some(mut broker) = Broker::start_if_there() else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("usagov");
    python("convert.py", &[&clicks, &folder], &[]);
    python("expect.py", &[&folder, &folder.join("expected")], &["--run-on"]);

    for (topic, kept) in [("clicks", "delete"), ("forms", "delete"), ("crm.contacts", "compact"), ("crm.deals", "compact")] {
        let options = [("message.timestamp.type", "CreateTime"), ("cleanup.policy", kept), ("retention.ms", "-1")];
        broker.create_topic(topic, 1, &options);
    }
    let began = Instant::now();
    let sent: usize = ["clicks", "forms", "contacts", "deals"].into_iter().map(|kind| produce(&broker, kind, &folder)).sum();
    println!("{sent} records on the topics after {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let starts = run_job(&mut broker, &folder);
    println!("the job was through after {:.1} s and {starts} starts", began.elapsed().as_secs_f64());

    let out = folder.join("out");
    fs::create_dir_all(&out).expect("a folder");
    for topic in Topic::ALL {
        consume(&broker, topic.default_name(), &out.join(format!("{}.jsonl", topic.default_name())));
    }
    python("check.py", &[&out, &folder.join("expected")], &[]);

    let began = Instant::now();
    let sandbox = hubspot(&folder);
    println!("the sandbox was filled after {:.1} s", began.elapsed().as_secs_f64());
    deliver(&broker, &sandbox);
    write_snapshot(&sandbox, &folder.join("snapshot"));
    python("check_hubspot.py", &[&folder, &folder.join("expected"), &folder.join("snapshot")], &[]);
}

/// The folder of bit.ly's files, if this machine has it.
fn recorded_clicks() -> Option<PathBuf> {
    let folder = std::env::var_os("CLICKLINE_DATA").map(|data| PathBuf::from(data).join("clicks/1usagov")).filter(|folder| folder.is_dir());
    if folder.is_none() {
        eprintln!("left out: no recorded clicks here; CLICKLINE_DATA names the folder that holds clicks/1usagov");
    }
    folder
}

/// Runs one of the plain programs; its words are the test's.
fn python(program: &str, folders: &[&Path], options: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usagov").join(program);
    let output = Command::new("python3").arg(path).args(folders).args(options).output().expect("python3 starts");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn job_config(broker: &Broker, folder: &Path) -> JobConfig {
    let rules = rules::read(&fs::read_to_string(folder.join("rules.yaml")).expect("rules")).expect("rules");
    let specs = [WorkspaceSpec { name: WORKSPACE.into(), portals: vec![PORTAL.into()], ..WorkspaceSpec::default() }];
    let plan = Plan::new(Times::with_tick(TICK), &specs, &rules, |_, _| 0).expect("a plan");
    JobConfig {
        kafka: Kafka::at(broker.address()),
        plan,
        workers: 2,
        hosts: None,
        limits: Limits::default(),
        snapshots: None,
        accept_gaps: false,
        now: Arc::new(now),
    }
}

/// Runs the job until its clock has passed all records, with what a bad day brings: it is stopped once, and once the broker is
/// killed under it. A job that ends by itself is started again, as a supervisor would. Says how many starts it took.
fn run_job(broker: &mut Broker, folder: &Path) -> usize {
    let began = Instant::now();
    let all_read_by = now() + TICK;
    let (mut stopped, mut killed) = (false, false);
    for start in 1..=5 {
        let job = Job::start(job_config(broker, folder), Stop::new()).expect("starts");
        while !job.ended() {
            let frontier = job.frontier();
            if frontier > all_read_by {
                job.stop().expect("ends as asked");
                assert!(stopped && killed, "the bad day came");
                return start;
            }
            if !stopped && frontier > STOP_AT {
                stopped = true;
                job.stop().expect("ends as asked");
                break;
            }
            if stopped && !killed && frontier > KILL_AT {
                killed = true;
                broker.kill();
                broker.restart();
            }
            assert!(began.elapsed() < LIMIT, "the job's clock stands at {frontier}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!("the job does not come to an end");
}

/// Puts a file's lines on their topic, at the greatest time of the file so far; says how many.
fn produce(broker: &Broker, kind: &str, folder: &Path) -> usize {
    let (topic, id) = match kind {
        "contacts" => ("crm.contacts", Some("contact_id")),
        "deals" => ("crm.deals", Some("deal_id")),
        _ => (kind, None),
    };
    let options = [("enable.idempotence", "true"), ("linger.ms", "20"), ("compression.type", "zstd")];
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&options).create().expect("a producer");
    let file = File::open(folder.join(format!("{kind}.jsonl"))).expect("convert.py wrote it");
    let (mut lines, mut log_time) = (0, 1);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.expect("readable");
        // Some lines are cut off in the recording; they go on the topic as they are.
        let record: Value = serde_json::from_slice(&line).unwrap_or_default();
        log_time = record["ts"].as_i64().unwrap_or(0).max(log_time);
        let key = id.map(|id| format!("{PORTAL}/{}", record[id].as_str().expect("an id")));
        let mut queued = BaseRecord::to(topic).payload(&line).timestamp(log_time);
        if let Some(key) = &key {
            queued = queued.key(key);
        }
        while let Err((error, record)) = producer.send(queued) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "only a full queue is waited for");
            std::thread::sleep(Duration::from_millis(10));
            queued = record;
        }
        lines += 1;
    }
    producer.flush(LIMIT).expect("acknowledged");
    lines
}

/// Writes the committed records of a topic to a file, one a line.
fn consume(broker: &Broker, topic: &str, path: &Path) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    broker.read(topic, "read_committed", |message| {
        file.write_all(message.payload().expect("an output has a value")).expect("writes");
        file.write_all(b"\n").expect("writes");
    });
    file.flush().expect("writes");
}

/// A HubSpot that holds what `convert.py` says it held when the clicks began.
fn hubspot(folder: &Path) -> Sandbox {
    let sandbox = Sandbox::start(clickline_sandbox::Config { portals: vec![PORTAL.to_owned()], ..Default::default() }).expect("starts");
    let start: Value = serde_json::from_slice(&fs::read(folder.join("hubspot.json")).expect("convert.py wrote it")).expect("JSON");
    let list = |name: &str| start[name].as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    for contact in list("contacts") {
        let email = contact["email"].as_str().map(|email| ("email", email));
        sandbox.create_contact(PORTAL, Some(&text(&contact["id"])), email.as_slice());
    }
    for merge in list("merges") {
        sandbox.merge_contacts(PORTAL, &text(&merge[0]), &text(&merge[1]));
    }
    for deal in list("deals") {
        let (stage, amount) = (text(&deal["stage"]), deal["amount"].as_f64().map(|amount| amount.to_string()));
        let mut properties = vec![("dealstage", stage.as_str())];
        properties.extend(amount.as_deref().map(|amount| ("amount", amount)));
        let contacts: Vec<String> = deal["contacts"].as_array().expect("a list").iter().map(text).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        sandbox.create_deal(PORTAL, Some(&text(&deal["id"])), &properties, &contacts);
    }
    sandbox
}

/// Lets the sink write all deltas to the sandbox, at the rate that HubSpot allows an app: 110 requests in 10 s.
fn deliver(broker: &Broker, sandbox: &Sandbox) {
    let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
    let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
    // Many addresses are nobody's contact yet: they become one, as an account may wish.
    settings.portals.values_mut().for_each(|portal| portal.create_contacts = true);
    settings.park_retry = Duration::from_secs(1);
    let state = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let sink = Sink::start(settings, Kafka::at(broker.address()), vec![PORTAL.to_owned()], &state.path().join("state.db")).expect("starts");
    while !sink.stats().caught_up || sink.stats().parked > 0 {
        assert!(sink.running(), "the sink ended: {:?}", sink.stop());
        assert!(began.elapsed() < 2 * LIMIT, "the sink stands at {:?}", sink.stats());
        std::thread::sleep(Duration::from_millis(100));
    }
    let stats = sink.stop().expect("ends as asked");
    let took = began.elapsed().as_secs_f64();
    println!("delivered after {took:.1} s, {:.0} events/s: {stats:?}", stats.events as f64 / took);
    assert_eq!(stats.rate_limited, 0, "the sink keeps to the limit by itself");
}

/// Writes what the sandbox holds for `check_hubspot.py`.
fn write_snapshot(sandbox: &Sandbox, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let snapshot = sandbox.snapshot(PORTAL);
    let write = |name: &str, records: &mut dyn Iterator<Item = Value>| {
        let mut file = BufWriter::new(File::create(folder.join(name)).expect("a file"));
        records.for_each(|record| writeln!(file, "{record}").expect("writes"));
        file.flush().expect("writes");
    };
    write(
        "events.jsonl",
        &mut snapshot.events.iter().map(|e| json!({"id": e.id, "contact": e.object_id, "title": e.title, "ts": e.timestamp_ms})),
    );
    write(
        "contacts.jsonl",
        &mut snapshot.contacts.iter().map(|contact| {
            let ours: BTreeMap<_, _> = contact.properties.iter().filter(|(name, _)| name.starts_with("elido_")).collect();
            json!({"id": contact.id, "email": contact.properties.get("email"), "properties": ours})
        }),
    );
    write(
        "deals.jsonl",
        &mut snapshot.deals.iter().map(|deal| {
            let stages: Vec<&str> = deal.stages.iter().map(|change| change.stage.as_str()).collect();
            json!({"id": deal.id, "stages": stages})
        }),
    );
}
