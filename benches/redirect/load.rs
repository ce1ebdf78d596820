//! Visitors: one thread with many kept-alive connections. Closed loop (each asks again when it has its answer) for processor time per request,
//! open loop (a schedule that waits for nobody) for latency.
//!
//! In the open loop a latency counts from the moment at which the request was to be sent, whether a connection was free or not: a stall of the
//! server delays all that were to come in it, and all of them count (no coordinated omission).

use crate::broker::Id;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What one run of visitors saw.
pub struct Seen {
    /// Answers with status 302.
    pub redirects: u64,
    /// All other answers.
    pub others: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Nanoseconds from when a request was to be sent to its whole answer.
    pub latency: Histogram<u64>,
    /// Ids of the clicks that were answered, where they are wanted.
    pub ids: Option<Vec<Id>>,
}

struct Visitor {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request that waits for its answer was to be sent.
    asked: Option<Instant>,
}

/// All connections to one server.
pub struct Visitors {
    poll: Poll,
    visitors: Vec<Visitor>,
    requests: Vec<Vec<u8>>,
    next: usize,
}

impl Visitors {
    /// Opens `count` connections; `requests` are sent in turn.
    pub fn connect(address: SocketAddr, count: usize, requests: Vec<Vec<u8>>) -> io::Result<Visitors> {
        let poll = Poll::new()?;
        let mut visitors = Vec::new();
        for n in 0..count {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(n), Interest::READABLE)?;
            visitors.push(Visitor { stream, received: Vec::with_capacity(4096), asked: None });
        }
        Ok(Visitors { poll, visitors, requests, next: 0 })
    }

    /// Every visitor asks again as soon as it has its answer, for `time`; then the last answers are waited for.
    pub fn closed(&mut self, time: Duration) -> io::Result<Seen> {
        let start = Instant::now();
        let end = start + time;
        let mut seen = Seen::new();
        let mut waiting = 0;
        for n in 0..self.visitors.len() {
            self.ask(n, Instant::now())?;
            waiting += 1;
        }
        let mut events = Events::with_capacity(1024);
        while waiting > 0 {
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            let now = Instant::now();
            for event in &events {
                let Token(n) = event.token();
                if self.answered(n, now, &mut seen)? {
                    if now < end {
                        self.ask(n, now)?;
                    } else {
                        waiting -= 1;
                    }
                }
            }
            if now > end + Duration::from_secs(60) {
                return Err(io::Error::other(format!("{waiting} requests got no answer")));
            }
        }
        seen.took = start.elapsed();
        Ok(seen)
    }

    /// Requests at `rate` a second with random gaps (Poisson), for `time`; then the last answers are waited for.
    pub fn open(&mut self, rate: f64, time: Duration, seed: u64) -> io::Result<Seen> {
        let mut seen = Seen::new();
        self.open_into(&mut seen, rate, time, seed)?;
        Ok(seen)
    }

    /// The same; what was seen until an error is in `seen`.
    pub fn open_into(&mut self, seen: &mut Seen, rate: f64, time: Duration, seed: u64) -> io::Result<()> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut gap = move || Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
        // In turn: a server closes a connection that asks for nothing for a while.
        let mut free: VecDeque<usize> = (0..self.visitors.len()).collect();
        // To be sent, while every connection waits for an answer.
        let mut late: VecDeque<Instant> = VecDeque::new();
        let start = Instant::now();
        let end = start + time;
        let mut due = start + gap();
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            while due <= now && due < end {
                late.push_back(due);
                due += gap();
            }
            while let (Some(&intended), Some(&n)) = (late.front(), free.front()) {
                late.pop_front();
                free.pop_front();
                self.ask(n, intended)?;
            }
            if due >= end && late.is_empty() && free.len() == self.visitors.len() {
                break;
            }
            if now > end + Duration::from_secs(60) {
                return Err(io::Error::other("answers are missing a minute after the end"));
            }
            // Sleep until shortly before the next request, then look without sleeping: timers are some 60 µs late.
            let wait = due.saturating_duration_since(now).saturating_sub(Duration::from_micros(80));
            self.poll.poll(&mut events, Some(if due >= end { Duration::from_millis(10) } else { wait }))?;
            let now = Instant::now();
            for event in &events {
                let Token(n) = event.token();
                if self.answered(n, now, seen)? {
                    free.push_back(n);
                }
            }
        }
        seen.took = start.elapsed();
        Ok(())
    }

    /// Requests without a whole answer.
    pub fn waiting(&self) -> usize {
        self.visitors.iter().filter(|visitor| visitor.asked.is_some()).count()
    }

    /// Reads the answers that have arrived and were not read yet, behind the server's end.
    pub fn read_last(&mut self, seen: &mut Seen) {
        for n in 0..self.visitors.len() {
            // The end that follows is the server's.
            let _ = self.answered(n, Instant::now(), seen);
        }
    }

    fn ask(&mut self, n: usize, intended: Instant) -> io::Result<()> {
        let request = &self.requests[self.next];
        self.next = (self.next + 1) % self.requests.len();
        let visitor = &mut self.visitors[n];
        visitor.asked = Some(intended);
        // A request is far smaller than a socket's buffer, and none is in it.
        let sent = visitor.stream.write(request)?;
        if sent == request.len() { Ok(()) } else { Err(io::Error::other("a request was not taken whole")) }
    }

    /// Reads what is there; whether the answer is whole.
    fn answered(&mut self, n: usize, now: Instant, seen: &mut Seen) -> io::Result<bool> {
        let visitor = &mut self.visitors[n];
        let mut buffer = [0; 8192];
        loop {
            match visitor.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the server closed a connection that was to be kept")),
                Ok(read) => visitor.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            // An answer fits the buffer; when less came than fits, there is no more.
            if visitor.received.len() < buffer.len() {
                break;
            }
        }
        let Some(length) = answer_length(&visitor.received) else { return Ok(false) };
        if visitor.received.len() < length {
            return Ok(false);
        }
        if visitor.received.starts_with(b"HTTP/1.1 302") {
            seen.redirects += 1;
            if let Some(ids) = &mut seen.ids {
                ids.push(id_of(&visitor.received[..length]).ok_or_else(|| io::Error::other("a redirect that does not name its click"))?);
            }
        } else {
            seen.others += 1;
        }
        visitor.received.drain(..length);
        if let Some(asked) = visitor.asked.take() {
            let nanos = u64::try_from(now.saturating_duration_since(asked).as_nanos()).unwrap_or(u64::MAX);
            seen.latency.saturating_record(nanos);
        }
        Ok(true)
    }
}

impl Seen {
    /// Nothing yet.
    pub fn new() -> Seen {
        let latency = Histogram::new_with_bounds(100, 120_000_000_000, 3).expect("good bounds");
        Seen { redirects: 0, others: 0, took: Duration::ZERO, latency, ids: None }
    }

    /// Nothing yet; the ids of clicks are wanted.
    pub fn with_ids() -> Seen {
        Seen { ids: Some(Vec::new()), ..Seen::new() }
    }
}

/// The click that an answer names.
fn id_of(answer: &[u8]) -> Option<Id> {
    let at = memchr::memmem::find(answer, b"X-Click-Id: ")? + 12;
    answer.get(at..at + 36)?.try_into().ok()
}

/// Length of the answer that begins `bytes`, head and body, if its head is whole.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let body = bytes[..head]
        .split(|&byte| byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok())?
        })
        .unwrap_or(0);
    Some(head + body)
}

/// One request per slug, as a browser sends it when a person clicks in a mail.
pub fn requests(domain: &str, slugs: &[String]) -> Vec<Vec<u8>> {
    slugs
        .iter()
        .enumerate()
        .map(|(n, slug)| {
            format!(
                "GET /{slug}?eid={}&fbclid=IwAR0{n:08}aBcDeFgHiJkLmNoPqRsTuVwXyZ012345&utm_content=button HTTP/1.1\r\nHost: {domain}\r\nConnection: keep-alive\r\n\
                 User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
                 Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
                 X-Forwarded-For: 10.{}.{}.{}\r\nReferer: https://mail.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
                 Accept-Language: en-US,en;q=0.9,fr;q=0.8\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\n\r\n",
                800 + n % 100_000,
                n >> 16 & 255,
                n >> 8 & 255,
                n & 255,
            )
            .into_bytes()
        })
        .collect()
}
