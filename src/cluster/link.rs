//! The connections between processes while timely uses them, and what happens when one of them ends.
//!
//! # Meaning
//! A [`Link`] is a connection that says so when it ends, in whichever way: the other process died, was stopped, or can't be
//! reached any more. Then this process stops, too, and unless it had been asked to, fails with [`Lost`]. Timely's own
//! answer is a panic on a thread that nobody waits for; those panics are not shown, since the log has the reason.
//!
//! # Ties and edges
//! - A machine that vanishes without a word is noticed within [`SILENCE`] and a little, by the kernel's own probes. A
//!   process that is merely frozen (SIGSTOP) has a kernel that answers, and the others wait for it, unless that kernel has
//!   had no room for their rows for as long.
//! - At the end each process waits for the others' farewell, for [`FAREWELL`] at most; nothing depends on it.

use super::hosts::Hosts;
use super::meet::Met;
use crate::stop::Stop;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};

/// After this long without an answer from its kernel the other machine is held to be gone.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two questions to a kernel that has not answered, once half of [`SILENCE`] has passed.
const PROBE: Duration = Duration::from_secs(1);
/// How long the end waits for the others to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Another process has ended or can't be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{name} has ended or can't be reached ({how}); its own log says why. The processes of a job live and end together: start all of them again"
)]
pub struct Lost {
    name: String,
    how: String,
}

impl Lost {
    pub(super) fn new(hosts: &Hosts, process: usize, error: &io::Error) -> Self {
        Lost { name: hosts.name(process), how: error.to_string() }
    }
}

/// Sets a connection up: small messages go at once, and a machine that vanishes is noticed.
pub(super) fn watch_over(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = SILENCE.as_secs() / 2 / PROBE.as_secs().max(1);
    let keepalive = TcpKeepalive::new().with_time(SILENCE / 2).with_interval(PROBE);
    socket.set_tcp_keepalive(&keepalive.with_retries(u32::try_from(probes).unwrap_or(5)))?;
    // The probes are for a connection at rest; this is for one with rows on their way.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE))?;
    Ok(())
}

/// Who is at the other end, and who is told when that is gone.
#[derive(Debug)]
struct Peer {
    hosts: Hosts,
    process: usize,
    stop: Stop,
    lost: Arc<AtomicBool>,
}

impl Peer {
    fn gone(&self, error: &io::Error) {
        // Before timely hears of it: its panics are then known for what they are.
        self.lost.store(true, Ordering::SeqCst);
        LOST.store(true, Ordering::SeqCst);
        if !self.stop.asked() {
            self.stop.fail(Lost::new(&self.hosts, self.process, error).into());
        }
    }
}

/// A connection to another process.
struct Link {
    stream: TcpStream,
    peer: Arc<Peer>,
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.peer.gone(&error);
                    return Err(error);
                }
                Ok(0) if !buffer.is_empty() => {
                    self.peer.gone(&io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection"));
                    return Ok(0);
                }
                Ok(read) => return Ok(read),
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.peer.gone(error);
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Link { stream: self.stream.try_clone()?, peer: Arc::clone(&self.peer) })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.stream.shutdown(how) {
            // The other end was quicker.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }
}

/// The connections of a process, for a dataflow.
pub struct Links {
    met: Met,
    workers: usize,
    stop: Stop,
}

/// What is left of them while the dataflow runs.
pub(crate) struct Comms {
    guard: Option<CommsGuard>,
    streams: Vec<TcpStream>,
    lost: Arc<AtomicBool>,
}

impl Links {
    /// For `workers` threads in this process, as many as in each of the others; `stop` is told of a connection that ends.
    pub fn new(met: Met, workers: usize, stop: Stop) -> Self {
        Links { met, workers, stop }
    }

    /// Hands the connections over to timely.
    pub(crate) fn build(self) -> io::Result<(Vec<AllocatorBuilder>, Comms)> {
        quiet_consequences();
        let Links { met: Met { hosts, peers, .. }, workers, stop } = self;
        let (lost, mut streams) = (Arc::new(AtomicBool::new(false)), Vec::new());
        let mut sockets = Vec::with_capacity(peers.len());
        for (process, peer) in peers.into_iter().enumerate() {
            let Some(stream) = peer else {
                sockets.push(None);
                continue;
            };
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(None)?;
            streams.push(stream.try_clone()?);
            let peer = Peer { hosts: hosts.clone(), process, stop: stop.clone(), lost: Arc::clone(&lost) };
            sockets.push(Some(Link { stream, peer: Arc::new(peer) }));
        }
        let hooks = Hooks::default();
        let here = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), hooks.spill.clone());
        let (builders, guard) = initialize_networking_from_sockets(here, sockets, hosts.process, workers, hooks)?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok((builders, Comms { guard: Some(guard), streams, lost }))
    }
}

impl Comms {
    /// For threads alone: nobody can be lost.
    pub(crate) fn none() -> Self {
        Comms { guard: None, streams: Vec::new(), lost: Arc::default() }
    }

    /// Set when another process is gone: what breaks from then on, breaks because of that.
    pub(crate) fn lost(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }

    /// Says goodbye once the workers have ended, and waits a little for the others' goodbye.
    pub(crate) fn leave(self) {
        let Some(guard) = self.guard else { return };
        let (done, wait) = sync_channel::<()>(0);
        // A thread of its own: dropping the guard joins threads that wait for the other processes, and panics with them.
        let leaving = thread::Builder::new().name("timely:leave".to_owned()).spawn(move || {
            let _done = done;
            drop(guard);
        });
        if leaving.is_ok() && wait.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!(event = "cluster_peer_slow", "another process takes its time to end");
        }
        for stream in self.streams {
            // Gone already, or goes now.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Whether any connection of this program has been lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// Keeps panics of timely's threads out of the log that are consequences of a lost connection: that has been said.
fn quiet_consequences() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_timely = thread::current().name().is_some_and(|name| name.starts_with("timely:"));
            if of_timely && LOST.load(Ordering::SeqCst) {
                tracing::debug!(event = "cluster_peer_panicked", "{panic}");
            } else {
                before(panic);
            }
        }));
    });
}

/// Threads of one process.
pub(crate) fn threads(workers: usize) -> Result<(Vec<AllocatorBuilder>, Comms), String> {
    let (builders, _nothing) = Config::Process(workers.max(1)).try_build()?;
    Ok((builders, Comms::none()))
}

#[cfg(test)]
mod tests;
