//! Writes JSON texts. A record is made for every click, and most of it is text in which nothing has to be escaped: that is found out sixteen bytes at a
//! time, where a serialiser looks at each.

/// Appends a text as a JSON string.
pub(crate) fn push(text: &str, out: &mut Vec<u8>) {
    if needs_escape(text.as_bytes()) {
        serde_json::to_writer(out, text).expect("a text always serialises, and a Vec takes every byte");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends a text, or null.
pub(crate) fn push_option(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => push(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a number.
pub(crate) fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn needs_escape(bytes: &[u8]) -> bool {
    let any = |bytes: &[u8]| bytes.iter().fold(false, |any, byte| any | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\'));
    let (blocks, rest) = bytes.as_chunks::<16>();
    blocks.iter().any(|block| any(block)) || any(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_the_serialiser_writes_it(text in "([a-z \"\\\\\u{0}-\u{20}é]|[ -~]{0,20}){0,40}", number in any::<u64>()) {
            let mut out = Vec::new();
            push(&text, &mut out);
            push_option(Some(&text), &mut out);
            push_option(None, &mut out);
            push_number(number, &mut out);
            let one = serde_json::to_string(&text).expect("a text");
            prop_assert_eq!(String::from_utf8(out).expect("text"), format!("{one}{one}null{number}"));
        }
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..128_u8 {
            for at in 0..40 {
                let mut text = vec![b'x'; 40];
                text[at] = byte;
                let text = String::from_utf8(text).expect("ASCII");
                let mut out = Vec::new();
                push(&text, &mut out);
                assert_eq!(out, serde_json::to_vec(&text).expect("a text"));
            }
        }
        let mut out = Vec::new();
        push_number(0, &mut out);
        push_number(u64::MAX, &mut out);
        assert_eq!(out, b"018446744073709551615");
    }
}
