//! What was appended last, as it went to the disk.
//!
//! # Meaning
//! The reading end is mostly right behind the writing end. What it finds here it need not read from the disk, nor hold against its checksum: it never left
//! this process. Everything is on the disk as well, and all of it is read from there by a start, or where more waits than is kept here.
//!
//! # Limits
//! [`BYTES`] of frames, the newest; what is done with goes at once, and its memory takes the next.

use std::collections::VecDeque;
use std::sync::Arc;

/// Three transactions of a busy server: 80,000 clicks a second make 5 MB in each.
pub(super) const BYTES: usize = 16 << 20;
/// Pieces whose memory is kept for later ones.
const SPARE: usize = 64;

/// Whole frames that were appended together.
#[derive(Debug)]
struct Piece {
    /// Segment, and where in it they begin.
    base: u64,
    offset: u64,
    frames: Arc<Vec<u8>>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.frames.len() as u64
    }
}

/// The pieces, in order.
#[derive(Debug)]
pub(super) struct Tail {
    pieces: VecDeque<Piece>,
    bytes: usize,
    limit: usize,
    spare: Vec<Vec<u8>>,
}

impl Tail {
    /// Keeps at most so many bytes.
    pub(super) fn new(limit: usize) -> Tail {
        Tail { pieces: VecDeque::new(), bytes: 0, limit, spare: Vec::new() }
    }

    /// Frames that stand in a segment from `offset` on; memory for the next ones comes back.
    pub(super) fn push(&mut self, base: u64, offset: u64, frames: Vec<u8>) -> Vec<u8> {
        self.bytes += frames.len();
        self.pieces.push_back(Piece { base, offset, frames: Arc::new(frames) });
        while self.bytes > self.limit {
            self.pop();
        }
        self.spare.pop().unwrap_or_default()
    }

    fn pop(&mut self) {
        let Some(piece) = self.pieces.pop_front() else { return };
        self.bytes -= piece.frames.len();
        // Somebody may be reading it.
        if let Ok(mut frames) = Arc::try_unwrap(piece.frames)
            && self.spare.len() < SPARE
        {
            frames.clear();
            self.spare.push(frames);
        }
    }

    /// The frames from this place on, if they are here: all that were appended together, and how many bytes of them are before it.
    pub(super) fn at(&self, base: u64, offset: u64) -> Option<(Arc<Vec<u8>>, usize)> {
        let before = self.pieces.partition_point(|piece| (piece.base, piece.end()) <= (base, offset));
        let piece = self.pieces.get(before).filter(|piece| piece.base == base && piece.offset <= offset)?;
        Some((piece.frames.clone(), usize::try_from(offset - piece.offset).ok()?))
    }

    /// All before this place is done with.
    pub(super) fn done(&mut self, base: u64, offset: u64) {
        while self.pieces.front().is_some_and(|piece| (piece.base, piece.end()) <= (base, offset)) {
            self.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_and_forgotten() {
        let mut tail = Tail::new(100);
        for (base, offset, byte) in [(1, 24, 1), (1, 54, 2), (9, 24, 3)] {
            tail.push(base, offset, vec![byte; 30]);
        }
        let at = |tail: &Tail, base, offset| tail.at(base, offset).map(|(frames, skip)| (frames[0], skip));
        assert_eq!(
            [24, 40, 54, 83, 84].map(|offset| at(&tail, 1, offset)),
            [Some((1, 0)), Some((1, 16)), Some((2, 0)), Some((2, 29)), None]
        );
        assert_eq!(
            [(0, 24), (1, 0), (5, 24), (9, 0), (9, 24), (9, 54)].map(|(base, offset)| at(&tail, base, offset)),
            [None, None, None, None, Some((3, 0)), None]
        );
        // The oldest gives way; what a reader holds stays whole.
        let held = tail.at(1, 24);
        tail.push(9, 54, vec![4; 30]);
        assert_eq!((at(&tail, 1, 24), at(&tail, 1, 54)), (None, Some((2, 0))));
        assert_eq!(held.map(|(frames, _)| *frames == [1; 30]), Some(true));
        tail.done(1, 83);
        assert!(at(&tail, 1, 54).is_some(), "not all of it is done with");
        tail.done(9, 54);
        assert_eq!((at(&tail, 1, 54), at(&tail, 9, 24), at(&tail, 9, 54)), (None, None, Some((4, 0))));
        assert_eq!(tail.bytes, 30);
        // More than is ever kept is not.
        tail.push(9, 84, vec![5; 200]);
        assert_eq!((tail.bytes, tail.pieces.len()), (0, 0));
    }

    #[test]
    fn memory_is_used_again() {
        let mut tail = Tail::new(100);
        let mut frames = Vec::with_capacity(80);
        frames.extend([0; 10]);
        let place = frames.as_ptr();
        assert_eq!(tail.push(1, 24, frames).capacity(), 0);
        tail.done(1, 34);
        let again = tail.push(1, 34, vec![0; 10]);
        assert_eq!((again.len(), again.capacity(), again.as_ptr()), (0, 80, place));
    }
}
