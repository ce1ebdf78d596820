//! Small histories, with all that is said of them.

use super::*;
use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::model::time::DAY;
use clap::Parser as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use std::fs;
use std::path::Path;
use std::time::Duration;

const RULES: &str = "
- name: pricing
  workspace: acme
  trigger: {link_tag: sales, contact_window: 30d, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 100}}
- name: closing
  workspace: acme
  mode: shadow
  trigger: {link: s/1, contact_window: 3d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: b, to_stage: c}
- name: by deal
  workspace: acme
  trigger: {link: s/2, contact_window: 30d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c, guard: {require_associated_contact: false}}
";

/// Noon of 2025-11-22 and some minutes.
fn at(minutes: i64) -> i64 {
    1_763_812_800_000 + minutes * 60_000
}

fn click(hours: i64, id: &str, workspace: &str, link: &str, rest: &str) -> String {
    format!(r#"{{"id":"{id}","ts":{},"workspace":"{workspace}","link":"{link}",{rest}}}"#, at(60 * hours))
}

fn form(minutes: i64, id: &str, email: &str, gclid: &str) -> String {
    format!(r#"{{"id":"{id}","ts":{},"workspace":"acme","email":"{email}","gclid":"{gclid}"}}"#, at(minutes))
}

/// Ada is 801, was 77, and has had another address; 9001 moved on after 80 hours.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let sales = r#""tags":["sales"]"#;
    let clicks = [
        click(0, "c1", "acme", "s/1", &format!(r#"{sales},"contact_id":"801""#)),
        click(1, "c2", "acme", "s/1", &format!(r#"{sales},"contact_id":"77""#)),
        click(2, "c3", "acme", "s/1", &format!(r#"{sales},"gclid":"g1""#)),
        click(3, "c4", "acme", "s/1", &format!(r#"{sales},"contact_id":"801","bot":"prefetch""#)),
        click(2, "c3", "acme", "s/1", &format!(r#"{sales},"gclid":"g1""#)),
        click(4, "c5", "acme", "s/1", &format!(r#"{sales},"gclid":"g2""#)),
        click(5, "c6", "acme", "s/1", &format!(r#"{sales},"gclid":"g3""#)),
        click(6, "c7", "other", "s/1", &format!(r#"{sales},"contact_id":"801""#)),
        r#"{"id":"c8","ts":"then","workspace":"acme","link":"s/1","contact_id":"801"}"#.to_owned(),
        click(100, "c9", "acme", "s/2", r#""contact_id":"801","utm":{"source":"webinar"},"deal_id":"9002""#),
        click(100, "c10", "acme", "s/2", r#""gclid":"g4","deal_id":"9002""#),
    ];
    let forms = [
        form(60 * 100 - 15 * 24 * 60, "f0", "ada@example.com", "g4"),
        form(150, "f1", "ada@old.example", "g1"),
        form(210, "f2", "bob@example.com", "g2"),
        form(300, "f3", "ada@example.com", "g2"),
        form(60 * 78, "f4", "ada@example.com", "g3"),
    ];
    let deal = |ts: &str, id: &str, pipeline: &str, stage: &str, amount: &str, contacts: &str| {
        format!(
            r#"{{{ts}"portal":"4242","deal_id":"{id}","pipeline":"{pipeline}","stage":"{stage}","amount":{amount},"contact_ids":{contacts}}}"#
        )
    };
    let deals = [
        deal("", "9001", "p", "a", "1234.5", r#"["77"]"#),
        deal("", "9002", "p", "a", "50", r#"["801"]"#),
        deal("", "9003", "q", "a", "null", r#"["801","5"]"#),
        deal(&format!("\"ts\":{},", at(60 * 80)), "9001", "p", "b", "1234.5", r#"["77"]"#),
    ];
    let contacts = [
        r#"{"portal":"4242","contact_id":"801","email":"Ada@Example.com","additional_emails":["ada@old.example"],"merged_ids":["77"]}"#,
        r#"{"portal":"4242","contact_id":"5","email":"eve@example.com"}"#,
    ];
    let write = |name: &str, lines: &str| fs::write(folder.path().join(name), lines).expect("writes");
    write("clicks", &clicks.join("\n"));
    write("forms", &forms.join("\n"));
    write("deals", &deals.join("\n"));
    write("contacts", &contacts.join("\n"));
    write("rules", RULES);
    folder
}

fn args(folder: &Path, more: &[&str]) -> Args {
    let paths: Vec<String> =
        ["clicks", "forms", "contacts", "deals", "rules"].into_iter().map(|name| folder.join(name).display().to_string()).collect();
    let mut line = vec!["clickline", "explain"];
    for (name, path) in ["--clicks", "--forms", "--contacts", "--deals", "--rules"].into_iter().zip(&paths) {
        line.extend([name, path]);
    }
    line.extend(["--connect", "acme=4242", "--connect", "beta=4343"]);
    line.extend(more);
    match Cli::try_parse_from(line).expect("parses").command {
        Command::Explain(args) => args,
        other => panic!("{other:?}"),
    }
}

fn explain(folder: &Path, more: &[&str]) -> Result<crate::explain::story::Explanation, ExplainError> {
    prepare(&args(folder, more)).expect("right").run(&Arc::default())
}

fn text(folder: &Path, more: &[&str]) -> String {
    let text = show::text(&explain(folder, more).expect("known"));
    // The place of a record that could not be read names the folder of this run.
    text.replace(&format!("{}/", folder.display()), "")
}

const ADA: &str = include_str!("ada.txt");

#[test]
fn a_contact_is_explained() {
    let folder = folder();
    let said = text(folder.path(), &["--contact", "801"]);
    assert_eq!(said, ADA, "{said}");
}

#[test]
fn every_name_of_a_contact_leads_to_it() {
    let folder = folder();
    for name in ["77", "ADA@example.com ", "ada@old.example"] {
        let said = text(folder.path(), &["--contact", name]);
        let note = format!("  {} is contact 801\n", name.trim().to_lowercase());
        let (head, rest) = said.split_once('\n').expect("lines");
        assert_eq!(head, format!("contact {} of portal 4242, as of 2025-11-26 16:00:00 UTC", name.trim().to_lowercase()));
        assert_eq!(rest.strip_prefix(&note), ADA.split_once('\n').map(|(_, rest)| rest), "the same as by its id");
    }
}

#[test]
fn a_moment_before_the_end_is_explained_as_it_was() {
    let folder = folder();
    let said = text(folder.path(), &["--contact", "801", "--at", "2025-11-22T14:10:00Z"]);
    for part in [
        "as of 2025-11-22 14:10:00 UTC",
        "clicks (2)",
        "s/1   sales  [1] [2]     801, by the link",
        "3 clicks on links tagged sales in 30d: 2, 1 missing",
        "2 clicks on s/1 in 3d: 2, hot since 2025-11-22 13:00:00",
        "9001: a of p, amount 1,234.5, names 77 from the beginning",
        "does not move now: 2 of 3 clicks: 1 missing",
        "deltas (2)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let later = text(folder.path(), &["--contact", "801", "--at", "2025-12-31"]);
    for part in
        ["as of 2025-12-31 23:59:59", "[1] acme: pricing\n      3 clicks on links tagged sales in 30d: 0, 3 missing\n      was hot from"]
    {
        assert!(later.contains(part), "the clock runs on beyond the last record: {part}: {later}");
    }
}

#[test]
fn a_deal_is_explained_with_its_contacts_and_its_own_links() {
    let folder = folder();
    let said = text(folder.path(), &["--deal", "9002"]);
    for part in [
        "deal 9002 of portal 4242, as of 2025-11-26 16:00:00 UTC\n  contact 801 is also 77",
        "c10    acme       s/2          [3]         waits for a form",
        "rules that count for deal 9002, by its own links\n  [3] acme: by deal\n      2 clicks on s/2 in 30d: 2, hot since 2025-11-26 16:00:00\n",
        "deals (1)\n  9002: a of p, amount 50, names 801 from the beginning\n    [1] for 801 hot with 3 of 3 clicks; pipeline is p, stage is a, it names 801\n        does not move now: amount 50 is less than 100\n",
        "    [3] advanced 2025-11-26 16:00:00; hot with 2 of 2 clicks; pipeline is p, stage is a\n        does not move now: it has advanced in this hot period already\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("deal 9001"), "what happened to another deal is not told");
}

#[test]
fn tools_get_json() {
    let folder = folder();
    let said = serde_json::to_value(explain(folder.path(), &["--contact", "801"]).expect("known")).expect("JSON");
    assert_eq!(said["as_of"], "2025-11-26T16:00:00.000Z");
    let subject = &said["subjects"][0];
    assert_eq!((&subject["contact_id"], &subject["in_mirror"], subject["deal_id"].is_null()), (&"801".into(), &true.into(), true));
    assert_eq!(subject["rules"][0]["clicks"], serde_json::json!(["c1", "c2", "c3"]));
    let outcome = |n: usize| said["clicks"][n]["outcome"].clone();
    let form = serde_json::json!({"is": "form", "form_id": "f1", "after_click_ms": 1_800_000, "held_ms": 1_800_000, "contact_id": "801", "somebody_else": false});
    assert_eq!(outcome(2), form);
    assert_eq!(outcome(4), serde_json::json!({"is": "machine", "reason": "prefetch"}));
    assert_eq!(outcome(6), serde_json::json!({"is": "expired", "at": "2025-11-25T17:00:01.000Z"}));
    // Deltas are the records of the topics, as the job writes them.
    let stage = &said["deltas"][3];
    assert_eq!((&stage["topic"], &stage["record"]["hot_since"]), (&"hubspot.deal-stages".into(), &at(150).into()));
    assert_eq!(stage["record"]["id"], format!("stage:4242:9001:c:801:acme:pricing:{}", at(150)));
    let guard = &said["deals"][1]["rules"][0]["guards"][2];
    assert_eq!(guard, &serde_json::json!({"guard": "amount", "passes": false, "why": "amount 50 is less than 100"}));
}

#[test]
fn nobody_and_nothing_certain_is_an_error() {
    let folder = folder();
    let error = |more: &[&str]| explain(folder.path(), more).expect_err("no explanation");
    let unknown = error(&["--contact", "9", "--portal", "4242"]);
    assert!(matches!(unknown, ExplainError::Unknown { .. }), "{unknown}");
    assert!(unknown.to_string().starts_with("nothing is known of contact 9 in portal 4242"), "{unknown}");
    let unclear = error(&["--deal", "9"]);
    assert!(matches!(unclear, ExplainError::Unclear(_)), "{unclear}");
    assert!(unclear.to_string().contains("none of the portals 4242, 4343 has a record of deal 9; say which with --portal"), "{unclear}");
    assert!(error(&["--deal", "9001", "--portal", "1"]).to_string().contains("there is 4242, 4343"));
    let base = ["clickline", "explain", "--clicks", "c"];
    for more in [&[][..], &["--contact", "1", "--deal", "2"], &["--contact", "1", "--at", "then"], &["--deal", "1", "--format", "csv"]] {
        assert!(Cli::try_parse_from([&base[..], more].concat()).is_err(), "{more:?}");
    }
    let piped = text_of_pipe();
    assert!(piped.contains("standard input can't be"), "{piped}");
}

fn text_of_pipe() -> String {
    let line = ["clickline", "explain", "--clicks", "c", "--forms", "-", "--connect", "acme=4242", "--contact", "1"];
    let Command::Explain(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("another command") };
    prepare(&args).expect("right").run(&Arc::default()).expect_err("read twice").to_string()
}

/// A job's topics on a mock cluster: contact 801 has clicked twice in the last ten days, before the rule `late` was added, by what stands in the
/// topic of progress.
fn topics(folder: &Path) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let (mock, now) = (MockCluster::new(1).expect("a mock cluster"), crate::model::time::now());
    let rule = |name: &str, to: &str| {
        format!(
            "      - name: {name}\n        trigger: {{link_tag: sales, contact_window: 30d, click_threshold: 2}}\n        \
             action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: {to}}}\n"
        )
    };
    let rules = rule("early", "b") + &rule("late", "c");
    let text =
        format!("kafka: {{brokers: '{}'}}\nworkspaces:\n  acme:\n    portals: ['4242']\n    rules:\n{rules}", mock.bootstrap_servers());
    let path = folder.join("clickline.yaml");
    fs::write(&path, &text).expect("writes");
    fs::write(folder.join("rules.yaml"), rules.replace("      - ", "- ").replace("        ", "  ")).expect("writes");

    let config = Config::load(&path).expect("right");
    let mut dates = config.plan(None).expect("a plan").date_rules(None);
    assert_eq!(dates.len(), 2);
    let late = dates.keys().find(|key| key.ends_with("-> c")).expect("the rule").clone();
    dates.insert(late, now - 5 * DAY);
    let progress = serde_json::json!({"v": 1, "frontier": now - DAY, "rules": dates}).to_string();
    let click =
        |n: u64, ts: Ms| (ts, format!(r#"{{"id":"c{n}","ts":{ts},"workspace":"acme","link":"s/1","tags":["sales"],"contact_id":"801"}}"#));
    let deal = r#"{"portal":"4242","deal_id":"9001","pipeline":"p","stage":"a","contact_ids":["801"]}"#.to_owned();
    let contact = r#"{"portal":"4242","contact_id":"801","email":"ada@example.com"}"#.to_owned();
    let topics = &config.kafka.topics;
    let producer: ThreadedProducer<DefaultProducerContext> = config.kafka.client(&[]).create().expect("a producer");
    for topic in [&topics.clicks, &topics.forms, &topics.contacts, &topics.deals, &topics.progress] {
        mock.create_topic(topic, 1, 1).expect("a topic");
    }
    let [(first, one), (second, two)] = [click(1, now - 10 * DAY), click(2, now - 9 * DAY)];
    for (topic, key, at, line) in [
        (&topics.deals, "4242/9001", now - 20 * DAY, deal),
        (&topics.contacts, "4242/801", now - 20 * DAY, contact),
        (&topics.clicks, "", first, one),
        (&topics.clicks, "", second, two),
        (&topics.progress, "job", now - DAY, progress),
    ] {
        let record = BaseRecord::to(topic).key(key).payload(&line).timestamp(i64::try_from(at).expect("in range"));
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(Duration::from_secs(20)).expect("delivered");
    (mock, path.display().to_string())
}

#[test]
fn rules_are_as_old_as_the_job_itself_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_mock, config) = topics(folder.path());
    let rules = folder.path().join("rules.yaml").display().to_string();
    let explained = |more: &[&str]| {
        let line = [&["clickline", "explain", "--config", &config, "--contact", "801"], more].concat();
        let Command::Explain(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("another command") };
        dated(prepare(&args).expect("right"), &args).expect("dated").run(&Arc::default()).expect("known")
    };
    let moved = |explanation: &crate::explain::story::Explanation| -> Vec<String> {
        let stages = explanation.deltas.iter().filter(|delta| delta.topic == "hubspot.deal-stages");
        stages.map(|delta| delta.record["rule"].as_str().expect("a name").to_owned()).collect()
    };
    let as_it_was = explained(&[]);
    assert_eq!(moved(&as_it_was), ["early"], "the job has never written the other one");
    let verdicts = &as_it_was.deals[0].rules;
    assert!(verdicts[1].advanced.is_none() && verdicts[1].count == 2, "{verdicts:?}");
    assert!(verdicts[1].missing[0].starts_with("the rule was added 20"), "{verdicts:?}");
    assert_eq!(moved(&explained(&["--rules", &rules])), ["early", "late"], "rules that are tried have always been there");
}
