//! Since when what waits in the spool has waited.
//!
//! A mark says from which place on records were appended at which time; there is one a second at most, so an age is less than a second too high. Places
//! of an earlier process have no mark: of them only the time is known at which their segment was begun.
//!
//! # Limits
//! 24 bytes for each second of which something waits: 2 MB after a day.

use std::collections::VecDeque;

/// Between two marks, at least, in ms.
const STEP: u64 = 1_000;

/// A place in the spool: segment, and bytes of it.
pub(super) type Place = (u64, u64);

/// The marks, in order.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Place, u64)>);

impl Ages {
    /// Records were appended at `place`, at `now` (ms since the epoch).
    pub(super) fn appended(&mut self, place: Place, now: u64) {
        // A clock that was set back begins anew.
        if self.0.back().is_none_or(|&(_, at)| now < at || now - at >= STEP) {
            self.0.push_back((place, now));
        }
    }

    /// All before `place` is done with.
    pub(super) fn done(&mut self, place: Place) {
        let before = self.0.partition_point(|(mark, _)| *mark <= place);
        // The last of them may speak for what is behind the place.
        self.0.drain(..before.saturating_sub(1));
    }

    /// When the record at `place` was appended, if this process did it (ms since the epoch).
    pub(super) fn of(&self, place: Place) -> Option<u64> {
        let before = self.0.partition_point(|(mark, _)| *mark <= place);
        Some(self.0[before.checked_sub(1)?].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain list of all records: never too young, and less than a second too old.
        #[test]
        fn an_age_is_less_than_a_second_too_high(steps in proptest::collection::vec((0..3_000u64, 1..50u64, any::<bool>(), 0..100usize), 1..200)) {
            let (mut ages, mut records, mut now) = (Ages::default(), Vec::new(), 5_000);
            let (mut place, mut done) = ((7, 24), 0);
            for (pause, length, next_segment, sent) in steps {
                now += pause;
                ages.appended(place, now);
                records.push((place, now));
                place = if next_segment { (place.0 + 1, 24) } else { (place.0, place.1 + length) };
                done = (done + sent).min(records.len());
                ages.done(records.get(done).map_or(place, |(first, _)| *first));
                for (place, at) in &records[done..] {
                    let told = ages.of(*place).expect("this process's own");
                    prop_assert!(told <= *at && at - told < STEP, "{told} for {at}");
                }
                let waiting: std::collections::BTreeSet<u64> = records[done..].iter().map(|(_, at)| at / STEP).collect();
                prop_assert!(ages.0.len() <= waiting.len() + 2, "{} marks for {} s", ages.0.len(), waiting.len());
            }
        }
    }

    #[test]
    fn of_an_earlier_process_nothing_is_known() {
        let mut ages = Ages::default();
        ages.appended((9, 24), 1_000);
        assert_eq!((ages.of((8, 500)), ages.of((9, 24))), (None, Some(1_000)));
    }
}
