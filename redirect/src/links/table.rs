//! The link table: an immutable map that is replaced as a whole.
//!
//! # Meaning
//! A [`Table`] is two [`Layer`]s, one from the file and one from the topic; the topic's link wins, on a domain of its workspace. Workers read the
//! current table through one atomic pointer ([`Live`]); writers build the next table beside it and swap the pointer.
//!
//! # Cost
//! A look-up is two hash look-ups at most. A layer is split into [`SHARDS`] parts behind reference counts, so that one changed
//! link among a million copies the text of some 250 links. The writer frees what was replaced. While a file of a million links replaces
//! another both are in memory, and no more than that.

use super::owner::{self, Domain};
use super::shard::{Entry, Shard, hash};
use super::{Checked, Link, Owner};
use crate::large_pages;
use crate::prefetch::prefetch;
use arc_swap::ArcSwap;
use smallvec::SmallVec;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A million links make some 250 links a shard, 60 kB: what a change of one link copies.
const SHARDS: usize = 4_096;

/// Look-ups that are looked ahead for together, without memory of their own: a turn of an event loop has no more.
const LOOK_AHEAD: usize = 64;

/// How long the old table may be in use by a worker; a look-up takes microseconds.
const RETIRE: Duration = Duration::from_secs(1);

/// The links of one source.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    shards: Vec<Arc<Shard>>,
    len: usize,
}

impl Default for Layer {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Layer { shards: vec![empty; SHARDS], len: 0 }
    }
}

/// The shard of a hash; the index within a shard goes by its lowest and highest bits.
fn place(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl Layer {
    /// An empty layer with room for the links of this one: the same links are in the same shards of both.
    pub(crate) fn emptied(&self) -> Layer {
        Layer { shards: self.shards.iter().map(|shard| Arc::new(shard.emptied())).collect(), len: 0 }
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[place(hash)]
    }

    /// The shard to change; it is copied first if an older table still has it.
    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        Arc::make_mut(&mut self.shards[place(hash)])
    }

    /// Adds a link, or replaces the one with its key. `line` is where the file has it, 0 if it is from no file.
    pub(crate) fn insert(&mut self, link: &Checked, line: u32) {
        let key = hash(&link.key);
        // Copying a domain's shard for nothing is what this look saves: most changes are to a link that stays its workspace's.
        let same = self.shard(key).get(key, &link.key).map(|before| before.workspace == link.workspace);
        if same != Some(true) {
            if same.is_some() {
                // Another workspace's.
                self.remove(&link.key);
            }
            let name = link.view().domain();
            let domain = hash(name);
            self.shard_mut(domain).count_domain(domain, name, &link.workspace);
            self.len += 1;
        }
        self.shard_mut(key).insert(key, link, line);
    }

    /// Takes a link away; nothing happens when there is none.
    pub(crate) fn remove(&mut self, key: &str) {
        let at = hash(key);
        let Some(workspace) = self.shard(at).get(at, key).map(|link| link.workspace.to_owned()) else { return };
        self.shard_mut(at).remove(at, key);
        self.len -= 1;
        let name = key.split_once('/').map_or("", |(domain, _)| domain);
        let domain = hash(name);
        self.shard_mut(domain).uncount_domain(domain, name, &workspace);
    }

    /// Brings what look-ups of these hashes will read into the processor's caches. Each step reads, for all of them, what the step before has found: the
    /// processor waits for many places of memory together, where look-ups one after the other wait for each.
    fn look_ahead(&self, hashes: &[u64]) {
        if self.len == 0 {
            return;
        }
        let shards = hashes.iter().map(|hash| self.shard(*hash));
        black_box(shards.clone().fold(0, |all, shard| all ^ shard.touch()));
        let entries: SmallVec<[(&Shard, &Entry); LOOK_AHEAD]> =
            shards.zip(hashes).filter_map(|(shard, hash)| Some((shard, shard.probable(*hash)?))).collect();
        for (shard, entry) in entries {
            let text = shard.probable_text(entry);
            // A cache line has 64 bytes.
            text.iter().step_by(64).chain(text.last()).for_each(prefetch);
        }
    }

    #[cfg(test)]
    pub(crate) fn get(&self, key: &str) -> Option<Link<'_>> {
        let hash = hash(key);
        self.shard(hash).get(hash, key)
    }

    /// The line of the file in which a link stands.
    pub(crate) fn line(&self, key: &str) -> Option<u32> {
        let hash = hash(key);
        self.shard(hash).line(hash, key)
    }

    /// What it has on a domain.
    fn domain(&self, name: &str) -> Option<&Domain> {
        let hash = hash(name);
        self.shard(hash).domain(hash, name)
    }

    /// Another workspace that a link's domain belongs to here.
    pub(crate) fn other_owner(&self, link: &Checked) -> Option<&str> {
        let domain = self.domain(link.view().domain())?;
        (*domain.workspace != *link.workspace).then_some(&domain.workspace)
    }

    /// Gives back what was kept in reserve for more links.
    pub(crate) fn shrink(&mut self) {
        // A shard that an older table shares was not changed, so there is nothing in reserve.
        self.shards.iter_mut().filter_map(Arc::get_mut).for_each(Shard::shrink);
    }

    /// Puts its memory into large pages, as far as the system does that: look-ups wait for little else than memory.
    pub(crate) fn enlarge_pages(&self) {
        large_pages::enlarge(self.shards.iter().flat_map(|shard| shard.memory()));
    }

    /// Number of links.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// What workers look links up in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    file: Arc<Layer>,
    topic: Arc<Layer>,
}

impl Table {
    /// The hash by which a key is looked up.
    pub(crate) fn hash(key: &str) -> u64 {
        hash(key)
    }

    /// Makes the look-ups of these hashes that follow soon wait for less.
    pub(crate) fn look_ahead(&self, hashes: &[u64]) {
        if hashes.len() > 1 {
            self.topic.look_ahead(hashes);
            self.file.look_ahead(hashes);
        }
    }

    /// The link with the key `domain/slug`, which has this hash; with an `owner` only one of that workspace's.
    pub(crate) fn get(&self, hash: u64, key: &str, owner: Option<&str>) -> Option<Link<'_>> {
        let theirs = |link: &Link<'_>| owner.is_none_or(|owner| link.workspace == owner);
        let topics = self.topic.shard(hash).get(hash, key).filter(theirs);
        topics.or_else(|| self.file.shard(hash).get(hash, key).filter(theirs))
    }

    /// Whose links answer on a domain.
    pub(crate) fn owner(&self, domain: &str, shared_domains: &[String]) -> Owner<'_> {
        owner::owner(domain, self.file.domain(domain), self.topic.domain(domain), shared_domains)
    }

    /// The domains on which workspaces disagree, and whose they are.
    pub(crate) fn divided(&self, shared_domains: &[String]) -> impl Iterator<Item = (&str, &str)> {
        // The file's are not divided in themselves: it was refused else.
        let domains = self.topic.shards.iter().flat_map(|shard| shard.domains());
        domains.filter_map(move |domain| match self.owner(&domain.name, shared_domains) {
            Owner::One(workspace) => Some((&*domain.name, workspace)),
            Owner::Any | Owner::Nobody => None,
        })
    }

    /// The file's links.
    pub(crate) fn file(&self) -> &Layer {
        &self.file
    }

    /// The topic's links.
    pub(crate) fn topic(&self) -> &Layer {
        &self.topic
    }
}

/// The current table, shared by all workers and the sources of links.
#[derive(Debug, Default)]
pub(crate) struct Live(ArcSwap<Table>);

impl Live {
    /// The current table. Never waits.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.0.load()
    }

    /// Replaces the file's links.
    pub(crate) fn set_file(&self, layer: Layer) {
        layer.enlarge_pages();
        let layer = Arc::new(layer);
        retire(&self.0.rcu(|table| Table { file: layer.clone(), topic: table.topic.clone() }));
    }

    /// Replaces the topic's links.
    pub(crate) fn set_topic(&self, layer: Layer) {
        let layer = Arc::new(layer);
        retire(&self.0.rcu(|table| Table { file: table.file.clone(), topic: layer.clone() }));
    }
}

/// Waits until no worker looks at the table any more, so that the caller frees it: a million links take a while.
fn retire(table: &Arc<Table>) {
    let end = Instant::now() + RETIRE;
    while Arc::strong_count(table) > 1 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
