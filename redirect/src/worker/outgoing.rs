//! Answers of one connection on their way out: those that wait until their clicks are safe, and those that wait until the client takes them.

use crate::answer::{Counted, Desk};
use crate::capture::Ticket;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room for answers that a connection keeps, in bytes: one redirect with a long address.
const KEPT: usize = 1_024;

/// How long answers wait for their clicks: less than a visitor waits for a page, and much more than a disk that works takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the answers came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All are with the kernel.
    All,
    /// The client must take some first; whether it took any.
    Blocked(bool),
}

/// Answers, of which `written` bytes are gone.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// What must be safe before the answers behind so many of `bytes` go out, and since when they wait.
    held: Option<(usize, Arc<Ticket>, Instant)>,
    /// How these answers count when they go out.
    counted: Vec<Counted>,
}

impl Outgoing {
    /// Lets the desk append an answer. If clicks of this turn are not safe, it waits for them: all of one turn have one ticket, and what was answered
    /// before the first of them in this turn may wait with it. `now` is when the event loop woke up for the request.
    pub(super) fn put(&mut self, desk: &mut Desk, now: Instant, answer: impl FnOnce(&mut Desk, &mut Vec<u8>)) {
        let start = self.bytes.len();
        answer(desk, &mut self.bytes);
        if let Some(ticket) = desk.held(&mut self.counted) {
            self.held.get_or_insert((start, ticket, now));
        }
    }

    /// Whether some wait until their clicks are safe.
    pub(super) fn held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the answers may go; `Some(false)` when those whose clicks could not be kept, or not in time, were replaced by one that says to try again, the
    /// last one.
    pub(super) fn release(&mut self, desk: &mut Desk, now: Instant) -> Option<bool> {
        let Some((start, ticket, since)) = &self.held else { return Some(true) };
        let waited = now.saturating_duration_since(*since);
        let safe = ticket.settled().or_else(|| (waited >= PATIENCE).then_some(false))?;
        if safe {
            desk.let_go(&mut self.counted, waited);
        } else {
            self.bytes.truncate(*start);
            desk.unsafe_now(&mut self.counted, waited, &mut self.bytes);
        }
        self.held = None;
        Some(safe)
    }

    /// Bytes that the client hasn't taken.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, stream: &mut impl Write) -> io::Result<Flushed> {
        while self.waiting() > 0 {
            match stream.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let progress = self.written > 0;
                    self.bytes.drain(..self.written);
                    self.written = 0;
                    return Ok(Flushed::Blocked(progress));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        self.bytes.clear();
        // An idle connection holds no large buffer.
        self.bytes.shrink_to(KEPT);
        Ok(Flushed::All)
    }
}
