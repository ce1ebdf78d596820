//! A sink that writes every click to the spool before Kafka.
//!
//! # Meaning
//! The carrier writes what it finds in the lanes with one call. With [`Capture::Fast`] the answer has gone by then, and the clicks are the kernel's
//! within some 2 ms, also where all processors are busy: an event loop that finds clicks waiting for longer gives its processor away once; with [`Capture::Durable`] the answer waits for the fsync that covers it and all others of its round. The forwarder
//! (see [`forward`](super::forward)) sends what the spool shows.
//!
//! # When the disk takes no more
//! [`WhenFull::Drop`]: visitors are redirected, the clicks are dropped and counted. [`WhenFull::Refuse`]: visitors get a 503 until there is room; clicks
//! that were answered before wait in memory until the disk takes them.
//!
//! # When an fsync fails
//! Nothing tells then what of the last round is on the disk, and a second fsync may say that all is fine. The round's answers become 503,
//! the sink is broken, and only a restart, which reads what is there, goes on. So it is when one of its two threads has panicked.

use super::Ticket;
use super::carrier::Carrier;
use super::counts::Counts;
use super::end::End;
use super::forward::Forwarder;
use super::lanes::Lanes;
use crate::config::{Capture, SpoolConfig};
use crate::sink::{ClickBatch, ClickSink, SinkCounts};
use crate::spool::{Disk, Folder, Shelf, Store, recover};
use crate::{Clock, Error, KafkaConfig};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Answered clicks that wait in the lanes while the disk takes none, in bytes. What the carrier has gathered no longer counts there, and may be as much
/// again: 128 MiB together.
const LANE_BYTES: u64 = 64 << 20;
/// The smallest spool, in bytes.
const MIN_BYTES: u64 = 1 << 20;

/// Clicks go to the spool, and from there to Kafka.
pub struct SpoolSink {
    lanes: Arc<Lanes>,
    counts: Arc<Counts>,
    shelf: Arc<Shelf>,
    capture: Capture,
    clock: Clock,
    /// Redirects are refused until there is room.
    full: Arc<AtomicBool>,
    carrier: Running,
    forwarder: Running,
}

/// A thread, until it is told to end.
struct Running {
    /// What it does, for the log.
    what: &'static str,
    thread: Mutex<Option<(Arc<End>, JoinHandle<()>)>>,
}

impl Running {
    fn new(what: &'static str, end: Arc<End>, thread: JoinHandle<()>) -> Running {
        Running { what, thread: Mutex::new(Some((end, thread))) }
    }

    /// Why it no longer works, though nobody told it to end.
    fn ended(&self) -> Option<String> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = thread.as_ref().is_some_and(|(_, thread)| thread.is_finished());
        ended.then(|| format!("the thread that {} ended; the log before this line says why", self.what))
    }

    /// Tells it to end, and waits for that.
    fn end(&self, at: Instant) {
        let running = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((end, thread)) = running else { return };
        end.at_the_latest(at);
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!(event = "thread_panicked", "the thread that {} had panicked", self.what);
        }
    }
}

impl SpoolSink {
    /// Opens the spool, cuts what a crash left torn, and begins to send what waits; so many `workers` offer clicks. The brokers need not be there yet.
    ///
    /// # Errors
    /// When the directory cannot be used, or librdkafka refuses an option.
    pub fn start(spool: &SpoolConfig, kafka: &KafkaConfig, workers: usize, clock: &Clock) -> Result<SpoolSink, Error> {
        if spool.bytes < MIN_BYTES {
            return Err(Error::Config(format!("a spool of {} bytes is too small; allow at least {MIN_BYTES}", spool.bytes)));
        }
        let disk: Arc<dyn Disk> = Arc::new(Folder::open(&spool.dir)?);
        let found = recover(&*disk)?;
        let counts = Arc::new(Counts::default());
        counts.corrupt.store(found.corrupt, Relaxed);
        counts.torn.store(found.torn, Relaxed);
        if found.corrupt > 0 {
            tracing::error!(
                event = "spool_damaged",
                records = found.corrupt,
                "the spool is damaged: these clicks are lost; look after its disk"
            );
        }
        tracing::info!(event = "spool_opened", waiting = found.waiting, torn = found.torn, "the spool {} is open", spool.dir.display());
        let shelf = Shelf::new(&found);
        let store = Store::new(disk.clone(), shelf.clone(), found.identity.clone(), spool.bytes);
        let forwarder = Forwarder::new(kafka, &found, disk, shelf.clone(), counts.clone())?;
        let lanes = Arc::new(Lanes::new(workers, LANE_BYTES));
        let full = Arc::new(AtomicBool::new(false));
        let carrier = Carrier::new(spool, lanes.clone(), counts.clone(), store, clock.clone(), full.clone());
        let failed = |part| move |source| Error::Start { part, source };
        let ends = (carrier.end(), forwarder.end());
        let forwarding = thread::Builder::new()
            .name("redirect-forward".to_owned())
            .spawn(move || forwarder.run())
            .map_err(failed("the thread that sends the spool to Kafka"))?;
        let carrier = thread::Builder::new()
            .name("redirect-carrier".to_owned())
            .spawn(move || carrier.run())
            .map_err(failed("the thread that writes the spool"))?;
        Ok(SpoolSink {
            lanes,
            counts,
            shelf,
            capture: spool.capture,
            clock: clock.clone(),
            full,
            carrier: Running::new("writes the spool", ends.0, carrier),
            forwarder: Running::new("sends the spool to Kafka", ends.1, forwarding),
        })
    }

    fn end(&self, timeout: Duration) {
        let ends_at = Instant::now() + timeout;
        self.carrier.end(ends_at);
        // Everything is in the spool now.
        self.forwarder.end(ends_at);
    }
}

impl ClickSink for SpoolSink {
    fn offer(&self, clicks: &ClickBatch) {
        let now = Instant::now();
        if !self.lanes.leave(clicks, None, now) {
            self.counts.refused.fetch_add(clicks.len() as u64, Relaxed);
        }
        if self.lanes.late(now) {
            // On a processor that has nothing to spare the scheduler lets an event loop go on for some milliseconds more while the carrier is due.
            thread::yield_now();
        }
    }

    fn admits(&self) -> bool {
        !self.full.load(Relaxed)
    }

    fn holds(&self) -> bool {
        self.capture == Capture::Durable
    }

    fn offer_held(&self, clicks: &ClickBatch, ticket: &Arc<Ticket>) {
        if !self.lanes.leave(clicks, Some(ticket), Instant::now()) {
            // Nobody is answered, so nothing is lost.
            ticket.settle(false);
        }
    }

    fn counts(&self) -> SinkCounts {
        let (bytes, since) = self.shelf.waiting().unwrap_or_default();
        let age = if bytes == 0 { 0 } else { self.clock.now().saturating_sub(since) };
        SinkCounts { spool_bytes: bytes, spool_oldest_ms: age, ..self.counts.read() }
    }

    fn trouble(&self) -> Option<String> {
        self.counts.trouble()
    }

    fn broken(&self) -> Option<String> {
        self.counts.broken().or_else(|| self.carrier.ended()).or_else(|| self.forwarder.ended())
    }

    fn close(&self, timeout: Duration) -> SinkCounts {
        self.end(timeout);
        let counts = self.counts();
        if counts.spool_bytes > 0 {
            tracing::info!(event = "spool_left", bytes = counts.spool_bytes, "clicks stay in the spool; the next start sends them");
        }
        counts
    }
}

impl Drop for SpoolSink {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
