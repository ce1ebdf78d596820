//! Topics as history, on librdkafka's mock cluster: the same as the same records in files, and nothing is left behind.

use super::*;
use crate::backtest::Backtest;
use crate::backtest::report::{Range, Report};
use crate::backtest::variants::Variants;
use crate::config::rules;
use crate::dataflow::plan::WorkspaceSpec;
use crate::explain::story::Explanation;
use crate::explain::{Asked, Explain};
use crate::model::time::now;
use crate::model::time::{DAY, HOUR};
use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use std::collections::BTreeSet;
use std::path::Path;

type Mock = MockCluster<'static, DefaultProducerContext>;

const RULES: &str = r"
- name: sales
  trigger: {link_tag: sales, contact_window: 30d, click_threshold: 4}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 100}}
- name: price
  trigger: {link: s/1, contact_window: 2d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: b, to_stage: c}
";

/// Records of a past week, each with its kind, key and time, in the order of time.
fn records() -> Vec<(Kind, String, Ms, String)> {
    let start = now() - 20 * DAY;
    let mut records = Vec::new();
    for n in 0..60u64 {
        let ts = start + n * 5 * HOUR + n % 7 * 1_234;
        let who = match n % 5 {
            0 => format!(r#""gclid":"g{}""#, n % 3),
            _ => format!(r#""contact_id":"{}""#, n % 4),
        };
        let click = format!(r#"{{"id":"c{n}","ts":{ts},"workspace":"acme","link":"s/{}","tags":["sales"],{who}}}"#, n % 3);
        records.push((Kind::Clicks, String::new(), ts, click));
        if n % 9 == 4 {
            let form = format!(r#"{{"id":"f{n}","ts":{ts},"workspace":"acme","email":"ada@example.com","gclid":"g{}"}}"#, n % 3);
            records.push((Kind::Forms, "acme".to_owned(), ts, form));
        }
        if n % 6 == 1 {
            let (deal, stage) = (n % 4, if n < 30 { "a" } else { "b" });
            let deal = format!(
                r#"{{"ts":{ts},"portal":"1","deal_id":"d{deal}","pipeline":"p","stage":"{stage}","amount":{n}00,"contact_ids":["{deal}"]}}"#
            );
            records.push((Kind::Deals, format!("1/d{}", n % 4), ts, deal));
        }
        if n % 20 == 10 {
            let contact = format!(r#"{{"ts":{ts},"portal":"1","contact_id":"{}","email":"ada@example.com","merged_ids":["3"]}}"#, n % 3);
            records.push((Kind::Contacts, format!("1/{}", n % 3), ts, contact));
        }
    }
    records
}

fn files(folder: &Path, records: &[(Kind, String, Ms, String)]) -> History {
    let file = |kind: Kind| {
        let lines = records.iter().filter(|(of, ..)| *of == kind).map(|(.., line)| line.as_str());
        let path = folder.join(kind.name());
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("writes");
        (kind, path.display().to_string())
    };
    History::Files(Kind::ALL.map(file).into())
}

/// A cluster with topics of two partitions that hold the records, each appended at its own time.
fn topics(records: &[(Kind, String, Ms, String)]) -> (Mock, Kafka) {
    let mock = MockCluster::new(1).expect("a mock cluster");
    let kafka = Kafka::at(mock.bootstrap_servers());
    let name = |kind: Kind| kind.topic(&kafka.topics);
    Kind::ALL.iter().for_each(|kind| mock.create_topic(name(*kind), 2, 1).expect("a topic"));
    let producer: ThreadedProducer<_> = kafka.client(&[]).create().expect("a producer");
    for (place, (kind, key, ts, line)) in records.iter().enumerate() {
        // One deal's states, and one contact's, lie in one partition, as their keys would have it.
        let partition = if *kind == Kind::Clicks { i32::from(place % 2 == 0) } else { 0 };
        let record = BaseRecord::to(name(*kind)).key(key).payload(line).partition(partition);
        producer.send(record.timestamp(i64::try_from(*ts).expect("in range"))).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(Duration::from_secs(20)).expect("delivered");
    (mock, kafka)
}

fn plan(rules: &[rules::Rule]) -> Plan {
    let spec = WorkspaceSpec { name: "acme".into(), portals: vec!["1".into()], ..WorkspaceSpec::default() };
    Plan::new(Times::with_tick(100), &[spec], rules, |_, _| 0).expect("a plan")
}

fn backtest(history: History) -> Report {
    let variants = Variants::new(rules::read(RULES).expect("rules"), &[1, 2, 3, 5], &[7 * DAY]).expect("variants");
    let plan = plan(&variants.rules());
    Backtest { history, variants, plan, range: Range::default(), workers: 2 }.run(&Arc::default()).expect("runs")
}

fn explain(history: History, until: Ms) -> Explanation {
    let plan = plan(&rules::read(RULES).expect("rules"));
    let asked = Asked::contact("ada@example.com");
    Explain { history, plan, asked, portal: None, until: Some(until), workers: 2 }.run(&Arc::default()).expect("known")
}

fn all_topics(kafka: &Kafka) -> BTreeSet<String> {
    let consumer: BaseConsumer = kafka.client(&[("allow.auto.create.topics", "false")]).create().expect("a client");
    let metadata = consumer.fetch_metadata(None, ANSWER).expect("an answer");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

#[test]
fn topics_say_what_the_same_records_say_in_files() {
    let records = records();
    let folder = tempfile::tempdir().expect("a folder");
    let (_mock, kafka) = topics(&records);
    let topics = || History::Topics(Box::new(kafka.clone()), Limits::default());
    let (of_files, of_topics) = (backtest(files(folder.path(), &records)), backtest(topics()));
    let json = |report: &Report| serde_json::to_string_pretty(&report.rules).expect("JSON");
    assert_eq!(json(&of_files), json(&of_topics));
    assert_eq!((of_files.history.clicks, of_files.history.deals), (of_topics.history.clicks, of_topics.history.deals));
    let advanced: usize = of_files.rules.iter().flat_map(|rule| &rule.variants).map(|variant| variant.deals).sum();
    assert!(advanced > 10, "{advanced}");
    assert!(of_topics.history.to > of_files.history.to, "the clock of topics runs on to now");

    let last = records.iter().map(|(_, _, ts, _)| *ts).max().expect("some");
    for until in [last - 5 * DAY, last + HOUR] {
        let [of_files, of_topics] = [files(folder.path(), &records), topics()].map(|history| explain(history, until));
        let json = |explanation: &Explanation| serde_json::to_string_pretty(explanation).expect("JSON");
        assert_eq!(json(&of_files), json(&of_topics));
        assert!(of_files.clicks.len() > 5 && !of_files.forms.is_empty() && of_files.deltas.len() > 5);
    }
    let inputs = ["clicks", "crm.contacts", "crm.deals", "forms"].map(str::to_owned);
    assert_eq!(all_topics(&kafka), BTreeSet::from(inputs), "nothing was made");
}

#[test]
fn a_topic_that_is_missing_is_not_made() {
    let mock = MockCluster::new(1).expect("a mock cluster");
    mock.create_topic("clicks", 1, 1).expect("a topic");
    let kafka = Kafka::at(mock.bootstrap_servers());
    let run = Run {
        history: History::Topics(Box::new(kafka.clone()), Limits::default()),
        kinds: vec![Kind::Clicks, Kind::Forms],
        plan: None,
        times: Times::with_tick(100),
        workers: 1,
        until: None,
    };
    struct Deaf;
    impl Ear for Deaf {
        const ALL: bool = false;
        fn arrival(&mut self, _: &Arrival, _: Ms) {}
        fn row(&mut self, _: Heard<'_>, _: Ms) {}
    }
    let error = run.listen(Deaf, &Arc::default()).err().expect("missing");
    assert!(format!("{error:#}").contains("the topic forms does not exist"), "{error:#}");
    assert_eq!(all_topics(&kafka), BTreeSet::from(["clicks".to_owned()]));
}
