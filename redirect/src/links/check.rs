//! Which links are refused, and why.

use super::link::NEVER;
use super::table::Layer;
use crate::query::MAX_VALUE;
use serde::Deserialize;
use std::borrow::Cow;
use url::{Host, Url};

/// Longest destination, in bytes: browsers and proxies start to refuse URLs not far beyond.
const MAX_DESTINATION: usize = 4_096;
/// Most tags on one link.
const MAX_TAGS: usize = 256;
/// Slugs that the server answers itself.
const RESERVED: [&str; 2] = ["healthz", "readyz"];

/// A link that was checked: every part as the table keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// `domain/slug`, the domain in its plain form.
    pub key: String,
    pub workspace: String,
    /// The destination as the URL standard writes it: ASCII without control characters.
    pub url: String,
    /// As its owner wrote it, where that differs.
    pub as_written: Option<String>,
    pub title: Option<String>,
    /// With a line break between them.
    pub tags: String,
    pub deal_id: Option<String>,
    /// First second since the Unix epoch in which it is no longer served.
    pub expires_s: u32,
    pub disabled: bool,
}

/// State of a short link; the newest wins, a tombstone deletes.
// As it is written in a file or a topic; the comments are the descriptions in the topic's schema.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Link"))]
struct RawLink<'a> {
    /// Schema version; 1, or absent.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1)))]
    v: Option<u32>,
    /// Host name, without scheme, port and path.
    #[serde(borrow)]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    domain: Cow<'a, str>,
    /// The path behind the host name, without its first slash.
    #[serde(borrow)]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_VALUE)))]
    slug: Cow<'a, str>,
    /// Whose link it is.
    #[serde(borrow)]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_VALUE)))]
    workspace: Cow<'a, str>,
    /// Where visitors go: an http or https URL.
    #[serde(borrow)]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_DESTINATION)))]
    destination: Cow<'a, str>,
    /// Title for people.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_VALUE)))]
    title: Option<String>,
    /// Tags that rules count by.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_TAGS)))]
    tags: Option<Vec<String>>,
    /// The deal that a click on this link speaks for.
    #[serde(default)]
    deal_id: Option<NumberOrText>,
    /// When it is served no longer: ms since the Unix epoch, or a time as text.
    #[serde(default)]
    expires: Option<NumberOrText>,
    /// `false` switches it off.
    #[serde(default)]
    enabled: Option<bool>,
}

/// The JSON Schema of a record of the `links` topic: what the server takes. Hosts and URLs are checked further when a link is read.
#[cfg(feature = "schema")]
pub fn link_schema(settings: schemars::generate::SchemaSettings) -> serde_json::Value {
    settings.for_deserialize().into_generator().into_root_schema_for::<RawLink<'static>>().to_value()
}

/// HubSpot's ids are numbers, and people write them without quotes; times are numbers in records and text in files.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl Checked {
    /// Reads and checks one JSON value. The error says what is wrong and what to do.
    pub(crate) fn from_value(value: &serde_json::Value) -> Result<Checked, String> {
        if !value.is_object() {
            return Err("not a link; write a mapping with domain, slug, workspace and destination".to_owned());
        }
        let raw = RawLink::deserialize(value).map_err(|error| explain(&error))?;
        Checked::check(raw)
    }

    /// Reads and checks the bytes of one JSON object. The error says what is wrong and what to do.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Checked, String> {
        let raw: RawLink<'_> = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_syntax() || error.is_eof() { format!("not JSON ({error}); write one object per line") } else { explain(&error) }
        })?;
        // serde takes an array for a struct, too.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err("not a link; write an object with domain, slug, workspace and destination".to_owned());
        }
        Checked::check(raw)
    }

    fn check(raw: RawLink<'_>) -> Result<Checked, String> {
        let RawLink { v, domain, slug, workspace, destination, title, tags, deal_id, expires, enabled } = raw;
        if let Some(v) = v.filter(|v| *v != 1) {
            return Err(format!("schema version {v}; this build reads version 1"));
        }
        let domain = plain_domain(&domain).ok_or_else(|| {
            format!("`domain` {:?} is not a host name; write it without scheme, port and path, e.g. s.example.com", domain.trim())
        })?;
        check_slug(&slug)?;
        short("workspace", &workspace, false)?;
        let destination = destination.trim();
        let url = check_destination(destination)?;
        let title = title.filter(|title| !title.trim().is_empty());
        if let Some(title) = &title {
            short("title", title, true)?;
        }
        let deal_id = match deal_id {
            Some(NumberOrText::Text(id)) => Some(id).filter(|id| !id.trim().is_empty()),
            Some(NumberOrText::Number(id)) => Some(id.to_string()),
            None => None,
        };
        if let Some(id) = &deal_id {
            short("deal_id", id, true)?;
        }
        Ok(Checked {
            key: format!("{domain}/{slug}"),
            workspace: workspace.into_owned(),
            as_written: (destination != url).then(|| destination.to_owned()),
            url,
            title,
            tags: check_tags(&tags.unwrap_or_default())?,
            deal_id,
            expires_s: check_expires(expires)?,
            disabled: enabled == Some(false),
        })
    }

    /// Why this link may not stand beside those of a layer, if it may not: a domain is one workspace's.
    pub(crate) fn foreign(&self, layer: &Layer, shared_domains: &[String]) -> Option<String> {
        let owner = layer.other_owner(self)?;
        let domain = self.view().domain();
        let shared = shared_domains.iter().any(|shared| shared == domain);
        (!shared).then(|| {
            format!("{domain} belongs to workspace {owner:?}; use another domain, or start the server with `--shared-domain {domain}`")
        })
    }
}

/// serde's words, with advice for the mistakes that YAML invites.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("expected a string") || text.contains("expected a borrowed string") {
        format!("{text}; put the value in quotes")
    } else if text.contains("missing field") {
        format!("{text}; a link needs domain, slug, workspace and destination")
    } else if text.contains("untagged enum") {
        "`deal_id` or `expires` is neither text nor a whole number; put the value in quotes".to_owned()
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

/// A domain as requests are compared with: lower case, ASCII (`xn--`), no final dot; nothing if it is no host name or IPv4 address.
pub(crate) fn plain_domain(domain: &str) -> Option<String> {
    let domain = domain.trim();
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    // What percent-encoding hides is no name that anybody writes.
    if domain.contains('%') {
        return None;
    }
    let plain = match Host::parse(domain).ok()? {
        Host::Domain(name) => name,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(_) => return None,
    };
    let fits = !plain.is_empty()
        && plain.len() <= 253
        && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && plain.split('.').all(|label| (1..=63).contains(&label.len()));
    fits.then_some(plain)
}

pub(super) fn check_slug(slug: &str) -> Result<(), String> {
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

/// The tags as the table keeps them. A tag named twice is one tag, and an empty one says nothing.
fn check_tags(tags: &[String]) -> Result<String, String> {
    if tags.len() > MAX_TAGS {
        return Err(format!("{} tags; keep at most {MAX_TAGS}", tags.len()));
    }
    let mut seen = std::collections::HashSet::new();
    let mut joined = String::new();
    for tag in tags {
        short("tags", tag, true)?;
        if !tag.trim().is_empty() && seen.insert(&**tag) {
            if !joined.is_empty() {
                joined.push('\n');
            }
            joined.push_str(tag);
        }
    }
    Ok(joined)
}

/// The first second in which the link is no longer served.
fn check_expires(expires: Option<NumberOrText>) -> Result<u32, String> {
    match expires {
        None => Ok(NEVER),
        Some(NumberOrText::Text(text)) if text.trim().is_empty() => Ok(NEVER),
        Some(NumberOrText::Number(ms)) => Ok(Checked::seconds(ms)),
        Some(NumberOrText::Text(text)) => {
            let time: jiff::Timestamp = text.trim().parse().map_err(|_| {
                format!("`expires` {text:?} is not a time; write it with its zone, e.g. 2027-01-31T18:00:00Z, or in ms since 1970")
            })?;
            Ok(Checked::seconds(u64::try_from(time.as_millisecond()).unwrap_or(0)))
        }
    }
}

/// Only http(s), and only in the form that the URL standard writes: pure ASCII, so nothing in it can end a header.
fn check_destination(text: &str) -> Result<String, String> {
    if text.len() > MAX_DESTINATION {
        return Err(format!("`destination` has {} bytes; shorten it to {MAX_DESTINATION}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("`destination` holds a control character such as a tab or a line break; remove it".to_owned());
    }
    let url = Url::parse(text)
        .map_err(|error| format!("`destination` is not a URL ({error}); write it in full, e.g. https://example.com/page"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`destination` starts with {:?}; only http and https are served", url.scheme()));
    }
    // Browsers read `\` as `/`, others don't: two readers would see two hosts.
    if text.contains('\\') {
        return Err("`destination` holds a backslash; write / in a path and %5C in a query".to_owned());
    }
    // The standard forgives `https:host` and `https:////host`; what a person sees there is not where a browser goes.
    let begins = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
    if !url.has_host() || begins.is_none_or(|rest| rest.starts_with('/')) {
        return Err(format!("`destination` has no host; write it in full, e.g. {}://example.com/page", url.scheme()));
    }
    let authority = begins.unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err("`destination` holds a user name before its host, which hides where it leads; remove it with its @".to_owned());
    }
    let url = String::from(url);
    if url.len() > usize::from(u16::MAX) {
        return Err("`destination` is too long once it is encoded; shorten it".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
