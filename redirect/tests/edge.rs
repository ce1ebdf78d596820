//! The edge over real sockets: who is let in, whose request it is, what links end, what is counted.

mod common;

use clickline_redirect::{Limits, Server};
use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn limited(change: impl FnOnce(&mut Limits)) -> Running {
    start_with(|config| change(&mut config.limits))
}

fn metrics_of(server: &Server) -> String {
    let address = server.metrics_address().expect("metrics are on");
    let (head, body) = request(address, "GET", "/metrics", "");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body
}

/// A sample's value, by its name with labels.
fn sample(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Reads to the end; a reset after the last answer is an end, too.
fn rest_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).expect("answers are text")
}

#[test]
fn links_that_ended_or_never_were_look_the_same() {
    // Ends count in whole seconds.
    let time = |seconds: u64| (NOW / 1_000 + seconds) * 1_000;
    let more = format!(
        "- {{domain: s.elido.me, slug: closed, workspace: acme, destination: \"https://acme.example/off\", enabled: false}}
- {{domain: s.elido.me, slug: over, workspace: acme, destination: \"https://acme.example/over\", expires: {}}}
- {{domain: s.elido.me, slug: still, workspace: acme, destination: \"https://acme.example/still\", expires: {}}}\n",
        time(0),
        time(1)
    );
    let Running { server, memory, folder: _folder } = start_with(|config| {
        std::fs::write(config.links_file.as_ref().expect("a file"), format!("{LINKS}{more}")).expect("written");
    });
    let shape = |slug: &str| {
        let (head, body) = request(server.address(), "GET", slug, SAFARI);
        (head.lines().filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect::<Vec<_>>(), body)
    };
    let unknown = shape("/unknown");
    assert_eq!(unknown.0[0], "HTTP/1.1 404 Not Found");
    assert_eq!(shape("/closed"), unknown);
    assert_eq!(shape("/over"), unknown);
    assert!(shape("/still").0[0].contains("302"));
    assert_eq!(memory.wait(1)[0]["link"], "s.elido.me/still", "nothing else made a click");
}

#[test]
fn a_client_has_so_many_connections_and_no_more() {
    let running = start_with(|config| {
        config.limits.connections_per_client = 3;
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    });
    let address = running.server.address();
    let text = b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n";
    let open = || {
        let mut stream = connect(address);
        let mut first = [0; 12];
        (stream.write_all(text).is_ok() && stream.read_exact(&mut first).is_ok()).then_some(stream)
    };
    let mut held: Vec<TcpStream> = (0..3).map(|_| open().expect("within the limit")).collect();
    assert!(open().is_none(), "the fourth");
    let text = metrics_of(&running.server);
    assert_eq!(sample(&text, "redirect_connections"), 3.0);
    assert_eq!(sample(&text, "redirect_connections_made_total{result=\"refused\"}"), 1.0);
    held.pop();
    wait_for(|| open().is_some());
}

#[test]
fn at_the_limit_of_all_connections_the_next_waits() {
    let running = limited(|limits| limits.connections = 2);
    let address = running.server.address();
    let mut held = [connect(address), connect(address)];
    for stream in &mut held {
        stream.write_all(b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        stream.read_exact(&mut [0; 12]).expect("an answer");
    }
    let waiting = std::thread::spawn(move || request(address, "GET", "/abc123", SAFARI).0);
    drop(held);
    assert!(waiting.join().expect("answered in the end").starts_with("HTTP/1.1 302 "));
}

/// Silent and dribbling clients by the thousand are closed in time, and nobody waits for them.
#[test]
fn a_thousand_slow_clients_hurt_nobody() {
    let running = limited(|limits| {
        limits.head_timeout = Duration::from_secs(3);
        limits.idle_timeout = Duration::from_secs(3);
    });
    let address = running.server.address();
    // As many as this process may open; the server is in it, too.
    let count = usize::from(u8::MAX).max(open_files().saturating_sub(200) / 4).min(1_000);
    let silent: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
    let mut dribbling: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
    let end = Instant::now() + Duration::from_secs(60);
    let mut rounds = 0;
    while !dribbling.is_empty() {
        assert!(Instant::now() < end, "{} clients drip on", dribbling.len());
        let byte = b"GET /abc123 HTTP/1.1\r\nHost: x\r\nA: "[..].get(rounds).unwrap_or(&b'a');
        dribbling.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        assert!(request(address, "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "), "another client is served meanwhile");
        rounds += 1;
    }
    for mut stream in silent {
        assert_eq!(rest_of(&mut stream), "", "a silent client gets the end and nothing else");
    }
    let clicks = running.memory.0.lock().expect("no test panics with it").len();
    assert_eq!(clicks, rounds, "a head that never ended made no click");
}

/// This process's limit of open files.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    line.split_whitespace().nth(3).and_then(|text| text.parse().ok()).unwrap_or(usize::MAX / 8)
}

#[test]
fn the_proxy_protocol_comes_first_or_nothing_does() {
    let running = start_with(|config| config.proxies.proxy_protocol = true);
    let address = running.server.address();
    let get = b"GET /abc123 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x01\x0a\0\0\x01\x12\x34\0\x50";
    for header in [&b"PROXY TCP4 198.51.100.1 10.0.0.1 4660 80\r\n"[..], &v2[..], b"PROXY UNKNOWN\r\n"] {
        let whole = [header, get].concat();
        assert!(talk(address, &whole).starts_with("HTTP/1.1 302 "));
        let mut stream = connect(address);
        for byte in whole {
            stream.write_all(&[byte]).expect("sent");
        }
        assert!(rest_of(&mut stream).starts_with("HTTP/1.1 302 "), "byte by byte");
    }
    let mut bare = connect(address);
    let _ = bare.write_all(get);
    assert_eq!(rest_of(&mut bare), "", "without the header nobody is heard");
}

#[test]
fn the_clients_that_a_balancer_names_are_counted() {
    let running = start_with(|config| {
        config.proxies.proxy_protocol = true;
        config.limits.connections_per_client = 1;
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    });
    let address = running.server.address();
    let open = |client: &str| {
        let mut stream = connect(address);
        let sent = stream.write_all(format!("PROXY TCP4 {client} 10.0.0.1 1 80\r\nGET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        (sent.is_ok() && stream.read_exact(&mut [0; 12]).is_ok()).then_some(stream)
    };
    let held = (open("198.51.100.7").expect("the first"), open("198.51.100.8").expect("another client's first"));
    assert!(open("198.51.100.7").is_none(), "one client's second");
    drop(held);
    assert_eq!(sample(&metrics_of(&running.server), "redirect_connections_made_total{result=\"refused\"}"), 1.0);
}

/// The click that a request makes on a server whose scanners are 198.51.100.0/24.
fn click_through(change: impl FnOnce(&mut clickline_redirect::ProxyConfig), sent: &str) -> serde_json::Value {
    let running = start_with(|config| {
        let scanners = config.links_file.as_ref().expect("a links file").with_file_name("scanners");
        std::fs::write(&scanners, "198.51.100.0/24\n").expect("written");
        config.visitors.scanner_networks = Some(scanners);
        change(&mut config.proxies);
    });
    let answer = talk(running.server.address(), sent.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    running.memory.wait(1).remove(0)
}

/// A visitor's address gets from a header, or from the PROXY protocol, to the verdict on the click, and the country to the record: from those who are
/// believed, and from nobody else.
#[test]
fn a_click_is_judged_by_the_address_that_a_trusted_proxy_names() {
    use serde_json::json;
    let trust = |networks: &'static [&'static str]| networks.iter().map(|network| network.parse().expect("a network")).collect::<Vec<_>>();
    let near: &'static [&'static str] = &["127.0.0.0/8"];
    let (far, nobody): (&'static [&'static str], &'static [&'static str]) = (&["10.0.0.0/8"], &[]);
    let get = format!("GET /abc123 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{SAFARI}");
    let forwarded = format!("{get}X-Forwarded-For: 198.51.100.7\r\nCF-IPCountry: FR\r\n\r\n");
    for (trusted, bot, country) in
        [(near, json!("network"), json!("FR")), (far, json!(null), json!(null)), (nobody, json!(null), json!("FR"))]
    {
        let click = click_through(|proxies| proxies.trusted = trust(trusted), &forwarded);
        assert_eq!((&click["bot"], &click["country"]), (&bot, &country), "trusted: {trusted:?}");
    }
    // A balancer of connections names the visitor, and what the visitor writes in headers is the visitor's word.
    for (trusted, country) in [(near, json!(null)), (nobody, json!("DE"))] {
        let sent = format!("PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n{get}X-Forwarded-For: 192.0.2.1\r\nCF-IPCountry: DE\r\n\r\n");
        let through = |proxies: &mut clickline_redirect::ProxyConfig| {
            proxies.proxy_protocol = true;
            proxies.trusted = trust(trusted);
        };
        let click = click_through(through, &sent);
        assert_eq!((&click["bot"], &click["country"]), (&json!("network"), &country), "trusted: {trusted:?}");
    }
    // A balancer of connections before a proxy that is trusted: the proxy's header names the visitor.
    let sent = format!("PROXY TCP4 127.0.0.9 10.0.0.1 4660 80\r\n{get}X-Forwarded-For: 198.51.100.7\r\nCF-IPCountry: FR\r\n\r\n");
    let through = |proxies: &mut clickline_redirect::ProxyConfig| {
        proxies.proxy_protocol = true;
        proxies.trusted = trust(near);
    };
    let click = click_through(through, &sent);
    assert_eq!((&click["bot"], &click["country"]), (&json!("network"), &json!("FR")));
}

#[test]
fn only_trusted_balancers_may_use_the_proxy_protocol() {
    let running = start_with(|config| {
        config.proxies.proxy_protocol = true;
        config.proxies.trusted = vec!["10.0.0.0/8".parse().expect("a network")];
    });
    let mut stream = connect(running.server.address());
    let _ = stream.write_all(b"PROXY UNKNOWN\r\nGET /abc123 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(rest_of(&mut stream), "");
}

#[test]
fn metrics_have_a_port_of_their_own_and_few_series() {
    let running = start_with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0))));
    let (address, metrics) = (running.server.address(), running.server.metrics_address().expect("metrics are on"));
    let names = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').expect("a sample").0.to_owned()).collect()
    };
    request(address, "GET", "/abc123", "User-Agent: curl/8\r\n");
    request(address, "HEAD", "/abc123", "");
    running.memory.wait(2);
    let before = names(&metrics_of(&running.server));
    for number in 0..300 {
        request(address, "GET", &format!("/unknown{number}?utm_source=a{number}"), &format!("User-Agent: agent{number}\r\n"));
    }
    request(address, "GET", "/abc123", SAFARI);
    talk(address, b"nonsense\r\n\r\n");
    running.memory.wait(3);
    // An answer is timed when it has gone out: whoever has it may ask before that.
    wait_for(|| sample(&metrics_of(&running.server), "redirect_request_duration_seconds_count") >= 304.0);
    let text = metrics_of(&running.server);
    assert_eq!(names(&text), before, "nothing that a visitor sends makes a series");
    assert!(text.ends_with("# EOF\n"));
    for (name, value) in [
        ("redirect_requests_total{code=\"3xx\"}", 3.0),
        ("redirect_requests_total{code=\"4xx\"}", 301.0),
        ("redirect_redirects_total", 3.0),
        ("redirect_bots_total{reason=\"user-agent\"}", 1.0),
        ("redirect_bots_total{reason=\"head\"}", 1.0),
        ("redirect_clicks_total{outcome=\"produced\"}", 3.0),
        ("redirect_links{source=\"file\"}", 2.0),
        ("redirect_links_last_reload_ok", 1.0),
        ("redirect_request_duration_seconds_count", 304.0),
        ("redirect_ready", 1.0),
    ] {
        assert_eq!(sample(&text, name), value, "{name}");
    }
    assert!(request(address, "GET", "/metrics", SAFARI).0.starts_with("HTTP/1.1 404 "), "visitors see none");
    assert_eq!(request(metrics, "GET", "/healthz", "").1, "ok\n");
    assert!(request(metrics, "GET", "/readyz", "").0.starts_with("HTTP/1.1 200 "));
    assert!(request(metrics, "GET", "/abc123", "").0.starts_with("HTTP/1.1 404 "));
    assert!(talk(metrics, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    // A bad file is counted and changes nothing.
    std::fs::write(running.folder.path().join("links.yaml"), format!("{LINKS}- {{domain: x}}\n")).expect("written");
    wait_for(|| sample(&metrics_of(&running.server), "redirect_links_last_reload_ok") == 0.0);
    let text = metrics_of(&running.server);
    assert_eq!(sample(&text, "redirect_links_reloads_total{result=\"refused\"}"), 1.0);
    assert_eq!(sample(&text, "redirect_links{source=\"file\"}"), 2.0);
}
