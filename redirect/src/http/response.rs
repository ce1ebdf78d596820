//! Writes answers.

use std::io::Write;
use std::time::{Duration, SystemTime};

/// The `Date` header, rewritten once a second: formatting it for each answer would cost more than the rest of the head.
#[derive(Debug)]
pub(crate) struct DateLine {
    second: u64,
    line: String,
}

impl DateLine {
    pub(crate) fn new() -> DateLine {
        let mut line = DateLine { second: u64::MAX, line: String::new() };
        line.refresh();
        line
    }

    /// Brings the line up to now, by the system's clock.
    pub(crate) fn refresh(&mut self) {
        let second = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            self.line = format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second)));
        }
    }
}

/// An answer other than a redirect: status, and a page for humans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    status: &'static str,
    code: u16,
    extra: &'static str,
    kind: &'static str,
    body: &'static str,
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(crate) const OK: Answer = Answer { status: "200 OK", code: 200, extra: "", kind: PLAIN, body: "ok\n" };
    pub(crate) const NOT_READY: Answer = Answer {
        status: "503 Service Unavailable",
        code: 503,
        extra: "Retry-After: 1\r\n",
        kind: PLAIN,
        body: "not ready: the links are still being read\n",
    };
    pub(crate) const DRAINING: Answer =
        Answer { status: "503 Service Unavailable", code: 503, extra: "", kind: PLAIN, body: "not ready: the server is about to stop\n" };
    pub(crate) const BROKEN: Answer = Answer {
        status: "503 Service Unavailable",
        code: 503,
        extra: "",
        kind: PLAIN,
        body: "broken: clicks can no longer be kept; restart the server (its log says why)\n",
    };
    pub(crate) const NO_ROOM: Answer = Answer {
        code: 503,
        status: "503 Service Unavailable",
        extra: "Retry-After: 1\r\n",
        kind: PLAIN,
        // None, so that it also answers HEAD.
        body: "",
    };
    pub(crate) const NOT_FOUND: Answer = Answer {
        status: "404 Not Found",
        code: 404,
        extra: "",
        kind: "text/html; charset=utf-8",
        body: "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
               <title>Link not found</title>\n<h1>Link not found</h1>\n<p>There is no such short link. Please check the address, or ask whoever gave it to you.</p>\n</html>\n",
    };
    pub(crate) const NO_SUCH_PAGE: Answer =
        Answer { status: "404 Not Found", code: 404, extra: "", kind: PLAIN, body: "here are /metrics, /healthz and /readyz\n" };
    const BAD_REQUEST: Answer = Answer { status: "400 Bad Request", code: 400, extra: "", kind: PLAIN, body: "bad request\n" };
    pub(crate) const NOT_ALLOWED: Answer = Answer {
        status: "405 Method Not Allowed",
        code: 405,
        extra: "Allow: GET, HEAD\r\n",
        kind: PLAIN,
        body: "only GET and HEAD are answered here\n",
    };
    const TOO_LARGE: Answer = Answer {
        status: "431 Request Header Fields Too Large",
        code: 431,
        extra: "",
        kind: PLAIN,
        body: "address and headers are too long\n",
    };

    const TOO_LONG: Answer = Answer { status: "414 URI Too Long", code: 414, extra: "", kind: PLAIN, body: "the address is too long\n" };

    /// The answer to a head that could not be read.
    pub(crate) fn to_bad(status: u16) -> Answer {
        match status {
            414 => Answer::TOO_LONG,
            431 => Answer::TOO_LARGE,
            _ => Answer::BAD_REQUEST,
        }
    }

    /// The status as a number.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// Appends the answer, without its body when `head_only`.
    pub(crate) fn write(&self, date: &DateLine, keep_alive: bool, head_only: bool, out: &mut Vec<u8>) {
        let Answer { status, code: _, extra, kind, body } = self;
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{extra}{}{}\r\n",
            body.len(),
            date.line,
            connection(keep_alive),
        )
        .expect("a Vec takes every byte");
        if !head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// Appends a page with text that was made just now, after which the connection is closed.
    pub(crate) fn write_text(kind: &str, text: &str, head_only: bool, date: &DateLine, out: &mut Vec<u8>) {
        let length = text.len();
        write!(out, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{}{}\r\n", date.line, connection(false))
            .expect("a Vec takes every byte");
        if !head_only {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Appends a redirect; `location` writes the `Location`, which must be ASCII without control characters.
    pub(crate) fn redirect(date: &DateLine, keep_alive: bool, click_id: &[u8], out: &mut Vec<u8>, location: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"HTTP/1.1 302 Found\r\nLocation: ");
        location(out);
        out.extend_from_slice(b"\r\nCache-Control: private, no-store\r\nContent-Length: 0\r\nX-Click-Id: ");
        out.extend_from_slice(click_id);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(date.line.as_bytes());
        out.extend_from_slice(connection(keep_alive).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Said always: HTTP/1.0 clients need the one, HTTP/1.1 clients the other.
fn connection(keep_alive: bool) -> &'static str {
    if keep_alive { "Connection: keep-alive\r\n" } else { "Connection: close\r\n" }
}
