//! One connection: bytes in, answers out, deadlines.
//!
//! # Meaning
//! Requests are answered in their order as soon as their heads are complete, several per read when they are pipelined. Nothing is
//! copied while requests arrive whole; only the start of an unfinished one is kept.
//!
//! # Deadlines
//! A head must be complete [`HEAD_TIMEOUT`] after its first byte (or after the connection was made), however slowly the bytes drip. A connection
//! without requests ends after [`IDLE_TIMEOUT`]. Answers must be taken within [`WRITE_TIMEOUT`].
//!
//! # Edges
//! While [`MAX_OUTPUT`] bytes of answers wait to be taken, no further request is read. Before a connection is closed with bytes unread, its
//! writing side is shut and the rest is read and forgotten for up to [`LINGER`]: a plain close would make the kernel throw away
//! the answer.

use crate::answer::Desk;
use crate::capture::Ticket;
use crate::http::{MAX_HEAD, Parsed, Reader};
use memchr::memmem;
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A phone on a bad line sends a click's head within a second or two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Somewhat longer than common proxies keep their connections, so that they close first and no request is lost in between.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Answers are below a kilobyte each; who can't take them in this time is gone or ill-meaning.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what a refused client still sends is read.
const LINGER: Duration = Duration::from_secs(1);
/// Answers that may wait for a slow reader, in bytes: a pipeline of a few hundred clicks.
const MAX_OUTPUT: usize = 64 * 1024;
/// Room for answers that a connection keeps, in bytes: one redirect with a long address.
const KEPT_OUTPUT: usize = 1_024;
/// Reads of one connection before others have their turn.
const TURN_READS: usize = 8;

/// What the worker does with the connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Wait for the next event.
    Wait,
    /// Serve it again in the next turn; there may be no further event.
    Again,
    /// Close it.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Reads requests.
    Open,
    /// The last answer is written or being written; nothing more is read as a request.
    Last,
    /// All is written and our side is shut; what still comes is forgotten.
    Lingering,
}

pub(super) struct Conn {
    stream: TcpStream,
    stage: Stage,
    /// Start of an unfinished request.
    input: Vec<u8>,
    /// How much of `input` is known to hold no end of a head.
    searched: usize,
    /// Answers, of which `written` bytes are gone.
    output: Vec<u8>,
    written: usize,
    /// What must be safe before the answers behind so many bytes of `output` go out.
    held: Option<(usize, Arc<Ticket>)>,
    /// The client will send no more.
    ended: bool,
    deadline: Instant,
}

impl Conn {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Conn {
        Conn {
            stream,
            stage: Stage::Open,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            written: 0,
            held: None,
            ended: false,
            deadline: now + HEAD_TIMEOUT,
        }
    }

    /// Whether its answers wait until their clicks are safe.
    pub(super) fn parked(&self) -> bool {
        self.held.is_some()
    }

    /// When it is closed unless something happens.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Does what can be done without waiting. `stopping` closes the connection after the requests that are here.
    pub(super) fn serve(&mut self, reader: &Reader, desk: &mut Desk, scratch: &mut [u8], stopping: bool, now: Instant) -> Outcome {
        let outcome = match self.try_serve(reader, desk, scratch, stopping, now) {
            Ok(outcome) => outcome,
            // The client went away; there is nobody to tell.
            Err(_) => Outcome::End,
        };
        if stopping && outcome == Outcome::Wait && self.stage == Stage::Open && self.input.is_empty() && self.waiting() == 0 {
            return Outcome::End;
        }
        outcome
    }

    fn try_serve(&mut self, reader: &Reader, desk: &mut Desk, scratch: &mut [u8], stopping: bool, now: Instant) -> io::Result<Outcome> {
        for _ in 0..TURN_READS {
            if self.stage == Stage::Lingering {
                return self.linger(scratch);
            }
            if !self.release(desk) || !self.flush(now)? {
                return Ok(Outcome::Wait);
            }
            if self.stage == Stage::Last {
                if self.ended {
                    return Ok(Outcome::End);
                }
                self.stream.shutdown(Shutdown::Write)?;
                self.stage = Stage::Lingering;
                self.deadline = now + LINGER;
                continue;
            }
            // Requests that were held back while answers waited.
            if !self.input.is_empty() && self.searched == 0 {
                let input = std::mem::take(&mut self.input);
                self.take(&input, reader, desk, stopping, now);
                if self.waiting() > 0 {
                    continue;
                }
            }
            if self.ended {
                return Ok(Outcome::End);
            }
            match self.stream.read(scratch) {
                Ok(0) => self.ended = true,
                Ok(count) if self.input.is_empty() => self.take(&scratch[..count], reader, desk, stopping, now),
                Ok(count) => {
                    let mut input = std::mem::take(&mut self.input);
                    input.extend_from_slice(&scratch[..count]);
                    self.take(&input, reader, desk, stopping, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Wait),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The reads are used up; what was answered goes out now, the rest of the input has its turn later.
        if self.release(desk) {
            self.flush(now)?;
        }
        Ok(if self.parked() { Outcome::Wait } else { Outcome::Again })
    }

    /// Answers the complete requests in `bytes` and keeps the rest.
    fn take(&mut self, bytes: &[u8], reader: &Reader, desk: &mut Desk, stopping: bool, now: Instant) {
        let mut start = 0;
        let searched = std::mem::take(&mut self.searched);
        while start < bytes.len() && self.stage == Stage::Open && self.waiting() < MAX_OUTPUT {
            let rest = &bytes[start..];
            // A head that drips in byte by byte must not be parsed from its start each time. Its first bytes are always
            // parsed, so that what is no HTTP at all is refused at once.
            let from = if start == 0 { searched } else { 0 };
            if from > 0 && rest.len() <= MAX_HEAD && !has_end(&rest[from.saturating_sub(3)..]) {
                self.searched = rest.len();
                break;
            }
            match reader.read(rest) {
                Parsed::Complete(head, length) => {
                    start += length;
                    let keep_alive = head.keep_alive && !stopping;
                    let start_of_answer = self.output.len();
                    desk.answer(&head, keep_alive, &mut self.output);
                    if let Some(ticket) = desk.held() {
                        // All of one turn have one ticket; what was answered before it in this turn may wait with it.
                        self.held.get_or_insert((start_of_answer, ticket));
                    }
                    if !keep_alive {
                        self.stage = Stage::Last;
                    }
                    self.deadline = now + IDLE_TIMEOUT;
                }
                Parsed::Partial => {
                    self.searched = rest.len();
                    break;
                }
                Parsed::Bad(status) => {
                    desk.refuse(status, &mut self.output);
                    self.stage = Stage::Last;
                }
            }
        }
        if self.stage != Stage::Open {
            return;
        }
        let unfinished = start < bytes.len();
        if unfinished && (start > 0 || searched == 0) {
            // A new request has begun.
            self.deadline = now + HEAD_TIMEOUT;
        }
        self.input.extend_from_slice(&bytes[start..]);
    }

    /// Whether the answers may go. Those whose clicks could not be kept are replaced by one that says to try again.
    fn release(&mut self, desk: &mut Desk) -> bool {
        let Some((start, ticket)) = &self.held else { return true };
        let Some(safe) = ticket.settled() else { return false };
        if !safe {
            self.output.truncate(*start);
            desk.unsafe_now(&mut self.output);
            self.stage = Stage::Last;
        }
        self.held = None;
        true
    }

    /// Bytes of answers that the client hasn't taken.
    fn waiting(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes what waits; false when the client must take some first.
    fn flush(&mut self, now: Instant) -> io::Result<bool> {
        while self.waiting() > 0 {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Counts from the last progress; MAX_OUTPUT bounds how often there can be any.
                    if self.written > 0 {
                        self.output.drain(..self.written);
                        self.written = 0;
                        self.deadline = now + WRITE_TIMEOUT;
                    }
                    self.deadline = self.deadline.min(now + WRITE_TIMEOUT);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        self.output.clear();
        // An idle connection holds no large buffer.
        self.output.shrink_to(KEPT_OUTPUT);
        Ok(true)
    }

    /// Reads and forgets until the client closes too.
    fn linger(&mut self, scratch: &mut [u8]) -> io::Result<Outcome> {
        for _ in 0..TURN_READS {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(Outcome::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Wait),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Again)
    }
}

/// Whether an empty line, the end of a head, is in these bytes.
fn has_end(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\n\r\n").is_some() || memmem::find(bytes, b"\n\n").is_some()
}
