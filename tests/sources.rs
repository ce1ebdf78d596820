//! The real `clickline run` fills its inputs on a real Apache Kafka: HubSpot's webhooks and form posts come in over HTTP, and the
//! process is killed (SIGKILL) in the middle of it, three times.
//!
//! In the end the mirror says what the sandbox does, no record was written that stood there already, and every form that was answered
//! with 200 is in its topic. A stop then ends the process within the contract's ten seconds, although no broker answers.

mod support;

use clickline::sources::forms::sign;
use clickline::state::State;
use clickline_sandbox::{Config, Sandbox, Snapshot};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::hubspot::{client, status, subscribe};
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;

const PORTAL: &str = "4242";
const FORMS_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A job in a process of its own.
struct Job {
    child: Child,
    log: PathBuf,
}

impl Job {
    fn start(folder: &Path, refresh_token: &str, address: &str) -> Job {
        let log = folder.join("clickline.log");
        let file = || File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--no-sink", "--config"]).arg(folder.join("clickline.yaml"));
        command.env("HUBSPOT_SECRET", "sandbox-secret").env("REFRESH_TOKEN", refresh_token).env("FORMS_SECRET", FORMS_SECRET);
        let child = command.stdin(Stdio::null()).stdout(file()).stderr(file()).env("RUST_LOG", "info").spawn().expect("starts");
        let mut job = Job { child, log };
        wait_for("the job's HTTP server", || {
            let ended = job.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "it has ended: {}", fs::read_to_string(&job.log).unwrap_or_default());
            status(client().get(format!("http://{address}/healthz")))
        });
        job
    }

    fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A day in the company, as far as the mirror is concerned.
fn happen(sandbox: &Sandbox, round: usize) {
    let contacts: Vec<String> =
        (0..6).map(|at| sandbox.create_contact(PORTAL, None, &[("email", &format!("{round}-{at}@example.com"))])).collect();
    let deal = |of: &[&str]| {
        sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled"), ("amount", "5000")], of)
    };
    let (first, second) = (deal(&[&contacts[0], &contacts[1]]), deal(&[&contacts[2]]));
    sandbox.edit_deal(PORTAL, &first, &[("dealstage", "qualifiedtobuy")]);
    sandbox.merge_contacts(PORTAL, &contacts[3], &contacts[0]);
    sandbox.archive_contact(PORTAL, &contacts[2]);
    sandbox.erase_contact(PORTAL, &contacts[4]);
    sandbox.associate(PORTAL, &contacts[5], &second);
    sandbox.dissociate(PORTAL, &contacts[1], &first);
    sandbox.edit_contact(PORTAL, &contacts[5], &[("email", &format!("{round}-new@example.com"))]);
    if round.is_multiple_of(2) {
        sandbox.archive_deal(PORTAL, &second);
    }
}

/// Key → the records of it, in their order.
fn records(broker: &Broker, topic: &str) -> BTreeMap<String, Vec<Option<Value>>> {
    let mut records: BTreeMap<String, Vec<Option<Value>>> = BTreeMap::new();
    broker.read(topic, "read_uncommitted", |message| {
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let value = message.payload().map(|payload| serde_json::from_slice(payload).expect("JSON"));
        records.entry(key).or_default().push(value);
    });
    records
}

fn mirrored(broker: &Broker) -> BTreeMap<String, Value> {
    let all = records(broker, "crm.contacts").into_iter().chain(records(broker, "crm.deals"));
    all.filter_map(|(key, mut records)| Some((key, records.pop()??))).collect()
}

fn wanted(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    let mut wanted = BTreeMap::new();
    for contact in &snapshot.contacts {
        let listed = contact.properties.get("hs_additional_emails").map(String::as_str).unwrap_or_default();
        let additional: BTreeSet<&str> = listed.split(';').filter(|email| !email.is_empty()).collect();
        let record = json!({ "v": 1, "portal": PORTAL, "contact_id": contact.id, "email": contact.properties.get("email"),
            "additional_emails": additional, "merged_ids": contact.merged_ids });
        wanted.insert(format!("{PORTAL}/{}", contact.id), record);
    }
    for deal in &snapshot.deals {
        let mut contacts = deal.contact_ids.clone();
        contacts.sort_by_key(|id| id.parse::<u64>().expect("a number"));
        let record = json!({ "v": 1, "portal": PORTAL, "deal_id": deal.id, "pipeline": "default", "stage": deal.properties["dealstage"],
            "amount": 5000.0, "contact_ids": contacts });
        wanted.insert(format!("{PORTAL}/{}", deal.id), record);
    }
    wanted
}

/// Waits until the mirror says what the sandbox does.
fn agrees(broker: &Broker, sandbox: &Sandbox) {
    wait_for("the mirror to say what HubSpot does", || (mirrored(broker) == wanted(&sandbox.snapshot(PORTAL))).then_some(()));
}

/// Writes something to a topic of one partition, and deletes all that is in it.
fn forget(broker: &Broker, topic: &str) {
    let producer: BaseProducer = broker.client(&[]).create().expect("a producer");
    for _ in 0..3 {
        producer.send(BaseRecord::<(), str>::to(topic).payload("{}")).expect("sends");
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset(topic, 0, Offset::End).expect("an offset");
    let admin: AdminClient<DefaultClientContext> = broker.client(&[]).create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let deleted = runtime.block_on(admin.delete_records(&upto, &AdminOptions::new())).expect("the node answers");
    assert!(deleted.elements().iter().all(|partition| partition.error().is_ok()), "{deleted:?}");
}

/// Posts a form, as often as it takes.
fn post(address: &str, id: &str) {
    let body = format!(r#"{{"id":"{id}","email":"{id}@example.com","gclid":"g-{id}"}}"#);
    wait_for(&format!("the form {id} to be taken"), || {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
        let at = u64::try_from(at).expect("before the year 10000");
        let call = client().post(format!("http://{address}/forms/acme")).header("x-clickline-key", "website");
        let call = call.header("x-clickline-timestamp", at.to_string()).header("content-type", "application/json");
        let call = call.header("x-clickline-signature", sign(FORMS_SECRET.as_bytes(), at, body.as_bytes())).body(body.clone());
        let status = status(call)?;
        assert!(matches!(status, 200 | 503), "{status}");
        (status == 200).then_some(())
    });
}

/// Beside a running job one person is erased in HubSpot and another by command; neither is left, and it is said what stays until when.
fn erased(broker: &Broker, sandbox: &Sandbox, folder: &Path) {
    let contact = |name: &str| sandbox.create_contact(PORTAL, None, &[("email", &format!("canary-{name}@example.com"))]);
    let (there, here) = (contact("there"), contact("here"));
    let (count, producer): (_, BaseProducer) = (format!("{PORTAL}/{there}/x"), broker.client(&[]).create().expect("a producer"));
    let value = json!({ "v": 1, "portal": PORTAL, "contact_id": there, "count": 3 }).to_string();
    producer.send(BaseRecord::to("clicks.counts").key(&count).payload(&value)).map_err(|(error, _)| error).expect("sends");
    producer.flush(Duration::from_secs(30)).expect("delivered");
    agrees(broker, sandbox);
    sandbox.erase_contact(PORTAL, &there);
    agrees(broker, sandbox);
    wait_for("the job to go through its topics", || records(broker, "clicks.counts")[&count].last()?.is_none().then_some(()));
    let state = State::open(&folder.join("clickline.sqlite")).expect("opens");
    let known = state.erased().expect("reads");
    assert!(known.contact(PORTAL, &there) && known.email(PORTAL, "canary-there@example.com") && !known.contact(PORTAL, &here));

    let forget = |args: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        let output = command.args(["forget", "--format", "json", "--config"]).arg(folder.join("clickline.yaml")).args(args).output();
        let output = output.expect("runs");
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !said.contains("canary") && !errors.contains("canary"), "{said}\n{errors}");
        serde_json::from_str(&said).expect("JSON")
    };
    let last = || records(broker, "crm.contacts")[&format!("{PORTAL}/{here}")].last().cloned().flatten();
    for (args, is_there, ended) in [
        (&["--contact", &here, "--check"][..], true, json!({"crm.contacts": 1})),
        (&["--email", " Canary-Here@example.com"], false, json!({"crm.contacts": 1})),
        (&["--contact", &here], false, json!({})),
    ] {
        let now = clickline::model::time::now();
        let said = &forget(args)["accounts"][0];
        assert_eq!((&said["contacts"], &said["addresses"], &said["tombstones"]), (&json!([here]), &json!(1), &ended), "{args:?}: {said}");
        assert_eq!(last().is_some(), is_there, "{args:?}");
        let clicks = said["left"].as_array().expect("a list").iter().find(|left| left["topic"] == "clicks").expect("they stay");
        // 36 days and the five minutes that clocks may be ahead.
        let kept = clicks["until"].as_u64().expect("a time") - now;
        assert!((3_110_700_000..3_110_700_000 + 3_600_000).contains(&kept), "{args:?}: {clicks}");
    }
    assert!(state.erased().expect("reads").contact(PORTAL, &here));
    for file in ["", "-wal"] {
        let bytes = fs::read(folder.join(format!("clickline.sqlite{file}"))).unwrap_or_default();
        assert!(!bytes.windows(6).any(|part| part == b"canary"), "clickline.sqlite{file} has an address");
    }
}

#[test]
fn the_inputs_are_filled_whatever_kills_the_process() {
    let Some(broker) = Broker::start_if_there() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let [address] = free_addresses();
    let port = address.rsplit(':').next().expect("a port");
    // Webhooks that find nobody come again soon: HubSpot does it for a day.
    let retries = vec![Duration::from_millis(300); 200];
    let sandbox = Sandbox::start(Config { webhook_retries: retries, burst_limit: 100_000, ..Config::default() }).expect("a sandbox");
    let token = sandbox.refresh_token(PORTAL);
    let config = format!(
        "kafka: {{brokers: '{}'}}\nworkspaces: {{acme: {{portals: ['{PORTAL}']}}}}\nhttp: {{listen: '{address}', public_url: 'http://localhost:{port}'}}\n\
         crm: {{changes: webhooks}}\nforms: {{keys: {{website: {{workspace: acme, secret_env: FORMS_SECRET}}}}}}\n\
         hubspot:\n  base_url: '{}'\n  client_id: clickline\n  client_secret_env: HUBSPOT_SECRET\n  connections: {{seal: 'off'}}\n  \
         portals: {{'{PORTAL}': {{refresh_token_env: REFRESH_TOKEN, event_template_id: '1'}}}}\n",
        broker.address(),
        sandbox.url(),
    );
    fs::write(folder.path().join("clickline.yaml"), config).expect("writes");
    subscribe(&sandbox, &format!("http://localhost:{port}/hubspot/webhooks"));

    happen(&sandbox, 0);
    for round in 1..4 {
        let job = Job::start(folder.path(), &token, &address);
        post(&address, &format!("f-{round}"));
        happen(&sandbox, round);
        // At another moment each time: within the start, within the load, and among the changes that follow.
        match round {
            1 => {}
            2 => std::thread::sleep(Duration::from_millis(300)),
            _ => agrees(&broker, &sandbox),
        }
        job.kill();
        happen(&sandbox, round + 10);
    }
    // What was written down of webhooks is lost before it is read, with more behind it: then nothing but all helps.
    forget(&broker, "clickline.changes");
    let mut job = Job::start(folder.path(), &token, &address);
    happen(&sandbox, 20);
    agrees(&broker, &sandbox);
    for topic in ["crm.contacts", "crm.deals"] {
        for (key, records) in records(&broker, topic) {
            assert!(records.windows(2).all(|two| two[0] != two[1]), "{topic} {key} says something twice: {records:?}");
        }
    }
    let forms = records(&broker, "forms");
    let ids: Vec<&str> = forms["acme"].iter().filter_map(|form| form.as_ref()?["id"].as_str()).collect();
    assert_eq!(ids, ["f-1", "f-2", "f-3"]);

    erased(&broker, &sandbox, folder.path());

    // Brokers that do not answer make no difference to that.
    broker.freeze();
    let began = Instant::now();
    Command::new("kill").arg(job.child.id().to_string()).status().expect("a signal");
    let ended = job.child.wait().expect("our own child");
    assert!(ended.success() && began.elapsed() < Duration::from_secs(10), "{ended} after {:?}", began.elapsed());
    broker.thaw();
    let said = fs::read_to_string(&job.log).expect("a log");
    assert!(said.contains("everything is read again"), "what was lost was noticed: {said}");
    assert!(!said.contains("@example.com") && !said.contains(&token), "no address and no token in a log");
}
