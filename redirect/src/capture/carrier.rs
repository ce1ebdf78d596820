//! The thread between the lanes and the spool.
//!
//! # Its end
//! What was answered and the disk does not take is tried again until the end's deadline: the forwarder may make room meanwhile. What is left then,
//! in its hands or in the lanes, counts as failed.
//!
//! # In pieces
//! A stall may gather more than the spool may hold at all. Where answered clicks must wait for room, what there is room for is put into the spool and the
//! rest stays in front; a try for all of it would never succeed.

use super::counts::Counts;
use super::end::End;
use super::lanes::Lanes;
use super::{ROUND, Ticket};
use crate::config::{Capture, SpoolConfig, WhenFull};
use crate::sink::ClickBatch;
use crate::spool::{AppendError, Store};
use crate::{Clock, failpoint};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The wait between two tries while the disk takes nothing.
const DISK_AGAIN: Duration = Duration::from_millis(50);

/// Empties the lanes into the spool; one thread's.
pub(super) struct Carrier {
    lanes: Arc<Lanes>,
    counts: Arc<Counts>,
    store: Store,
    capture: Capture,
    when_full: WhenFull,
    clock: Clock,
    /// Redirects are refused until there is room.
    full: Arc<AtomicBool>,
    end: Arc<End>,
    /// What was gathered and is not in the spool.
    clicks: ClickBatch,
    /// What waits for it to be there.
    tickets: Vec<Arc<Ticket>>,
}

impl Carrier {
    pub(super) fn new(
        spool: &SpoolConfig,
        lanes: Arc<Lanes>,
        counts: Arc<Counts>,
        store: Store,
        clock: Clock,
        full: Arc<AtomicBool>,
    ) -> Carrier {
        let (clicks, tickets) = (ClickBatch::default(), Vec::new());
        Carrier {
            lanes,
            counts,
            store,
            capture: spool.capture,
            when_full: spool.when_full,
            clock,
            full,
            end: Arc::default(),
            clicks,
            tickets,
        }
    }

    pub(super) fn end(&self) -> Arc<End> {
        self.end.clone()
    }

    /// Carries until the end.
    pub(super) fn run(mut self) {
        let durable = self.capture == Capture::Durable;
        let mut idle = 0;
        loop {
            // Looked at first: whatever was left before it is gathered below.
            let last = self.end.told();
            // What the disk has not taken yet stays in front; the lanes bound what comes meanwhile.
            let behind = !self.clicks.is_empty();
            if !behind {
                self.lanes.gather(&mut self.clicks, &mut self.tickets);
            }
            idle = if self.clicks.is_empty() { idle + 1 } else { 0 };
            if self.clicks.is_empty() {
                self.lanes.written();
            }
            if !self.clicks.is_empty() {
                failpoint::panic("carrier.clicks");
            }
            let stuck = !self.clicks.is_empty() && !self.put();
            if stuck && self.end.over() {
                self.lanes.gather(&mut self.clicks, &mut self.tickets);
                self.counts.failed.fetch_add(self.clicks.len() as u64, Relaxed);
                self.settle(false);
                return;
            }
            if last && !stuck && !behind {
                return;
            }
            if stuck {
                thread::park_timeout(DISK_AGAIN);
            } else {
                self.full.store(self.when_full == WhenFull::Refuse && self.store.nearly_full() || self.counts.broken().is_some(), Relaxed);
                if !last {
                    self.lanes.rest(idle, durable, ROUND);
                }
            }
        }
    }

    /// Puts the clicks into the spool and settles their tickets; false when those that are left must be tried again.
    fn put(&mut self) -> bool {
        let durable = self.capture == Capture::Durable;
        if self.counts.broken().is_some() && durable {
            self.settle(false);
            return true;
        }
        let now = self.clock.now();
        // Answers that wait have one ticket for all clicks of their turn, and clicks that may be dropped need no room later: there it is all or none.
        let appended = if self.when_full == WhenFull::Refuse && !durable {
            self.store.append_first(&self.clicks, now)
        } else {
            self.store.append(&self.clicks, now).map(|()| self.clicks.len())
        };
        match appended {
            Ok(count) => {
                failpoint::hit("spool.written");
                if durable && let Err(error) = self.store.sync() {
                    self.counts.set_broken(format!("the spool's disk failed to keep what was written ({error})"));
                    self.settle(false);
                    return true;
                }
                failpoint::hit("spool.synced");
                self.counts.spooled.fetch_add(count as u64, Relaxed);
                self.store.show(now);
                if count < self.clicks.len() {
                    self.clicks.remove_first(count);
                    self.counts.note(AppendError::Full.to_string());
                    self.full.store(true, Relaxed);
                    return false;
                }
                self.settle(true);
                true
            }
            Err(error) => {
                self.counts.note(error.to_string());
                match (self.when_full, &error) {
                    (WhenFull::Drop, _) => {
                        self.store.give_up();
                        self.counts.refused.fetch_add(self.clicks.len() as u64, Relaxed);
                        self.settle(true);
                        true
                    }
                    // Nobody has an answer yet.
                    (WhenFull::Refuse, _) if durable => {
                        self.store.give_up();
                        self.settle(false);
                        true
                    }
                    (WhenFull::Refuse, AppendError::Full | AppendError::Disk(_)) => {
                        self.full.store(true, Relaxed);
                        false
                    }
                }
            }
        }
    }

    fn settle(&mut self, safe: bool) {
        self.clicks.clear();
        self.lanes.written();
        self.tickets.drain(..).for_each(|ticket| ticket.settle(safe));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Appender, Cursor, Disk, Folder, Shelf, recover};
    use std::io;
    use std::time::Instant;

    /// A disk that takes what is appended only when it may.
    #[derive(Clone, Default)]
    struct Stubborn(Arc<AtomicBool>);

    impl Appender for Stubborn {
        fn append(&mut self, _: &[u8]) -> io::Result<()> {
            if self.0.load(Relaxed) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk for Stubborn {
        fn list(&self) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn create(&self, _: &str) -> io::Result<Box<dyn Appender>> {
            Ok(Box::new(self.clone()))
        }

        fn len(&self, _: &str) -> io::Result<u64> {
            Ok(0)
        }

        fn read(&self, _: &str, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn replace(&self, _: &str, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn sync_names(&self) -> io::Result<()> {
            Ok(())
        }

        fn rename(&self, _: &str, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn note(&self, _: &str, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
    }

    /// Seven clicks are answered while the disk takes nothing, and so are four that come later; then it is time to end. What it says of them at its
    /// end: spooled, failed.
    fn ended(patience: Duration, takes_again: bool) -> (u64, u64) {
        let disk = Stubborn::default();
        let found = recover(&disk).expect("an empty spool");
        let shelf = Shelf::new(&found);
        let store = Store::new(Arc::new(disk.clone()), shelf.clone(), found.identity.clone(), 1 << 20);
        let spool = SpoolConfig { dir: "spool".into(), bytes: 1 << 20, capture: Capture::Fast, when_full: WhenFull::Refuse };
        let (lanes, counts, full) = (Arc::new(Lanes::new(1, 1 << 20)), Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let carrier = Carrier::new(&spool, lanes.clone(), counts.clone(), store, Clock::system(), full.clone());
        let end = carrier.end();
        let leave = |count: u64| {
            let mut clicks = ClickBatch::default();
            for ts in 0..count {
                clicks.push(|out| {
                    out.push(b'x');
                    ts
                });
            }
            assert!(lanes.leave(&clicks, None, Instant::now()));
        };
        leave(7);
        let thread = thread::spawn(move || carrier.run());
        while !full.load(Relaxed) {
            thread::yield_now();
        }
        leave(4);
        end.at_the_latest(Instant::now() + patience);
        disk.0.store(takes_again, Relaxed);
        thread.join().expect("it ends well");
        (counts.spooled.load(Relaxed), counts.failed.load(Relaxed))
    }

    #[test]
    fn a_disk_that_takes_clicks_again_before_the_end_costs_none() {
        assert_eq!(ended(Duration::from_secs(60), true), (11, 0));
    }

    #[test]
    fn what_the_disk_never_took_counts_as_failed_wherever_it_was() {
        assert_eq!(ended(Duration::ZERO, false), (0, 11));
    }

    /// Twice as much is answered during a stall as the spool may hold. All of it gets there while the forwarder makes room, and then visitors are
    /// redirected again.
    #[test]
    fn more_than_the_spool_may_hold_gets_there_in_pieces() {
        const LIMIT: u64 = 1 << 20;
        const CLICKS: u64 = 2_048;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk: Arc<dyn Disk> = Arc::new(Folder::open(folder.path()).expect("ours"));
        let found = recover(&*disk).expect("an empty spool");
        let shelf = Shelf::new(&found);
        let store = Store::new(disk.clone(), shelf.clone(), found.identity.clone(), LIMIT);
        let spool = SpoolConfig { dir: folder.path().into(), bytes: LIMIT, capture: Capture::Fast, when_full: WhenFull::Refuse };
        let (lanes, counts, full) = (Arc::new(Lanes::new(1, 4 << 20)), Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let carrier = Carrier::new(&spool, lanes.clone(), counts.clone(), store, Clock::system(), full.clone());
        let end = carrier.end();
        let mut clicks = ClickBatch::default();
        for ts in 0..CLICKS {
            clicks.push(|out| {
                out.resize(out.len() + 1_024, b'x');
                ts
            });
        }
        assert!(lanes.leave(&clicks, None, Instant::now()));
        let thread = thread::spawn(move || carrier.run());
        let first = found.identity.first();
        let (mut cursor, mut buffer, mut next) = (Cursor::default(), Vec::new(), first);
        let ends_at = Instant::now() + Duration::from_secs(60);
        while next < first + CLICKS && Instant::now() < ends_at {
            if !shelf.wait(&cursor, Duration::from_millis(100)) {
                continue;
            }
            let read = |sequence: u64, _: &[u8]| {
                assert_eq!(sequence, next, "in order, none twice");
                next += 1;
                true
            };
            cursor.read(&shelf, &*disk, &mut buffer, read).expect("reads");
            assert!(shelf.bytes() <= LIMIT);
            shelf.done(&*disk, &cursor, next).expect("a good disk");
        }
        while full.load(Relaxed) && Instant::now() < ends_at {
            thread::yield_now();
        }
        assert!(!full.load(Relaxed), "there is room");
        end.at_the_latest(ends_at);
        thread.join().expect("it ends well");
        assert_eq!(next - first, CLICKS);
        assert_eq!([&counts.spooled, &counts.refused, &counts.failed].map(|count| count.load(Relaxed)), [CLICKS, 0, 0]);
    }
}
