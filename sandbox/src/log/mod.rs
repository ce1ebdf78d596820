//! The log of requests, for assertions: what was asked, what was answered, and which scripted fault stood between.
//!
//! Memory holds the last requests, and of these the last bodies, both within the configuration's bounds; a log file holds
//! all of it. Bodies and queries are written down as [`redact`] leaves them.

mod redact;

use crate::config::Config;
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, process};

pub(crate) use redact::fingerprint;

/// One request that reached the sandbox.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Counts up from 1.
    pub number: u64,
    /// When it arrived, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The portal whose token it carried, if any.
    pub portal: Option<String>,
    /// HTTP method.
    pub method: String,
    /// Path without query; tokens in it are masked.
    pub path: String,
    /// The query, secrets in it as fingerprints.
    pub query: Option<String>,
    /// Fingerprint of the bearer token it carried: `sha256:` and 16 hexadecimal digits.
    pub token: Option<String>,
    /// The body of the request, secrets in it as fingerprints; none when it was empty or has been dropped to save memory.
    pub request_body: Option<Arc<str>>,
    /// HTTP status of the answer that the caller got; 0 when a scripted fault let it get none.
    pub status: u16,
    /// `Content-Type` of the answer.
    pub content_type: Option<String>,
    /// The body of the answer, secrets in it as fingerprints; none when it was empty or has been dropped to save memory.
    pub response_body: Option<Arc<str>>,
    /// The name of the scripted fault that hit it.
    pub fault: Option<String>,
    /// Whether the request took effect as far as it could: false when a scripted fault stopped it before.
    pub applied: bool,
}

/// One request and its answer, as they went over the wire.
pub(crate) struct Exchange<'a> {
    pub at_ms: u64,
    pub portal: Option<String>,
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub token: Option<&'a str>,
    pub request_type: &'a str,
    pub request_body: &'a [u8],
    pub status: u16,
    pub content_type: &'a str,
    pub response_body: &'a [u8],
    pub fault: Option<String>,
    pub applied: bool,
}

fn body(path: &str, content_type: &str, bytes: &[u8]) -> Option<Arc<str>> {
    (!bytes.is_empty()).then(|| redact::body(path, content_type, bytes).into())
}

impl From<Exchange<'_>> for Request {
    fn from(it: Exchange<'_>) -> Self {
        Self {
            number: 0,
            at_ms: it.at_ms,
            portal: it.portal,
            method: it.method.to_owned(),
            path: redact::path(it.path),
            query: it.query.map(redact::form),
            token: it.token.map(fingerprint),
            request_body: body(it.path, it.request_type, it.request_body),
            status: it.status,
            content_type: (!it.content_type.is_empty()).then(|| it.content_type.to_owned()),
            response_body: body(it.path, it.content_type, it.response_body),
            fault: it.fault,
            applied: it.applied,
        }
    }
}

impl Request {
    fn bodies(&self) -> usize {
        [&self.request_body, &self.response_body].into_iter().flatten().map(|b| b.len()).sum()
    }
}

/// The requests in memory, and the file that holds all of them.
#[derive(Debug)]
pub(crate) struct RequestLog {
    kept: VecDeque<Request>,
    /// Requests since the start or the last reset.
    pub count: u64,
    /// Bytes of the bodies in `kept`.
    bodies: usize,
    /// Index in `kept` of the first request that may have bodies.
    with_bodies: usize,
    requests_max: usize,
    bodies_max: usize,
    file: Option<Arc<File>>,
}

impl RequestLog {
    /// An empty log. A file that cannot be opened was reported when the sandbox started: see [`open`].
    pub fn new(config: &Config) -> Self {
        let file = config.request_log.as_deref().and_then(|path| open(path).ok()).map(Arc::new);
        Self {
            kept: VecDeque::new(),
            count: 0,
            bodies: 0,
            with_bodies: 0,
            requests_max: config.requests_kept.max(1),
            bodies_max: config.bodies_kept,
            file,
        }
    }

    /// An empty log with the same bounds that goes on with the same file.
    pub fn emptied(&self) -> Self {
        Self { kept: VecDeque::new(), count: 0, bodies: 0, with_bodies: 0, file: self.file.clone(), ..*self }
    }

    /// The requests in memory, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.kept.iter()
    }

    /// Notes a request.
    pub fn note(&mut self, request: impl Into<Request>) {
        let mut request = request.into();
        self.count += 1;
        request.number = self.count;
        if let Some(file) = &self.file
            && let Err(error) = append(file, &request)
        {
            tracing::error!(event = "sandbox_log_ended", %error, "the request log cannot be written: its file ends here");
            self.file = None;
        }
        if self.kept.len() == self.requests_max
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bodies -= oldest.bodies();
            self.with_bodies = self.with_bodies.saturating_sub(1);
        }
        self.bodies += request.bodies();
        self.kept.push_back(request);
        while self.bodies > self.bodies_max
            && let Some(oldest) = self.kept.get_mut(self.with_bodies)
        {
            self.bodies -= oldest.bodies();
            (oldest.request_body, oldest.response_body) = (None, None);
            self.with_bodies += 1;
        }
    }
}

/// A file of its own below the folder that `CLICKLINE_SANDBOX_LOGS` names, if it names one: `PROGRAM-PROCESS-NUMBER.jsonl`.
pub(crate) fn from_environment() -> Option<PathBuf> {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let folder = PathBuf::from(env::var_os("CLICKLINE_SANDBOX_LOGS")?);
    let program = env::current_exe().ok()?;
    let program = program.file_stem()?.to_string_lossy().into_owned();
    Some(folder.join(format!("{program}-{}-{}.jsonl", process::id(), STARTED.fetch_add(1, Ordering::Relaxed))))
}

/// Opens a log file to append to, in a folder that is made if need be.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn append(mut file: &File, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Request {
        let exchange = Exchange {
            at_ms: 0,
            portal: None,
            method: "POST",
            path: "/x",
            query: None,
            token: None,
            request_type: "",
            request_body: body.as_bytes(),
            status: 200,
            content_type: "",
            response_body: b"",
            fault: None,
            applied: true,
        };
        exchange.into()
    }

    #[test]
    fn memory_is_bounded_in_requests_and_in_bytes() {
        let mut log = RequestLog::new(&Config { requests_kept: 4, bodies_kept: 10, ..Config::default() });
        for body in ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"] {
            log.note(request(body));
        }
        let kept: Vec<(u64, Option<&str>)> = log.requests().map(|r| (r.number, r.request_body.as_deref())).collect();
        assert_eq!(kept, [(3, None), (4, None), (5, Some("eeee")), (6, Some("ffff"))]);
        assert_eq!((log.count, log.bodies), (6, 8));
        log.note(request("a body larger than all that may be kept"));
        assert_eq!(log.requests().filter(|r| r.request_body.is_some()).count(), 0);
        assert_eq!(log.bodies, 0);
    }
}
