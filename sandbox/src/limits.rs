//! Rolling-window and daily rate limits.
//!
//! A window of `length` holds at most `max` requests: a request at `t` counts those in `(t − length, t]`. A refused request
//! does not count (HubSpot's documents do not say; were it counted, a client that keeps knocking would never get in).

use std::collections::{HashMap, VecDeque};

/// What kind of budget a path draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// 110 per 10 s, app and portal.
    Burst,
    /// 5 per second and portal; answers carry no limit headers.
    Search,
    /// Not limited here.
    Exempt,
}

impl Budget {
    /// The budget of a path: CRM search has its own, batch associations and custom events are exempt, everything else is inside
    /// the burst limit.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/crm/") && path.ends_with("/search") {
            Self::Search
        } else if path.contains("/associations/") && path.contains("/batch/") || path.starts_with("/events/") && path.contains("/send") {
            Self::Exempt
        } else {
            Self::Burst
        }
    }
}

/// Whose budget a request draws on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// An OAuth app (by its index) in a portal.
    App(usize, String),
    /// A static token in a portal.
    Static(u64, String),
    /// All static tokens of a portal together.
    StaticTokens(String),
    /// Everybody who searches in a portal.
    Search(String),
}

/// The rolling windows and the days of every holder.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    windows: HashMap<Holder, VecDeque<u64>>,
    /// (day since the Unix epoch, requests of that day)
    days: HashMap<Holder, (u64, u64)>,
}

/// Milliseconds of the burst window.
pub(crate) const BURST_MS: u64 = 10_000;
/// Milliseconds of the search window.
pub(crate) const SEARCH_MS: u64 = 1_000;
/// Milliseconds of a day.
pub(crate) const DAY_MS: u64 = 86_400_000;

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes, and this many more may follow at once.
    Pass { remaining: u64 },
    /// No; the next one may pass after this many milliseconds.
    Refuse { after_ms: u64 },
}

impl Limits {
    /// Asks for one request in a rolling window.
    pub fn ask(&mut self, holder: Holder, now: u64, max: usize, length_ms: u64) -> Verdict {
        let window = self.windows.entry(holder).or_default();
        while window.front().is_some_and(|at| at + length_ms <= now) {
            window.pop_front();
        }
        if window.len() < max {
            window.push_back(now);
            return Verdict::Pass { remaining: (max - window.len()) as u64 };
        }
        let oldest = window.front().copied().unwrap_or(now);
        Verdict::Refuse { after_ms: (oldest + length_ms).saturating_sub(now) }
    }

    /// Asks for one request of a day (UTC).
    pub fn ask_day(&mut self, holder: Holder, now: u64, max: u64) -> Verdict {
        let today = now / DAY_MS;
        let (day, used) = self.days.entry(holder).or_default();
        if *day != today {
            (*day, *used) = (today, 0);
        }
        if *used < max {
            *used += 1;
            return Verdict::Pass { remaining: max - *used };
        }
        Verdict::Refuse { after_ms: (today + 1) * DAY_MS - now }
    }

    /// Requests that a holder has made today.
    pub fn used_today(&self, holder: &Holder, now: u64) -> u64 {
        self.days.get(holder).filter(|(day, _)| *day == now / DAY_MS).map_or(0, |(_, used)| *used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_rolls() {
        let mut limits = Limits::default();
        let app = |index, portal: &str| Holder::App(index, portal.to_owned());
        for i in 0..3 {
            assert_eq!(limits.ask(app(0, "1"), i * 100, 3, 1000), Verdict::Pass { remaining: 2 - i });
        }
        assert_eq!(limits.ask(app(0, "1"), 999, 3, 1000), Verdict::Refuse { after_ms: 1 });
        assert_eq!(limits.ask(app(0, "1"), 1000, 3, 1000), Verdict::Pass { remaining: 0 }, "the one at 0 has left the window");
        assert_eq!(limits.ask(app(0, "1"), 1001, 3, 1000), Verdict::Refuse { after_ms: 99 }, "the one at 100 has not");
        assert_eq!(limits.ask(app(1, "1"), 1001, 3, 1000), Verdict::Pass { remaining: 2 }, "another app");
        assert_eq!(limits.ask(app(0, "2"), 1001, 3, 1000), Verdict::Pass { remaining: 2 }, "another portal");
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let mut limits = Limits::default();
        let holder = || Holder::StaticTokens("1".into());
        assert_eq!(limits.ask_day(holder(), DAY_MS + 5, 1), Verdict::Pass { remaining: 0 });
        assert_eq!(limits.ask_day(holder(), DAY_MS + 6, 1), Verdict::Refuse { after_ms: DAY_MS - 6 });
        assert_eq!(limits.used_today(&holder(), DAY_MS + 6), 1);
        assert_eq!(limits.ask_day(holder(), 2 * DAY_MS, 1), Verdict::Pass { remaining: 0 });
    }

    #[test]
    fn paths_have_their_budgets() {
        assert_eq!(Budget::of("/crm/v3/objects/deals/search"), Budget::Search);
        assert_eq!(Budget::of("/crm/v4/associations/contacts/deals/batch/read"), Budget::Exempt);
        assert_eq!(Budget::of("/crm/v3/objects/contacts/batch/update"), Budget::Burst);
        assert_eq!(Budget::of("/crm/v4/objects/contacts/1/associations/deals"), Budget::Burst);
        assert_eq!(Budget::of("/events/2026-03/send/batch"), Budget::Exempt);
        assert_eq!(Budget::of("/events/v3/event-definitions"), Budget::Burst);
    }
}
