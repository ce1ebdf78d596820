//! How many requests are left of an account's day.
//!
//! HubSpot sets OAuth apps no daily limit and apps with a static token one that they share with all others of the account. Its answers say
//! what is left where there is such a limit; a limit of one's own may be set as well. Both are counted anew at midnight in the account's
//! time zone. Time is passed in; our own count begins with the process.

use super::budget::Share;
use std::time::{Duration, Instant};

/// How long to wait where nobody knows when the account's day ends.
const ASK_AGAIN: Duration = super::outcome::DAILY_PAUSE;

/// The day of one account.
#[derive(Debug)]
pub struct Daily {
    limit: Option<u64>,
    reserve: u64,
    used: u64,
    /// What HubSpot says is left.
    left: Option<u64>,
    ends_at: Option<Instant>,
}

impl Daily {
    /// A day of which nothing is used; the last `reserve` requests are for [`Share::Full`] alone.
    pub fn new(limit: Option<u64>, reserve: u64) -> Self {
        Daily { limit, reserve, used: 0, left: None, ends_at: None }
    }

    /// Whether a request may be sent at `now`; `midnight` says how far away the end of the account's day is, where that is known.
    ///
    /// # Errors
    /// When to ask again.
    pub fn ready(&mut self, share: Share, now: Instant, midnight: impl Fn() -> Option<Duration>) -> Result<(), Instant> {
        if self.ends_at.is_some_and(|at| at <= now) {
            (self.used, self.left, self.ends_at) = (0, None, None);
        }
        let own = self.limit.map(|limit| limit.saturating_sub(self.used));
        let Some(left) = own.into_iter().chain(self.left).min() else { return Ok(()) };
        let ends_at = *self.ends_at.get_or_insert_with(|| now + midnight().unwrap_or(ASK_AGAIN));
        let kept = if share == Share::Full { 0 } else { self.reserve };
        if left > kept { Ok(()) } else { Err(ends_at) }
    }

    /// A request is sent.
    pub fn sent(&mut self) {
        self.used += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// What HubSpot says is left.
    pub fn told(&mut self, left: u64) {
        self.left = Some(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_requests_of_the_day_are_for_deals() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let midnight = || Some(hour);
        let mut daily = Daily::new(Some(3), 1);
        for _ in 0..2 {
            assert_eq!(daily.ready(Share::Bulk, now, midnight), Ok(()));
            daily.sent();
        }
        assert_eq!(daily.ready(Share::Bulk, now, midnight), Err(now + hour));
        assert_eq!(daily.ready(Share::Full, now, midnight), Ok(()));
        daily.sent();
        assert_eq!(daily.ready(Share::Full, now, midnight), Err(now + hour));
        assert_eq!(daily.ready(Share::Bulk, now + hour, midnight), Ok(()), "a new day");
    }

    #[test]
    fn hubspots_count_wins_and_an_unknown_midnight_is_asked_for() {
        let now = Instant::now();
        let mut daily = Daily::new(None, 0);
        assert_eq!(daily.ready(Share::Bulk, now, || None), Ok(()));
        daily.told(1);
        assert_eq!(daily.ready(Share::Bulk, now, || None), Ok(()));
        daily.sent();
        assert_eq!(daily.ready(Share::Full, now, || None), Err(now + ASK_AGAIN));
        assert_eq!(daily.ready(Share::Full, now + ASK_AGAIN, || None), Ok(()), "to see whether it is over");
    }
}
