//! A YAML document as a tree that knows its lines, so that every mistake in it can be named with its own.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// Deepest nesting that is read; a configuration has seven levels, and each one costs the reader stack.
const DEPTH_MAX: usize = 16;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in its tree.
    pub id: usize,
    /// From 1; 0 where the parser does not know it.
    pub line: u64,
    /// The value.
    pub value: Value,
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub struct Key {
    /// Unique in its tree, among keys and values.
    pub id: usize,
    /// From 1; 0 where the parser does not know it.
    pub line: u64,
    /// The key itself.
    pub text: String,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// A text in quotes, or one that is nothing else.
    Text(String),
    /// What YAML reads as a truth value or a number, with the characters that stand there: it may be meant as a text.
    Plain(Plain, String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// What is neither text nor nothing.
#[derive(Clone, Copy, Debug)]
pub enum Plain {
    /// `true`, `false`.
    Bool(bool),
    /// A whole number of at least 0.
    Unsigned(u64),
    /// A whole number below 0.
    Signed(i64),
    /// Any other number.
    Float(f64),
}

impl Node {
    /// Reads a document; an empty one is [`Value::Null`].
    ///
    /// # Errors
    /// The parser's words, and the line where it stopped: what is no YAML can't be read further. Aliases and nesting are bounded.
    pub fn read(text: &str) -> Result<Node, (u64, String)> {
        // Without a snippet: the lines around a mistake may hold a password.
        let budget = serde_saphyr::budget!(max_depth: DEPTH_MAX);
        let options = serde_saphyr::options! { with_snippet: false, budget: budget };
        let read: Result<Spanned<Read>, _> = serde_saphyr::from_str_with_options(text, options);
        let mut next = 0;
        match read {
            Ok(read) => Ok(numbered(read, text, &mut next)),
            Err(error) => {
                let line = error.location().map_or(0, |location| location.line());
                // The words begin or end with the place, which is told in our own way.
                Err((line, error.without_snippet().to_string()))
            }
        }
    }

    /// The line of the deepest part of `path` that stands there.
    pub fn line_of<S: AsRef<str>>(&self, path: impl IntoIterator<Item = S>) -> u64 {
        let (mut node, mut line) = (self, self.line);
        for step in path {
            let step = step.as_ref();
            let found = match &node.value {
                Value::Map(entries) => entries.iter().find(|(key, _)| key.text == step).map(|(key, value)| (key.line, value)),
                Value::List(items) => step.parse::<usize>().ok().and_then(|place| items.get(place)).map(|item| (item.line, item)),
                Value::Null | Value::Text(_) | Value::Plain(..) => None,
            };
            let Some((at, value)) = found else { break };
            (line, node) = (if at > 0 { at } else { line }, value);
        }
        line
    }

    /// The value that `path` leads to.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.text == *step).map(|(_, value)| value),
            Value::List(items) => items.get(step.parse::<usize>().ok()?),
            Value::Null | Value::Text(_) | Value::Plain(..) => None,
        })
    }
}

/// A value as the parser gives it.
enum Read {
    Null,
    Text(String),
    Plain(Plain),
    List(Vec<Spanned<Read>>),
    Map(Vec<(Spanned<String>, Spanned<Read>)>),
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Read;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E>(self) -> Result<Read, E> {
                Ok(Read::Null)
            }
            fn visit_none<E>(self) -> Result<Read, E> {
                Ok(Read::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
                Ok(Read::Plain(Plain::Bool(value)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Read, E> {
                Ok(Read::Plain(u64::try_from(value).map_or(Plain::Signed(value), Plain::Unsigned)))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Read, E> {
                Ok(Read::Plain(Plain::Unsigned(value)))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Read, E> {
                Ok(Read::Plain(Plain::Float(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Read, E> {
                Ok(Read::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Read::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Read::Map(entries))
            }
        }
        from.deserialize_any(Any)
    }
}

fn numbered(read: Spanned<Read>, text: &str, next: &mut usize) -> Node {
    let Spanned { value, referenced, defined, .. } = read;
    let span = defined.span();
    let id = take(next);
    let value = match value {
        Read::Null => Value::Null,
        Read::Text(text) => Value::Text(text),
        Read::Plain(plain) => {
            let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, length)| {
                let (from, length) = (usize::try_from(from).ok()?, usize::try_from(length).ok()?);
                text.get(from..from.checked_add(length)?)
            });
            let written = written.map_or_else(|| plain.to_string(), |written| written.trim().to_owned());
            Value::Plain(plain, written)
        }
        Read::List(items) => Value::List(items.into_iter().map(|item| numbered(item, text, next)).collect()),
        Read::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = Key { id: take(next), line: key.referenced.line(), text: key.value };
                    (key, numbered(value, text, next))
                })
                .collect(),
        ),
    };
    Node { id, line: referenced.line(), value }
}

fn take(next: &mut usize) -> usize {
    *next += 1;
    *next
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plain::Bool(value) => value.fmt(f),
            Plain::Unsigned(value) => value.fmt(f),
            Plain::Signed(value) => value.fmt(f),
            Plain::Float(value) => value.fmt(f),
        }
    }
}
