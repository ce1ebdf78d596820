//! What a client has sent and nobody has answered: the start of an unfinished request, or requests behind answers that wait to be taken.

use crate::http::MAX_HEAD;
use memchr::memmem;

/// Bytes that are kept between two readings.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// How much of them is known to hold no end of a head.
    searched: usize,
}

impl Incoming {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether nobody has looked yet for a whole request in them.
    pub(super) fn unsearched(&self) -> bool {
        !self.bytes.is_empty() && self.searched == 0
    }

    /// Takes the bytes out; what is known of their start stays.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// How much of what was taken out last holds no end of a head, forgotten with this.
    pub(super) fn take_searched(&mut self) -> usize {
        std::mem::take(&mut self.searched)
    }

    /// Keeps bytes; the first `searched` of all that is kept hold no end of a head.
    pub(super) fn keep(&mut self, bytes: &[u8], searched: usize) {
        self.bytes.extend_from_slice(bytes);
        self.searched = searched;
    }
}

/// Whether bytes, of which `searched` are known to hold no end of a head, still hold none. A head that drips in byte by byte must not be parsed from its
/// start each time; one that is too long is for the parser to refuse.
pub(super) fn still_unfinished(bytes: &[u8], searched: usize) -> bool {
    searched > 0 && bytes.len() < MAX_HEAD && !has_end(&bytes[searched.saturating_sub(3)..])
}

/// Whether an empty line, the end of a head, is in these bytes.
fn has_end(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\n\r\n").is_some() || memmem::find(bytes, b"\n\n").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However a head is split, its end is seen with the piece that brings it, and not before.
    #[test]
    fn an_end_is_seen_across_pieces() {
        for head in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"GET / HTTP/1.1\nHost: a\n\n"] {
            for first in 1..head.len() {
                for second in first..=head.len() {
                    assert_eq!(still_unfinished(&head[..second], first), second < head.len(), "{first} and {second} bytes");
                }
            }
        }
        assert!(!still_unfinished(b"GET", 0), "first bytes are always parsed");
        assert!(!still_unfinished(&[b'x'; MAX_HEAD], 5));
    }
}
