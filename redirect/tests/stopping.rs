//! What must not delay the end of a server: heads without an end, files without an end, floods of connections.

mod common;

use clickline_redirect::{ClickBatch, ClickSink, Server, SinkCounts};
use common::process::PATIENCE;
use common::*;
use socket2::SockRef;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The whole program: who is in the middle of a head when it is told to stop has until `--drain-deadline`, and no longer.
#[test]
fn an_unfinished_head_is_cut_at_the_deadline_and_the_program_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_clickline-redirect"))
        .args(["--listen", "127.0.0.1:0", "--workers", "2", "--default-domain", "s.elido.me", "--log", "warn"])
        // Any of these alone would keep the connection for an hour.
        .args(["--head-timeout", "1h", "--idle-timeout", "1h", "--drain-deadline", "1s", "--links"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("a line"));
    let address = lines.next().expect("a first line");
    let address = address.strip_prefix("listening on http://").expect("the address").parse().expect("an address");
    let mut held = connect(address);
    held.write_all(b"GET /abc123 HTTP/1.1\r\nHo").expect("sent");
    // Once another is answered behind it, it has most likely been read; either way it is in the kernel's queue.
    assert!(request(address, "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "));
    let begin = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs").success());
    let mut answer = Vec::new();
    let _ = held.read_to_end(&mut answer);
    assert!(answer.is_empty(), "half a request is none");
    assert!(begin.elapsed() >= Duration::from_millis(900), "it had its second: {:?}", begin.elapsed());
    let status = loop {
        if let Some(status) = child.try_wait().expect("ours") {
            break status;
        }
        assert!(begin.elapsed() < PATIENCE, "the program does not end");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
    assert_eq!(lines.last().as_deref(), Some("1 clicks served, 0 delivered, 0 lost"));
}

/// Says when it was closed.
#[derive(Default)]
struct Closed(AtomicBool);

impl ClickSink for Closed {
    fn offer(&self, _: &ClickBatch) {}

    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }

    fn close(&self, _: Duration) -> SinkCounts {
        self.0.store(true, Ordering::SeqCst);
        self.counts()
    }
}

/// While the thread that reads files hangs in one, here a pipe without an end, the last clicks are carried on all the same.
#[test]
fn clicks_are_safe_before_a_file_is_read_to_its_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (scanners, pipe) = (folder.path().join("scanners"), folder.path().join("pipe"));
    std::fs::write(&scanners, "198.51.100.0/24\n").expect("written");
    let mut config = config(folder.path());
    config.visitors.scanner_networks = Some(scanners.clone());
    let sink = Arc::new(Closed::default());
    let server = Server::start_with(config, sink.clone()).expect("the server starts");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    std::fs::rename(&pipe, &scanners).expect("in its place");
    server.reload();
    // Returns when the server has opened the other end; then it reads until this end is closed.
    let held = File::options().write(true).open(&scanners).expect("the other end");
    let stopping = thread::spawn(move || server.stop());
    wait_for(|| sink.0.load(Ordering::SeqCst));
    drop(held);
    stopping.join().expect("stops");
}

/// Connections that come without an end keep nobody waiting who is there already, and a server that stops takes no more of them than its queue holds.
#[test]
fn a_flood_of_connections_delays_neither_visitors_nor_the_end() {
    let Running { server, .. } = start_with(|config| config.workers = 1);
    let address = server.address();
    let mut visitor = connect(address);
    let (done, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let Ok(stream) = TcpStream::connect(address) else { continue };
                    // It ends with a reset, so that no port waits for its end.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        wait_for(|| made.load(Ordering::SeqCst) > 1_000);
        for _ in 0..50 {
            visitor.write_all(b"GET /abc123 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
            let mut answer = Vec::new();
            let mut buffer = [0; 1_024];
            while !answer.ends_with(b"\r\n\r\n") {
                let count = visitor.read(&mut buffer).expect("an answer within the time-out");
                assert!(count > 0, "the connection ended");
                answer.extend_from_slice(&buffer[..count]);
            }
        }
        let begin = Instant::now();
        server.stop();
        assert!(begin.elapsed() < PATIENCE, "stopped after {:?}", begin.elapsed());
        done.store(true, Ordering::SeqCst);
    });
}
