//! A turn: what is read from up to [`TURN`](super::TURN) connections is looked up together, then answered, then written.

use super::Worker;
use super::conn::Conn;
use super::turn::{First, Outcome, Ready, Turn};
use crate::http::Parsed;
use std::time::Instant;

/// What is read early from one connection at most: a request of a browser is some hundred bytes.
const EARLY_EACH: usize = 4 * 1024;
/// What is read early in a turn.
pub(super) const EARLY: usize = 64 * 1024 + EARLY_EACH;

impl Worker {
    /// Reads from a connection, to answer it with the others of the turn, or serves it at once.
    pub(super) fn read(&mut self, index: usize, ready: Ready, now: Instant) {
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
        self.desk.refresh();
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

    pub(super) fn serve(&mut self, index: usize, ready: Ready, now: Instant) {
        self.desk.refresh();
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
    pub(super) fn end_turn(&mut self, now: Instant) {
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
}
