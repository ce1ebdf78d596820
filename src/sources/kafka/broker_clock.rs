//! What time it is at the brokers, for partitions that have been read to their end: nobody there says so, and nobody but the brokers
//! may move the job's clock.
//!
//! # Meaning
//! The outbox writes how far the job is at least every two seconds, also while nothing happens, and right at its start. The brokers stamp these records
//! (the topic of the progress has `LogAppendTime`) and report the stamps. From them [`Estimate`] makes a time that the broker's clock has reached for sure.
//! Process 0 has the outbox and tells the others ([`spread()`]).
//!
//! # Ties and edges
//! - Before the first stamp nothing is known: partitions that have been read to their end wait.
//! - It is the clock of the broker that leads the progress. Another one's may be behind it by less than `idle_slack`, or what that one appends
//!   to a topic that was idle is counted late.
//! - A broker's clock that is set back is noticed with the next stamp; until then the same holds. Idle partitions then wait until it has caught up.
//! - This machine's wall clock is not looked at: it may jump by hours, either way. So may that of another process's machine.
//! - Where the progress has no append times (a broker that stamps nothing, a topic that was made otherwise) times are the writers'
//!   anyway, and the wall clock takes the brokers' place.

mod estimate;
mod spread;

use super::Clock;
use crate::model::time::Ms;
use rdkafka::message::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use estimate::{Estimate, Stamp, Word};
pub use spread::spread;

/// 2016, ms since the Unix epoch: brokers have stamped since then. What says it is older is no stamp; librdkafka's mock cluster reports 1234 of every record.
const FIRST_STAMPS: Ms = 1_451_606_400_000;
/// A bound that was ahead by less than this has drifted; beyond, somebody has set a clock, ms.
const SET_BACK: Ms = 1_000;

/// The brokers' clock as one process knows it; clones share what they know.
#[derive(Clone)]
pub struct BrokerClock(Arc<Inner>);

struct Inner {
    wall: Clock,
    /// Moments are lengths of time since this.
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    Stamped(Estimate),
    /// The brokers stamp nothing: the wall clock counts.
    Unstamped,
}

/// What process 0 tells the others; `None`: the brokers stamp nothing.
pub type Told = Option<Word>;

impl BrokerClock {
    /// One that waits for stamps. `wall` takes its place where the brokers stamp nothing.
    pub fn new(wall: Clock) -> Self {
        BrokerClock::with(wall, Known::Nothing)
    }

    /// The wall clock itself, for whoever reads and writes nothing.
    pub fn wall(wall: Clock) -> Self {
        BrokerClock::with(wall, Known::Unstamped)
    }

    fn with(wall: Clock, known: Known) -> Self {
        BrokerClock(Arc::new(Inner { wall, began: Instant::now(), known: Mutex::new(known) }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This moment.
    pub fn moment(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// The brokers' clock is here or later, ms; `None` while nothing is known.
    pub fn now(&self) -> Option<Ms> {
        // Copied: the wall clock may be a test's, and take its time.
        let known = *self.known();
        match known {
            Known::Nothing => None,
            Known::Stamped(estimate) => Some(estimate.at(self.moment())),
            Known::Unstamped => Some((self.0.wall)()),
        }
    }

    /// The same, or the wall clock while nothing is known: for records that carry their writer's time.
    pub fn now_or_wall(&self) -> Ms {
        self.now().unwrap_or_else(|| (self.0.wall)())
    }

    /// Learns from the report of a record that was sent at the moment `sent`.
    pub fn delivered(&self, sent: Duration, stamp: Timestamp) {
        let received = self.moment();
        let at = match stamp {
            Timestamp::LogAppendTime(at) => Ms::try_from(at).ok().filter(|at| *at >= FIRST_STAMPS),
            Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
        };
        let mut known = self.known();
        match (at, &mut *known) {
            (Some(at), Known::Stamped(estimate)) => {
                let ahead_ms = estimate.learn(Stamp { sent, at, received });
                if ahead_ms >= SET_BACK {
                    tracing::warn!(
                        event = "broker_clock_set_back",
                        ahead_ms,
                        "a broker's clock was set back: the job's clock waits until it has caught up"
                    );
                }
            }
            (Some(at), _) => *known = Known::Stamped(Estimate::new(Stamp { sent, at, received })),
            (None, Known::Unstamped) => {}
            (None, _) => {
                tracing::info!(
                    event = "brokers_stamp_nothing",
                    "the topic of the progress has no append times: idle partitions follow this machine's clock"
                );
                *known = Known::Unstamped;
            }
        }
    }

    /// What to tell the other processes; `None` while nothing is known.
    pub fn word(&self) -> Option<Told> {
        match &*self.known() {
            Known::Nothing => None,
            Known::Stamped(estimate) => Some(Some(estimate.word(self.moment()))),
            Known::Unstamped => Some(None),
        }
    }

    /// Takes what process 0 tells.
    pub fn hear(&self, told: Told) {
        let now = self.moment();
        let mut known = self.known();
        match (told, &mut *known) {
            (Some(word), Known::Stamped(estimate)) => estimate.hear(word, now),
            (Some(word), _) => *known = Known::Stamped(Estimate::told(word, now)),
            (None, _) => *known = Known::Unstamped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const STAMP: Ms = 1_795_718_000_000;

    fn set() -> (Arc<AtomicU64>, BrokerClock) {
        let hand = Arc::new(AtomicU64::new(5_000));
        let wall = Arc::clone(&hand);
        (hand, BrokerClock::new(Arc::new(move || wall.load(Ordering::Relaxed))))
    }

    #[test]
    fn once_stamped_the_wall_clock_moves_nothing() {
        let (hand, clock) = set();
        assert_eq!((clock.now(), clock.now_or_wall(), clock.word()), (None, 5_000, None));
        clock.delivered(clock.moment(), Timestamp::LogAppendTime(STAMP.cast_signed()));
        for jump in [0, 1, 999_999_999] {
            hand.store(jump, Ordering::Relaxed);
            // As much as this test may take on a machine that has other work to do.
            let now = clock.now().expect("stamped");
            assert!((STAMP..STAMP + 600_000).contains(&now), "{now} with the wall clock at {jump}");
        }
    }

    #[test]
    fn where_nothing_is_stamped_the_wall_clock_counts_and_the_others_are_told_so() {
        let (hand, clock) = set();
        let (_, other) = set();
        for (jump, none) in [(6_000, Timestamp::CreateTime(STAMP.cast_signed())), (7_000, Timestamp::LogAppendTime(1_234))] {
            clock.delivered(clock.moment(), none);
            hand.store(jump, Ordering::Relaxed);
            assert_eq!(clock.now(), Some(jump));
        }
        other.hear(clock.word().expect("known"));
        assert_eq!(other.now(), Some(5_000), "its own");
        // Somebody has set the topic right.
        clock.delivered(clock.moment(), Timestamp::LogAppendTime(STAMP.cast_signed()));
        other.hear(clock.word().expect("known"));
        assert!([&clock, &other].iter().all(|clock| clock.now() >= Some(STAMP)));
    }
}
