//! Persons' counts as [`super::counts`] keeps them: one for each subject and key, with all windows of the key.
//!
//! # Meaning
//! A count is made of shares, one for each identity that stands for the person. A share knows how many clicks it has in each
//! window and the newest of them: that is in every window that has any, so it is kept once.
//!
//! # Cost
//! A box of 136 bytes and 17 in the table. A count knows whose and of what it is, so the table holds no keys beside it.

use super::boxes::{Boxes, Keyed};
use super::plan::{Plan, RuleIx};
use super::rows::{ClickRef, HotPeriod, Subject, Who};
use crate::model::time::Ms;
use smallvec::SmallVec;
use std::rc::Rc;
use ustr::Ustr;

/// A tag or link that is counted, and the rules that look at it; of many persons.
pub struct Ruled {
    /// `t:tag` or `l:link`.
    pub key: Ustr,
    /// Its windows' lengths, ms, each with the rules that look at it.
    pub windows: Box<[(Ms, Box<[RuleIx]>)]>,
}

impl Ruled {
    /// What the plan says of a subject's key.
    pub fn new(plan: &Plan, subject: &Subject, key: Ustr) -> Self {
        let counter = plan.counter(subject.workspace, key, subject.who.is_deal());
        let windows = counter.iter().flat_map(|counter| &counter.windows);
        Ruled { key, windows: windows.map(|(length, rules)| (*length, rules.as_slice().into())).collect() }
    }

    /// Where a window stands; `None` where the plan has none of that length.
    pub fn place(&self, window: Ms) -> Option<usize> {
        self.windows.iter().position(|(length, _)| *length == window)
    }
}

/// Clicks in each window of a key, in the order of [`Ruled::windows`]; keys with more than two windows are few.
enum Clicks {
    Few([u32; 2]),
    Many(Box<[u32]>),
}

impl Clicks {
    fn none(windows: usize) -> Self {
        if windows <= 2 { Clicks::Few([0; 2]) } else { Clicks::Many(vec![0; windows].into()) }
    }

    fn each(&self) -> &[u32] {
        match self {
            Clicks::Few(each) => each,
            Clicks::Many(each) => each,
        }
    }

    fn each_mut(&mut self) -> &mut [u32] {
        match self {
            Clicks::Few(each) => each,
            Clicks::Many(each) => each,
        }
    }
}

/// One identity's part of a count.
struct Share {
    identity: Who,
    clicks: Clicks,
    last: Option<ClickRef>,
}

/// A subject's count of a key.
pub struct Count {
    subject: Subject,
    of: Rc<Ruled>,
    shares: SmallVec<[Share; 1]>,
    /// Hot rules, each with its period's beginning; few counts have one.
    pub hot: Vec<(RuleIx, Ms)>,
}

impl Count {
    /// Nothing yet.
    pub fn new(subject: Subject, of: Rc<Ruled>) -> Self {
        Count { subject, of, shares: SmallVec::new(), hot: Vec::new() }
    }

    /// What is counted.
    pub fn of(&self) -> &Rc<Ruled> {
        &self.of
    }

    /// Replaces what an identity has in a window.
    pub fn put(&mut self, place: usize, identity: Who, n: u64, last: Option<ClickRef>) {
        let at = self.shares.iter().position(|share| share.identity == identity).unwrap_or_else(|| {
            self.shares.push(Share { identity, clicks: Clicks::none(self.of.windows.len()), last: None });
            self.shares.len() - 1
        });
        let share = &mut self.shares[at];
        if let Some(clicks) = share.clicks.each_mut().get_mut(place) {
            // Windows count in as many bits.
            *clicks = u32::try_from(n).unwrap_or(u32::MAX);
        }
        if last.is_some() {
            share.last = last;
        }
    }

    /// A look at each of its lines of memory.
    pub fn look(&self) -> u64 {
        let of = self.shares.first().map_or(0, |share| u64::from(share.clicks.each().first().copied().unwrap_or(0)));
        of ^ self.subject.who.address() ^ self.hot.len() as u64
    }

    /// Clicks in a window, of all identities.
    pub fn sum(&self, place: usize) -> u64 {
        self.in_window(place).map(|(clicks, _)| u64::from(clicks)).sum()
    }

    /// A hot period of a rule that looks at a window; `None` where that is empty.
    pub fn period(&self, place: usize, since: Ms) -> Option<HotPeriod> {
        let last = self.in_window(place).filter_map(|(_, share)| share.last.as_ref()).max()?;
        Some(HotPeriod { since, count: self.sum(place), last: last.clone() })
    }

    /// Lets go of identities that have nothing in any window; whether none is left.
    pub fn tidy(&mut self) -> bool {
        self.shares.retain(|share| share.clicks.each().iter().any(|clicks| *clicks > 0));
        self.shares.is_empty()
    }

    fn in_window(&self, place: usize) -> impl Iterator<Item = (u32, &Share)> {
        self.shares.iter().filter_map(move |share| Some((*share.clicks.each().get(place).filter(|clicks| **clicks > 0)?, share)))
    }
}

/// A subject's key, told by where its names lie in this process.
pub type Address = ([u64; 3], u64);

/// Where a count is kept.
pub fn address(subject: &Subject, key: Ustr) -> Address {
    (subject.address(), super::rows::address(key))
}

impl Keyed for Count {
    type Key = Address;

    fn key(&self) -> Address {
        address(&self.subject, self.of.key)
    }
}

/// All counts.
pub type Counts = Boxes<Count>;

#[cfg(test)]
mod tests {
    use super::super::rows::ClickId;
    use super::*;
    use ustr::ustr;

    fn count(windows: &[Ms]) -> Count {
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact("1") };
        let windows = windows.iter().map(|length| (*length, Box::default())).collect();
        Count::new(subject, Rc::new(Ruled { key: ustr("t:x"), windows }))
    }

    fn click(ts: Ms) -> Option<ClickRef> {
        Some(ClickRef { ts, id: ClickId::of("c") })
    }

    #[test]
    fn a_count_is_as_small_as_it_says() {
        assert_eq!((size_of::<Count>(), size_of::<Share>()), (136, 64));
    }

    #[test]
    fn windows_are_added_up_apart_and_the_newest_click_is_of_those_that_have_one() {
        for windows in [&[30, 7][..], &[30, 7, 1]] {
            let (mut count, [a, b]) = (count(windows), ["1", "7"].map(Who::contact));
            for (place, identity, n, last) in [(0, a, 3, click(50)), (1, a, 2, click(50)), (0, b, 1, click(60)), (1, b, 1, click(60))] {
                count.put(place, identity, n, last);
            }
            assert_eq!([0, 1].map(|place| count.sum(place)), [4, 3]);
            // The short window of the one with the newer click is left behind.
            count.put(1, b, 0, None);
            let period = |place| count.period(place, 5).map(|period: HotPeriod| (period.since, period.count, period.last.ts));
            assert_eq!([0, 1].map(period), [Some((5, 4, 60)), Some((5, 2, 50))]);
            assert!(!count.tidy());
            [(0, a), (1, a), (0, b)].into_iter().for_each(|(place, identity)| count.put(place, identity, 0, None));
            assert_eq!(count.period(0, 5), None);
            assert!(count.tidy());
        }
    }
}
