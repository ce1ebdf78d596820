//! Links from a file: a YAML list, or JSON lines.
//!
//! # Meaning
//! One bad link does not stop the others: it is reported with its line and what to do, the good ones load. A file that cannot be
//! read or is no list at all is refused as a whole. `.yaml` and `.yml` are YAML, `.jsonl`, `.ndjson` and `.json` JSON lines; any other
//! name is JSON lines when the first sign is `{`.
//!
//! # Ties and edges
//! Of two links with one `domain/slug` the later counts, and the earlier is reported.
//!
//! # Limits
//! YAML is for what people write by hand, up to some 20,000 links; beyond that use JSON lines or the topic.

use super::{Layer, Link};
use crate::Error;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// A link that was not taken, or a doubtful one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, counted from 1.
    pub line: u64,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// A file of links, read and checked.
#[derive(Debug, Default)]
pub struct LinkFile {
    pub(crate) layer: Layer,
    /// What was not taken, in the file's order.
    pub problems: Vec<Problem>,
    lines: HashMap<Box<str>, u64>,
}

impl LinkFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no list of links; single bad links are [`problems`](LinkFile::problems).
    pub fn read(path: &Path) -> Result<LinkFile, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::ReadLinks { path: path.to_owned(), source })?;
        let parsed = match kind(path, &bytes) {
            Kind::JsonLines => Ok(LinkFile::json_lines(&bytes)),
            Kind::Yaml => LinkFile::yaml(&bytes),
        };
        parsed.map_err(|Problem { line, message }| Error::ParseLinks { path: path.to_owned(), line, message })
    }

    /// Number of good links.
    pub fn len(&self) -> usize {
        self.layer.len()
    }

    /// Whether there is no good link.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn json_lines(bytes: &[u8]) -> LinkFile {
        let mut file = LinkFile::default();
        for (number, line) in (1u64..).zip(bytes.split(|byte| *byte == b'\n')) {
            if !line.trim_ascii().is_empty() {
                file.take(number, Link::from_json(line));
            }
        }
        file
    }

    fn yaml(bytes: &[u8]) -> Result<LinkFile, Problem> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Problem { line: 0, message: format!("not UTF-8 ({error}); save the file as UTF-8") })?;
        // The outer list is read strictly, each link as a plain value first: so one bad link spoils no other.
        let list: Option<Vec<serde_saphyr::Spanned<serde_json::Value>>> = serde_saphyr::from_str(text).map_err(|error| Problem {
            line: error.location().map_or(0, |location| location.line()),
            message: match first_line(error.to_string().trim_start_matches("error: ")) {
                long if long.contains("budget") => format!("too many links for YAML ({long}); use JSON lines"),
                other => format!("not a YAML list of links ({other}); start each link with `- domain: …`"),
            },
        })?;
        let mut file = LinkFile::default();
        for item in list.unwrap_or_default() {
            file.take(item.referenced.line(), Link::from_value(item.value));
        }
        Ok(file)
    }

    fn take(&mut self, line: u64, link: Result<Link, String>) {
        match link {
            Ok(link) => {
                if let Some(earlier) = self.lines.insert(link.key.clone(), line) {
                    let message = format!("{} is given again in line {line}, which counts; remove one of them", link.key);
                    self.problems.push(Problem { line: earlier, message });
                }
                self.layer.insert(link);
            }
            Err(message) => self.problems.push(Problem { line, message }),
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

enum Kind {
    Yaml,
    JsonLines,
}

fn kind(path: &Path, bytes: &[u8]) -> Kind {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Kind::Yaml,
        Some("jsonl" | "ndjson" | "json") => Kind::JsonLines,
        _ if bytes.trim_ascii_start().first() == Some(&b'{') => Kind::JsonLines,
        _ => Kind::Yaml,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_keeps_the_good_links_and_names_the_line_of_the_bad() {
        let file = LinkFile::yaml(
            b"# our links\n- domain: s.elido.me\n  slug: abc123\n  workspace: acme\n  destination: https://acme.example/pricing.pdf\n  tags: [sales-collateral]\n- domain: s.elido.me\n  slug: 7\n  workspace: acme\n  destination: https://acme.example/\n- just text\n- {domain: s.elido.me, slug: b, workspace: acme, destination: \"https://b.example\"}\n",
        )
        .expect("a list");
        assert_eq!(file.len(), 2);
        let lines: Vec<u64> = file.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [7, 11]);
        assert!(file.problems[0].message.contains("in quotes"), "{}", file.problems[0]);
    }

    #[test]
    fn json_lines_keep_the_good_links_and_name_the_line_of_the_bad() {
        let file = LinkFile::json_lines(
            b"{\"domain\":\"d.example\",\"slug\":\"a\",\"workspace\":\"w\",\"destination\":\"https://x.example\"}\n\n{\"domain\":1}\n{\"domain\":\"d.example\",\"slug\":\"a\",\"workspace\":\"w\",\"destination\":\"https://y.example\"}",
        );
        assert_eq!(file.layer.get("d.example/a").expect("the later one").destination(), "https://y.example");
        let lines: Vec<u64> = file.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [3, 1]);
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        let problem = LinkFile::yaml(b"- domain: a\n   slug: [\n").expect_err("broken YAML");
        assert!(problem.line > 0 && problem.message.contains("YAML list"), "{problem}");
        assert!(LinkFile::yaml(b"domain: a\n").is_err());
        assert!(LinkFile::yaml(b"# nothing yet\n").expect("no links yet").is_empty());
    }
}
