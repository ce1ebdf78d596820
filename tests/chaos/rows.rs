//! What must be in ClickHouse when everything has calmed down.

use crate::company::{Company, tail};
use crate::judge::LIMIT;
use crate::support::recount::try_differences;
use clickline::model::outputs::Topic;
use rdkafka::Message;
use serde_json::Value;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

/// Waits until ClickHouse has every click of the topic, each as one row, totals that are a recount's, and every committed event.
pub fn rows(company: &mut Company) {
    let mut clicks = BTreeSet::new();
    company.course.broker.read("clicks", "read_uncommitted", |message| {
        let record: Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        clicks.insert(record["id"].as_str().expect("a text").to_owned());
    });
    let wanted = format!("{0}\t{0}", clicks.len());
    let began = Instant::now();
    loop {
        company.watch();
        let found = company.clickhouse.try_ask("SELECT count(), uniqExact(id) FROM c.clicks");
        let totals = try_differences(&company.clickhouse);
        let events = (written_events(company), committed_events(company));
        if found.as_ref() == Some(&wanted) && totals.as_deref() == Some("") && events.0.as_ref() == Some(&events.1) {
            return;
        }
        let said = company.job.as_ref().expect("runs").said();
        assert!(
            began.elapsed() < LIMIT,
            "rows and ids in ClickHouse: {found:?}, not {wanted:?}; totals differ by {totals:?}; {:?} events, not {}:\n{}",
            events.0.map(|events| events.len()),
            events.1.len(),
            tail(&said)
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// The events in the table, as records.
fn written_events(company: &Company) -> Option<Vec<String>> {
    let of = Topic::Timeline.default_name();
    let rows = company.clickhouse.try_ask(&format!("SELECT record FROM c.deltas WHERE topic = '{of}' FORMAT JSONCompactEachRow"))?;
    let row = |line: &str| serde_json::from_str::<[String; 1]>(line).expect("a row").concat();
    let mut events: Vec<String> = rows.lines().map(row).collect();
    events.sort();
    Some(events)
}

/// The events in the topic, as readers of committed records find them.
fn committed_events(company: &Company) -> Vec<String> {
    let mut events = Vec::new();
    company.course.broker.read(Topic::Timeline.default_name(), "read_committed", |message| {
        events.push(String::from_utf8(message.payload().unwrap_or_default().to_vec()).expect("text"));
    });
    events.sort();
    events
}
