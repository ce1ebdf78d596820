//! Reads a tree into a type and goes on after a mistake.
//!
//! # Meaning
//! serde stops at the first thing that does not fit. So the tree is read, what did not fit is noted and mended, and it is read again, until it
//! fits or nothing is left to mend. A misspelt key or word becomes the one that was meant, where one is near, so that what stands
//! under it is looked at, too; anything else is taken away. What is missing only because it was taken away is no second mistake.
//!
//! # Cost
//! One pass a mistake, over a file of some hundred lines.

use super::mistakes::{Mistake, meant, nearest};
use super::tree::{Key, Node, Plain, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer as _, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use std::collections::BTreeSet;
use std::fmt;

/// What came of reading a tree.
pub struct Lenient<T> {
    /// The value, if enough of it was left.
    pub value: Option<T>,
    /// The tree as it was mended; lines are those of the file.
    pub tree: Node,
    /// All that did not fit, in the order in which it was found.
    pub mistakes: Vec<Mistake>,
    /// Whether nothing was taken away: what the parts say of each other holds only then.
    pub whole: bool,
}

/// Reads a tree as a `T`.
pub fn read<T: for<'de> Deserialize<'de>>(mut tree: Node) -> Lenient<T> {
    let (mut mistakes, mut whole, mut taken) = (Vec::new(), true, BTreeSet::new());
    loop {
        let fault = match T::deserialize(Reader(&tree)) {
            Ok(value) => return Lenient { value: Some(value), tree, mistakes, whole },
            Err(fault) => fault,
        };
        let at = fault.at.unwrap_or(tree.id);
        let line = line_of(&tree, at).unwrap_or(tree.line);
        let mended = match fault.kind {
            Kind::Key(word, known) => {
                mistakes.push(Mistake::new(line, format!("unknown key `{word}`{}", meant(&word, known))));
                let near = nearest(&word, known.iter().copied());
                whole &= near.is_some();
                near.is_some_and(|near| rename(&mut tree, at, near)) || take_away(&mut tree, at, &mut taken)
            }
            Kind::Word(word, known) => {
                mistakes.push(Mistake::new(line, format!("unknown value `{word}`{}", meant(&word, known))));
                let near = nearest(&word, known.iter().copied());
                whole &= near.is_some();
                near.is_some_and(|near| replace(&mut tree, at, near)) || take_away(&mut tree, at, &mut taken)
            }
            Kind::Missing(field) => {
                if !taken.contains(&(at, field.to_owned())) {
                    mistakes.push(Mistake::new(line, format!("`{field}` is missing")));
                }
                whole = false;
                take_away(&mut tree, at, &mut taken)
            }
            Kind::Other(problem) => {
                let field = key_of(&tree, at).map(|key| format!("{key}: ")).unwrap_or_default();
                mistakes.push(Mistake::new(line, format!("{field}{problem}")));
                whole = false;
                take_away(&mut tree, at, &mut taken)
            }
        };
        if !mended {
            return Lenient { value: None, tree, mistakes, whole };
        }
    }
}

/// The line of a key or value.
fn line_of(node: &Node, id: usize) -> Option<u64> {
    if node.id == id {
        return Some(node.line);
    }
    match &node.value {
        Value::List(items) => items.iter().find_map(|item| line_of(item, id)),
        // A mapping of a key begins a line below it: the key is what a person looks for.
        Value::Map(entries) => entries.iter().find_map(|(key, value)| match key.id == id || value.id == id {
            true => Some(key.line),
            false => line_of(value, id),
        }),
        Value::Null | Value::Text(_) | Value::Plain(..) => None,
    }
}

/// The key that a value stands under.
fn key_of(node: &Node, id: usize) -> Option<&str> {
    match &node.value {
        Value::List(items) => items.iter().find_map(|item| key_of(item, id)),
        Value::Map(entries) => {
            entries.iter().find_map(|(key, value)| if value.id == id { Some(key.text.as_str()) } else { key_of(value, id) })
        }
        Value::Null | Value::Text(_) | Value::Plain(..) => None,
    }
}

/// Gives a key another name, unless its mapping has that one already.
fn rename(node: &mut Node, id: usize, name: &str) -> bool {
    match &mut node.value {
        Value::List(items) => items.iter_mut().any(|item| rename(item, id, name)),
        Value::Map(entries) => {
            let free = entries.iter().all(|(key, _)| key.text != name);
            match entries.iter_mut().find(|(key, _)| key.id == id) {
                Some((key, _)) if free => {
                    name.clone_into(&mut key.text);
                    true
                }
                Some(_) => false,
                None => entries.iter_mut().any(|(_, value)| rename(value, id, name)),
            }
        }
        Value::Null | Value::Text(_) | Value::Plain(..) => false,
    }
}

/// Puts another text in a value's place.
fn replace(node: &mut Node, id: usize, word: &str) -> bool {
    if node.id == id {
        node.value = Value::Text(word.to_owned());
        return true;
    }
    match &mut node.value {
        Value::List(items) => items.iter_mut().any(|item| replace(item, id, word)),
        Value::Map(entries) => entries.iter_mut().any(|(_, value)| replace(value, id, word)),
        Value::Null | Value::Text(_) | Value::Plain(..) => false,
    }
}

/// Takes a key or value away, and notes whose it was.
fn take_away(node: &mut Node, id: usize, taken: &mut BTreeSet<(usize, String)>) -> bool {
    match &mut node.value {
        Value::List(items) => match items.iter().position(|item| item.id == id) {
            Some(place) => {
                items.remove(place);
                true
            }
            None => items.iter_mut().any(|item| take_away(item, id, taken)),
        },
        Value::Map(entries) => match entries.iter().position(|(key, value)| key.id == id || value.id == id) {
            Some(place) => {
                let (key, _) = entries.remove(place);
                taken.insert((node.id, key.text));
                true
            }
            None => entries.iter_mut().any(|(_, value)| take_away(value, id, taken)),
        },
        Value::Null | Value::Text(_) | Value::Plain(..) => false,
    }
}

/// What did not fit, and where.
#[derive(Debug)]
struct Fault {
    at: Option<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Key(String, &'static [&'static str]),
    Word(String, &'static [&'static str]),
    Missing(&'static str),
    Other(String),
}

impl Fault {
    /// Says where, unless something within has said it.
    fn at(mut self, id: usize) -> Self {
        self.at.get_or_insert(id);
        self
    }

    fn of(kind: Kind) -> Self {
        Fault { at: None, kind }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Key(word, _) => write!(f, "unknown key `{word}`"),
            Kind::Word(word, _) => write!(f, "unknown value `{word}`"),
            Kind::Missing(field) => write!(f, "`{field}` is missing"),
            Kind::Other(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::of(Kind::Other(message.to_string()))
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Fault::of(Kind::Key(field.to_owned(), expected))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault::of(Kind::Word(variant.to_owned(), expected))
    }
    fn missing_field(field: &'static str) -> Self {
        Fault::of(Kind::Missing(field))
    }
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // Not the value: a password may stand in the wrong place.
        let kind = match unexpected {
            Unexpected::Bool(_) => "a truth value",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            Unexpected::Map | Unexpected::StructVariant | Unexpected::NewtypeStruct => "a mapping",
            _ => "a text",
        };
        Fault::of(Kind::Other(format!("there is {kind}; expected {expected}")))
    }
}

/// Reads one node.
struct Reader<'a>(&'a Node);

impl<'a> Reader<'a> {
    /// What a type that asks for a text gets: also `4242` and `true`, as they stand there.
    fn text(&self) -> Option<&'a str> {
        match &self.0.value {
            Value::Text(text) | Value::Plain(_, text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let id = self.0.id;
        let read: Result<V::Value, Fault> = match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Text(text) => visitor.visit_str(text),
            Value::Plain(Plain::Bool(value), _) => visitor.visit_bool(*value),
            Value::Plain(Plain::Unsigned(value), _) => visitor.visit_u64(*value),
            Value::Plain(Plain::Signed(value), _) => visitor.visit_i64(*value),
            Value::Plain(Plain::Float(value), _) => visitor.visit_f64(*value),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries(entries.iter(), None)),
        };
        read.map_err(|fault| fault.at(id))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let id = self.0.id;
        match self.text() {
            Some(text) => visitor.visit_str(text).map_err(|fault: Fault| fault.at(id)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.value {
            // `workspaces:` with nothing under it is an empty mapping.
            Value::Null => visitor.visit_map(Entries([].iter(), None)).map_err(|fault| fault.at(self.0.id)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        match self.0.value {
            // serde would take a list of the fields' values, too.
            Value::List(_) => Err(Fault::invalid_type(Unexpected::Seq, &"a mapping").at(self.0.id)),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        let id = self.0.id;
        let read: Result<V::Value, Fault> = match (&self.0.value, self.text()) {
            (_, Some(word)) => visitor.visit_enum(Word(word)),
            (Value::Map(entries), _) if entries.len() == 1 => visitor.visit_enum(Variant(&entries[0].0, &entries[0].1)),
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(|fault| fault.at(id))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.0.next().map(|node| seed.deserialize(Reader(node)).map_err(|fault| fault.at(node.id))).transpose()
    }
}

struct Entries<'a>(std::slice::Iter<'a, (Key, Node)>, Option<&'a Node>);

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.0.next() else { return Ok(None) };
        self.1 = Some(value);
        let text: StrDeserializer<'_, Fault> = key.text.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|fault| fault.at(key.id))
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let node = self.1.take().ok_or_else(|| Fault::custom("a value without a key"))?;
        seed.deserialize(Reader(node)).map_err(|fault| fault.at(node.id))
    }
}

/// `live`.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Fault;
    type Variant = Bare;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Bare), Fault> {
        let text: StrDeserializer<'_, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(text)?, Bare))
    }
}

/// A word with nothing behind it.
struct Bare;

impl<'de> VariantAccess<'de> for Bare {
    type Error = Fault;
    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::custom("needs a value, `word: value`"))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("needs a value, `word: [values]`"))
    }
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("needs a value, `word: {…}`"))
    }
}

/// `word: value`.
struct Variant<'a>(&'a Key, &'a Node);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Reader<'de>;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Reader<'de>), Fault> {
        let text: StrDeserializer<'_, Fault> = self.0.text.as_str().into_deserializer();
        Ok((seed.deserialize(text).map_err(|fault| fault.at(self.0.id))?, Reader(self.1)))
    }
}

impl<'de> VariantAccess<'de> for Reader<'de> {
    type Error = Fault;
    fn unit_variant(self) -> Result<(), Fault> {
        match self.0.value {
            Value::Null => Ok(()),
            _ => Err(Fault::custom("takes no value").at(self.0.id)),
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(self, name: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", name, visitor)
    }
}
