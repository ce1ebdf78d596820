//! One HubSpot account as the sink sees it: what waits, what is under way, what it refuses.

use super::budget::Share;
use super::event_api::EventApi;
use super::lanes::{Batch, Lanes, Work};
use super::record::Lane;
use super::service::Service;
use super::suspects::Suspects;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long suspended work, or a suspended account, waits before one request finds out whether somebody has acted.
const SUSPENDED_FOR: Duration = Duration::from_secs(120);

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
    /// Who makes HubSpot stumble, by kind of work.
    pub suspects: [Suspects; 4],
    /// What can't be written to, until when, and why. `None` is the whole account.
    suspended: BTreeMap<Option<Work>, (Instant, String)>,
}

/// The part of the budget that a lane may use.
pub fn share(lane: Lane) -> Share {
    match lane {
        Lane::Stages => Share::Full,
        Lane::Properties | Lane::Events => Share::Bulk,
    }
}

impl Account {
    /// Stops a kind of work, or all of the account's; says whether that, or the reason, is new.
    pub fn suspend(&mut self, work: Option<Work>, why: &str, now: Instant) -> bool {
        let before = self.suspended.insert(work, (now + SUSPENDED_FOR, why.to_owned()));
        before.is_none_or(|(_, reason)| reason != why)
    }

    /// Work was done: nothing is in its way any more. Says whether something was.
    pub fn resume(&mut self, work: Work) -> bool {
        let work = self.suspended.remove(&Some(work)).is_some();
        self.suspended.remove(&None).is_some() || work
    }

    /// The account was connected again: nothing that was in its way need be there any more.
    pub fn connected(&mut self) {
        self.suspended.clear();
    }

    /// Whether anything of the account is suspended, also when its time to be tried again has come.
    pub fn suspended(&self) -> bool {
        !self.suspended.is_empty()
    }

    fn closed_until(&self, work: Work, now: Instant) -> Option<Instant> {
        [None, Some(work)].iter().filter_map(|key| self.suspended.get(key)).map(|(until, _)| *until).filter(|until| now < *until).max()
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
        let lanes = Lane::ALL.map(|lane| self.place(lane, concurrency) && service.ready(portal, share(lane), now).is_ok());
        let open = Work::ALL.map(|work| self.prepared(work) && lanes[work.lane().index()] && self.closed_until(work, now).is_none());
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
            let at = [Some(ripe), budget, self.closed_until(work, now)].into_iter().flatten().max();
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
    fn a_suspension_is_told_once_and_ends_with_a_write() {
        let now = Instant::now();
        let mut account = Account::default();
        let emails = Some(Work::Emails);
        assert!(account.suspend(emails, "scopes", now));
        assert!(!account.suspend(emails, "scopes", now + SUSPENDED_FOR), "the same reason again");
        assert!(account.suspend(emails, "other", now));
        assert!(account.closed_until(Work::Emails, now).is_some() && account.closed_until(Work::Contacts, now).is_none());
        assert!(account.closed_until(Work::Emails, now + SUSPENDED_FOR).is_none(), "time to find out");
        assert!(!account.resume(Work::Contacts) && account.suspended());
        assert!(account.resume(Work::Emails) && !account.suspended());
    }
}
