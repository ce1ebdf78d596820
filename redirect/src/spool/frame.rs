//! How records lie in a segment, and how they are found again in one that is damaged.
//!
//! ```text
//! segment = header, frame*
//! header  = "CLKSPOOL" version:u32 created:u64 (ms since the epoch) crc:u32         24 bytes
//! frame   = mark:4 crc:u32 length:u32 sequence:u64 payload                         20 bytes and the payload
//! ```
//! Numbers are little-endian; a CRC-32 covers all that stands between it and the end of the frame. The mark cannot occur in UTF-8.
//!
//! # Damage
//! What is no whole frame is passed over up to the next whole frame. Behind the last whole frame it is a torn tail; [`unfinished`] tells whether a crash leaves
//! such a one.

use memchr::memmem;

/// Version of the format, in every segment's header.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 24;
/// Bytes that a frame adds to its payload.
pub(crate) const FRAME_HEADER: usize = 20;
/// A longer payload is damage. Clicks have some 650 bytes, and below 300 kB where a link has 256 tags of the longest kind.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"CLKSPOOL";
const MARK: [u8; 4] = [0xff, b'c', b'k', 0xfe];

/// A segment's first bytes.
pub(crate) fn segment_header(created: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&created.to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Version and creation time (ms since the epoch) of a segment; `None` when its header is damaged.
pub(crate) fn read_segment_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let header = bytes.get(..SEGMENT_HEADER)?;
    (&header[..8] == MAGIC && crc32fast::hash(&header[..20]) == u32_at(header, 20)).then(|| (u32_at(header, 8), u64_at(header, 12)))
}

/// Appends a frame.
pub(crate) fn push(sequence: u64, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(payload.len() <= MAX_PAYLOAD, "clicks are bounded where they are made");
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// What [`decode`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Bytes that are done with; what follows needs more bytes.
    pub consumed: usize,
    /// Bytes before `consumed` that were no frame and had to be passed over.
    pub skipped: usize,
    /// Bytes behind the last whole frame that are none; only when the bytes were the last.
    pub torn: usize,
}

/// Gives `each` the sequence number and payload of every whole frame. `last` says that nothing follows these bytes.
pub(crate) fn decode<'a>(bytes: &'a [u8], last: bool, mut each: impl FnMut(u64, &'a [u8])) -> Decoded {
    decode_while(bytes, last, |sequence, payload| {
        each(sequence, payload);
        true
    })
}

/// The same until `each` says that it has enough: what is behind that frame is not looked at.
pub(crate) fn decode_while<'a>(bytes: &'a [u8], last: bool, mut each: impl FnMut(u64, &'a [u8]) -> bool) -> Decoded {
    let mut seen = Decoded::default();
    let mut at = 0;
    let mut whole_end = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match frame(rest) {
            Frame::Whole(sequence, payload) => {
                seen.skipped += at - whole_end;
                at += FRAME_HEADER + payload.len();
                whole_end = at;
                if !each(sequence, payload) {
                    break;
                }
            }
            Frame::Unfinished if !last => break,
            Frame::Unfinished | Frame::None => {
                // A mark may be cut in two by the end of these bytes.
                let none = if last { rest.len() } else { rest.len().saturating_sub(MARK.len() - 1).max(1) };
                at += memmem::find(&rest[1..], &MARK).map_or(none, |found| found + 1);
            }
        }
    }
    seen.consumed = at;
    *(if last { &mut seen.torn } else { &mut seen.skipped }) += at - whole_end;
    seen
}

/// Gives `each` what stands in frames that [`push`] made and nobody else has had, without a look at their checksums, until it says that it has enough. How many
/// bytes that was.
pub(super) fn trusted<'a>(frames: &'a [u8], mut each: impl FnMut(u64, &'a [u8]) -> bool) -> usize {
    let mut at = 0;
    while let Some(header) = frames.get(at..at + FRAME_HEADER) {
        let end = at + FRAME_HEADER + u32_at(header, 8) as usize;
        let payload = &frames[at + FRAME_HEADER..end];
        at = end;
        if !each(u64_at(header, 12), payload) {
            break;
        }
    }
    at
}

/// Whether bytes behind the last whole frame are what a crash leaves there: the beginning of a frame, as when a process is killed while it writes, or
/// zeros at the end, as a power cut leaves what was not written yet. A payload is text and does not end with a zero. Anything else was whole once.
pub(crate) fn unfinished(tail: &[u8]) -> bool {
    if tail.last() == Some(&0) {
        return true;
    }
    if !matches!(frame(tail), Frame::Unfinished) {
        return false;
    }
    // A whole frame whose length was damaged only looks as if more were to come.
    let Some(length) = tail.len().checked_sub(FRAME_HEADER) else { return true };
    let mut covered = tail[8..].to_vec();
    covered[..4].copy_from_slice(&(length as u32).to_le_bytes());
    crc32fast::hash(&covered) != u32_at(tail, 4)
}

enum Frame<'a> {
    Whole(u64, &'a [u8]),
    /// Perhaps one, when more bytes come.
    Unfinished,
    None,
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let start = bytes.len().min(MARK.len());
    if bytes[..start] != MARK[..start] {
        return Frame::None;
    }
    if bytes.len() < FRAME_HEADER {
        return Frame::Unfinished;
    }
    let length = u32_at(bytes, 8) as usize;
    if length > MAX_PAYLOAD {
        return Frame::None;
    }
    match bytes.get(8..FRAME_HEADER + length) {
        None => Frame::Unfinished,
        Some(covered) if crc32fast::hash(covered) == u32_at(bytes, 4) => {
            Frame::Whole(u64_at(bytes, 12), &bytes[FRAME_HEADER..FRAME_HEADER + length])
        }
        Some(_) => Frame::None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in (0..).zip(payloads) {
            push(sequence, payload, &mut bytes);
        }
        bytes
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..8)
    }

    proptest! {
        /// A damaged byte costs its own record and no other; a cut costs those behind it.
        #[test]
        fn damage_costs_what_it_hits(payloads in payloads(), at in any::<prop::sample::Index>(), bit in 0..8u8, cut: bool) {
            let mut bytes = framed(&payloads);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            let mut back = Vec::new();
            let seen = decode(&bytes, true, |sequence, payload| back.push((sequence as usize, payload.to_vec())));
            prop_assert_eq!(seen.consumed, bytes.len());
            let mut end = 0;
            let expected: Vec<_> = payloads.iter().cloned().enumerate().filter(|(_, payload)| {
                let start = end;
                end += FRAME_HEADER + payload.len();
                if cut { end <= at } else { !(start..end).contains(&at) }
            }).collect();
            let whole: usize = expected.iter().map(|(_, payload)| FRAME_HEADER + payload.len()).sum();
            prop_assert_eq!(back, expected);
            prop_assert_eq!(seen.skipped + seen.torn + whole, bytes.len());
        }

        /// What nobody else has had reads as it would from the disk, from any frame on and up to any.
        #[test]
        fn what_is_trusted_is_what_is_decoded(payloads in payloads(), from in any::<prop::sample::Index>(), enough in 1..9usize) {
            let bytes = framed(&payloads);
            let from = from.index(payloads.len());
            let start: usize = payloads[..from].iter().map(|payload| FRAME_HEADER + payload.len()).sum();
            let (mut decoded, mut read) = (Vec::new(), Vec::new());
            let seen = decode_while(&bytes[start..], true, |sequence, payload| {
                decoded.push((sequence, payload));
                decoded.len() < enough
            });
            let consumed = trusted(&bytes[start..], |sequence, payload| {
                read.push((sequence, payload));
                read.len() < enough
            });
            prop_assert_eq!((consumed, read), (seen.consumed, decoded));
        }

        /// Bytes that come in pieces give what they give at once.
        #[test]
        fn pieces_make_no_difference(payloads in payloads(), noise in proptest::collection::vec(any::<u8>(), 0..30), size in 1..50usize) {
            let mut bytes = framed(&payloads);
            let middle = bytes.len() / 2;
            bytes.splice(middle..middle, noise);
            let mut at_once = Vec::new();
            decode(&bytes, true, |sequence, payload| at_once.push((sequence, payload.to_vec())));
            let mut in_pieces = Vec::new();
            let (mut start, mut end) = (0, 0);
            while start < bytes.len() {
                end = (end + size).min(bytes.len());
                start += decode(&bytes[start..end], end == bytes.len(), |sequence, payload| in_pieces.push((sequence, payload.to_vec()))).consumed;
            }
            prop_assert_eq!(at_once, in_pieces);
        }
    }
}
