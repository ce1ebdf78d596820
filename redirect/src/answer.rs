//! From a request to its answer and its click: the whole behaviour of the server, without a socket.

use crate::capture::Ticket;
use crate::click;
use crate::http::{Answer, DateLine, Head, Method};
use crate::links::{Link, Live, Table};
use crate::sink::{ClickBatch, ClickSink};
use crate::{Clock, Config};
use mio::Waker;
use percent_encoding::percent_decode_str;
use rand::rngs::StdRng;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What all workers share.
pub(crate) struct Shared {
    pub live: Live,
    pub sink: Arc<dyn ClickSink>,
    pub clock: Clock,
    pub default_domain: Option<String>,
    pub country_header: Option<String>,
    /// Redirects served: clicks made.
    pub served: AtomicU64,
    /// Each source of links has been read to its end once.
    pub ready: AtomicBool,
    /// Time to end.
    pub stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: &Config, sink: Arc<dyn ClickSink>) -> Shared {
        Shared {
            live: Live::default(),
            sink,
            clock: config.clock.clone(),
            default_domain: config.default_domain.as_deref().map(plain_host),
            country_header: config.country_header.clone(),
            served: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }
}

/// Answers requests; one per worker, so that nothing in it is shared.
pub(crate) struct Desk {
    shared: Arc<Shared>,
    /// Seeded by the system. Makes ids without a system call each.
    random: StdRng,
    date: DateLine,
    /// Clicks of this turn of the loop.
    clicks: ClickBatch,
    /// What the answers of this turn wait for, if answers wait.
    ticket: Option<Arc<Ticket>>,
    /// The event loop's.
    waker: Option<Arc<Waker>>,
    /// Room for the key of a look-up.
    key: String,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, waker: Arc<Waker>) -> Desk {
        Desk {
            shared,
            random: rand::make_rng(),
            date: DateLine::new(),
            clicks: ClickBatch::default(),
            ticket: None,
            waker: Some(waker),
            key: String::new(),
        }
    }

    /// Begins a turn of the event loop.
    pub(crate) fn begin(&mut self) {
        self.date.refresh();
    }

    /// Ends a turn: its visitors have their answers, its clicks go to the sink.
    pub(crate) fn end(&mut self) {
        if !self.clicks.is_empty() {
            self.shared.served.fetch_add(self.clicks.len() as u64, Ordering::Relaxed);
            match self.ticket.take() {
                Some(ticket) => self.shared.sink.offer_held(&self.clicks, &ticket),
                None => self.shared.sink.offer(&self.clicks),
            }
            self.clicks.clear();
        }
    }

    /// What the last answer waits for: the clicks of this turn, once there are any.
    pub(crate) fn held(&self) -> Option<Arc<Ticket>> {
        self.ticket.clone()
    }

    /// Appends the answer to those whose clicks could not be kept.
    pub(crate) fn unsafe_now(&mut self, out: &mut Vec<u8>) {
        Answer::NO_ROOM.write(&self.date, false, false, out);
    }

    /// Appends the answer to a request.
    pub(crate) fn answer(&mut self, head: &Head<'_>, keep_alive: bool, out: &mut Vec<u8>) {
        let head_only = head.method == Method::Head;
        let page = match (head.method, head.path) {
            (Method::Other, _) => Answer::NOT_ALLOWED,
            (_, "/healthz") if self.shared.sink.broken().is_some() => Answer::BROKEN,
            (_, "/healthz") => Answer::OK,
            (_, "/readyz") if !self.shared.ready.load(Ordering::Acquire) => Answer::NOT_READY,
            (_, "/readyz") => Answer::OK,
            _ => {
                let table = self.shared.live.table();
                match find(&table, head, self.shared.default_domain.as_deref(), &mut self.key) {
                    Some(_) if !self.shared.sink.admits() => Answer::NO_ROOM,
                    Some(link) => {
                        let ts = self.shared.clock.now();
                        self.clicks.push(|out| click::write(ts, link, head.query, &head.visitor, &mut self.random, out));
                        if self.shared.sink.holds() {
                            self.ticket.get_or_insert_with(|| Ticket::new(self.waker.clone()));
                        }
                        let id = self.clicks.last().map(click::id_of).unwrap_or_default();
                        Answer::redirect(&self.date, keep_alive, id, out, |out| link.target.write_location(head.query, out));
                        return;
                    }
                    // The link may be among those that are still to be read: nobody should remember a 404 for it.
                    None if !self.shared.ready.load(Ordering::Acquire) => Answer::NOT_READY,
                    None => Answer::NOT_FOUND,
                }
            }
        };
        page.write(&self.date, keep_alive, head_only, out);
    }

    /// Appends the answer to bytes that are no request.
    pub(crate) fn refuse(&self, status: u16, out: &mut Vec<u8>) {
        Answer::to_bad(status).write(&self.date, false, false, out);
    }
}

/// The link that a request asks for: of its host, or of the default domain when no link has that host.
fn find<'a>(table: &'a Table, head: &Head<'_>, default_domain: Option<&str>, key: &mut String) -> Option<&'a Link> {
    let path = head.path.strip_prefix('/')?;
    // People and mail programs add a slash; it means nothing here.
    let slug = path.strip_suffix('/').unwrap_or(path);
    if slug.is_empty() {
        return None;
    }
    let slug = percent_decode_str(slug).decode_utf8().ok()?;
    key.clear();
    push_host(head.host, key);
    if !table.has_domain(key) {
        key.clear();
        key.push_str(default_domain?);
    }
    // Writing into a String cannot fail.
    let _ = write!(key, "/{slug}");
    table.get(key).map(|link| &**link)
}

/// Host as links write it: no port, no final dot, lower case.
pub(crate) fn plain_host(host: &str) -> String {
    let mut plain = String::new();
    push_host(host, &mut plain);
    plain
}

fn push_host(host: &str, out: &mut String) {
    let name = match host.rsplit_once(':') {
        // The colons of `[::1]` are no port's.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let start = out.len();
    out.push_str(name.strip_suffix('.').unwrap_or(name));
    out[start..].make_ascii_lowercase();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_compare_without_port_case_and_dot() {
        for (host, plain) in [
            ("S.Elido.me", "s.elido.me"),
            ("s.elido.me:8080", "s.elido.me"),
            ("s.elido.me.:80", "s.elido.me"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(plain_host(host), plain);
        }
    }
}
