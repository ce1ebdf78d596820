//! Answers that wait until their clicks are safe: what visitors get, and how often it counts.

mod common;

use clickline_redirect::{ClickBatch, ClickSink, Server, SinkCounts, Ticket};
use common::*;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Settles when it is told to.
#[derive(Default)]
struct Safe {
    waiting: Mutex<Vec<(usize, Arc<Ticket>)>>,
    done: AtomicBool,
}

impl ClickSink for Safe {
    fn offer(&self, _: &ClickBatch) {
        unreachable!("answers wait");
    }

    fn holds(&self) -> bool {
        true
    }

    fn offer_held(&self, clicks: &ClickBatch, ticket: &Arc<Ticket>) {
        self.waiting.lock().expect("no test panics with it").push((clicks.len(), ticket.clone()));
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }

    fn close(&self, _: Duration) -> SinkCounts {
        self.done.store(true, Ordering::SeqCst);
        self.counts()
    }
}

impl Safe {
    /// Waits for so many clicks and settles them.
    fn settle(&self, count: usize, safe: bool) {
        wait_for(|| self.waiting.lock().expect("no test panics with it").iter().map(|(count, _)| count).sum::<usize>() == count);
        for (_, ticket) in self.waiting.lock().expect("no test panics with it").drain(..) {
            ticket.settle(safe);
        }
    }
}

fn start() -> (Server, Arc<Safe>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = Arc::new(Safe::default());
    let mut config = config(folder.path());
    config.metrics = Some("127.0.0.1:0".parse().expect("an address"));
    (Server::start_with(config, sink.clone()).expect("the server starts"), sink, folder)
}

/// Redirects, and answers of the classes 3xx, 4xx and 5xx, as `/metrics` has them, and the server's own count.
fn counts(server: &Server) -> ([String; 4], u64) {
    let text = talk(server.metrics_address().expect("metrics"), b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let value = |series: &str| text.lines().find_map(|line| line.strip_prefix(series)).expect("the series").trim().to_owned();
    let class = |class: &str| value(&format!("redirect_requests_total{{code=\"{class}\"}}"));
    ([value("redirect_redirects_total"), class("3xx"), class("4xx"), class("5xx")], server.stats().served)
}

const PIPELINE: &str =
    "GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\nGET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn what_is_safe_counts_when_it_goes_out() {
    let (server, sink, _folder) = start();
    let mut stream = connect(server.address());
    stream.write_all(PIPELINE.as_bytes()).expect("sent");
    wait_for(|| !sink.waiting.lock().expect("no test panics with it").is_empty());
    assert_eq!(counts(&server), (["0", "0", "0", "0"].map(str::to_owned), 0));
    sink.settle(2, true);
    let mut answers = String::new();
    let mut buffer = [0; 4_096];
    while answers.matches("HTTP/1.1 302 ").count() < 2 {
        let count = stream.read(&mut buffer).expect("answers");
        answers += std::str::from_utf8(&buffer[..count]).expect("text");
    }
    assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 1);
    assert_eq!(counts(&server), (["2", "2", "1", "0"].map(str::to_owned), 2));
    assert_eq!(server.stop().served, 2);
}

/// One answer goes out in the place of those whose clicks could not be kept, and one is counted.
#[test]
fn what_could_not_be_kept_counts_once_as_503() {
    let (server, sink, _folder) = start();
    let mut stream = connect(server.address());
    stream.write_all(PIPELINE.as_bytes()).expect("sent");
    sink.settle(2, false);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
    assert_eq!(counts(&server), (["0", "0", "0", "1"].map(str::to_owned), 0));
    assert_eq!(server.stop().served, 0);
    assert!(sink.done.load(Ordering::SeqCst));
}

/// A disk that hangs says nothing: visitors are told to try again after some seconds.
#[test]
fn what_is_never_settled_is_refused_in_time() {
    let (server, sink, _folder) = start();
    let began = Instant::now();
    let answer = talk(server.address(), b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(counts(&server), (["0", "0", "0", "1"].map(str::to_owned), 0));
    // Whoever settles it later settles it for nobody.
    sink.settle(1, true);
    assert_eq!(server.stop().served, 0);
}

/// The time to an answer is that in which its click became safe, too, and each answer that went out has one.
#[test]
fn waiting_for_the_disk_counts_as_time_to_the_answer() {
    let (server, sink, _folder) = start();
    for (safe, answers) in [(true, 3), (false, 1)] {
        let before = durations(&server);
        let mut stream = connect(server.address());
        stream.write_all(PIPELINE.as_bytes()).expect("sent");
        wait_for(|| !sink.waiting.lock().expect("no test panics with it").is_empty());
        assert_eq!(durations(&server), before, "nobody has an answer");
        std::thread::sleep(Duration::from_millis(300));
        sink.settle(2, safe);
        wait_for(|| durations(&server).0 > before.0);
        let (count, seconds) = durations(&server);
        assert_eq!(count - before.0, answers);
        assert!(seconds - before.1 >= 0.3 * f64::from(answers), "{seconds} s");
    }
    server.stop();
}

/// How many answers have a time to them, and the sum of those.
fn durations(server: &Server) -> (u32, f64) {
    let text = talk(server.metrics_address().expect("metrics"), b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let value = |series: &str| text.lines().find_map(|line| line.strip_prefix(series)).expect("the series").trim().to_owned();
    let count = value("redirect_request_duration_seconds_count").parse().expect("a number");
    (count, value("redirect_request_duration_seconds_sum").parse().expect("a number"))
}
