//! The server as a whole: its threads, its start and its end.

use crate::answer::Shared;
use crate::capture::Traced;
use crate::links::{LinkFile, TopicReader, plain_domain};
use crate::metrics::MetricsServer;
use crate::sink::{ClickSink, Discard};
use crate::supervisor::Supervisor;
use crate::visitor::{EidCounts, Visitors};
use crate::worker::{BACKLOG, Connections, Worker};
use crate::{Config, Error, KafkaSink, SpoolSink};
use mio::Waker;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the kernel holds of answers that a client hasn't taken, in bytes. Left to itself it takes megabytes from a client that reads nothing, and
/// tells of a slow one's progress so seldom that it looks like none (seen in `tests/hostile.rs`).
const SEND_BUFFER: usize = 64 * 1024;
/// What the last clicks have to reach Kafka when the server stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Clicks since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Redirects answered; each made one click record.
    pub served: u64,
    /// Click records that Kafka confirmed. Without Kafka none are.
    pub delivered: u64,
    /// Click records for which there was no room, or that were given up. Without Kafka none are: they are forgotten on purpose.
    pub lost: u64,
    /// Bytes of click records that stay in the spool; the next start sends them.
    pub spool_bytes: u64,
}

/// A running redirect server. Dropping it without [`stop`](Server::stop) ends it likewise, unheard.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<(Arc<Waker>, JoinHandle<()>)>,
    supervisor: Option<Supervisor>,
    topic: Option<TopicReader>,
    metrics: Option<MetricsServer>,
    drain_delay: Duration,
}

impl Server {
    /// Binds the address, reads the links file, connects to Kafka, and serves. A bad link is an error. Brokers that are away are no
    /// error: clicks wait in the queue, and the server is not [`ready`](Server::ready) until a links topic has been read.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_configuration`] tells whether trying again can help.
    pub fn start(config: Config) -> Result<Server, Error> {
        let sink: Arc<dyn ClickSink> = match &config.kafka {
            Some(kafka) => match &config.spool {
                Some(spool) => Arc::new(SpoolSink::start(spool, kafka, config.workers, &config.clock)?),
                None => Arc::new(KafkaSink::new(kafka, config.workers)?),
            },
            None if config.spool.is_some() => {
                return Err(Error::Config("a spool without Kafka is never emptied; give `--kafka`".to_owned()));
            }
            None => Arc::new(Discard),
        };
        Server::start_with(config, sink)
    }

    /// Like [`start`](Server::start), with a sink of one's own in the place of Kafka.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_with(config: Config, sink: Arc<dyn ClickSink>) -> Result<Server, Error> {
        check(&config)?;
        let sink = Traced::around(sink, &config.clock);
        let visitors = Arc::new(Visitors::new(config.visitors.clone())?);
        let shared = Arc::new(Shared::new(&config, visitors, sink));
        let Config {
            listen,
            workers,
            links_file,
            kafka,
            proxies,
            limits,
            metrics,
            // These are in what all share.
            default_domain: _,
            country_header: _,
            shared_domains: _,
            visitors: _,
            clock: _,
            // Its sink has been made of it.
            spool: _,
        } = config;
        if let Some(path) = &links_file {
            let file = LinkFile::read(path, &shared.shared_domains)?.without_problems(path)?;
            tracing::info!(event = "links_read", links = file.len(), "read the links in {}", path.display());
            shared.live.set_file(file.layer);
        }
        let listeners = listen_on(listen, workers)?;
        let address = listeners.first().expect("at least one worker, checked above").1;
        // From here on an error drops the server, which stops the threads that run already.
        let mut server = Server {
            address,
            shared: shared.clone(),
            workers: Vec::new(),
            supervisor: None,
            topic: None,
            metrics: None,
            drain_delay: limits.drain_delay,
        };
        if let Some(address) = metrics {
            server.metrics = Some(MetricsServer::start(address, shared.clone())?);
        }
        match kafka.as_ref().and_then(|kafka| Some((kafka, kafka.links_topic.as_deref()?))) {
            Some((kafka, topic)) => server.topic = Some(TopicReader::start(kafka, topic, shared.clone())?),
            None => shared.ready.store(true, Ordering::Release),
        }
        server.supervisor = Some(Supervisor::start(links_file, shared.clone())?);
        let connections = Arc::new(Connections::new(limits.connections, limits.connections_per_client));
        for (number, (listener, _)) in listeners.into_iter().enumerate() {
            let (worker, waker) = Worker::new(number, listener, limits, &proxies, connections.clone(), shared.clone())
                .map_err(|source| Error::Start { part: "an event loop", source })?;
            let thread = thread::Builder::new()
                .name(format!("redirect-{number}"))
                .spawn(move || {
                    if let Err(error) = worker.run() {
                        tracing::error!(event = "worker_stopped", %error, "a worker stopped; restart the server");
                    }
                })
                .map_err(|source| Error::Start { part: "a worker thread", source })?;
            server.workers.push((waker, thread));
        }
        tracing::info!(event = "redirect_listening", %address, workers, "redirecting");
        Ok(server)
    }

    /// The address that is listened on, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the metrics, if they are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
    }

    /// Waits until every source of links has been read to its end once; false when that takes longer than `timeout`.
    pub fn ready(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        while !self.shared.ready.load(Ordering::Acquire) {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Reads the links file and those about visitors again, also when it seems unchanged. Returns at once; the log tells the outcome.
    pub fn reload(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.reload();
        }
    }

    /// Clicks so far. `served` runs ahead of the others while clicks are under way.
    pub fn stats(&self) -> Stats {
        let counts = self.shared.sink.counts();
        Stats {
            served: self.shared.served.load(Ordering::Relaxed),
            delivered: counts.delivered,
            lost: counts.overflowed + counts.failed,
            spool_bytes: counts.spool_bytes,
        }
    }

    /// What became of the `eid` of redirects so far, by its outcome.
    pub fn eid_counts(&self) -> EidCounts {
        self.shared.visitors.eid_counts()
    }

    /// Why the server no longer does its work, if that is so: a worker ended, or the sink is broken. Restart it then.
    pub fn failure(&self) -> Option<String> {
        if self.workers.iter().any(|(_, thread)| thread.is_finished()) {
            return Some("a worker ended; the log before this line says why".to_owned());
        }
        self.shared.sink.broken()
    }

    /// Stops: says so on `/readyz` for the configured delay, then answers what has arrived and closes within the configured deadline, and waits up
    /// to ten seconds until the clicks are on Kafka.
    pub fn stop(mut self) -> Stats {
        self.end();
        let stats = self.stats();
        tracing::info!(event = "redirect_stopped", served = stats.served, delivered = stats.delivered, lost = stats.lost, "stopped");
        stats
    }

    fn end(&mut self) {
        self.shared.draining.store(true, Ordering::Release);
        if !self.workers.is_empty() {
            thread::sleep(std::mem::take(&mut self.drain_delay));
        }
        self.shared.stopping.store(true, Ordering::Release);
        for (waker, _) in &self.workers {
            if let Err(error) = waker.wake() {
                // It sees the flag at its next look at the deadlines, within a second.
                tracing::warn!(event = "wake_failed", %error, "a worker could not be woken");
            }
        }
        for (_, thread) in self.workers.drain(..) {
            if thread.join().is_err() {
                tracing::error!(event = "thread_panicked", "a worker had panicked");
            }
        }
        if let Some(supervisor) = self.supervisor.take() {
            // The workers are gone: nothing is offered after this. Clicks come first: whatever the other threads are at, at the lowest priority perhaps,
            // they end behind it.
            self.shared.sink.close(FLUSH_TIMEOUT);
            drop(supervisor);
        }
        self.topic.take();
        self.metrics.take();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn check(config: &Config) -> Result<(), Error> {
    let wrong = |text: &str| Err(Error::Config(text.to_owned()));
    if config.workers == 0 {
        return wrong("0 workers answer nobody; give at least 1");
    }
    let topic = config.kafka.as_ref().and_then(|kafka| kafka.links_topic.as_deref());
    if config.links_file.is_none() && topic.is_none() {
        return wrong("no links: name a file with links (--links) or a Kafka topic (--links-topic)");
    }
    if let Some(kafka) = &config.kafka
        && (kafka.brokers.trim().is_empty() || kafka.clicks_topic.trim().is_empty() || topic.is_some_and(|topic| topic.trim().is_empty()))
    {
        return wrong("an empty Kafka broker list or topic name; fill it in");
    }
    let named = config.default_domain.iter().chain(&config.shared_domains);
    if let Some(domain) = named.into_iter().find(|domain| plain_domain(domain).is_none()) {
        return wrong(&format!("{domain:?} is no domain that links can have; write a host name without scheme and port"));
    }
    if config.limits.connections == 0 {
        return wrong("0 connections answer nobody; allow at least 1");
    }
    Ok(())
}

/// One listener per worker on the same port, with the address that it has.
fn listen_on(address: SocketAddr, workers: usize) -> Result<Vec<(TcpListener, SocketAddr)>, Error> {
    let failed = |source| Error::Listen { option: "--listen", address, source };
    let shared = workers > 1;
    if shared {
        // SO_REUSEPORT would let a second server take half of the first one's visitors without a word.
        bind(address, false).map_err(failed)?;
    }
    let mut listeners: Vec<(TcpListener, SocketAddr)> = Vec::with_capacity(workers);
    for _ in 0..workers {
        // The first may choose the port, the others join it.
        let wanted = listeners.first().map_or(address, |(_, taken)| *taken);
        let socket = bind(wanted, shared).map_err(failed)?;
        socket.listen(BACKLOG.into()).map_err(failed)?;
        let listener = TcpListener::from(socket);
        let taken = listener.local_addr().map_err(failed)?;
        listeners.push((listener, taken));
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
