//! A link as workers see it: slices of the table's memory.

use crate::query::Target;

/// No link expires later than this, in seconds since the Unix epoch: the year 2106.
pub(super) const NEVER: u32 = u32::MAX;

/// One short link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    /// `domain/slug`, the domain in lower case: the key of the `links` topic and the click's `link`.
    pub key: &'a str,
    /// Whose link it is.
    pub workspace: &'a str,
    /// Title for humans.
    pub title: Option<&'a str>,
    /// Tags that rules count by.
    pub tags: Tags<'a>,
    /// The deal that a click on this link speaks for.
    pub deal_id: Option<&'a str>,
    /// The destination in the parts that the redirect puts together.
    pub target: Target<'a>,
    /// Where visitors go, as the owner wrote it, where that is not how the URL standard writes it.
    pub(super) as_written: Option<&'a str>,
    /// First second since the Unix epoch in which it is no longer served, or [`NEVER`].
    pub(super) expires_s: u32,
    /// Whether its owner switched it off.
    pub(super) disabled: bool,
}

impl<'a> Link<'a> {
    /// The domain, in lower case.
    pub(crate) fn domain(&self) -> &'a str {
        self.key.split_once('/').map_or("", |(domain, _)| domain)
    }

    /// Where visitors go, as the owner wrote it.
    pub(crate) fn destination(&self) -> &'a str {
        self.as_written.unwrap_or(self.target.url())
    }

    /// Whether it leads anywhere at this time (ms since the Unix epoch).
    pub(crate) fn served_at(&self, now_ms: u64) -> bool {
        !self.disabled && (self.expires_s == NEVER || now_ms / 1_000 < u64::from(self.expires_s))
    }
}

/// The tags of a link, kept as one text with a line break between them; no tag holds a control character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags<'a>(pub(super) &'a str);

impl<'a> Tags<'a> {
    /// Each tag, in the order they were given.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.split('\n').filter(|tag| !tag.is_empty())
    }
}
