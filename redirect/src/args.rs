//! The command line of `clickline-redirect`.

use crate::sign::SignArgs;
use crate::visitor_args::VisitorArgs;
use anyhow::Context;
use clap::{Parser, Subcommand};
use clickline_redirect::{Capture, ClientHeader, Config, Error, IpNet, KafkaConfig, Limits, ProxyConfig, SpoolConfig, WhenFull};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Answers short links with a redirect and puts a click record on Kafka.
///
/// GET /{slug} answers 302 to the link's destination: `eid` is taken away and becomes the click's contact, all other parameters go on.
/// GET /healthz says whether the process works, GET /readyz whether the links have been read.
#[derive(Debug, Parser)]
#[command(name = "clickline-redirect", version, max_term_width = 110, after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Threads that answer [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Links as a YAML list or JSON lines; read again when the file changes or on SIGHUP
    #[arg(long, value_name = "FILE")]
    links: Option<PathBuf>,

    /// Kafka brokers that clicks go to, comma separated; without them clicks are answered and forgotten
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,

    /// Topic that clicks are written to
    #[arg(long, value_name = "TOPIC", default_value = "clicks", requires = "kafka")]
    clicks_topic: String,

    /// Compacted topic that links are read from, beside or instead of the file (usually `links`)
    #[arg(long, value_name = "TOPIC", requires = "kafka")]
    links_topic: Option<String>,

    /// Option for librdkafka, e.g. compression.type=zstd; may be repeated. Keep passwords in --kafka-config
    #[arg(long, value_name = "NAME=VALUE", requires = "kafka")]
    kafka_property: Vec<String>,

    /// File with options for librdkafka (SASL, timeouts, …), one name=value per line, # begins a comment
    #[arg(long, value_name = "FILE", requires = "kafka")]
    kafka_config: Option<PathBuf>,

    /// Directory where clicks wait until Kafka has them, of this process alone; without it they wait in memory and a crash loses them
    #[arg(long, value_name = "DIR", requires = "kafka")]
    spool: Option<PathBuf>,

    /// Bytes that the spool may hold (a click has about 650)
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, requires = "spool")]
    spool_bytes: u64,

    /// When the spool is full: `drop` clicks and go on answering, or `refuse` with 503
    #[arg(long, value_name = "WHAT", default_value = "drop", value_parser = ["drop", "refuse"], requires = "spool")]
    spool_full: String,

    /// When to answer: `fast` at once, the click is the kernel's within 5 ms; `durable` once the click is on the disk
    #[arg(long, value_name = "MODE", default_value = "fast", value_parser = ["fast", "durable"], requires = "spool")]
    capture: String,

    /// Domain whose links answer when the request's host belongs to no link, e.g. for 127.0.0.1
    #[arg(long, value_name = "DOMAIN")]
    default_domain: Option<String>,

    /// Request header with the visitor's country, set by the proxy before this server, e.g. CF-IPCountry. With --trusted-proxy believed from
    /// these alone
    #[arg(long, value_name = "NAME")]
    country_header: Option<String>,

    /// Domain on which several workspaces may have links; may be repeated. Any other belongs to one workspace
    #[arg(long, value_name = "DOMAIN")]
    shared_domain: Vec<String>,

    /// Address for Prometheus (/metrics) with /healthz and /readyz; a port alone is on 127.0.0.1
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = metrics_address)]
    metrics: Option<SocketAddr>,

    /// Every connection begins with a PROXY protocol header, version 1 or 2
    #[arg(long)]
    proxy_protocol: bool,

    /// Network (or address) of proxies that are believed about the client's address and country; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    /// Header in which trusted proxies name the client: x-forwarded-for or forwarded
    #[arg(long, value_name = "NAME", value_parser = client_header, default_value = "x-forwarded-for", requires = "trusted_proxy")]
    client_header: ClientHeader,

    /// Open connections altogether
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,

    /// Open connections of one address, trusted proxies excepted; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_client)]
    max_connections_per_client: u32,

    /// How long a request's head may take, from its first byte to its last
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s")]
    head_timeout: Duration,

    /// How long a connection without a request is kept
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "75s")]
    idle_timeout: Duration,

    /// On SIGTERM, how long /readyz says 503 before listening ends: what a balancer needs to look
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    drain_delay: Duration,

    /// On SIGTERM, how long open requests have to end after that
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s")]
    drain_deadline: Duration,

    /// What is logged: error, warn, info, debug, or a filter such as clickline_redirect=debug
    #[arg(long, value_name = "FILTER", env = "CLICKLINE_LOG", default_value = "info")]
    log: String,

    /// How log lines are written: text, or one JSON object per line
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub(crate) log_format: String,

    /// Check the options and the links file, list every problem, and end
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    visitors: VisitorArgs,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make signed links for contacts
    Sign(SignArgs),
}

const AFTER: &str = "\
Example of a links file:
  - domain: s.elido.me
    slug: abc123
    workspace: acme
    destination: https://acme.example/pricing.pdf
    title: Q2 pricing PDF
    tags: [sales-collateral]
    expires: 2027-01-31T18:00:00Z
    enabled: true

Exit codes: 0 stopped as asked (SIGINT, SIGTERM), 1 failed (start it again), 2 the configuration is wrong (don't).";

impl Args {
    /// The filter as it was given; one that makes no sense falls back to `info`.
    pub(crate) fn log_filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.log).unwrap_or_else(|error| {
            eprintln!("warning: --log {:?} is no filter ({error}); logging at info", self.log);
            EnvFilter::new("info")
        })
    }

    /// What the options mean. Reads the Kafka options file and nothing else.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let default = Config::default();
        let kafka = self.kafka.as_ref().map(|brokers| -> anyhow::Result<KafkaConfig> {
            let mut properties = BTreeMap::new();
            if let Some(path) = &self.kafka_config {
                read_properties(path, &mut properties)?;
            }
            for property in &self.kafka_property {
                let (name, value) =
                    split(property).ok_or_else(|| wrong(format!("--kafka-property {property:?} has no `=`; write NAME=VALUE")))?;
                properties.insert(name, value);
            }
            Ok(KafkaConfig {
                brokers: brokers.clone(),
                properties,
                clicks_topic: self.clicks_topic.clone(),
                links_topic: self.links_topic.clone(),
            })
        });
        Ok(Config {
            listen: self.listen,
            workers: self.workers.unwrap_or(default.workers),
            links_file: self.links.clone(),
            kafka: kafka.transpose()?,
            spool: self.spool_config(),
            default_domain: self.default_domain.clone(),
            country_header: self.country_header.clone(),
            shared_domains: self.shared_domain.clone(),
            proxies: ProxyConfig { proxy_protocol: self.proxy_protocol, trusted: self.trusted_proxy.clone(), header: self.client_header },
            limits: Limits {
                head_timeout: self.head_timeout,
                idle_timeout: self.idle_timeout,
                connections: self.max_connections,
                connections_per_client: self.max_connections_per_client,
                drain_delay: self.drain_delay,
                drain_deadline: self.drain_deadline,
                ..default.limits
            },
            metrics: self.metrics,
            visitors: self.visitors.config()?,
            clock: default.clock,
        })
    }
}

impl Args {
    fn spool_config(&self) -> Option<SpoolConfig> {
        let dir = self.spool.clone()?;
        let capture = if self.capture == "durable" { Capture::Durable } else { Capture::Fast };
        let when_full = if self.spool_full == "refuse" { WhenFull::Refuse } else { WhenFull::Drop };
        Some(SpoolConfig { dir, bytes: self.spool_bytes, capture, when_full })
    }
}

fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse().map_err(|_| "write a port, or an address and a port, e.g. 127.0.0.1:9464".to_owned()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "write a network such as 10.0.0.0/8, or an address".to_owned())
}

fn client_header(text: &str) -> Result<ClientHeader, String> {
    match text.to_ascii_lowercase().as_str() {
        "x-forwarded-for" => Ok(ClientHeader::XForwardedFor),
        "forwarded" => Ok(ClientHeader::Forwarded),
        _ => Err("write x-forwarded-for or forwarded".to_owned()),
    }
}

fn wrong(text: String) -> Error {
    Error::Config(text)
}

fn split(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

fn read_properties(path: &Path, into: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)
        .with_context(|| wrong(format!("cannot read {}; check the path given with --kafka-config", path.display())))?;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line may hold a password: it is not repeated.
        let (name, value) = split(line).ok_or_else(|| wrong(format!("{}, line {number}: no `=`; write name=value", path.display())))?;
        into.insert(name, value);
    }
    Ok(())
}
