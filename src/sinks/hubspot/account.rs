//! One HubSpot account as the sink sees it: what waits, what is under way, what it refuses.

use super::budget::Share;
use super::event_api::EventApi;
use super::lanes::{Batch, Lanes, Work};
use super::record::Lane;
use super::service::Service;
use super::suspects::Suspects;
use super::work::Suspend;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a suspended lane, or account, waits before one request finds out whether somebody has acted.
const SUSPENDED_FOR: Duration = Duration::from_secs(120);

/// Records of a lane that are refused alone, and nothing written in between, before the account is taken to refuse them all.
const DOUBTS: usize = 3;

/// One account.
#[derive(Debug, Default)]
pub struct Account {
    /// What waits.
    pub lanes: Lanes,
    /// Records in memory, by lane; those that were parked not among them.
    pub held: [usize; 3],
    /// Batches under way, by lane.
    pub in_flight: [usize; 3],
    /// Properties that the account refuses for every contact, with HubSpot's code.
    pub refused: BTreeMap<String, String>,
    /// What takes the events, once it is known.
    pub event_api: Option<EventApi>,
    /// Whether the account's contact properties are there.
    pub provisioned: bool,
    /// Who makes HubSpot stumble: by lane, then the e-mail addresses.
    pub suspects: [Suspects; 4],
    /// By lane, whether anything was written since the account was connected.
    written: [bool; 3],
    /// By lane, the records that were refused alone since something was written, for a reason that may be everybody's.
    doubts: [BTreeSet<String>; 3],
    /// What can't be written to, until when, and why. `None` is the whole account.
    suspended: BTreeMap<Option<Lane>, (Instant, String)>,
}

/// The part of the budget that a lane may use.
pub fn share(lane: Lane) -> Share {
    match lane {
        Lane::Stages => Share::Full,
        Lane::Properties | Lane::Events => Share::Bulk,
    }
}

impl Account {
    /// Stops writing to a lane or to all of the account; says whether that, or the reason, is new.
    pub fn suspend(&mut self, suspend: Suspend, now: Instant) -> bool {
        let Suspend { lane, why } = suspend;
        let before = self.suspended.insert(lane, (now + SUSPENDED_FOR, why.clone()));
        before.is_none_or(|(_, reason)| reason != why)
    }

    /// A lane was written to: what it is written with is right.
    pub fn written(&mut self, lane: Lane) {
        self.written[lane.index()] = true;
        self.doubts[lane.index()].clear();
    }

    /// A record was sent alone and refused for a reason that may be everybody's. Says whether to take it for that: nothing of the lane was
    /// ever written, or several records were refused since something was.
    pub fn doubted(&mut self, lane: Lane, key: &str) -> bool {
        let doubts = &mut self.doubts[lane.index()];
        if doubts.len() < DOUBTS {
            doubts.insert(key.to_owned());
        }
        !self.written[lane.index()] || doubts.len() >= DOUBTS
    }

    /// A lane was written to: nothing is in its way any more. Says whether something was.
    pub fn resume(&mut self, lane: Lane) -> bool {
        let lane = self.suspended.remove(&Some(lane)).is_some();
        self.suspended.remove(&None).is_some() || lane
    }

    /// The account was connected again: nothing that was in its way need be there any more.
    pub fn connected(&mut self) {
        self.suspended.clear();
        self.written = [false; 3];
        self.doubts.iter_mut().for_each(BTreeSet::clear);
    }

    /// Whether anything of the account is suspended, also when its time to be tried again has come.
    pub fn suspended(&self) -> bool {
        !self.suspended.is_empty()
    }

    fn closed_until(&self, lane: Lane, now: Instant) -> Option<Instant> {
        [None, Some(lane)].iter().filter_map(|key| self.suspended.get(key)).map(|(until, _)| *until).filter(|until| now < *until).max()
    }

    fn prepared(&self, work: Work) -> bool {
        match work {
            Work::Stages | Work::Emails => true,
            Work::Contacts => self.provisioned,
            Work::Events => self.event_api.is_some(),
        }
    }

    /// Whether another request of a lane may be under way. Deal stages have places of their own: what waits for slow answers to
    /// events never delays a deal.
    fn place(&self, lane: Lane, concurrency: usize) -> bool {
        let [stages, properties, events] = self.in_flight;
        match lane {
            Lane::Stages => stages < concurrency,
            Lane::Properties | Lane::Events => properties + events < concurrency,
        }
    }

    /// The next batch at `now`, if anything may be sent.
    pub fn next(&mut self, portal: &str, service: &Service, linger: Duration, concurrency: usize, now: Instant) -> Option<Batch> {
        let lanes = Lane::ALL.map(|lane| {
            self.place(lane, concurrency) && self.closed_until(lane, now).is_none() && service.ready(portal, share(lane), now).is_ok()
        });
        let open = Work::ALL.map(|work| self.prepared(work) && lanes[work.lane().index()]);
        let events_max = self.event_api.as_ref().map_or(1, |api| api.batch_max);
        self.lanes.next(|work| open[work as usize], events_max, linger, now)
    }

    /// When [`Account::next`] may next change by time alone.
    pub fn next_at(&self, portal: &str, service: &Service, linger: Duration, concurrency: usize, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        for work in Work::ALL.into_iter().filter(|work| self.prepared(*work) && self.place(work.lane(), concurrency)) {
            let Some(ripe) = self.lanes.next_at(work, linger) else { continue };
            // Without a time it is an answer that makes room, and answers wake the loop by themselves.
            let Ok(budget) = service.ready(portal, share(work.lane()), now).map_or_else(|at| at.map(Some).ok_or(()), |()| Ok(None)) else {
                continue;
            };
            let at = [Some(ripe), budget, self.closed_until(work.lane(), now)].into_iter().flatten().max();
            wake = wake.into_iter().chain(at).min();
        }
        wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deal_does_not_wait_for_what_is_under_way_for_others() {
        let account = Account { in_flight: [0, 1, 3], ..Account::default() };
        assert!(account.place(Lane::Stages, 4) && !account.place(Lane::Events, 4) && !account.place(Lane::Properties, 4));
    }

    #[test]
    fn one_record_closes_no_lane_that_works() {
        let mut account = Account::default();
        assert!(account.doubted(Lane::Events, "e1"), "nothing has ever been written: it is the type of event, or a scope");
        account.written(Lane::Events);
        for _ in 0..5 {
            assert!(!account.doubted(Lane::Events, "e1"), "the same again is one record");
        }
        assert!(account.doubted(Lane::Stages, "1"), "of another lane nothing is known");
        assert_eq!(["e2", "e3"].map(|key| account.doubted(Lane::Events, key)), [false, true]);
        account.written(Lane::Events);
        assert!(!account.doubted(Lane::Events, "e1"));
        account.connected();
        assert!(account.doubted(Lane::Events, "e1"), "other scopes than before");
    }

    #[test]
    fn a_suspension_is_told_once_and_ends_with_a_write() {
        let now = Instant::now();
        let mut account = Account::default();
        let suspend = |why: &str| Suspend { lane: Some(Lane::Stages), why: why.into() };
        assert!(account.suspend(suspend("scopes"), now));
        assert!(!account.suspend(suspend("scopes"), now + SUSPENDED_FOR), "the same reason again");
        assert!(account.suspend(suspend("other"), now));
        assert!(account.closed_until(Lane::Stages, now).is_some() && account.closed_until(Lane::Events, now).is_none());
        assert!(account.closed_until(Lane::Stages, now + SUSPENDED_FOR).is_none(), "time to find out");
        assert!(!account.resume(Lane::Events) && account.suspended());
        assert!(account.resume(Lane::Stages) && !account.suspended());
    }
}
