//! The requests that an account may make: its window, its day, and the pauses that HubSpot or the way to it impose; and whoever waits for
//! them.

use super::budget::{Share, Told, Wait, Window};
use super::daily::{Daily, Midnight};
use super::outcome::Pause;
use super::settings::Budget as Limits;
use reqwest::header::HeaderMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The requests of one account.
#[derive(Debug)]
pub struct Allowance {
    window: Mutex<Window>,
    daily: Mutex<Daily>,
    /// The account's time zone, where it is known.
    zone: Option<jiff::tz::TimeZone>,
    /// The wall clock.
    wall: fn() -> jiff::Timestamp,
    /// Told of each answer.
    answered: Notify,
    /// Throttled answers without a pause of their own, since the last other answer.
    throttled: AtomicU64,
    /// The longest pause between two tries to reach HubSpot.
    pause_max: Duration,
    /// What keeps requests from being sent, while something does.
    out_of_reach: Mutex<Option<OutOfReach>>,
}

/// Requests can't be sent.
#[derive(Debug)]
struct OutOfReach {
    /// Why, last.
    why: String,
    /// Pauses so far.
    pauses: u32,
    /// The end of the last one. What fails before it was under way when it began.
    until: Instant,
}

/// A place in the budget, given back when the request is answered or given up.
pub struct Place<'a>(&'a Allowance);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.window().answered(Instant::now());
        self.0.answered.notify_waiters();
    }
}

impl Allowance {
    /// Nothing sent yet. `zone` is the account's, where it is known; `pause_max` the longest pause between two tries to reach HubSpot.
    pub fn new(limits: Limits, zone: Option<jiff::tz::TimeZone>, pause_max: Duration) -> Self {
        Allowance {
            window: Mutex::new(Window::new(limits.requests, limits.reserve, limits.per)),
            daily: Mutex::new(Daily::new(limits.daily, limits.reserve as u64)),
            zone,
            wall: jiff::Timestamp::now,
            answered: Notify::new(),
            throttled: AtomicU64::new(0),
            pause_max,
            out_of_reach: Mutex::default(),
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daily(&self) -> MutexGuard<'_, Daily> {
        self.daily.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far away midnight is.
    fn midnight(&self) -> Midnight {
        let now = (self.wall)();
        Midnight {
            here: self.zone.as_ref().and_then(|zone| until_midnight(now, zone)),
            utc: until_midnight(now, &jiff::tz::TimeZone::UTC).unwrap_or(Duration::from_secs(86_400)),
        }
    }

    /// Whether a request would be sent at once.
    pub fn ready(&self, share: Share, now: Instant) -> Result<(), Wait> {
        self.daily().ready(share, now, || self.midnight()).map_err(Wait::Until)?;
        self.window().ready(share, now)
    }

    /// Takes a place.
    fn take(&self, share: Share, now: Instant) -> Result<(), Wait> {
        let mut daily = self.daily();
        daily.ready(share, now, || self.midnight()).map_err(Wait::Until)?;
        self.window().take(share, now)?;
        daily.sent();
        Ok(())
    }

    /// Takes in what HubSpot says of its own count, in the answer to a request sent at `sent`.
    pub fn told(&self, told: Told, sent: Instant) {
        self.window().told(told, sent, Instant::now());
        if let Some(left) = told.daily_remaining {
            self.daily().told(left);
        }
    }

    /// Waits for a place; there is none any more once the sink stops.
    pub async fn place(&self, share: Share, mut stopping: watch::Receiver<bool>) -> Option<Place<'_>> {
        loop {
            if *stopping.borrow_and_update() {
                return None;
            }
            // Made before the question, so that an answer in between is not missed.
            let answered = self.answered.notified();
            let taken = self.take(share, Instant::now());
            match taken {
                Ok(()) => return Some(Place(self)),
                Err(Wait::Until(at)) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    _ = stopping.changed() => {}
                },
                Err(Wait::Answer) => tokio::select! {
                    () = answered => {}
                    _ = stopping.changed() => {}
                },
            }
        }
    }

    /// A request could not be sent: with `block`, nothing else is for at least so long, and 1, 2, 4 … [`Allowance::pause_max`]. Says whether
    /// the reason is new.
    pub fn unsent(&self, why: &str, block: Option<Duration>) -> bool {
        let now = Instant::now();
        let mut place = self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner);
        let new = place.as_ref().is_none_or(|before| before.why != why);
        let (pauses, until) = place.as_ref().map_or((0, now), |before| (before.pauses, before.until));
        let pause = block.filter(|_| until <= now).map(|asked| {
            let doubled = Duration::from_secs(1).saturating_mul(1 << pauses.min(10)).min(self.pause_max);
            // Half of it by chance, so that accounts do not come back together.
            asked.max(doubled.mul_f64(rand::random_range(0.5..=1.0)))
        });
        let until = pause.map_or(until, |pause| now + pause);
        *place = Some(OutOfReach { why: why.to_owned(), pauses: pauses + u32::from(pause.is_some()), until });
        if pause.is_some() {
            self.window().block_until(until);
        }
        new
    }

    /// An answer asked for no pause.
    pub fn unthrottled(&self) {
        self.throttled.store(0, Ordering::Relaxed);
    }

    /// Requests that may be sent at `now`, and how many are left of the day as far as is known.
    pub fn left(&self, now: Instant) -> (u64, Option<u64>) {
        (self.window().left(now) as u64, self.daily().left(now))
    }

    /// A request was sent; says whether that had not been possible.
    pub fn sent(&self) -> bool {
        self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// How long a throttled answer that does not say so itself blocks: 1, 2, 4 … 60 s.
    pub fn throttle(&self, asked: Pause) -> Duration {
        let times = self.throttled.fetch_add(1, Ordering::Relaxed).min(6);
        let pause = match asked {
            Pause::Day => self.midnight().hubspot(),
            asked => asked.or(Duration::from_secs(1 << times).min(Duration::from_secs(60))),
        };
        self.window().block_until(Instant::now() + pause);
        pause
    }
}

fn until_midnight(now: jiff::Timestamp, zone: &jiff::tz::TimeZone) -> Option<Duration> {
    let now = now.to_zoned_datetime(zone.clone());
    let tomorrow = now.tomorrow().ok()?.start_of_day().ok()?;
    Duration::try_from(tomorrow.duration_since(&now)).ok()
}

/// HubSpot's own count; all of its headers may be missing.
pub fn told_by(headers: &HeaderMap) -> Told {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let count = |name: &str| number(name).and_then(|count| usize::try_from(count).ok());
    Told {
        max: count("x-hubspot-ratelimit-max"),
        remaining: count("x-hubspot-ratelimit-remaining"),
        interval: number("x-hubspot-ratelimit-interval-milliseconds").map(Duration::from_millis),
        daily_remaining: number("x-hubspot-ratelimit-daily-remaining"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half past eleven in the evening in New York, on the day on which summer time ends, and a blink before that midnight.
    const EVENING: &str = "2026-11-02T04:30:00Z";
    const BLINK: &str = "2026-11-02T04:59:59.7Z";

    fn budget(zone: Option<&str>, wall: fn() -> jiff::Timestamp) -> Allowance {
        Allowance {
            window: Mutex::new(Window::new(10, 1, Duration::from_secs(10))),
            daily: Mutex::new(Daily::new(Some(1), 0)),
            zone: zone.map(|zone| jiff::tz::TimeZone::get(zone).expect("a zone")),
            wall,
            answered: Notify::new(),
            throttled: AtomicU64::new(0),
            pause_max: Duration::from_secs(60),
            out_of_reach: Mutex::default(),
        }
    }

    #[test]
    fn the_day_ends_at_the_accounts_midnight() {
        let evening = || EVENING.parse().expect("a time");
        let half = Duration::from_secs(1800);
        let midnight = budget(Some("America/New_York"), evening).midnight();
        assert_eq!((midnight.hubspot(), midnight.own()), (half, half));
        let unknown = budget(None, evening).midnight();
        assert_eq!(unknown.own(), Duration::from_secs(19 * 3600) + half, "in UTC");
        // At its first moment: the day on which summer time ends has 25 hours.
        let morning = || "2026-11-01T04:00:00Z".parse().expect("a time");
        assert_eq!(budget(Some("America/New_York"), morning).midnight().own(), Duration::from_secs(25 * 3600));
    }

    /// Both kinds of daily limit, ours and the one that HubSpot tells of.
    #[test]
    fn a_pause_until_midnight_ends_by_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for told in [None, Some(0)] {
            let budget = budget(Some("America/New_York"), || BLINK.parse().expect("a time"));
            let (_stop, stopping) = watch::channel(false);
            runtime.block_on(async {
                let began = Instant::now();
                drop(budget.place(Share::Full, stopping.clone()).await.expect("the last request of the day"));
                if let Some(left) = told {
                    budget.daily().told(left);
                }
                assert!(budget.ready(Share::Full, began).is_err(), "nothing is left");
                let waits = tokio::time::timeout(Duration::from_secs(60), budget.place(Share::Full, stopping));
                drop(waits.await.expect("it ends").expect("a place"));
                assert!(began.elapsed() >= Duration::from_millis(300), "not before midnight");
            });
        }
    }

    #[test]
    fn a_pause_of_a_quarter_of_an_hour_does_not_last_until_midnight() {
        let budget = budget(Some("America/New_York"), || EVENING.parse().expect("a time"));
        let quarter = Duration::from_secs(900);
        assert_eq!(budget.throttle(Pause::For(quarter)), quarter);
        assert_eq!(budget.throttle(Pause::Day), Duration::from_secs(1800), "{EVENING}");
    }
}
