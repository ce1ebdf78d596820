//! User agents of machines, as a list that somebody keeps: `--bot-agents`.
//!
//! # Format
//! That of the crawler-user-agents project: a JSON array of objects with a `pattern`, a regular expression that is looked for anywhere
//! in the user agent, with case; all else in them is ignored.
//!
//! # Cost
//! One automaton for all patterns, built as it is used; user agents that were seen before don't reach it ([`crate::agent::Cache`]). `src/lists_tests.rs`
//! prints what a list of 1,500 costs.
//!
//! # Limits
//! 16 MiB a list; the regular expressions run in linear time whatever they hold.

use crate::Error;
use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;
use std::path::Path;

/// Longest list, in bytes; the largest known has half a megabyte.
const MAX_LIST: u64 = 16 << 20;
/// What all patterns together may take when compiled, in bytes.
const MAX_COMPILED: usize = 256 << 20;

#[derive(Deserialize)]
struct Entry {
    pattern: String,
}

/// The list, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Agents(RegexSet);

impl Agents {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Agents, Error> {
        let wrong = |message: String| Error::Config(format!("{}: {message}", path.display()));
        let cannot = |error| wrong(format!("cannot read the user agents ({error}); check the path and its permissions"));
        if std::fs::metadata(path).map_err(cannot)?.len() > MAX_LIST {
            return Err(wrong("the list of user agents is longer than 16 MiB; leave out what no visitor has".to_owned()));
        }
        Agents::parse(&std::fs::read(path).map_err(cannot)?).map_err(wrong)
    }

    /// Reads JSON of the file's format. The error says what is wrong and what to do.
    pub(crate) fn parse(json: &[u8]) -> Result<Agents, String> {
        let entries: Vec<Entry> = serde_json::from_slice(json)
            .map_err(|error| format!("not a list of user agents ({error}); write [{{\"pattern\": \"examplebot\"}}, …]"))?;
        // An empty one is found in everybody.
        if let Some(at) = entries.iter().position(|entry| entry.pattern.trim().is_empty()) {
            return Err(format!("pattern {} is empty and would fit every visitor; take it away", at + 1));
        }
        let compile =
            |patterns: &[&str]| RegexSetBuilder::new(patterns).unicode(false).size_limit(MAX_COMPILED).dfa_size_limit(8 << 20).build();
        let patterns: Vec<&str> = entries.iter().map(|entry| entry.pattern.as_str()).collect();
        let set = compile(&patterns).map_err(|error| {
            // Which one it is, is not in the error of a set.
            let bad = patterns.iter().find(|pattern| compile(&[pattern]).is_err());
            bad.map_or_else(
                || format!("the patterns are too large together ({error}); take some away"),
                |pattern| format!("pattern {pattern:?} is no regular expression; correct it or take it away"),
            )
        })?;
        if let Some(at) = set.matches(b"").iter().next() {
            return Err(format!("pattern {:?} fits every visitor; take it away", patterns[at]));
        }
        Ok(Agents(set))
    }

    pub(crate) fn contains(&self, user_agent: &[u8]) -> bool {
        self.0.is_match(user_agent)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_anywhere_and_with_case() {
        let agents =
            Agents::parse(br#"[{"pattern":"Some[bB]ot\\/","url":"x"},{"pattern":"^Start$","instances":["Start"]}]"#).expect("a list");
        assert_eq!(agents.len(), 2);
        for (words, found) in
            [("Mozilla SomeBot/1", true), ("somebot/1", false), ("Start", true), ("Starts", false), ("\u{fffd}Somebot/", true), ("", false)]
        {
            assert_eq!(agents.contains(words.as_bytes()), found, "{words}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for (json, part) in [
            ("{}", "write [{"),
            ("[{}]", "pattern"),
            (r#"[{"pattern":"ok"},{"pattern":"("}]"#, "pattern \"(\" is no regular expression"),
            (r#"[{"pattern":"ok"},{"pattern":" "}]"#, "pattern 2 is empty"),
            (r#"[{"pattern":"a*"}]"#, "\"a*\" fits every visitor"),
        ] {
            let error = Agents::parse(json.as_bytes()).expect_err(json);
            assert!(error.contains(part), "{json}: {error}");
        }
        assert!(Agents::parse(b"[]").is_ok_and(|agents| !agents.contains(b"x")));
    }
}
