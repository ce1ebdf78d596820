//! Every log line names its fact in the field `event`, and `docs/events.md` lists them: both are held against the source here.
//!
//! `CLICKLINE_UPDATE=1 cargo test --lib log_events` writes the list anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that log.
const SOURCES: [(&str, &str); 4] =
    [("clickline", "src"), ("clickline-redirect", "redirect/src"), ("clickline-sandbox", "sandbox/src"), ("clickline-trace", "trace/src")];
const LIST: &str = "docs/events.md";
const HEAD: &str = "\
# Log events

Every log line names its fact in the field `event`: what to search, count and alert by. The words beside it may change, names do not. `--log json` (of `clickline`) and
`--log-format json` (of `clickline-redirect`) write one JSON object a line. ERROR means that somebody should look; WARN that something goes on by itself; several lines may tell
one fact. No line holds a token, a secret or an e-mail address (`tests/canary`).

Made from the source; `src/log_events.rs` checks it.
";

/// One `tracing::LEVEL!(…)`.
#[derive(Debug)]
struct Line {
    level: &'static str,
    event: Option<String>,
    /// The words, with what is put into them in braces.
    words: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && path.file_name() != Some("log_events.rs".as_ref()) {
            found.push(path);
        }
    }
}

/// What stands between the macro's parentheses, its strings passed over.
fn arguments(text: &str) -> &str {
    let (mut depth, mut within, mut escaped) = (1, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if within => escaped = true,
            '"' => within = !within,
            '(' if !within => depth += 1,
            ')' if !within => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("a macro call that does not end: {text:.80}")
}

/// String literals, as they are written, with line breaks of the source taken out.
fn literals(text: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(begin) = rest.find('"') {
        let inside = &rest[begin + 1..];
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.expect("a string ends");
        let lines: Vec<&str> = inside[..end].split("\\\n").map(str::trim_start).collect();
        found.push(lines.concat());
        rest = &inside[end + 1..];
    }
    found
}

fn lines_of(text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        let call = format!("tracing::{level}!(");
        for (at, _) in text.match_indices(&call) {
            let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
            if text[begin..at].contains("//") {
                continue;
            }
            let arguments = arguments(&text[at + call.len()..]);
            let event = arguments.trim_start().strip_prefix("event = \"").and_then(|rest| rest.split('"').next());
            let words = literals(arguments).into_iter().skip(usize::from(event.is_some())).max_by_key(String::len).unwrap_or_default();
            found.push(Line { level, event: event.map(str::to_owned), words });
        }
    }
    found
}

fn all() -> Vec<(&'static str, String, Line)> {
    let mut all = Vec::new();
    for (name, folder) in SOURCES {
        let mut paths = Vec::new();
        files(&root().join(folder), &mut paths);
        paths.sort();
        for path in paths {
            let text = fs::read_to_string(&path).expect("a source");
            let place = path.strip_prefix(root()).expect("below the root").display().to_string();
            all.extend(lines_of(&text).into_iter().map(|line| (name, place.clone(), line)));
        }
    }
    all
}

#[test]
fn every_log_line_names_its_fact() {
    let lines = all();
    assert!(lines.len() > 150, "the source is read: {} lines", lines.len());
    let unnamed: Vec<_> =
        lines.iter().filter(|(_, _, line)| line.event.is_none()).map(|(_, place, line)| format!("{place}: {}", line.words)).collect();
    assert!(unnamed.is_empty(), "log lines without `event = \"…\"` as their first field:\n{}", unnamed.join("\n"));
    let plain = |name: &&String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let odd: Vec<_> = lines.iter().filter_map(|(_, _, line)| line.event.as_ref()).filter(|name| !plain(name)).collect();
    assert!(odd.is_empty(), "names are lower case with underscores: {odd:?}");
}

#[test]
fn the_list_of_events_is_the_sources() {
    let mut text = HEAD.to_owned();
    for (name, _) in SOURCES {
        let mut events: BTreeMap<String, (BTreeSet<&str>, BTreeSet<String>)> = BTreeMap::new();
        for (_, _, line) in all().into_iter().filter(|(of, ..)| *of == name) {
            let (levels, words) = events.entry(line.event.unwrap_or_default()).or_default();
            levels.insert(line.level);
            words.insert(line.words.replace('|', "\\|"));
        }
        write!(text, "\n## {name}\n\n| event | level | words |\n| --- | --- | --- |\n").expect("memory");
        for (event, (levels, words)) in events {
            let join = |of: Vec<&str>, between: &str| of.join(between);
            let levels = join(levels.into_iter().collect(), ", ");
            let words = join(words.iter().map(String::as_str).collect(), "<br>");
            writeln!(text, "| `{event}` | {levels} | {words} |").expect("memory");
        }
    }
    if std::env::var_os("CLICKLINE_UPDATE").is_some() {
        fs::write(root().join(LIST), &text).expect("written");
    }
    let listed = fs::read_to_string(root().join(LIST)).unwrap_or_default();
    assert!(listed == text, "{LIST} is not what the source logs; CLICKLINE_UPDATE=1 cargo test --lib log_events writes it anew");
}

#[test]
fn a_line_is_read_as_it_is_written() {
    let source = "fn f() {\n    // tracing::info!(\"no line\")\n    tracing::warn!(event = \"it_fell\", %error, n = f(\"(\"), \"it \\\"fell\\\" ({n}) \\\n        down\");\n    tracing::error!(\"{why}\");\n}";
    let lines = lines_of(source);
    let [error, warn] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((error.level, error.event.as_deref(), error.words.as_str()), ("error", None, "{why}"));
    assert_eq!((warn.level, warn.event.as_deref(), warn.words.as_str()), ("warn", Some("it_fell"), "it \\\"fell\\\" ({n}) down"));
}
