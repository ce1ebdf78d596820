//! The end of a process that was asked to stop: in time, whatever one of its parts waits for.
//!
//! # Meaning
//! The parts end by themselves, side by side: each has something to finish, and little time for it. When one of them is not done by the
//! deadline the process ends all the same, with exit code 0, and the log says which. That loses nothing: what a part has not finished it does
//! again after the next start, as after a power cut.
//!
//! # Ties and edges
//! It is the same in a start, in a reload and in a stop that has begun for another reason: the time runs from the signal.

use crate::stop::Stop;
use anyhow::Context as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A stop takes no longer than this: a second less than is promised.
const WITHIN: Duration = Duration::from_secs(9);
/// What the other parts may need after the HubSpot sink has had its grace, where an operator has given it more than the usual.
const BESIDE: Duration = Duration::from_secs(4);
/// Between two looks at whether the signal has come, or the time is over.
const LOOK: Duration = Duration::from_millis(100);

/// Ends the process in time once its stop was asked; dropped, it lets it go on.
#[derive(Debug)]
pub struct Deadline(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How long a stop may take at least.
    least: Duration,
    /// The HubSpot sink's grace, ms; 0 where there is no sink.
    grace: AtomicU64,
    waits_for: Mutex<&'static str>,
    over: AtomicBool,
}

impl Deadline {
    /// Watches over the stop that `stop` asks for.
    ///
    /// # Errors
    /// No thread.
    pub fn watch(stop: &Stop) -> anyhow::Result<Self> {
        Deadline::watch_with(stop, WITHIN, || signal_hook::low_level::exit(0))
    }

    /// The same with another time and another end.
    fn watch_with(stop: &Stop, least: Duration, end: impl FnOnce() + Send + 'static) -> anyhow::Result<Self> {
        let (grace, waits_for, over) = (AtomicU64::new(0), Mutex::new("its start"), AtomicBool::new(false));
        let shared = Arc::new(Shared { least, grace, waits_for, over });
        let (of_thread, stop) = (Arc::clone(&shared), stop.clone());
        let watch = move || {
            let mut asked = None;
            while !of_thread.over.load(Ordering::Acquire) {
                if stop.wished() && asked.get_or_insert_with(Instant::now).elapsed() >= of_thread.within() {
                    let waits_for = *of_thread.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
                    tracing::warn!(
                        event = "stopped_in_part",
                        waits_for,
                        "stopped as asked, although not all was finished: the time for it is over, and the next start does the rest"
                    );
                    // Not `exit`: what it would still run may wait for the very part that is late.
                    return end();
                }
                thread::sleep(LOOK);
            }
        };
        thread::Builder::new().name("deadline".to_owned()).spawn(watch).context("no thread for the deadline")?;
        Ok(Deadline(shared))
    }

    /// Gives the stop as much more time as the HubSpot sink's grace is longer than usual.
    pub fn allow(&self, grace: Duration) {
        self.0.grace.store(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Says what the process is at, for the log line of one that is not done in time.
    pub fn waits_for(&self, part: &'static str) {
        *self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = part;
    }
}

impl Shared {
    fn within(&self) -> Duration {
        match self.grace.load(Ordering::Acquire) {
            0 => self.least,
            grace => self.least.max(Duration::from_millis(grace).saturating_add(BESIDE)),
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_stop_that_nobody_asked_for_or_that_is_done_ends_nothing() {
        let (stop, (ends, ended)) = (Stop::new(), channel());
        let deadline = Deadline::watch_with(&stop, LOOK, move || ends.send(()).expect("somebody listens")).expect("a thread");
        assert!(ended.recv_timeout(LOOK * 5).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout), "nobody asked");
        drop(deadline);
        stop.ask();
        assert!(ended.recv().is_err(), "it has let the process go on");
    }

    #[test]
    fn a_longer_grace_is_granted_and_a_shorter_one_gains_nothing() {
        let deadline = Deadline::watch_with(&Stop::new(), WITHIN, || {}).expect("a thread");
        for (grace, within) in [(0, 9), (5, 9), (20, 24)] {
            deadline.allow(Duration::from_secs(grace));
            assert_eq!(deadline.0.within(), Duration::from_secs(within), "{grace} s");
        }
    }

    #[test]
    fn a_part_that_is_late_is_cut_off() {
        let (stop, (ends, ended)) = (Stop::new(), channel());
        let _deadline = Deadline::watch_with(&stop, LOOK * 4, move || ends.send(()).expect("somebody listens")).expect("a thread");
        stop.ask();
        let began = Instant::now();
        ended.recv_timeout(WITHIN).expect("it ends");
        assert!(began.elapsed() >= LOOK * 3, "{:?}", began.elapsed());
    }
}
