//! `clickline run`: the job, the HubSpot sink, and the sources that fill the job's inputs.
//!
//! Job and sink share topics and nothing else. When one of them ends by itself the other is stopped, too: whoever supervises the
//! process starts both again. Trouble of the sources ends neither. In a job of several processes sink and sources are process 0's.

use super::deadline::Deadline;
use super::reload::Reload;
use super::{Failure, setup, topics};
use crate::cluster::hosts::Asked;
use crate::cluster::{Hosts, Misfit};
use crate::config::Config;
use crate::forget::keeper::Keeper;
use crate::job::{Job, JobConfig, OtherTick};
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::model::time;
use crate::oauth;
use crate::serve::access::Access;
use crate::serve::{Bound, Http, Server};
use crate::sinks::clickhouse;
use crate::sinks::hubspot::{Service, Settings, Sink, dry};
use crate::sinks::outbox::kafka::ShutOut;
use crate::sources::feeds::{self, Feeding};
use crate::state::State;
use crate::status::{self, Collect, Letters};
use crate::stop::Stop;
use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether something has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Between two log lines about how far a start has come.
const SAY: Duration = Duration::from_secs(3);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Worker threads of this process, the same number in each; wins over the configuration.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZero<usize>>,
    /// How many processes the job has; default: as many as there are addresses, else 1. All need the same configuration.
    #[arg(long, value_name = "P")]
    pub processes: Option<NonZero<usize>>,
    /// Which of them this one is, from 0. Process 0 writes the outputs and has the HubSpot sink.
    #[arg(long, value_name = "I")]
    pub process: Option<usize>,
    /// Where the processes listen for each other: a line `host:port` for each, in their order, on a private network.
    /// Wins over `cluster.hosts` of the configuration; without either: localhost, ports 2101 and up.
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// Go on although records were deleted from the inputs before the job had read them, or while it still needed them: what they say is lost.
    #[arg(long)]
    pub accept_gaps: bool,
    /// Say which calls the HubSpot sink would make for the deltas that are in their topics now, make none, change nothing, and end. The
    /// job itself does not run: it would write new deltas.
    #[arg(long, conflicts_with = "no_sink")]
    pub dry_run: bool,
    /// Leave the deltas in their topics. Without this they are written to HubSpot, by process 0 alone.
    #[arg(long)]
    pub no_sink: bool,
    /// Write nothing to ClickHouse. Without this process 0 does, where there is a `clickhouse` block.
    #[arg(long)]
    pub no_clickhouse: bool,
    /// Where a process other than 0 tells of its share of the work: /metrics, /healthz, /readyz. Process 0 does on `http` and takes no notice of
    /// this, so that all can be started alike on machines of their own; on one machine each needs a port of its own. What other machines
    /// reach needs the token of `http.token_env`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// Runs until a signal comes or something fails; SIGHUP goes over to what the file says then.
///
/// # Errors
/// A configuration that is wrong, or why the job or the sink failed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut config = Config::load(&args.config).map_err(Failure::configuration)?;
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    let deadline = Deadline::watch(&stop)?;
    if args.dry_run {
        let settings = config.hubspot.as_ref().context("there is no `hubspot` block, so no call would be made");
        let settings = settings.map_err(Failure::Configuration)?;
        config.kafka.check_secrets().map_err(Failure::Configuration)?;
        return dry_run(settings, &config.kafka, &config.portals(), &config.state, &stop);
    }
    // Dropped last: what the job's end still tells is sent, too.
    let _traces = clickline_trace::install("clickline", env!("CARGO_PKG_VERSION")).map_err(Failure::configuration)?;
    let reload = Reload::on_signal(args.config.clone())?;
    while let Some(next) = run_with(args, config, &reload, &stop, &deadline)? {
        config = next;
    }
    deadline.waits_for("the last traces");
    Ok(())
}

/// What must be set in the environment or stand in files for this configuration.
fn check_secrets(args: &Args, leads: bool, config: &Config) -> anyhow::Result<()> {
    config.kafka.check_secrets()?;
    // Reading needs the accounts' connections, with or without the sink.
    let reads = leads && (config.crm.is_some() || config.forms.as_ref().is_some_and(|forms| !forms.hubspot.is_empty()));
    if let Some(settings) = config.clickhouse.as_ref().filter(|_| leads && !args.no_clickhouse) {
        settings.password()?;
    }
    match &config.hubspot {
        Some(settings) if reads || (leads && !args.no_sink) => settings.read_secrets(&config.portals()),
        _ => Ok(()),
    }
}

/// Runs with one configuration until a signal comes, something fails, or there is another one, which is given back.
fn run_with(args: &Args, config: Config, reload: &Reload, signalled: &Stop, deadline: &Deadline) -> Result<Option<Config>, Failure> {
    deadline.waits_for("its start");
    let plan = config.plan(None).map_err(Failure::configuration)?;
    let asked = Asked { processes: args.processes.map(NonZero::get), process: args.process, hostfile: args.hostfile.as_deref() };
    let hosts = Hosts::of(asked, &config.hosts).map_err(Failure::configuration)?;
    let (leads, alone) = (hosts.as_ref().is_none_or(Hosts::leads), hosts.is_none());
    let portals = config.portals();
    check_secrets(args, leads, &config).map_err(Failure::Configuration)?;
    // What ends the job ends it alone: the process may go on with another configuration.
    let stop = Stop::new();
    let current = config.clone();
    let metrics = Arc::new(Metrics::default());
    let feeding = Feeding {
        kafka: config.kafka.clone(),
        crm: config.crm.filter(|_| leads),
        forms: config.forms.filter(|_| leads),
        hubspot: None,
        state: config.state.clone(),
        portals: portals.clone(),
        public_url: None,
        max_future: config.times.max_future,
        metrics: Arc::clone(&metrics),
        now: Arc::new(time::now),
    };
    let needed = feeds::needed(&config.kafka, &plan);
    let topics = topics::of(&current, &plan);
    let reads = feeding.reads_hubspot().then(|| config.hubspot.clone()).flatten();
    let settings = config.hubspot.filter(|_| leads && !args.no_sink);
    deadline.allow(settings.as_ref().map_or(Duration::ZERO, |settings| settings.stop_grace));
    let http = served(config.http, args.metrics, leads).map_err(Failure::Configuration)?;
    let bound = http.as_ref().map(|http| Bound::to(http.listen)).transpose().map_err(Failure::Configuration)?;
    let token = http.as_ref().map(Http::token).transpose().map_err(Failure::Configuration)?.flatten();
    let rules = status::rules_of(&plan);
    let board = Arc::clone(&plan.board);
    let workers = args.workers.map_or(config.workers, NonZero::get);
    let kafka = config.kafka.clone();
    let accounts: BTreeMap<String, Vec<String>> = config.workspaces.iter().map(|of| (of.name.clone(), of.portals.clone())).collect();
    let keeper = (leads && (settings.is_some() || reads.is_some() || config.state.exists())).then(|| Keeper {
        kafka: kafka.clone(),
        state: config.state.clone(),
        clickhouse: config.clickhouse.clone().filter(|_| !args.no_clickhouse),
        workspaces: accounts.clone(),
        mirrored: feeding.crm.is_some(),
        now: Arc::new(time::now),
    });
    let job = JobConfig {
        kafka: config.kafka.clone(),
        plan,
        workers,
        hosts,
        limits: config.limits,
        snapshots: config.snapshots.clone(),
        accept_gaps: args.accept_gaps,
        now: Arc::new(time::now),
    };
    let clickhouse = config.clickhouse.filter(|_| leads && !args.no_clickhouse);
    if let Some(settings) = &clickhouse {
        settings.password().map_err(Failure::Configuration)?;
    }
    let job = Job::start(job, stop.clone()).map_err(Failure::Configuration)?;
    if leads {
        topics::log(&config.kafka, topics, &stop);
    }
    // It never ends by itself, and nothing waits for it.
    let clickhouse = clickhouse.map(|settings| clickhouse::Sink::start(settings, &config.kafka, &metrics));
    let clickhouse = clickhouse.transpose().context("the ClickHouse sink does not start")?;
    let sink = match settings {
        Some(settings) => {
            let connections = settings.connections.clone();
            let sink = Sink::start_counted(settings, config.kafka, portals.clone(), &config.state, Arc::clone(&metrics));
            Some((sink.context("the HubSpot sink does not start")?, connections))
        }
        None => {
            let where_then = if leads || args.no_sink { "the deltas stay in their topics" } else { "it is process 0's" };
            tracing::info!(event = "hubspot_sink_absent", "no HubSpot sink here: {where_then}");
            None
        }
    };
    let reads = match (reads, &sink) {
        (Some(settings), Some((sink, _))) => Some((settings, sink.service())),
        (Some(settings), None) => {
            let service = Service::open(&settings, &config.state, &portals, Arc::clone(&metrics));
            Some((settings, Arc::new(service.context("HubSpot cannot be read")?)))
        }
        (None, _) => None,
    };
    // Whatever uses connections lets people connect accounts, too.
    let connections = match (&sink, &reads) {
        (Some((sink, settings)), _) => Some((Arc::clone(sink.connections()), settings.clone())),
        (None, Some((settings, service))) => Some((Arc::clone(service.connections()), settings.connections.clone())),
        (None, None) => None,
    };
    let public_url = http.as_ref().zip(bound.as_ref()).map(|(http, bound)| http.address(bound.address().port(), ""));
    let feeding = Feeding { hubspot: reads, public_url, ..feeding }.prepare().map_err(Failure::Configuration)?;
    let server = match (http, bound) {
        (Some(http), Some(bound)) => {
            // Each part of the job that has something to say brings its routes; they are merged here.
            let access = Access::new(token, http.secure());
            let collect = Collect {
                board,
                look: job.look(),
                stop: stop.clone(),
                rules,
                kafka: kafka.clone(),
                connections: connections.as_ref().map(|(connections, _)| Arc::clone(connections)),
                workspaces: accounts.clone().into_iter().collect(),
                sink: sink.is_some(),
                metrics: Arc::clone(&metrics),
                snapshots: config.snapshots,
                now: Arc::new(time::now),
            };
            // Without the connections: they hold the metrics, and must end with the process's other parts.
            metrics.job.show(Collect { connections: None, ..collect.clone() });
            let mut routes = status::health(collect.clone());
            if leads {
                let ledger_for = current.hubspot.as_ref().map(|hubspot| hubspot.ledger_for);
                let letters = Letters { kafka, state: config.state, ledger_for, workspaces: accounts.clone() };
                routes = routes.merge(status::routes(collect, letters, Arc::clone(&access)));
                routes = routes.merge(crate::metrics::guarded(Arc::clone(&metrics), access));
                routes = routes.merge(status::until_stopped(feeding.routes(), stop.clone()));
            } else {
                routes = routes.merge(crate::metrics::guarded_share(collect, access));
            }
            if let Some((connections, settings)) = connections {
                let callback = http.address(bound.address().port(), oauth::CALLBACK);
                let installer = oauth::Installer::new(connections, &settings, accounts, callback)?;
                routes = routes.merge(oauth::routes(Arc::new(installer)));
            }
            Some(Server::start(bound, routes)?)
        }
        _ => None,
    };
    let feeds = feeding.start(needed)?;
    if let Some(keeper) = keeper {
        keeper.start(stop.clone())?;
    }
    let sink = sink.map(|(sink, _)| sink);
    let mut catching_up = Some(CatchingUp::new());
    let mut next = None;
    while !job.ended() && !stop.asked() && !signalled.asked() && next.is_none() && sink.as_ref().is_none_or(Sink::running) {
        catching_up = catching_up.and_then(|shown| shown.show(&job));
        thread::sleep(LOOK);
        next = reload.next(&current, alone, |new| check_secrets(args, leads, new));
    }
    let wanted = signalled.asked() || next.is_some();
    let asked = wanted && !job.ended();
    if signalled.asked() {
        stop.ask();
    }
    let sink_ended = sink.as_ref().is_some_and(|sink| !sink.running());
    // All are asked before any is waited for. What feeds the job goes first: it uses the sink's way to HubSpot.
    feeds.ask();
    clickhouse.iter().for_each(clickhouse::Sink::ask);
    // The sink next: it waits for HubSpot, and the job may go on meanwhile.
    deadline.waits_for("the HubSpot sink");
    let sink = sink.map_or(Ok(()), |sink| sink.stop().map(drop)).context("the HubSpot sink failed");
    deadline.waits_for("the sources");
    feeds.stop();
    deadline.waits_for("the ClickHouse sink");
    drop(clickhouse);
    deadline.waits_for("the job");
    // A job that is ending already is only waited for: whether it was asked to makes a difference to it.
    let job = if stop.asked() { job.wait() } else { job.stop() };
    // Neither gets better by another start.
    let hopeless = |error: &anyhow::Error| error.is::<Misfit>() || error.is::<ShutOut>() || error.is::<OtherTick>();
    job.map_err(|error| if hopeless(&error) { Failure::Configuration(error) } else { error.context("the job failed").into() })?;
    // It has said `stopping` all the while.
    deadline.waits_for("the HTTP server");
    drop(server);
    sink?;
    if sink_ended && !asked {
        return Err(anyhow!("the HubSpot sink has ended by itself").into());
    }
    if next.is_some() && !signalled.asked() {
        tracing::info!(event = "configuration_switched", "going over to the new configuration");
        return Ok(next);
    }
    tracing::info!(event = "stopped", "stopped as asked");
    Ok(None)
}

/// What this process listens on: process 0 on what the configuration says, another one on what the command line does, with the same token.
fn served(http: Option<Http>, metrics: Option<SocketAddr>, leads: bool) -> anyhow::Result<Option<Http>> {
    if leads {
        return Ok(http);
    }
    let share = metrics.map(|listen| Http { listen, public_url: None, ..http.unwrap_or_default() });
    share.as_ref().map_or(Ok(()), Http::check).context("--metrics")?;
    Ok(share)
}

/// Prints the calls that the sink would make.
fn dry_run(settings: &Settings, kafka: &Kafka, portals: &[String], state: &Path, stop: &Stop) -> Result<(), Failure> {
    let state = State::look(state)?;
    let planned = dry::run(settings, kafka, portals, &state, stop, io::stdout().lock())?;
    let dry::Planned { records, calls, skipped, erased, shadow, malformed, parked } = planned;
    println!("{calls} calls for {records} deltas; none was made");
    println!(
        "settled before {skipped}, of erased persons {erased}, shadow {shadow}, no delta {malformed}, parked until their contact appears {parked}"
    );
    Ok(())
}

/// What is shown while a start goes through what earlier runs had committed: a bar on a terminal, else log lines.
struct CatchingUp {
    began: Instant,
    said: Instant,
    bar: ProgressBar,
}

impl CatchingUp {
    fn new() -> Self {
        let style = ProgressStyle::with_template("reading again {wide_bar} {human_pos} of {human_len} records, {eta} left");
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        CatchingUp { began: Instant::now(), said: Instant::now(), bar }
    }

    /// Shows how far it is; nothing more to show once it is through.
    fn show(mut self, job: &Job) -> Option<Self> {
        let (read, of) = (job.meter().total(), job.meter().waiting());
        if job.ready() {
            self.bar.finish_and_clear();
            tracing::info!(
                event = "ready",
                records = read,
                from_snapshots = job.meter().copied(),
                seconds = format!("{:.1}", self.began.elapsed().as_secs_f64()),
                "ready: outputs are new from here on"
            );
            return None;
        }
        self.bar.set_length(of.max(read));
        self.bar.set_position(read);
        if self.bar.is_hidden() && of > 0 && self.said.elapsed() > SAY {
            self.said = Instant::now();
            tracing::info!(
                event = "catching_up",
                records = read,
                of,
                percent = read.saturating_mul(100) / of.max(1),
                "reading again what earlier runs have read"
            );
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_share_that_other_machines_reach_needs_the_token() {
        let (open, here) = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9102)), SocketAddr::from((Ipv4Addr::LOCALHOST, 9102)));
        let error = format!("{:#}", served(None, Some(open), false).expect_err("no token"));
        assert!(error.starts_with("--metrics: ") && error.contains("http.token_env"), "{error}");
        assert!(served(Some(Http::default()), Some(open), false).is_err(), "no token either");
        assert_eq!(served(None, Some(here), false).expect("for this machine alone").map(|share| share.listen), Some(here));

        let of = |name: &str| Some(name.to_owned());
        let http = Http { token_env: of("CLICKLINE_TOKEN"), public_url: of("https://clickline.example.com"), ..Http::default() };
        let share = served(Some(http.clone()), Some(open), false).expect("has a token").expect("is told of");
        assert_eq!((share.listen, share.token_env, share.public_url), (open, of("CLICKLINE_TOKEN"), None));
        assert!(served(Some(http.clone()), None, false).expect("nothing to check").is_none(), "another process alone does not listen");
        let first = served(Some(http.clone()), Some(open), true).expect("checked with the configuration").expect("listens");
        assert_eq!((first.listen, first.public_url), (http.listen, http.public_url), "process 0 takes no notice");
    }
}
