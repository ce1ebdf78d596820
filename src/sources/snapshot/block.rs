//! Blocks: rows in one piece, with what is needed to pass over them and a checksum over both.
//!
//! All numbers are little-endian. The head has a checksum of its own, so that files can be gone through by heads alone.

use super::rows::Damaged;
use super::segment::Last;
use crate::model::time::Ms;
use std::io::{self, Read};

/// Begins every block: a length that was read in the wrong place must not be taken for one.
const MARK: u32 = 0xC11C_B10C;
/// The bytes of a head.
pub const HEAD: usize = 64;
/// The bytes of a block at most: far more than a block and the largest message that a broker may be told to take. The head's
/// checksum and the file's size guard what is allocated.
const LARGEST: u32 = 256 << 20;

/// What stands before the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the rows.
    pub len: u32,
    /// Rows.
    pub rows: u32,
    /// Checksum of the rows' bytes.
    pub sum: u32,
    /// The first offset that the block may hold: where the one before it ended.
    pub after: i64,
    /// The latest append time of a row.
    pub appended: Ms,
    /// Its last record, as Kafka has it.
    pub last: Last,
}

impl Head {
    /// The offset after the last record.
    pub fn next(&self) -> i64 {
        self.last.offset.saturating_add(1)
    }

    /// As bytes.
    pub fn bytes(&self) -> [u8; HEAD] {
        let Head { len, rows, sum, after, appended, last: Last { offset, time, payload } } = self;
        let mut bytes = Vec::with_capacity(HEAD);
        for number in [MARK, *len, *rows, *sum, *payload, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [*after, *offset, *time, appended.cast_signed()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(HEAD - 4, 0);
        let of_head = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&of_head.to_le_bytes());
        bytes.try_into().unwrap_or_else(|_| unreachable!("as many bytes as were put in"))
    }

    /// Reads a head; `None` where the file ends, also in the middle of one.
    ///
    /// # Errors
    /// The disk's; bytes that are no head are `Ok(Some(Err))`.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Result<Head, Damaged>>> {
        let mut bytes = [0; HEAD];
        if !fill(from, &mut bytes)? {
            return Ok(None);
        }
        Ok(Some(Head::parse(&bytes).ok_or(Damaged)))
    }

    fn parse(bytes: &[u8; HEAD]) -> Option<Head> {
        let small = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let large = |at: usize| Some(i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let head = Head {
            len: small(4)?,
            rows: small(8)?,
            sum: small(12)?,
            after: large(24)?,
            appended: large(48)?.cast_unsigned(),
            last: Last { offset: large(32)?, time: large(40)?, payload: small(16)? },
        };
        let fits = small(0)? == MARK && small(HEAD - 4)? == crc32fast::hash(&bytes[..HEAD - 4]);
        (fits && head.len <= LARGEST && head.last.offset >= head.after).then_some(head)
    }

    /// Reads the rows' bytes that belong to this head; `None` where they break off or the checksum does not fit.
    ///
    /// # Errors
    /// The disk's.
    pub fn body(&self, from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
        bytes.resize(self.len as usize, 0);
        Ok(fill(from, bytes)? && crc32fast::hash(bytes) == self.sum)
    }
}

/// Fills `bytes`; whether there was enough.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
