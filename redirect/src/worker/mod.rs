//! One worker: a thread, a listener, an event loop.
//!
//! ```text
//! poll ──► turn: accept / read / answer, for up to TURN sockets that are ready ──► write their answers ──► their clicks to the sink ──► next turn, or poll
//! ```
//!
//! # Meaning
//! The kernel spreads connections over the workers' listeners (`SO_REUSEPORT`); workers share the link table, the sink and counters, and nothing else.
//! Answers are written before the turn's clicks are handed over, so that a visitor waits for nothing but the look-ups of one turn.
//!
//! The answers of a turn are written one behind the other: the processor does not go to and fro between our code and the kernel's, both of which fill its
//! caches, and who reads answers nearby is woken once for many.
//!
//! # Edges
//! A client that keeps its socket full gets a few reads per turn, then the others have theirs. Deadlines are
//! looked at once a second. When there are as many connections as there may be, or the system has no more file handles, new ones wait in the
//! listener's queue, which is looked at again every [`ACCEPT_AGAIN`].
//!
//! # Stopping
//! The listener's queue is emptied and closed, and what is asked from then on is answered with `Connection: close`. A connection that stays
//! idle for [`IDLE_GRACE`] is closed: one that were closed at once might just have sent its next request. Whoever is in the middle of a request
//! has `drain_deadline` to finish it.
//!
//! # Limits
//! An idle connection holds about 250 bytes and its socket.

mod conn;
mod incoming;
mod limits;
mod outgoing;
mod turn;

use crate::answer::{Desk, Shared};
use crate::http::{Parsed, Proxies, Reader};
use crate::metrics::WorkerMetrics;
use crate::{Limits, ProxyConfig};
use conn::Conn;
pub(crate) use limits::Connections;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use turn::{First, Outcome, Phase, Ready, Turn};

/// How long idle connections are kept when the server stops.
const IDLE_GRACE: Duration = Duration::from_millis(300);
/// How soon connections are accepted again after there was no room or no file handle for more.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often a lack of file handles is told.
const TELL: Duration = Duration::from_secs(10);
/// Connections of a turn, at most. With 16 a request costs a tenth more; with 64 the last of them is some 300 µs behind the first.
const TURN: usize = 64;
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Read buffer, shared by all connections of the worker: twice the largest head, so that a pipeline is read in few calls.
const SCRATCH: usize = 32 * 1024;

/// What is read early from one connection at most: a request of a browser is some hundred bytes.
const EARLY_EACH: usize = 4 * 1024;
/// What is read early in a turn.
const EARLY: usize = 64 * 1024 + EARLY_EACH;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

pub(crate) struct Worker {
    poll: Poll,
    /// None once the server is stopping.
    listener: Option<TcpListener>,
    conns: Slab<Conn>,
    /// Connections that had more to read when their turn was over.
    again: Vec<usize>,
    /// What was read in this turn: connections, each with the place of its bytes in `early_bytes`.
    early: Vec<(usize, Range<usize>)>,
    early_bytes: Vec<u8>,
    /// Connections whose answers are to be written at the end of this turn.
    answered: Vec<usize>,
    /// Connections whose answers wait until their clicks are safe.
    parked: VecDeque<usize>,
    /// When to look whether connections wait in the listener's queue, of which there will be no further event.
    accept_at: Option<Instant>,
    /// When a lack of file handles was last told.
    told_at: Option<Instant>,
    connections: Arc<Connections>,
    limits: Limits,
    preamble: bool,
    /// The number of this worker.
    number: usize,
    shared: Arc<Shared>,
    desk: Desk,
    reader: Reader,
    scratch: Vec<u8>,
    phase: Phase,
    /// When idle connections are closed and when the last one is cut off, once the server is stopping.
    ends_at: Option<(Instant, Instant)>,
}

impl Worker {
    /// A worker on a bound listener, and what wakes it up to look at `Shared::stopping`.
    pub(crate) fn new(
        number: usize,
        listener: std::net::TcpListener,
        limits: Limits,
        proxies: &ProxyConfig,
        connections: Arc<Connections>,
        shared: Arc<Shared>,
    ) -> io::Result<(Worker, Arc<Waker>)> {
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let worker = Worker {
            poll,
            listener: Some(listener),
            conns: Slab::new(),
            again: Vec::new(),
            early: Vec::new(),
            early_bytes: vec![0; EARLY],
            answered: Vec::new(),
            parked: VecDeque::new(),
            accept_at: None,
            told_at: None,
            connections,
            limits,
            preamble: proxies.proxy_protocol,
            number,
            reader: Reader {
                country_header: shared.country_header.clone(),
                proxies: Proxies { trusted: proxies.trusted.clone(), header: proxies.header },
            },
            desk: Desk::new(shared.clone(), number, Some(waker.clone())),
            shared,
            scratch: vec![0; SCRATCH],
            phase: Phase::Running,
            ends_at: None,
        };
        Ok((worker, waker))
    }

    /// Serves until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut sweep_at = Instant::now() + SWEEP;
        loop {
            let wake_at = [self.accept_at, self.ends_at.map(|(idle_at, _)| idle_at).filter(|_| self.phase == Phase::Draining)];
            let wake_at = wake_at.into_iter().flatten().fold(sweep_at, Instant::min);
            let timeout = if self.again.is_empty() { wake_at.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            self.desk.begin();
            for index in std::mem::take(&mut self.again) {
                self.serve(index, Ready::AsBefore, now);
            }
            let mut settled = false;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    WAKER => settled = true,
                    Token(index) => self.read(index, Ready::of(event), now),
                }
                if self.early.len() + self.answered.len() >= TURN {
                    self.end_turn(now);
                    self.desk.begin();
                }
            }
            self.end_turn(now);
            if now >= sweep_at {
                sweep_at = now + SWEEP;
                self.sweep(now);
                // A waker may have failed.
                settled = true;
            }
            if settled {
                self.unpark(now);
            }
            if self.accept_at.is_some_and(|at| now >= at) {
                self.accept(now);
            }
            self.stop(now);
            self.end_turn(now);
            if self.ends_at.is_some_and(|(_, last_at)| self.conns.is_empty() || now >= last_at) {
                self.metrics().closed(self.conns.len() as u64);
                return Ok(());
            }
            if let Some((_, last_at)) = self.ends_at {
                sweep_at = sweep_at.min(last_at);
            }
        }
    }

    fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.worker(self.number)
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        while let Some(listener) = &self.listener {
            let Some(mut place) = self.connections.enter() else {
                self.accept_at = Some(now + ACCEPT_AGAIN);
                return;
            };
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    let client = peer.ip().to_canonical();
                    let trusted = self.reader.proxies.trusts(client);
                    let allowed =
                        if self.preamble { trusted || self.reader.proxies.trusted.is_empty() } else { trusted || place.claim(client) };
                    if !allowed {
                        self.metrics().refused();
                        continue;
                    }
                    // Answers are single writes; Nagle's algorithm could only delay them.
                    let _ = stream.set_nodelay(true);
                    let entry = self.conns.vacant_entry();
                    let token = Token(entry.key());
                    if let Err(error) = self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                        tracing::warn!(event = "connection_refused", %error, "a connection was turned away");
                        continue;
                    }
                    let index = entry.key();
                    entry.insert(Conn::new(stream, place, client, self.preamble, now + self.limits.head_timeout));
                    self.metrics().opened();
                    // Most clients have sent their request by now: this saves a turn.
                    self.serve(index, Ready::Read, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    if self.told_at.is_none_or(|told_at| now >= told_at + TELL) {
                        self.told_at = Some(now);
                        tracing::warn!(event = "connections_full", %error, connections = self.conns.len(), "no more connections for now; raise the limit of open files");
                    }
                    self.accept_at = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    /// Reads from a connection, to answer it with the others of the turn, or serves it at once.
    fn read(&mut self, index: usize, ready: Ready, now: Instant) {
        let start = self.early.last().map_or(0, |(_, bytes)| bytes.end.next_multiple_of(64));
        if self.early_bytes.len() < start + EARLY_EACH {
            self.end_turn(now);
            self.desk.begin();
            return self.read(index, ready, now);
        }
        // An event may be older than its connection's end.
        let Some(conn) = self.conns.get_mut(index) else { return };
        match conn.read_early(ready, &mut self.early_bytes[start..start + EARLY_EACH]) {
            Some(count) => self.early.push((index, start..start + count)),
            None => self.serve(index, ready, now),
        }
    }

    /// Answers what was read in this turn.
    fn answer(&mut self, now: Instant) {
        if self.early.is_empty() {
            return;
        }
        // Lent for the call.
        let (mut early, bytes) = (std::mem::take(&mut self.early), std::mem::take(&mut self.early_bytes));
        let mut firsts = Vec::with_capacity(early.len());
        for (index, range) in early.drain(..) {
            let Some(conn) = self.conns.get(index) else { continue };
            let bytes = &bytes[range];
            let parsed = self.reader.read(bytes, conn.client());
            let asked = if let Parsed::Complete(head, _) = &parsed { self.desk.ask(head) } else { None };
            firsts.push((index, bytes, First { parsed, asked }));
        }
        self.desk.look_ahead();
        for (index, bytes, first) in firsts {
            self.serve_with(index, now, |conn, turn| conn.serve_early(bytes, first, turn));
        }
        (self.early, self.early_bytes) = (early, bytes);
    }

    fn serve(&mut self, index: usize, ready: Ready, now: Instant) {
        self.serve_with(index, now, |conn, turn| conn.serve(ready, turn));
    }

    fn serve_with(&mut self, index: usize, now: Instant, serve: impl FnOnce(&mut Conn, &mut Turn<'_>) -> Outcome) {
        // An event may be older than its connection's end.
        let Some(conn) = self.conns.get_mut(index) else { return };
        let metrics = self.shared.metrics.worker(self.number);
        let mut turn = Turn {
            reader: &self.reader,
            desk: &mut self.desk,
            scratch: &mut self.scratch,
            limits: &self.limits,
            metrics,
            phase: self.phase,
            now,
        };
        match serve(conn, &mut turn) {
            Outcome::Write => self.answered.push(index),
            Outcome::Wait => {
                if conn.park() {
                    self.parked.push_back(index);
                }
            }
            Outcome::Again => self.again.push(index),
            Outcome::End => {
                self.conns.remove(index);
                metrics.closed(1);
            }
        }
    }

    /// Answers what was read in a turn, writes the answers, and hands the clicks over. A turn is short: what is behind it, and not handed over, a kill would lose.
    fn end_turn(&mut self, now: Instant) {
        self.answer(now);
        let mut written = 0;
        // Another connection may have come to the place of one that has ended; then it has its turn here, too.
        while let Some(&index) = self.answered.get(written) {
            written += 1;
            self.serve(index, Ready::AsBefore, now);
        }
        self.answered.clear();
        let count = self.desk.take_answered();
        if count > 0 {
            self.metrics().took(now.elapsed(), count);
        }
        self.desk.end();
    }

    /// Looks again at the connections whose answers wait.
    fn unpark(&mut self, now: Instant) {
        for _ in 0..self.parked.len() {
            // Those that must wait on go to the back.
            let Some(index) = self.parked.pop_front() else { return };
            if let Some(conn) = self.conns.get_mut(index) {
                conn.unpark();
                self.serve(index, Ready::AsBefore, now);
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        let before = self.conns.len();
        self.conns.retain(|_, conn| now < conn.deadline());
        self.metrics().closed((before - self.conns.len()) as u64);
    }

    /// Goes on towards the end, once the server is stopping.
    fn stop(&mut self, now: Instant) {
        match (self.phase, self.ends_at) {
            (Phase::Running, _) if self.shared.stopping.load(Ordering::Acquire) => {
                // Whoever the kernel has let in already is served; from here on connections are refused by the kernel.
                self.phase = Phase::Draining;
                self.accept(now);
                if let Some(mut listener) = self.listener.take() {
                    let _ = self.poll.registry().deregister(&mut listener);
                }
                self.accept_at = None;
                let deadline = self.limits.drain_deadline;
                self.ends_at = Some((now + IDLE_GRACE.min(deadline), now + deadline));
            }
            (Phase::Draining, Some((idle_at, _))) if now >= idle_at => {
                self.phase = Phase::Closing;
                let open: Vec<usize> = self.conns.iter().map(|(index, _)| index).collect();
                for index in open {
                    // Answers what has arrived since the last event, then closes the connection if it is idle.
                    self.serve(index, Ready::Read, now);
                }
            }
            _ => {}
        }
    }
}
