//! Human or machine: why a click is held to be a machine's.
//!
//! # Meaning
//! The record's `bot` is null for a person, else the first of these that fits:
//!
//! | reason | when | where |
//! | --- | --- | --- |
//! | `head` | the request asks for no answer to look at | here |
//! | `prefetch` | a browser loads ahead of its user | `http::request` |
//! | `link-preview` | a chat or network shows what a link leads to | [`words`] |
//! | `user-agent` | a machine that says so, or is on the operator's list | [`words`], [`agents`] |
//! | `network` | the client is in a network of scanners, as the operator lists them | [`networks`] |
//! | `burst` | more clicks within seconds than a person makes | [`burst`] |
//!
//! A machine's click is redirected and recorded like any other; the job neither resolves nor counts it.
//!
//! # Not
//! The page that a visitor comes from decides nothing. A referrer is the visitor's own word: a machine that hides writes what it likes, and a
//! person comes from a mail without one, or from the very pages that machines name.

mod agents;
mod burst;
mod machines;
mod networks;
mod people;
mod words;

pub(crate) use agents::Agents;
pub use burst::{BurstConfig, Limit};
pub(crate) use burst::{Bursts, Event};
pub(crate) use networks::Networks;
pub(crate) use words::says;

/// Why a click is a machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Head,
    Prefetch,
    LinkPreview,
    UserAgent,
    Network,
    Burst,
}

impl Reason {
    pub(crate) const LABELS: [&str; 6] = ["head", "prefetch", "link-preview", "user-agent", "network", "burst"];

    /// As the record has it.
    pub(crate) fn label(self) -> &'static str {
        Reason::LABELS[self as usize]
    }
}
