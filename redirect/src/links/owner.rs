//! Whose a domain is.
//!
//! # Meaning
//! A domain is one workspace's, unless the configuration shares it: else a link of one customer's could stand on another's. A file in which two workspaces
//! have links on a domain is refused. Where file and topic disagree, or links of the topic do, a rule says whose the domain is, and links of the others
//! are not served:
//!
//! 1. the file's workspace, if the file has links there: the file is the operator's own;
//! 2. else the workspace with the most links there on the topic: one that was put there by mistake takes nobody's domain;
//! 3. of equally many, the one whose name comes first.
//!
//! # Why not the first that came
//! The topic's partitions come in any order, and a file is read while they do. The rule looks at nothing but the links that there are, whenever one is looked up;
//! so every server has the same answer, also after a restart.
//!
//! # Cost
//! A look-up of a domain finds its counts; a link is compared with them only where workspaces disagree. A link that goes from a domain of many workspaces, which
//! are only shared ones, has all of them looked through.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Whose links a domain serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner<'a> {
    /// No link has this domain.
    Nobody,
    /// All that it has.
    Any,
    /// Those of one workspace; others have some, too.
    One(&'a str),
}

/// How many links of a layer a domain has, and whose they are.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub name: Box<str>,
    /// Whose most of them are, by the rule.
    pub workspace: Box<str>,
    links: u32,
    /// The others that have some. Nearly always empty, and without memory of its own then.
    others: BTreeMap<Box<str>, u32>,
}

impl Domain {
    /// A domain with one link.
    pub(super) fn new(name: &str, workspace: &str) -> Domain {
        Domain { name: name.into(), workspace: workspace.into(), links: 1, others: BTreeMap::new() }
    }

    /// Whether several workspaces have links.
    pub(super) fn divided(&self) -> bool {
        !self.others.is_empty()
    }

    /// Counts a link more.
    pub(super) fn count(&mut self, workspace: &str) {
        if *self.workspace == *workspace {
            self.links += 1;
            return;
        }
        let links = match self.others.get_mut(workspace) {
            Some(links) => {
                *links += 1;
                *links
            }
            None => {
                self.others.insert(workspace.into(), 1);
                1
            }
        };
        // Only this one can have become the first: a shared domain has many, and is not to be looked through for each link.
        if (links, Reverse(workspace)) > (self.links, Reverse(&*self.workspace)) {
            self.give_to(workspace.into(), links);
        }
    }

    /// Counts a link less; whether none is left.
    pub(super) fn uncount(&mut self, workspace: &str) -> bool {
        if *self.workspace == *workspace {
            self.links -= 1;
            if let Some((first, links)) = self.others.iter().max_by_key(|(name, links)| (**links, Reverse(*name)))
                && (*links, Reverse(first)) > (self.links, Reverse(&self.workspace))
            {
                self.give_to(first.clone(), *links);
            }
        } else if let Some(links) = self.others.get_mut(workspace) {
            *links -= 1;
            if *links == 0 {
                self.others.remove(workspace);
            }
        }
        self.links == 0
    }

    /// Makes another workspace, which has so many links, the first.
    fn give_to(&mut self, workspace: Box<str>, links: u32) {
        self.others.remove(&workspace);
        let (before, left) = (std::mem::replace(&mut self.workspace, workspace), std::mem::replace(&mut self.links, links));
        if left > 0 {
            self.others.insert(before, left);
        }
    }
}

/// Whose a domain is that has these links in the file and on the topic.
pub(super) fn owner<'a>(domain: &str, file: Option<&'a Domain>, topic: Option<&'a Domain>, shared_domains: &[String]) -> Owner<'a> {
    let Some(first) = file.or(topic) else { return Owner::Nobody };
    let agreed = [file, topic].into_iter().flatten().all(|domain| domain.workspace == first.workspace && !domain.divided());
    if agreed || shared_domains.iter().any(|shared| shared == domain) { Owner::Any } else { Owner::One(&first.workspace) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn most_links_and_then_the_name_decide() {
        let mut domain = Domain::new("d.example", "w");
        assert!(!domain.divided());
        domain.count("v");
        assert_eq!((&*domain.workspace, domain.divided()), ("v", true), "equally many: the name");
        domain.count("w");
        assert_eq!(&*domain.workspace, "w");
        assert!(!domain.uncount("w") && &*domain.workspace == "v");
        assert!(!domain.uncount("w") && !domain.divided());
        assert!(domain.uncount("v"), "none is left");
    }

    #[test]
    fn the_file_goes_before_the_topic() {
        let (ours, theirs) = (Domain::new("d.example", "w"), Domain::new("d.example", "v"));
        let shared = ["d.example".to_owned()];
        assert_eq!(owner("d.example", Some(&ours), Some(&theirs), &[]), Owner::One("w"));
        assert_eq!(owner("d.example", Some(&ours), Some(&theirs), &shared), Owner::Any);
        assert_eq!(owner("d.example", Some(&ours), Some(&ours), &[]), Owner::Any);
        assert_eq!(owner("d.example", None, Some(&theirs), &[]), Owner::Any);
        assert_eq!(owner("d.example", None, None, &shared), Owner::Nobody);
    }

    proptest! {
        /// Whatever came and went before, the counts that are left decide.
        #[test]
        fn the_order_decides_nothing(steps in prop::collection::vec((0..4usize, any::<bool>()), 0..60)) {
            let names = ["a", "b", "c", "d"];
            let mut domain: Option<Domain> = None;
            let mut counts = [0_u32; 4];
            for (at, more) in steps {
                if more {
                    counts[at] += 1;
                    match &mut domain {
                        Some(domain) => domain.count(names[at]),
                        None => domain = Some(Domain::new("d.example", names[at])),
                    }
                } else if counts[at] > 0 {
                    counts[at] -= 1;
                    if domain.as_mut().is_some_and(|domain| domain.uncount(names[at])) {
                        domain = None;
                    }
                }
                let expected = names.iter().zip(counts).filter(|(_, count)| *count > 0).max_by_key(|(name, count)| (*count, Reverse(**name)));
                prop_assert_eq!(domain.as_ref().map(|domain| &*domain.workspace), expected.map(|(name, _)| *name));
                let several = counts.iter().filter(|count| **count > 0).count() > 1;
                prop_assert_eq!(domain.as_ref().is_some_and(Domain::divided), several);
            }
        }
    }
}
