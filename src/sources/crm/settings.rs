//! The `crm` block of the configuration.

use crate::model::time::{DAY, HOUR, Ms};
use anyhow::bail;
use serde::Deserialize;

/// Fills the topics `crm.contacts` and `crm.deals` from the HubSpot accounts under `hubspot`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrmSettings {
    /// How changes are learned: `search` (needs nothing more), `webhooks` (needs `http` and a subscription in the app's settings,
    /// seconds faster), or `journal` (needs an app that may use HubSpot's webhooks journal).
    #[serde(default)]
    pub changes: Changes,
    /// How often a search or the journal is asked. Default 10s.
    #[serde(default = "every", deserialize_with = "length")]
    pub every: Ms,
    /// How far a search looks back behind the newest change it has seen: more than HubSpot's index is ever behind. Default 5m.
    #[serde(default = "overlap", deserialize_with = "length")]
    pub overlap: Ms,
    /// How often everything is read again, for what changes did not show: with `search` that is every deletion. Only what
    /// differs is written. Default 1h with `search`, else 24h.
    #[serde(default, deserialize_with = "some_length")]
    pub reload_every: Option<Ms>,
    /// Of the requests under `hubspot.budget`, how many reading may use; the rest is left to the sink. Default 40.
    #[serde(default = "requests")]
    pub requests: usize,
    /// Path of the journal, with its version.
    #[serde(default = "journal_path")]
    pub journal_path: String,
    /// Path of the journal's subscriptions, with its version.
    #[serde(default = "subscriptions_path")]
    pub subscriptions_path: String,
}

/// How changes are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Changes {
    /// By asking for what was changed last.
    #[default]
    Search,
    /// HubSpot says so.
    Webhooks,
    /// From HubSpot's journal.
    Journal,
}

impl Changes {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Changes::Search => "search",
            Changes::Webhooks => "webhooks",
            Changes::Journal => "journal",
        }
    }
}

impl Default for CrmSettings {
    fn default() -> Self {
        CrmSettings {
            changes: Changes::default(),
            every: every(),
            overlap: overlap(),
            reload_every: None,
            requests: requests(),
            journal_path: journal_path(),
            subscriptions_path: subscriptions_path(),
        }
    }
}

impl CrmSettings {
    /// How often everything is read again, ms.
    pub fn reload_every(&self) -> Ms {
        self.reload_every.unwrap_or(if self.changes == Changes::Search { HOUR } else { DAY })
    }

    /// Checks what serde can't; `budget` is `hubspot.budget.requests`. Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self, budget: usize, http: bool) -> anyhow::Result<()> {
        let CrmSettings { changes, every, overlap: _, reload_every: _, requests, journal_path, subscriptions_path } = self;
        if *every == 0 || self.reload_every() == 0 {
            bail!("every and reload_every must not be zero");
        }
        if *requests == 0 || *requests >= budget {
            bail!("requests is {requests}: give at least 1 and less than hubspot.budget.requests, {budget}");
        }
        if *changes == Changes::Webhooks && !http {
            bail!("changes: webhooks needs the block `http` with the public_url that HubSpot calls");
        }
        for (name, path) in [("journal_path", journal_path), ("subscriptions_path", subscriptions_path)] {
            if !path.starts_with('/') {
                bail!("{name}: `{path}` must begin with a slash");
            }
        }
        Ok(())
    }
}

fn every() -> Ms {
    10_000
}

fn overlap() -> Ms {
    5 * 60_000
}

fn requests() -> usize {
    40
}

fn journal_path() -> String {
    "/webhooks-journal/journal-local/2026-03".to_owned()
}

fn subscriptions_path() -> String {
    "/webhooks-journal/subscriptions/2026-03".to_owned()
}

/// A length of time, ms.
pub(in crate::sources) fn length<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Ms, D::Error> {
    crate::config::raw::Length::deserialize(from).map(|length| length.0)
}

fn some_length<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Ms>, D::Error> {
    length(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<CrmSettings, serde_saphyr::Error> {
        serde_saphyr::from_str(yaml)
    }

    #[test]
    fn an_empty_block_searches() {
        let settings = parse("{}").expect("parses");
        assert_eq!((settings.changes, settings.every, settings.reload_every()), (Changes::Search, 10_000, HOUR));
        settings.check(110, false).expect("is right");
        let webhooks = parse("changes: webhooks\nreload_every: 12h\n").expect("parses");
        assert_eq!(webhooks.reload_every(), 12 * HOUR);
        assert!(webhooks.check(110, false).expect_err("nobody listens").to_string().contains("http"));
        webhooks.check(110, true).expect("is right");
        assert_eq!(parse("changes: journal").expect("parses").reload_every(), DAY);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (yaml, word) in [("requests: 110", "requests"), ("every: 0s", "every"), ("journal_path: x", "journal_path")] {
            let error = parse(yaml).expect("parses").check(110, true).expect_err(yaml).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(parse("changes: psychic").is_err() && parse("unknown: 1").is_err());
    }
}
