//! Where the parts of the job write down how they stand, for whoever asks.
//!
//! # Cost
//! The dataflow adds differences to atomics, a few for each tick with rows; the sources lock a map four times a second for each topic and worker; the outbox
//! writes after a commit. Nothing is written for a single record, and nobody waits for a reader.

use crate::model::outputs::{DeadLetter, DealStage, Output, Topic};
use crate::model::time::Ms;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Deals that have advanced, as many as are remembered.
const REMEMBERED: usize = 50;

/// A sum to which each worker adds its part.
#[derive(Clone, Debug, Default)]
pub struct Total(Arc<AtomicI64>);

impl Total {
    /// What all workers of this process have together.
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// One worker's part, 0 so far.
    pub fn part(&self) -> Part {
        Part { of: self.clone(), mine: 0 }
    }

    /// Adds to it for good.
    pub fn add(&self, difference: i64) {
        self.0.fetch_add(difference, Ordering::Relaxed);
    }
}

/// One worker's part of a [`Total`]; dropped, it is taken out.
#[derive(Debug)]
pub struct Part {
    of: Total,
    mine: i64,
}

impl Part {
    /// The part is now this much.
    pub fn set(&mut self, is: usize) {
        let is = i64::try_from(is).unwrap_or(i64::MAX);
        if is != self.mine {
            self.of.add(is - self.mine);
            self.mine = is;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How the job stands, as its parts say; one for a [`crate::dataflow::plan::Plan`].
#[derive(Debug, Default)]
pub struct Board {
    /// Clicks that wait for a form; one with both click ids waits twice.
    pub held: Total,
    /// Live counts: pairs of an identity and a tag or link.
    pub keys: Total,
    /// What windows, counts and identities take, bytes, without the room that tables keep free.
    pub bytes: Total,
    /// Clicks that were counted in no window, because they came after they had left all of them.
    pub outside: Total,
    /// By the rule's place in the plan, subjects for which it is hot.
    pub hot: Vec<Total>,
    /// What the outbox has committed.
    pub outbox: OutboxBoard,
}

impl Board {
    /// For so many rules.
    pub fn for_rules(rules: usize) -> Self {
        Board { hot: (0..rules).map(|_| Total::default()).collect(), ..Board::default() }
    }
}

/// What the outbox has committed since the start.
#[derive(Debug, Default)]
pub struct OutboxBoard {
    /// Transactions committed.
    pub transactions: AtomicU64,
    /// Transactions that failed and were written again.
    pub failed: AtomicU64,
    said: Mutex<Said>,
}

/// What was said since the start.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Records, by topic.
    pub records: BTreeMap<Topic, u64>,
    /// Records that could not be read, by reason code.
    pub dead: BTreeMap<String, u64>,
    /// Stage deltas, by workspace and rule.
    pub fired: BTreeMap<(String, String), u64>,
    /// The last stage deltas, newest first.
    pub advances: VecDeque<DealStage>,
    /// When the last transaction with outputs was committed, ms since the Unix epoch; 0: never.
    pub last_at: Ms,
}

impl OutboxBoard {
    /// A transaction with these outputs was committed at `now`.
    pub fn committed(&self, outputs: &[Output], now: Ms) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        if outputs.is_empty() {
            return;
        }
        let mut said = self.lock();
        said.last_at = now;
        for output in outputs {
            *said.records.entry(output.topic).or_default() += 1;
            match output.topic {
                Topic::DeadLetters => {
                    if let Ok(letter) = serde_json::from_slice::<DeadLetter>(&output.value) {
                        *said.dead.entry(letter.reason).or_default() += 1;
                    }
                }
                Topic::DealStages => {
                    if let Ok(stage) = serde_json::from_slice::<DealStage>(&output.value) {
                        *said.fired.entry((stage.workspace.clone(), stage.rule.clone())).or_default() += 1;
                        said.advances.push_front(stage);
                        said.advances.truncate(REMEMBERED);
                    }
                }
                _ => {}
            }
        }
    }

    /// A copy of what was said.
    pub fn said(&self) -> Said {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_go_with_their_worker() {
        let total = Total::default();
        let (mut a, mut b) = (total.part(), total.part());
        a.set(5);
        b.set(7);
        a.set(2);
        assert_eq!(total.get(), 9);
        drop(b);
        assert_eq!(total.get(), 2);
        assert_eq!(Board::for_rules(3).hot.len(), 3);
    }

    #[test]
    fn rules_do_not_share_a_total() {
        let board = Board::for_rules(2);
        board.hot[0].add(1);
        assert_eq!((board.hot[0].get(), board.hot[1].get()), (1, 0));
    }

    #[test]
    fn the_newest_advances_are_remembered() {
        let board = OutboxBoard::default();
        let dead = DeadLetter {
            v: 1,
            reason: "json".into(),
            detail: String::new(),
            source: "clicks".into(),
            partition: 0,
            offset: 1,
            key_base64: None,
            payload_base64: String::new(),
            at: 1,
        };
        let dead = Output { topic: Topic::DeadLetters, key: String::new(), value: serde_json::to_vec(&dead).expect("JSON") };
        let stage = |n: usize| {
            let text = format!(
                r#"{{"v":1,"id":"s{n}","portal":"1","workspace":"w","rule":"r","shadow":false,"deal_id":"d","contact_id":"7","pipeline":"p",
                "from_stage":"a","to_stage":"b","guard":{{"require_associated_contact":true,"deal_amount_min":null}},"link_tag":"x","count":3,
                "threshold":3,"window_ms":1,"hot_since":1,"last_click":{{"id":"c","ts":1}},"at":1}}"#
            );
            Output { topic: Topic::DealStages, key: String::new(), value: text.into_bytes() }
        };
        let outputs: Vec<Output> = (0..REMEMBERED + 10).map(stage).chain([dead]).collect();
        board.committed(&outputs, 9);
        board.committed(&[], 10);
        let said = board.said();
        assert_eq!((said.advances.len(), said.advances[0].id.as_str()), (REMEMBERED, "s59"));
        assert_eq!((said.fired[&("w".into(), "r".into())], said.dead["json"], said.last_at), (60, 1, 9));
        assert_eq!(board.transactions.load(Ordering::Relaxed), 2);
    }
}
