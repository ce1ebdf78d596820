//! Clients that click all the time.

use super::process::{PATIENCE, Redirect};
use super::{SAFARI, header};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clients that click all the time, at whatever address is current, and remember the ids of their answers.
pub struct Load {
    address: Arc<Mutex<Option<SocketAddr>>>,
    /// With the time at which a client had the answer.
    ids: Arc<Mutex<Vec<(String, Instant)>>>,
    /// Requests of which nobody knows whether they were taken.
    unanswered: Arc<AtomicU64>,
    /// Answers that say to try again.
    pub refused: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(clients: usize) -> Load {
        Load::start_paced(clients, Duration::ZERO)
    }

    /// Clients that wait so long between an answer and the next click.
    pub fn start_paced(clients: usize, pause: Duration) -> Load {
        let mut load = Load {
            address: Arc::default(),
            ids: Arc::default(),
            unanswered: Arc::default(),
            refused: Arc::default(),
            done: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..clients {
            let (address, ids, done) = (load.address.clone(), load.ids.clone(), load.done.clone());
            let (unanswered, refused) = (load.unanswered.clone(), load.refused.clone());
            load.threads.push(std::thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let Some(stream) = address.lock().expect("alive").and_then(|address| TcpStream::connect(address).ok()) else {
                        std::thread::yield_now();
                        continue;
                    };
                    click(stream, pause, &done, &ids, &unanswered, &refused);
                }
            }));
        }
        load
    }

    pub fn answered(&self) -> usize {
        self.ids.lock().expect("alive").len()
    }

    pub fn aim(&self, redirect: &Redirect) {
        *self.address.lock().expect("alive") = Some(redirect.address);
    }

    /// Waits until so many more redirects were answered.
    pub fn wait(&self, more: usize) {
        let (begin, end) = (self.answered(), Instant::now() + PATIENCE);
        while self.answered() < begin + more {
            assert!(Instant::now() < end, "{} of {more} answers", self.answered() - begin);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the clients: ids of the answered redirects, requests without an answer, refusals.
    pub fn end(self) -> (BTreeSet<String>, u64, u64) {
        let (unanswered, refused) = (self.unanswered.clone(), self.refused.clone());
        let ids = self.end_with_times().into_iter().map(|(id, _)| id).collect();
        (ids, unanswered.load(Ordering::SeqCst), refused.load(Ordering::SeqCst))
    }

    /// Ends the clients: ids of the answered redirects, and when the answers came.
    pub fn end_with_times(self) -> Vec<(String, Instant)> {
        self.done.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client ends well"));
        self.ids.lock().expect("alive").drain(..).collect()
    }
}

/// Clicks on one connection until it breaks.
fn click(
    mut stream: TcpStream,
    pause: Duration,
    done: &AtomicBool,
    ids: &Mutex<Vec<(String, Instant)>>,
    unanswered: &AtomicU64,
    refused: &AtomicU64,
) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4_096];
    while !done.load(Ordering::SeqCst) {
        let mut answer = Vec::new();
        let sent = stream.write_all(format!("GET /abc123 HTTP/1.1\r\nHost: x\r\n{SAFARI}\r\n").as_bytes());
        while sent.is_ok() && !answer.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        if !answer.ends_with("\r\n\r\n") {
            unanswered.fetch_add(1, Ordering::SeqCst);
            return;
        } else if answer.starts_with("HTTP/1.1 503 ") {
            refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let id = header(&answer, "X-Click-Id").expect("an id in each redirect");
        ids.lock().expect("alive").push((id.to_owned(), Instant::now()));
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}
