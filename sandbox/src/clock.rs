//! The sandbox's clock: milliseconds since the Unix epoch, from the system or from a test's hand.
//!
//! Token expiry, the rolling rate limit, the search delay and every stored timestamp read this one clock, so a test that
//! moves it forward by ten seconds sees exactly what ten seconds of waiting would have shown.

use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the sandbox reads the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The machine's clock, read once and carried on by the monotonic one, so that it never runs backwards.
    pub fn system() -> Self {
        let started_at = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let started = Instant::now();
        Self::from_fn(move || started_at + u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX / 2))
    }

    /// A clock that asks `now_ms` for the milliseconds since the Unix epoch. It must not run backwards.
    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// A clock that stands still at `start_ms` (milliseconds since the Unix epoch) until its hand is moved.
    pub fn manual(start_ms: u64) -> (Self, ManualClock) {
        let hand = ManualClock(Arc::new(AtomicU64::new(start_ms)));
        let read = hand.clone();
        (Self::from_fn(move || read.0.load(Ordering::SeqCst)), hand)
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", iso(self.now_ms()))
    }
}

/// The hand of a clock made by [`Clock::manual`]; clones move the same clock.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

/// Milliseconds since the Unix epoch as HubSpot writes them: `2026-11-23T08:15:31.000Z`.
pub(crate) fn iso(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

/// Reads a time as HubSpot's callers write it: ISO 8601 with an offset, a plain date (midnight UTC), or epoch milliseconds.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    if let Ok(ms) = text.parse::<u64>() {
        return Some(ms);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return u64::try_from(at.as_millisecond()).ok();
    }
    let midnight: Timestamp = format!("{text}T00:00:00Z").parse().ok()?;
    u64::try_from(midnight.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_hubspot_writes_them() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(1_795_421_730_123), "2026-11-23T08:15:30.123Z");
    }

    #[test]
    fn times_are_read_in_all_three_spellings() {
        assert_eq!(parse_time("1795421730123"), Some(1_795_421_730_123));
        assert_eq!(parse_time("2026-11-23T08:15:30.123Z"), Some(1_795_421_730_123));
        assert_eq!(parse_time("2026-11-23T09:15:30.123+01:00"), Some(1_795_421_730_123));
        assert_eq!(parse_time("1970-01-02"), Some(86_400_000));
        assert_eq!(parse_time("tomorrow"), None);
    }
}
