//! How many requests the sink allows itself: never more than `limit` in any window of `length`.
//!
//! HubSpot counts requests as they arrive, the sink as it sends them, and between the two lies a delay that varies: 110 requests
//! that were slow to arrive and 110 quick ones ten seconds later can meet within ten seconds. So a request holds its place from the
//! moment it is sent until `length` after its **answer** (or until it is given up), which is no earlier than its arrival. That
//! costs the latency of a request in throughput, and makes a 429 a sign that somebody else uses the same app.
//!
//! Requests for properties and events are spread evenly over the window, but for a small burst: then a place becomes free every tenth of a
//! second rather than a hundred at once, and a deal, which takes whatever is free, never waits for the next window.
//!
//! A 429 moves the window's clock ([`Window::block_until`]); it is no failure of the request. Time is passed in.
//!
//! HubSpot's own count comes with its answers ([`Window::told`]). What it has counted and we have not sent was sent by somebody else with
//! the same app, or by ourselves before a restart; it takes places, too. A smaller limit than ours wins.

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

/// HubSpot's own count, as the headers of an answer tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Requests it allows in [`Told::interval`].
    pub max: Option<usize>,
    /// Requests that are left of them.
    pub remaining: Option<usize>,
    /// The length of its window.
    pub interval: Option<Duration>,
    /// Requests that are left of the day's.
    pub daily_remaining: Option<u64>,
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
    /// When places became free that an answer under way may still count, ascending.
    freed: VecDeque<Instant>,
    blocked_until: Option<Instant>,
    /// When the next request of [`Share::Bulk`] would be sent, were they spread evenly.
    bulk_at: Option<Instant>,
    /// HubSpot's limit, where it is smaller than ours.
    told_limit: Option<usize>,
    /// Requests of others, and until when they are held to count.
    others: Option<(usize, Instant)>,
}

/// How long an answer may be under way and still be compared with what was counted when its request was sent.
const REMEMBERED: Duration = Duration::from_secs(60);

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
        Window {
            limit,
            reserve,
            length,
            in_flight: 0,
            free_at: VecDeque::new(),
            freed: VecDeque::new(),
            blocked_until: None,
            bulk_at: None,
            told_limit: None,
            others: None,
        }
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
        while let Some(at) = self.free_at.front().copied().filter(|at| *at <= now) {
            self.free_at.pop_front();
            self.freed.push_back(at);
        }
        while self.freed.front().is_some_and(|at| *at + REMEMBERED <= now) {
            self.freed.pop_front();
        }
        let limit = self.told_limit.map_or(self.limit, |told| told.min(self.limit)).max(1);
        let allowed = match share {
            Share::Full => limit,
            Share::Bulk => limit - self.reserve.min(limit - 1),
        };
        let others = self.others.filter(|(_, until)| now < *until);
        let taken = self.in_flight + self.free_at.len() + others.map_or(0, |(count, _)| count);
        if taken < allowed {
            let (spread, burst) = self.spread();
            let at = self.bulk_at.and_then(|at| at.checked_sub(spread * burst)).filter(|at| now < *at && share == Share::Bulk);
            return at.map_or(Ok(()), |at| Err(Wait::Until(at)));
        }
        // `taken - allowed + 1` places must become free, the oldest ones first; or the others' cease to count.
        let own = self.free_at.get(taken - allowed).copied();
        match own.into_iter().chain(others.map(|(_, until)| until)).min() {
            Some(at) => Err(Wait::Until(at)),
            None => Err(Wait::Answer),
        }
    }

    /// Requests that may be sent at `now` before the window is full.
    pub fn left(&mut self, now: Instant) -> usize {
        // It forgets what is over.
        let _ = self.ready(Share::Full, now);
        let limit = self.told_limit.map_or(self.limit, |told| told.min(self.limit)).max(1);
        let others = self.others.filter(|(_, until)| now < *until).map_or(0, |(count, _)| count);
        if self.blocked_until.is_some() { 0 } else { limit.saturating_sub(self.in_flight + self.free_at.len() + others) }
    }

    /// Between two requests that are spread evenly, and how many may be ahead of that. A window of few places is not spread.
    fn spread(&self) -> (Duration, u32) {
        let places = u32::try_from(self.limit - self.reserve).unwrap_or(u32::MAX).max(1);
        (self.length / places, if places < 20 { places } else { places / 10 })
    }

    /// HubSpot's own count, as it came at `now` with the answer to a request that was sent at `sent`.
    pub fn told(&mut self, told: Told, sent: Instant, now: Instant) {
        let (Some(max), Some(remaining)) = (told.max, told.remaining) else { return };
        // Another window's count says nothing of this one.
        if told.interval.is_some_and(|interval| interval != self.length) {
            return;
        }
        self.told_limit = (max < self.limit).then_some(max);
        // Each of ours that HubSpot counts had its place when this request was sent, or has been sent since.
        let ours = self.in_flight + self.free_at.len() + self.freed.iter().filter(|at| **at > sent).count();
        let others = max.saturating_sub(remaining).saturating_sub(ours);
        self.others = (others > 0).then(|| (others, now + self.length));
    }

    /// Takes a place for a request that is sent at `now`.
    ///
    /// # Errors
    /// As [`Window::ready`].
    pub fn take(&mut self, share: Share, now: Instant) -> Result<(), Wait> {
        self.ready(share, now)?;
        self.in_flight += 1;
        if share == Share::Bulk {
            // A timer that fires late costs nothing: the next one is not later for it.
            self.bulk_at = Some(self.bulk_at.map_or(now, |at| at.max(now)) + self.spread().0);
        }
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
    fn bulk_is_spread_and_a_deal_finds_a_place_soon() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut window = Window::new(110, 3, LENGTH);
        let (mut sent, mut late) = (0, Duration::ZERO);
        // A backlog without end, answers after 50 ms, a deal every 700 ms that needs one place.
        let (mut answers, mut deal) = (VecDeque::new(), None);
        for tick in 0..60_000u64 {
            let now = start + ms(tick);
            while answers.front().is_some_and(|at| *at <= now) {
                answers.pop_front();
                window.answered(now);
            }
            if tick % 700 == 0 {
                deal = deal.or(Some(now));
            }
            let mut take = |share| window.take(share, now).is_ok().then(|| answers.push_back(now + ms(50))).is_some();
            if let Some(since) = deal
                && take(Share::Full)
            {
                (late, deal) = (late.max(now - since), None);
                sent += 1;
            }
            sent += usize::from(take(Share::Bulk));
        }
        assert!(late < ms(300), "{late:?}");
        assert!(sent as f64 >= 0.95 * 660.0, "{sent} of 660");
    }

    #[test]
    fn what_others_have_sent_takes_places_for_one_window() {
        let now = Instant::now();
        let told = |max, remaining| Told { max: Some(max), remaining: Some(remaining), interval: Some(LENGTH), daily_remaining: None };
        let mut window = Window::new(10, 2, LENGTH);
        assert_eq!(window.take(Share::Full, now), Ok(()));
        window.told(told(10, 9), now, now);
        assert_eq!(window.ready(Share::Bulk, now), Ok(()), "the one is ours");
        window.told(told(10, 1), now, now);
        assert_eq!(window.ready(Share::Bulk, now), Err(Wait::Until(now + LENGTH)));
        assert_eq!(window.ready(Share::Full, now), Ok(()), "one place is left");
        assert_eq!(window.ready(Share::Bulk, now + LENGTH), Ok(()));
        // A smaller limit wins, and is forgotten when it is taken back.
        window.told(told(1, 0), now, now);
        assert_eq!(window.ready(Share::Full, now), Err(Wait::Answer));
        window.told(told(250, 249), now, now);
        assert_eq!(window.ready(Share::Bulk, now), Ok(()));
        window.told(Told { interval: Some(Duration::from_secs(1)), ..told(1, 0) }, now, now);
        assert_eq!(window.ready(Share::Bulk, now), Ok(()), "another window's count");
    }

    #[test]
    fn places_that_became_free_under_way_are_not_taken_for_others() {
        let start = Instant::now();
        let mut window = Window::new(4, 0, LENGTH);
        for _ in 0..3 {
            assert_eq!(window.take(Share::Full, start), Ok(()));
            window.answered(start);
        }
        let sent = start + LENGTH - Duration::from_millis(10);
        assert_eq!(window.take(Share::Full, sent), Ok(()));
        let answer = start + LENGTH + Duration::from_millis(10);
        assert_eq!(window.ready(Share::Full, answer), Ok(()));
        window.told(Told { max: Some(4), remaining: Some(0), interval: None, daily_remaining: None }, sent, answer);
        assert_eq!(window.others, None);
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
