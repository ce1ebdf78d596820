//! From a click's schedule to its event in HubSpot, with everything in between as in production but HubSpot itself: job, Apache Kafka,
//! sink; the sandbox keeps HubSpot's limit of 110 requests in any ten seconds.
//!
//! Each click was to be sent at the event's own time, so the difference from there to the moment at which the sandbox stored the event is
//! its latency. Events and the contact properties that come with them share the quota: about 500 clicks a second are the most that it
//! allows. In the end every click of a known person must be an event once, and HubSpot must not have had to throttle. What waits for
//! HubSpot to answer is not measured: the sandbox answers within a millisecond, HubSpot takes some 100 ms.

use super::{Args, Deltas, WARM_UP, clicks, histogram, produce, read, start, table};
use clickline::kafka::Kafka;
use clickline::model::Click;
use clickline::sinks::hubspot::{Settings, Sink, Stats};
use clickline_sandbox::{Config, Sandbox};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The account of [`super::generate::plan`].
const PORTAL: &str = "1";
/// HubSpot's limit.
const QUOTA: usize = 110;
/// Clicks that go ahead, so that account, connections and caches are as in the middle of a day.
const WARM: u64 = 200;

/// Runs and prints it.
pub fn measure(kafka: &Kafka, args: &Args) {
    let (rate, seconds) = (args.rate.unwrap_or(50), args.seconds.unwrap_or(60));
    let with_warm_up = seconds + WARM_UP / 1_000;
    let sandbox = Sandbox::start(Config { portals: vec![PORTAL.to_owned()], burst_limit: QUOTA, ..Config::default() }).expect("a sandbox");
    let (warm, measured) = (known_to_hubspot(clicks(WARM)), known_to_hubspot(clicks(rate * with_warm_up)));
    let contacts: BTreeSet<&str> = warm.iter().chain(&measured).filter_map(|click| click.contact_id.as_deref()).collect();
    for contact in contacts {
        sandbox.create_contact(PORTAL, Some(contact), &[("email", &format!("u{contact}@example.com"))]);
    }
    let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
    let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
    // As in front of HubSpot.
    settings.linger = Duration::from_millis(250);
    let folder = tempfile::tempdir().expect("a folder");
    let job = start(kafka, args);
    let sink = Sink::start(settings, kafka.clone(), vec![PORTAL.to_owned()], &folder.path().join("state.db")).expect("the sink starts");
    job.caught_up();
    let mut expected = known(&warm);
    produce(kafka, rate, warm, &AtomicBool::default());
    wait(&sink, expected.len());

    let ends = Arc::new(AtomicBool::new(false));
    let requests = sandbox.requests().len();
    let reader = read(kafka, &ends);
    expected.extend(known(&measured));
    let produced = produce(kafka, rate, measured, &job.measured);
    let stats = wait(&sink, expected.len());
    ends.store(true, Ordering::Relaxed);
    let deltas = Deltas::of(&produced, &reader.join().expect("reads"));
    let steps = job.stop();
    let events = sandbox.snapshot(PORTAL).events;
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((events.len(), ids.len()), (expected.len(), expected.len()), "every event once");
    let mut took = histogram();
    let from = produced.clicks.values().map(|(scheduled, _)| *scheduled).min().unwrap_or(0);
    for event in events.iter().filter(|event| event.timestamp_ms >= from) {
        took.saturating_record(event.created_at_ms.saturating_sub(event.timestamp_ms).max(1));
    }
    sink.stop().expect("the sink stops");
    let sent = sandbox.requests().len() - requests;
    println!("{rate} clicks/s for {seconds} s on {} workers, the producer at most {} ms late", args.workers, produced.late.as_millis());
    println!(
        "requests to HubSpot: {:.1} a second of {:.1} allowed, {} throttled",
        sent as f64 / with_warm_up as f64,
        QUOTA as f64 / 10.0,
        stats.rate_limited
    );
    let [appended, sent, scheduled] = deltas.rows();
    table(&[("from schedule to event in HubSpot", &took, 1_000), appended, sent, scheduled, ("step", &steps, 1)]);
}

/// With contact ids as HubSpot gives them: no zero.
fn known_to_hubspot(clicks: Vec<Click>) -> Vec<Click> {
    let shifted = |click: Click| Click { contact_id: click.contact_id.map(|id| format!("1{id}")), ..click };
    clicks.into_iter().map(shifted).collect()
}

/// The clicks that become an event: a person's, and each id once.
fn known(clicks: &[Click]) -> BTreeSet<String> {
    clicks.iter().filter(|click| click.bot.is_none() && click.contact_id.is_some()).map(|click| click.id.clone()).collect()
}

/// Waits until so many events were delivered, and nothing waits.
fn wait(sink: &Sink, events: usize) -> Stats {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let stats = sink.stats();
        if stats.caught_up && stats.events >= events as u64 {
            return stats;
        }
        assert!(sink.running() && Instant::now() < until, "not delivered: {stats:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
