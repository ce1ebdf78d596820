//! New connections: at most [`TURN`] of them in a turn, so that a flood of them keeps nobody waiting who is let in already.

use super::conn::Conn;
use super::turn::Ready;
use super::{ACCEPT_AGAIN, TURN, Worker};
use mio::{Interest, Token};
use std::io;
use std::time::{Duration, Instant};

/// How often a lack of file handles is told.
const TELL: Duration = Duration::from_secs(10);

impl Worker {
    /// Takes those that wait in the listener's queue. If there may be more of them, [`accept_at`](Worker::accept_at) says when to look again: at `now` when
    /// this turn has had enough.
    pub(super) fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        for _ in 0..TURN {
            let Some(listener) = &self.listener else { return };
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
                        self.metrics().turned_away();
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
        self.accept_at = Some(now);
    }

    /// Ends listening, once the server is stopping and the queue is empty, or as many were taken from it as could have waited there when it began to.
    pub(super) fn end_listening(&mut self, now: Instant) {
        let Some(listener) = &mut self.listener else { return };
        // Each turn takes so many at most.
        self.backlog = self.backlog.saturating_sub(TURN);
        if self.accept_at != Some(now) || self.backlog == 0 {
            let _ = self.poll.registry().deregister(listener);
            self.listener = None;
            self.accept_at = None;
        }
    }
}
