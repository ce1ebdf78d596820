//! What a start finds in a spool: its id, the segments that are left, and what is wrong with them.
//!
//! A torn tail is cut. Damage stays where it is; readers pass over it. Reading all that is left takes about a second per GiB.
//!
//! # Torn or damaged
//! Behind the last whole record of a run a crash may leave the beginning of one, and a power cut one whose end reads as zeros. That is *torn*: with
//! `--capture durable` nobody was answered for it. Anything else there, such as a whole record with a wrong checksum, was written and has changed since: it is
//! *damaged*, and so is every number that is missing between two records or two segments of a run. A power cut can also leave the last record of
//! a run with other bytes than zeros where it was not written; on file systems that show such bytes this counts as damage, though nobody was answered for it.
//! With `--capture fast` a power cut may take any records that the system had not written; those that are missed between others count as damaged, too.

use super::frame::{self, SEGMENT_HEADER};
use super::meta::Identity;
use super::shelf::Extent;
use super::{COUNT_BITS, Disk, Unusable, segment_base};
use std::io;

pub(super) const POSITION: &str = "position";

/// What a start found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The spool's id, and the run of this process.
    pub identity: Identity,
    /// All before this number is known to be committed.
    pub position: u64,
    /// Segments that are left, in order.
    pub segments: Vec<Extent>,
    /// Records in them that are not known to be committed.
    pub waiting: u64,
    /// Records that are lost to damage, at least.
    pub corrupt: u64,
    /// Segments with a torn tail, and the bytes that were cut off.
    pub torn: u64,
    pub torn_bytes: u64,
    /// The number that is expected next.
    next: u64,
}

/// Reads the spool and begins a new run.
///
/// # Errors
/// When the directory cannot be used or its format is another.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Found, Unusable> {
    let mut bases: Vec<(u64, String)> = disk
        .list()
        .map_err(|error| Unusable::cannot("list", &error))?
        .into_iter()
        .filter_map(|name| Some((segment_base(&name)?, name)))
        .collect();
    bases.sort_unstable();
    let position = match read_small(disk, POSITION) {
        Ok(bytes) => parse_position(&bytes).unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Unusable::cannot("read the file `position` of", &error)),
    };
    let identity = Identity::begin(disk, bases.last().map(|(base, _)| *base), position)?;
    if position == 0 {
        // Made now, so that it needs no room later. It is a hint: without it Kafka's word does.
        let _ = disk.note(POSITION, &self::position(0));
    }
    let next = identity.first();
    let mut found = Found { identity, position, segments: Vec::new(), waiting: 0, corrupt: 0, torn: 0, torn_bytes: 0, next };
    let follows: Vec<u64> = bases.iter().skip(1).map(|(base, _)| *base).collect();
    for (number, (base, name)) in bases.into_iter().enumerate() {
        let bytes = read_all(disk, &name).map_err(|error| Unusable::cannot("read", &error))?;
        let follows = follows.get(number).copied().filter(|follows| same_run(*follows, base));
        found.segment(disk, base, name, &bytes, follows)?;
    }
    Ok(found)
}

fn same_run(one: u64, other: u64) -> bool {
    one >> COUNT_BITS == other >> COUNT_BITS
}

impl Found {
    /// Takes a segment, behind those before it; `follows` is the first number of the next one of its run.
    fn segment(&mut self, disk: &dyn Disk, base: u64, name: String, bytes: &[u8], follows: Option<u64>) -> Result<(), Unusable> {
        let (version, created) = frame::read_segment_header(bytes).unwrap_or((frame::VERSION, 0));
        if version != frame::VERSION {
            return Err(Unusable::Wrong(format!(
                "the spool's segment {name} has version {version}; this program reads {}: replay it with its own",
                frame::VERSION
            )));
        }
        // What could not be cut off in the segment before may have the first numbers of this one.
        let mut next = if same_run(self.next, base) { self.next.max(base) } else { base };
        let (mut records, mut missing, position) = (0, 0u64, self.position);
        let body = bytes.get(SEGMENT_HEADER..).unwrap_or_default();
        let seen = frame::decode(body, true, |sequence, _| {
            records += 1;
            if sequence >= next {
                // Numbers are given without gaps: what is missing between two was damaged, unless Kafka had it before.
                missing = sequence.saturating_sub(next.max(position)).saturating_add(missing);
                next = sequence.saturating_add(1);
                self.waiting += u64::from(sequence >= position);
            }
        });
        let behind = follows.map_or(0, |follows| follows.saturating_sub(next.max(position)));
        self.next = next;
        // A crash while the segment was made leaves a header that is torn.
        let torn = if body.is_empty() && bytes.len() != SEGMENT_HEADER { bytes.len() } else { seen.torn };
        let whole = (bytes.len() - torn) as u64;
        let damaged = follows.is_none() && torn > 0 && !body.is_empty() && !frame::unfinished(&bytes[bytes.len() - torn..]);
        self.corrupt = [missing, behind, u64::from(damaged)].into_iter().fold(self.corrupt, u64::saturating_add);
        if torn > 0 && !damaged && behind == 0 {
            self.cut(disk, &name, whole, torn as u64);
        }
        if records == 0 {
            return disk.remove(&name).map_err(|error| Unusable::cannot(&format!("remove the empty segment {name} of"), &error));
        }
        self.segments.push(Extent { name, base, length: whole, created });
        Ok(())
    }

    /// Cuts a torn tail off. Nobody reads it where that does not work.
    fn cut(&mut self, disk: &dyn Disk, name: &str, whole: u64, torn: u64) {
        self.torn += 1;
        self.torn_bytes += torn;
        match disk.truncate(name, whole) {
            Ok(()) => tracing::warn!(
                event = "spool_tail_cut",
                "the spool's segment {name} ends with {torn} bytes of an unfinished record, as a crash leaves it; they were cut off"
            ),
            Err(error) => tracing::warn!(
                event = "spool_tail_left",
                %error,
                "the spool's segment {name} ends with {torn} bytes of an unfinished record, which cannot be cut off; they are passed over"
            ),
        }
    }
}

pub(super) fn position(next: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&next.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse_position(bytes: &[u8]) -> Option<u64> {
    // It is overwritten in place: what damage left behind it stays there.
    let bytes = bytes.get(..12)?;
    let next = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    (position(next) == bytes).then_some(next)
}

pub(super) fn read_small(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4_096];
    let count = disk.read(name, 0, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn read_all(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(disk.len(name)?).map_err(io::Error::other)?];
    let count = disk.read(name, 0, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}
