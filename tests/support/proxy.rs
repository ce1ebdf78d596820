//! A TCP proxy in front of a server, which breaks connections when a test wants it.

use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The proxy; it listens as long as the test's process lives.
#[derive(Clone)]
pub struct Proxy {
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// Connections that were broken.
    broken: Arc<AtomicUsize>,
}

impl Proxy {
    /// Passes on what comes to `address` to `server`, which need not be there yet.
    ///
    /// # Panics
    /// When somebody listens on `address` already.
    pub fn start(address: &str, server: &str) -> Proxy {
        let listener = TcpListener::bind(address).expect("a free address");
        let proxy = Proxy { open: Arc::default(), broken: Arc::default() };
        let (of_thread, server) = (proxy.clone(), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away refuses: so do we.
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let ends = [&client, &server].map(|end| end.try_clone().expect("a handle"));
                of_thread.open.lock().expect("not poisoned").extend(ends);
                let back = [&server, &client].map(|end| end.try_clone().expect("a handle"));
                thread::spawn(move || pass(client, server));
                let [from, to] = back;
                thread::spawn(move || pass(from, to));
            }
        });
        proxy
    }

    /// Resets all connections, in the middle of whatever they carry.
    pub fn reset(&self) {
        for end in self.open.lock().expect("not poisoned").drain(..) {
            // No time to linger: the other side gets a reset, not an end. One that has ended already is none of ours.
            let _ = SockRef::from(&end).set_linger(Some(Duration::ZERO));
            if end.shutdown(Shutdown::Both).is_ok() {
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends of connections that [`Proxy::reset`] broke.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Passes bytes on until one of the two ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
