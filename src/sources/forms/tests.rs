//! Form posts over HTTP, and submissions of the sandbox's forms, into an embedded broker.

use super::endpoint::{Endpoint, routes};
use super::{Forms, FormsSettings, HubSpotForm, sign};
use crate::http;
use crate::kafka::{Isolation, Kafka};
use crate::metrics::Metrics;
use crate::model::Form;
use crate::model::inputs::Input as _;
use crate::model::time::{self, Ms};
use crate::serve::{Bound, Server};
use crate::sinks::hubspot::{Secret, Service, Settings};
use crate::sources::writer::Writer;
use crate::stop::Stop;
use clickline_sandbox::{Config, Sandbox};
use prometheus_client::metrics::counter::Counter;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const SECRET: &str = "0123456789abcdef";
const NOW: Ms = 1_763_800_000_000;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

struct World {
    server: Server,
    kafka: Kafka,
    _broker: MockCluster<'static, DefaultProducerContext>,
}

/// One post; what is not said is right.
struct Post<'a> {
    workspace: &'a str,
    key: &'a str,
    secret: &'a str,
    at: Ms,
    kind: &'a str,
    body: &'a str,
}

impl Default for Post<'_> {
    fn default() -> Self {
        Post { workspace: "acme", key: "site", secret: SECRET, at: NOW, kind: JSON, body: r#"{"email":"ada@example.com"}"# }
    }
}

impl World {
    /// With a broker that has the topic, or an address where none answers.
    fn new(answers: bool) -> World {
        let broker = MockCluster::new(1).expect("a broker");
        let kafka = if answers { Kafka::at(broker.bootstrap_servers()) } else { Kafka::at("127.0.0.1:1") };
        broker.create_topic(&kafka.topics.forms, 1, 1).expect("a topic");
        let keys = BTreeMap::from([("site".to_owned(), ("acme".to_owned(), Secret::new(SECRET)))]);
        let writer = Writer::new(&kafka, Some(Duration::from_millis(if answers { 5_000 } else { 200 }))).expect("a writer");
        let endpoint = Endpoint {
            keys,
            topic: kafka.topics.forms.clone(),
            writer,
            max_future: 300_000,
            taken: Counter::default(),
            now: Arc::new(|| NOW),
        };
        let bound = Bound::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        World { server: Server::start(bound, routes(endpoint)).expect("serves"), kafka, _broker: broker }
    }

    /// Status, body, and `Retry-After`.
    fn post(&self, post: &Post<'_>) -> (u16, String, Option<String>) {
        let Post { workspace, key, secret, at, kind, body } = *post;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let call = http::client(Duration::from_secs(20))
                .expect("a client")
                .post(format!("http://{}/forms/{workspace}", self.server.address()));
            let call = call.header("x-clickline-key", key).header("x-clickline-timestamp", at.to_string()).header("content-type", kind);
            let call = call.header("x-clickline-signature", sign(secret.as_bytes(), at, body.as_bytes())).body(body.to_owned());
            let answer = call.send().await.expect("an answer");
            let (status, retry) =
                (answer.status().as_u16(), answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned()));
            (status, answer.text().await.expect("a body"), retry)
        })
    }

    fn forms(&self) -> Vec<Form> {
        let mut forms = Vec::new();
        let each = |_, key: Option<&[u8]>, value: Option<&[u8]>| {
            assert_eq!(key, Some(&b"acme"[..]), "the key is the workspace");
            forms.push(Form::read(value.expect("a record")).expect("the dataflow takes it"));
            Ok(())
        };
        self.kafka.read_all(&self.kafka.topics.forms, Isolation::Uncommitted, &Stop::new(), each).expect("reads");
        forms
    }
}

#[test]
fn a_signed_post_is_in_the_topic_when_it_is_answered() {
    let world = World::new(true);
    let body = r#"{"id":"f-1","ts":1763799999000,"email":" Ada@Example.com ","page_url":"https://x.com/p?gclid=AbC"}"#;
    assert_eq!(world.post(&Post { body, ..Post::default() }), (200, r#"{"id":"f-1"}"#.to_owned(), None));
    let (status, answer, _) = world.post(&Post { kind: FORM, body: "email=b%40x.com&fbclid=IwAR%2B", ..Post::default() });
    assert_eq!(status, 200);
    // The same request again: what went wrong on its way does not make another form of it.
    assert_eq!(world.post(&Post { kind: FORM, body: "email=b%40x.com&fbclid=IwAR%2B", ..Post::default() }).1, answer);
    let forms = world.forms();
    assert_eq!(
        (forms[0].id.as_str(), forms[0].ts, forms[0].email.as_str(), forms[0].gclid.as_deref()),
        ("f-1", 1_763_799_999_000, "ada@example.com", Some("AbC"))
    );
    assert_eq!((forms[1].ts, forms[1].fbclid.as_deref(), &forms[1]), (NOW, Some("IwAR+"), &forms[2]));
    assert_eq!(forms.len(), 3);
}

#[test]
fn what_is_not_signed_or_no_form_is_refused_with_a_word_on_it_and_written_nowhere() {
    let world = World::new(true);
    let refused = |post: Post<'_>, status: u16, word: &str| {
        let (is, answer, _) = world.post(&post);
        assert!(is == status && answer.contains(word) && !answer.contains('@'), "{is} {answer}");
    };
    refused(Post { secret: "another-secret-16", ..Post::default() }, 401, "signature");
    refused(Post { key: "unknown", ..Post::default() }, 401, "signature");
    refused(Post { workspace: "beta", ..Post::default() }, 401, "signature");
    refused(Post { at: NOW - 300_001, ..Post::default() }, 401, "five minutes");
    refused(Post { body: "[]", ..Post::default() }, 400, "JSON object");
    refused(Post { body: "{}", ..Post::default() }, 400, "email");
    refused(Post { body: r#"{"email":"a@x.com","ts":"soon"}"#, ..Post::default() }, 400, "ts");
    refused(Post { body: r#"{"email":"a@x.com","ts":1763800300001}"#, ..Post::default() }, 400, "ahead");
    refused(Post { kind: "text/plain", ..Post::default() }, 415, "application/json");
    let long = format!(r#"{{"email":"a@x.com","id":"{}"}}"#, "x".repeat(2_000));
    refused(Post { body: &long, ..Post::default() }, 400, "`id`");
    assert_eq!(world.post(&Post { body: &"x".repeat(70_000), ..Post::default() }).0, 413);
    assert_eq!(world.forms(), []);
    // Exactly at the bounds.
    assert_eq!(world.post(&Post { at: NOW - 300_000, ..Post::default() }).0, 200);
    assert_eq!(world.post(&Post { body: r#"{"email":"a@x.com","ts":1763800300000}"#, ..Post::default() }).0, 200);
}

#[test]
fn without_a_broker_the_sender_is_asked_to_come_again() {
    let world = World::new(false);
    let (status, _, retry) = world.post(&Post::default());
    assert_eq!((status, retry.as_deref()), (503, Some("5")));
}

#[test]
fn submissions_of_a_form_in_hubspot_are_written_once_each_and_a_restart_goes_on() {
    const PORTAL: &str = "4242";
    let world = World::new(true);
    world._broker.create_topic(&world.kafka.topics.sources, 1, 1).expect("a topic");
    let sandbox = Sandbox::start(Config { burst_limit: 100_000, ..Config::default() }).expect("a sandbox");
    let form = sandbox.create_form(PORTAL, None, "Contact us", &["email", "hs_google_click_id"]);
    let submit = |range: std::ops::Range<u32>| {
        for at in range {
            let email = format!("{at}@example.com");
            let page = format!("https://x.com/p?gclid=Page{at}&utm_source=webinar");
            // Every third one has the click id in a hidden field, too, and every seventh no address.
            let mut values = vec![("email", email.as_str())];
            let hidden = format!("Field{at}");
            if at.is_multiple_of(3) {
                values.push(("hs_google_click_id", &hidden));
            }
            if at % 7 == 6 {
                values.remove(0);
            }
            sandbox.submit_form(PORTAL, &form, &values, &page);
        }
    };
    let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
    let settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::open(&settings, &folder.path().join("state.db"), &[PORTAL.to_owned()], Arc::new(Metrics::default()));
    let hubspot = vec![HubSpotForm { portal: PORTAL.to_owned(), form: form.clone(), workspace: Some("acme".to_owned()) }];
    let source = Forms {
        kafka: world.kafka.clone(),
        settings: FormsSettings { hubspot, every: 20, ..FormsSettings::default() },
        service: Arc::new(service.expect("a service")),
        taken: Counter::default(),
        now: Arc::new(time::now),
    };
    // Until there are so many, and a moment longer: then there must be no more.
    let run = |wanted: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let source = source.clone();
            let running = tokio::task::spawn_local(async move { source.run(&Stop::new()).await });
            let began = std::time::Instant::now();
            while world.forms().len() < wanted && began.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!running.is_finished(), "the source broke down");
            running.abort();
        });
        runtime.shutdown_background();
    };
    submit(0..120);
    let taken = |upto: u32| (0..upto).filter(|at| at % 7 != 6).count();
    run(taken(120));
    assert_eq!(world.forms().len(), taken(120));
    submit(120..125);
    run(taken(125));
    let forms = world.forms();
    let emails: std::collections::BTreeSet<&str> = forms.iter().map(|form| form.email.as_str()).collect();
    assert_eq!((forms.len(), emails.len()), (taken(125), taken(125)), "each once");
    for form in &forms {
        let at: u32 = form.email.split('@').next().expect("a number").parse().expect("a number");
        let wanted = if at.is_multiple_of(3) { format!("Field{at}") } else { format!("Page{at}") };
        assert_eq!(form.gclid.as_deref(), Some(wanted.as_str()));
    }
}
