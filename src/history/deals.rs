//! A deal's states through a history.

use crate::dataflow::rows::Place;
use crate::model::Deal;
use crate::model::time::Ms;
use std::collections::BTreeMap;
use std::sync::Arc;

/// States, each from its tick's end on; of one tick the last in the log counts. `None`: a tombstone.
pub type DealStates = BTreeMap<(Ms, Place), Option<Arc<Deal>>>;

/// The state at a tick's end, and since when; `None` before the first one.
pub fn state_at(states: &DealStates, at: Ms) -> Option<(Ms, Option<&Deal>)> {
    let last = Place { partition: i32::MAX, offset: i64::MAX };
    states.range(..=(at, last)).next_back().map(|((since, _), deal)| (*since, deal.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_tick_the_last_in_the_log_counts() {
        let state = |amount: f64| Some(Arc::new(Deal { amount: Some(amount), ..Deal::default() }));
        let place = |offset| Place { partition: 0, offset };
        let states: DealStates = [((10, place(2)), state(2.0)), ((10, place(1)), state(1.0)), ((20, place(3)), None)].into_iter().collect();
        let amount = |at| state_at(&states, at).map(|(since, deal)| (since, deal.and_then(|deal| deal.amount)));
        assert_eq!([amount(9), amount(10), amount(19), amount(20)], [None, Some((10, Some(2.0))), Some((10, Some(2.0))), Some((20, None))]);
    }
}
