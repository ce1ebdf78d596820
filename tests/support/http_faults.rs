//! An HTTP proxy in front of a server, which does to single requests what networks, proxies and administrators do.
//!
//! # Meaning
//! One [`Fault`] at a time, for the requests whose head holds a word. A request is passed on over a connection of its own, so what is lost or
//! cut is that request and no other.
//!
//! # Not
//! Requests need a `Content-Length`; bodies are held in memory.

use serde::Deserialize;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The server sees these parameters, too.
    Parameters { parameters: String },
    /// The server sees one text where another one stands in the head.
    Instead { of: String, by: String },
    /// The server does what is asked, and nobody hears of it.
    LoseAnswer,
    /// Half of the body reaches the server, then both connections are reset.
    CutRequest,
    /// The server never sees it, and the client hears nothing until the fault is lifted.
    Silence,
    /// The server never sees it; the client gets a page of somebody else's.
    Page,
}

/// The proxy; it listens as long as the test's process lives.
#[derive(Clone)]
pub struct HttpFaults {
    fault: Arc<Mutex<Option<(String, Fault)>>>,
    hits: Arc<AtomicUsize>,
}

impl HttpFaults {
    /// Passes on what comes to `address` to `server`, which need not be there yet.
    ///
    /// # Panics
    /// When somebody listens on `address` already.
    pub fn start(address: &str, server: &str) -> HttpFaults {
        let listener = TcpListener::bind(address).expect("a free address");
        let proxy = HttpFaults { fault: Arc::default(), hits: Arc::default() };
        let (of_thread, server) = (proxy.clone(), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (proxy, server) = (of_thread.clone(), server.clone());
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(proxy.one(client, &server)));
            }
        });
        proxy
    }

    /// From now on this happens to requests whose head holds `word`.
    pub fn set(&self, word: &str, fault: Fault) {
        self.hits.store(0, Ordering::SeqCst);
        *self.fault.lock().expect("not poisoned") = Some((word.to_owned(), fault));
    }

    /// All is well again.
    pub fn lift(&self) {
        *self.fault.lock().expect("not poisoned") = None;
    }

    /// Requests that the present fault has hit.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn fault(&self, head: &str) -> Option<Fault> {
        let set = self.fault.lock().expect("not poisoned").clone();
        set.filter(|(word, _)| head.contains(word)).map(|(_, fault)| fault)
    }

    fn one(&self, mut client: TcpStream, server: &str) -> std::io::Result<()> {
        let (mut head, body) = request(&mut client)?;
        let fault = self.fault(&head);
        if fault.is_some() {
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        match &fault {
            Some(Fault::Silence) => {
                while self.fault(&head) == Some(Fault::Silence) {
                    thread::sleep(Duration::from_millis(10));
                }
                return client.shutdown(Shutdown::Both);
            }
            Some(Fault::Page) => {
                let page = "<html>(Bad Gateway)</html>";
                return write!(client, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}", page.len());
            }
            Some(Fault::Parameters { parameters: more }) => head = head.replacen("?", &format!("?{more}&"), 1),
            Some(Fault::Instead { of: this, by: that }) => head = head.replacen(this, that, 1),
            _ => {}
        }
        // So that the end of the answer is the end of the connection.
        head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let mut upstream = TcpStream::connect(server)?;
        upstream.write_all(head.as_bytes())?;
        if fault == Some(Fault::CutRequest) {
            upstream.write_all(&body[..body.len() / 2])?;
            reset(&upstream)?;
            return reset(&client);
        }
        upstream.write_all(&body)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        if fault == Some(Fault::LoseAnswer) {
            return reset(&client);
        }
        client.write_all(&answer)?;
        client.shutdown(Shutdown::Both)
    }
}

/// No time to linger: the other side gets a reset, not an end.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    stream.shutdown(Shutdown::Both)
}

/// The head, with its blank line, and the body.
fn request(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4_096]);
    let ends = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => read.extend_from_slice(&buffer[..more]),
        }
    };
    let mut body = read.split_off(ends);
    let head = String::from_utf8_lossy(&read).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    let there = body.len();
    body.resize(length.unwrap_or(0).max(there), 0);
    client.read_exact(&mut body[there..])?;
    Ok((head, body))
}
