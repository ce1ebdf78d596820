//! Tells of domains on which workspaces disagree, once for each time that one's owner is another.

use super::Table;
use std::collections::BTreeMap;

/// Domains that are named at once; one mistake in what writes the links may be in all of them.
const MAX_NAMED: usize = 20;

/// What was told: domains, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Disputes(BTreeMap<String, String>);

impl Disputes {
    /// Looks at a new table.
    pub(crate) fn tell(&mut self, table: &Table, shared_domains: &[String]) {
        let divided: BTreeMap<String, String> =
            table.divided(shared_domains).map(|(domain, owner)| (domain.to_owned(), owner.to_owned())).collect();
        let new = divided.iter().filter(|(domain, owner)| self.0.get(*domain) != Some(*owner));
        for (domain, owner) in new.take(MAX_NAMED) {
            tracing::warn!(
                event = "domain_divided",
                domain,
                workspace = owner,
                domains = divided.len(),
                "several workspaces have links on {domain}, and only those of {owner:?} are served; move the others to another domain, or start the server with `--shared-domain {domain}`"
            );
        }
        self.0 = divided;
    }
}
