//! One connection: bytes in, answers out, deadlines.
//!
//! # Meaning
//! Requests are answered in their order as soon as their heads are complete, several per read when they are pipelined. Nothing is
//! copied while requests arrive whole; only the start of an unfinished one is kept. Answers are written when those of the whole turn are there
//! ([`Outcome::Write`]).
//!
//! A read that leaves room in the buffer has emptied the socket, and the next bytes come with an event of their own (epoll(7), on edge-triggered
//! descriptors): a request costs one read and one write. The client's end has no bytes to tell of it, so once an event has said that it
//! came, reading goes on until it is there.
//!
//! # Deadlines
//! A head must be complete `head_timeout` after its first byte (or after the connection was made), however slowly the bytes drip. A connection
//! without requests ends after `idle_timeout`. Answers must be taken within `write_timeout`. See [`Limits`](crate::Limits). Answers that wait until their
//! clicks are safe become a 503 after five seconds (`outgoing.rs`), to the second: a disk that hangs says nothing.
//!
//! # Edges
//! With the PROXY protocol the connection begins with a header that names the client; without one it is closed unheard.
//! While 64 KiB of answers wait to be taken, no further request is read. Before a connection is closed with bytes unread, its
//! writing side is shut and the rest is read and forgotten for up to [`LINGER`]: a plain close would make the kernel throw away
//! the answer.

mod requests;

use super::incoming::Incoming;
use super::limits::Place;
use super::outgoing::{Flushed, Outgoing};
use super::turn::{First, Outcome, Phase, Ready, Turn};
use mio::net::TcpStream;
use std::io::{self, Read};
use std::net::{IpAddr, Shutdown};
use std::time::{Duration, Instant};

/// How long what a refused client still sends is read.
const LINGER: Duration = Duration::from_secs(1);
/// Reads of one connection before others have their turn.
const TURN_READS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the PROXY protocol's header.
    Preamble,
    /// Reads requests.
    Open,
    /// The last answer is written or being written; nothing more is read as a request.
    Last,
    /// All is written and our side is shut; what still comes is forgotten.
    Lingering,
}

pub(super) struct Conn {
    stream: TcpStream,
    /// Its place among all connections.
    place: Place,
    /// Where it comes from: the peer, or whom the PROXY protocol names.
    client: IpAddr,
    stage: Stage,
    input: Incoming,
    output: Outgoing,
    /// The event loop has it among those whose answers wait.
    listed: bool,
    /// There may be something to read; if not, an event will tell.
    readable: bool,
    /// The client's end is to be read, perhaps behind more bytes.
    closing: bool,
    /// The client will send no more.
    ended: bool,
    deadline: Instant,
}

impl Conn {
    /// A connection of `client`, which a PROXY protocol header may change when there is a `preamble`.
    pub(super) fn new(stream: TcpStream, place: Place, client: IpAddr, preamble: bool, deadline: Instant) -> Conn {
        Conn {
            stream,
            place,
            client,
            stage: if preamble { Stage::Preamble } else { Stage::Open },
            input: Incoming::default(),
            output: Outgoing::default(),
            listed: false,
            readable: true,
            closing: false,
            ended: false,
            deadline,
        }
    }

    /// Whether its answers wait until their clicks are safe, and it is to be put on the list of those that do.
    pub(super) fn park(&mut self) -> bool {
        self.output.held() && !std::mem::replace(&mut self.listed, true)
    }

    /// It has been taken from that list.
    pub(super) fn unpark(&mut self) {
        self.listed = false;
    }

    /// When it is closed unless something happens.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whose connection it is.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    /// Reads what may begin with a request and is the only thing to do here; how many bytes that were. `None`: serve it as usual.
    pub(super) fn read_early(&mut self, ready: Ready, into: &mut [u8]) -> Option<usize> {
        if ready != Ready::Read || self.closing || self.stage != Stage::Open || !self.input.is_empty() || self.output.waiting() > 0 {
            return None;
        }
        // Whatever else there is than bytes is there still when it is served as usual.
        let count = self.stream.read(into).ok().filter(|count| *count > 0)?;
        self.readable = count == into.len();
        Some(count)
    }

    /// Answers what was read early: bytes, and what they begin with.
    pub(super) fn serve_early(&mut self, bytes: &[u8], first: First<'_>, turn: &mut Turn<'_>) -> Outcome {
        self.take(bytes, Some(first), turn);
        if !self.readable && self.output.waiting() > 0 {
            return Outcome::Write;
        }
        self.serve(Ready::AsBefore, turn)
    }

    /// Does what can be done without waiting.
    pub(super) fn serve(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Outcome {
        self.readable |= ready != Ready::AsBefore;
        self.closing |= ready == Ready::End;
        let outcome = match self.try_serve(turn) {
            Ok(outcome) => outcome,
            // The client went away; there is nobody to tell.
            Err(_) => Outcome::End,
        };
        let idle = matches!(self.stage, Stage::Open | Stage::Preamble) && self.input.is_empty() && self.output.waiting() == 0;
        if turn.phase == Phase::Closing && outcome == Outcome::Wait && idle {
            return Outcome::End;
        }
        outcome
    }

    fn try_serve(&mut self, turn: &mut Turn<'_>) -> io::Result<Outcome> {
        for _ in 0..TURN_READS {
            if self.stage == Stage::Lingering {
                return self.linger(turn.scratch);
            }
            if !self.release(turn) || !self.flush(turn)? {
                return Ok(Outcome::Wait);
            }
            if self.stage == Stage::Last {
                if self.ended {
                    return Ok(Outcome::End);
                }
                self.stream.shutdown(Shutdown::Write)?;
                self.stage = Stage::Lingering;
                self.deadline = turn.now + LINGER;
                continue;
            }
            // Requests that were held back while answers waited.
            if self.stage == Stage::Open && self.input.unsearched() {
                let input = self.input.take();
                self.take(&input, None, turn);
                if self.output.waiting() > 0 {
                    continue;
                }
            }
            if self.ended {
                if self.stage == Stage::Open && self.refuses_rest(turn) {
                    continue;
                }
                return Ok(Outcome::End);
            }
            if !self.readable {
                return Ok(Outcome::Wait);
            }
            match self.stream.read(turn.scratch) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.readable = self.closing || count == turn.scratch.len();
                    // Lent for the call, so that what was read needn't be copied.
                    let scratch = std::mem::take(&mut turn.scratch);
                    let taken = self.receive(&scratch[..count], turn);
                    turn.scratch = scratch;
                    if !taken {
                        return Ok(Outcome::End);
                    }
                    if !self.readable && self.output.waiting() > 0 {
                        return Ok(Outcome::Write);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The reads are used up; what was answered goes out now, the rest of the input has its turn later.
        if self.release(turn) {
            self.flush(turn)?;
        }
        Ok(if self.output.held() { Outcome::Wait } else { Outcome::Again })
    }

    /// Whether the answers may go.
    fn release(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(safe) = self.output.release(turn.desk, turn.now) else { return false };
        if !safe {
            self.stage = Stage::Last;
        }
        true
    }

    /// Writes what waits; false when the client must take some first.
    fn flush(&mut self, turn: &Turn<'_>) -> io::Result<bool> {
        let Flushed::Blocked(progress) = self.output.flush(&mut self.stream)? else { return Ok(true) };
        // Counts from the last progress; MAX_OUTPUT bounds how often there can be any.
        let latest = turn.now + turn.limits.write_timeout;
        self.deadline = if progress { latest } else { self.deadline.min(latest) };
        Ok(false)
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
