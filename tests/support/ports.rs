//! Loopback addresses that nobody listens on.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

/// As many as are asked for, none of them twice in a test's process, nor in one that runs beside it: the port of the same number for datagrams, which
/// nobody else wants, is held until this process ends. So it stays ours also while nobody listens there.
///
/// From below the range that the kernel takes the ports of outgoing connections from (32768 and up): a client of another
/// test could sit on such a port by the time a server listens, or while it is down between a kill and a restart.
pub fn free_addresses<const N: usize>() -> [String; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    // Processes that run at the same time begin at different places.
    let begin = u16::try_from(std::process::id() % 1_200).expect("below 1200") * 10;
    [(); N].map(|()| {
        for _ in 0..12_000 {
            let port = 20_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
            let address = format!("127.0.0.1:{port}");
            let Ok(held) = UdpSocket::bind(&address) else { continue };
            if TcpListener::bind(&address).is_ok() {
                HELD.lock().unwrap_or_else(PoisonError::into_inner).push(held);
                return address;
            }
        }
        panic!("no free port between 20000 and 32000")
    })
}
