//! The `clickhouse` block of the configuration.

use crate::config::raw::Length;
use crate::model::outputs::Topic;
use crate::sinks::hubspot::{Secret, read_secret};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Where ClickHouse is and what is written to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its HTTP interface: `https://clickhouse.example.com:8443`; `http://` sends the password in the clear.
    pub url: String,
    /// The database; it is made if need be. Default `clickline`.
    #[serde(default = "database")]
    pub database: String,
    /// Who writes. Default `default`.
    #[serde(default = "user")]
    pub user: String,
    /// The environment variable that holds the password; default: no password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Delta topics that are written to the table `deltas`: `hubspot.timeline`, `hubspot.deal-stages`, `hubspot.contact-properties`,
    /// `clicks.unresolved`. Default: none.
    #[serde(default)]
    pub deltas: Vec<String>,
    /// Makes and migrates the tables at the start. Default: true; false: `clickline clickhouse migrate` does it.
    #[serde(default = "yes")]
    pub migrate: bool,
    /// How long clicks and deltas are kept, by their own time; days, applied when the tables are made. Default 400d.
    #[serde(default = "keep")]
    pub keep: Length,
    /// Most rows of a batch. Default 20000.
    #[serde(default = "batch_rows")]
    pub batch_rows: usize,
    /// The longest a row waits for others before its batch is cut. Default 1s.
    #[serde(default = "batch_wait")]
    pub batch_wait: Length,
    /// How long one request may take. Default 60s.
    #[serde(default = "deadline")]
    pub deadline: Length,
}

impl Settings {
    /// Checks what serde can't. Opens nothing, reads no secret.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        let url = Url::parse(&self.url).context("clickhouse.url is no URL; write `https://clickhouse.example.com:8443`")?;
        ensure!(matches!(url.scheme(), "http" | "https") && url.has_host(), "clickhouse.url must begin with https:// or http://");
        ensure!(
            url.username().is_empty() && url.password().is_none() && url.query().is_none(),
            "clickhouse.url must hold no user, password or parameters; there are `user` and `password_env` for that"
        );
        let plain = |name: &str| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        ensure!(plain(&self.database), "clickhouse.database must be letters, digits and underscores");
        ensure!(self.batch_rows > 0 && self.batch_rows <= 100_000, "clickhouse.batch_rows must be 1 to 100000");
        ensure!(self.keep.0 >= crate::model::time::DAY, "clickhouse.keep must be at least 1d");
        ensure!(self.deadline.0 >= 100, "clickhouse.deadline must be at least 100ms");
        ensure!(self.password_env.is_none() || self.password_file.is_none(), "clickhouse: name password_env or password_file, not both");
        self.topics().map(drop)
    }

    /// The delta topics that are written.
    ///
    /// # Errors
    /// A name that is none of them.
    pub fn topics(&self) -> anyhow::Result<Vec<Topic>> {
        let mut found = Vec::with_capacity(self.deltas.len());
        for name in &self.deltas {
            let topic = delta_topic(name).context("clickhouse.deltas")?;
            ensure!(!found.contains(&topic), "clickhouse.deltas names {name:?} twice");
            found.push(topic);
        }
        Ok(found)
    }

    /// The password, from where the settings say it is.
    ///
    /// # Errors
    /// A variable or file that can't be read.
    pub fn password(&self) -> anyhow::Result<Option<Secret>> {
        read_secret("clickhouse password", None, self.password_env.as_deref(), self.password_file.as_ref())
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline.0)
    }
}

/// A topic whose records are rows of `deltas`, by its default name.
///
/// # Errors
/// A name that is none of them.
pub fn delta_topic(name: &str) -> anyhow::Result<Topic> {
    let known = [Topic::Timeline, Topic::DealStages, Topic::ContactProperties, Topic::Unresolved];
    let found = known.into_iter().find(|topic| topic.default_name() == name);
    found.with_context(|| format!("{name:?} is none of {}", known.map(Topic::default_name).join(", ")))
}

fn database() -> String {
    "clickline".to_owned()
}

fn user() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

fn keep() -> Length {
    Length(400 * crate::model::time::DAY)
}

fn batch_rows() -> usize {
    20_000
}

fn batch_wait() -> Length {
    Length(1_000)
}

fn deadline() -> Length {
    Length(60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let read = |more: &str| -> Settings {
            let text = format!("url: 'http://c:8123'\n{more}");
            serde_saphyr::from_str(&text).expect("YAML")
        };
        read("").check().expect("defaults hold");
        for (more, name) in [
            ("database: 'a b'", "database"),
            ("database: 'a;DROP'", "database"),
            ("batch_rows: 0", "batch_rows"),
            ("keep: 1h", "keep"),
            ("deltas: [hubspot.nothing]", "deltas"),
            ("deltas: [hubspot.timeline, hubspot.timeline]", "twice"),
            ("password_env: A\npassword_file: b", "not both"),
        ] {
            let error = format!("{:#}", read(more).check().expect_err(more));
            assert!(error.contains(name), "{more}: {error}");
        }
        for url in ["nowhere", "ftp://c", "http://u:secret@c:8123", "http://c:8123/?password=secret"] {
            let settings = Settings { url: url.to_owned(), ..read("") };
            let error = format!("{:#}", settings.check().expect_err(url));
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
