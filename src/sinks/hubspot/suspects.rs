//! Finds the record that makes HubSpot stumble: one that turns a whole batch into a 500 or a time-out.
//!
//! Pure. The hard part is to tell such a record from an outage: in an outage every batch fails, and to cut them all into single
//! records would leave the recovering HubSpot with a hundred times the requests. So a batch is halved only on evidence that HubSpot
//! works otherwise: something else of this queue was answered since the batch failed last. Where nothing else is under way, one record
//! of the batch, a **canary**, is sent alone, one at a time; if it is answered, that is the evidence.
//!
//! # Cost
//! In an outage one more request per round of failures; for one bad record in a batch of 100 about 14 requests.

use super::queue::Entry;
use super::work::{Again, Fate};
use std::time::Instant;

/// Failures that are taken for an outage before anybody is suspected.
const PATIENCE: u32 = 2;

/// What is known of one queue.
#[derive(Debug, Default)]
pub struct Suspects {
    /// When something was answered last.
    answered_at: Option<Instant>,
    /// The record that is sent alone.
    canary: Option<String>,
}

impl Suspects {
    /// Records of which `gone` says so wait no longer: none of them is waited for to be answered alone.
    pub fn left(&mut self, gone: impl Fn(&str) -> bool) {
        self.canary.take_if(|key| gone(key));
    }

    /// Looks at what came of a batch at `now` and shrinks the batches of those that fail; `pick` chooses the canary.
    pub fn look<V>(&mut self, fates: &mut [(Entry<V>, Fate)], now: Instant, pick: usize) {
        let failed = |fate: &Fate| matches!(fate, Fate::Again(Again { counts: true, .. }));
        let size = fates.len();
        if fates.iter().any(|(_, fate)| !matches!(fate, Fate::Again(_))) {
            self.answered_at = Some(now);
        }
        let was_canary = size == 1 && self.canary.as_ref() == Some(&fates[0].0.key);
        if was_canary {
            self.canary = None;
        }
        for (entry, fate) in fates.iter_mut() {
            let Fate::Again(Again { counts: true, cap, .. }) = fate else { continue };
            let evidence = entry.tries.failed_at.is_some_and(|failed| self.answered_at.is_some_and(|answered| answered > failed));
            entry.tries.failed_at = Some(now);
            if entry.tries.attempts >= PATIENCE && evidence {
                *cap = Some(entry.tries.cap.min(size).div_ceil(2));
            } else if was_canary {
                // Its failure says nothing.
                *cap = Some(usize::MAX);
            }
        }
        let suspect = fates.get_mut(pick % size.max(1)).filter(|(_, fate)| self.canary.is_none() && size > 1 && failed(fate));
        if let Some((entry, Fate::Again(Again { cap: cap @ None, .. }))) = suspect
            && entry.tries.attempts >= PATIENCE
        {
            *cap = Some(1);
            self.canary = Some(entry.key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Tries;
    use super::*;
    use std::time::Duration;

    type Queue = Vec<Entry<()>>;

    fn entries(n: usize, now: Instant) -> Queue {
        let tries = Tries::new(now);
        (0..n).map(|key| Entry { key: key.to_string(), value: (), tries }).collect()
    }

    /// Sends everything in batches, as the queue would, until all is delivered or `rounds` are over; gives back the requests.
    fn play(mut queue: Queue, rounds: usize, works: impl Fn(usize, &[Entry<()>]) -> bool) -> (usize, Queue) {
        let mut suspects = Suspects::default();
        let mut now = Instant::now();
        let mut requests = 0;
        for round in 0..rounds {
            let mut failed = Vec::new();
            let mut left: std::collections::VecDeque<Entry<()>> = queue.into();
            while let Some(first) = left.pop_front() {
                let mut cap = first.tries.cap.min(100);
                let mut batch = vec![first];
                while batch.len() < cap
                    && let Some(next) = left.front().filter(|next| next.tries.cap > batch.len())
                {
                    cap = cap.min(next.tries.cap);
                    batch.extend(left.pop_front());
                }
                now += Duration::from_millis(10);
                requests += 1;
                let fate = if works(round, &batch) { Fate::Delivered } else { Fate::Again(Again { counts: true, ..Again::default() }) };
                let mut fates: Vec<_> = batch.into_iter().map(|entry| (entry, fate.clone())).collect();
                suspects.look(&mut fates, now, requests * 7);
                for (mut entry, fate) in fates {
                    if let Fate::Again(again) = fate {
                        entry.tries.attempts += 1;
                        entry.tries.cap = again.cap.unwrap_or(entry.tries.cap).max(1);
                        failed.push(entry);
                    }
                }
            }
            queue = failed;
        }
        (requests, queue)
    }

    #[test]
    fn one_bad_record_is_found_alone() {
        for n in [2, 64, 100, 250] {
            let (requests, left) = play(entries(n, Instant::now()), 40, |_, batch| batch.iter().all(|e| e.key != "1"));
            assert_eq!(left.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["1"], "of {n}");
            assert!(requests < 100, "{requests} requests for {n}");
        }
    }

    #[test]
    fn a_bad_record_is_found_at_each_position_of_a_batch() {
        for bad in 0..100 {
            let bad = bad.to_string();
            let (_, left) = play(entries(100, Instant::now()), 40, |_, batch| batch.iter().all(|entry| entry.key != bad));
            assert_eq!(left.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&bad]);
        }
    }

    #[test]
    fn an_outage_leaves_the_batches_whole() {
        let (_, left) = play(entries(1000, Instant::now()), 500, |_, _| false);
        assert!(left.iter().filter(|e| e.tries.cap < 100).count() <= 1, "but for the canary");
        let (requests, left) = play(entries(1000, Instant::now()), 60, |round, _| round >= 50);
        assert!(left.is_empty());
        assert!(requests <= 50 * 12 + 12, "{requests}");
    }
}
