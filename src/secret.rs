//! Values that must not be seen, and where they come from.

use anyhow::{Context, bail};
use std::fmt;
use std::path::PathBuf;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of a secret that is given directly, in an environment variable, or in a file; `what` names it.
///
/// # Errors
/// When it can't be read or is empty, or variable and file are both named.
pub fn read(what: &str, given: Option<&Secret>, env: Option<&str>, file: Option<&PathBuf>) -> anyhow::Result<Option<Secret>> {
    let text = match (given, env, file) {
        (Some(given), _, _) => return Ok(Some(given.clone())),
        (None, Some(_), Some(_)) => bail!("{what}: name an environment variable or a file, not both"),
        (None, Some(name), None) => std::env::var(name).with_context(|| format!("{what}: environment variable {name} can't be read"))?,
        (None, None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("{what}: file {} can't be read", path.display()))?
        }
        (None, None, None) => return Ok(None),
    };
    match text.trim() {
        "" => bail!("{what} is empty"),
        text => Ok(Some(Secret::new(text))),
    }
}
