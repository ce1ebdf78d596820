//! How many requests are left of an account's day.
//!
//! HubSpot sets OAuth apps no daily limit and apps with a static token one that they share with all others of the account. Its answers say
//! what is left where there is such a limit; it is counted anew at midnight in the account's time zone, and where nobody knows that one,
//! HubSpot is asked again every [`ASK_AGAIN`]. A limit of one's own may be set as well: it is kept whatever HubSpot says, and its day ends
//! at midnight in the account's time zone, else in UTC. Time is passed in; our own count begins with the process.

use super::budget::Share;
use std::time::{Duration, Instant};

/// How long to wait where nobody knows when HubSpot's day ends.
pub const ASK_AGAIN: Duration = Duration::from_secs(15 * 60);

/// How far away midnight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Midnight {
    /// In the account's time zone, where that is known.
    pub here: Option<Duration>,
    /// In UTC.
    pub utc: Duration,
}

impl Midnight {
    /// How far away the end of HubSpot's day is, or the next look whether it is over.
    pub fn hubspot(self) -> Duration {
        self.here.unwrap_or(ASK_AGAIN)
    }

    /// How far away the end of the day of one's own limit is.
    pub fn own(self) -> Duration {
        self.here.unwrap_or(self.utc)
    }
}

/// The day of one account.
#[derive(Debug)]
pub struct Daily {
    limit: Option<u64>,
    reserve: u64,
    used: u64,
    /// When [`Daily::used`] is counted anew.
    used_until: Option<Instant>,
    /// What HubSpot says is left.
    left: Option<u64>,
    /// Until when that is believed.
    left_until: Option<Instant>,
}

impl Daily {
    /// A day of which nothing is used; the last `reserve` requests are for [`Share::Full`] alone.
    pub fn new(limit: Option<u64>, reserve: u64) -> Self {
        Daily { limit, reserve, used: 0, used_until: None, left: None, left_until: None }
    }

    /// Whether a request may be sent at `now`.
    ///
    /// # Errors
    /// When to ask again.
    pub fn ready(&mut self, share: Share, now: Instant, midnight: impl Fn() -> Midnight) -> Result<(), Instant> {
        let over = |until: Option<Instant>| until.is_some_and(|at| at <= now);
        if over(self.used_until) {
            (self.used, self.used_until) = (0, None);
        }
        if over(self.left_until) {
            (self.left, self.left_until) = (None, None);
        }
        let kept = if share == Share::Full { 0 } else { self.reserve };
        let mut wait = None;
        if let Some(limit) = self.limit {
            let ends_at = *self.used_until.get_or_insert_with(|| now + midnight().own());
            if limit.saturating_sub(self.used) <= kept {
                wait = Some(ends_at);
            }
        }
        if let Some(left) = self.left {
            let ends_at = *self.left_until.get_or_insert_with(|| now + midnight().hubspot());
            if left <= kept {
                wait = wait.max(Some(ends_at));
            }
        }
        wait.map_or(Ok(()), Err)
    }

    /// What is left of the day at `now`, as far as anybody has said.
    pub fn left(&self, now: Instant) -> Option<u64> {
        let over = |until: Option<Instant>| until.is_some_and(|at| at <= now);
        let own = self.limit.map(|limit| if over(self.used_until) { limit } else { limit.saturating_sub(self.used) });
        own.into_iter().chain(self.left.filter(|_| !over(self.left_until))).min()
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
        let midnight = || Midnight { here: Some(hour), utc: hour * 7 };
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
        let unknown = || Midnight { here: None, utc: Duration::from_secs(7 * 3600) };
        let mut daily = Daily::new(None, 0);
        assert_eq!(daily.ready(Share::Bulk, now, unknown), Ok(()));
        daily.told(1);
        assert_eq!(daily.ready(Share::Bulk, now, unknown), Ok(()));
        daily.sent();
        assert_eq!(daily.ready(Share::Full, now, unknown), Err(now + ASK_AGAIN));
        assert_eq!(daily.ready(Share::Full, now + ASK_AGAIN, unknown), Ok(()), "to see whether it is over");
    }

    #[test]
    fn our_own_limit_lasts_the_whole_day_where_the_time_zone_is_not_known() {
        let now = Instant::now();
        let day = Duration::from_secs(7 * 3600);
        let unknown = || Midnight { here: None, utc: day };
        let mut daily = Daily::new(Some(2), 0);
        for _ in 0..2 {
            assert_eq!(daily.ready(Share::Full, now, unknown), Ok(()));
            daily.sent();
        }
        assert_eq!(daily.ready(Share::Full, now, unknown), Err(now + day));
        // What HubSpot says is asked for anew meanwhile; that gives none of ours back.
        daily.told(0);
        for n in 0..28 {
            assert_eq!(daily.ready(Share::Full, now + ASK_AGAIN * n, unknown), Err(now + day), "after {n} quarters of an hour");
        }
        assert_eq!(daily.ready(Share::Full, now + day, unknown), Ok(()), "a new day");
    }
}
