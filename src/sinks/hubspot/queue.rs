//! What waits for HubSpot, by key (a deal, a contact, an event), until it is taken into a batch.
//!
//! Pure: time is passed in, nothing is sent here.
//!
//! # Meaning
//! A key has at most one value waiting and at most one taken. What arrives for a key that waits is folded into it; what arrives for a
//! key that is taken waits until that one is released, so that writes to one deal or contact never overtake each other.
//!
//! # Cost
//! Constant per push and per key taken; logarithmic for what waits out a pause.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// What can wait in a queue.
pub trait Fold {
    /// Takes in what arrived later for the same key.
    fn fold(&mut self, newer: Self);
}

/// How often something was tried, and how it may be tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Failed tries that count.
    pub attempts: u32,
    /// The largest batch it may be part of; shrinks to find out which record of a batch HubSpot refuses.
    pub cap: usize,
    /// Since when it waits.
    pub since: Instant,
    /// When it failed last.
    pub failed_at: Option<Instant>,
    /// The batch in which it was sent last without an answer; it is tried again with no others than those.
    pub together: Option<u64>,
    /// How often its lane had been written to when it was first refused alone, for a reason that may be everybody's.
    pub doubted: Option<u64>,
    /// Whether the same key was sent before, for a record that is done with.
    pub repeated: bool,
}

impl Tries {
    /// Of something that waits since `now` and has not been tried.
    pub fn new(now: Instant) -> Self {
        Tries { attempts: 0, cap: usize::MAX, since: now, failed_at: None, together: None, doubted: None, repeated: false }
    }
}

/// A key and what waits, or waited, for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<V> {
    /// Deal, contact, e-mail or event.
    pub key: String,
    /// What is to be done.
    pub value: V,
    /// Its history.
    pub tries: Tries,
}

/// A queue of one lane and account.
#[derive(Debug)]
pub struct Queue<V> {
    waiting: HashMap<String, (V, Tries)>,
    /// Keys that may be taken, in the order of their arrival. Each is in `waiting` and not in `taken`.
    ready: VecDeque<String>,
    /// Keys that wait out a pause, by its end.
    later: BTreeMap<(Instant, u64), String>,
    taken: HashSet<String>,
    /// Tells apart what ends its pause at the same instant.
    serial: u64,
}

impl<V> Default for Queue<V> {
    fn default() -> Self {
        Queue { waiting: HashMap::new(), ready: VecDeque::new(), later: BTreeMap::new(), taken: HashSet::new(), serial: 0 }
    }
}

impl<V: Fold> Queue<V> {
    /// Adds what arrived at `now`.
    pub fn push(&mut self, key: String, value: V, now: Instant) {
        if let Some((waiting, _)) = self.waiting.get_mut(&key) {
            waiting.fold(value);
            return;
        }
        self.waiting.insert(key.clone(), (value, Tries::new(now)));
        if !self.taken.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Whether a batch of up to `max` is worth sending at `now`: it would be full, or its first has waited for `linger`.
    pub fn ripe(&mut self, max: usize, linger: Duration, now: Instant) -> bool {
        self.wake(now);
        let Some((_, first)) = self.ready.front().and_then(|key| self.waiting.get(key)) else { return false };
        self.ready.len() >= max || first.attempts > 0 || first.since + linger <= now
    }

    /// Whether a batch of `max` would be full at `now`.
    pub fn full(&mut self, max: usize, now: Instant) -> bool {
        self.wake(now);
        self.ready.len() >= max
    }

    /// When [`Queue::ripe`] may next change by time alone.
    pub fn next_at(&self, linger: Duration) -> Option<Instant> {
        let first = self.ready.front().and_then(|key| self.waiting.get(key)).map(|(_, tries)| tries.since + linger);
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        first.into_iter().chain(later).min()
    }

    /// Takes up to `max` keys, fewer where one of them must be in a smaller batch or was sent with others before. All must be released.
    pub fn take(&mut self, max: usize, now: Instant) -> Vec<Entry<V>> {
        self.wake(now);
        let mut batch: Vec<Entry<V>> = Vec::new();
        let mut cap = max;
        while batch.len() < cap
            && let Some(key) = self.ready.pop_front()
        {
            let Some((value, tries)) = self.waiting.remove(&key) else { continue };
            if tries.cap <= batch.len() || batch.first().is_some_and(|first: &Entry<V>| first.tries.together != tries.together) {
                // It would have to share with more than it may, or with others; the next batch begins with it.
                self.waiting.insert(key.clone(), (value, tries));
                self.ready.push_front(key);
                break;
            }
            cap = cap.min(tries.cap);
            self.taken.insert(key.clone());
            batch.push(Entry { key, value, tries });
        }
        batch
    }

    /// Takes out, for good, whatever waits and is not taken.
    pub fn drain(&mut self) -> Vec<(String, V)> {
        self.ready.clear();
        self.later.clear();
        let taken = &self.taken;
        self.waiting.extract_if(|key, _| !taken.contains(key)).map(|(key, (value, _))| (key, value)).collect()
    }

    /// Shows each value that waits, with its key, also those whose key is taken; where `gone` says so it is taken out, for good.
    pub fn sift(&mut self, mut gone: impl FnMut(&str, &mut V) -> bool) {
        let taken_out: HashSet<String> = self.waiting.extract_if(|key, (value, _)| gone(key, value)).map(|(key, _)| key).collect();
        if !taken_out.is_empty() {
            self.ready.retain(|key| !taken_out.contains(key));
            self.later.retain(|_, key| !taken_out.contains(key));
        }
    }

    /// A taken key is done with; what arrived for it meanwhile may go.
    pub fn release(&mut self, key: &str) {
        if self.taken.remove(key)
            && let Some((_, tries)) = self.waiting.get_mut(key)
        {
            tries.repeated = true;
            self.ready.push_back(key.to_owned());
        }
    }

    /// A taken key must be tried again, not before `at`; what arrived for it meanwhile is folded in.
    pub fn put_back(&mut self, entry: Entry<V>, at: Instant) {
        let Entry { key, mut value, tries } = entry;
        self.taken.remove(&key);
        if let Some((newer, _)) = self.waiting.remove(&key) {
            value.fold(newer);
        }
        self.waiting.insert(key.clone(), (value, tries));
        self.serial += 1;
        self.later.insert((at, self.serial), key);
    }

    /// Keys that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Since when the one waits that has waited longest. Looks at each that waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, tries)| tries.since).min()
    }

    /// Whether nothing waits and nothing is taken.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.taken.is_empty()
    }

    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry()
            && first.key().0 <= now
        {
            self.ready.push_back(first.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Fold for Vec<u32> {
        fn fold(&mut self, newer: Self) {
            self.extend(newer);
        }
    }

    const LINGER: Duration = Duration::from_millis(100);

    fn keys(batch: &[Entry<Vec<u32>>]) -> Vec<&str> {
        batch.iter().map(|e| e.key.as_str()).collect()
    }

    #[test]
    fn a_batch_waits_to_be_filled() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push("a".into(), vec![1], now);
        assert!(!queue.ripe(2, LINGER, now));
        assert_eq!(queue.next_at(LINGER), Some(now + LINGER));
        assert!(queue.ripe(2, LINGER, now + LINGER));
        queue.push("b".into(), vec![2], now);
        assert!(queue.ripe(2, LINGER, now));
    }

    #[test]
    fn arrivals_for_a_key_are_folded_and_never_overtake() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push("a".into(), vec![1], now);
        queue.push("a".into(), vec![2], now);
        let mut batch = queue.take(10, now);
        assert_eq!(batch[0].value, [1, 2]);
        queue.push("a".into(), vec![3], now);
        assert!(queue.take(10, now).is_empty(), "a is taken");
        queue.put_back(batch.remove(0), now + LINGER);
        assert!(queue.take(10, now).is_empty(), "a waits out its pause");
        let again = queue.take(10, now + LINGER);
        assert_eq!(again[0].value, [1, 2, 3]);
        queue.push("a".into(), vec![4], now);
        queue.release("a");
        let later = queue.take(10, now).remove(0);
        assert_eq!((later.value, later.tries.repeated, again[0].tries.repeated), (vec![4], true, false));
        queue.release("a");
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_taken_is_not_drained() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push("a".into(), vec![1], now);
        let mut batch = queue.take(1, now);
        queue.push("a".into(), vec![2], now);
        queue.push("b".into(), vec![3], now);
        assert_eq!(queue.drain(), [("b".to_owned(), vec![3])]);
        queue.put_back(batch.remove(0), now + LINGER);
        assert_eq!(queue.drain(), [("a".to_owned(), vec![1, 2])], "what waits out a pause, too");
        assert!(queue.is_empty() && queue.take(9, now + LINGER).is_empty());
    }

    #[test]
    fn a_capped_entry_travels_in_small_batches() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for key in ["a", "b", "c", "d", "e"] {
            queue.push(key.into(), vec![], now);
        }
        let batch = queue.take(4, now);
        assert_eq!(keys(&batch), ["a", "b", "c", "d"]);
        for mut entry in batch {
            entry.tries.cap = 2;
            queue.put_back(entry, now);
        }
        assert_eq!(keys(&queue.take(4, now)), ["e", "a"], "a may share with one other");
        assert_eq!(keys(&queue.take(4, now)), ["b", "c"]);
        assert_eq!(keys(&queue.take(4, now)), ["d"]);
    }

    #[test]
    fn what_was_sent_together_is_tried_together() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for key in ["a", "b"] {
            queue.push(key.into(), vec![], now);
        }
        for mut entry in queue.take(4, now) {
            entry.tries.together = Some(1);
            queue.put_back(entry, now);
        }
        queue.push("c".into(), vec![], now);
        assert_eq!(keys(&queue.take(4, now)), ["c"]);
        assert_eq!(keys(&queue.take(4, now)), ["a", "b"]);
    }

    proptest! {
        /// Whatever the order of pushes, takes, releases and returns: each value comes out once, per key in its order.
        #[test]
        fn nothing_is_lost_or_reordered_within_a_key(steps in prop::collection::vec((0u8..4, 0u8..5, 1usize..4), 1..200)) {
            let mut now = Instant::now();
            let mut queue: Queue<Vec<u32>> = Queue::default();
            let mut out: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let mut expected: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let mut taken: Vec<Entry<Vec<u32>>> = Vec::new();
            for (serial, (what, key, n)) in (0u32..).zip(steps) {
                let name = format!("k{key}");
                match what {
                    0 => {
                        expected.entry(name.clone()).or_default().push(serial);
                        queue.push(name, vec![serial], now);
                    }
                    1 => taken.extend(queue.take(n, now)),
                    2 if !taken.is_empty() => {
                        let mut entry = taken.swap_remove(usize::from(key) % taken.len());
                        entry.tries.cap = n;
                        queue.put_back(entry, now + LINGER * u32::from(key));
                    }
                    _ if !taken.is_empty() => {
                        let entry = taken.swap_remove(usize::from(key) % taken.len());
                        out.entry(entry.key.clone()).or_default().extend(entry.value);
                        queue.release(&entry.key);
                    }
                    _ => now += LINGER,
                }
            }
            now += LINGER * 10;
            loop {
                taken.extend(queue.take(usize::MAX, now));
                if taken.is_empty() {
                    break;
                }
                for entry in taken.drain(..) {
                    out.entry(entry.key.clone()).or_default().extend(entry.value);
                    queue.release(&entry.key);
                }
            }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(out, expected);
        }
    }
}
