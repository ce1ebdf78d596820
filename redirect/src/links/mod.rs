//! Short links: what one holds, and which are refused.
//!
//! # Meaning
//! A link is `domain/slug`, a destination, and what a click on it says: workspace, title, tags, deal. The job reads
//! the click records, so the bounds here are at most the job's: every click on an accepted link is a record that the job takes.
//!
//! # Ties and edges
//! Domains compare without case and without a final dot, slugs with case. A link of the topic hides a link of the
//! file with the same `domain/slug`; its tombstone shows the file's again.

mod file;
mod table;
mod topic;

pub use file::{LinkFile, Problem};
pub(crate) use table::{Layer, Live, Table};
pub(crate) use topic::TopicReader;

use crate::query::{MAX_VALUE, Target};
use serde::Deserialize;
use url::Url;

/// Longest destination, in bytes: browsers and proxies start to refuse URLs not far beyond.
const MAX_DESTINATION: usize = 4_096;
/// Most tags on one link.
const MAX_TAGS: usize = 256;
/// Slugs that the server answers itself.
const RESERVED: [&str; 2] = ["healthz", "readyz"];

/// One short link, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// `domain/slug`, the domain in lower case: the key of the `links` topic and the click's `link`.
    pub key: Box<str>,
    /// Whose link it is.
    pub workspace: Box<str>,
    /// Where visitors go, as the owner wrote it, where that is not how the URL standard writes it.
    as_written: Option<Box<str>>,
    /// Title for humans.
    pub title: Option<Box<str>>,
    /// Tags that rules count by.
    pub tags: Box<[Box<str>]>,
    /// The deal that a click on this link speaks for.
    pub deal_id: Option<Box<str>>,
    /// The destination in the parts that the redirect puts together.
    pub target: Target,
}

/// A link as it is written in a file or a topic.
#[derive(Debug, Deserialize)]
pub(crate) struct RawLink {
    #[serde(default)]
    v: Option<u32>,
    domain: String,
    slug: String,
    workspace: String,
    destination: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    deal_id: Option<DealId>,
}

/// HubSpot's ids are numbers, and people write them without quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum DealId {
    Text(String),
    Number(u64),
}

impl Link {
    /// The domain, in lower case.
    pub(crate) fn domain(&self) -> &str {
        self.key.split_once('/').map_or("", |(domain, _)| domain)
    }

    /// Where visitors go, as the owner wrote it.
    pub(crate) fn destination(&self) -> &str {
        self.as_written.as_deref().unwrap_or(self.target.url())
    }

    /// Reads and checks one JSON value. The error says what is wrong and what to do.
    pub(crate) fn from_value(value: serde_json::Value) -> Result<Link, String> {
        if !value.is_object() {
            return Err("not a link; write a mapping with domain, slug, workspace and destination".to_owned());
        }
        let raw: RawLink = serde_json::from_value(value).map_err(|error| explain(&error))?;
        Link::check(raw)
    }

    /// Reads and checks the bytes of one JSON object. The error says what is wrong and what to do.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Link, String> {
        let value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON ({error}); write one object per line"))?;
        Link::from_value(value)
    }

    fn check(raw: RawLink) -> Result<Link, String> {
        let RawLink { v, domain, slug, workspace, destination, title, tags, deal_id } = raw;
        if let Some(v) = v.filter(|v| *v != 1) {
            return Err(format!("schema version {v}; this build reads version 1"));
        }
        let domain = check_domain(&domain)?;
        check_slug(&slug)?;
        short("workspace", &workspace, false)?;
        let target = check_destination(destination.trim())?;
        let title = title.filter(|title| !title.trim().is_empty());
        if let Some(title) = &title {
            short("title", title, true)?;
        }
        let mut tags = tags.unwrap_or_default();
        if tags.len() > MAX_TAGS {
            return Err(format!("{} tags; keep at most {MAX_TAGS}", tags.len()));
        }
        for tag in &tags {
            short("tags", tag, true)?;
        }
        // A tag named twice is one tag, and an empty one says nothing.
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| !tag.trim().is_empty() && seen.insert(tag.clone()));
        let deal_id = match deal_id {
            Some(DealId::Text(id)) if id.trim().is_empty() => None,
            Some(DealId::Text(id)) => Some(id),
            Some(DealId::Number(id)) => Some(id.to_string()),
            None => None,
        };
        if let Some(id) = &deal_id {
            short("deal_id", id, true)?;
        }
        let key = format!("{domain}/{slug}").into_boxed_str();
        let destination = destination.trim();
        Ok(Link {
            key,
            workspace: workspace.into(),
            as_written: (destination != target.url()).then(|| destination.into()),
            title: title.map(Into::into),
            tags: tags.into_iter().map(Into::into).collect(),
            deal_id: deal_id.map(Into::into),
            target,
        })
    }
}

/// serde's words, with advice for the mistakes that YAML invites.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("expected a string") {
        format!("{text}; put the value in quotes")
    } else if text.contains("missing field") {
        format!("{text}; a link needs domain, slug, workspace and destination")
    } else {
        text
    }
}

fn short(field: &str, value: &str, may_be_empty: bool) -> Result<(), String> {
    if !may_be_empty && value.trim().is_empty() {
        return Err(format!("`{field}` is empty; fill it in"));
    }
    if value.len() > MAX_VALUE {
        return Err(format!("`{field}` has {} bytes; shorten it to {MAX_VALUE}", value.len()));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("`{field}` holds a control character such as a tab or a line break; remove it"));
    }
    Ok(())
}

/// The domain as requests are compared with: lower case, no final dot, no scheme, no path.
fn check_domain(domain: &str) -> Result<String, String> {
    let plain = domain.trim().trim_end_matches('.').to_ascii_lowercase();
    let fits = !plain.is_empty()
        && plain.len() <= 253
        && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && !plain.contains("..");
    if fits {
        Ok(plain)
    } else {
        Err(format!(
            "`domain` {domain:?} is not a host name; write it without scheme, port and path, e.g. s.example.com (international names in their xn-- form)"
        ))
    }
}

fn check_slug(slug: &str) -> Result<(), String> {
    short("slug", slug, false)?;
    if slug.chars().any(|c| c.is_whitespace() || matches!(c, '?' | '#' | '%' | '\\')) {
        return Err(format!("`slug` {slug:?} holds a space or one of ? # % \\; use letters, digits, - and _"));
    }
    if slug.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!("`slug` {slug:?} has an empty, `.` or `..` part; write it without slashes at its ends"));
    }
    if RESERVED.contains(&slug) {
        return Err(format!("`slug` {slug:?} is answered by the server itself; choose another"));
    }
    Ok(())
}

/// Only http(s), and only in the form that the URL standard writes: pure ASCII, so nothing in it can end a header.
fn check_destination(text: &str) -> Result<Target, String> {
    if text.len() > MAX_DESTINATION {
        return Err(format!("`destination` has {} bytes; shorten it to {MAX_DESTINATION}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("`destination` holds a control character such as a tab or a line break; remove it".to_owned());
    }
    let url = Url::parse(text)
        .map_err(|error| format!("`destination` is not a URL ({error}); write it in full, e.g. https://example.com/page"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("`destination` starts with {:?}; only http and https are served", url.scheme()));
    }
    Ok(Target::new(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Result<Link, String> {
        Link::from_json(text.as_bytes())
    }

    #[test]
    fn the_contracts_example_is_read() {
        let link = link(
            r#"{"v":1,"domain":"S.Elido.me.","slug":"abc123","workspace":"acme","destination":"https://acme.example/pricing.pdf",
                "title":"Q2 pricing PDF","tags":["sales-collateral","sales-collateral",""],"deal_id":9001,"new":true}"#,
        )
        .expect("a link");
        assert_eq!((&*link.key, link.domain()), ("s.elido.me/abc123", "s.elido.me"));
        assert_eq!(*link.tags, ["sales-collateral".into()]);
        assert_eq!(link.deal_id.as_deref(), Some("9001"));
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let with = |field: &str, value: &str| {
            let mut record = serde_json::json!({"domain":"d.example","slug":"a","workspace":"w","destination":"https://x.example"});
            record[field] = serde_json::from_str(value).expect("test value");
            Link::from_value(record).expect_err("must be refused")
        };
        for (field, value, part) in [
            ("domain", r#""https://d.example""#, "without scheme"),
            ("domain", r#""""#, "host name"),
            ("slug", r#""a b""#, "letters, digits"),
            ("slug", r#""/a""#, "without slashes"),
            ("slug", r#""healthz""#, "choose another"),
            ("slug", "7", "in quotes"),
            ("workspace", r#"" ""#, "fill it in"),
            ("destination", r#""acme.example""#, "in full"),
            ("destination", r#""javascript:alert(1)""#, "only http"),
            ("destination", r#""https://x.example/a\r\nSet-Cookie: a=b""#, "control character"),
            ("title", r#""a\u0000""#, "control character"),
            ("v", "2", "version 1"),
        ] {
            let message = with(field, value);
            assert!(message.contains(part), "{field} {value}: {message}");
        }
        assert!(link("{").expect_err("no JSON").contains("one object per line"));
        assert!(link("{}").expect_err("no fields").contains("a link needs"));
    }

    #[test]
    fn international_destinations_become_ascii() {
        let link =
            link(r#"{"domain":"d.example","slug":"a","workspace":"w","destination":"https://bücher.example/ü?q=ö#ß"}"#).expect("a link");
        assert_eq!(link.destination(), "https://bücher.example/ü?q=ö#ß");
        assert!(link.target.location("").is_ascii());
    }
}
