//! The port for machines that watch: `/metrics`, `/healthz`, `/readyz`.
//!
//! # Limits
//! One thread answers one request per connection, one after the other, each within [`TIMEOUT`]. It is for a scraper and a probe, not for visitors.

use super::encode::registry;
use crate::Error;
use crate::answer::Shared;
use crate::http::{Answer, DateLine, Head, Method, Parsed, Reader};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use prometheus_client::registry::Registry;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a request and its answer may take together.
const TIMEOUT: Duration = Duration::from_secs(2);
const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// How OpenMetrics text is announced.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The running thread; dropping it ends it.
pub(crate) struct MetricsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    pub(crate) fn start(address: SocketAddr, shared: Arc<Shared>) -> Result<MetricsServer, Error> {
        let failed = |source| Error::Listen { option: "--metrics", address, source };
        let start = |source| Error::Start { part: "the thread for metrics", source };
        let mut listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut poll = Poll::new().map_err(start)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(start)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(start)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let run = move || {
            let registry = registry(shared.clone());
            let mut events = Events::with_capacity(8);
            while !told.load(Ordering::Acquire) {
                // With a timeout, because a listener that could not accept is told of nothing further.
                if let Err(error) = poll.poll(&mut events, Some(Duration::from_secs(1)))
                    && error.kind() != io::ErrorKind::Interrupted
                {
                    tracing::error!(event = "metrics_stopped", %error, "the thread for metrics stopped; visitors are served on");
                    return;
                }
                while !told.load(Ordering::Acquire)
                    && let Ok((stream, _)) = listener.accept()
                {
                    // A client that went away is nobody's loss.
                    let _ = serve(stream.into(), &shared, &registry);
                }
            }
        };
        let thread = thread::Builder::new().name("redirect-metrics".to_owned()).spawn(run).map_err(start)?;
        Ok(MetricsServer { address, stop, waker, thread: Some(thread) })
    }

    /// The address that is listened on, with the port that was taken.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            tracing::warn!(event = "wake_failed", %error, "the thread for metrics could not be woken; it ends within a second");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(event = "thread_panicked", "the thread for metrics had panicked");
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared, registry: &Registry) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (end, reader, peer) = (Instant::now() + TIMEOUT, Reader::default(), stream.peer_addr()?.ip());
    let (mut bytes, mut piece, mut out) = (Vec::new(), [0; 4_096], Vec::new());
    loop {
        match reader.read(&bytes, peer) {
            Parsed::Complete(head, _) => break answer(&head, shared, registry, &mut out),
            Parsed::Bad(status) => break Answer::to_bad(status).write(&DateLine::new(), false, false, &mut out),
            Parsed::Partial => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    stream.write_all(&out)?;
    stream.shutdown(Shutdown::Write)
}

fn answer(head: &Head<'_>, shared: &Shared, registry: &Registry, out: &mut Vec<u8>) {
    let page = match (head.method, head.path) {
        (Method::Other, _) => Answer::NOT_ALLOWED,
        (_, "/healthz") => shared.health(),
        (_, "/readyz") => shared.readiness(),
        (_, "/metrics") => {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).expect("a String takes every byte");
            Answer::write_text(KIND, &text, head.method == Method::Head, &DateLine::new(), out);
            return;
        }
        _ => Answer::NO_SUCH_PAGE,
    };
    page.write(&DateLine::new(), false, head.method == Method::Head, out);
}
