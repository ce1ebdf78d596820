//! What the fuzz target of the spool calls (`redirect/fuzz`), and a test with it. No part of the interface.

use super::frame::{FRAME_HEADER, SEGMENT_HEADER, decode, push, read_segment_header};

/// Reads any bytes as a segment that a start finds.
///
/// # Panics
/// When bytes are counted twice or not at all, when what is read depends on the pieces it is read in, or when a segment whose torn tail was cut off still
/// has one.
pub fn spool(bytes: &[u8]) {
    let body = if read_segment_header(bytes).is_some() { &bytes[SEGMENT_HEADER..] } else { bytes };
    let (records, seen) = all(body);
    assert_eq!(seen.consumed, body.len());
    let whole: usize = records.iter().map(|(_, payload)| FRAME_HEADER + payload.len()).sum();
    assert_eq!(seen.skipped + seen.torn + whole, body.len());

    let cut = all(&body[..body.len() - seen.torn]);
    assert_eq!((&cut.0, cut.1.skipped, cut.1.torn), (&records, seen.skipped, 0));

    let mut again = Vec::new();
    records.iter().for_each(|(sequence, payload)| push(*sequence, payload, &mut again));
    assert_eq!(all(&again).0, records);

    let step = 1 + bytes.first().copied().map_or(0, usize::from);
    let (mut start, mut end, mut pieces) = (0, 0, Vec::new());
    while start < body.len() {
        end = (end + step).min(body.len());
        start += decode(&body[start..end], end == body.len(), |sequence, payload| pieces.push((sequence, payload.to_vec()))).consumed;
    }
    assert_eq!(pieces, records);
}

fn all(bytes: &[u8]) -> (Vec<(u64, Vec<u8>)>, super::frame::Decoded) {
    let mut records = Vec::new();
    let seen = decode(bytes, true, |sequence, payload| records.push((sequence, payload.to_vec())));
    (records, seen)
}
