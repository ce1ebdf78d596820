//! The HubSpot sink at HubSpot's limit: how fast a backlog drains, how much of the quota is used, how late an event is.
//!
//! ```text
//! cargo bench --bench hubspot -- [--deltas 50000] [--contacts 10000] [--events timeline] [--rate 50] [--seconds 20] [--kafka HOST:PORT]
//! ```
//!
//! The sandbox keeps HubSpot's limit of 110 requests in any ten seconds and answers 429 beyond it. Every click is two deltas: an event, and
//! the last campaign values of one of the contacts. Two measurements:
//!
//! - **backlog**: all deltas are in their topics when the sink starts. Clicks per second; requests as a share of the quota, in the
//!   whole windows from the end of the first until less than a second's worth is left; 429s after the first window; the process's memory.
//! - **latency**: clicks come at a steady rate (open loop), each with the time at which it was to be sent. From then to the moment at which
//!   HubSpot stored the event.
//!
//! In the end every event must be there once. Sink, sandbox and broker share the process and the machine: the sandbox keeps every event, so
//! the memory that is shown is not the sink's alone. The embedded broker keeps 5 MB a partition and gets as many partitions as that takes;
//! for 500,000 deltas take a real one (`--kafka`), whose topics must be empty.

use clap::{Parser, ValueEnum};
use clickline::dataflow::plan::{Plan, Times};
use clickline::kafka::Kafka;
use clickline::model::outputs::{ContactProperties, Found, Person, TimelineEvent, Topic, ValueFrom};
use clickline::model::time::{Ms, now};
use clickline::sinks::hubspot::{Events, Settings, Sink, Stats};
use clickline::sinks::outbox::topics;
use clickline::stop::Stop;
use clickline_sandbox::{Config, Sandbox};
use hdrhistogram::Histogram;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

/// The HubSpot sink at HubSpot's limit.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Deltas of the backlog; two a click.
    #[arg(long, default_value_t = 50_000)]
    deltas: usize,
    /// Contacts that the clicks are of.
    #[arg(long, default_value_t = 10_000)]
    contacts: usize,
    /// The event API.
    #[arg(long, value_enum, default_value_t = Api::Timeline)]
    events: Api,
    /// Clicks per second of the latency measurement.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// How long that lasts; 0 leaves it out.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Requests in ten seconds.
    #[arg(long, default_value_t = 110)]
    quota: usize,
    /// A broker that runs already and is empty; the embedded one where absent.
    #[arg(long)]
    kafka: Option<String>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// HubSpot's event APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Api {
    /// Timeline v3.
    Timeline,
    /// Custom events.
    Custom,
}

const PORTAL: &str = "4242";
/// The sandbox's, and HubSpot's, window.
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes of two deltas, about, and what the embedded broker keeps of a partition.
const CLICK_BYTES: usize = 1_600;
const PARTITION_BYTES: usize = 4_000_000;

struct World {
    producer: ThreadedProducer<DefaultProducerContext>,
    kafka: Kafka,
    _broker: Option<MockCluster<'static, DefaultProducerContext>>,
    sandbox: Sandbox,
    contacts: usize,
}

impl World {
    fn new(args: &Args) -> World {
        let clicks = args.deltas / 2 + usize::try_from(args.rate * args.seconds).expect("a number of clicks");
        let partitions = i32::try_from(clicks * CLICK_BYTES / PARTITION_BYTES + 2).expect("not that many");
        let (kafka, broker) = match &args.kafka {
            Some(address) => {
                // As the job makes them; a topic that is missing is waited for.
                let kafka = Kafka::at(address);
                let plan = Plan::new(Times::with_tick(100), &[], &[], |_, _| 0).expect("a plan without rules");
                topics::ensure(&kafka, &topics::needed(&kafka, &plan), &Stop::new()).expect("topics");
                (kafka, None)
            }
            None => {
                let broker = MockCluster::new(1).expect("a broker");
                let kafka = Kafka::at(broker.bootstrap_servers());
                for topic in [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::DeadLetters] {
                    broker.create_topic(kafka.topics.output(topic), partitions, 1).expect("a topic");
                }
                (kafka, Some(broker))
            }
        };
        let sandbox = Sandbox::start(Config { burst_limit: args.quota, ..Config::default() }).expect("a sandbox");
        for n in 0..args.contacts {
            sandbox.create_contact(PORTAL, Some(&contact(n)), &[("email", &format!("c{n}@example.com"))]);
        }
        let producer = kafka.client(&[("linger.ms", "5"), ("queue.buffering.max.messages", "1000000")]).create().expect("a producer");
        World { producer, kafka, _broker: broker, sandbox, contacts: args.contacts }
    }

    /// A click's two deltas. Without a key, so that the embedded broker's partitions fill evenly.
    fn click(&self, n: usize, ts: Ms) {
        let contact = contact(n % self.contacts);
        let click_id = format!("c{n:08}");
        let event = TimelineEvent {
            v: 1,
            id: TimelineEvent::id_of(&click_id, PORTAL),
            portal: PORTAL.to_owned(),
            workspace: "acme".to_owned(),
            click_id: click_id.clone(),
            ts,
            person: Person::ContactId(contact.clone()),
            title: "Clicked: Q2 pricing PDF (s.elido.me/abc123)".to_owned(),
            tokens: [
                ("link_slug", "abc123"),
                ("destination_url", "https://acme.example/pricing.pdf"),
                ("country", "FR"),
                ("device", "desktop"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            extra_data: serde_json::json!({"utm": {"source": "webinar", "medium": "email", "campaign": "q2-pricing"}, "timestamp_ms": ts}),
            found: Found::Eid,
            at: ts,
        };
        let from = ValueFrom { click_id, ts };
        let properties = ContactProperties {
            v: 1,
            id: format!("utm:{PORTAL}:c:{contact}:{n}"),
            portal: PORTAL.to_owned(),
            person: Person::ContactId(contact),
            properties: BTreeMap::from([("elido_last_utm_source".to_owned(), format!("s{n}"))]),
            from: BTreeMap::from([("elido_last_utm_source".to_owned(), from)]),
            at: ts,
        };
        self.put(Topic::Timeline, &event);
        self.put(Topic::ContactProperties, &properties);
    }

    fn put(&self, topic: Topic, record: &impl Serialize) {
        let value = serde_json::to_vec(record).expect("JSON");
        let mut record = BaseRecord::<(), [u8]>::to(self.kafka.topics.output(topic)).payload(&value);
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// When requests that count were answered, and how: ms, status.
    fn requests(&self) -> Vec<(u64, u16)> {
        let counts = |path: &str| !path.contains("/send") && !path.contains("/search");
        self.sandbox.requests().iter().filter(|r| r.portal.is_some() && counts(&r.path)).map(|r| (r.at_ms, r.status)).collect()
    }
}

fn contact(n: usize) -> String {
    (100_000 + n).to_string()
}

/// The process's resident memory, MB; 0 where /proc does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let args = Args::parse();
    let world = World::new(&args);
    let clicks = args.deltas / 2;
    let began = now();
    for n in 0..clicks {
        world.click(n, began);
    }
    world.producer.flush(Duration::from_secs(300)).expect("flushed");

    let tokens = BTreeMap::from([(PORTAL.to_owned(), world.sandbox.refresh_token(PORTAL))]);
    let mut settings = Settings::for_sandbox(&world.sandbox.url(), "clickline", "sandbox-secret", tokens);
    settings.budget.requests = args.quota;
    // As in front of HubSpot.
    settings.linger = Duration::from_millis(250);
    if args.events == Api::Custom {
        settings.portals.get_mut(PORTAL).expect("is there").events = Events::CustomEvents;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state.db");
    let before = resident();
    let sink = Sink::start(settings, world.kafka.clone(), vec![PORTAL.to_owned()], &state).expect("starts");
    backlog(&world, &sink, &args, before);
    if args.seconds > 0 {
        latency(&world, &sink, &args);
    }
    let stats = sink.stop().expect("stops");
    assert_eq!(stats.dead_letters, 0, "{stats:?}");
    let total = clicks + usize::try_from(args.rate * args.seconds).expect("a number of clicks");
    if args.events == Api::Timeline {
        let events = world.sandbox.snapshot(PORTAL).events;
        let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!((events.len(), ids.len()), (total, total), "every event once");
    }
    assert_eq!(stats.events, total as u64);
}

fn wait(sink: &Sink, mut until: impl FnMut(&Stats) -> bool) -> Stats {
    loop {
        let stats = sink.stats();
        if until(&stats) {
            return stats;
        }
        assert!(sink.running(), "the sink has ended: {stats:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn backlog(world: &World, sink: &Sink, args: &Args, before: u64) {
    let deltas = args.deltas as u64;
    let (began, began_ms) = (Instant::now(), now());
    let mut peak = before;
    // Less than a second's worth is no backlog any more.
    let left = deltas.saturating_sub(1_000);
    wait(sink, |stats| {
        peak = peak.max(resident());
        stats.events + stats.properties + stats.superseded >= left
    });
    let drained_ms = now();
    let stats = wait(sink, |stats| stats.caught_up && stats.read >= deltas);
    let all = began.elapsed().as_secs_f64();
    println!("backlog of {deltas} deltas, {} contacts, {} requests in 10 s", args.contacts, args.quota);
    println!("  drained in {all:.1} s: {:.0} clicks/s, {} requests", (deltas / 2) as f64 / all, stats.calls);
    let warm = began_ms + u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    let requests = world.requests();
    // Whole windows alone: of a part of one the share could be more than all.
    let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    let windows = drained_ms.saturating_sub(warm) / window;
    let counted = requests.iter().filter(|(at, _)| (warm..warm + windows * window).contains(at)).count();
    if windows > 0 {
        let share = counted as f64 / (args.quota as u64 * windows) as f64;
        println!("  quota used while there was a backlog, in {windows} windows after the first: {:.1} %", share * 100.0);
    } else {
        println!("  the backlog did not outlast the second window; the share of the quota needs more deltas");
    }
    let refused = |after: u64| requests.iter().filter(|(at, status)| *status == 429 && *at >= after).count();
    println!("  answered with 429: {} in the first window, {} after it", refused(0) - refused(warm), refused(warm));
    println!("  memory of the process: {before} MB before, {peak} MB at most, sandbox and broker included");
}

fn latency(world: &World, sink: &Sink, args: &Args) {
    let first = args.deltas / 2;
    let count = usize::try_from(args.rate * args.seconds).expect("a number of clicks");
    let read = sink.stats().read;
    let began = Instant::now();
    for n in 0..count {
        let due = Duration::from_secs_f64(n as f64 / args.rate as f64);
        thread::sleep(due.saturating_sub(began.elapsed()));
        // Late or not: the click's time is when it was due.
        let behind = u64::try_from(began.elapsed().saturating_sub(due).as_millis()).unwrap_or(0);
        world.click(first + n, now() - behind);
    }
    world.producer.flush(Duration::from_secs(60)).expect("flushed");
    wait(sink, |stats| stats.caught_up && stats.read >= read + 2 * count as u64);
    if args.events != Api::Timeline {
        return println!("latency: the sandbox shows it of timeline events alone");
    }
    let mut times = Histogram::<u64>::new_with_bounds(1, 3_600_000, 3).expect("an hour at most, three digits");
    let late = format!("c{first:08}");
    for event in world.sandbox.snapshot(PORTAL).events.iter().filter(|event| event.id.as_str() >= format!("clk:{late}").as_str()) {
        times.saturating_record(event.created_at_ms.saturating_sub(event.timestamp_ms).max(1));
    }
    let ms = |quantile: f64| times.value_at_quantile(quantile);
    println!(
        "click to timeline at {} clicks/s, {} clicks: p50 {} ms, p99 {} ms, most {} ms",
        args.rate,
        times.len(),
        ms(0.5),
        ms(0.99),
        times.max()
    );
}
