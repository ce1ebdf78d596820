//! New connections.

use super::conn::Conn;
use super::turn::Ready;
use super::{ACCEPT_AGAIN, Worker};
use mio::{Interest, Token};
use std::io;
use std::time::{Duration, Instant};

/// How often a lack of file handles is told.
const TELL: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn accept(&mut self, now: Instant) {
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
}
