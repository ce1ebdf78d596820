//! What was found out about the user agents seen last, so that their words are read once.
//!
//! # Meaning
//! Most visitors share a few hundred user agents. One that is here costs a hash and a comparison; the whole text is compared, so that nobody can have another's
//! answer. Each worker has a cache of its own.
//!
//! # Limits
//! [`SETS`] × [`WAYS`] user agents of up to [`MAX_KEPT`] bytes, and what a record says of each, up to [`MAX_FIELDS`] bytes: about
//! 6 MiB a worker, and what the allocator adds. Longer ones are read each time. In a set the one that was not used for longest gives way.

use crate::bots::Reason;
use foldhash::quality::RandomState;
use std::hash::BuildHasher;

/// Sets of user agents whose hashes end alike.
const SETS: usize = 512;
/// User agents in a set.
const WAYS: usize = 8;
/// Longest user agent that is kept, in bytes; browsers' have 100 to 250.
const MAX_KEPT: usize = 512;

/// Longest fields of a record that are kept, in bytes: a user agent that is kept, with few signs that JSON must escape.
const MAX_FIELDS: usize = 1_024;

/// What a user agent tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What a click's record says of it.
    pub fields: Box<[u8]>,
    /// Why it is a machine's, if it is.
    pub machine: Option<Reason>,
}

/// A user agent, and what it tells.
type Entry = (Box<[u8]>, Facts);

/// The user agents seen last; each set has the last used first.
pub(crate) struct Cache {
    hasher: RandomState,
    sets: Box<[Vec<Entry>]>,
    /// What was found last about one that is not kept.
    unkept: Facts,
}

impl Cache {
    pub(crate) fn new() -> Cache {
        Cache { hasher: RandomState::default(), sets: vec![Vec::new(); SETS].into(), unkept: Facts::default() }
    }

    /// What was found about these words, or what `read` finds now.
    pub(crate) fn get(&mut self, words: &[u8], read: impl FnOnce() -> Facts) -> &Facts {
        if words.len() > MAX_KEPT {
            self.unkept = read();
            return &self.unkept;
        }
        let set = &mut self.sets[self.hasher.hash_one(words) as usize % SETS];
        match set.iter().position(|(other, _)| **other == *words) {
            Some(0) => {}
            Some(at) => set[..=at].rotate_right(1),
            None => {
                let facts = read();
                if facts.fields.len() > MAX_FIELDS {
                    self.unkept = facts;
                    return &self.unkept;
                }
                set.truncate(WAYS - 1);
                set.insert(0, (words.into(), facts));
            }
        }
        &set[0].1
    }

    /// Forgets all: what is read from the same words has changed.
    pub(crate) fn clear(&mut self) {
        self.sets.iter_mut().for_each(Vec::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(fields: &str) -> Facts {
        Facts { fields: fields.as_bytes().into(), machine: None }
    }

    #[test]
    fn words_are_read_once() {
        let mut cache = Cache::new();
        assert_eq!(*cache.get(b"a", || facts("one")), facts("one"));
        assert_eq!(*cache.get(b"a", || panic!("read again")), facts("one"));
        assert_eq!(*cache.get(b"b", || facts("two")), facts("two"));
        cache.clear();
        assert_eq!(*cache.get(b"a", || facts("three")), facts("three"));
        let long = [b'x'; MAX_KEPT + 1];
        assert_eq!(*cache.get(&long, || facts("one")), facts("one"));
        assert_eq!(*cache.get(&long, || facts("two")), facts("two"));
        let fields = "x".repeat(MAX_FIELDS + 1);
        assert_eq!(*cache.get(b"c", || facts(&fields)), facts(&fields));
        assert_eq!(*cache.get(b"c", || facts("one")), facts("one"));
        assert_eq!(*cache.get(b"c", || panic!("read again")), facts("one"));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new();
        cache.get(b"often", || facts("often"));
        for number in 0..50_000 {
            cache.get(format!("agent {number}").as_bytes(), || facts("once"));
            cache.get(b"often", || panic!("forgotten"));
        }
        assert_eq!(cache.sets.iter().map(Vec::len).max(), Some(WAYS));
    }
}
