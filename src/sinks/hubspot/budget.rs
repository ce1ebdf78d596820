//! How many requests the sink allows itself: never more than `limit` in any window of `length`.
//!
//! HubSpot counts requests as they arrive, the sink as it sends them, and between the two lies a delay that varies: 110 requests
//! that were slow to arrive and 110 quick ones ten seconds later can meet within ten seconds. So a request holds its place from the
//! moment it is sent until `length` after its **answer** (or until it is given up), which is no earlier than its arrival. That
//! costs the latency of a request in throughput, and makes a 429 a sign that somebody else uses the same app.
//!
//! A 429 moves the window's clock ([`Window::block_until`]); it is no failure of the request. Time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much of the budget a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All of it: deal stages and what they need.
    Full,
    /// All but the reserve: properties and events.
    Bulk,
}

/// The window of one account.
#[derive(Debug)]
pub struct Window {
    limit: usize,
    reserve: usize,
    length: Duration,
    /// Sent, not yet answered.
    in_flight: usize,
    /// When the places of answered requests become free, ascending.
    free_at: VecDeque<Instant>,
    blocked_until: Option<Instant>,
}

/// When a refused request may ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not before then.
    Until(Instant),
    /// As soon as a request in flight is answered; nobody knows when.
    Answer,
}

impl Window {
    /// An empty window; `reserve` of the `limit` places are for [`Share::Full`] alone.
    pub fn new(limit: usize, reserve: usize, length: Duration) -> Self {
        Window { limit, reserve, length, in_flight: 0, free_at: VecDeque::new(), blocked_until: None }
    }

    /// Whether a request may be sent at `now`; it takes no place.
    ///
    /// # Errors
    /// When to ask again.
    pub fn ready(&mut self, share: Share, now: Instant) -> Result<(), Wait> {
        if let Some(until) = self.blocked_until {
            if now < until {
                return Err(Wait::Until(until));
            }
            self.blocked_until = None;
        }
        while self.free_at.front().is_some_and(|at| *at <= now) {
            self.free_at.pop_front();
        }
        let allowed = match share {
            Share::Full => self.limit,
            Share::Bulk => self.limit - self.reserve,
        };
        let taken = self.in_flight + self.free_at.len();
        if taken < allowed {
            return Ok(());
        }
        // `taken - allowed + 1` places must become free, the oldest ones first.
        match self.free_at.get(taken - allowed) {
            Some(at) => Err(Wait::Until(*at)),
            None => Err(Wait::Answer),
        }
    }

    /// Takes a place for a request that is sent at `now`.
    ///
    /// # Errors
    /// As [`Window::ready`].
    pub fn take(&mut self, share: Share, now: Instant) -> Result<(), Wait> {
        self.ready(share, now)?;
        self.in_flight += 1;
        Ok(())
    }

    /// A request was answered, or given up, at `now`.
    pub fn answered(&mut self, now: Instant) {
        debug_assert!(self.in_flight > 0, "an answer to a request that took no place");
        self.in_flight = self.in_flight.saturating_sub(1);
        let at = now + self.length;
        // Time handed in by different tasks may step back by a hair; the order of the queue must not.
        let at = self.free_at.back().map_or(at, |last| at.max(*last));
        self.free_at.push_back(at);
    }

    /// Nothing is sent before `until`.
    pub fn block_until(&mut self, until: Instant) {
        self.blocked_until = Some(self.blocked_until.map_or(until, |old| old.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTH: Duration = Duration::from_secs(10);

    #[test]
    fn a_place_is_free_one_window_after_the_answer() {
        let start = Instant::now();
        let mut window = Window::new(2, 0, LENGTH);
        assert_eq!(window.take(Share::Bulk, start), Ok(()));
        assert_eq!(window.take(Share::Bulk, start), Ok(()));
        assert_eq!(window.take(Share::Bulk, start + LENGTH), Err(Wait::Answer));
        let answer = start + Duration::from_secs(1);
        window.answered(answer);
        assert_eq!(window.take(Share::Bulk, start + LENGTH), Err(Wait::Until(answer + LENGTH)));
        assert_eq!(window.take(Share::Bulk, answer + LENGTH), Ok(()));
    }

    #[test]
    fn the_reserve_is_for_deal_stages() {
        let now = Instant::now();
        let mut window = Window::new(3, 1, LENGTH);
        assert_eq!(window.take(Share::Bulk, now), Ok(()));
        assert_eq!(window.take(Share::Bulk, now), Ok(()));
        assert_eq!(window.take(Share::Bulk, now), Err(Wait::Answer));
        assert_eq!(window.take(Share::Full, now), Ok(()));
        assert_eq!(window.take(Share::Full, now), Err(Wait::Answer));
        window.answered(now);
        assert_eq!(window.take(Share::Full, now), Err(Wait::Until(now + LENGTH)));
        assert_eq!(window.take(Share::Bulk, now), Err(Wait::Answer), "two places must become free, and only one is known");
    }

    #[test]
    fn a_block_holds_and_only_grows() {
        let now = Instant::now();
        let mut window = Window::new(3, 0, LENGTH);
        window.block_until(now + LENGTH);
        window.block_until(now + Duration::from_secs(1));
        assert_eq!(window.take(Share::Full, now), Err(Wait::Until(now + LENGTH)));
        assert_eq!(window.take(Share::Full, now + LENGTH), Ok(()));
    }

    proptest! {
        /// Whatever the delays to HubSpot and back: no window of ten seconds sees more than the limit arrive.
        #[test]
        fn never_more_than_the_limit_arrives_in_any_window(
            limit in 1usize..12,
            reserve_share in 0usize..12,
            requests in prop::collection::vec((0u64..3_000, 0u64..4_000, 0u64..4_000, any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let ms = Duration::from_millis;
            let mut window = Window::new(limit, reserve_share % limit, LENGTH);
            let mut now = 0u64;
            let mut answers: Vec<u64> = Vec::new();
            let mut arrivals: Vec<u64> = Vec::new();
            for (gap, there, back, full) in requests {
                now += gap;
                answers.sort_unstable_by(|a, b| b.cmp(a));
                while answers.last().is_some_and(|at| *at <= now) {
                    let at = answers.pop().expect("just seen");
                    window.answered(start + ms(at));
                }
                let share = if full { Share::Full } else { Share::Bulk };
                if window.take(share, start + ms(now)).is_ok() {
                    arrivals.push(now + there);
                    answers.push(now + there + back);
                }
            }
            arrivals.sort_unstable();
            for (i, first) in arrivals.iter().enumerate() {
                let within = arrivals[i..].iter().take_while(|at| **at < first + 10_000).count();
                prop_assert!(within <= limit, "{within} requests within ten seconds of {first}");
            }
        }
    }
}
