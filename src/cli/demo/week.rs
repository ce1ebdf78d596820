//! Starts the parts, lets the week pass, reads the result back.

use super::broker::Broker;
use super::scenario::{
    self, Action, CONTACTS, DEALS, DOMAIN, Event, LINKS, MERGED, MOVED_BACK, PORTAL, RULES, UNRESOLVED, Visit, WORKSPACE, YOURS,
};
use super::summary::{self, FIRST_TOUCH, Line};
use super::{Demo, system_now};
use crate::config::rules;
use crate::dataflow::plan::{Counts, Plan, Times, WorkspaceSpec};
use crate::http;
use crate::job::{Job, JobConfig};
use crate::model::time::{DAY, HOUR, Ms};
use crate::sinks::hubspot::{Settings, Sink};
use crate::sources::kafka::Limits;
use crate::stop::Stop;
use anyhow::{Context, bail, ensure};
use clickline_redirect::{Clock as RedirectClock, Config as RedirectConfig, KafkaConfig, Server};
use clickline_sandbox::{Config as SandboxConfig, Sandbox};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long the parts may take to finish the week's work once it is over.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one step of the week takes: long enough to be watched.
const STEP: Duration = Duration::from_millis(120);
/// OAuth client of the demonstration's app; the sandbox's own default.
const CLIENT: (&str, &str) = ("clickline", "sandbox-secret");

/// The week's clock: set by the steps of the week, and the system's again when the week is over.
#[derive(Clone)]
struct WeekClock(Arc<AtomicU64>);

impl WeekClock {
    fn now(&self) -> Ms {
        match self.0.load(Ordering::Acquire) {
            0 => system_now(),
            at => at,
        }
    }

    fn set(&self, at: Ms) {
        self.0.store(at, Ordering::Release);
    }

    fn back_to_the_system(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// All parts, running.
struct Parts {
    broker: Broker,
    sandbox: Sandbox,
    redirect: Server,
    job: Job,
    sink: Sink,
    stop: Stop,
    /// The sink's state database lives here.
    _folder: Folder,
}

/// A folder of this run's own, removed at its end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("clickline-demo-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path).with_context(|| format!("the folder {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is in the system's folder for temporary files: what stays there is cleaned up by the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The whole demonstration.
pub async fn run(demo: &Demo) -> anyhow::Result<()> {
    let began = Instant::now();
    // The week ends with the last full day, so that the clock need not jump when it is over.
    let monday = (system_now() / DAY - 7) * DAY;
    let clock = WeekClock(Arc::new(AtomicU64::new(monday)));
    let http = http::client(Duration::from_secs(10))?;
    let mut parts = start(demo, &clock, monday).await?;
    println!("The sandbox HubSpot shows everything as it happens: {}/", parts.sandbox.url());
    println!("Short links answer at http://{}/ (try /abc123)\n", parts.redirect.address());

    if demo.kafka.is_some() {
        println!("The topics of this run, {} and so on, stay on the broker\n", parts.broker.kafka.topics.clicks);
    }

    pass_the_week(&mut parts, &clock, monday, &http).await?;
    clock.back_to_the_system();
    let lines = settle(&parts, monday + 7 * DAY).await?;

    println!("\nRead back from the sandbox:\n{}", summary::render(&lines));
    let wrong = summary::wrong(&lines);
    let stats = parts.sink.stats();
    println!("{} HTTP calls to HubSpot, {:.1} s in all{}", stats.calls, began.elapsed().as_secs_f64(), memory());
    if demo.keep {
        let (_, target, deal, clicks) = YOURS;
        println!(
            "\nStill running; Ctrl-C ends. {clicks} clicks on http://{}/{target} with a browser move the deal \"{deal}\" on {}/\n\
             (the destinations are made up: the browser will not find them; curl is held to be a machine unless it has --user-agent)",
            parts.redirect.address(),
            parts.sandbox.url()
        );
        stay(&parts).await?;
    }
    end(parts)?;
    ensure!(wrong == 0, "{wrong} of {} lines of the summary are not as they must be", lines.len());
    println!("\nAll {} lines are as they must be", lines.len());
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM, as long as all parts work.
async fn stay(parts: &Parts) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        ensure!(!parts.job.ended() && parts.sink.running(), "a part has ended by itself; its reasons stand above");
    }
}

/// Peak memory of this process, where the system tells.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    peak.map_or(String::new(), |kb| format!(", peak memory {} MB", kb / 1024))
}

async fn start(demo: &Demo, clock: &WeekClock, monday: Ms) -> anyhow::Result<Parts> {
    let broker = Broker::start(demo.kafka.as_deref()).await?;
    let sandbox = Sandbox::start(SandboxConfig { listen: demo.page, ..SandboxConfig::default() })
        .with_context(|| format!("the sandbox cannot listen on {}", demo.page))?;
    furnish(&sandbox);
    let token = sandbox.refresh_token(PORTAL);
    mirror(&broker, monday)?;

    let of_redirect = clock.clone();
    let redirect = Server::start(RedirectConfig {
        workers: 1,
        kafka: Some(KafkaConfig {
            properties: broker.kafka.properties.clone(),
            clicks_topic: broker.kafka.topics.clicks.clone(),
            links_topic: Some(broker.kafka.topics.links.clone()),
            ..KafkaConfig::at(broker.kafka.brokers.clone())
        }),
        default_domain: Some(DOMAIN.to_owned()),
        clock: RedirectClock::new(move || of_redirect.now()),
        ..RedirectConfig::default()
    })
    .context("the redirect server does not start")?;
    ensure!(redirect.ready(Duration::from_secs(30)), "the redirect server has not read its links within 30 s");

    let spec = WorkspaceSpec { name: WORKSPACE.to_owned(), portals: vec![PORTAL.to_owned()], counts: Counts::All };
    let plan = Plan::new(Times::with_tick(100), &[spec], &rules::read(RULES)?, |_, _| 0)?;
    let of_job = clock.clone();
    let stop = Stop::new();
    let job = Job::start(
        JobConfig {
            kafka: broker.kafka.clone(),
            plan,
            workers: 1,
            hosts: None,
            limits: Limits::default(),
            snapshots: None,
            accept_gaps: false,
            now: Arc::new(move || of_job.now()),
        },
        stop.clone(),
    )?;

    let folder = Folder::new()?;
    // The sink makes the event template and the contact properties that the portal lacks.
    let settings = Settings::for_sandbox(&sandbox.url(), CLIENT.0, CLIENT.1, BTreeMap::from([(PORTAL.to_owned(), token)]));
    let sink = Sink::start(settings, broker.kafka.clone(), vec![PORTAL.to_owned()], &folder.0.join("state.sqlite"))?;
    Ok(Parts { broker, sandbox, redirect, job, sink, stop, _folder: folder })
}

/// Contacts and deals, as they are in HubSpot on Monday.
fn furnish(sandbox: &Sandbox) {
    let (merged, into) = MERGED;
    for contact in &CONTACTS {
        let mut properties = vec![("firstname", contact.name.0), ("lastname", contact.name.1), ("email", contact.email)];
        if contact.id == "801" {
            properties.push(FIRST_TOUCH);
        }
        sandbox.create_contact(PORTAL, Some(contact.id), &properties);
    }
    sandbox.create_contact(PORTAL, Some(merged), &[("firstname", "Annie"), ("email", "annie@old.example")]);
    sandbox.merge_contacts(PORTAL, into, merged);
    for deal in &DEALS {
        let amount = deal.amount.map(|amount| amount.to_string());
        let mut properties = vec![("dealname", deal.name), ("pipeline", "default"), ("dealstage", deal.stage)];
        properties.extend(amount.as_deref().map(|amount| ("amount", amount)));
        sandbox.create_deal(PORTAL, Some(deal.id), &properties, &[deal.contact]);
    }
}

/// The same contacts, deals and links in Kafka.
fn mirror(broker: &Broker, at: Ms) -> anyhow::Result<()> {
    let topics = &broker.kafka.topics;
    for contact in &CONTACTS {
        let merged: Vec<&str> = if contact.id == MERGED.1 { vec![MERGED.0] } else { Vec::new() };
        let record = json!({"v": 1, "portal": PORTAL, "contact_id": contact.id, "email": contact.email, "merged_ids": merged});
        broker.append(&topics.contacts, &format!("{PORTAL}/{}", contact.id), Some(record.to_string().as_bytes()), at)?;
    }
    for deal in &DEALS {
        mirror_deal(broker, deal, deal.stage, at)?;
    }
    for (slug, title, destination, tags) in LINKS {
        let record = json!({"v": 1, "domain": DOMAIN, "slug": slug, "workspace": WORKSPACE, "title": title, "destination": destination, "tags": tags});
        broker.append(&topics.links, &format!("{DOMAIN}/{slug}"), Some(record.to_string().as_bytes()), at)?;
    }
    broker.flush()
}

fn mirror_deal(broker: &Broker, deal: &scenario::Deal, stage: &str, at: Ms) -> anyhow::Result<()> {
    let record = json!({
        "v": 1, "portal": PORTAL, "deal_id": deal.id, "pipeline": "default", "stage": stage, "amount": deal.amount, "contact_ids": [deal.contact],
    });
    broker.append(&broker.kafka.topics.deals, &format!("{PORTAL}/{}", deal.id), Some(record.to_string().as_bytes()), at)
}

async fn pass_the_week(parts: &mut Parts, clock: &WeekClock, monday: Ms, http: &reqwest::Client) -> anyhow::Result<()> {
    let week = scenario::week();
    let bar = ProgressBar::new(week.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos:>3}/{len} {msg}")?);
    let mut before = 0;
    for event in &week {
        if event.at / HOUR != before / HOUR {
            tokio::time::sleep(STEP).await;
        }
        before = event.at;
        ensure!(!parts.job.ended(), "the job has ended before the week has");
        let line = format!("{} {}", day_and_time(event.at), event.what);
        if bar.is_hidden() {
            println!("  {line}");
        }
        bar.set_message(line);
        clock.set(monday + event.at);
        act(parts, clock, event, http).await.with_context(|| event.what.clone())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    parts.broker.flush()
}

fn day_and_time(at: Ms) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let day = usize::try_from(at / DAY).ok().and_then(|day| DAYS.get(day)).copied().unwrap_or("…");
    format!("{day} {:02}:{:02}", at % DAY / HOUR, at % HOUR / 60_000)
}

async fn act(parts: &Parts, clock: &WeekClock, event: &Event, http: &reqwest::Client) -> anyhow::Result<()> {
    match &event.action {
        Action::Visit(visit) => click(parts, visit, http).await,
        Action::Form { id, email, gclid, fbclid } => {
            let record =
                json!({"v": 1, "id": id, "ts": clock.now(), "workspace": WORKSPACE, "email": email, "gclid": gclid, "fbclid": fbclid});
            parts.broker.append(&parts.broker.kafka.topics.forms, WORKSPACE, Some(record.to_string().as_bytes()), clock.now())
        }
        Action::MoveBack => move_back(parts, clock).await,
    }
}

async fn click(parts: &Parts, visit: &Visit, http: &reqwest::Client) -> anyhow::Result<()> {
    let url = format!("http://{}/{}", parts.redirect.address(), visit.target);
    let request = if visit.head { http.head(&url) } else { http.get(&url) };
    let answer = request.header("user-agent", visit.user_agent).send().await?;
    ensure!(answer.status().as_u16() == visit.status, "the redirect server answered {}, not {}", answer.status(), visit.status);
    if visit.status == 302 {
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        ensure!(!location.contains("eid="), "the redirect passes the contact's id on: {location}");
    }
    Ok(())
}

/// A salesperson undoes what the job did to a deal; the mirror hears of both moves.
async fn move_back(parts: &Parts, clock: &WeekClock) -> anyhow::Result<()> {
    let Some(deal) = DEALS.iter().find(|deal| deal.id == MOVED_BACK) else { bail!("no deal {MOVED_BACK}") };
    let began = Instant::now();
    let stage = || parts.sandbox.snapshot(PORTAL).deal(deal.id).and_then(|deal| deal.properties.get("dealstage").cloned());
    while stage().as_deref() == Some(deal.stage) {
        if began.elapsed() > PATIENCE {
            // The summary will say that it never moved.
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    mirror_deal(&parts.broker, deal, &stage().unwrap_or_default(), clock.now())?;
    parts.sandbox.edit_deal(PORTAL, deal.id, &[("dealstage", deal.stage)]);
    clock.set(clock.now() + 60_000);
    mirror_deal(&parts.broker, deal, deal.stage, clock.now())
}

/// Waits until the week's work is done, and says what came of it. What is right must stay right for a moment: too much
/// would be as wrong as too little.
async fn settle(parts: &Parts, week_end: Ms) -> anyhow::Result<Vec<Line>> {
    let bar = ProgressBar::new_spinner().with_message("the job and the sink finish the week");
    let began = Instant::now();
    let mut right_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bar.tick();
        ensure!(!parts.job.ended(), "the job has ended by itself");
        let done = parts.job.frontier() >= week_end && parts.sink.stats().caught_up;
        let mut lines = summary::compare(&parts.sandbox.snapshot(PORTAL));
        let right = done && summary::wrong(&lines) == 0;
        let since = *right_since.get_or_insert_with(Instant::now);
        if !right {
            right_since = None;
        }
        if right && since.elapsed() > Duration::from_secs(2) || began.elapsed() > PATIENCE {
            bar.finish_and_clear();
            let topics = &parts.broker.kafka.topics;
            lines.push(summary::also("clicks that found nobody within 72 hours", parts.broker.count(&topics.unresolved)?, UNRESOLVED));
            lines.push(summary::also("records that could not be read or delivered", parts.broker.count(&topics.dead_letters)?, 0));
            return Ok(lines);
        }
    }
}

fn end(parts: Parts) -> anyhow::Result<()> {
    let clicks = parts.redirect.stop();
    ensure!(clicks.lost == 0, "the redirect server lost {} clicks", clicks.lost);
    parts.stop.ask();
    parts.job.stop()?;
    parts.sink.stop()?;
    parts.sandbox.stop();
    Ok(())
}
