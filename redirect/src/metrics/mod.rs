//! What is counted, for Prometheus.
//!
//! # Meaning
//! Every worker has counters of its own, which nobody else writes: counting takes no lock and no cache line from another worker. A scrape adds
//! them up. Labels are classes, outcomes and reasons that this program names; nothing that a visitor sends becomes one.

mod encode;
mod server;

pub(crate) use server::MetricsServer;

use crate::bots::Reason;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Upper bounds of the buckets for the time to an answer, in seconds: from a look-up to what a visitor would notice.
const BUCKETS: [f64; 14] = [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0];

/// A counter with one writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    /// Not an atomic addition: only one thread writes, so that a plain store cannot lose anything, and it is far cheaper.
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
// Two cache lines: processors fetch them in pairs.
#[repr(align(128))]
pub(crate) struct WorkerMetrics {
    /// Answers by the first digit of their status; 1 and 0 are never used.
    classes: [Counter; 6],
    redirects: Counter,
    /// By the reason.
    bots: [Counter; Reason::LABELS.len()],
    /// Answers by the bucket of their time, the last for what is beyond all.
    buckets: [Counter; BUCKETS.len() + 1],
    nanos: Counter,
    opened: Counter,
    closed: Counter,
    turned_away: Counter,
}

impl WorkerMetrics {
    /// A redirect was answered; `bot` is why the visitor is held to be a machine.
    pub(crate) fn redirected(&self, bot: Option<Reason>) {
        self.answered(302);
        self.redirects.add(1);
        if let Some(reason) = bot {
            self.bots[reason as usize].add(1);
        }
    }

    /// An answer was given.
    pub(crate) fn answered(&self, status: u16) {
        self.classes[usize::from(status / 100).min(5)].add(1);
    }

    /// So many answers were written this long after the event loop had woken up for them.
    pub(crate) fn took(&self, time: Duration, answers: u64) {
        let seconds = time.as_secs_f64();
        self.buckets[BUCKETS.partition_point(|bound| *bound < seconds)].add(answers);
        self.nanos.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(answers));
    }

    /// A connection was accepted.
    pub(crate) fn opened(&self) {
        self.opened.add(1);
    }

    /// Connections were closed.
    pub(crate) fn closed(&self, count: u64) {
        self.closed.add(count);
    }

    /// A connection was closed at once: its client has too many, or may not connect.
    pub(crate) fn turned_away(&self) {
        self.turned_away.add(1);
    }
}

/// What the server counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    workers: Vec<WorkerMetrics>,
    began: Instant,
    /// When the file's links were last taken, in ms after `began`.
    loaded_ms: AtomicU64,
    reloads_ok: AtomicU64,
    reloads_refused: AtomicU64,
    last_reload_ok: AtomicBool,
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Metrics {
        Metrics {
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            began: Instant::now(),
            loaded_ms: AtomicU64::new(0),
            reloads_ok: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            last_reload_ok: AtomicBool::new(true),
        }
    }

    /// The counters of a worker, by its number.
    pub(crate) fn worker(&self, number: usize) -> &WorkerMetrics {
        &self.workers[number]
    }

    /// The links file was read again, and taken or not.
    pub(crate) fn reloaded(&self, taken: bool) {
        self.last_reload_ok.store(taken, Relaxed);
        if taken {
            self.reloads_ok.fetch_add(1, Relaxed);
            self.loaded_ms.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
        } else {
            self.reloads_refused.fetch_add(1, Relaxed);
        }
    }

    /// How old the file's links are.
    fn links_age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.loaded_ms.load(Relaxed)))
    }

    fn sum(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| counter(worker).get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_counted_by_their_reason() {
        let worker = WorkerMetrics::default();
        for bot in [Some(Reason::Head), Some(Reason::Burst), None, Some(Reason::Burst)] {
            worker.redirected(bot);
        }
        assert_eq!(worker.bots.iter().map(Counter::get).collect::<Vec<_>>(), [1, 0, 0, 0, 0, 2]);
        assert_eq!((worker.redirects.get(), worker.classes[3].get()), (4, 4));
    }

    #[test]
    fn times_fall_into_their_buckets() {
        let worker = WorkerMetrics::default();
        worker.took(Duration::from_micros(25), 2);
        worker.took(Duration::from_micros(26), 1);
        worker.took(Duration::from_secs(9), 1);
        let counts: Vec<u64> = worker.buckets.iter().map(Counter::get).collect();
        assert_eq!((counts[0], counts[1], counts[BUCKETS.len()]), (2, 1, 1));
        assert_eq!(worker.nanos.get(), 9_000_076_000);
    }
}
