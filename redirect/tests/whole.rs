//! No answer is cut: however the bytes arrive, while links are replaced, and when the server stops.

mod common;

use clickline_redirect::{Config, Server};
use common::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The answers on one connection: status and `Location` of each.
fn answers(text: &str) -> Vec<(String, Option<String>)> {
    let mut rest = text;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").expect("a whole head");
        let length: usize = header(head, "Content-Length").and_then(|text| text.parse().ok()).expect("a length");
        assert!(after.len() >= length, "an answer was cut: {rest}");
        all.push((head[9..12].to_owned(), header(head, "Location").map(str::to_owned)));
        rest = &after[length..];
    }
    all
}

/// Reads to the end; a reset after the last answer is an end, too.
fn rest_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).expect("answers are text")
}

static SERVER: LazyLock<Running> = LazyLock::new(start);

/// Pieces of streams, well formed and not.
fn stream() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => Just("GET /abc123?n=1 HTTP/1.1\r\nHost: x\r\n\r\n"),
        3 => Just("HEAD /abc123 HTTP/1.1\r\nHost: go.other.example\r\nUser-Agent: a\r\n\r\n"),
        2 => Just("\r\nGET /docs/start HTTP/1.1\r\nHost: go.other.example:80\r\n\r\n"),
        2 => Just("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
        1 => Just("POST /abc123 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"),
        1 => Just("GET /abc123 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        1 => Just("GET /abc123 HTTP/1.1\nHost: x\n\n"),
        1 => Just("GET /abc123 HTTP/1.1\r\nHost: x\r\n fold\r\n\r\n"),
        1 => Just("GET /abc123 HTTP/1.1\r\nBad\0"),
        1 => Just("GET /abc123 HTTP/1.1\r\nHo"),
        1 => Just("GET /abc123 HTTP/1.0\r\n\r\n"),
    ];
    prop::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However a stream is cut, the answers are the same, byte for byte but for the date and the ids of the clicks.
    #[test]
    fn any_split_gives_the_same_answers(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..40)) {
        let bytes = stream.as_bytes();
        let ask = |ends: &[usize]| {
            let mut connection = connect(SERVER.server.address());
            let mut start = 0;
            for end in ends {
                // The server may have closed: what it answered is still to be read.
                if connection.write_all(&bytes[start..*end]).is_err() {
                    break;
                }
                start = *end;
                std::thread::sleep(Duration::from_micros(100));
            }
            let _ = connection.shutdown(std::net::Shutdown::Write);
            let text = rest_of(&mut connection);
            text.lines().filter(|line| !line.starts_with("Date: ") && !line.starts_with("X-Click-Id: ")).collect::<Vec<_>>().join("\n")
        };
        let whole = ask(&[bytes.len()]);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([bytes.len()]).collect();
        ends.sort_unstable();
        prop_assert_eq!(ask(&ends), whole);
    }
}

/// While thousands of links are replaced again and again, every answer is the old table's or the new one's, and each link is found.
#[test]
fn reloads_under_load_lose_nobody() {
    const LINKS: usize = 5_000;
    let table = |version: usize| -> String {
        (0..LINKS)
            .map(|number| format!("{{\"domain\":\"s.elido.me\",\"slug\":\"s{number}\",\"workspace\":\"w\",\"destination\":\"https://x.example/{number}/{version}\"}}\n"))
            .collect()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("links.jsonl");
    let put = |text: &str| {
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).expect("written");
        std::fs::rename(&beside, &path).expect("renamed");
    };
    put(&table(0));
    let memory = std::sync::Arc::new(Memory::default());
    let config = Config { workers: 2, links_file: Some(path.clone()), default_domain: Some("s.elido.me".to_owned()), ..Config::default() };
    let server = Server::start_with(config, memory.clone()).expect("the server starts");
    let (address, stop, written) = (server.address(), AtomicBool::new(false), AtomicU64::new(0));
    let asked: Vec<usize> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (stop, written) = (&stop, &written);
                scope.spawn(move || {
                    let (mut count, mut newest) = (0, BTreeMap::new());
                    while !stop.load(Ordering::Acquire) {
                        let first = (client * 1_777 + count * 31) % LINKS;
                        let oldest = newest.values().copied().max().unwrap_or(0);
                        let mut text = String::new();
                        for step in 0..20 {
                            let close = if step == 19 { "Connection: close\r\n" } else { "" };
                            text += &format!("GET /s{} HTTP/1.1\r\nHost: x\r\n{close}\r\n", (first + step) % LINKS);
                        }
                        let got = answers(&talk(address, text.as_bytes()));
                        let latest = written.load(Ordering::Acquire);
                        assert_eq!(got.len(), 20);
                        for (step, (status, location)) in got.into_iter().enumerate() {
                            let number = (first + step) % LINKS;
                            let location = location.unwrap_or_else(|| panic!("s{number} is answered with {status}"));
                            let version: u64 = location
                                .strip_prefix(&format!("https://x.example/{number}/"))
                                .and_then(|text| text.parse().ok())
                                .expect("this link's destination");
                            // One pointer is swapped: nobody sees an older table after a newer one.
                            assert!((oldest..=latest).contains(&version), "{version} after {oldest}, {latest} was written");
                            newest.insert(number, version);
                        }
                        count += 20;
                    }
                    count
                })
            })
            .collect();
        for version in 1..=4 {
            written.store(version, Ordering::Release);
            put(&table(usize::try_from(version).expect("small")));
            server.reload();
            let last = format!("https://x.example/7/{version}");
            let end = Instant::now() + Duration::from_secs(60);
            while header(&request(address, "GET", "/s7", "").0, "Location") != Some(&last) {
                assert!(Instant::now() < end, "version {version} is not served");
            }
            // Half of a file: cut within a line, and the table stays.
            put(&table(9)[..100_001]);
            server.reload();
        }
        stop.store(true, Ordering::Release);
        clients.into_iter().map(|client| client.join().expect("a client ends well")).collect()
    });
    let stats = server.stop();
    assert!(stats.served >= asked.iter().sum::<usize>() as u64 && asked.iter().all(|count| *count > 0));
    let clicks = memory.0.lock().expect("no test panics with it");
    let ids: HashSet<&str> = clicks.iter().filter_map(|click| click["id"].as_str()).collect();
    assert_eq!((clicks.len() as u64, ids.len() as u64), (stats.served, stats.served));
}

/// Every request under way is answered whole or its connection is refused; answers and clicks are the same set.
#[test]
fn stopping_under_load_cuts_nobody_off() {
    let running = start_with(|config| {
        config.limits.drain_delay = Duration::from_millis(300);
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    });
    let (address, memory) = (running.server.address(), running.memory.clone());
    let metrics = running.server.metrics_address().expect("metrics are on");
    let (busy, unready) = (AtomicU64::new(0), AtomicBool::new(false));
    let served: HashSet<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let busy = &busy;
                scope.spawn(move || {
                    let mut answered = HashSet::new();
                    // Until nobody listens any more.
                    for round in 0.. {
                        let Ok(mut stream) = TcpStream::connect(address) else { break };
                        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
                        let keys: Vec<String> = (0..5).map(|step| format!("{client}-{round}-{step}")).collect();
                        let text: String = keys.iter().map(|key| format!("GET /abc123?n={key} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
                        if stream.write_all(text.as_bytes()).is_err() {
                            continue;
                        }
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                        let got = answers(&rest_of(&mut stream));
                        for (key, (status, location)) in keys.iter().zip(got) {
                            assert_eq!((&*status, location), ("302", Some(format!("https://acme.example/pricing.pdf?n={key}"))));
                            answered.insert(key.clone());
                        }
                        busy.fetch_add(1, Ordering::Release);
                    }
                    answered
                })
            })
            .collect();
        let prober = scope.spawn(|| {
            // The metrics' port may be gone by the time; before that it must have said so.
            while let Ok(mut stream) = TcpStream::connect(metrics) {
                let _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
                if rest_of(&mut stream).starts_with("HTTP/1.1 503 ") && TcpStream::connect(address).is_ok() {
                    unready.store(true, Ordering::Release);
                }
            }
        });
        wait_for(|| busy.load(Ordering::Acquire) >= 20);
        running.server.stop();
        prober.join().expect("the prober ends");
        clients.into_iter().flat_map(|client| client.join().expect("a client ends well")).collect()
    });
    assert!(unready.load(Ordering::Acquire), "/readyz said 503 while requests were still taken");
    let clicks = memory.0.lock().expect("no test panics with it").len();
    assert_eq!(clicks, served.len(), "each answer is a click and each click was answered");
}
