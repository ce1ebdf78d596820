//! Where batches are cut, and the tokens that name them. Pure.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Each start counts from the next multiple of this on: a record of a cut that an earlier start had still under way is then always the
/// older one.
const STRIDE: u64 = 1 << 20;

/// One batch of a topic: which offsets it takes.
///
/// It names every partition that was ever read, those that it takes nothing of with `first == next`, so that the last one alone says
/// where the reading stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Which batch of its topic; each is larger than the one before.
    pub seq: u64,
    /// By partition: the first offset that it takes, and the first that it doesn't.
    pub ranges: BTreeMap<i32, (i64, i64)>,
}

/// A row of the table `batches`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    topic: String,
    seq: u64,
    partitions: Vec<i32>,
    first: Vec<i64>,
    next: Vec<i64>,
}

impl Cut {
    /// As the table has it.
    pub fn row(&self, topic: &str) -> Row {
        Row {
            topic: topic.to_owned(),
            seq: self.seq,
            partitions: self.ranges.keys().copied().collect(),
            first: self.ranges.values().map(|(first, _)| *first).collect(),
            next: self.ranges.values().map(|(_, next)| *next).collect(),
        }
    }

    /// What names the insert of this batch: the same for the same offsets of the same batch, and for nothing else.
    pub fn token(&self, topic: &str) -> String {
        let mut text = format!("{topic}\0{}", self.seq);
        for (partition, (first, next)) in &self.ranges {
            text.push_str(&format!("\0{partition}:{first}..{next}"));
        }
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the reading goes on behind it.
    pub fn next(&self) -> BTreeMap<i32, i64> {
        self.ranges.iter().map(|(partition, (_, next))| (*partition, *next)).collect()
    }

    /// The partitions that it takes something of.
    pub fn taken(&self) -> impl Iterator<Item = (i32, i64, i64)> + '_ {
        self.ranges.iter().filter(|(_, (first, next))| first < next).map(|(partition, (first, next))| (*partition, *first, *next))
    }
}

impl From<Row> for Cut {
    fn from(row: Row) -> Self {
        let ranges = row.partitions.into_iter().zip(row.first.into_iter().zip(row.next)).collect();
        Cut { seq: row.seq, ranges }
    }
}

/// The number of a start's first batch, when the largest number anywhere is `last`.
pub fn first_seq(last: u64) -> u64 {
    (last / STRIDE + 1) * STRIDE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cut_survives_its_row_and_names_itself_alone(
            seq in any::<u64>(),
            ranges in proptest::collection::btree_map(0..9_i32, (0..1_000_i64, 0..1_000_i64), 0..6),
        ) {
            let ranges: BTreeMap<_, _> = ranges.into_iter().map(|(p, (first, more))| (p, (first, first + more))).collect();
            let cut = Cut { seq, ranges };
            let text = serde_json::to_string(&cut.row("clicks")).expect("writes");
            let back = Cut::from(serde_json::from_str::<Row>(&text).expect("reads"));
            prop_assert_eq!(&back, &cut);
            prop_assert_eq!(back.token("clicks"), cut.token("clicks"));
            prop_assert_ne!(cut.token("other"), cut.token("clicks"));
            prop_assert_ne!(Cut { seq: seq ^ 1, ..cut.clone() }.token("clicks"), cut.token("clicks"));
            if let Some(partition) = cut.ranges.keys().next().copied() {
                let mut longer = cut.clone();
                longer.ranges.entry(partition).and_modify(|(_, next)| *next += 1);
                prop_assert_ne!(longer.token("clicks"), cut.token("clicks"));
            }
        }

        #[test]
        fn a_start_counts_above_everything_before_it(last in 0..u64::MAX / 2) {
            prop_assert!(first_seq(last) > last);
            prop_assert!(first_seq(last) - last <= STRIDE);
        }
    }
}
