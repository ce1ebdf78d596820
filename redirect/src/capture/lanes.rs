//! Where event loops leave their clicks for the carrier: buffers of which each is held for the time of a copy, and never waited for.
//!
//! There are more lanes than threads, so that an event loop always finds a free one; it begins with its own, and comes to another only while
//! the carrier empties that. Clicks of one turn stay together; between turns there is no order.

use super::Ticket;
use crate::ClickBatch;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

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
    /// Bytes of clicks in the lanes.
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
    /// Lanes that hold at most so many bytes together.
    pub(crate) fn new(limit: u64) -> Lanes {
        Lanes {
            lanes: (0..LANES).map(|_| Mutex::default()).collect(),
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
        if self.bytes.load(Ordering::Relaxed) + size > self.limit {
            return false;
        }
        let Some(mut lane) = self.free() else { return false };
        lane.clicks.extend(clicks);
        lane.tickets.extend(ticket.cloned());
        drop(lane);
        // Behind the clicks: whoever takes the time away takes them, too.
        if self.left_at.load(Ordering::Relaxed) == 0 {
            let _ = self.left_at.compare_exchange(0, self.micros(now), Ordering::Relaxed, Ordering::Relaxed);
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
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
        (0..LANES).find_map(|step| match self.lanes[(own + step) % LANES].try_lock() {
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
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Many threads leave clicks while one gathers: each arrives once.
    #[test]
    fn every_click_is_gathered_once() {
        const THREADS: u64 = 4;
        const TURNS: u64 = 5_000;
        let lanes = Lanes::new(1 << 30);
        let done = AtomicU64::new(0);
        let mut seen = BTreeSet::new();
        let mut tickets = Vec::new();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (lanes, done) = (&lanes, &done);
                scope.spawn(move || {
                    let mut batch = ClickBatch::default();
                    for turn in 0..TURNS {
                        batch.clear();
                        batch.push(|_| thread * TURNS + turn);
                        batch.push(|out| {
                            out.push(b'x');
                            u64::MAX
                        });
                        assert!(lanes.leave(&batch, Some(&Ticket::new(None)), Instant::now()));
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            loop {
                let last = done.load(Ordering::SeqCst) == THREADS;
                let mut clicks = ClickBatch::default();
                lanes.gather(&mut clicks, &mut tickets);
                for (ts, _) in clicks.iter().filter(|(ts, _)| *ts != u64::MAX) {
                    assert!(seen.insert(ts), "{ts} twice");
                }
                if last {
                    break;
                }
                lanes.rest(0, true, Duration::ZERO);
            }
        });
        assert_eq!((seen.len() as u64, tickets.len() as u64), (THREADS * TURNS, THREADS * TURNS));
        assert_eq!(lanes.bytes.load(Ordering::SeqCst), 0);
    }

    /// The carrier on a clock of its own: whenever a click comes, in a burst or after a silence, it is written within 5 ms, as long as writing a round
    /// takes no more than 1.5 ms.
    #[test]
    fn a_click_is_written_within_5_ms() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        const WRITING: u64 = 1_500;
        for seed in 0..50 {
            let mut random = StdRng::seed_from_u64(seed);
            let lanes = Lanes::new(1 << 30);
            let mut comes = 0;
            // Microseconds; now and then a silence in which the carrier falls asleep.
            let mut coming: std::collections::VecDeque<u64> = (0..2_000)
                .map(|_| {
                    comes += if random.random_range(0..100) == 0 { random.random_range(0..500_000) } else { random.random_range(0..3_000) };
                    comes
                })
                .collect();
            let mut leave_until = |now: u64| {
                while coming.front().is_some_and(|at| *at <= now) {
                    let mut batch = ClickBatch::default();
                    let at = coming.pop_front().expect("seen");
                    batch.push(|out| {
                        out.push(b'x');
                        at
                    });
                    assert!(lanes.leave(&batch, None, Instant::now()));
                }
                coming.front().copied()
            };
            let (mut now, mut idle, mut latest, mut slept) = (0, 0, 0, 0);
            loop {
                let mut clicks = ClickBatch::default();
                lanes.gather(&mut clicks, &mut Vec::new());
                idle = if clicks.is_empty() { idle + 1 } else { 0 };
                now += if clicks.is_empty() { 0 } else { WRITING };
                latest = clicks.iter().map(|(at, _)| now - at).fold(latest, u64::max);
                let Some(next) = leave_until(now) else { break };
                match pause(idle, false, crate::capture::ROUND) {
                    Some(pause) => now += u64::try_from(pause.as_micros()).expect("short"),
                    None => {
                        lanes.asleep.store(true, Ordering::SeqCst);
                        slept += 1;
                        now = next;
                        leave_until(now);
                        assert!(!lanes.asleep.load(Ordering::SeqCst), "the click woke it");
                    }
                }
                leave_until(now);
            }
            assert!(latest <= 5_000, "{latest} µs");
            assert!(slept > 0);
        }
    }

    /// Late is what has waited longer than it should, in a lane or with the carrier, until it is written.
    #[test]
    fn clicks_are_late_until_they_are_written() {
        let lanes = Lanes::new(1 << 20);
        let mut batch = ClickBatch::default();
        batch.push(|_| 1);
        let start = lanes.began + Duration::from_secs(1);
        let at = |micros| start + Duration::from_micros(micros);
        assert!(!lanes.late(at(60_000_000)), "there is none");
        assert!(lanes.leave(&batch, None, at(0)));
        assert!(lanes.leave(&batch, None, at(2_000)), "a later one changes nothing");
        assert_eq!([LATE, LATE + 1].map(|micros| lanes.late(at(micros))), [false, true]);
        lanes.gather(&mut ClickBatch::default(), &mut Vec::new());
        assert!(lanes.leave(&batch, None, at(3_000)));
        assert!(lanes.late(at(LATE + 1)), "it isn't written yet");
        lanes.written();
        assert_eq!([LATE + 1, 3_000 + LATE, 3_001 + LATE].map(|micros| lanes.late(at(micros))), [false, false, true]);
        lanes.gather(&mut ClickBatch::default(), &mut Vec::new());
        lanes.written();
        assert!(!lanes.late(at(60_000_000)));
    }

    #[test]
    fn what_has_no_room_is_refused() {
        let lanes = Lanes::new(3);
        let mut batch = ClickBatch::default();
        batch.push(|out| {
            out.extend_from_slice(b"ab");
            1
        });
        assert!(lanes.leave(&batch, None, Instant::now()));
        assert!(!lanes.leave(&batch, None, Instant::now()));
        lanes.gather(&mut ClickBatch::default(), &mut Vec::new());
        assert!(lanes.leave(&batch, None, Instant::now()));
    }
}
