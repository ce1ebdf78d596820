//! What one part did with one click.

use crate::Trace;
use std::time::SystemTime;

/// What one part did with one click, from when to when.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Of which click.
    pub trace: Trace,
    /// Its own number in the trace.
    pub id: u64,
    /// The span that it follows from; none for the first.
    pub parent: Option<u64>,
    /// What it is.
    pub kind: Kind,
    /// Its name; one of a few.
    pub name: &'static str,
    /// When it began.
    pub start: SystemTime,
    /// When it ended; one that lies before `start`, by another machine's clock, counts as `start`.
    pub end: SystemTime,
    /// More about it. No addresses, no contacts.
    pub attributes: Vec<(&'static str, Value)>,
    /// What went wrong; one of a few words.
    pub failure: Option<&'static str>,
}

/// A span's kind, as OpenTelemetry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Makes a request.
    Client,
    /// Takes up what somebody put on a topic.
    Consumer,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}
