//! Time as the job knows it: whole milliseconds since the Unix epoch, UTC.

use std::time::{Duration, SystemTime};

/// Milliseconds since the Unix epoch (UTC), or a length of time in milliseconds.
///
/// A bare alias, not a newtype: timely needs a timestamp type with its traits, and `u64` has them.
pub type Ms = u64;

/// One day; leap seconds and time zones do not exist here.
pub const DAY: Ms = 86_400_000;
/// One hour.
pub const HOUR: Ms = 3_600_000;
/// How far before a click a form may lie to name its contact (inclusive).
pub const FORM_BEFORE: Ms = 14 * DAY;
/// How long a click waits for a form (inclusive).
pub const HOLD: Ms = 72 * HOUR;

/// The end of the tick that holds `at`: the least multiple of `tick` that is not before it.
pub fn tick_end(at: Ms, tick: Ms) -> Ms {
    at.div_ceil(tick).saturating_mul(tick)
}

/// Whole milliseconds of a duration; anything longer than `u64` can say is `u64::MAX`.
pub fn millis(length: Duration) -> Ms {
    Ms::try_from(length.as_millis()).unwrap_or(Ms::MAX)
}

/// The wall clock; a machine that thinks it is before 1970 is taken at 0.
///
/// In a build with debug assertions a test may put it wrong while the program runs: see [`crate::failpoint::clock_shift`].
pub fn now() -> Ms {
    let machine = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
    machine.saturating_add_signed(crate::failpoint::clock_shift())
}

/// `2026-11-23T08:15:30.123Z`, as HubSpot wants it; out-of-range values are clamped.
pub fn rfc3339(at: Ms) -> String {
    let clamped = i64::try_from(at).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_millisecond(clamped).unwrap_or(jiff::Timestamp::MAX);
    format!("{stamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_ends_at_its_last_millisecond() {
        assert_eq!(tick_end(0, 100), 0);
        assert_eq!(tick_end(1, 100), 100);
        assert_eq!(tick_end(100, 100), 100);
        assert_eq!(tick_end(101, 100), 200);
    }

    #[test]
    fn stamps_carry_milliseconds() {
        assert_eq!(rfc3339(1_763_800_000_123), "2025-11-22T08:26:40.123Z");
        assert_eq!(rfc3339(1_763_800_000_000), "2025-11-22T08:26:40.000Z");
        assert!(rfc3339(u64::MAX).starts_with("9999-"));
    }
}
