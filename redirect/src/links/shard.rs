//! A part of a layer: some hundred links in three pieces of memory.
//!
//! # Cost
//! All strings of the shard's links stand one behind the other in one text. A link adds to its strings an [`Entry`] of 32 bytes and about
//! eleven bytes of index (measured by `tests/link_memory.rs`). Text of links that were replaced is given back when it makes up half of the whole.

use super::link::NEVER;
use super::owner::Domain;
use super::{Checked, Link, Tags};
use crate::query::Target;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::LazyLock;

/// The seed of every index: random for each process, so that nobody can choose slugs or domains that collide.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Dead text below this is left alone, in bytes.
const MIN_DEAD: usize = 4_096;

/// The hash of a key or a domain.
pub(super) fn hash(text: &str) -> u64 {
    SEED.hash_one(text)
}

/// Where a link's strings are: lengths in the order in which they follow each other from `at`. Zero is absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    at: u32,
    tags: u32,
    expires_s: u32,
    line: u32,
    key: u16,
    workspace: u16,
    url: u16,
    as_written: u16,
    title: u16,
    deal_id: u16,
    disabled: bool,
}

impl Entry {
    /// Bytes of all its strings.
    fn len(&self) -> usize {
        let Entry { at: _, tags, expires_s: _, line: _, key, workspace, url, as_written, title, deal_id, disabled: _ } = *self;
        tags as usize + [key, workspace, url, as_written, title, deal_id].map(usize::from).iter().sum::<usize>()
    }

    fn range(&self) -> Range<usize> {
        self.at as usize..self.at as usize + self.len()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    text: String,
    /// Bytes of `text` that belong to no link any more.
    dead: usize,
    entries: Vec<Entry>,
    /// Positions in `entries`, by key.
    index: HashTable<u32>,
    /// A domain's shard is its own, not its links'.
    domains: HashTable<Domain>,
}

impl Shard {
    /// An empty shard with room for as much as this one holds.
    pub(super) fn emptied(&self) -> Shard {
        Shard {
            text: String::with_capacity(self.text.len() - self.dead),
            entries: Vec::with_capacity(self.entries.len()),
            index: HashTable::with_capacity(self.entries.len()),
            ..Shard::default()
        }
    }

    pub(super) fn get(&self, hash: u64, key: &str) -> Option<Link<'_>> {
        let at = *self.index.find(hash, |at| self.key(*at) == key)?;
        Some(self.link(&self.entries[at as usize]))
    }

    /// The first step of a look ahead: the shard itself.
    pub(super) fn touch(&self) -> usize {
        self.text.len() ^ self.index.len()
    }

    /// The second: where the entry probably is. Other keys are taken for this one now and then, since nothing is compared.
    pub(super) fn probable(&self, hash: u64) -> Option<&Entry> {
        self.entries.get(*self.index.find(hash, |_| true)? as usize)
    }

    /// The third and last: the entry, then its text.
    pub(super) fn probable_text(&self, entry: &Entry) -> &[u8] {
        self.text.as_bytes().get(entry.range()).unwrap_or_default()
    }

    /// The line of the file in which the link stands.
    pub(super) fn line(&self, hash: u64, key: &str) -> Option<u32> {
        self.index.find(hash, |at| self.key(*at) == key).map(|at| self.entries[*at as usize].line)
    }

    fn key(&self, at: u32) -> &str {
        key(&self.text, &self.entries, at)
    }

    fn link(&self, entry: &Entry) -> Link<'_> {
        let mut rest = &self.text[entry.range()];
        let mut next = |length: usize| {
            let (part, after) = rest.split_at(length);
            rest = after;
            part
        };
        let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
        Link {
            key: next(entry.key.into()),
            workspace: next(entry.workspace.into()),
            target: Target::of(next(entry.url.into())),
            as_written: some(next(entry.as_written.into())),
            title: some(next(entry.title.into())),
            deal_id: some(next(entry.deal_id.into())),
            tags: Tags(next(entry.tags as usize)),
            expires_s: entry.expires_s,
            disabled: entry.disabled,
        }
    }

    /// Adds a link or replaces the one with its key; whether it is new.
    pub(super) fn insert(&mut self, hash: u64, link: &Checked, line: u32) -> bool {
        let found = self.index.find(hash, |at| self.key(*at) == link.key).copied();
        let entry = self.push(link, line);
        match found {
            Some(at) => {
                let old = std::mem::replace(&mut self.entries[at as usize], entry);
                self.bury(old.len());
            }
            None => {
                let at = u32::try_from(self.entries.len()).expect("a shard has far fewer links");
                self.entries.push(entry);
                let Shard { text, entries, index, .. } = self;
                index.insert_unique(hash, at, |at| self::hash(key(text, entries, *at)));
            }
        }
        found.is_none()
    }

    /// Takes a link away.
    pub(super) fn remove(&mut self, hash: u64, key: &str) {
        let Shard { text, entries, index, .. } = self;
        let Ok(found) = index.find_entry(hash, |at| self::key(text, entries, *at) == key) else { return };
        let (at, _) = found.remove();
        // The last entry takes the place, and the index must know.
        let last = u32::try_from(entries.len() - 1).expect("a shard has far fewer links");
        if last != at {
            let moved = self::hash(self::key(text, entries, last));
            if let Some(position) = index.find_mut(moved, |other| *other == last) {
                *position = at;
            }
        }
        let old = entries.swap_remove(at as usize);
        self.bury(old.len());
    }

    fn push(&mut self, link: &Checked, line: u32) -> Entry {
        let Checked { key, workspace, url, as_written, title, tags, deal_id, expires_s, disabled } = link;
        let (as_written, title, deal_id) =
            (as_written.as_deref().unwrap_or(""), title.as_deref().unwrap_or(""), deal_id.as_deref().unwrap_or(""));
        let parts = [key, workspace, url, as_written, title, deal_id, tags];
        let needed: usize = parts.iter().map(|part| part.len()).sum();
        if self.text.capacity() - self.text.len() < needed {
            // Less room in reserve than `String` would keep: there are thousands of these texts.
            self.text.reserve_exact(needed.max(self.text.len() / 8));
        }
        let at = u32::try_from(self.text.len()).expect("the text of a few hundred links is shorter than 4 GiB");
        parts.iter().for_each(|part| self.text.push_str(part));
        let short = |part: &str| u16::try_from(part.len()).expect("every part was checked to be shorter than 64 KiB");
        Entry {
            at,
            tags: u32::try_from(tags.len()).expect("tags were checked to be short"),
            expires_s: *expires_s,
            line,
            key: short(key),
            workspace: short(workspace),
            url: short(url),
            as_written: short(as_written),
            title: short(title),
            deal_id: short(deal_id),
            disabled: *disabled,
        }
    }

    /// Counts text as dead, and writes the rest anew when half of all is.
    fn bury(&mut self, bytes: usize) {
        self.dead += bytes;
        if self.dead < MIN_DEAD || self.dead < self.text.len() / 2 {
            return;
        }
        let mut text = String::with_capacity(self.text.len() - self.dead);
        for entry in &mut self.entries {
            let at = u32::try_from(text.len()).expect("shorter than before");
            text.push_str(&self.text[entry.range()]);
            entry.at = at;
        }
        self.text = text;
        self.dead = 0;
    }

    pub(super) fn domain(&self, hash: u64, name: &str) -> Option<&Domain> {
        self.domains.find(hash, |domain| *domain.name == *name)
    }

    /// All domains that it has.
    pub(super) fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter()
    }

    /// Counts a link of a domain.
    pub(super) fn count_domain(&mut self, hash: u64, name: &str, workspace: &str) {
        match self.domains.find_mut(hash, |domain| *domain.name == *name) {
            Some(domain) => domain.count(workspace),
            None => drop(self.domains.insert_unique(hash, Domain::new(name, workspace), |domain| self::hash(&domain.name))),
        }
    }

    pub(super) fn uncount_domain(&mut self, hash: u64, name: &str, workspace: &str) {
        if let Ok(mut found) = self.domains.find_entry(hash, |domain| *domain.name == *name)
            && found.get_mut().uncount(workspace)
        {
            found.remove();
        }
    }

    /// Where its pieces lie in memory, as addresses; its indexes are not told, they lie between them.
    pub(super) fn memory(&self) -> [Range<usize>; 3] {
        fn range<T>(items: &[T]) -> Range<usize> {
            let Range { start, end } = items.as_ptr_range();
            start.addr()..end.addr()
        }
        [range(std::slice::from_ref(self)), range(self.text.as_bytes()), range(&self.entries)]
    }

    /// Gives back what is kept in reserve.
    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
        let Shard { text, entries, index, .. } = self;
        index.shrink_to_fit(|at| hash(key(text, entries, *at)));
    }
}

fn key<'a>(text: &'a str, entries: &[Entry], at: u32) -> &'a str {
    let entry = &entries[at as usize];
    let start = entry.at as usize;
    &text[start..start + usize::from(entry.key)]
}

impl Checked {
    /// The same link as the table would show it.
    pub(crate) fn view(&self) -> Link<'_> {
        Link {
            key: &self.key,
            workspace: &self.workspace,
            title: self.title.as_deref(),
            tags: Tags(&self.tags),
            deal_id: self.deal_id.as_deref(),
            target: Target::of(&self.url),
            as_written: self.as_written.as_deref(),
            expires_s: self.expires_s,
            disabled: self.disabled,
        }
    }

    /// A time in milliseconds as the table keeps it: what lies in between counts up, what lies beyond is never.
    pub(super) fn seconds(ms: u64) -> u32 {
        u32::try_from(ms.div_ceil(1_000)).unwrap_or(NEVER)
    }
}
