//! A table of states, each in a box of its own that knows whose it is.
//!
//! # Meaning
//! The table holds a word for each state, half of its hash, and no key beside it: a slot is small, so that more of the table is near. A key is
//! compared in the state itself, which whoever asks for it needs anyway.
//!
//! # Cost
//! 17 bytes for each slot. A look-up waits for the slot, then for the state; [`Boxes::ahead`] does both for many keys at once. The table grows without a look
//! at the states.

use super::step::AHEAD;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::{BuildHasher as _, Hash};
use std::hint::black_box;

/// Half of a hash, kept in a slot beside the place of a state that lies elsewhere: the table grows without a look at all the states, for which everything
/// would have to wait, and a look-up looks at no other key's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half(u32);

impl Half {
    /// Of a hash.
    pub fn of(hash: u64) -> Self {
        Half((hash >> 32) as u32)
    }

    /// The hash that the table goes by: it takes slots by the low bits and tells them apart by the high ones.
    pub fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// A state that knows its key.
pub trait Keyed {
    /// What tells it from all others.
    type Key: Copy + Eq + Hash;

    /// Its own.
    fn key(&self) -> Self::Key;
}

/// The table; see the module.
pub struct Boxes<S> {
    table: HashTable<(Half, Box<S>)>,
    hasher: RandomState,
}

impl<S> Default for Boxes<S> {
    fn default() -> Self {
        Boxes { table: HashTable::new(), hasher: RandomState::default() }
    }
}

/// Whether a slot is a key's.
fn is<S: Keyed>(hash: Half, key: S::Key) -> impl Fn(&(Half, Box<S>)) -> bool {
    move |(of, state)| *of == hash && state.key() == key
}

impl<S: Keyed> Boxes<S> {
    fn hash(&self, key: S::Key) -> Half {
        Half::of(self.hasher.hash_one(key))
    }

    /// A key's state.
    pub fn get(&self, key: S::Key) -> Option<&S> {
        let hash = self.hash(key);
        self.table.find(hash.spread(), is(hash, key)).map(|(_, of)| &**of)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: S::Key) -> Option<&mut S> {
        let hash = self.hash(key);
        self.table.find_mut(hash.spread(), is(hash, key)).map(|(_, of)| &mut **of)
    }

    /// The same; a key that has none gets a new one.
    pub fn get_or_insert_with(&mut self, key: S::Key, new: impl FnOnce() -> S) -> &mut S {
        let hash = self.hash(key);
        let entry = self.table.entry(hash.spread(), is(hash, key), |(of, _)| of.spread());
        &mut entry.or_insert_with(|| (hash, Box::new(new()))).into_mut().1
    }

    /// Forgets a key's state.
    pub fn remove(&mut self, key: S::Key) {
        let hash = self.hash(key);
        if let Ok(entry) = self.table.find_entry(hash.spread(), is(hash, key)) {
            entry.remove();
        }
    }

    /// Looks at the states of at most [`AHEAD`] keys that will be asked for: first at all their slots, then at all of them.
    ///
    /// A processor goes on past what it waits for, but not far: what is done here for one key is little, so that many wait
    /// together. Which state a slot holds is a guess then, by half of the hash.
    pub fn ahead(&self, keys: impl Iterator<Item = S::Key>, look: impl Fn(&S) -> u64) {
        let hashes: SmallVec<[Half; AHEAD]> = keys.map(|key| self.hash(key)).collect();
        let found = hashes.iter().filter_map(|hash| self.table.find(hash.spread(), |(of, _)| of == hash));
        let states: SmallVec<[&S; AHEAD]> = found.map(|(_, of)| &**of).collect();
        black_box(states.into_iter().fold(0, |all, state| all ^ look(state)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    struct State(u16, u32);

    impl Keyed for State {
        type Key = u16;
        fn key(&self) -> u16 {
            self.0
        }
    }

    proptest! {
        /// A map, whatever is put in, changed and taken out.
        #[test]
        fn it_is_a_map(changes in proptest::collection::vec((0u16..300, proptest::option::of(any::<u32>())), 0..600)) {
            let (mut boxes, mut map) = (Boxes::default(), BTreeMap::new());
            for (key, value) in changes {
                boxes.ahead([key, key + 1].into_iter(), |state: &State| u64::from(state.1));
                match value {
                    Some(value) => {
                        boxes.get_or_insert_with(key, || State(key, 0)).1 = value;
                        map.insert(key, value);
                    }
                    None => {
                        boxes.remove(key);
                        map.remove(&key);
                    }
                }
                if let Some(state) = boxes.get_mut(key / 2) {
                    state.1 ^= 1;
                }
                map.entry(key / 2).and_modify(|value| *value ^= 1);
            }
            for key in 0..300 {
                prop_assert_eq!(boxes.get(key).map(|state| state.1), map.get(&key).copied());
            }
            prop_assert_eq!(boxes.table.len(), map.len());
        }
    }
}
