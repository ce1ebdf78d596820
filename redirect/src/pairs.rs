//! The parameters of a query, found with one look at each of its bytes.
//!
//! # Cost
//! Most parameters are a few letters with nothing in them to be decoded. What kinds of bytes a parameter holds is noted while its end is looked for, so that
//! such a one is compared, recorded and passed on as it stands.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Longest value that is recorded, in bytes: half of what the job takes, and more than any click id in use.
pub(crate) const MAX_VALUE: usize = 512;

/// Bytes that a query cannot hold as they are (RFC 3986 and the URL standard's query set).
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// Ends a parameter.
const END: u8 = 1;
/// Ends a name.
const NAMED: u8 = 2;
/// Stands for something else: `%` and `+`.
const ESCAPE: u8 = 4;
/// Must be encoded in a URL.
const ENCODED: u8 = 8;
/// No printable ASCII.
const STRANGE: u8 = 16;

/// What each byte is to a query.
static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let strange = byte < 0x20 || byte > 0x7e;
        kinds[byte] = if strange { STRANGE | ENCODED } else { 0 };
        byte += 1;
    }
    let mut at = 0;
    let unsafe_ones = b" \"#<>\\^`{|}";
    while at < unsafe_ones.len() {
        kinds[unsafe_ones[at] as usize] = ENCODED;
        at += 1;
    }
    kinds[b'&' as usize] = END;
    kinds[b'=' as usize] = NAMED;
    kinds[b'%' as usize] = ESCAPE;
    kinds[b'+' as usize] = ESCAPE;
    kinds
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    /// The whole `name=value` as it was written.
    pub raw: &'a str,
    /// Length of the name.
    name: usize,
    /// The kinds of bytes in the name, and in the value.
    name_kinds: u8,
    value_kinds: u8,
}

/// All parameters of a query, without memory of their own when they are few.
pub(crate) type Pairs<'a> = SmallVec<[Pair<'a>; 8]>;

/// The parameters of a query (without its `?`), in their order; empty ones are none.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        loop {
            let pair = first(&mut rest)?;
            if !pair.raw.is_empty() {
                return Some(pair);
            }
        }
    })
}

/// Takes the first parameter off, an empty one too; nothing is left behind the last.
fn first<'a>(rest: &mut Option<&'a str>) -> Option<Pair<'a>> {
    let text = (*rest)?;
    let (mut name, mut name_kinds, mut kinds) = (None, 0, 0);
    let mut end = text.len();
    for (at, byte) in text.bytes().enumerate() {
        let kind = KINDS[usize::from(byte)];
        if kind == END {
            end = at;
            break;
        }
        if kind == NAMED && name.is_none() {
            name = Some(at);
            name_kinds = std::mem::take(&mut kinds);
        }
        kinds |= kind & !NAMED;
    }
    *rest = text.get(end + 1..);
    let raw = &text[..end];
    Some(match name {
        Some(name) => Pair { raw, name, name_kinds, value_kinds: kinds },
        None => Pair { raw, name: end, name_kinds: kinds, value_kinds: 0 },
    })
}

impl<'a> Pair<'a> {
    /// The decoded name. One that is not UTF-8 has U+FFFD in it, and equals none that matters here.
    pub(crate) fn name(&self) -> Cow<'a, str> {
        let name = &self.raw[..self.name];
        if self.name_kinds & ESCAPE == 0 {
            return Cow::Borrowed(name);
        }
        match decode(name) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The decoded value as it may be recorded: trimmed, and if it is not empty, not longer than [`MAX_VALUE`], UTF-8 and without control characters.
    pub(crate) fn value(&self) -> Option<Cow<'a, str>> {
        let raw = self.raw.get(self.name + 1..)?;
        // Decoding makes nothing longer than three bytes per byte kept.
        if raw.len() > 3 * MAX_VALUE {
            return None;
        }
        let fits = |value: &str| !value.is_empty() && value.len() <= MAX_VALUE;
        if self.value_kinds & (ESCAPE | STRANGE) == 0 {
            return Some(raw.trim_ascii()).filter(|value| fits(value)).map(Cow::Borrowed);
        }
        let value = match decode(raw) {
            Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).ok()?.trim()),
            Cow::Owned(bytes) => match String::from_utf8(bytes).ok()? {
                value if value.trim().len() == value.len() => Cow::Owned(value),
                value => Cow::Owned(value.trim().to_owned()),
            },
        };
        (fits(&value) && !value.chars().any(char::is_control)).then_some(value)
    }

    /// Appends it as it was written, without the bytes that a URL cannot hold.
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        if (self.name_kinds | self.value_kinds) & ENCODED == 0 {
            out.extend_from_slice(self.raw.as_bytes());
            return;
        }
        for piece in percent_encode(self.raw.as_bytes(), UNSAFE) {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// Form decoding: `+` is a space, `%XX` a byte.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode(spaced.as_bytes()).collect())
    } else {
        percent_decode(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_are_what_the_encoder_says() {
        for byte in 0..=u8::MAX {
            let encoded = percent_encode(&[byte], UNSAFE).next().is_some_and(|piece| piece.len() > 1);
            let kinds = KINDS[usize::from(byte)];
            assert_eq!(kinds & ENCODED != 0, encoded, "{byte}");
            assert_eq!(kinds & STRANGE != 0, !(b' '..=b'~').contains(&byte), "{byte}");
        }
    }

    proptest! {
        /// Against the plain way: split, decode, encode.
        #[test]
        fn as_the_plain_way_reads_it(query in "([a-c=&%+#\u{7f}é \u{1}]|%[0-9a-fA-F]{2}|utm_source=){0,30}") {
            let plain: Vec<(&str, &str, Option<&str>)> = query.split('&').filter(|raw| !raw.is_empty()).map(|raw| match raw.split_once('=') {
                Some((name, value)) => (raw, name, Some(value)),
                None => (raw, raw, None),
            }).collect();
            let decoded = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
            let read: Vec<Pair<'_>> = pairs(&query).collect();
            prop_assert_eq!(read.len(), plain.len());
            for (pair, (raw, name, value)) in read.iter().zip(plain) {
                prop_assert_eq!(pair.raw, raw);
                let name = decoded(name);
                prop_assert_eq!(&*pair.name(), &*String::from_utf8_lossy(&name));
                let value = value.and_then(|value| String::from_utf8(decoded(value)).ok()).map(|value| value.trim().to_owned());
                let value = value.filter(|value| !value.is_empty() && !value.chars().any(char::is_control));
                prop_assert_eq!(pair.value().map(Cow::into_owned), value);
                let mut out = Vec::new();
                pair.push(&mut out);
                prop_assert_eq!(out, percent_encode(raw.as_bytes(), UNSAFE).to_string().into_bytes());
            }
        }
    }
}
