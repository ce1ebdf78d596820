//! What the tests share: a links file, a sink that remembers, and a client that speaks raw bytes.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod load;
pub mod node;
pub mod process;

use clickline_redirect::{ClickBatch, ClickSink, Clock, Config, Server, SinkCounts};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Event time of every click in these tests.
pub const NOW: u64 = 1_763_800_000_123;

/// The links that most tests use.
pub const LINKS: &str = "\
- domain: s.elido.me
  slug: abc123
  workspace: acme
  destination: https://acme.example/pricing.pdf
  title: Q2 pricing PDF
  tags: [sales-collateral]
- domain: go.other.example
  slug: docs/start
  workspace: other
  destination: https://other.example/docs?utm_source=site&x=1#top
";

/// A browser's user agent.
pub const SAFARI: &str =
    "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15\r\n";

/// Remembers every click.
#[derive(Default)]
pub struct Memory(pub Mutex<Vec<Value>>);

impl ClickSink for Memory {
    fn offer(&self, clicks: &ClickBatch) {
        let mut all = self.0.lock().expect("no test panics with it");
        all.extend(clicks.iter().map(|(_, json)| serde_json::from_slice::<Value>(json).expect("clicks are JSON")));
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts { delivered: self.0.lock().expect("no test panics with it").len() as u64, ..SinkCounts::default() }
    }

    fn close(&self, _: Duration) -> SinkCounts {
        self.counts()
    }
}

impl Memory {
    /// The clicks once there are `count` of them.
    pub fn wait(&self, count: usize) -> Vec<Value> {
        wait_for(|| self.0.lock().expect("no test panics with it").len() >= count);
        let clicks = self.0.lock().expect("no test panics with it").clone();
        assert_eq!(clicks.len(), count);
        clicks
    }
}

/// Waits until something is so, for a minute at most.
pub fn wait_for(so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < end, "not so after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running server with its memory; the folder lives as long as the test.
pub struct Running {
    pub server: Server,
    pub memory: Arc<Memory>,
    pub folder: tempfile::TempDir,
}

/// A server on a free port with [`LINKS`], 2 workers and [`NOW`] on the clock.
pub fn start() -> Running {
    start_with(|_| {})
}

/// Like [`start`], with changes to the configuration.
pub fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(folder.path());
    change(&mut config);
    let memory = Arc::new(Memory::default());
    let server = Server::start_with(config, memory.clone()).expect("the server starts");
    assert!(server.ready(Duration::from_secs(10)));
    Running { server, memory, folder }
}

/// The configuration of [`start`].
pub fn config(folder: &Path) -> Config {
    let path = folder.join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    Config {
        workers: 2,
        links_file: Some(path),
        default_domain: Some("s.elido.me".to_owned()),
        country_header: Some("CF-IPCountry".to_owned()),
        clock: Clock::new(|| NOW),
        ..Config::default()
    }
}

/// A raw connection.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Sends bytes and reads until the server closes.
pub fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    answer
}

/// One request with `Connection: close`: status line and headers, and the body.
pub fn request(address: SocketAddr, method: &str, target: &str, headers: &str) -> (String, String) {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    let answer = talk(address, text.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// A header's value in an answer.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}
