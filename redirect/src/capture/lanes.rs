//! Where event loops leave their clicks for the carrier: buffers of which each is held for the time of a copy, and never waited for.
//!
//! There are twice as many lanes as event loops, and [`LANES`] at least, so that an event loop always finds a free one; it begins with its own, and
//! comes to another only while the carrier empties that. Clicks of one turn stay together; between turns there is no order.

use super::Ticket;
use crate::ClickBatch;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Lanes, at least.
const LANES: usize = 64;
/// Rounds without a click after which the carrier sleeps until it is woken.
const IDLE_ROUNDS: u32 = 50;
/// From when on a click is late, in µs: a round and what a sleep oversleeps.
const LATE: u64 = 2_500;
/// The carrier looks by itself so often, whatever happens.
const LONG: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Lane {
    clicks: ClickBatch,
    tickets: Vec<Arc<Ticket>>,
}

/// The lanes of one sink.
pub(crate) struct Lanes {
    lanes: Vec<Mutex<Lane>>,
    /// Bytes of clicks in the lanes, and of those that are about to be there.
    bytes: AtomicU64,
    limit: u64,
    /// For times: µs since then, at least 1.
    began: Instant,
    /// When the oldest click came that is in a lane, and that the carrier has and hasn't written; 0 when there is none. Now and then the first is told
    /// for a moment too long, never too short.
    left_at: AtomicU64,
    carried_at: AtomicU64,
    /// The carrier sleeps until somebody wakes it.
    asleep: AtomicBool,
    carrier: OnceLock<Thread>,
}

thread_local! {
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Lanes {
    /// Lanes for so many event loops, that hold at most `limit` bytes together.
    pub(crate) fn new(workers: usize, limit: u64) -> Lanes {
        Lanes {
            lanes: (0..LANES.max(workers.saturating_mul(2))).map(|_| Mutex::default()).collect(),
            bytes: AtomicU64::new(0),
            limit,
            began: Instant::now(),
            left_at: AtomicU64::new(0),
            carried_at: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            carrier: OnceLock::new(),
        }
    }

    /// Leaves the clicks of a turn that ends at `now`; false when there is no room. Never waits.
    pub(crate) fn leave(&self, clicks: &ClickBatch, ticket: Option<&Arc<Ticket>>, now: Instant) -> bool {
        let size = clicks.size() as u64;
        // Counted before they are there: the carrier may gather them at once, and must not take away what was not counted. Looked at and counted in one
        // step: a turn that has no room takes none from a smaller one.
        let counted = |bytes: u64| bytes.checked_add(size).filter(|sum| *sum <= self.limit);
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_err() {
            return false;
        }
        let Some(mut lane) = self.free() else {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return false;
        };
        lane.clicks.extend(clicks);
        lane.tickets.extend(ticket.cloned());
        drop(lane);
        // Behind the clicks: whoever takes the time away takes them, too.
        if self.left_at.load(Ordering::Relaxed) == 0 {
            let _ = self.left_at.compare_exchange(0, self.micros(now), Ordering::Relaxed, Ordering::Relaxed);
        }
        // The carrier says that it sleeps, then looks once more: one of the two sees the other.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        true
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether some click has waited longer than [`LATE`] for the carrier: it has no processor, and who asks may have it.
    pub(crate) fn late(&self, now: Instant) -> bool {
        let now = self.micros(now);
        [&self.left_at, &self.carried_at].into_iter().map(|at| at.load(Ordering::Relaxed)).any(|at| at > 0 && now.saturating_sub(at) > LATE)
    }

    fn free(&self) -> Option<std::sync::MutexGuard<'_, Lane>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let own = OWN.get().unwrap_or_else(|| {
            let own = NEXT.fetch_add(1, Ordering::Relaxed);
            OWN.set(Some(own));
            own
        });
        let count = self.lanes.len();
        (0..count).find_map(|step| match self.lanes[(own + step) % count].try_lock() {
            Ok(lane) => Some(lane),
            Err(TryLockError::Poisoned(lane)) => Some(lane.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// Wakes the carrier, if there is one.
    pub(crate) fn wake(&self) {
        if let Some(carrier) = self.carrier.get() {
            carrier.unpark();
        }
    }

    /// The carrier: moves all clicks behind those in `into`, and the tickets that wait for them.
    pub(crate) fn gather(&self, into: &mut ClickBatch, tickets: &mut Vec<Arc<Ticket>>) {
        let before = into.size();
        self.carried_at.store(self.left_at.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        for lane in &self.lanes {
            let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
            if lane.clicks.is_empty() {
                continue;
            }
            if into.is_empty() {
                // A lane that was busy alone is taken whole.
                std::mem::swap(into, &mut lane.clicks);
            } else {
                into.extend(&lane.clicks);
                lane.clicks.clear();
            }
            tickets.append(&mut lane.tickets);
        }
        self.bytes.fetch_sub((into.size() - before) as u64, Ordering::Relaxed);
    }

    /// The carrier: what was gathered is where it belongs.
    pub(crate) fn written(&self) {
        self.carried_at.store(0, Ordering::Relaxed);
    }

    /// The carrier: waits for the next round. `idle` counts the rounds without a click; `at_once` goes on as soon as there is one.
    pub(crate) fn rest(&self, idle: u32, at_once: bool, round: Duration) {
        if let Some(pause) = pause(idle, at_once, round) {
            thread::sleep(pause);
            return;
        }
        let _ = self.carrier.set(thread::current());
        self.asleep.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.bytes.load(Ordering::Relaxed) == 0 {
            thread::park_timeout(LONG);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// How long the carrier rests after a round; `None`: until it is woken.
fn pause(idle: u32, at_once: bool, round: Duration) -> Option<Duration> {
    (!at_once && idle < IDLE_ROUNDS).then_some(round)
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
