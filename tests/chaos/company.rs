//! All the parts of a company that uses clickline, and what they are started with.

use crate::against_oracle::{Course, now};
use crate::process::Process;
use crate::support::clickhouse::ClickHouse;
use crate::support::hubspot::{client, status, subscribe};
use crate::support::kafka::Broker;
use crate::support::ports::free_addresses;
use crate::support::postgres::Postgres;
use crate::support::process::wait_for;
use crate::visitors::{LINKS, Link, Visitors};
use clickline::model::time::Ms;
use clickline_sandbox::{Config, Sandbox};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// HubSpot accounts.
pub const PORTALS: [&str; 2] = ["1", "2"];
/// Contacts that are there all the time.
pub const CONTACTS: [(&str, &str); 3] = [("1", "ada@example.com"), ("2", "bob@example.com"), ("3", "cyd@example.com")];
pub const DEALS: [&str; 3] = ["91", "92", "93"];

/// Everything that runs.
pub struct Company {
    // Dropped in this order: programs before what they use.
    pub job: Option<Process>,
    pub redirect: Option<Process>,
    pub visitors: Option<Visitors>,
    pub course: Course,
    pub sandbox: Sandbox,
    pub table: Postgres,
    pub clickhouse: ClickHouse,
    /// Refresh tokens as a person gave them to the job last, by portal.
    tokens: BTreeMap<&'static str, String>,
    http: String,
    visit: String,
    /// Whether access tokens have been ended since the last installation.
    expired: bool,
    /// Until when HubSpot is out of order.
    pub outage: Option<Instant>,
    /// When an answer of HubSpot's may not have come to the ledger: the job ended or stood still, or HubSpot was out of order.
    pub unsure: Vec<(Ms, Ms)>,
    /// Contacts that were merged away, deleted or erased, by portal.
    pub gone: Vec<(String, String)>,
    /// Contacts that were made on the way and are still there, by portal.
    pub made: Vec<(String, String)>,
    pub happened: BTreeMap<String, usize>,
}

impl Company {
    /// Starts everything, with the visitors of `seed`.
    pub fn open(broker: Broker, table: Postgres, clickhouse: ClickHouse, seed: u64, seconds: u64) -> Company {
        let [http, visit] = free_addresses();
        let port = http.rsplit(':').next().expect("a port");
        let sandbox = sandbox();
        let target = format!("http://localhost:{port}/hubspot/webhooks");
        subscribe(&sandbox, &target);
        let more = format!(
            "http: {{listen: '{http}', public_url: 'http://localhost:{port}'}}\ncrm: {{changes: webhooks, reload_every: 20s}}\nhubspot:\n  base_url: '{}'\n  client_id: clickline\n  \
             client_secret_env: HUBSPOT_SECRET\n  developer_key_env: DEVELOPER_KEY\n  park_retry: 1s\n  retry_cap: 2s\n  request_timeout: 3s\n  \
             provision: [elido_last_utm_source, elido_last_utm_campaign, elido_last_utm_medium, our_medium]\n  connections: {{seal: 'off', postgres_env: TABLE}}\n  portals:\n{}clickhouse: {{url: 'http://{}', database: c, batch_rows: 100, batch_wait: 100ms, deadline: 2s, deltas: [hubspot.timeline]}}\n",
            sandbox.url(),
            PORTALS
                .map(|portal| format!(
                    "    '{portal}': {{refresh_token_env: REFRESH_{portal}, app_id: {}, create_contacts: true}}\n",
                    sandbox.app_id(0)
                ))
                .concat(),
            clickhouse.address(),
        );
        // Longer than the broker stands still at a time: a record that was stamped before and can be read only after it is late by that much.
        let course = Course::around(broker, seed, "4s", more);
        links(&course.folder.path().join("links.jsonl"));
        let tokens = PORTALS.map(|portal| (portal, sandbox.refresh_token(portal))).into();
        let mut company = Company {
            job: None,
            redirect: None,
            visitors: None,
            course,
            sandbox,
            table,
            clickhouse,
            tokens,
            http,
            visit,
            expired: false,
            outage: None,
            unsure: Vec::new(),
            gone: Vec::new(),
            made: Vec::new(),
            happened: BTreeMap::new(),
        };
        company.start_redirect();
        company.start_job();
        // The oracle works every tick out from nothing: the longer the run, the fewer the visitors.
        let pause = Duration::from_millis((2 * seconds).clamp(60, 500));
        company.visitors = Some(Visitors::come(&company.visit, &company.course.broker, seed, pause));
        company
    }

    pub fn start_job(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
        command.args(["run", "--workers", "2", "--config"]).arg(&self.course.config).env("RUST_LOG", "info");
        command.env("CLICKLINE_CLOCK_SHIFT", self.clock("job"));
        command.env("HUBSPOT_SECRET", "sandbox-secret").env("DEVELOPER_KEY", "sandbox-developer-key").env("TABLE", self.table.address());
        for (portal, token) in &self.tokens {
            command.env(format!("REFRESH_{portal}"), token);
        }
        // What the one before sent while it ended is unsure, too.
        if let Some((_, until)) = self.unsure.last_mut() {
            *until = now().max(*until);
        }
        self.job = Some(Process::start("job", command, self.course.folder.path()));
    }

    /// The job, which is to end.
    pub fn take_job(&mut self) -> Process {
        self.unsure_since(1_000);
        self.job.take().expect("runs")
    }

    /// From so many milliseconds ago until now, or until the next job starts, answers may have been lost.
    fn unsure_since(&mut self, ms: Ms) {
        self.unsure.push((now() - ms, now()));
    }

    /// The job stands still for a while.
    pub fn freeze_job(&mut self, pause: Duration) {
        self.unsure_since(1_000);
        self.job.as_ref().expect("runs").freeze(pause);
    }

    /// HubSpot is about to be out of order.
    pub fn begin_outage(&mut self, lasts: Duration) {
        self.unsure.push((now(), Ms::MAX));
        self.outage = Some(Instant::now() + lasts);
    }

    /// HubSpot works.
    pub fn end_outage(&mut self) {
        self.sandbox.clear_faults();
        self.outage = None;
        self.unsure.iter_mut().for_each(|(_, until)| *until = now().min(*until));
    }

    pub fn start_redirect(&mut self) {
        let folder = self.course.folder.path();
        let mut command = Command::new(redirect_server());
        command.args(["--listen", &self.visit, "--workers", "2", "--links"]).arg(folder.join("links.jsonl"));
        let spool = folder.join("spool");
        fs::create_dir_all(&spool).expect("a folder for the spool");
        command.args(["--kafka", self.course.broker.address(), "--capture", "durable", "--spool"]).arg(spool);
        command.args(["--trusted-proxy", "127.0.0.0/8", "--burst-contact", "off", "--burst-links", "off"]);
        command.env("CLICKLINE_CLOCK_SHIFT", self.clock("redirect"));
        self.redirect = Some(Process::start("redirect", command, folder));
        self.answers();
    }

    /// Puts the clocks of the programs wrong by so many milliseconds, the job's the other way; brokers, HubSpot and databases keep theirs. The job's
    /// clock is the brokers', wherever its own jumps.
    pub fn shift_clocks(&self, ms: i64) {
        for (name, ms) in [("job", -ms), ("redirect", ms)] {
            // Whole or not at all: the programs read it all the time.
            let (clock, fresh) = (self.clock(name), self.clock("fresh"));
            fs::write(&fresh, ms.to_string()).and_then(|()| fs::rename(&fresh, clock)).expect("writes");
        }
    }

    fn clock(&self, name: &str) -> PathBuf {
        self.course.folder.path().join(format!("clock.{name}"))
    }

    /// Waits until the redirect server answers.
    fn answers(&mut self) {
        let address = self.visit.clone();
        let redirect = self.redirect.as_mut().expect("was started");
        wait_for("the redirect server", || {
            let ended = redirect.ended();
            assert!(ended.is_none(), "the redirect server ended ({ended:?}):\n{}", redirect.said());
            TcpStream::connect(&address).ok()
        });
    }

    /// Ends the access tokens before their time, once an installation: HubSpot gives them for half an hour, and an account that accepts two in a
    /// row for no time at all counts as shut.
    pub fn expire_access_tokens(&mut self) {
        if !std::mem::replace(&mut self.expired, true) {
            PORTALS.iter().for_each(|portal| self.sandbox.expire_access_tokens(portal));
            self.count("access tokens end early");
        }
    }

    /// A new installation of the app in both accounts.
    pub fn install_anew(&mut self) {
        self.expired = false;
        for (portal, token) in &mut self.tokens {
            *token = self.sandbox.refresh_token(portal);
        }
    }

    /// What a supervisor does: a job that ended by itself with exit code 1 is started again. Ends HubSpot's outage when it is over.
    pub fn watch(&mut self) {
        if self.outage.is_some_and(|until| Instant::now() > until) {
            self.end_outage();
        }
        if let Some(status) = self.job.as_mut().and_then(Process::ended) {
            let said = self.job.as_ref().map(Process::said).unwrap_or_default();
            assert_eq!(status.code(), Some(1), "the job ended with {status}; only 1 asks to be started again:\n{}", tail(&said));
            self.count("the job ended by itself");
            // Something else may have gone wrong for 6 s before anybody looked.
            self.unsure_since(7_500);
            self.start_job();
        }
        if let Some(redirect) = &mut self.redirect
            && let Some(status) = redirect.ended()
        {
            panic!("the redirect server ended by itself with {status}:\n{}", tail(&redirect.said()));
        }
    }

    pub fn count(&mut self, what: &str) {
        *self.happened.entry(what.to_owned()).or_default() += 1;
    }

    /// Whether the job's HTTP server answers.
    pub fn job_answers(&self) -> bool {
        TcpStream::connect(&self.http).is_ok()
    }
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    last(&log.lines().collect::<Vec<_>>(), 40)
}

/// The last errors of a log, without what it says of topics at each start.
pub fn errors(log: &str) -> String {
    last(&log.lines().filter(|line| line.contains(" ERROR ") && !line.contains(" ERROR topic ")).collect::<Vec<_>>(), 5)
}

fn last(lines: &[&str], n: usize) -> String {
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// A HubSpot with two accounts, the oracle's pipelines, some contacts and deals.
fn sandbox() -> Sandbox {
    // Webhooks that find nobody come again soon: HubSpot does it for a day.
    let webhook_retries = vec![Duration::from_millis(500); 400];
    let portals = PORTALS.map(str::to_owned).to_vec();
    let sandbox = Sandbox::start(Config { portals, webhook_retries, burst_limit: 1_000, ..Config::default() }).expect("a sandbox");
    for portal in PORTALS {
        for (id, stages) in [("p", &["a", "b", "c"][..]), ("q", &["q1", "q2"])] {
            create_pipeline(&sandbox, portal, id, stages);
        }
        for (id, email) in CONTACTS {
            sandbox.create_contact(portal, Some(id), &[("email", email)]);
        }
        for (at, deal) in DEALS.iter().enumerate() {
            let properties = [("dealname", "d"), ("pipeline", "p"), ("dealstage", "a"), ("amount", "5000")];
            sandbox.create_deal(portal, Some(deal), &properties, &[CONTACTS[at].0]);
        }
    }
    sandbox
}

fn create_pipeline(sandbox: &Sandbox, portal: &str, id: &str, stages: &[&str]) {
    let stage = |(at, stage)| json!({ "stageId": stage, "label": stage, "displayOrder": at, "metadata": { "probability": "0.5" } });
    let stages: Vec<_> = stages.iter().enumerate().map(stage).collect();
    let pipeline = json!({ "pipelineId": id, "label": id, "displayOrder": 1, "stages": stages });
    let token = sandbox.static_token(portal, None);
    let call = client().post(format!("{}/crm/v3/pipelines/deals", sandbox.url())).bearer_auth(token).json(&pipeline);
    assert_eq!(status(call), Some(201), "the pipeline {id}");
}

fn links(path: &std::path::Path) {
    let line = |(domain, slug, workspace, tags, deal): &Link| {
        let link = json!({ "domain": domain, "slug": slug, "workspace": workspace, "destination": format!("https://example.com/{slug}"),
            "title": "T", "tags": tags, "deal_id": deal });
        link.to_string()
    };
    fs::write(path, LINKS.iter().map(line).collect::<Vec<_>>().join("\n")).expect("writes");
}

/// The redirect server beside the job's binary; another package, so cargo is asked for it where the tests were built without it.
fn redirect_server() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_clickline")).with_file_name("clickline-redirect");
    if !path.exists() {
        let status = Command::new(env!("CARGO")).args(["build", "--package", "clickline-redirect"]).status();
        assert!(status.is_ok_and(|status| status.success()) && path.exists(), "builds {}", path.display());
    }
    path
}
