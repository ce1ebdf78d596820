//! How the processes of a job find each other and agree.
//!
//! # Meaning
//! Each process dials those with a lower index and listens for those with a higher one, as timely's do, until it has a
//! connection to each. Over it both say who they are and what they would compute. Process 0 compares, and refuses what
//! does not fit it. Then it says, once it knows, where the job takes the log up, and the others wait for that.
//!
//! # Ties and edges
//! - Whoever is not there yet is dialled again, for ever; the wait ends when the process is asked to stop.
//! - A connection that ends before all are there is waited for anew: its process may have been started again.
//! - A second process with an index that is taken is not let in while the first one is there.
//! - A stranger that connects and says something else, or nothing, is sent away.
//!
//! # Why not timely's own way in
//! It can't be interrupted while it waits, panics on a stranger, and does not notice another number of processes.

use super::Lost;
use super::hosts::Hosts;
use super::link::watch_over;
use super::terms::Terms;
use crate::stop::Stop;
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// Before each message: other programs do not begin so, nor will clickline when this language changes.
const MAGIC: [u8; 8] = *b"clickln1";
/// Largest message; the longest one has an offset for each partition and a line for each rule.
const LARGEST: u32 = 16 << 20;
/// Between two looks at whether somebody has come, or the process should stop.
const LOOK: Duration = Duration::from_millis(50);
/// Between two calls to a process that is not there.
const REDIAL: Duration = Duration::from_millis(250);
/// How long a call may take.
const DIAL: Duration = Duration::from_secs(1);
/// How long the other end may take to say who it is, once it is connected.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two log lines about who is waited for.
const SAY: Duration = Duration::from_secs(10);

/// What the processes say to each other before the dataflow.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Who I am, and what I would compute.
    Hello { process: usize, terms: Terms },
    /// Process 0 can't work with one of us.
    Refused { why: String },
    /// Where the job takes the log up; from process 0.
    Start { facts: serde_json::Value },
}

/// Processes that would not compute the same; starting them again won't help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(String);

/// A connection to each of the other processes.
#[derive(Debug)]
pub struct Met {
    /// The processes, and which this one is.
    pub hosts: Hosts,
    /// By index; none to itself.
    pub(super) peers: Vec<Option<TcpStream>>,
    /// What process 0 told before all the others were there.
    told: Option<Word>,
}

/// Connects to all other processes; waits until they are there.
///
/// # Errors
/// [`Misfit`] when one of them would compute something else, or the own address is another machine's. An address that can't
/// be listened on. Asked to stop.
pub fn meet(hosts: &Hosts, terms: &Terms, stop: &Stop) -> anyhow::Result<Met> {
    let Hosts { addresses, process } = hosts;
    let (processes, me) = (addresses.len(), *process);
    let listener = if me + 1 < processes { Some(listen(&addresses[me])?) } else { None };
    let mut met = Met { hosts: hosts.clone(), peers: addresses.iter().map(|_| None).collect(), told: None };
    let mut reasons: Vec<String> = vec![String::new(); processes];
    let (mut redial, mut say) = (Instant::now(), Instant::now());
    loop {
        anyhow::ensure!(!stop.asked(), "stopped before all processes were there");
        if redial <= Instant::now() {
            for (other, reason) in reasons.iter_mut().enumerate().take(me) {
                if met.peers[other].is_none() {
                    *reason = met.dial(other, terms, stop)?;
                }
            }
            redial = Instant::now() + REDIAL;
        }
        while let Some(listener) = &listener
            && let Some(stream) = accept(listener)?
        {
            met.receive(stream, terms, stop)?;
        }
        met.listen_to_process_0(stop)?;
        met.forget_the_gone();
        let there = |other: &usize| *other == me || met.peers[*other].is_some();
        let missing: Vec<String> = (0..processes).filter(|n| !there(n)).map(|n| hosts.name(n) + &reasons[n]).collect();
        if missing.is_empty() {
            return Ok(met);
        }
        if say <= Instant::now() {
            tracing::info!(event = "cluster_waiting", process = me, processes, "waiting for {}", missing.join(", "));
            say = Instant::now() + SAY;
        }
        std::thread::sleep(LOOK);
    }
}

impl Hosts {
    /// A process, for people.
    pub fn name(&self, process: usize) -> String {
        format!("process {process} at {}", self.addresses.get(process).map_or("?", String::as_str))
    }
}

impl Met {
    /// Calls a process with a lower index; why it is not there, if it is not.
    fn dial(&mut self, other: usize, terms: &Terms, stop: &Stop) -> anyhow::Result<String> {
        let mut stream = match connect(&self.hosts.addresses[other]) {
            Ok(stream) => stream,
            Err(error) => return Ok(format!(" ({error})")),
        };
        let hello = Word::Hello { process: self.hosts.process, terms: terms.clone() };
        match write(&mut stream, &hello).and_then(|()| read(&mut stream, Some(Instant::now() + ANSWER), stop)) {
            Ok(Word::Hello { process, terms: of_other }) if process == other => {
                // The others are compared by process 0, whose terms are everybody's.
                if other == 0 {
                    self.compare(other, terms, &of_other)?;
                }
                self.peers[other] = Some(stream);
                Ok(String::new())
            }
            Ok(Word::Hello { process, .. }) => Ok(format!(" (process {process} answers there; is the list of addresses the same?)")),
            Ok(Word::Refused { why }) => Err(Misfit(why).into()),
            Ok(Word::Start { .. }) => Ok(" (what answers there has begun already)".to_owned()),
            Err(error) => Ok(format!(" ({error})")),
        }
    }

    /// Hears who has called.
    fn receive(&mut self, mut stream: TcpStream, terms: &Terms, stop: &Stop) -> anyhow::Result<()> {
        let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |from| from.to_string());
        let (process, of_other) = match read(&mut stream, Some(Instant::now() + ANSWER), stop) {
            Ok(Word::Hello { process, terms }) => (process, terms),
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::warn!(event = "cluster_stranger_refused", from, %error, "somebody connected who is no process of this job");
                return Ok(());
            }
        };
        let hello = Word::Hello { process: self.hosts.process, terms: terms.clone() };
        if self.hosts.leads() && !terms.differences(&of_other).is_empty() {
            // The other one finds the differences, too, and says so in its own log.
            let _ = write(&mut stream, &hello);
            self.compare(process, terms, &of_other)?;
        }
        match self.peers.get(process) {
            Some(None) if process > self.hosts.process => {}
            Some(Some(there)) if alive(there) => {
                tracing::warn!(
                    event = "cluster_stranger_refused",
                    from,
                    "a second process {process} does not get in: the first one is still there"
                );
                return Ok(());
            }
            Some(Some(_)) => {}
            _ => {
                tracing::warn!(
                    event = "cluster_stranger_refused",
                    from,
                    "somebody connected as process {process}; such a one dials others, not this one"
                );
                return Ok(());
            }
        }
        match write(&mut stream, &hello) {
            Ok(()) => self.peers[process] = Some(stream),
            Err(error) => tracing::debug!(event = "cluster_peer_left", %error, "{} has gone again", self.hosts.name(process)),
        }
        Ok(())
    }

    /// # Errors
    /// [`Misfit`] when `other` would compute something else; process 0 tells everybody.
    fn compare(&mut self, other: usize, mine: &Terms, of_other: &Terms) -> anyhow::Result<()> {
        let differences = mine.differences(of_other).join(", ");
        if differences.is_empty() {
            return Ok(());
        }
        let at = |process: usize| match self.hosts.addresses.get(process) {
            Some(address) => format!("process {process} at {address}"),
            None => format!("process {process}"),
        };
        let (first, second) = if self.hosts.leads() { (0, other) } else { (other, self.hosts.process) };
        let why = format!(
            "{} does not have the configuration of {}: they differ in {differences}; give all processes the same executable, configuration and numbers, and start all of them again",
            at(second),
            at(first)
        );
        if self.hosts.leads() {
            for stream in self.peers.iter_mut().flatten() {
                // Who is gone already needs no reason.
                let _ = write(stream, &Word::Refused { why: why.clone() });
            }
        }
        Err(Misfit(why).into())
    }

    /// Takes what process 0 says meanwhile: that it refuses somebody, or, to whom it has met, where the job begins.
    fn listen_to_process_0(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let Some(Some(stream)) = self.peers.first_mut().filter(|_| self.told.is_none()) else { return Ok(()) };
        if waiting(stream).is_ok_and(|bytes| bytes > 0) {
            match read(stream, Some(Instant::now() + ANSWER), stop) {
                Ok(Word::Refused { why }) => return Err(Misfit(why).into()),
                Ok(word) => self.told = Some(word),
                // It has gone, or will be found to have.
                Err(error) => tracing::debug!(event = "cluster_peer_left", %error, "process 0 breaks off"),
            }
        }
        Ok(())
    }

    /// Drops connections whose other end has ended: its process will come again.
    fn forget_the_gone(&mut self) {
        for (process, peer) in self.peers.iter_mut().enumerate() {
            if peer.as_ref().is_some_and(|stream| !alive(stream)) {
                *peer = None;
                self.told = self.told.take().filter(|_| process > 0);
                tracing::info!(event = "cluster_peer_left", "process {process} has gone again");
            }
        }
    }

    /// Tells the others where the job takes the log up.
    ///
    /// # Errors
    /// [`Lost`] when one of them has ended.
    pub fn tell(&mut self, facts: &impl Serialize) -> anyhow::Result<()> {
        let facts = serde_json::to_value(facts).context("numbers and strings are always JSON")?;
        let word = Word::Start { facts };
        for (process, stream) in self.peers.iter_mut().enumerate().filter_map(|(process, peer)| Some((process, peer.as_mut()?))) {
            write(stream, &word).map_err(|error| Lost::new(&self.hosts, process, &error))?;
        }
        Ok(())
    }

    /// Waits for what process 0 tells.
    ///
    /// # Errors
    /// [`Lost`] when it has ended, [`Misfit`] when it refuses one of the processes. Asked to stop.
    pub fn hear<T: DeserializeOwned>(&mut self, stop: &Stop) -> anyhow::Result<T> {
        let Some(Some(stream)) = self.peers.first_mut() else { anyhow::bail!("process 0 hears from nobody") };
        match self.told.take().map_or_else(|| read(stream, None, stop), Ok) {
            Ok(Word::Start { facts }) => Ok(serde_json::from_value(facts).context("what process 0 says is of another build")?),
            Ok(Word::Refused { why }) => Err(Misfit(why).into()),
            Ok(Word::Hello { .. }) => anyhow::bail!("process 0 says hello twice"),
            Err(error) => Err(Lost::new(&self.hosts, 0, &error).into()),
        }
    }
}

/// Listens on this process's own address.
fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        // A name may still lead to where this process was before it was moved.
        ErrorKind::AddrNotAvailable if address.parse::<SocketAddr>().is_ok() => {
            anyhow::Error::new(Misfit(format!("{address} is not an address of this machine; correct --process or the list of addresses")))
        }
        ErrorKind::AddrInUse => {
            anyhow::anyhow!("somebody listens on {address} already; does a process with this index still run?")
        }
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &TcpListener) -> anyhow::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false)?;
            Ok(Some(stream))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => Ok(None),
        Err(error) => Err(error).context("cannot listen for the other processes"),
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "no address");
    // Asked anew each time: a name may come later than the processes, and change.
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, DIAL) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the other end is still there, as far as is known.
fn alive(stream: &TcpStream) -> bool {
    match waiting(stream) {
        Ok(bytes) => bytes > 0,
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// Whether there is something to read, without taking it: nothing at all when the other end has gone.
fn waiting(stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let looked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    looked
}

fn write(stream: &mut TcpStream, word: &Word) -> io::Result<()> {
    watch_over(stream)?;
    let body = serde_json::to_vec(word)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LARGEST).ok_or(ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(12 + body.len());
    message.extend(MAGIC);
    message.extend(length.to_be_bytes());
    message.extend(body);
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(&message)
}

/// Reads one message and not a byte more: what follows is timely's.
fn read(stream: &mut TcpStream, until: Option<Instant>, stop: &Stop) -> io::Result<Word> {
    let invalid = |what: &'static str| io::Error::new(ErrorKind::InvalidData, what);
    watch_over(stream)?;
    stream.set_read_timeout(Some(LOOK))?;
    let mut head = [0; 12];
    fill(stream, &mut head, until, stop)?;
    let Some(length) = head.strip_prefix(&MAGIC).and_then(|length| Some(u32::from_be_bytes(length.try_into().ok()?))) else {
        return Err(invalid("it does not speak this version's language"));
    };
    if length > LARGEST {
        return Err(invalid("it says more than any process has to say"));
    }
    let mut body = vec![0; length as usize];
    fill(stream, &mut body, until, stop)?;
    serde_json::from_slice(&body).map_err(|_| invalid("it speaks another version's language"))
}

fn fill(stream: &mut TcpStream, bytes: &mut [u8], until: Option<Instant>, stop: &Stop) -> io::Result<()> {
    let mut there = 0;
    while there < bytes.len() {
        if stop.asked() {
            return Err(io::Error::other("asked to stop"));
        }
        if until.is_some_and(|until| until < Instant::now()) {
            return Err(ErrorKind::TimedOut.into());
        }
        match stream.read(&mut bytes[there..]) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")),
            Ok(read) => there += read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
