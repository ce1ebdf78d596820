//! Configurations as people type them, and what they are told.

use super::*;
use crate::dataflow::plan::Counts;
use crate::model::time::{DAY, HOUR};
use crate::oauth::Sealing;
use std::fs;

const RULE: &str = "trigger: {link_tag: sales, contact_window: 30d, click_threshold: 50}
action: {type: advance_deal_stage, pipeline: default, from_stage: a, to_stage: b}
";

const FULL: &str = r#"
kafka:
  brokers: "k1:9092,k2:9092"
  properties: {client.rack: r1}
  topics: {clicks: acme.clicks, crm.contacts: acme.contacts}
tick: 250ms
times: {dedupe_horizon: 24h, idle_slack: 1s}
workers: 2
in_flight: 16MiB
state: state/clickline.sqlite
http: {listen: "127.0.0.1:9000", public_url: "https://clickline.example.com/"}
hubspot:
  connections: {environment: staging, witness: /var/lib/witness, scopes: [oauth, timeline], seal: off}
  base_url: "http://localhost:8080"
  client_id: app
  client_secret_env: HUBSPOT_SECRET
  portals:
    "4242": {event_template_id: "1"}
    "4243": {event_template_id: "2"}
    "7": {event_template_id: "3"}
workspaces:
  acme:
    portals: [4242, "4243"]
    counts: all
    rules: rules.yaml
    field_mapping: {utm_source: last_source}
  beta:
    portals: ["7"]
    rules:
      - name: fast
        trigger: {link: s.elido.me/x, contact_window: 12h, click_threshold: 3}
        action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 10}}
"#;

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), RULE).expect("writes");
    let path = folder.path().join("clickline.yaml");
    fs::write(&path, text).expect("writes");
    Config::load(&path).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

#[test]
fn a_full_configuration_means_what_it_says() {
    let config = load(FULL).expect("right");
    assert_eq!(config.kafka.topics.clicks, "acme.clicks");
    assert_eq!(config.kafka.topics.forms, "forms");
    assert_eq!((config.times.tick, config.times.dedupe_horizon, config.times.max_lateness), (250, 24 * HOUR, 33 * DAY));
    assert_eq!((config.limits.idle_slack, config.limits.in_flight_bytes, config.workers), (1_000, 16 << 20, 2));
    let connections = &config.hubspot.as_ref().expect("a sink").connections;
    assert_eq!((connections.environment.as_str(), connections.scopes.len(), connections.seal), ("staging", 2, Sealing::Off));
    let http = config.http.as_ref().expect("a server");
    assert_eq!((http.listen.port(), http.address(9000, "/oauth/callback")), (9000, "https://clickline.example.com/oauth/callback".into()));
    let provision = &config.hubspot.as_ref().expect("a sink").provision;
    assert!(provision.contains(&"last_source".to_owned()) && provision.contains(&"elido_last_utm_source".to_owned()));
    assert!(config.state.ends_with("state/clickline.sqlite") && config.state.is_absolute(), "beside the configuration");
    assert_eq!(config.workspaces[0].portals, ["4242", "4243"]);
    assert_eq!(config.workspaces[0].counts, Counts::All);
    let of: Vec<_> = config.rules.iter().map(|rule| (rule.workspace.as_deref().expect("set"), rule.threshold)).collect();
    assert_eq!(of, [("acme", 50), ("beta", 3)]);
    let plan = config.plan(None).expect("fits");
    let names =
        |workspace: &str, portal: &str| &plan.utm_properties[&Connection { workspace: ustr(workspace), portal: ustr(portal) }].names;
    assert_eq!(names("acme", "4243")[0], "last_source");
    assert_eq!(names("beta", "7")[0], "elido_last_utm_source");
    assert_eq!(config.plan(Some(1_000)).expect("fits").times.tick, 1_000);
}

#[test]
fn the_least_configuration_is_three_lines() {
    let config = load("kafka: {brokers: 'localhost:9092'}\nworkspaces:\n  acme: {portals: ['1']}\n").expect("right");
    assert_eq!((config.times, config.workers, config.rules.len()), (Times::with_tick(100), 1, 0));
    assert_eq!(config.limits, Limits::default());
    assert!(config.hubspot.is_none());
}

#[test]
fn mistakes_are_told_with_line_or_field_and_what_to_do() {
    for (from, to, says) in [
        ("workers: 2", "wrokers: 2", &["wrokers", "line 8"][..]),
        ("workers: 2", "workers: 0", &["workers", "at least 1"]),
        ("tick: 250ms", "tick: fast", &["fast", "100ms", "line 6"]),
        ("tick: 250ms", "tick: 7ms", &["must divide"]),
        ("tick: 250ms", "tick: 1us", &["1us"]),
        ("in_flight: 16MiB", "in_flight: 16 bananas", &["bananas", "64MiB"]),
        ("in_flight: 16MiB", "in_flight: 16KiB", &["in_flight", "1 MiB"]),
        ("brokers: \"k1:9092,k2:9092\"", "brokers: \"\"", &["kafka.brokers", "host:port"]),
        ("clicks: acme.clicks", "klicks: acme.clicks", &["klicks"]),
        ("client.rack: r1", "client.track: r1", &["kafka.properties", "client.track"]),
        ("rules: rules.yaml", "rules: none.yaml", &["none.yaml", "No such file"]),
        ("rules: rules.yaml", "rules: {a: b}", &["list of rules or the path"]),
        ("portals: [\"7\"]", "portals: [\"7/8\"]", &["workspaces.beta.portals", "7/8"]),
        ("utm_source: last_source", "utm_source: hs_analytics_source", &["workspaces.acme.field_mapping.utm_source", "HubSpot keeps"]),
        ("click_threshold: 3", "click_threshold: 0", &["workspaces.beta.rules", "fast", "at least 1"]),
        ("click_threshold: 3", "click_treshold: 3", &["click_treshold", "line 31"]),
        ("- name: fast", "- name: fast\n        workspace: gamma", &["workspaces.beta.rules", "gamma"]),
        ("\"7\": {event_template_id: \"3\"}", "\"8\": {event_template_id: \"3\"}", &["hubspot", "portal 7"]),
        ("http://localhost:8080", "http://api.example", &["hubspot", "https"]),
        ("client_id: app", "client: app", &["client", "line 15"]),
        ("environment: staging", "environment: 'a b'", &["hubspot", "environment"]),
        ("https://clickline.example.com/", "http://clickline.example.com/", &["http", "https with a name"]),
        ("counts: all", "counts: some", &["some", "line 24"]),
    ] {
        let text = FULL.replace(from, to);
        assert_ne!(text, FULL, "{from} stands there");
        let said = load(&text).expect_err(to);
        assert!(says.iter().all(|part| said.contains(part)), "{to}: {said}");
    }
    for secret in ["ssl.key.password: hunter2", "no.such.option: hunter2", "acks: hunter2", "security.protocol: hunter2", "debug: hunter2"]
    {
        let said = load(&FULL.replace("client.rack: r1", secret)).expect_err(secret);
        let name = secret.split(':').next().unwrap_or_default();
        assert!(said.contains("kafka.properties") && said.contains(name) && !said.contains("hunter2"), "{said}");
    }
    assert!(load("kafka: {brokers: b}\n").expect_err("no workspace").contains("workspaces"));
    assert!(load("workspaces: {a: {}}\n").expect_err("no brokers").contains("kafka"));
}

#[test]
fn a_shared_file_may_hold_rules_for_one_of_its_readers() {
    let text = FULL.replace("rules:\n      - name: fast", "rules:\n      - name: fast\n        workspace: acme");
    let config = load(&text).expect("right");
    assert_eq!(config.rules.len(), 1, "beta reads a rule that is for acme, and has none of its own");
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_line() {
    let text = "kafka:
  brokers: ''
  proprties: {acks: '1'}
tick: fast
workers: 0
workspaces:
  acme:
    portals: ['1', '2/3']
    counts: al
    rules:
      - trigger: {link_tag: '', contact_window: 30w, click_threshold: 0}
        action: {type: advance_deal_stag, pipeline: p, from_stage: a, to_stage: a}
      - tirgger: {link: d/1, contact_window: 30d}
        action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}
    field_mapping: {utm_sauce: a, utm_medium: hs_x}
hubspots: {}
";
    let mistakes = Config::read(text, Path::new("")).expect_err("wrong").0;
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    for (line, part) in [
        (2, "kafka.brokers: is empty"),
        (3, "unknown key `proprties`; did you mean `properties`?"),
        (3, "kafka.properties.acks: is the job's own"),
        (4, "tick: `fast` is not a length of time"),
        (5, "workers: is 0"),
        (8, "`2/3` is no HubSpot account id"),
        (9, "unknown value `al`; did you mean `all`?"),
        (11, "`link_tag` is empty"),
        (11, "`contact_window: 30w`"),
        (11, "`click_threshold` is 0"),
        (12, "unknown value `advance_deal_stag`; did you mean `advance_deal_stage`?"),
        (12, "`from_stage` and `to_stage` are the same"),
        (13, "unknown key `tirgger`; did you mean `trigger`?"),
        (13, "`click_threshold` is missing"),
        (15, "utm_sauce: is not a value that is kept; did you mean `utm_source`?"),
        (15, "utm_medium: HubSpot keeps `hs_x`"),
        (16, "unknown key `hubspots`; did you mean `hubspot`?"),
    ] {
        let found = said.iter().filter(|said| said.starts_with(&format!("line {line}: ")) && said.contains(part)).count();
        assert_eq!(found, 1, "line {line}: {part}\n{}", said.join("\n"));
    }
}

#[test]
fn mistakes_in_a_file_of_rules_name_that_file() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), RULE.replace("click_threshold", "click_treshold")).expect("writes");
    let text = "kafka: {brokers: b}\nworkspaces:\n  acme:\n    rules: rules.yaml\n    count: all\n";
    let mistakes = Config::read(text, folder.path()).expect_err("wrong").0;
    let of: Vec<(bool, u64)> = mistakes.iter().map(|mistake| (mistake.file.is_some(), mistake.line)).collect();
    assert_eq!(of, [(false, 5), (true, 1)], "{mistakes:?}");
}

#[test]
fn a_build_without_tls_says_so() {
    let text = "kafka:\n  brokers: b\n  properties: {security.protocol: SASL_SSL}\n  properties_env: {sasl.password: PASSWORD}\nworkspaces: {a: {}}\n";
    let read = Config::read(text, Path::new(""));
    if cfg!(feature = "tls") {
        assert_eq!(read.expect("right").kafka.properties_env["sasl.password"], "PASSWORD");
    } else {
        let said = read.expect_err("no TLS").to_string();
        assert!(said.contains("line 3: kafka.properties.security.protocol: this build has no TLS"), "{said}");
    }
}

#[test]
fn the_configurations_that_are_shipped_are_right() {
    let compose = include_str!("../../deploy/compose/clickline.yaml");
    // What stands behind a `#` for who wants it, is right, too.
    let whole = compose.replace("# clickhouse:", "clickhouse:");
    assert_ne!(whole, compose);
    for text in [include_str!("../../docs/example.yaml"), include_str!("../../deploy/kubernetes/clickline.yaml"), compose, &whole] {
        if let Err(mistakes) = Config::read(text, Path::new("")) {
            panic!("{mistakes}\n{text}");
        }
    }
}

#[test]
fn the_configurations_of_the_way_to_a_connected_account_are_right() {
    let page = include_str!("../../docs/hubspot-setup.md");
    let between = |open: &'static str, close: &'static str| {
        page.split(open).skip(1).map(move |rest| rest.split(close).next().unwrap_or_default().to_owned())
    };
    let shown: Vec<String> = between("```yaml\n", "```").chain(between("<<END\n", "END\n")).collect();
    assert_eq!(shown.len(), 2, "the account's and the sandbox's");
    for text in shown {
        match Config::read(&text, Path::new("")) {
            Ok(config) => assert!(config.http.is_some(), "the page that it sends people to\n{text}"),
            Err(mistakes) => panic!("{mistakes}\n{text}"),
        }
    }
}
