//! The server over real sockets, byte by byte where it matters.

mod common;

use common::*;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn the_articles_link() {
    let Running { server, memory, folder: _folder } = start();
    let target = "/abc123?utm_source=webinar&utm_campaign=q2-pricing&utm_medium=email&eid=801";
    let headers = format!("{SAFARI}CF-IPCountry: FR\r\nReferer: https://mail.example/\r\n");
    let (head, body) = request(server.address(), "GET", target, &headers);
    assert!(head.starts_with("HTTP/1.1 302 Found\r\n"), "{head}");
    assert_eq!(
        header(&head, "Location"),
        Some("https://acme.example/pricing.pdf?utm_source=webinar&utm_campaign=q2-pricing&utm_medium=email")
    );
    assert_eq!(header(&head, "Cache-Control"), Some("private, no-store"));
    assert!(header(&head, "Date").is_some());
    assert_eq!(body, "");
    let click = memory.wait(1).remove(0);
    assert_eq!(click["ts"], NOW);
    assert_eq!(click["link"], "s.elido.me/abc123");
    assert_eq!(click["contact_id"], "801");
    assert_eq!(click["utm"]["campaign"], "q2-pricing");
    assert_eq!(click["country"], "FR");
    assert_eq!(click["referrer"], "https://mail.example/");
    assert_eq!(click["bot"], serde_json::Value::Null);
    let stats = server.stop();
    assert_eq!((stats.served, stats.delivered, stats.lost), (1, 1, 0));
}

#[test]
fn the_host_chooses_the_domain() {
    let Running { server, memory, folder: _folder } = start();
    let ask = |host: &str, path: &str| {
        let answer = talk(server.address(), format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        header(&answer, "Location").map(str::to_owned)
    };
    let start = Some("https://other.example/docs?utm_source=site&x=1&y=2#top".to_owned());
    assert_eq!(ask("GO.other.example:8443", "/docs/start?y=2"), start);
    assert_eq!(ask("nobody", "http://go.other.example/docs/start/?y=2"), start);
    assert_eq!(ask("go.other.example", "/%64ocs/start?y=2"), start);
    assert_eq!(ask("go.other.example", "/abc123"), None, "a known domain answers with its own links only");
    assert!(ask("127.0.0.1", "/abc123").is_some(), "the default domain answers for a foreign host");
    assert_eq!(memory.wait(4).iter().filter(|click| click["utm"]["source"] == "site").count(), 3);
}

#[test]
fn head_and_prefetch_are_answered_and_marked() {
    let Running { server, memory, folder: _folder } = start();
    // Two workers hand their clicks over after their answers: only one that has been seen is surely before the next.
    let ask = |method: &str, headers: &str, clicks: usize| {
        let answer = request(server.address(), method, "/abc123", headers);
        memory.wait(clicks);
        answer
    };
    let get = ask("GET", SAFARI, 1).0;
    let (head, body) = ask("HEAD", SAFARI, 2);
    let own = |line: &&str| line.starts_with("Date:") || line.starts_with("X-Click-Id:");
    let shared = |head: &str| head.lines().filter(|line| !own(line)).collect::<Vec<_>>().join("\n");
    assert_eq!(shared(&head), shared(&get));
    let ids: Vec<_> = memory.wait(2).iter().map(|click| click["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids, [&get, &head].map(|head| header(head, "X-Click-Id").map(str::to_owned)), "each answer names its click");
    assert_eq!(body, "");
    ask("GET", &format!("{SAFARI}Sec-Purpose: prefetch;prerender\r\n"), 3);
    ask("GET", "User-Agent: curl/8\r\n", 4);
    let bots: Vec<_> = memory.wait(4).iter().map(|click| click["bot"].clone()).collect();
    assert_eq!(bots, [serde_json::Value::Null, "head".into(), "prefetch".into(), "user-agent".into()]);
}

#[test]
fn what_is_not_a_link() {
    let Running { server, memory, folder: _folder } = start();
    let status = |method: &str, target: &str| request(server.address(), method, target, SAFARI);
    let (head, page) = status("GET", "/nothing");
    assert!(head.starts_with("HTTP/1.1 404 ") && page.contains("Link not found"), "{head}");
    let length = header(&head, "Content-Length").map(str::to_owned);
    let (head, page) = status("HEAD", "/nothing");
    assert_eq!((header(&head, "Content-Length").map(str::to_owned), &*page), (length, ""));
    assert!(status("GET", "/").0.starts_with("HTTP/1.1 404 "));
    assert!(status("GET", "/ABC123").0.starts_with("HTTP/1.1 404 "), "slugs have case");
    assert!(status("GET", "/abc123%ff").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = status("POST", "/abc123");
    assert!(head.starts_with("HTTP/1.1 405 "));
    assert_eq!(header(&head, "Allow"), Some("GET, HEAD"));
    assert_eq!(status("GET", "/healthz").1, "ok\n");
    assert!(status("GET", "/readyz").0.starts_with("HTTP/1.1 200 "));
    assert!(talk(server.address(), b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(talk(server.address(), b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "), "no Host");
    memory.wait(0);
    assert_eq!(server.stop().served, 0);
}

#[test]
fn heads_that_are_too_large() {
    let Running { server, .. } = start();
    let long = format!("GET /abc123?q={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(40_000));
    assert!(talk(server.address(), long.as_bytes()).starts_with("HTTP/1.1 414 "));
    let many = format!("GET /abc123 HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(300));
    assert!(talk(server.address(), many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let fits = format!("GET /abc123?q={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "a".repeat(15_000));
    assert!(talk(server.address(), fits.as_bytes()).starts_with("HTTP/1.1 302 "));
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let Running { server, memory, folder: _folder } = start();
    let count = 3_000;
    let mut text = String::new();
    for number in 0..count {
        text += &format!("GET /abc123?n={number} HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    text += "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = connect(server.address());
    let mut writer = stream.try_clone().expect("a second handle");
    // Written from a second thread: the server stops reading while its answers wait.
    let sending = std::thread::spawn(move || writer.write_all(text.as_bytes()).expect("sent"));
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("all answers, then the end");
    sending.join().expect("the sender ends");
    let numbers: Vec<usize> =
        answers.lines().filter_map(|line| line.strip_prefix("Location: https://acme.example/pricing.pdf?n=")?.parse().ok()).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 1);
    memory.wait(count);
}

#[test]
fn a_request_in_single_bytes() {
    let Running { server, memory, folder: _folder } = start();
    let mut stream = connect(server.address());
    for byte in b"GET /abc123?eid=7 HTTP/1.1\r\nHost: x\r\n\r\nGET /abc123?eid=8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).expect("sent");
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("two answers, then the end");
    assert_eq!(answers.matches("HTTP/1.1 302 Found").count(), 2);
    let contacts: Vec<_> = memory.wait(2).iter().map(|click| click["contact_id"].clone()).collect();
    assert_eq!(contacts, ["7", "8"]);
}

#[test]
fn a_client_that_closes_its_side_is_still_answered() {
    let Running { server, .. } = start();
    let mut stream = connect(server.address());
    stream.write_all(b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\nGET /unfinished").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
    assert!(answer.starts_with("HTTP/1.1 302 "));
}

#[test]
fn a_client_that_never_ends_its_head_is_cut_off() {
    let Running { server, .. } = start_with(|config| config.limits.head_timeout = Duration::from_secs(2));
    let mut stream = connect(server.address());
    let begin = Instant::now();
    let mut writer = stream.try_clone().expect("a second handle");
    // One byte a second would keep a server that restarts its clock with every byte for ever.
    let drip = std::thread::spawn(move || {
        let _ = writer.write_all(b"GET /abc123 HTTP/1.1\r\nHost: x\r\nA: ");
        while begin.elapsed() < Duration::from_secs(60) && writer.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let mut answer = Vec::new();
    // The end may come as a reset, since the drip goes on.
    let _ = stream.read_to_end(&mut answer);
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(30), "cut off after {took:?}");
    assert!(answer.is_empty());
    drip.join().expect("the drip ends");
}

#[test]
fn stopping_answers_what_has_begun() {
    let Running { server, memory, folder: _folder } = start();
    let address = server.address();
    let mut idle = connect(address);
    idle.write_all(b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut first = [0; 12];
    idle.read_exact(&mut first).expect("an answer");
    let mut begun = connect(address);
    begun.write_all(b"GET /abc123 HTTP/1.1\r\nHo").expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    let stopping = std::thread::spawn(move || server.stop());
    std::thread::sleep(Duration::from_millis(200));
    begun.write_all(b"st: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    begun.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 302 ") && answer.contains("Connection: close"), "{answer}");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("the end");
    let stats = stopping.join().expect("stops");
    assert_eq!((stats.served, memory.wait(2).len()), (2, 2));
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_changed_file_is_served_and_a_broken_one_is_not() {
    let Running { server, folder, .. } = start();
    let path = folder.path().join("links.yaml");
    let found = |slug: &str| request(server.address(), "GET", slug, SAFARI).0.starts_with("HTTP/1.1 302 ");
    assert!(found("/abc123") && !found("/new"));
    std::fs::write(
        &path,
        format!("{LINKS}- {{domain: s.elido.me, slug: new, workspace: acme, destination: \"https://acme.example/new\"}}\n"),
    )
    .expect("written");
    wait_for(|| found("/new"));
    std::fs::write(&path, "- domain: [\n").expect("written");
    server.reload();
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(found("/new") && found("/abc123"), "the links stay as they were");
    std::fs::write(&path, LINKS).expect("written");
    server.reload();
    wait_for(|| !found("/new"));
}

#[test]
fn a_port_in_use_is_an_error() {
    for workers in [1, 2] {
        let Running { server, folder, .. } = start();
        let config = clickline_redirect::Config { listen: server.address(), workers, ..config(folder.path()) };
        let error = clickline_redirect::Server::start(config).err().expect("the port is taken");
        assert!(error.to_string().contains("cannot listen on") && !error.is_configuration(), "{error}");
    }
}

#[test]
fn a_small_load_loses_nothing() {
    let Running { server, memory, folder: _folder } = start();
    let address = server.address();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                for round in 0..50 {
                    // A new connection each few requests, as real clicks come.
                    let mut stream = connect(address);
                    for number in 0..10 {
                        let close = if number == 9 { "Connection: close\r\n" } else { "" };
                        write!(stream, "GET /abc123?eid={client}-{round}-{number} HTTP/1.1\r\nHost: x\r\n{close}\r\n").expect("sent");
                    }
                    let mut answers = String::new();
                    stream.read_to_string(&mut answers).expect("answers, then the end");
                    assert_eq!(answers.matches("HTTP/1.1 302 ").count(), 10);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client ends well"));
    let clicks = memory.wait(4_000);
    let ids: std::collections::HashSet<_> = clicks.iter().map(|click| click["id"].as_str().map(str::to_owned)).collect();
    let contacts: std::collections::HashSet<_> = clicks.iter().map(|click| click["contact_id"].as_str().map(str::to_owned)).collect();
    assert_eq!((ids.len(), contacts.len()), (4_000, 4_000));
    assert_eq!(server.stop().served, 4_000);
}
