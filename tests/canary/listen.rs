//! What stands between the job and others, and hears what passes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Bytes in both directions, as they passed.
pub type Heard = Arc<Mutex<Vec<u8>>>;

/// Passes on what comes to the address that it gives back, and hears it; lives as long as the process.
pub fn relay(server: &str) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free address");
    let address = listener.local_addr().expect("an address").to_string();
    let (heard, server) = (Heard::default(), server.to_owned());
    let of_thread = Arc::clone(&heard);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&server) else { continue };
            let back = [&server, &client].map(|end| end.try_clone().expect("a handle"));
            for (from, to) in [(client, server), back.into()] {
                let heard = Arc::clone(&of_thread);
                thread::spawn(move || pass(from, to, &heard));
            }
        }
    });
    (address, heard)
}

fn pass(mut from: TcpStream, mut to: TcpStream, heard: &Heard) {
    let mut buffer = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        heard.lock().expect("not poisoned").extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A ClickHouse that knows nobody: it refuses each request's password, and hears it.
pub fn refusing_clickhouse() -> (String, Heard) {
    const BODY: &str = "Code: 516. DB::Exception: clickline: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)\n";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free address");
    let address = listener.local_addr().expect("an address").to_string();
    let heard = Heard::default();
    let of_thread = Arc::clone(&heard);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut buffer = [0; 16_384];
            let read = client.read(&mut buffer).unwrap_or(0);
            of_thread.lock().expect("not poisoned").extend_from_slice(&buffer[..read]);
            // Who hangs up first is told nothing.
            let _ = write!(
                client,
                "HTTP/1.1 403 Forbidden\r\nX-ClickHouse-Exception-Code: 516\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{BODY}",
                BODY.len()
            );
        }
    });
    (address, heard)
}

/// What stands between `before` and any of `ends`, everywhere in what was heard.
pub fn between(heard: &Heard, before: &str, ends: &[char]) -> Vec<String> {
    let heard = heard.lock().expect("not poisoned");
    let text = String::from_utf8_lossy(&heard);
    let mut values: Vec<String> = text.split(before).skip(1).filter_map(|rest| rest.split(ends).next()).map(str::to_owned).collect();
    values.sort();
    values.dedup();
    values
}
