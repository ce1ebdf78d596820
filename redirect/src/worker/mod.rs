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
//! A client that keeps its socket full gets a few reads per turn, then the others have theirs, and so do those who are there already when new ones come in
//! floods. Deadlines are looked at once a second. When there are as many connections as there may be, or the system has no more file handles, new ones wait in
//! the listener's queue, which is looked at again every [`ACCEPT_AGAIN`].
//!
//! # Stopping
//! The listener's queue is emptied, of as many connections as it can have held, and closed; what is asked from then on is answered with
//! `Connection: close`. A connection that stays idle for [`IDLE_GRACE`] is closed: one that were closed at once might just have sent its next request. Whoever is in the middle of a request
//! has `drain_deadline` to finish it.
//!
//! # Limits
//! An idle connection holds about 250 bytes and its socket.

mod accept;
mod batch;
mod conn;
mod incoming;
mod limits;
mod outgoing;
mod turn;

use crate::answer::{Desk, Shared};
use crate::http::{Proxies, Reader};
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
use turn::{Phase, Ready};

/// How long idle connections are kept when the server stops.
const IDLE_GRACE: Duration = Duration::from_millis(300);
/// How soon connections are accepted again after there was no room or no file handle for more.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Connections of a turn, at most. With 16 a request costs a tenth more; with 64 the last of them is some 300 µs behind the first.
const TURN: usize = 64;
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Read buffer, shared by all connections of the worker: twice the largest head, so that a pipeline is read in few calls.
const SCRATCH: usize = 32 * 1024;
/// Connections that the kernel keeps for a busy worker; it caps them at `net.core.somaxconn`.
pub(crate) const BACKLOG: u16 = 4_096;

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
    /// Connections that are still taken from the queue once the server is stopping.
    backlog: usize,
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
            early_bytes: vec![0; batch::EARLY],
            answered: Vec::new(),
            parked: VecDeque::new(),
            accept_at: None,
            backlog: BACKLOG.into(),
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
            let mut accept_due = self.accept_at.is_some_and(|at| now >= at);
            self.desk.begin();
            for index in std::mem::take(&mut self.again) {
                self.serve(index, Ready::AsBefore, now);
            }
            let mut settled = false;
            for event in &events {
                match event.token() {
                    LISTENER => {
                        accept_due = false;
                        self.accept(now);
                    }
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
            if settled && !self.parked.is_empty() {
                // This turn's own answers have taken their time since it began.
                self.unpark(Instant::now());
            }
            if accept_due {
                self.accept(now);
            }
            self.stop(now);
            self.end_turn(now);
            let served_all = self.listener.is_none() && self.conns.is_empty();
            if self.ends_at.is_some_and(|(_, last_at)| served_all || now >= last_at) {
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
                self.phase = Phase::Draining;
                let deadline = self.limits.drain_deadline;
                self.ends_at = Some((now + IDLE_GRACE.min(deadline), now + deadline));
                self.accept(now);
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
        if self.phase != Phase::Running {
            // Whoever the kernel had let in already is served; from then on connections are refused by the kernel.
            self.end_listening(now);
        }
    }
}
