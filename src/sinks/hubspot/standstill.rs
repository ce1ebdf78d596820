//! Time in which the process stood still: it was stopped, or its machine asleep.
//!
//! It is no time in which records were tried, and counts neither towards their tries nor towards the wait of parked ones, as time in which no
//! sink ran does not. A clock that jumps ahead looks the same, and is treated so: then records are tried for longer, which costs
//! little, and none is given up after less than it was promised.

use super::run::Run;
use crate::model::time::{Ms, millis, now as wall_ms};
use std::time::Duration;

/// A turn of the loop takes no longer, whatever the database is waiting for.
const STANDSTILL: Duration = Duration::from_secs(60);

impl Run {
    /// Looks whether the process stood still since the last look. To be called once a turn, before what was under way meanwhile is judged by the
    /// clock.
    ///
    /// # Errors
    /// When the state database fails.
    pub(super) fn look_at_clock(&mut self) -> anyhow::Result<()> {
        let wall = wall_ms();
        if stood_still(std::mem::replace(&mut self.looked_at, wall), wall) {
            let stopped = self.state.resume(wall)?;
            self.accounts.values_mut().for_each(|account| account.stood_still(wall));
            tracing::info!(
                event = "sink_was_away",
                stopped_ms = stopped,
                "the process stood still, or its clock jumped: that takes nothing from the time that records are tried for"
            );
        }
        Ok(())
    }
}

/// Whether the process stood still between two turns of the loop.
fn stood_still(since: Ms, now: Ms) -> bool {
    now.saturating_sub(since) >= millis(STANDSTILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_turn_is_a_standstill_and_a_clock_that_goes_back_is_none() {
        assert!(!stood_still(1_000_000, 1_001_000));
        assert!(stood_still(1_000_000, 1_060_000));
        assert!(!stood_still(1_000_000, 0));
    }
}
