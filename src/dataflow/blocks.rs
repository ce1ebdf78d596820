//! A queue that grows without being moved.
//!
//! # Meaning
//! Values have numbers from 0, the first that is kept. They lie in blocks of [`BLOCK`], so that one more never moves those that are there: a `Vec` of a million
//! copies them all now and then, and everything waits for that.
//!
//! # Cost
//! One more look, at the list of blocks, which is small and near. What has gone from the front is freed with its block.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

/// Values in a block.
const BLOCK: usize = 4_096;

/// The queue; see the module.
pub struct Blocks<T> {
    /// All full but the last.
    blocks: VecDeque<Vec<T>>,
    /// Of the first block so many have gone.
    gone: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Blocks { blocks: VecDeque::new(), gone: 0 }
    }
}

impl<T> Blocks<T> {
    /// How many are kept.
    pub fn len(&self) -> usize {
        self.blocks.back().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len() - self.gone)
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The value with a number.
    pub fn get(&self, number: usize) -> Option<&T> {
        let place = number + self.gone;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        let place = number + self.gone;
        self.blocks.get_mut(place / BLOCK)?.get_mut(place % BLOCK)
    }

    /// Puts one behind the last.
    pub fn push(&mut self, value: T) {
        match self.blocks.back_mut().filter(|last| last.len() < BLOCK) {
            Some(last) => last.push(value),
            None => {
                // The first block may remain the only one, and grows as it needs to.
                let mut block = Vec::with_capacity(if self.blocks.is_empty() { 0 } else { BLOCK });
                block.push(value);
                self.blocks.push_back(block);
            }
        }
    }

    /// Forgets the first, if there is one; the others' numbers fall by one.
    pub fn drop_first(&mut self) {
        self.gone += usize::from(!self.is_empty());
        if self.blocks.front().is_some_and(|first| self.gone == first.len()) {
            self.blocks.pop_front();
            self.gone = 0;
        }
    }

    /// All of them, the first first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten().skip(self.gone)
    }
}

impl<T> Index<usize> for Blocks<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        let place = number + self.gone;
        &self.blocks[place / BLOCK][place % BLOCK]
    }
}

impl<T> IndexMut<usize> for Blocks<T> {
    fn index_mut(&mut self, number: usize) -> &mut T {
        let place = number + self.gone;
        &mut self.blocks[place / BLOCK][place % BLOCK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A `VecDeque`, however it grows and shrinks.
        #[test]
        fn it_is_a_queue(turns in proptest::collection::vec((0usize..3_000, 0usize..3_000), 1..20)) {
            let (mut blocks, mut queue, mut next) = (Blocks::default(), VecDeque::new(), 0u32);
            for (come, go) in turns {
                for _ in 0..come {
                    blocks.push(next);
                    queue.push_back(next);
                    next += 1;
                }
                for _ in 0..go {
                    prop_assert_eq!(blocks.get(0), queue.front());
                    blocks.drop_first();
                    queue.pop_front();
                }
                prop_assert_eq!((blocks.len(), blocks.is_empty()), (queue.len(), queue.is_empty()));
                prop_assert!(blocks.blocks.len() <= queue.len() / BLOCK + 2, "blocks are freed");
                prop_assert!(blocks.iter().eq(queue.iter()));
                let (n, beyond) = (queue.len().saturating_sub(1), queue.len());
                prop_assert_eq!((blocks.get(n), blocks.get(beyond)), (queue.get(n), None));
                if let (Some(a), Some(b)) = (blocks.get_mut(n), queue.get_mut(n)) {
                    *a += 7;
                    *b += 7;
                    blocks[n] += 1;
                    queue[n] += 1;
                    prop_assert_eq!(blocks[n], queue[n]);
                }
            }
        }
    }
}
