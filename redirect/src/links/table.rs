//! The link table: an immutable map that is replaced as a whole.
//!
//! # Meaning
//! A [`Table`] is two [`Layer`]s, one from the file and one from the topic; the topic's link wins. Workers read the
//! current table through one atomic pointer ([`Live`]); writers build the next table beside it and swap the pointer.
//!
//! # Cost
//! A look-up is two hash look-ups at most. A layer is split into [`SHARDS`] maps behind reference counts, so that one changed
//! link among a million copies a thousand pointers rather than a million. The writer frees what was replaced.

use super::Link;
use arc_swap::ArcSwap;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A million links make about a thousand links a shard: a change copies that many pointers.
const SHARDS: usize = 1_024;

/// How long the old table may be in use by a worker; a look-up takes microseconds.
const RETIRE: Duration = Duration::from_secs(1);

/// A link in a set, found by its key: so that no key is kept twice.
#[derive(Clone, Debug)]
struct ByKey(Arc<Link>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

#[derive(Clone, Debug, Default)]
struct Shard {
    links: HashSet<ByKey>,
    /// How many links each domain has, to tell a foreign host from an unknown slug. A domain's shard is its own, not its links'.
    domains: HashMap<Box<str>, usize>,
}

/// The links of one source.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    shards: Vec<Arc<Shard>>,
    len: usize,
    /// Chooses the shard. Random, so that nobody can choose slugs that fall into one.
    hasher: RandomState,
}

impl Default for Layer {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Layer { shards: vec![empty; SHARDS], len: 0, hasher: RandomState::new() }
    }
}

impl Layer {
    fn shard(&self, key: &str) -> &Shard {
        &self.shards[self.index(key)]
    }

    /// The shard to change; it is copied first if an older table still has it.
    fn shard_mut(&mut self, key: &str) -> &mut Shard {
        let index = self.index(key);
        Arc::make_mut(&mut self.shards[index])
    }

    fn index(&self, key: &str) -> usize {
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    /// Adds a link, or replaces the one with its key, which is returned.
    pub(crate) fn insert(&mut self, link: Link) -> Option<Arc<Link>> {
        let link = Arc::new(link);
        let old = self.shard_mut(&link.key).links.replace(ByKey(link.clone())).map(|old| old.0);
        if old.is_none() {
            self.len += 1;
            *self.shard_mut(link.domain()).domains.entry(link.domain().into()).or_default() += 1;
        }
        old
    }

    /// Takes a link away; nothing happens when there is none.
    pub(crate) fn remove(&mut self, key: &str) {
        if self.get(key).is_none() {
            return;
        }
        let Some(ByKey(link)) = self.shard_mut(key).links.take(key) else { return };
        self.len -= 1;
        let domains = &mut self.shard_mut(link.domain()).domains;
        if let Some(count) = domains.get_mut(link.domain()) {
            *count -= 1;
            if *count == 0 {
                domains.remove(link.domain());
            }
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Link>> {
        self.shard(key).links.get(key).map(|link| &link.0)
    }

    fn has_domain(&self, domain: &str) -> bool {
        self.shard(domain).domains.contains_key(domain)
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
    /// The link with the key `domain/slug`.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Link>> {
        self.topic.get(key).or_else(|| self.file.get(key))
    }

    /// Whether any link belongs to this domain.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        self.topic.has_domain(domain) || self.file.has_domain(domain)
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
mod tests {
    use super::*;

    fn link(domain: &str, slug: &str, destination: &str) -> Link {
        Link::from_value(serde_json::json!({"domain": domain, "slug": slug, "workspace": "w", "destination": destination})).expect("a link")
    }

    #[test]
    fn the_topic_wins_and_its_tombstone_shows_the_file_again() {
        let live = Live::default();
        let mut file = Layer::default();
        file.insert(link("d.example", "a", "https://file.example/"));
        live.set_file(file);
        let mut topic = Layer::default();
        topic.insert(link("d.example", "a", "https://topic.example/"));
        live.set_topic(topic.clone());
        let destination = |live: &Live| live.table().get("d.example/a").map(|link| link.destination().to_owned());
        assert_eq!(destination(&live).as_deref(), Some("https://topic.example/"));
        topic.remove("d.example/a");
        live.set_topic(topic);
        assert_eq!(destination(&live).as_deref(), Some("https://file.example/"));
        live.set_file(Layer::default());
        assert_eq!(destination(&live), None);
    }

    #[test]
    fn a_domain_is_known_while_it_has_a_link() {
        let mut layer = Layer::default();
        assert!(layer.insert(link("d.example", "a", "https://x.example/")).is_none());
        assert!(layer.insert(link("d.example", "a", "https://y.example/")).is_some());
        layer.insert(link("d.example", "b", "https://x.example/"));
        assert_eq!(layer.len(), 2);
        layer.remove("d.example/a");
        layer.remove("d.example/a");
        layer.remove("d.example/none");
        let table = Table { file: Arc::new(layer.clone()), topic: Arc::default() };
        assert!(table.has_domain("d.example"));
        layer.remove("d.example/b");
        let table = Table { file: Arc::new(layer), topic: Arc::default() };
        assert!(!table.has_domain("d.example"));
    }

    #[test]
    fn a_change_leaves_the_older_table_as_it_was() {
        let mut layer = Layer::default();
        for slug in 0..5_000 {
            layer.insert(link("d.example", &format!("s{slug}"), "https://x.example/"));
        }
        let before = layer.clone();
        layer.insert(link("d.example", "s7", "https://y.example/"));
        layer.remove("d.example/s8");
        assert_eq!(before.get("d.example/s7").expect("s7").destination(), "https://x.example/");
        assert_eq!((before.len(), layer.len()), (5_000, 4_999));
        assert!(before.get("d.example/s8").is_some() && layer.get("d.example/s8").is_none());
    }
}
