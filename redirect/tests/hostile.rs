//! Clients that are slow, broken or mean: the server answers the others meanwhile, and nobody gets another's answer.

mod common;

use clickline_redirect::Server;
use common::*;
use proptest::prelude::*;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// One server for the random tests of this file.
static SERVER: LazyLock<Running> = LazyLock::new(start);

fn still_answers(server: &Server) {
    let begin = Instant::now();
    assert!(request(server.address(), "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "));
    assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
}

/// A connection whose kernel buffers hold little, with more pipelined requests under way than their answers fit into.
fn greedy(address: SocketAddr, count: usize) -> (std::net::TcpStream, std::thread::JoinHandle<bool>) {
    let stream = connect(address);
    SockRef::from(&stream).set_recv_buffer_size(64 * 1024).expect("a small buffer");
    let mut writer = stream.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        let mut text = String::new();
        for number in 0..count {
            text += &format!("GET /abc123?n={number} HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        text += "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        writer.write_all(text.as_bytes()).is_ok()
    });
    (stream, sending)
}

#[test]
fn who_reads_late_gets_every_answer_in_order() {
    let Running { server, memory, folder: _folder } = start();
    let count = 10_000;
    let (mut stream, sending) = greedy(server.address(), count);
    std::thread::sleep(Duration::from_secs(1));
    still_answers(&server);
    let served = server.stats().served;
    assert!(served < count as u64, "the server went on reading although nobody took its {served} answers");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("all answers, then the end");
    assert!(sending.join().expect("the sender ends"));
    let numbers =
        answers.lines().filter_map(|line| line.strip_prefix("Location: https://acme.example/pricing.pdf?n=")?.parse::<usize>().ok());
    assert!(numbers.eq(0..count));
    memory.wait(count + 1);
}

#[test]
fn who_never_reads_is_cut_off() {
    let Running { server, .. } = start_with(|config| config.limits.write_timeout = Duration::from_secs(2));
    let begin = Instant::now();
    let (stream, sending) = greedy(server.address(), 500_000);
    // The sender blocks until the server gives up.
    assert!(!sending.join().expect("the sender ends"), "everything was taken from a client that reads nothing");
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(30), "cut off after {took:?}");
    still_answers(&server);
    drop(stream);
}

/// A request with the beginning of its answer.
fn requests() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let one = prop_oneof![
        Just(("GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 302 ")),
        Just(("HEAD /abc123?eid=1 HTTP/1.1\r\nHost: x\r\nUser-Agent: a\r\n\r\n", "HTTP/1.1 302 ")),
        Just(("HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ")),
        Just(("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 ")),
        Just(("DELETE /abc123 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 ")),
    ];
    prop::collection::vec(one, 1..12)
}

/// Sends bytes in the given pieces; returns everything that comes back until the server closes.
fn in_pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<u8> {
    let mut stream = connect(SERVER.server.address());
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    for piece in at.windows(2) {
        if stream.write_all(&bytes[piece[0]..piece[1]]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    // Nothing more will come: a request that is not finished by now never will be.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_make_no_difference(requests in requests(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let sent: String = requests.iter().map(|(request, _)| *request).collect();
        let answers = String::from_utf8(in_pieces(sent.as_bytes(), &cuts)).expect("answers are text");
        let got: Vec<&str> = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).map(|line| &line[..13]).collect();
        let expected: Vec<&str> = requests.iter().map(|(_, answer)| *answer).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn garbage_breaks_nothing(
        garbage in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..400),
            "(GET|HEAD|PUT)? ?/?[ -~]{0,40}( HTTP/1[.]1)?(\r?\n|\r)([A-Za-z]{0,5}:? ?[ -~]{0,20}\r?\n){0,3}(\r\n){0,2}".prop_map(String::into_bytes),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let answer = in_pieces(&garbage, &cuts);
        prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{:?}", String::from_utf8_lossy(&answer));
        still_answers(&SERVER.server);
    }
}
