//! What is wrong with a configuration: every mistake with its line, and the word that was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file; `None` while the text has no name.
    pub file: Option<PathBuf>,
    /// The line, from 1; 0 where there is none, as for what is missing from an empty file.
    pub line: u64,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Mistake {
    /// A mistake in a text that its reader will name.
    pub fn new(line: u64, problem: impl Into<String>) -> Self {
        Mistake { file: None, line, problem: problem.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.problem)
    }
}

/// All that is wrong, in the order of the lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// The same mistakes, in this file.
    pub fn in_file(mut self, path: &Path) -> Self {
        for mistake in &mut self.0 {
            mistake.file.get_or_insert_with(|| path.to_owned());
        }
        self
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Mistakes(vec![mistake])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, mistake) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

/// The word that was probably meant: at most one letter in three is another, and no second word is as near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.chars().count().max(3) / 3))
        .collect();
    near.sort_unstable();
    match near.as_slice() {
        [] => None,
        [(first, _), (second, _), ..] if first == second => None,
        [(_, word), ..] => Some(word),
    }
}

/// `; did you mean …?` where a word is near, else which there are.
pub fn meant(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_meant_unless_two_are_as_near() {
        let known = ["portals", "rules", "counts", "field_mapping"];
        assert_eq!(nearest("portal", known), Some("portals"));
        assert_eq!(nearest("ruels", known), Some("rules"));
        assert_eq!(nearest("Counts", known), Some("counts"));
        assert_eq!(nearest("brokers", known), None);
        assert_eq!(nearest("ax", ["aa", "ab"]), None);
        assert!(meant("zzz", &["a", "b"]).contains("there are a, b"));
    }
}
