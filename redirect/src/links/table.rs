//! The link table: an immutable map that is replaced as a whole.
//!
//! # Meaning
//! A [`Table`] is two [`Layer`]s, one from the file and one from the topic; the topic's link wins. Workers read the
//! current table through one atomic pointer ([`Live`]); writers build the next table beside it and swap the pointer.
//!
//! # Cost
//! A look-up is two hash look-ups at most. A layer is split into [`SHARDS`] maps behind reference counts, so that one changed
//! link among a million copies a thousand pointers rather than a million. Replaced parts are freed by whoever holds them last.

use super::Link;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A million links make about a thousand links a shard: a change copies that many pointers.
const SHARDS: usize = 1_024;

type Shard = HashMap<Box<str>, Arc<Link>>;

/// The links of one source.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    shards: Vec<Arc<Shard>>,
    /// How many links each domain has, to tell a foreign host from an unknown slug.
    domains: HashMap<Box<str>, usize>,
    /// Chooses the shard. Random, so that nobody can choose slugs that fall into one.
    hasher: RandomState,
}

impl Default for Layer {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Layer { shards: vec![empty; SHARDS], domains: HashMap::new(), hasher: RandomState::new() }
    }
}

impl Layer {
    fn shard(&self, key: &str) -> usize {
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    /// Adds a link, or replaces the one with its key, which is returned.
    pub(crate) fn insert(&mut self, link: Link) -> Option<Arc<Link>> {
        let shard = self.shard(&link.key);
        let domain: Box<str> = link.domain().into();
        let old = Arc::make_mut(&mut self.shards[shard]).insert(link.key.clone(), Arc::new(link));
        if old.is_none() {
            *self.domains.entry(domain).or_default() += 1;
        }
        old
    }

    /// Takes a link away; nothing happens when there is none.
    pub(crate) fn remove(&mut self, key: &str) {
        let shard = self.shard(key);
        if !self.shards[shard].contains_key(key) {
            return;
        }
        if let Some(link) = Arc::make_mut(&mut self.shards[shard]).remove(key)
            && let Some(count) = self.domains.get_mut(link.domain())
        {
            *count -= 1;
            if *count == 0 {
                self.domains.remove(link.domain());
            }
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Link>> {
        self.shards[self.shard(key)].get(key)
    }

    /// Number of links.
    pub(crate) fn len(&self) -> usize {
        self.domains.values().sum()
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
        self.topic.domains.contains_key(domain) || self.file.domains.contains_key(domain)
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
        self.0.rcu(|table| Table { file: layer.clone(), topic: table.topic.clone() });
    }

    /// Replaces the topic's links.
    pub(crate) fn set_topic(&self, layer: Layer) {
        let layer = Arc::new(layer);
        self.0.rcu(|table| Table { file: table.file.clone(), topic: layer.clone() });
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
        let destination = |live: &Live| live.table().get("d.example/a").map(|link| link.destination.clone());
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
        assert_eq!(before.get("d.example/s7").expect("s7").destination, "https://x.example/");
        assert_eq!((before.len(), layer.len()), (5_000, 4_999));
        assert!(before.get("d.example/s8").is_some() && layer.get("d.example/s8").is_none());
    }
}
