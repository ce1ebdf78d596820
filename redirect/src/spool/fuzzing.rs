//! What the fuzz targets of the spool call (`redirect/fuzz`, `tests/fuzz.rs`). No part of the interface.

use super::disk::{Appender, Disk};
use super::frame::{FRAME_HEADER, SEGMENT_HEADER, decode, push, read_segment_header, segment_header};
use super::recover::{POSITION, position};
use super::{COUNT_BITS, Cursor, Found, Shelf, recover, segment_name};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Numbers and payloads, in their order.
type Records = Vec<(u64, Vec<u8>)>;

fn all(bytes: &[u8]) -> (Records, super::frame::Decoded) {
    let mut records = Vec::new();
    let seen = decode(bytes, true, |sequence, payload| records.push((sequence, payload.to_vec())));
    (records, seen)
}

/// Starts on a folder that any bytes describe ([`folder`]), reads it to its end, and starts again.
///
/// # Panics
/// When the second start finds anything else than the first, but for what is damaged and gone, when reading in pieces gives other records than a start counted or comes to no end, or when a
/// record is gone that was not done with.
pub fn recovery(bytes: &[u8]) {
    let disk = folder(bytes);
    let Ok(first) = recover(&disk) else {
        assert!(recover(&disk).is_err(), "what cannot be used was made to be");
        return;
    };
    let records = read(&disk, &first, usize::MAX).0;
    let waiting = records.iter().filter(|(sequence, _)| *sequence >= first.position).count();
    // Numbers that were given twice count once, and those that cannot be where they are do not.
    let in_order = records.windows(2).all(|two| two[0].0 < two[1].0);
    let in_place = first.segments.first().zip(records.first()).is_none_or(|(segment, (sequence, _))| *sequence >= segment.base);
    assert!(first.waiting <= waiting as u64, "{} of {waiting} wait", first.waiting);
    assert!(!(in_order && in_place) || first.waiting == waiting as u64, "{} of {waiting} wait", first.waiting);

    let Ok(second) = recover(&disk) else {
        assert_eq!(first.identity.first() >> COUNT_BITS, (1 << (63 - COUNT_BITS)) - 1, "only the last run has none behind it");
        return;
    };
    assert_eq!(second.identity.first(), first.identity.first() + (1 << COUNT_BITS));
    let what = |found: &Found| (found.identity.id, found.position, found.segments.clone());
    assert_eq!(what(&second), what(&first));
    assert!(!(in_order && in_place) || second.waiting == first.waiting, "{} wait after {}", second.waiting, first.waiting);
    // A segment of which nothing whole is left is told once, and removed.
    assert!(second.corrupt <= first.corrupt, "{} corrupt after {}", second.corrupt, first.corrupt);
    // What counted as damage before a segment that is gone now may be the end of its run.
    assert!(first.corrupt > 0 || (second.torn, second.torn_bytes) == (0, 0), "torn tails were cut off");
    assert_eq!(read(&disk, &second, usize::MAX).0, records);

    // A piece of it is sent.
    let (sent, cursor, shelf) = read(&disk, &second, 1);
    let next = sent.last().map_or(0, |(sequence, _)| sequence.saturating_add(1));
    shelf.done(&disk, &cursor, next).expect("a good disk");
    let Ok(third) = recover(&disk) else { return };
    assert_eq!(third.position, next);
    let left = read(&disk, &third, usize::MAX).0;
    let gone = records.len().checked_sub(left.len()).expect("nothing comes from nowhere");
    assert_eq!(left, records[gone..]);
    assert!(gone <= sent.len(), "{} records are gone that were not sent", gone - sent.len());
}

/// Reads on from the beginning, so often at most.
fn read(disk: &Memory, found: &Found, times: usize) -> (Records, Cursor, std::sync::Arc<Shelf>) {
    let (shelf, mut cursor) = (Shelf::new(found), Cursor::default());
    let (mut records, mut buffer) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let before = cursor.clone();
        let each = |sequence, payload: &[u8]| {
            records.push((sequence, payload.to_vec()));
            true
        };
        if cursor.read(&shelf, disk, &mut buffer, each).expect("a good disk").is_none() {
            assert_eq!(cursor, before);
            break;
        }
        assert_ne!(cursor, before, "reading does not get on");
    }
    (records, cursor, shelf)
}

/// Files in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, f: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        self.files().get_mut(name).map(f).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn Appender>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.with(name, |file| file.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(name, |file| {
            let rest = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // In place: of a longer file the end stays.
        let mut files = self.files();
        let file = files.entry(name.to_owned()).or_default();
        file.resize(file.len().max(bytes.len()), 0);
        file[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.with(name, |file| file.truncate(usize::try_from(length).unwrap_or(usize::MAX)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The most that frames of [`folder`] take, in bytes: some chunks of a reader.
const MAX_FRAMES: usize = 6 << 20;

/// A folder, described by letters with what belongs to each. What is said of a file with the same name later counts.
///
/// ```text
/// m run:8          the file `spool`, as a start writes it      M text     anything in its place
/// p next:8         the file `position`                          P text     anything in its place
/// s base:8         a segment, with its header                   n text     a file of any name, empty
/// f sequence:2 length:2 times:1   so many frames behind what is in the last segment or file, numbered on from its base and `sequence`;
///                  the length counts in steps of 16 bytes
/// t text           anything behind it                           x at:2 bit:1   a flipped bit in it          c length:2   it is cut
/// ```
/// `text` is a length of one byte and so many bytes; numbers are little-endian. A letter that is none is passed over.
fn folder(bytes: &[u8]) -> Memory {
    let mut rest = Description(bytes);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut last, mut base, mut room) = (String::new(), 0, MAX_FRAMES);
    let meta = |run: u64| {
        let text = format!("clickline-redirect spool 1\n00000000-0000-7000-8000-000000000001\n{run}\n");
        format!("{text}{:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes()
    };
    // Without it nothing else would be looked at.
    files.insert("spool".to_owned(), meta(1));
    while let Some(letter) = rest.number::<1>() {
        match u8::try_from(letter).unwrap_or_default() {
            b'm' => drop(files.insert("spool".to_owned(), meta(rest.number::<8>().unwrap_or(0)))),
            b'M' => drop(files.insert("spool".to_owned(), rest.text())),
            b'p' => drop(files.insert(POSITION.to_owned(), position(rest.number::<8>().unwrap_or(0)).to_vec())),
            b'P' => drop(files.insert(POSITION.to_owned(), rest.text())),
            b's' => {
                base = rest.number::<8>().unwrap_or(0);
                last = segment_name(base);
                files.insert(last.clone(), segment_header(base).to_vec());
            }
            b'n' => {
                last = String::from_utf8_lossy(&rest.text()).into_owned();
                files.insert(last.clone(), Vec::new());
            }
            b'f' => {
                let (sequence, length) = (rest.number::<2>().unwrap_or(0), rest.number::<2>().unwrap_or(0) as usize * 16);
                let Some(file) = files.get_mut(&last) else { continue };
                for number in 0..rest.number::<1>().unwrap_or(1) {
                    let Some(left) = room.checked_sub(FRAME_HEADER + length) else { break };
                    room = left;
                    push(base.wrapping_add(sequence).wrapping_add(number), &vec![b'x'; length], file);
                }
            }
            b't' => {
                let text = rest.text();
                if let Some(file) = files.get_mut(&last) {
                    file.extend(text);
                }
            }
            b'x' => {
                let (at, bit) = (rest.number::<2>().unwrap_or(0) as usize, rest.number::<1>().unwrap_or(0));
                if let Some(file) = files.get_mut(&last).filter(|file| !file.is_empty()) {
                    let at = at % file.len();
                    file[at] ^= 1 << (bit % 8);
                }
            }
            b'c' => {
                let length = rest.number::<2>().unwrap_or(0) as usize;
                if let Some(file) = files.get_mut(&last) {
                    file.truncate(length);
                }
            }
            _ => {}
        }
    }
    Memory(Mutex::new(files))
}

/// What is left of the description of a folder.
struct Description<'a>(&'a [u8]);

impl Description<'_> {
    /// A number of so many bytes; `None` at the end.
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.number::<1>().unwrap_or(0) as usize;
        let (text, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        text.to_vec()
    }
}
