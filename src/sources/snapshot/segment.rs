//! A partition's files: finding out what can be used of them.

use super::block::{HEAD, Head};
use super::reader::Copied;
use super::writer::Place;
use super::{Damaged, Spot};
use crate::model::time::Ms;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

/// The ending of segments' names.
const ENDING: &str = "seg";

/// A record by which the log of its partition is known again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Its offset.
    pub offset: i64,
    /// The time that the broker gave it, ms since the epoch.
    pub time: i64,
    /// Checksum of its length and the beginning of its bytes, where its id is.
    pub payload: u32,
}

impl Last {
    /// Of a record.
    pub fn of(offset: i64, time: i64, payload: &[u8]) -> Self {
        let beginning = payload.get(..64).unwrap_or(payload);
        #[expect(clippy::cast_possible_truncation, reason = "a part of a checksum")]
        let len = payload.len() as u32;
        Last { offset, time, payload: crc32fast::hash(beginning) ^ len }
    }
}

/// One file, as far as it is good.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// The first offset that it may hold.
    pub after: i64,
    /// The one after its last record.
    pub next: i64,
    /// The latest append time in it.
    pub appended: Ms,
    /// Records.
    pub rows: u64,
    /// Bytes that are good.
    pub len: u64,
    /// Its last record, if it has one.
    pub last: Option<Last>,
}

/// A file by its heads.
struct Heads {
    segment: Segment,
    /// Each with its place in the file.
    heads: Vec<(u64, Head)>,
    /// Whether they end where the file does.
    whole: bool,
}

/// A partition's folder, held by this process.
#[derive(Debug)]
pub struct Opened {
    pub(super) spot: Spot,
    /// Held as long as this lives.
    _lock: File,
    pub(super) segments: Vec<Segment>,
}

/// Deletes all copies below `folder` that no job holds, or with `remove` unset only counts them. Gives back the number of files, and that of
/// the partitions' folders that a job holds.
///
/// # Errors
/// The disk's.
pub fn clear(folder: &Path, remove: bool) -> io::Result<(usize, usize)> {
    let (mut files, mut held) = (0, 0);
    let folders = match fs::read_dir(folder) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    for found in folders {
        let lock = found?.path().join("lock");
        // What has no lock is no copy of ours.
        let Ok(opened) = File::options().write(true).open(&lock) else { continue };
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                held += 1;
                continue;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        for copy in names(lock.parent().unwrap_or(folder))? {
            files += 1;
            if remove {
                fs::remove_file(copy)?;
            }
        }
    }
    Ok((files, held))
}

impl Opened {
    /// Opens a partition's folder and looks at what is in it; what can't be used is said and deleted. `None` when another
    /// process holds it.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(spot: Spot) -> io::Result<Option<Self>> {
        fs::create_dir_all(&spot.folder)?;
        let lock = File::options().create(true).truncate(false).write(true).open(spot.folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut opened = Opened { segments: Vec::new(), _lock: lock, spot };
        opened.look()?;
        Ok(Some(opened))
    }

    /// The record that the partition must have where the copy ends; `None`: nothing has been copied.
    pub fn last(&self) -> Option<Last> {
        self.segments.iter().rev().find_map(|segment| segment.last)
    }

    /// The first offset from which on all has been copied.
    pub fn after(&self) -> Option<i64> {
        self.segments.first().map(|segment| segment.after)
    }

    /// Throws all away.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(&mut self) -> io::Result<()> {
        self.segments.clear();
        names(&self.spot.folder)?.iter().try_for_each(fs::remove_file)
    }

    /// To be read, without what was appended before `from` and stands before `offset`, as far as whole files hold nothing else.
    pub fn read(mut self, from: Ms, offset: i64) -> Copied {
        let needed = self.segments.iter().position(|segment| segment.appended >= from || segment.next > offset);
        let needed = needed.unwrap_or(self.segments.len());
        let older = self.segments.drain(..needed.min(self.segments.len().saturating_sub(1))).collect();
        Copied::new(self, older)
    }

    /// To be begun at an offset; nothing may be in it.
    pub fn begin(self, offset: i64) -> Place {
        debug_assert!(self.segments.is_empty(), "what is begun anew is empty");
        Place { opened: self, next: offset }
    }

    /// Goes through the files in order; where one does not go on from the one before it, the copy ends.
    fn look(&mut self) -> io::Result<()> {
        let folder = self.spot.folder.display().to_string();
        let mut paths = names(&self.spot.folder)?.into_iter();
        for path in paths.by_ref() {
            let Some(Heads { mut segment, heads, whole }) = self.heads(&path)? else {
                tracing::warn!(event = "snapshot_begun_anew", file = %path.display(), "no snapshot of this build and configuration; it is begun anew");
                break;
            };
            if self.segments.last().is_some_and(|before| before.next != segment.after) {
                tracing::warn!(event = "snapshot_damaged", folder, "a file of the snapshot is missing; Kafka has what comes after it");
                break;
            }
            if !whole {
                tracing::warn!(event = "snapshot_damaged", file = %path.display(), at = segment.len, "a file of the snapshot breaks off; Kafka has the rest");
            }
            // What a killed job wrote last may be there in part; heads alone do not tell.
            let bad = self.bad_block(&path, &heads)?;
            if let Some(bad) = bad {
                tracing::warn!(event = "snapshot_damaged", file = %path.display(), at = bad, "a block of the snapshot is damaged; Kafka has the rest");
                cut(&mut segment, &heads, bad);
            }
            self.segments.push(segment);
            if bad.is_some() || !whole {
                break;
            }
        }
        // Files beyond the end are of no use, and would be taken for a part of it after the next restart.
        let good: Vec<&Path> = self.segments.iter().map(|segment| segment.path.as_path()).collect();
        let rest = names(&self.spot.folder)?.into_iter().filter(|path| !good.contains(&path.as_path()));
        rest.collect::<Vec<_>>().iter().try_for_each(fs::remove_file)
    }

    /// A file by its heads; `None` for one with another label.
    fn heads(&self, path: &Path) -> io::Result<Option<Heads>> {
        let Some(after) = path.file_stem().and_then(|name| name.to_str()?.parse::<i64>().ok()) else { return Ok(None) };
        let mut file = BufReader::new(File::open(path)?);
        let size = file.get_ref().metadata()?.len();
        let mut label = vec![0; self.spot.label.len()];
        if file.read_exact(&mut label).is_err() || label != self.spot.label.as_bytes() {
            return Ok(None);
        }
        let mut segment = Segment { path: path.to_owned(), after, next: after, appended: 0, rows: 0, len: label.len() as u64, last: None };
        let mut heads = Vec::new();
        let whole = loop {
            let head = match Head::read(&mut file)? {
                None => break segment.len == size,
                Some(Err(Damaged)) => break false,
                Some(Ok(head)) => head,
            };
            let end = segment.len + HEAD as u64 + u64::from(head.len);
            if head.after != segment.next || end > size {
                break false;
            }
            file.seek_relative(i64::from(head.len))?;
            heads.push((segment.len, head));
            (segment.next, segment.len, segment.last) = (head.next(), end, Some(head.last));
            segment.rows += u64::from(head.rows);
            segment.appended = segment.appended.max(head.appended);
        };
        Ok(Some(Heads { segment, heads, whole }))
    }

    /// Where the first block stands whose rows do not fit its checksum, among the last few: earlier ones are looked at when
    /// they are read.
    fn bad_block(&self, path: &Path, heads: &[(u64, Head)]) -> io::Result<Option<u64>> {
        const FEW: usize = 64;
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        for (at, head) in heads.iter().skip(heads.len().saturating_sub(FEW)) {
            file.seek(io::SeekFrom::Start(at + HEAD as u64))?;
            if !head.body(&mut file, &mut bytes)? {
                return Ok(Some(*at));
            }
        }
        Ok(None)
    }
}

/// Ends a segment where the block at `bad` begins.
fn cut(segment: &mut Segment, heads: &[(u64, Head)], bad: u64) {
    let good = heads.iter().take_while(|(at, _)| *at < bad);
    (segment.next, segment.appended, segment.rows, segment.last) = (segment.after, 0, 0, None);
    for (_, head) in good {
        (segment.next, segment.last) = (head.next(), Some(head.last));
        segment.rows += u64::from(head.rows);
        segment.appended = segment.appended.max(head.appended);
    }
    segment.len = bad;
}

/// The segments of a folder, in the order of their offsets.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The file that begins at an offset; names sort like offsets.
pub fn path(folder: &Path, after: i64) -> PathBuf {
    folder.join(format!("{after:020}.{ENDING}"))
}
