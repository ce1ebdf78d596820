//! One worker: a thread, a listener, an event loop.
//!
//! ```text
//! poll ──► accept / read / answer / write, for every socket that is ready ──► clicks of this turn to the sink ──► poll
//! ```
//!
//! # Meaning
//! The kernel spreads connections over the workers' listeners (`SO_REUSEPORT`); workers share the link table, the sink and counters, and nothing else.
//! Answers are written before the turn's clicks are handed over, so that a visitor waits for nothing but the look-up.
//!
//! # Edges
//! A client that keeps its socket full gets a few reads per turn, then the others have theirs. Deadlines are
//! looked at once a second. When the system has no more file handles, new connections wait in the listener's queue until the next second.
//!
//! # Stopping
//! The listener's queue is emptied and closed, what has been sent is answered with `Connection: close`, idle connections are closed, and whoever is
//! in the middle of a request has [`GRACE`] to finish it.
//!
//! # Limits
//! [`MAX_CONNECTIONS`] connections per worker; an idle one holds about 200 bytes and its socket.

mod conn;

use crate::answer::{Desk, Shared};
use crate::http::Reader;
use conn::{Conn, Outcome};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// More than this many connections wait in the listener's queue.
const MAX_CONNECTIONS: usize = 60_000;
/// What a client in the middle of a request has left when the server stops.
const GRACE: Duration = Duration::from_secs(2);
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Read buffer, shared by all connections of the worker: twice the largest head, so that a pipeline is read in few calls.
const SCRATCH: usize = 32 * 1024;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

pub(crate) struct Worker {
    poll: Poll,
    /// None once the server is stopping.
    listener: Option<TcpListener>,
    conns: Slab<Conn>,
    /// Connections that had more to read when their turn was over.
    again: Vec<usize>,
    /// Connections whose answers wait until their clicks are safe.
    parked: Vec<usize>,
    /// Connections may be waiting in the listener's queue without a further event.
    backlog: bool,
    shared: Arc<Shared>,
    desk: Desk,
    reader: Reader,
    scratch: Vec<u8>,
    /// When the last connection is cut off, once the server is stopping.
    last_at: Option<Instant>,
}

impl Worker {
    /// A worker on a bound listener, and what wakes it up to look at `Shared::stopping`.
    pub(crate) fn new(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<(Worker, Arc<Waker>)> {
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let worker = Worker {
            poll,
            listener: Some(listener),
            conns: Slab::new(),
            again: Vec::new(),
            parked: Vec::new(),
            backlog: false,
            reader: Reader { country_header: shared.country_header.clone() },
            desk: Desk::new(shared.clone(), waker.clone()),
            shared,
            scratch: vec![0; SCRATCH],
            last_at: None,
        };
        Ok((worker, waker))
    }

    /// Serves until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut sweep_at = Instant::now() + SWEEP;
        loop {
            let timeout = if self.again.is_empty() { sweep_at.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            self.desk.begin();
            for index in std::mem::take(&mut self.again) {
                self.serve(index, now);
            }
            for index in std::mem::take(&mut self.parked) {
                self.serve(index, now);
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    WAKER => {}
                    Token(index) => self.serve(index, now),
                }
            }
            if now >= sweep_at {
                sweep_at = now + SWEEP;
                self.sweep(now);
            }
            if self.last_at.is_none() && self.shared.stopping.load(Ordering::Acquire) {
                self.begin_to_stop(now);
                sweep_at = sweep_at.min(now + GRACE);
            }
            self.desk.end();
            if self.last_at.is_some_and(|last_at| self.conns.is_empty() || now >= last_at) {
                return Ok(());
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        self.backlog = false;
        while let Some(listener) = &self.listener {
            if self.conns.len() >= MAX_CONNECTIONS {
                self.backlog = true;
                return;
            }
            match listener.accept() {
                Ok((mut stream, _)) => {
                    // Answers are single writes; Nagle's algorithm could only delay them.
                    let _ = stream.set_nodelay(true);
                    let entry = self.conns.vacant_entry();
                    let token = Token(entry.key());
                    if let Err(error) = self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                        tracing::warn!(%error, "a connection was turned away");
                        continue;
                    }
                    let index = entry.key();
                    entry.insert(Conn::new(stream, now));
                    // Most clients have sent their request by now: this saves a turn.
                    self.serve(index, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    tracing::warn!(%error, connections = self.conns.len(), "no more connections for a second; raise the limit of open files");
                    self.backlog = true;
                    return;
                }
            }
        }
    }

    fn serve(&mut self, index: usize, now: Instant) {
        // An event may be older than its connection's end.
        let Some(conn) = self.conns.get_mut(index) else { return };
        match conn.serve(&self.reader, &mut self.desk, &mut self.scratch, self.last_at.is_some(), now) {
            Outcome::Wait if conn.parked() => self.parked.push(index),
            Outcome::Wait => {}
            Outcome::Again => self.again.push(index),
            Outcome::End => {
                self.conns.remove(index);
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.conns.retain(|_, conn| now < conn.deadline());
        if self.backlog {
            self.accept(now);
        }
    }

    fn begin_to_stop(&mut self, now: Instant) {
        // Whoever the kernel has let in already is served; from here on connections are refused by the kernel.
        self.accept(now);
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(&mut listener);
        }
        self.last_at = Some(now + GRACE);
        let open: Vec<usize> = self.conns.iter().map(|(index, _)| index).collect();
        for index in open {
            // Answers what has arrived since the last event, then closes the connection if it is idle.
            self.serve(index, now);
        }
    }
}
