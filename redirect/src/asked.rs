//! What the requests of a turn ask for.
//!
//! # Meaning
//! A request asks for the key of a link: its host, or the default domain when no link has that host, and its path without the slashes around it. Where
//! several workspaces have links on that domain, it asks for one of its owner's.
//!
//! # Cost
//! Most requests of a turn are for one host; whether links have it is found out once. What is remembered holds for one state of the link table, so
//! it is [cleared](AskedKeys::clear) with each turn.

use crate::http::{Head, push_host};
use crate::links::{Owner, Table};
use percent_encoding::percent_decode_str;
use std::ops::Range;

/// What a request asks for: a key among those of the turn, and its hash.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    key: Range<usize>,
    /// Whose the link must be; empty: anybody's.
    owner: Range<usize>,
    pub hash: u64,
}

/// The keys that were asked for in a turn.
#[derive(Debug, Default)]
pub(crate) struct AskedKeys {
    keys: String,
    /// What was found out about a host in this turn.
    known: bool,
    /// That host, as sent.
    host: String,
    /// What its links are looked up under, and whether that is any domain at all.
    domain: String,
    has_links: bool,
    /// Whose links it serves; empty: anybody's.
    owner: String,
}

impl AskedKeys {
    /// Begins another turn.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.known = false;
    }

    /// The key of what was asked for in this turn.
    pub(crate) fn key(&self, asked: &Asked) -> &str {
        &self.keys[asked.key.clone()]
    }

    /// The workspace whose link it must be, if that matters.
    pub(crate) fn owner(&self, asked: &Asked) -> Option<&str> {
        Some(&self.keys[asked.owner.clone()]).filter(|owner| !owner.is_empty())
    }

    /// Adds what a request asks for; `None` when it can be no link.
    pub(crate) fn add(&mut self, table: &Table, default_domain: Option<&str>, shared_domains: &[String], head: &Head<'_>) -> Option<Asked> {
        let path = head.path.strip_prefix('/')?;
        // People and mail programs add a slash; it means nothing here.
        let slug = path.strip_suffix('/').unwrap_or(path);
        if slug.is_empty() {
            return None;
        }
        let slug = percent_decode_str(slug).decode_utf8().ok()?;
        if !self.known || self.host != head.host {
            self.look_at(table, default_domain, shared_domains, head.host);
        }
        if !self.has_links {
            return None;
        }
        let start = self.keys.len();
        self.keys.push_str(&self.domain);
        self.keys.push('/');
        self.keys.push_str(&slug);
        let key = start..self.keys.len();
        let hash = Table::hash(&self.keys[start..]);
        self.keys.push_str(&self.owner);
        Some(Asked { owner: key.end..self.keys.len(), key, hash })
    }

    /// Finds out under which domain a host's links are looked up.
    fn look_at(&mut self, table: &Table, default_domain: Option<&str>, shared_domains: &[String], host: &str) {
        self.known = true;
        host.clone_into(&mut self.host);
        self.domain.clear();
        push_host(host, &mut self.domain);
        let mut owner = table.owner(&self.domain, shared_domains);
        self.has_links = true;
        if owner == Owner::Nobody {
            self.has_links = default_domain.is_some();
            default_domain.unwrap_or_default().clone_into(&mut self.domain);
            owner = table.owner(&self.domain, shared_domains);
        }
        self.owner.clear();
        if let Owner::One(workspace) = owner {
            self.owner.push_str(workspace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::Visitor;
    use crate::http::Method;
    use crate::links::{Checked, Layer, Live};
    use std::net::IpAddr;

    fn live() -> Live {
        let record = serde_json::json!({"domain": "s.example", "slug": "a", "workspace": "w", "destination": "https://acme.example/"});
        let mut layer = Layer::default();
        layer.insert(&Checked::from_value(&record).expect("a link"), 1);
        let live = Live::default();
        live.set_file(layer);
        live
    }

    fn add(asked: &mut AskedKeys, table: &Table, default_domain: Option<&str>, host: &str, path: &str) -> Option<String> {
        let (client, visitor) = (IpAddr::from([192, 0, 2, 1]), Visitor::default());
        let head = Head { method: Method::Get, path, query: "", host, keep_alive: true, client, visitor };
        let added = asked.add(table, default_domain, &[], &head)?;
        let key = asked.key(&added);
        assert_eq!(added.hash, Table::hash(key));
        Some(key.to_owned())
    }

    /// Whatever was asked for before in the turn.
    #[test]
    fn keys_are_as_if_each_were_the_first() {
        let (live, hosts) = (live(), ["s.example", "S.example.:80", "x.example", "s.example", "", "d.example", "d.example"]);
        for default_domain in [None, Some("d.example")] {
            let mut turn = AskedKeys::default();
            for host in hosts {
                let ours = host.to_ascii_lowercase().starts_with("s.example");
                for (path, slug) in
                    [("/a", Some("a")), ("/%61/", Some("a")), ("/b/c", Some("b/c")), ("/", None), ("", None), ("/%ff", None)]
                {
                    let domain = if ours { Some("s.example") } else { default_domain };
                    let expected = domain.zip(slug).map(|(domain, slug)| format!("{domain}/{slug}"));
                    assert_eq!(add(&mut turn, &live.table(), default_domain, host, path), expected, "{host} {path}");
                }
            }
        }
    }

    /// Each request of a turn asks for its own host's owner.
    #[test]
    fn a_divided_domain_is_asked_for_its_owners_links() {
        let live = live();
        let mut topic = Layer::default();
        for (domain, slug, workspace) in [("s.example", "b", "v"), ("d.example", "a", "v")] {
            let record =
                serde_json::json!({"domain": domain, "slug": slug, "workspace": workspace, "destination": "https://acme.example/"});
            topic.insert(&Checked::from_value(&record).expect("a link"), 0);
        }
        live.set_topic(topic);
        let (table, mut turn) = (live.table(), AskedKeys::default());
        let (shared, none): (&[String], &[String]) = (&["s.example".to_owned()], &[]);
        for (host, path, shared, owner, found) in [
            ("s.example", "/a", none, Some("w"), true),
            ("d.example", "/a", none, None, true),
            ("s.example", "/b", none, Some("w"), false),
            ("nobody.example", "/b", none, Some("w"), false),
            ("x.example", "/b", shared, None, true),
        ] {
            let (client, visitor) = (IpAddr::from([192, 0, 2, 1]), Visitor::default());
            let head = Head { method: Method::Get, path, query: "", host, keep_alive: true, client, visitor };
            let asked = turn.add(&table, Some("s.example"), shared, &head).expect("a link's");
            assert_eq!(turn.owner(&asked), owner, "{host}{path}");
            assert_eq!(table.get(asked.hash, turn.key(&asked), turn.owner(&asked)).is_some(), found, "{host}{path}");
        }
    }

    #[test]
    fn another_turn_may_have_other_links() {
        let (before, after) = (live(), Live::default());
        let mut turn = AskedKeys::default();
        assert_eq!(add(&mut turn, &before.table(), None, "s.example", "/a").as_deref(), Some("s.example/a"));
        turn.clear();
        assert_eq!(add(&mut turn, &after.table(), None, "s.example", "/a"), None);
        turn.clear();
        assert_eq!(add(&mut turn, &before.table(), None, "s.example", "/a").as_deref(), Some("s.example/a"));
    }
}
