//! One HubSpot account as the sink sees it: what waits, what is under way, what it refuses.

use super::budget::Share;
use super::event_api::EventApi;
use super::lanes::{Batch, Lanes, Work};
use super::record::Lane;
use super::service::Service;
use super::suspects::Suspects;
use crate::model::time::{self, Ms};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long suspended work, or a suspended account, waits before one request finds out whether somebody has acted.
const SUSPENDED_FOR: Duration = Duration::from_secs(120);

/// How long a property that the account refuses is not looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
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
    /// When it is prepared next: its type of event and contact properties are looked at, or made.
    pub preparation: Preparation,
    /// When the time of its parked records begins anew next, while their contacts may not be looked for.
    pub anew_at: Option<Instant>,
    /// How often its connection had come back to life, when it was looked at last.
    pub revived: u64,
    /// Whether the account's contact properties are there.
    pub provisioned: bool,
    /// Who makes HubSpot stumble, by kind of work.
    pub suspects: [Suspects; 4],
    /// By lane, whether anything was written since the account was connected.
    written: [bool; 3],
    /// By lane, how often something was written.
    writes: [u64; 3],
    /// By lane, the records that were first refused alone since something was written, for a reason that may be everybody's.
    doubts: [BTreeSet<String>; 3],
    /// What can't be written to. `None` is the whole account.
    suspended: BTreeMap<Option<Work>, Suspension>,
    /// When each kind of work was last resumed after a suspension, ms since the Unix epoch; 0 is never.
    resumed_at: [Ms; 4],
}

/// Why and for how long something can't be written to.
#[derive(Debug)]
struct Suspension {
    /// Then one request finds out whether that is still so.
    until: Instant,
    why: String,
    /// Whether single records alone speak for it, so that the time may be theirs after all.
    doubt: bool,
}

/// When an account is prepared: one preparation at a time, however many have asked for it.
#[derive(Debug, Default)]
pub struct Preparation {
    /// The earliest time that somebody has asked for.
    next_at: Option<Instant>,
    /// Whether one is under way.
    running: bool,
}

impl Preparation {
    /// Asks for one at `at` or before. What is asked for while one is under way begins after it.
    pub fn wish(&mut self, at: Instant) {
        self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
    }

    /// Whether one begins at `now`, which is then under way until [`Preparation::ended`].
    pub fn begins(&mut self, now: Instant) -> bool {
        let begins = !self.running && self.next_at.take_if(|at| *at <= now).is_some();
        self.running |= begins;
        begins
    }

    /// The one that was under way is over.
    pub fn ended(&mut self) {
        self.running = false;
    }

    /// When one may next begin by time alone.
    pub fn next_at(&self) -> Option<Instant> {
        self.next_at.filter(|_| !self.running)
    }
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
        self.insert(work, Suspension { until: now + SUSPENDED_FOR, why: why.to_owned(), doubt: false })
    }

    /// Stops a kind of work because [`Account::doubted`] says so. It ends without its records' failures counting anew: should it have been
    /// their own fault, they would be tried for ever.
    pub fn suspend_in_doubt(&mut self, work: Work, why: &str, now: Instant) -> bool {
        let doubt = self.suspended.get(&Some(work)).is_none_or(|before| before.doubt);
        self.insert(Some(work), Suspension { until: now + SUSPENDED_FOR, why: why.to_owned(), doubt })
    }

    fn insert(&mut self, work: Option<Work>, suspension: Suspension) -> bool {
        let why = suspension.why.clone();
        self.suspended.insert(work, suspension).is_none_or(|before| before.why != why)
    }

    /// A lane was written to: what it is written with is right.
    pub fn written(&mut self, lane: Lane) {
        self.written[lane.index()] = true;
        self.writes[lane.index()] += 1;
        self.doubts[lane.index()].clear();
    }

    /// A record was sent alone and refused for a reason that may be everybody's; `first` is how often its lane had been written to when
    /// that was so first. Says whether to take it for that: nothing of the lane was ever written, or several records were refused since
    /// something was. Records that had been refused while others were written are no sign of it.
    pub fn doubted(&mut self, lane: Lane, key: &str, first: &mut Option<u64>) -> bool {
        let writes = self.writes[lane.index()];
        let doubts = &mut self.doubts[lane.index()];
        if *first.get_or_insert(writes) == writes && doubts.len() < DOUBTS {
            doubts.insert(key.to_owned());
        }
        !self.written[lane.index()] || doubts.len() >= DOUBTS
    }

    /// Work was done: nothing is in its way any more. Says whether something was.
    pub fn resume(&mut self, work: Work) -> bool {
        let alone = self.suspended.remove(&Some(work));
        let all = self.suspended.remove(&None).is_some();
        let now = time::now();
        let sure = alone.as_ref().is_some_and(|alone| !alone.doubt);
        for other in Work::ALL.into_iter().filter(|other| all || (sure && *other == work)) {
            self.resumed_at[other as usize] = now;
        }
        all || alone.is_some()
    }

    /// Every request of a preparation was answered: what an earlier one ran into is out of the way. What is `gated`, by kind of work,
    /// stays suspended.
    pub fn ready(&mut self, gated: [bool; 4]) {
        for work in [Work::Contacts, Work::Events].into_iter().filter(|work| !gated[*work as usize]) {
            self.resume(work);
        }
    }

    /// The account was connected again: nothing that was in its way need be there any more.
    pub fn connected(&mut self) {
        let now = time::now();
        for work in Work::ALL.into_iter().filter(|work| [None, Some(*work)].iter().any(|key| self.suspended.contains_key(key))) {
            self.resumed_at[work as usize] = now;
        }
        self.suspended.clear();
        self.written = [false; 3];
        self.doubts.iter_mut().for_each(BTreeSet::clear);
    }

    /// Nobody has tried anything for long, for the process stood still: the failures of before count no longer.
    pub fn stood_still(&mut self, now: Ms) {
        self.resumed_at = [now; 4];
    }

    /// Properties are refused: some time after `now` somebody may have put them in order.
    pub fn look_again(&mut self, now: Instant) {
        self.preparation.wish(now + LOOK_AGAIN);
    }

    /// Whether failures of this kind of work since then (ms since the Unix epoch) go on without an end so far: where it was suspended
    /// in between, HubSpot was not asked, and its failures count anew.
    pub fn unbroken(&self, work: Work, since: Ms) -> bool {
        since >= self.resumed_at[work as usize]
    }

    /// Whether a kind of work is suspended by itself, also when its time to be tried again has come; and whether that is still to come.
    pub fn suspended_alone(&self, work: Work, now: Instant) -> (bool, bool) {
        let found = self.suspended.get(&Some(work));
        (found.is_some(), found.is_some_and(|found| now < found.until))
    }

    /// Whether anything of the account is suspended, also when its time to be tried again has come.
    pub fn suspended(&self) -> bool {
        !self.suspended.is_empty()
    }

    fn closed_until(&self, work: Work, now: Instant) -> Option<Instant> {
        [None, Some(work)].iter().filter_map(|key| self.suspended.get(key)).map(|found| found.until).filter(|until| now < *until).max()
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
    fn what_is_refused_is_looked_at_again_once_in_a_while() {
        let now = Instant::now();
        let mut account = Account::default();
        assert!(!account.preparation.begins(now + LOOK_AGAIN));
        account.look_again(now);
        account.look_again(now + LOOK_AGAIN / 2);
        assert!(!account.preparation.begins(now + LOOK_AGAIN / 2));
        assert!(account.preparation.begins(now + LOOK_AGAIN) && !account.preparation.begins(now + LOOK_AGAIN), "once");
    }

    #[test]
    fn preparations_follow_one_another_and_do_not_multiply() {
        let (minute, began) = (Duration::from_secs(60), Instant::now());
        let mut account = Account::default();
        account.preparation.wish(began);
        // For a day one property is refused, and the type of event can't be made: each is a reason to come back.
        let mut begun = 0;
        for second in 0..86_400 {
            let now = began + Duration::from_secs(second);
            if account.preparation.begins(now) {
                begun += 1;
                assert!(account.preparation.next_at().is_none(), "one at a time");
                account.preparation.ended();
                account.look_again(now);
                account.preparation.wish(now + minute);
            }
        }
        assert_eq!(begun, 24 * 60, "once a minute");
        // Who asks meanwhile has one that begins later, for the one under way may not have seen what he has.
        let now = began + Duration::from_secs(86_400);
        assert!(account.preparation.begins(now));
        account.preparation.wish(now);
        assert!(!account.preparation.begins(now));
        account.preparation.ended();
        assert!(account.preparation.begins(now));
    }

    #[test]
    fn failures_from_before_a_standstill_count_no_longer() {
        let mut account = Account::default();
        assert!(account.unbroken(Work::Events, 1_000));
        account.stood_still(9_000);
        assert!(Work::ALL.iter().all(|work| !account.unbroken(*work, 1_000) && account.unbroken(*work, 9_000)));
    }

    #[test]
    fn a_preparation_opens_nothing_that_the_scopes_close() {
        let now = Instant::now();
        let mut account = Account::default();
        for work in [Work::Contacts, Work::Events] {
            account.suspend(Some(work), "scopes", now);
        }
        account.ready([false, false, false, true]);
        assert!(account.closed_until(Work::Contacts, now).is_none() && account.closed_until(Work::Events, now).is_some());
        assert!(account.unbroken(Work::Events, 1), "it was not resumed");
    }

    #[test]
    fn one_record_closes_no_lane_that_works() {
        let mut account = Account::default();
        let mut e1 = None;
        assert!(account.doubted(Lane::Events, "e1", &mut e1), "nothing has ever been written: it is the type of event, or a scope");
        account.written(Lane::Events);
        for _ in 0..5 {
            assert!(!account.doubted(Lane::Events, "e1", &mut e1), "the same again is one record");
        }
        assert!(account.doubted(Lane::Stages, "1", &mut None), "of another lane nothing is known");
        assert_eq!(["e2", "e3", "e4"].map(|key| account.doubted(Lane::Events, key, &mut None)), [false, false, true]);
        account.written(Lane::Events);
        assert!(!account.doubted(Lane::Events, "e1", &mut e1));
        account.connected();
        assert!(account.doubted(Lane::Events, "e1", &mut e1), "other scopes than before");
    }

    #[test]
    fn records_that_are_refused_while_others_are_written_close_no_lane_and_run_out_of_time() {
        let now = Instant::now();
        let mut account = Account::default();
        account.written(Lane::Events);
        let mut refused = [("e1", None), ("e2", None), ("e3", None)];
        let mut round = |account: &mut Account| {
            let mut taken = false;
            for (key, first) in &mut refused {
                taken = account.doubted(Lane::Events, key, first);
            }
            taken
        };
        assert!(round(&mut account), "it may be the lane");
        assert!(account.suspend_in_doubt(Work::Events, "forbidden", now));
        account.written(Lane::Events);
        assert!(account.resume(Work::Events), "it was not");
        assert!(account.unbroken(Work::Events, 1), "their failures go on");
        assert!((0..5).all(|_| !round(&mut account)), "nothing new speaks for it");

        // What is known to be shut remains so, whatever single records say meanwhile.
        account.suspend(Some(Work::Events), "scopes", now);
        account.suspend_in_doubt(Work::Events, "forbidden", now);
        assert!(account.resume(Work::Events) && !account.unbroken(Work::Events, 1));
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
        assert!(account.unbroken(Work::Emails, 1));
        assert!(account.resume(Work::Emails) && !account.suspended());
        assert!(!account.unbroken(Work::Emails, 1) && account.unbroken(Work::Emails, time::now()), "failures count anew");
        assert!(account.unbroken(Work::Contacts, 1), "it was not suspended");
    }
}
