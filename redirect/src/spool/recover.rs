//! What a start finds in a spool: its id, the segments that are left, and what is wrong with them.
//!
//! A torn tail is cut. Damage before it stays where it is; readers pass over it. Reading all that is left takes about a second per GiB.

use super::frame::{self, SEGMENT_HEADER};
use super::shelf::Extent;
use super::{COUNT_BITS, Disk, segment_base};
use std::io;
use uuid::Uuid;

const META: &str = "spool";
pub(super) const POSITION: &str = "position";
/// First line of the file `spool`.
const FORMAT: &str = "clickline-redirect spool 1";
/// Runs that fit beside the count in a signed number, as Kafka stores it.
const MAX_RUN: u64 = (1 << (63 - COUNT_BITS)) - 1;

/// What a start found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The spool's own id, the same from start to start.
    pub id: Uuid,
    /// First sequence number of this run.
    pub first: u64,
    /// All before this number is known to be committed.
    pub position: u64,
    /// Segments that are left, in order.
    pub segments: Vec<Extent>,
    /// Records in them that are not known to be committed.
    pub waiting: u64,
    /// Records that damage took from the middle of segments.
    pub corrupt: u64,
    /// Segments with a torn tail, and the bytes that were cut off.
    pub torn: u64,
    pub torn_bytes: u64,
}

/// Reads the spool and begins a new run.
///
/// # Errors
/// In words, when the directory cannot be used or its format is another.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Found, String> {
    let cannot = |what: &str, error: &io::Error| format!("cannot {what} the spool ({error}); check its owner, permissions and disk");
    let mut bases: Vec<(u64, String)> =
        disk.list().map_err(|error| cannot("list", &error))?.into_iter().filter_map(|name| Some((segment_base(&name)?, name))).collect();
    bases.sort_unstable();
    let (id, run) = match read_small(disk, META) {
        Ok(bytes) => parse_meta(&bytes).ok_or(
            "the file `spool` in the spool's directory is damaged or of another version; move the directory away, keep it, and start with an empty one",
        )?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && bases.is_empty() => (Uuid::now_v7(), 0),
        Err(error) => return Err(cannot("read the file `spool` of", &error)),
    };
    let run = run + 1;
    if run > MAX_RUN {
        return Err("this spool was started too often; stop when it is empty, and give the next start an empty directory".to_owned());
    }
    disk.replace(META, meta(id, run).as_bytes()).map_err(|error| cannot("write to", &error))?;
    let position = read_small(disk, POSITION).ok().and_then(|bytes| parse_position(&bytes)).unwrap_or(0);
    let mut found = Found { id, first: run << COUNT_BITS, position, segments: Vec::new(), waiting: 0, corrupt: 0, torn: 0, torn_bytes: 0 };
    for (base, name) in bases {
        let bytes = read_all(disk, &name).map_err(|error| cannot("read", &error))?;
        found.segment(disk, base, name, &bytes)?;
    }
    Ok(found)
}

impl Found {
    fn segment(&mut self, disk: &dyn Disk, base: u64, name: String, bytes: &[u8]) -> Result<(), String> {
        let (version, created) = frame::read_segment_header(bytes).unwrap_or((frame::VERSION, 0));
        if version != frame::VERSION {
            return Err(format!(
                "the spool's segment {name} has version {version}; this program reads {}: replay it with its own",
                frame::VERSION
            ));
        }
        let mut next = base;
        let mut records = 0;
        let body = bytes.get(SEGMENT_HEADER..).unwrap_or_default();
        let seen = frame::decode(body, true, |sequence, _| {
            // Numbers are given without gaps: what is missing between two was damaged.
            self.corrupt = self.corrupt.saturating_add(sequence.saturating_sub(next));
            next = sequence.saturating_add(1).max(next);
            records += 1;
            self.waiting += u64::from(sequence >= self.position);
        });
        // A crash while the segment was made leaves a header that is torn.
        let torn = if body.is_empty() && bytes.len() != SEGMENT_HEADER { bytes.len() } else { seen.torn };
        let whole = (bytes.len() - torn) as u64;
        if torn > 0 {
            self.torn += 1;
            self.torn_bytes += torn as u64;
            tracing::warn!(
                event = "spool_tail_cut",
                "the spool's segment {name} ends with {torn} bytes of an unfinished record, as a crash leaves it; they were cut off"
            );
            disk.truncate(&name, whole).map_err(|error| format!("cannot cut the spool's segment {name} ({error})"))?;
        }
        if records == 0 {
            return disk.remove(&name).map_err(|error| format!("cannot remove the spool's empty segment {name} ({error})"));
        }
        self.segments.push(Extent { name, base, length: whole, created });
        Ok(())
    }
}

fn meta(id: Uuid, run: u64) -> String {
    let text = format!("{FORMAT}\n{}\n{run}\n", id.hyphenated());
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text}{crc:08x}\n")
}

fn parse_meta(bytes: &[u8]) -> Option<(Uuid, u64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines().skip(1);
    let id = Uuid::parse_str(lines.next()?).ok()?;
    let run = lines.next()?.parse().ok()?;
    (meta(id, run) == text).then_some((id, run))
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

fn read_small(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
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
