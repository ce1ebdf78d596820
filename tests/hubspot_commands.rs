//! `clickline hubspot …` as people type it, against the sandbox.

mod support;

use clickline::metrics::Metrics;
use clickline::oauth::{CALLBACK, Connections, Installer, routes};
use clickline::serve::{Bound, Server};
use clickline::sinks::hubspot::Secret;
use clickline::state::State;
use clickline_sandbox::{Config, Sandbox};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::job::Job;
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::wait_for;

const PORTAL: &str = "4242";

struct World {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    listen: SocketAddr,
    key: String,
}

/// What a command said and how it ended.
struct Said {
    out: String,
    err: String,
    code: i32,
}

impl World {
    fn new() -> World {
        World::with_brokers("localhost:1")
    }

    fn with_brokers(brokers: &str) -> World {
        World::of(brokers, "{app_id: 1000001}")
    }

    /// With this block for the account.
    fn of(brokers: &str, portal: &str) -> World {
        let [listen] = free_addresses();
        let world = World {
            sandbox: Sandbox::start(Config::default()).expect("a sandbox"),
            folder: tempfile::tempdir().expect("a folder"),
            listen: listen.parse().expect("an address"),
            key: String::new(),
        };
        let text = format!(
            "kafka: {{brokers: '{brokers}'}}
http: {{listen: '{listen}'}}
hubspot:
  base_url: '{url}'
  client_id: clickline
  client_secret_env: SECRET
  developer_key_env: DEVELOPER_KEY
  connections: {{environment: test, authorize_url: '{url}/oauth/authorize'}}
  portals:
    '{PORTAL}': {portal}
workspaces:
  acme: {{portals: ['{PORTAL}']}}
",
            url = world.sandbox.url()
        );
        std::fs::write(world.config(), text).expect("writes");
        let key = world.run(&["hubspot", "key"]);
        assert_eq!(key.code, 0);
        World { key: key.out.trim().to_owned(), ..world }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("clickline.yaml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(args).env("SECRET", "sandbox-secret").env("DEVELOPER_KEY", "sandbox-developer-key");
        command.env_remove("CLICKLINE_TOKEN_KEYS");
        if !self.key.is_empty() {
            command.env("CLICKLINE_TOKEN_KEYS", &self.key);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).spawn().expect("starts"))
    }

    /// A `clickline hubspot` command with the configuration.
    fn hubspot(&self, args: &[&str]) -> Said {
        let config = self.config();
        let config = config.to_str().expect("text");
        self.run(&[&["hubspot"], args, &["--config", config]].concat())
    }

    /// Requests of a method to paths with this end.
    fn count(&self, method: &str, end: &str) -> usize {
        self.sandbox.requests().iter().filter(|request| request.method == method && request.path.ends_with(end)).count()
    }
}

fn said(child: Child) -> Said {
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said { out: text(output.stdout), err: text(output.stderr), code: output.status.code().expect("ends by itself") }
}

/// The first line of a command's output that holds an address, without what stands around it.
fn address(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let line = lines.find_map(|line| line.ok().filter(|line| line.trim().starts_with("http"))).expect("an address");
    line.trim().to_owned()
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}

fn header(answer: &reqwest::Response, name: &str) -> String {
    answer.headers().get(name).expect(name).to_str().expect("text").to_owned()
}

/// Lets the app in on the sandbox's page; gives back where the browser is sent.
async fn let_in(http: &reqwest::Client, authorize: &str) -> String {
    let url = url::Url::parse(authorize).expect("an address");
    let mut form: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    form.extend([("portal", PORTAL), ("decision", "grant")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let answer = http.post(url.join("/oauth/authorize").expect("an address")).form(&form).send().await.expect("answers");
    header(&answer, "location")
}

/// What a person does with the address of an install page; gives back the last page.
fn browse(page: &str) -> String {
    let http = clickline::http::client(Duration::from_secs(5)).expect("a client");
    block_on(async {
        let answer = http.get(page).send().await.expect("answers");
        let cookie = header(&answer, "set-cookie").split(';').next().expect("a cookie").to_owned();
        let back = let_in(&http, &header(&answer, "location")).await;
        http.get(back).header("cookie", cookie).send().await.expect("answers").text().await.expect("a page")
    })
}

/// Logs in with `--code`; gives back HubSpot's address and how the command ended.
fn log_in_by_hand(world: &World) -> (String, Said) {
    let config = world.config();
    let mut login = world.command(&["hubspot", "login", "--code", "--config", config.to_str().expect("text")]).spawn().expect("starts");
    let mut lines = BufReader::new(login.stdout.take().expect("piped")).lines();
    let authorize = address(&mut lines);
    let http = clickline::http::client(Duration::from_secs(5)).expect("a client");
    let back = block_on(let_in(&http, &authorize));
    assert!(back.starts_with(&format!("http://localhost:{}{CALLBACK}?", world.listen.port())), "{back}");
    writeln!(login.stdin.take().expect("piped"), "{back}").expect("types");
    let words: Vec<String> = lines.map(|line| line.expect("text")).collect();
    let ended = said(login);
    assert!(ended.code == 0 && words.iter().any(|line| line.contains("Account 4242 is connected")), "{words:?} {}", ended.err);
    (authorize, ended)
}

#[test]
fn custom_events_work_with_what_a_login_asks_for() {
    let world = World::of("localhost:1", "{events: custom_events}");
    log_in_by_hand(&world);
    let told: serde_json::Value = serde_json::from_str(&world.hubspot(&["status", "--format", "json"]).out).expect("JSON");
    for scope in ["analytics.behavioral_events.send", "behavioral_events.event_definitions.read_write"] {
        assert!(told[0]["scopes"].as_array().expect("a list").iter().any(|granted| granted == scope), "{scope}: {told}");
    }
    assert_eq!(told[0]["gated"], serde_json::json!([]));
    let setup = world.hubspot(&["setup"]);
    assert!(setup.code == 0 && setup.out.contains("short_link_click: made"), "{} {}", setup.out, setup.err);

    // An account that grants no more than timeline events need.
    let text = std::fs::read_to_string(world.config()).expect("reads");
    std::fs::write(world.config(), text.replace("custom_events", "timeline, event_template_id: '1'")).expect("writes");
    log_in_by_hand(&world);
    std::fs::write(world.config(), text).expect("writes");
    let status = world.hubspot(&["status"]);
    assert!(status.out.contains("write events: analytics.behavioral_events.send"), "{}", status.out);
}

#[test]
fn an_account_is_connected_without_a_browser_here_made_ready_and_told_of() {
    let world = World::new();
    let status = world.hubspot(&["status"]);
    assert_eq!(status.code, 1, "{}", status.err);
    assert!(status.out.contains("not connected") && status.out.contains("clickline hubspot login"), "{}", status.out);
    let check = world.hubspot(&["setup", "--check"]);
    assert_eq!(check.code, 1, "{}", check.out);

    let (authorize, ended) = log_in_by_hand(&world);
    assert!(!authorize.contains("behavioral_events"), "an app may not list these scopes: {authorize}");

    let status = world.hubspot(&["status", "--format", "json"]);
    assert_eq!(status.code, 0, "{}", status.err);
    let told: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
    assert_eq!((&told[0]["state"], &told[0]["workspace"], &told[0]["mode"]), (&"connected".into(), &"acme".into(), &"app".into()));
    assert_eq!(told[0]["gated"], serde_json::json!([]));

    // Looking makes nothing and names what is missing.
    let check = world.hubspot(&["setup", "--check"]);
    assert_eq!(check.code, 1);
    for missing in ["elido_last_utm_source: missing", "elido_last_utm_campaign: missing", "elido_last_utm_medium: missing", "type of event"]
    {
        assert!(check.out.contains(missing), "{missing}: {}", check.out);
    }
    let made = || (world.count("POST", "/properties/2026-03/contacts"), world.count("POST", "/event-templates"));
    assert_eq!(made(), (0, 0));
    let setup = world.hubspot(&["setup"]);
    assert!(setup.code == 0 && setup.out.contains(": made"), "{} {}", setup.out, setup.err);
    assert_eq!(made(), (3, 1));
    let again = world.hubspot(&["setup"]);
    assert!(again.code == 0 && !again.out.contains("made"), "{}", again.out);
    assert_eq!((made(), world.hubspot(&["setup", "--check"]).code), ((3, 1), 0), "nothing twice");

    // Nothing that was said holds a token, and the key is needed.
    let keyless = World { key: String::new(), ..world };
    let refused = keyless.hubspot(&["status"]);
    assert!(refused.code == 2 && refused.err.contains("clickline hubspot key"), "{}", refused.err);
    for said in [status, check, setup, again, ended] {
        assert!(!said.out.contains("na1-") && !said.out.contains("CPz") && !said.err.contains("na1-") && !said.err.contains("CPz"));
    }
}

#[test]
fn a_browser_comes_back_to_the_command_or_to_the_running_job() {
    let world = World::new();
    let config = world.config();
    let login = || {
        let mut login =
            world.command(&["hubspot", "login", "--wait", "30", "--config", config.to_str().expect("text")]).spawn().expect("starts");
        let mut lines = BufReader::new(login.stdout.take().expect("piped")).lines();
        let page = address(&mut lines);
        (login, lines, page)
    };
    let (child, lines, page) = login();
    assert!(page.ends_with("/oauth/install?workspace=acme"), "{page}");
    assert!(browse(&page).contains("is connected to"));
    let words: Vec<String> = lines.map(|line| line.expect("text")).collect();
    let ended = said(child);
    assert!(ended.code == 0 && words.iter().any(|line| line.contains("is connected")), "{words:?} {}", ended.err);
    let version = |world: &World| {
        let told: serde_json::Value = serde_json::from_str(&world.hubspot(&["status", "--format", "json"]).out).expect("JSON");
        told[0]["token_version"].as_i64().expect("a version")
    };
    assert_eq!(version(&world), 1);

    // The job has the address now: the login goes through it.
    let loaded = clickline::config::Config::load(&config).expect("is right");
    let mut settings = loaded.hubspot.expect("a block");
    settings.client_secret = Some(Secret::new("sandbox-secret"));
    settings.connections.keys = Some(Secret::new(world.key.as_str()));
    let state = Arc::new(State::open(&loaded.state).expect("opens"));
    let connections =
        Connections::open(&settings, &state, &loaded.state, &[PORTAL.to_owned()], Arc::new(Metrics::default())).expect("opens");
    let callback = format!("http://localhost:{}{CALLBACK}", world.listen.port());
    let workspaces = BTreeMap::from([("acme".to_owned(), vec![PORTAL.to_owned()])]);
    let installer = Installer::new(Arc::new(connections), &settings.connections, workspaces, callback).expect("is right");
    let job = Server::start(Bound::to(world.listen).expect("binds"), routes(Arc::new(installer))).expect("starts");
    let (child, lines, page) = login();
    assert!(browse(&page).contains("is connected to"));
    assert!(lines.map_while(Result::ok).any(|line| line.contains("is connected")));
    assert_eq!(said(child).code, 0);
    assert_eq!(version(&world), 2);
    job.stop();

    // A job without connections, or another program: nobody would take the browser back.
    let other = Server::start(Bound::to(world.listen).expect("binds"), clickline::metrics::routes(Arc::new(Metrics::default())));
    let refused = world.hubspot(&["login"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
    assert!(refused.err.contains("takes no logins") && refused.err.contains("--code"), "{}", refused.err);
    other.expect("starts").stop();

    let mut nobody = world.command(&["hubspot", "login", "--wait", "0", "--config", config.to_str().expect("text")]);
    let ended = said(nobody.spawn().expect("starts"));
    assert!(ended.code == 1 && ended.err.contains("nobody"), "{}", ended.err);
}

#[test]
fn the_running_job_connects_an_account_by_its_own_server_and_shows_it() {
    let Some(broker) = Broker::start_if_there() else { return };
    let world = World::with_brokers(broker.address());
    let config = world.config();
    let job = world.command(&["run", "--config", config.to_str().expect("text")]).spawn().expect("starts");
    let http = clickline::http::client(Duration::from_secs(5)).expect("a client");
    let at = |path: &str| format!("http://localhost:{}{path}", world.listen.port());
    let get = |path: &str| block_on(async { http.get(at(path)).send().await.ok()?.text().await.ok() });
    let shown = |line: &str| wait_for(line, || get("/metrics").filter(|text| text.lines().any(|found| found.starts_with(line))));
    wait_for("the server", || get("/healthz").filter(|said| said == "ok\n"));
    shown("hubspot_connected{portal=\"4242\"} 0");
    assert!(browse(&at("/oauth/install?workspace=acme")).contains("is connected to"));
    // The sink notices, and makes what the account lacks.
    shown("hubspot_connected{portal=\"4242\"} 1");
    let text = shown("hubspot_last_refresh_timestamp_seconds{portal=\"4242\"} 1");
    assert!(text.contains("hubspot_installs_total{result=\"ok\"} 1"), "{text}");
    wait_for("the properties", || (world.count("POST", "/properties/2026-03/contacts") == 3).then_some(()));
    assert_doctor(&world);
    let asked = Command::new("kill").args(["-TERM", &job.id().to_string()]).status().expect("kill starts");
    assert!(asked.success());
    let ended = said(job);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(!ended.err.contains("na1-") && !ended.err.contains("CPz") && !ended.err.contains("code="), "no token and no code in the log");
}

/// What the doctor says while the job runs; then of a rule whose stage the account does not have.
fn assert_doctor(world: &World) {
    let looked = |config: &str| {
        let said = world.run(&["doctor", "--format", "json", "--config", config]);
        let found: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {} {}", said.out, said.err));
        let text = |finding: &serde_json::Value, field: &str| finding[field].as_str().expect("text").to_owned();
        let by_thing = found.iter().map(|of| (text(of, "what"), (text(of, "level"), text(of, "says"))));
        (said.code, by_thing.collect::<BTreeMap<_, _>>())
    };
    let config = world.config();
    let (code, found) = looked(config.to_str().expect("text"));
    let things = ["brokers", "transactions", "clock against the brokers", "clock against HubSpot"].map(str::to_owned);
    let properties = ["source", "campaign", "medium"].map(|last| format!("portal {PORTAL}, contact property elido_last_utm_{last}"));
    for thing in things.iter().chain(&properties) {
        assert_eq!(found.get(thing).map(|(level, _)| level.as_str()), Some("ok"), "{thing}: {found:?}");
    }
    assert!(found.keys().any(|thing| thing.starts_with(&format!("portal {PORTAL}, type of event"))), "{found:?}");
    assert!(found.keys().filter(|thing| thing.starts_with("topic ")).count() > 12, "{found:?}");
    assert!(code == 0 && found.values().all(|(level, _)| level != "failed"), "{found:?}");

    let rule = "trigger: {link_tag: x, contact_window: 30d, click_threshold: 2}, action: {type: advance_deal_stage, pipeline: default, \
                from_stage: appointmentscheduled, to_stage: nowhere}";
    let text = std::fs::read_to_string(&config).expect("reads").replace("acme: {", &format!("acme: {{rules: [{{name: r, {rule}}}], "));
    let wrong = world.folder.path().join("wrong.yaml");
    std::fs::write(&wrong, text).expect("writes");
    let (code, found) = looked(wrong.to_str().expect("text"));
    let (level, says) = &found[&format!("portal {PORTAL}, rule r")];
    assert!(code == 1 && level == "failed" && says.contains("no stage `nowhere`; it has appointmentscheduled"), "{found:?}");
}

#[test]
fn topics_that_are_kept_wrongly_are_told_with_the_command_that_mends_them() {
    let Some(broker) = Broker::start_if_there() else { return };
    broker.create_topic("hubspot.timeline", 1, &[("retention.ms", "86400000")]);
    broker.create_topic("hubspot.deal-stages", 1, &[("cleanup.policy", "compact")]);
    broker.create_topic("clicks", 1, &[("message.timestamp.type", "CreateTime"), ("retention.ms", "-1")]);
    let world = World::with_brokers(broker.address());
    let command = |topic: &str, setting: &str| {
        let brokers = broker.address();
        format!("kafka-configs.sh --bootstrap-server {brokers} --entity-type topics --entity-name {topic} --alter --add-config {setting}")
    };
    let timeline = [
        "topic hubspot.timeline: keeps 1d and must keep ".to_owned(),
        command("hubspot.timeline", "retention.ms=3110700000"),
        command("hubspot.deal-stages", "cleanup.policy=delete"),
    ];
    let clicks = command("clicks", "message.timestamp.type=LogAppendTime");
    let setup = world.hubspot(&["setup", "--check"]);
    assert_eq!(setup.code, 1);
    for said in [&setup.out, &world.hubspot(&["status"]).out, &world.hubspot(&["status", "--format", "json"]).err] {
        assert!(timeline.iter().all(|words| said.contains(words)), "{said}");
        assert!(!said.contains(&clicks), "the sink does not read them: {said}");
    }
    let config = world.config();
    let doctor = world.run(&["doctor", "--config", config.to_str().expect("text")]);
    assert!(timeline.iter().chain([&clicks]).all(|words| doctor.out.contains(words)), "{}", doctor.out);
    let mut job = Job::start(&broker, world.folder.path(), "job");
    timeline.iter().chain([&clicks]).for_each(|words| job.wait_to_say(words));
    assert!(job.stop().0.success(), "it runs all the same: {}", job.said());
}
