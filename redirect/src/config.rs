//! What the server is told: addresses, sources of links, Kafka, the clock.

use crate::VisitorConfig;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Everything a [`Server`](crate::Server) needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one (see [`Server::address`](crate::Server::address)).
    pub listen: SocketAddr,
    /// Threads that answer, each with a listener and an event loop of its own. Default: one per core.
    pub workers: usize,
    /// Links as a YAML list or as JSON lines; read again when the file changes.
    pub links_file: Option<PathBuf>,
    /// Where clicks go, and where links may come from. Without it clicks are answered and forgotten.
    pub kafka: Option<KafkaConfig>,
    /// Where clicks wait on disk until Kafka has them; needs [`kafka`](Config::kafka). Without it they wait in memory, and a crash loses them.
    pub spool: Option<SpoolConfig>,
    /// Domain whose links answer when the request's host belongs to no link, e.g. `127.0.0.1:8080`.
    pub default_domain: Option<String>,
    /// Request header that holds the visitor's ISO 3166 country, e.g. `CF-IPCountry`. Believed from [`trusted`](ProxyConfig::trusted) proxies; where none
    /// are named, from everybody: give it only behind the proxy that sets it.
    pub country_header: Option<String>,
    /// Domains that links of several workspaces may share; any other belongs to the workspace that has links on it.
    pub shared_domains: Vec<String>,
    /// What stands between the server and its visitors.
    pub proxies: ProxyConfig,
    /// How much and how long.
    pub limits: Limits,
    /// Address for `/metrics`, `/healthz` and `/readyz` alone; port 0 takes a free one. None serves no metrics.
    pub metrics: Option<SocketAddr>,
    /// What is found out about visitors.
    pub visitors: VisitorConfig,
    /// Where event time comes from.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            links_file: None,
            kafka: None,
            spool: None,
            default_domain: None,
            country_header: None,
            shared_domains: Vec::new(),
            proxies: ProxyConfig::default(),
            limits: Limits::default(),
            metrics: None,
            visitors: VisitorConfig::default(),
            clock: Clock::default(),
        }
    }
}

/// Whom to believe about a visitor's address.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// Every connection begins with a PROXY protocol header (version 1 or 2). With [`trusted`](ProxyConfig::trusted) networks only theirs are let in.
    pub proxy_protocol: bool,
    /// Networks of proxies whose [`header`](ProxyConfig::header), and [`Config::country_header`], is believed. Their connections are not counted per client.
    pub trusted: Vec<IpNet>,
    /// The header that the proxies write.
    pub header: ClientHeader,
}

/// The header in which a proxy names the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientHeader {
    /// `X-Forwarded-For`, the common one.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// How much a client may ask for, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request (or from the connection's start) to the end of its head.
    pub head_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a client may take no answers while some wait.
    pub write_timeout: Duration,
    /// Open connections altogether; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Open connections of one address (IPv6: of one /64 network); further ones are closed at once. 0 is no limit.
    pub connections_per_client: u32,
    /// Between `/readyz` answering 503 and the end of listening, when the server stops.
    pub drain_delay: Duration,
    /// From the end of listening to the end of the last connection, when the server stops.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A phone on a bad line sends a click's head within a second or two.
            head_timeout: Duration::from_secs(10),
            // Somewhat longer than common proxies keep their connections, so that they close first and no request is lost in between.
            idle_timeout: Duration::from_secs(75),
            // Answers are below a kilobyte each; who can't take them in this time is gone or ill-meaning.
            write_timeout: Duration::from_secs(10),
            connections: 100_000,
            // More than a balancer that nobody declared opens, and far less than all.
            connections_per_client: 4_096,
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// A spool of clicks on disk.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// A directory that exists, of this process alone.
    pub dir: PathBuf,
    /// Bytes that it may hold.
    pub bytes: u64,
    /// When a visitor is answered.
    pub capture: Capture,
    /// What happens when no more fits.
    pub when_full: WhenFull,
}

impl SpoolConfig {
    /// A spool of 1 GiB that answers at once and drops clicks when it is full.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        SpoolConfig { dir: dir.into(), bytes: 1 << 30, capture: Capture::default(), when_full: WhenFull::default() }
    }
}

/// When a visitor is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// At once; the click is handed to the kernel within 5 ms. `kill -9` loses at most these.
    #[default]
    Fast,
    /// When the click is on the disk, together with all others of the moment. `kill -9` and a power cut lose none.
    Durable,
}

/// What happens to redirects when the spool takes no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Visitors are redirected; their clicks are lost and counted.
    #[default]
    Drop,
    /// Visitors get a 503.
    Refuse,
}

/// How Kafka is reached.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Further librdkafka options for every client (SASL, timeouts, …); they win over ours.
    pub properties: BTreeMap<String, String>,
    /// Topic that clicks are written to.
    pub clicks_topic: String,
    /// Compacted topic that links are read from, beside or instead of the file.
    pub links_topic: Option<String>,
}

impl KafkaConfig {
    /// Brokers with default options: clicks go to `clicks`, links come from the file only.
    pub fn at(brokers: impl Into<String>) -> Self {
        KafkaConfig { brokers: brokers.into(), properties: BTreeMap::new(), clicks_topic: "clicks".to_owned(), links_topic: None }
    }
}

impl fmt::Debug for KafkaConfig {
    /// Names the properties without their values, which may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KafkaConfig { brokers, properties, clicks_topic, links_topic } = self;
        f.debug_struct("KafkaConfig")
            .field("brokers", brokers)
            .field("properties", &properties.keys())
            .field("clicks_topic", clicks_topic)
            .field("links_topic", links_topic)
            .finish()
    }
}

/// Event time: a function that gives milliseconds since the Unix epoch. The default is the system's clock; a
/// demonstration or a test gives its own.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock of one's own, in milliseconds since the Unix epoch. It is called once for all clicks of a turn of an event loop, and must not block.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    /// The system's clock.
    pub fn system() -> Self {
        Clock::new(|| {
            // A system clock before 1970 is broken; 0 keeps the record readable and is plain to see.
            let machine =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
            machine.saturating_add_signed(crate::failpoint::clock_shift())
        })
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
