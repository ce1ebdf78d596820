//! From a connection's bytes to its requests and their answers.

use super::{Conn, Stage};
use crate::http::Parsed;
use crate::http::proxy_protocol::{self, Preamble};
use crate::worker::incoming::still_unfinished;
use crate::worker::turn::{First, Phase, Turn};

/// Answers that may wait for a slow reader, in bytes: a pipeline of a few hundred clicks.
const MAX_OUTPUT: usize = 64 * 1024;

impl Conn {
    /// Takes what was read; false when the connection is none that is served.
    pub(super) fn receive(&mut self, bytes: &[u8], turn: &mut Turn<'_>) -> bool {
        if self.input.is_empty() {
            return self.begin(bytes, turn);
        }
        let mut input = self.input.take();
        input.extend_from_slice(bytes);
        self.begin(&input, turn)
    }

    /// Reads the PROXY protocol's header first, if there is one to come.
    fn begin(&mut self, bytes: &[u8], turn: &mut Turn<'_>) -> bool {
        if self.stage != Stage::Preamble {
            self.take(bytes, None, turn);
            return true;
        }
        match proxy_protocol::read(bytes) {
            Preamble::Bad => {
                turn.metrics.turned_away();
                false
            }
            Preamble::Partial => {
                self.input.keep(bytes, 0);
                true
            }
            Preamble::Complete(client, length) => {
                self.stage = Stage::Open;
                if let Some(client) = client {
                    self.client = client;
                    if !turn.reader.proxies.trusts(client) && !self.place.claim(client) {
                        turn.metrics.turned_away();
                        return false;
                    }
                }
                self.take(&bytes[length..], None, turn);
                true
            }
        }
    }

    /// Answers the complete requests in `bytes` and keeps the rest; `first` is what the bytes begin with, if somebody has looked.
    pub(super) fn take(&mut self, bytes: &[u8], mut first: Option<First<'_>>, turn: &mut Turn<'_>) {
        let (mut start, mut searched_on) = (0, 0);
        let searched = self.input.take_searched();
        while start < bytes.len() && self.stage == Stage::Open && self.output.waiting() < MAX_OUTPUT {
            let rest = &bytes[start..];
            // The first bytes of a head are always parsed, so that what is no HTTP at all is refused at once.
            if start == 0 && still_unfinished(rest, searched) {
                searched_on = rest.len();
                break;
            }
            let First { parsed, asked } =
                first.take().unwrap_or_else(|| First { parsed: turn.reader.read(rest, self.client), asked: None });
            match parsed {
                Parsed::Complete(head, length) => {
                    start += length;
                    let keep_alive = head.keep_alive && turn.phase == Phase::Running;
                    self.output.put(turn.desk, turn.now, |desk, out| desk.answer(&head, asked, keep_alive, out));
                    if !keep_alive {
                        self.stage = Stage::Last;
                    }
                    self.deadline = turn.now + turn.limits.idle_timeout;
                }
                Parsed::Partial => {
                    searched_on = rest.len();
                    break;
                }
                Parsed::Bad(status) => self.refuse(status, turn),
            }
        }
        if self.stage != Stage::Open {
            return;
        }
        let unfinished = start < bytes.len();
        if unfinished && (start > 0 || searched == 0) {
            // A new request has begun.
            self.deadline = turn.now + turn.limits.head_timeout;
        }
        self.input.keep(&bytes[start..], searched_on);
    }

    /// Whether the unfinished request, of which nothing more will come, is no HTTP: it was not parsed again with each piece, and its answer
    /// must not depend on the pieces.
    pub(super) fn refuses_rest(&mut self, turn: &mut Turn<'_>) -> bool {
        let input = self.input.take();
        let Parsed::Bad(status) = turn.reader.read(&input, self.client) else { return false };
        self.refuse(status, turn);
        true
    }

    /// Answers what is no request, the last thing that is said here.
    fn refuse(&mut self, status: u16, turn: &mut Turn<'_>) {
        self.output.put(turn.desk, turn.now, |desk, out| desk.refuse(status, out));
        self.stage = Stage::Last;
    }
}
