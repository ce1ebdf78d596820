//! Links from a file: a YAML list, or JSON lines.
//!
//! # Meaning
//! A file is taken whole or not at all: every bad link is a [`Problem`] with its line and what to do, and a file with a problem is not served.
//! `.yaml` and `.yml` are YAML, `.jsonl`, `.ndjson` and `.json` JSON lines; any other name is JSON lines when the first sign is `{`.
//!
//! # Ties and edges
//! Two links with one `domain/slug` are a problem, and so are two workspaces on one domain that isn't among the shared ones. A file that was cut
//! within a line is no JSON in its last line. One that was cut between two lines cannot be told from a shorter one: put new files in place by renaming.
//!
//! # Cost
//! JSON lines are read line by line; beside the table that is made there is never more than one line in memory. YAML is for what people write by
//! hand, up to some 20,000 links.

use super::{Checked, Layer};
use crate::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Nobody stops the reading.
static ON: AtomicBool = AtomicBool::new(false);

/// Longest line: a link with all tags that it may have, and every byte of them escaped, is shorter.
const MAX_LINE: u64 = 1024 * 1024;
/// Problems that are listed; a file with more is not read on.
const MAX_PROBLEMS: usize = 1_000;

/// A link that cannot be taken.
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
    /// What is wrong, in the file's order; the first thousand.
    pub problems: Vec<Problem>,
}

impl LinkFile {
    /// Reads a file. `shared_domains` may have links of several workspaces.
    ///
    /// # Errors
    /// When it cannot be read or is no list of links; single bad links are [`problems`](LinkFile::problems).
    pub fn read(path: &Path, shared_domains: &[String]) -> Result<LinkFile, Error> {
        LinkFile::read_into(Layer::default(), path, shared_domains, &ON)
    }

    /// Reads a file in the place of this one, which is likely to hold much the same.
    ///
    /// # Errors
    /// See [`read`](LinkFile::read).
    pub fn read_next(&self, path: &Path, shared_domains: &[String]) -> Result<LinkFile, Error> {
        LinkFile::read_into(self.layer.emptied(), path, shared_domains, &ON)
    }

    /// Reads a file into an empty layer. It is an error when `stop` says before its end that nobody wants it any more.
    pub(crate) fn read_into(empty: Layer, path: &Path, shared_domains: &[String], stop: &AtomicBool) -> Result<LinkFile, Error> {
        let unreadable = |source| Error::ReadLinks { path: path.to_owned(), source };
        let mut file = BufReader::with_capacity(128 * 1024, File::open(path).map_err(unreadable)?);
        let mut reading = Reading { file: LinkFile { layer: empty, problems: Vec::new() }, shared_domains, stop };
        match kind(path, file.fill_buf().map_err(unreadable)?) {
            Kind::JsonLines => reading.json_lines(&mut file).map_err(unreadable)?,
            Kind::Yaml => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(unreadable)?;
                reading.yaml(&bytes).map_err(|Problem { line, message }| Error::ParseLinks { path: path.to_owned(), line, message })?;
            }
        }
        if reading.stopped() {
            return Err(unreadable(io::Error::new(io::ErrorKind::Interrupted, "the server is stopping")));
        }
        reading.file.layer.shrink();
        Ok(reading.file)
    }

    /// Number of good links.
    pub fn len(&self) -> usize {
        self.layer.len()
    }

    /// Whether there is no good link.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file, or what is wrong with it.
    ///
    /// # Errors
    /// [`Error::BadLinks`] when there is a problem.
    pub fn without_problems(self, path: &Path) -> Result<LinkFile, Error> {
        if self.problems.is_empty() { Ok(self) } else { Err(Error::BadLinks { path: path.to_owned(), problems: self.problems }) }
    }
}

/// A file that is being read.
struct Reading<'a> {
    file: LinkFile,
    shared_domains: &'a [String],
    stop: &'a AtomicBool,
}

impl Reading<'_> {
    fn json_lines(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            if input.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
                // What follows is the rest of this line and no link.
                self.refuse(number, format!("longer than {MAX_LINE} bytes; write one link per line"));
                break;
            }
            if !line.trim_ascii().is_empty() {
                self.take(number, Checked::from_json(&line));
            }
            if self.full() || self.stopped() {
                break;
            }
        }
        Ok(())
    }

    fn yaml(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Problem { line: 0, message: format!("not UTF-8 ({error}); save the file as UTF-8") })?;
        // The outer list is read strictly, each link as a plain value first: so every bad link is found at once.
        let list: Option<Vec<serde_saphyr::Spanned<serde_json::Value>>> = serde_saphyr::from_str(text).map_err(|error| Problem {
            line: error.location().map_or(0, |location| location.line()),
            message: match first_line(error.to_string().trim_start_matches("error: ")) {
                long if long.contains("budget") => format!("too many links for YAML ({long}); use JSON lines"),
                other => format!("not a YAML list of links ({other}); start each link with `- domain: …`"),
            },
        })?;
        for item in list.unwrap_or_default() {
            self.take(item.referenced.line(), Checked::from_value(&item.value));
            if self.full() || self.stopped() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, line: u64, link: Result<Checked, String>) {
        let link = match link {
            Ok(link) => link,
            Err(message) => return self.refuse(line, message),
        };
        let layer = &mut self.file.layer;
        if let Some(earlier) = layer.line(&link.key) {
            self.refuse(line, format!("{} stands in line {earlier} already; remove one of them", link.key));
        } else if let Some(message) = link.foreign(layer, self.shared_domains) {
            self.refuse(line, message);
        } else {
            layer.insert(&link, u32::try_from(line).unwrap_or(u32::MAX));
        }
    }

    fn refuse(&mut self, line: u64, message: String) {
        self.file.problems.push(Problem { line, message });
        if self.full() {
            self.file.problems.push(Problem { line, message: format!("{MAX_PROBLEMS} problems up to here; the rest was not read") });
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn full(&self) -> bool {
        self.file.problems.len() >= MAX_PROBLEMS
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

enum Kind {
    Yaml,
    JsonLines,
}

fn kind(path: &Path, start: &[u8]) -> Kind {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Kind::Yaml,
        Some("jsonl" | "ndjson" | "json") => Kind::JsonLines,
        _ if start.trim_ascii_start().first() == Some(&b'{') => Kind::JsonLines,
        _ => Kind::Yaml,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, shared: &[String]) -> Result<LinkFile, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        LinkFile::read(&path, shared)
    }

    fn line(workspace: &str, key: &str, destination: &str) -> String {
        let (domain, slug) = key.split_once('/').expect("a key");
        format!(r#"{{"domain":"{domain}","slug":"{slug}","workspace":"{workspace}","destination":"{destination}"}}"#)
    }

    fn lines_of(file: &LinkFile) -> Vec<u64> {
        file.problems.iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn yaml_names_the_line_of_each_bad_link() {
        let file = read(
            "links.yaml",
            "# our links\n- domain: s.elido.me\n  slug: abc123\n  workspace: acme\n  destination: https://acme.example/pricing.pdf\n  tags: [sales-collateral]\n  expires: 2027-01-31T18:00:00Z\n- domain: s.elido.me\n  slug: 7\n  workspace: acme\n  destination: https://acme.example/\n- just text\n- {domain: s.elido.me, slug: b, workspace: acme, destination: \"https://b.example\", enabled: false}\n",
            &[],
        )
        .expect("a list");
        assert_eq!((file.len(), lines_of(&file)), (2, vec![8, 12]));
        assert!(file.problems[0].message.contains("in quotes"), "{}", file.problems[0]);
        assert!(matches!(file.without_problems(Path::new("x")), Err(Error::BadLinks { problems, .. }) if problems.len() == 2));
    }

    #[test]
    fn json_lines_name_the_line_of_each_bad_link() {
        let good = line("w", "d.example/a", "https://x.example");
        let file = read("links.jsonl", &format!("{good}\n\n{{\"domain\":1}}\n{good}"), &[]).expect("lines");
        assert_eq!(lines_of(&file), [3, 4]);
        assert!(file.problems[1].message.contains("stands in line 1 already"), "{}", file.problems[1]);
        let file = read("links", &good[..good.len() - 5], &[]).expect("lines");
        assert_eq!(lines_of(&file), [1], "a file that was cut in its last line");
        assert!(read("links", &good, &[]).expect("lines").without_problems(Path::new("x")).is_ok());
        let file = read("links.jsonl", &"x".repeat(3 << 20), &[]).expect("lines");
        assert!(file.problems[0].message.contains("one link per line") && file.problems.len() == 1);
        let file = read("links.jsonl", &"x\n".repeat(5_000), &[]).expect("lines");
        assert_eq!(file.problems.len(), MAX_PROBLEMS + 1);
    }

    /// A file without an end, from a pipe: a server that stops does not wait for it.
    #[test]
    fn reading_ends_when_the_server_stops() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("links.jsonl");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let stop = AtomicBool::new(false);
        let (written, pipe) = (std::sync::atomic::AtomicU64::new(0), path.clone());
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| LinkFile::read_into(Layer::default(), &path, &[], &stop));
            scope.spawn(|| {
                let mut pipe = File::options().write(true).open(pipe).expect("the other end");
                // Until nobody reads it.
                for number in 0_u64.. {
                    let link = line("w", &format!("d.example/s{number}"), "https://x.example");
                    if io::Write::write_all(&mut pipe, format!("{link}\n").as_bytes()).is_err() {
                        break;
                    }
                    written.store(number, Ordering::Relaxed);
                }
            });
            while written.load(Ordering::Relaxed) < 1_000 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            let error = reading.join().expect("ends").expect_err("half of a file is none");
            assert!(matches!(error, Error::ReadLinks { source, .. } if source.to_string().contains("stopping")));
        });
    }

    #[test]
    fn a_domain_of_two_workspaces_must_be_shared() {
        let text = format!("{}\n{}\n", line("w", "D.example/a", "https://x.example"), line("v", "d.example/b", "https://x.example"));
        let file = read("links.jsonl", &text, &[]).expect("lines");
        assert_eq!(lines_of(&file), [2]);
        assert!(file.problems[0].message.contains("--shared-domain d.example"), "{}", file.problems[0]);
        assert_eq!(
            read("links.jsonl", &text, &["d.example".to_owned()]).expect("lines").without_problems(Path::new("x")).expect("shared").len(),
            2
        );
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        let Err(Error::ParseLinks { line, message, .. }) = read("links.yaml", "- domain: a\n   slug: [\n", &[]) else {
            panic!("broken YAML")
        };
        assert!(line > 0 && message.contains("YAML list"), "{message}");
        assert!(read("links.yaml", "domain: a\n", &[]).is_err());
        assert!(read("links.yaml", "# nothing yet\n", &[]).expect("no links yet").is_empty());
    }
}
