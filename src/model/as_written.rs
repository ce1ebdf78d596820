//! Reads a click that looks as the redirect server writes it, several times faster than a JSON parser.
//!
//! # Meaning
//! Either the bytes are a click in exactly this form, and then the answer is what the JSON parser would give; or there is
//! no answer, and the JSON parser must be asked. Exactly this form: compact, all fields, each once, in the writer's
//! order; strings without escapes; schema version 1. Whatever else JSON allows, or forbids, is no answer.
//!
//! # Why the answer is the same
//! - Every byte is looked at: names, commas and braces literally, numbers and strings by their rules, the end at the end.
//! - The whole is UTF-8, checked first. A string ends at its first quote; one with a backslash or a control character is
//!   no answer, so what lies between the quotes is the string.
//! - A time is digits without a leading zero that fit 64 bits, followed by a comma: no sign, fraction or exponent.
//! - No field is skipped and none repeats, so there is nothing to ignore and no double to resolve.
//!
//! `tests/as_written.rs` holds it to that over records that were changed at random.
//!
//! # Cost
//! `benches/decode` compares it with parsers. It allocates nothing; whoever keeps the click packs its texts into one.

use super::packed_click::ClickView;
use super::time::Ms;
use smallvec::SmallVec;

/// The click, if the bytes are one in the writer's form; its texts stay where they are.
pub fn click(bytes: &[u8]) -> Option<ClickView<'_>> {
    let mut text = Text(std::str::from_utf8(bytes).ok()?);
    text.literal(r#"{"v":1,"id":"#)?;
    let id = text.string()?;
    text.literal(r#","ts":"#)?;
    let ts = text.number()?;
    text.literal(r#","workspace":"#)?;
    let workspace = text.string()?;
    text.literal(r#","link":"#)?;
    let link = text.string()?;
    text.literal(r#","title":"#)?;
    let title = text.optional()?;
    text.literal(r#","destination":"#)?;
    let destination = text.optional()?;
    text.literal(r#","tags":["#)?;
    let tags = text.strings()?;
    text.literal(r#","deal_id":"#)?;
    let deal_id = text.optional()?;
    text.literal(r#","contact_id":"#)?;
    let contact_id = text.optional()?;
    text.literal(r#","fbclid":"#)?;
    let fbclid = text.optional()?;
    text.literal(r#","gclid":"#)?;
    let gclid = text.optional()?;
    text.literal(r#","utm":{"source":"#)?;
    let source = text.optional()?;
    text.literal(r#","medium":"#)?;
    let medium = text.optional()?;
    text.literal(r#","campaign":"#)?;
    let campaign = text.optional()?;
    text.literal(r#","term":"#)?;
    let term = text.optional()?;
    text.literal(r#","content":"#)?;
    let content = text.optional()?;
    text.literal(r#"},"referrer":"#)?;
    let referrer = text.optional()?;
    text.literal(r#","user_agent":"#)?;
    let user_agent = text.optional()?;
    text.literal(r#","device":"#)?;
    let device = text.optional()?;
    text.literal(r#","os":"#)?;
    let os = text.optional()?;
    text.literal(r#","browser":"#)?;
    let browser = text.optional()?;
    text.literal(r#","country":"#)?;
    let country = text.optional()?;
    text.literal(r#","bot":"#)?;
    let bot = text.optional()?;
    text.literal("}")?;
    if !text.0.is_empty() {
        return None;
    }
    Some(ClickView {
        v: 1,
        id,
        ts,
        workspace,
        link,
        title,
        destination,
        tags,
        deal_id,
        contact_id,
        fbclid,
        gclid,
        source,
        medium,
        campaign,
        term,
        content,
        referrer,
        user_agent,
        device,
        os,
        browser,
        country,
        bot,
    })
}

/// What is left to be read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    #[inline(always)]
    fn literal(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    #[inline]
    fn string(&mut self) -> Option<&'a str> {
        let inside = self.0.strip_prefix('"')?;
        let end = plain(inside.as_bytes());
        // Only a quote ends it; a backslash, a control character or the end of the text does not.
        let (value, rest) = inside.split_at_checked(end)?;
        self.0 = rest.strip_prefix('"')?;
        Some(value)
    }

    #[inline]
    fn optional(&mut self) -> Option<Option<&'a str>> {
        if let Some(rest) = self.0.strip_prefix("null") {
            self.0 = rest;
            return Some(None);
        }
        self.string().map(Some)
    }

    /// What stands in a list, whose opening bracket has been read.
    fn strings(&mut self) -> Option<SmallVec<[&'a str; 4]>> {
        let mut list = SmallVec::new();
        if let Some(rest) = self.0.strip_prefix(']') {
            self.0 = rest;
            return Some(list);
        }
        loop {
            list.push(self.string()?);
            match self.0.as_bytes().first()? {
                b',' => self.0 = &self.0[1..],
                b']' => {
                    self.0 = &self.0[1..];
                    return Some(list);
                }
                _ => return None,
            }
        }
    }

    /// Digits, up to whatever is none.
    fn number(&mut self) -> Option<Ms> {
        let bytes = self.0.as_bytes();
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut value: Ms = 0;
        for digit in &bytes[..digits] {
            value = value.checked_mul(10)?.checked_add(Ms::from(digit - b'0'))?;
        }
        if digits == 0 || digits > 1 && bytes[0] == b'0' {
            return None;
        }
        self.0 = &self.0[digits..];
        Some(value)
    }
}

/// Bytes before the first quote, backslash or control character.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The lowest marked byte is right; marks above it may not be.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control;
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plain_stops_where_a_byte_by_byte_look_does(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(0x1f), Just(0x20), Just(0x7f)], 0..40)) {
            let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
            prop_assert_eq!(plain(&bytes), bytes.iter().position(special).unwrap_or(bytes.len()));
        }
    }
}
