//! The command line of `clickline-redirect`.

use anyhow::Context;
use clap::Parser;
use clickline_redirect::{Capture, Config, Error, KafkaConfig, SpoolConfig, WhenFull};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// Answers short links with a redirect and puts a click record on Kafka.
///
/// GET /{slug} answers 302 to the link's destination: `eid` is taken away and becomes the click's contact, all other parameters go on.
/// GET /healthz says whether the process works, GET /readyz whether the links have been read.
#[derive(Debug, Parser)]
#[command(name = "clickline-redirect", version, max_term_width = 110, after_help = AFTER)]
pub(crate) struct Args {
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

    /// Request header with the visitor's country, set by the proxy before this server, e.g. CF-IPCountry
    #[arg(long, value_name = "NAME")]
    country_header: Option<String>,

    /// What is logged: error, warn, info, debug, or a filter such as clickline_redirect=debug
    #[arg(long, value_name = "FILTER", env = "CLICKLINE_LOG", default_value = "info")]
    log: String,

    /// Check the options and the links file, list every problem, and end
    #[arg(long)]
    pub(crate) check: bool,
}

const AFTER: &str = "\
Example of a links file:
  - domain: s.elido.me
    slug: abc123
    workspace: acme
    destination: https://acme.example/pricing.pdf
    title: Q2 pricing PDF
    tags: [sales-collateral]

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
