//! Tests of the lanes: with threads, and on a clock of their own.

use super::*;
use std::collections::BTreeSet;

/// Many threads leave clicks while one gathers: each arrives once.
#[test]
fn every_click_is_gathered_once() {
    const THREADS: u64 = 4;
    const TURNS: u64 = 5_000;
    let lanes = Lanes::new(4, 1 << 30);
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
            // What is counted is never less than what is there: taking away more than that would leave room for nobody.
            assert!(lanes.bytes.load(Ordering::SeqCst) <= THREADS * TURNS);
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
        let lanes = Lanes::new(4, 1 << 30);
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
    let lanes = Lanes::new(4, 1 << 20);
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
    let lanes = Lanes::new(4, 3);
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

/// Even when every event loop holds a lane, and the carrier one, there is a free one.
#[test]
fn there_are_more_lanes_than_threads() {
    for workers in [1, 31, 32, 33, 64, 500] {
        let lanes = Lanes::new(workers, 1 << 20);
        assert!(lanes.lanes.len() > workers + 1, "{workers}");
        let held: Vec<_> = (0..=workers).map(|_| lanes.free().expect("a free one")).collect();
        let mut batch = ClickBatch::default();
        batch.push(|_| 1);
        assert!(lanes.leave(&batch, None, Instant::now()));
        drop(held);
    }
}
