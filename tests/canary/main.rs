//! Canaries: values that nobody else uses stand for every secret and for people's addresses, go through the whole system, and are then
//! looked for in everything that was written. Traces of all clicks go to a collector, which must see each click's way as one trace.
//!
//! A visitor clicks on the real redirect server (spool, signed links, hashed addresses), a website posts forms, a real `clickline run`
//! reads them from a real Apache Kafka, loads the mirror, refreshes tokens and writes to the sandbox; HubSpot refuses a record with a
//! person's address in its words, ClickHouse refuses the password, callers come with wrong tokens. [`ALLOWED`] lists where a
//! canary may be; it must be there, so that a place nobody looks at is noticed.

mod collector;
mod listen;
mod search;
#[path = "../support/mod.rs"]
mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickline::sources::forms::sign as sign_form;
use clickline_redirect::{
    AddressKey, Capture, ClientAddress, Config, EidConfig, EidPolicy, KafkaConfig, KeySource, Keys, ProxyConfig, Scope, Server,
    SpoolConfig, VisitorConfig, sign,
};
use clickline_sandbox::{App, Rotation, Sandbox};
use collector::Collector;
use listen::{Heard, between, refusing_clickhouse, relay};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use search::{Canary, Place, found, judge};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;

const PORTAL: &str = "4242";

const KNOWN: &str = "canary.known.k7@example.com";
const UNKNOWN: &str = "canary.unknown.u8@example.com";
const SPOILT: &str = "canary.spoilt.s9@example.com";
const IN_QUERY: &str = "canary.query.q1@example.com";
const IN_REFERRER: &str = "canary.referrer.r5@example.com";
const VISITOR: &str = "203.0.113.77";
const WEBSITE: &str = "198.51.100.188";
const COOKIE: &str = "canary-cookie-5d1c9e0b7a";
const CLIENT_SECRET: &str = "canary-client-secret-c41d";
const HTTP_TOKEN: &str = "canary-http-token-08f3be21";
const WRONG_TOKEN: &str = "canary-wrong-token-77aa10";
const FORMS_SECRET: &str = "canary-forms-secret-5b19f2d86c3e";
const DEVELOPER_KEY: &str = "canary-developer-key-62be";
const CLICKHOUSE: &str = "canary-clickhouse-pw-3f6a";
const EID_SECRET: &[u8; 32] = b"canary-eid-signing-secret-9e21b7";
const ADDRESS_KEY: &str = "canary-address-key-41c8d7";
const TOKEN_KEY: &[u8; 32] = b"canary-key-that-seals-tokens-b05";

/// Where a canary may be. Everything else is a leak.
const ALLOWED: [(&str, &[&str]); 5] = [
    // A contact of the mirror: deltas name it by its id.
    ("e-mail of a contact", &["topic forms", "topic crm.contacts", "snapshots"]),
    // A person whom HubSpot does not know: the address is all that the deltas have. What HubSpot refused is kept as it was, and shown to
    // whoever decides about it.
    (
        "e-mail of somebody unknown",
        &[
            "topic forms",
            "topic hubspot.timeline",
            "topic hubspot.contact-properties",
            "topic clicks.counts",
            "topic dead-letters, payloads",
            "snapshots",
            "/dead-letters",
        ],
    ),
    // A form that could not be read: its bytes are kept, and nothing that is said about them quotes them.
    ("e-mail in a spoilt form", &["topic forms", "topic dead-letters, payloads", "snapshots", "/dead-letters"]),
    // The address of the page that a visitor came from is kept as that page wrote it, but for the marks of ad networks. HubSpot hears its public
    // part alone, see below.
    (
        "e-mail in a referrer",
        &["topic clicks", "topic hubspot.timeline", "topic dead-letters, payloads", "spool", "snapshots", "/dead-letters"],
    ),
    ("user agent", &["topic clicks", "spool", "snapshots"]),
];

/// Where a canary may be for as long as a record waits: what is delivered or refused is removed, and its page is written over, sooner or later.
const PASSING: [(&str, &str); 2] = [("e-mail of somebody unknown", "state database"), ("e-mail in a referrer", "state database")];

const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0 canaryagent";

/// A request, as bytes; the answer. Nobody's client library stands between.
fn talk(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: &str, path: &str, token: &str) -> String {
    talk(
        address,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nX-Forwarded-For: {WEBSITE}\r\nConnection: close\r\n\r\n"
        ),
    )
}

fn click(redirect: SocketAddr, path: &str) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: s.elido.me\r\nUser-Agent: {USER_AGENT}\r\nX-Forwarded-For: {VISITOR}\r\nCookie: session={COOKIE}\r\n\
         Referer: https://r.example/?email={IN_REFERRER}\r\nConnection: close\r\n\r\n"
    );
    let answer = talk(&redirect.to_string(), &request);
    assert!(answer.starts_with("HTTP/1.1 302"), "{path}: {answer}");
}

/// A form as a website posts it; the status of the answer.
fn post_form(address: &str, id: &str, email: &str, gclid: &str, secret: &str) -> u16 {
    let at = clickline::model::time::now();
    let body = json!({"id": id, "email": email, "gclid": gclid}).to_string();
    let signature = sign_form(secret.as_bytes(), at, body.as_bytes());
    let answer = talk(
        address,
        &format!(
            "POST /forms/acme HTTP/1.1\r\nHost: {address}\r\nX-Forwarded-For: {WEBSITE}\r\nContent-Type: application/json\r\nx-clickline-key: website\r\n\
             x-clickline-timestamp: {at}\r\nx-clickline-signature: {signature}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    );
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"))
}

fn redirect(folder: &Path, broker: &Broker, keys: Keys) -> Server {
    let links = folder.join("links.yaml");
    let text = "- {domain: s.elido.me, slug: a, workspace: acme, destination: 'https://acme.example/p', title: T, tags: [x]}\n";
    fs::write(&links, text).expect("written");
    let spool = folder.join("spool");
    fs::create_dir(&spool).expect("a folder");
    let visitors = VisitorConfig {
        eid: EidConfig { keys: Some(KeySource::Given(keys)), default: EidPolicy::Require, ..EidConfig::default() },
        client_address: ClientAddress::Hashed,
        address_key: AddressKey::new(ADDRESS_KEY.as_bytes()),
        ..VisitorConfig::default()
    };
    let config = Config {
        workers: 1,
        links_file: Some(links),
        kafka: Some(KafkaConfig::at(broker.address())),
        spool: Some(SpoolConfig { capture: Capture::Durable, ..SpoolConfig::at(spool) }),
        proxies: ProxyConfig { trusted: vec!["127.0.0.0/8".parse().expect("a network")], ..ProxyConfig::default() },
        metrics: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        visitors,
        ..Config::default()
    };
    let server = Server::start(config).expect("starts");
    assert!(server.ready(Duration::from_secs(60)), "the redirect server is ready");
    server
}

/// The job in a process of its own; ended with the test.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn job(folder: &Path, refresh_token: &str, collector: &str) -> Job {
    let file = || File::options().create(true).append(true).open(folder.join("job.log")).expect("a log");
    let mut command = clickline(folder, refresh_token);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_TRACES_SAMPLER_ARG", "1");
    command.args(["run", "--config"]).arg(folder.join("clickline.yaml")).stdin(Stdio::null()).stdout(file()).stderr(file());
    Job(command.spawn().expect("starts"))
}

/// The program with every secret in its environment, and all that it can say in its log.
fn clickline(folder: &Path, refresh_token: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.current_dir(folder);
    let environment = [
        ("RUST_LOG", "debug"),
        ("HUBSPOT_SECRET", CLIENT_SECRET),
        ("REFRESH_TOKEN", refresh_token),
        ("FORMS_SECRET", FORMS_SECRET),
        ("HTTP_TOKEN", HTTP_TOKEN),
        ("DEVELOPER_KEY", DEVELOPER_KEY),
        ("CLICKHOUSE_PASSWORD", CLICKHOUSE),
    ];
    command.envs(environment).env("CLICKLINE_TOKEN_KEYS", format!("k1:{}", STANDARD.encode(TOKEN_KEY)));
    command
}

/// What stands in a folder under names that begin so, each file with its bytes, all by one name.
fn files(name: &str, folder: &Path, prefix: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if !path.file_name().expect("a name").to_string_lossy().starts_with(prefix) {
            continue;
        }
        if path.is_dir() {
            places.extend(files(name, &path, ""));
        } else {
            places.push(Place { name: name.to_owned(), bytes: fs::read(&path).expect("a file") });
        }
    }
    places
}

/// Keys and values of a topic. Of a dead letter the bytes of the record that it keeps are a place of their own.
fn topic(broker: &Broker, topic: &str) -> Vec<Place> {
    let (mut said, mut kept) = (Vec::new(), Vec::new());
    broker.read(topic, "read_uncommitted", |message| {
        let value = message.payload().unwrap_or_default();
        let parsed = (topic == "dead-letters").then(|| serde_json::from_slice::<Value>(value).expect("JSON"));
        match parsed {
            Some(Value::Object(mut letter)) => {
                for field in ["payload_base64", "key_base64"] {
                    let bytes = letter.remove(field).and_then(|code| STANDARD.decode(code.as_str()?).ok());
                    kept.extend(bytes.into_iter().flatten());
                }
                said.extend(Value::Object(letter).to_string().into_bytes());
            }
            _ => said.extend_from_slice(value),
        }
        said.extend_from_slice(message.key().unwrap_or_default());
        said.push(b'\n');
    });
    let mut places = vec![Place { name: format!("topic {topic}"), bytes: said }];
    if topic == "dead-letters" {
        places.push(Place { name: format!("topic {topic}, payloads"), bytes: kept });
    }
    places
}

fn count(broker: &Broker, topic: &str) -> usize {
    let mut n = 0;
    broker.read(topic, "read_committed", |_| n += 1);
    n
}

fn text(heard: &Heard) -> String {
    String::from_utf8_lossy(&heard.lock().expect("not poisoned")).into_owned()
}

#[test]
fn no_secret_and_no_address_is_written_where_it_does_not_belong() {
    let Some(broker) = Broker::start_if_there() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    lines.with_writer(File::create(at("redirect.log")).expect("a log")).init();

    // Every click is traced, by the redirect server in this process and the job in its own.
    let (collector, traces_to) = Collector::start();
    let traces = clickline_trace::install_to(&format!("{traces_to}/v1/traces"), 1.0, "clickline-redirect", "0").expect("a tracer");

    // Others: HubSpot behind somebody who hears everything, a ClickHouse that refuses.
    let app = App { client_id: "clickline".into(), client_secret: CLIENT_SECRET.into() };
    let sandbox = Sandbox::start(clickline_sandbox::Config {
        apps: vec![app],
        developer_key: DEVELOPER_KEY.into(),
        rotation: Rotation::Always,
        ..Default::default()
    })
    .expect("a sandbox");
    sandbox.create_contact(PORTAL, Some("801"), &[("email", KNOWN)]);
    sandbox.create_deal(PORTAL, Some("9001"), &[("dealname", "d"), ("dealstage", "appointmentscheduled"), ("amount", "5000")], &["801"]);
    // HubSpot refuses a person and repeats the address, as it does.
    let words = format!("Email address {UNKNOWN} is invalid");
    let refusal = json!({"status": "error", "category": "VALIDATION_ERROR", "message": words, "correlationId": "c"});
    sandbox.fault(
        json!({"match": {"path": "*/contacts/batch/create", "body": UNKNOWN}, "fault": {"kind": "reply", "status": 400, "body": refusal}}),
    );
    let first_token = sandbox.refresh_token(PORTAL);
    let (hubspot, heard) = relay(sandbox.url().trim_start_matches("http://"));
    let (clickhouse, heard_of_clickhouse) = refusing_clickhouse();
    let [address] = free_addresses();
    let config = format!(
        "kafka: {{brokers: '{}'}}\nhttp: {{listen: '{address}', token_env: HTTP_TOKEN}}\nstate: state.sqlite\nsnapshots: snapshots\n\
         crm: {{changes: search}}\nforms: {{keys: {{website: {{workspace: acme, secret_env: FORMS_SECRET}}}}}}\n\
         clickhouse: {{url: 'http://{clickhouse}', user: clickline, password_env: CLICKHOUSE_PASSWORD}}\n\
         workspaces:\n  acme:\n    portals: ['{PORTAL}']\n    counts: all\n    rules:\n    - trigger: {{link_tag: x, contact_window: 30d, click_threshold: 2}}\n      \
         action: {{type: advance_deal_stage, pipeline: default, from_stage: appointmentscheduled, to_stage: qualifiedtobuy}}\n\
         hubspot:\n  base_url: 'http://{hubspot}'\n  client_id: clickline\n  client_secret_env: HUBSPOT_SECRET\n  developer_key_env: DEVELOPER_KEY\n  \
         portals: {{'{PORTAL}': {{refresh_token_env: REFRESH_TOKEN, app_id: {}, create_contacts: true}}}}\n",
        broker.address(),
        sandbox.app_id(0),
    );
    fs::write(at("clickline.yaml"), config).expect("written");
    let mut job = job(folder.path(), &first_token, &traces_to);
    let ready = || {
        let ended = job.0.try_wait().expect("our own child");
        assert!(ended.is_none(), "it has ended: {}", fs::read_to_string(at("job.log")).unwrap_or_default());
        let connected = TcpStream::connect(&address).is_ok();
        (connected && get(&address, "/readyz", "").starts_with("HTTP/1.1 200")).then_some(())
    };
    wait_for("the job to be ready", ready);

    // The visitors' side. While the brokers stand still the spool holds the clicks.
    let keys = Keys::parse(&format!("k1 {}", STANDARD.encode(EID_SECRET))).expect("keys");
    let eid = sign(keys.signing("acme").expect("a key"), "acme", Scope::Workspace, "801", None).expect("signed");
    let redirect = redirect(folder.path(), &broker, keys);
    broker.freeze();
    click(redirect.address(), &format!("/a?eid={eid}&email={IN_QUERY}&utm_source=webinar"));
    let mut places = files("spool", &at("spool"), "");
    broker.thaw();
    click(redirect.address(), &format!("/a?eid={eid}&utm_source=webinar"));
    click(redirect.address(), &format!("/a?gclid=of-the-unknown&email={IN_QUERY}&utm_source=ad"));

    // Forms: of the contact, of somebody new, one that can't be read, one with a wrong signature.
    for (id, email, gclid) in [("f-known", KNOWN, "of-the-known"), ("f-unknown", UNKNOWN, "of-the-unknown")] {
        assert_eq!(post_form(&address, id, email, gclid, FORMS_SECRET), 200);
    }
    assert_eq!(post_form(&address, "f-forged", KNOWN, "g", "another-secret-0123456789"), 401);
    let producer: BaseProducer = broker.client(&[]).create().expect("a producer");
    let spoilt = format!(r#"{{"v":1,"id":"f-spoilt","ts":"{SPOILT}","workspace":"acme","email":"{SPOILT}"}}"#);
    producer.send(BaseRecord::<str, str>::to("forms").payload(&spoilt)).map_err(|(error, _)| error).expect("queued");
    producer.flush(Duration::from_secs(30)).expect("delivered");

    wait_for("the deal to move", || (sandbox.snapshot(PORTAL).deals[0].properties["dealstage"] == "qualifiedtobuy").then_some(()));
    wait_for("both dead letters", || (count(&broker, "dead-letters") >= 2).then_some(()));

    // A new access token, for one more event.
    sandbox.expire_access_tokens(PORTAL);
    click(redirect.address(), &format!("/a?eid={eid}&utm_source=webinar"));
    wait_for("an event with the new token", || (sandbox.snapshot(PORTAL).events.len() >= 3).then_some(()));

    // Who asks how it stands, with the token and without.
    for path in ["/", "/status", "/metrics", "/dead-letters"] {
        let answer = get(&address, path, HTTP_TOKEN);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        places.push(Place { name: path.to_owned(), bytes: answer.into_bytes() });
        let answer = get(&address, path, WRONG_TOKEN);
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        places.push(Place { name: "an answer to the wrong token".to_owned(), bytes: answer.into_bytes() });
    }
    let metrics = redirect.metrics_address().expect("metrics").to_string();
    places.push(Place { name: "the redirect server's metrics".to_owned(), bytes: get(&metrics, "/metrics", "").into_bytes() });
    for arguments in [&["dead-letters", "ls"][..], &["hubspot", "status"], &["doctor"], &["check"]] {
        let mut command = clickline(folder.path(), &first_token);
        let output = command
            .args(arguments)
            .arg("--config")
            .arg(at("clickline.yaml"))
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output()
            .expect("runs");
        assert!(!output.stdout.is_empty(), "clickline {arguments:?}: {output:?}");
        places.push(Place { name: format!("clickline {}", arguments.join(" ")), bytes: [output.stdout, output.stderr].concat() });
    }

    let stopped = Command::new("kill").arg(job.0.id().to_string()).status().expect("a signal");
    assert!(stopped.success() && job.0.wait().expect("our own child").success(), "the job stops as asked");
    redirect.stop();
    drop(traces);
    let calls = ["hubspot timeline", "hubspot properties", "hubspot stages"];
    assert!(calls.iter().all(|call| collector.whole(&[call])) && collector.whole(&calls[..2]), "{:?}", collector.names());
    places.push(Place { name: "traces".to_owned(), bytes: collector.heard.lock().expect("not poisoned").clone() });

    places.push(Place { name: "the job's log".to_owned(), bytes: fs::read(at("job.log")).expect("a log") });
    places.push(Place { name: "the redirect server's log".to_owned(), bytes: fs::read(at("redirect.log")).expect("a log") });
    places.extend(files("state database", folder.path(), "state.sqlite"));
    places.extend(files("snapshots", &at("snapshots"), ""));
    topics(&broker).iter().for_each(|name| places.extend(topic(&broker, name)));

    let mut canaries = canaries();
    canaries.push(Canary::new("signed eid", eid));
    // What passed between the job and the others is where the secrets belong: they were used.
    let heard = Heard::clone(&heard);
    assert!(text(&heard).contains(CLIENT_SECRET) && text(&heard).contains(UNKNOWN), "HubSpot was told");
    let came_from = Canary::new("e-mail in a referrer", IN_REFERRER).is_in(&text(&heard));
    assert!(text(&heard).contains("https://r.example/") && !came_from, "HubSpot hears where a visitor came from, and no address in it");
    assert!(Canary::new("password", CLICKHOUSE).is_in(&text(&heard_of_clickhouse)), "ClickHouse was told");
    for (name, before, ends) in [("access token", "Bearer ", &['\r'][..]), ("refresh token", r#""refresh_token":""#, &['"'])] {
        let values = between(&heard, before, ends);
        assert!(values.len() >= 2, "{name}: {} were seen", values.len());
        canaries.extend(values.into_iter().map(|value| Canary::new(name, value)));
    }
    canaries.push(Canary::new("refresh token", first_token));

    let state = places.iter().filter(|place| place.name == "state database");
    assert!(state.clone().any(|place| place.bytes.windows(PORTAL.len()).any(|bytes| bytes == PORTAL.as_bytes())), "it is looked at");
    let mut found = found(&canaries, &places);
    found.retain(|(canary, place)| !PASSING.contains(&(*canary, place.as_str())));
    let wrong = judge(&found, &ALLOWED);
    if !wrong.is_empty() {
        let kept = folder.keep();
        panic!("{}\nfiles are in {}", wrong.join("\n"), kept.display());
    }
}

/// Every topic that there is; those with two underscores are Kafka's own.
fn topics(broker: &Broker) -> Vec<String> {
    let reader: BaseConsumer = broker.client(&[]).create().expect("a consumer");
    let metadata = reader.fetch_metadata(None, Duration::from_secs(30)).expect("the broker answers");
    let names: Vec<String> = metadata.topics().iter().map(|topic| topic.name().to_owned()).filter(|name| !name.starts_with("__")).collect();
    assert!(names.len() >= 12, "{names:?}");
    names
}

fn canaries() -> Vec<Canary> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
    vec![
        Canary::new("e-mail of a contact", KNOWN),
        Canary::new("e-mail of somebody unknown", UNKNOWN),
        Canary::new("e-mail in a spoilt form", SPOILT),
        Canary::new("e-mail in a visitor's query", IN_QUERY),
        Canary::new("e-mail in a referrer", IN_REFERRER),
        Canary::new("user agent", "canaryagent"),
        Canary::new("visitor's address", VISITOR),
        Canary::new("website's address", WEBSITE),
        Canary::new("visitor's cookie", COOKIE),
        Canary::new("client secret", CLIENT_SECRET),
        Canary::new("developer key", DEVELOPER_KEY),
        Canary::new("HTTP token", HTTP_TOKEN),
        Canary::new("wrong HTTP token", WRONG_TOKEN),
        Canary::new("forms secret", FORMS_SECRET),
        Canary::new("ClickHouse's password", CLICKHOUSE),
        Canary::new("key that signs links", text(EID_SECRET)),
        Canary::new("key that hashes addresses", ADDRESS_KEY),
        Canary::new("key that seals tokens", text(TOKEN_KEY)),
    ]
}
