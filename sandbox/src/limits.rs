//! Rolling-window rate limits.
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
    /// The budget of a path: search has its own, batch associations are exempt, everything else is inside the burst limit.
    pub fn of(path: &str) -> Self {
        if path.ends_with("/search") {
            Self::Search
        } else if path.contains("/associations/") && path.contains("/batch/") {
            Self::Exempt
        } else {
            Self::Burst
        }
    }
}

/// The windows of every (app, portal) and of every portal's search.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    windows: HashMap<(Option<usize>, String), VecDeque<u64>>,
}

/// Milliseconds of the burst window.
pub(crate) const BURST_MS: u64 = 10_000;
/// Milliseconds of the search window.
pub(crate) const SEARCH_MS: u64 = 1_000;

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes, and this many more may follow at once.
    Pass { remaining: usize },
    /// No; the next one may pass after this many milliseconds.
    Refuse { after_ms: u64 },
}

impl Limits {
    /// Asks for one request of the app at index `app` (none for search) in `portal`.
    pub fn ask(&mut self, app: Option<usize>, portal: &str, now: u64, max: usize, length_ms: u64) -> Verdict {
        let window = self.windows.entry((app, portal.to_owned())).or_default();
        while window.front().is_some_and(|at| at + length_ms <= now) {
            window.pop_front();
        }
        if window.len() < max {
            window.push_back(now);
            return Verdict::Pass { remaining: max - window.len() };
        }
        let oldest = window.front().copied().unwrap_or(now);
        Verdict::Refuse { after_ms: (oldest + length_ms).saturating_sub(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_rolls() {
        let mut limits = Limits::default();
        for i in 0..3 {
            assert_eq!(limits.ask(Some(0), "1", i * 100, 3, 1000), Verdict::Pass { remaining: 2 - i as usize });
        }
        assert_eq!(limits.ask(Some(0), "1", 999, 3, 1000), Verdict::Refuse { after_ms: 1 });
        assert_eq!(limits.ask(Some(0), "1", 1000, 3, 1000), Verdict::Pass { remaining: 0 }, "the one at 0 has left the window");
        assert_eq!(limits.ask(Some(0), "1", 1001, 3, 1000), Verdict::Refuse { after_ms: 99 }, "the one at 100 has not");
        assert_eq!(limits.ask(Some(1), "1", 1001, 3, 1000), Verdict::Pass { remaining: 2 }, "another app");
        assert_eq!(limits.ask(Some(0), "2", 1001, 3, 1000), Verdict::Pass { remaining: 2 }, "another portal");
    }

    #[test]
    fn paths_have_their_budgets() {
        assert_eq!(Budget::of("/crm/v3/objects/deals/search"), Budget::Search);
        assert_eq!(Budget::of("/crm/v4/associations/contacts/deals/batch/read"), Budget::Exempt);
        assert_eq!(Budget::of("/crm/v3/objects/contacts/batch/update"), Budget::Burst);
        assert_eq!(Budget::of("/crm/v4/objects/contacts/1/associations/deals"), Budget::Burst);
    }
}
