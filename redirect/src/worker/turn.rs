//! What the event loop and a connection tell each other when the connection is served.

use crate::answer::Desk;
use crate::asked::Asked;
use crate::http::{Parsed, Reader};
use crate::{Limits, metrics::WorkerMetrics};
use mio::event::Event;
use std::time::Instant;

/// What the worker does with the connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Wait for the next event.
    Wait,
    /// Serve it again when this turn's requests are answered: its answers wait to be written.
    Write,
    /// Serve it again in the next turn; there may be no further event.
    Again,
    /// Close it.
    End,
}

/// What the event loop knows of a socket when it serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// No more than before.
    AsBefore,
    /// There may be something to read.
    Read,
    /// The client has closed its side, or the connection is broken: there is an end to read behind the bytes.
    End,
}

impl Ready {
    /// What an event says of its socket.
    pub(super) fn of(event: &Event) -> Ready {
        if event.is_read_closed() || event.is_error() {
            Ready::End
        } else if event.is_readable() {
            Ready::Read
        } else {
            Ready::AsBefore
        }
    }
}

/// How near the server's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Connections are closed after their next answer.
    Draining,
    /// So are those that are idle.
    Closing,
}

/// What a connection's bytes begin with, and what that asks for.
pub(super) struct First<'a> {
    pub parsed: Parsed<'a>,
    pub asked: Option<Asked>,
}

/// What a connection is served with.
pub(super) struct Turn<'a> {
    pub reader: &'a Reader,
    pub desk: &'a mut Desk,
    pub scratch: &'a mut [u8],
    pub limits: &'a Limits,
    pub metrics: &'a WorkerMetrics,
    pub phase: Phase,
    /// When the event loop woke up.
    pub now: Instant,
}
