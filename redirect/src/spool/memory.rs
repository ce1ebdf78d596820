//! For tests: a file system in memory that forgets and lies, and a process on it.

use super::disk::Appender;
use super::*;
use crate::ClickBatch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub(super) struct File {
    pub bytes: Vec<u8>,
    /// So many bytes survive a power cut for certain.
    pub synced: usize,
}

#[derive(Default)]
pub(super) struct Files {
    pub files: BTreeMap<String, File>,
    /// Their names are not certain to survive a power cut.
    pub unnamed: BTreeSet<String>,
    /// How often names were made certain.
    pub named: usize,
    /// The disk takes so many bytes more.
    pub room: Option<usize>,
    pub sync_fails: bool,
    pub truncate_fails: bool,
    pub remove_fails: bool,
}

impl Files {
    /// Takes as many of the bytes as there is room for.
    fn take(&mut self, bytes: usize) -> usize {
        let taken = self.room.map_or(bytes, |room| room.min(bytes));
        self.room = self.room.map(|room| room - taken);
        taken
    }

    fn name_all(&mut self) {
        self.unnamed.clear();
        self.named += 1;
    }
}

#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Files>>);

impl Memory {
    pub(super) fn with_all<T>(&self, f: impl FnOnce(&mut Files) -> T) -> T {
        f(&mut self.0.lock().expect("one thread"))
    }

    pub(super) fn with<T>(&self, name: &str, f: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        self.with_all(|files| files.files.get_mut(name).map(f).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// A power cut: of each file what was synced stays, and `kept` thousandths of the rest; `zeroed` bytes of that are zeros. Files whose names were not
    /// certain stay or go.
    pub(super) fn power_cut(&self, kept: usize, zeroed: usize) {
        self.with_all(|files| {
            let unnamed = std::mem::take(&mut files.unnamed);
            if kept < 500 {
                unnamed.iter().for_each(|name| drop(files.files.remove(name)));
            }
            for file in files.files.values_mut() {
                let unsure = file.bytes.len() - file.synced;
                file.bytes.truncate(file.synced + unsure * kept / 1000);
                let from = file.bytes.len().saturating_sub(zeroed).max(file.synced);
                file.bytes[from..].fill(0);
                file.synced = file.bytes.len();
            }
            (files.room, files.sync_fails, files.truncate_fails) = (None, false, false);
        });
    }
}

struct Handle(Memory, String);

impl Appender for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.with_all(|files| {
            let taken = files.take(bytes.len());
            files.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.bytes.extend_from_slice(&bytes[..taken]);
            if taken == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(&self.1, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.0.with_all(|files| files.sync_fails) {
            return Err(io::Error::other("the disk is ill"));
        }
        self.0.with(&self.1, |file| file.synced = file.bytes.len())
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.with_all(|files| files.files.keys().cloned().collect()))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appender>> {
        self.with_all(|files| {
            if files.files.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists);
            }
            files.files.insert(name.to_owned(), File::default());
            files.unnamed.insert(name.to_owned());
            Ok(())
        })?;
        Ok(Box::new(Handle(self.clone(), name.to_owned())))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.with(name, |file| file.bytes.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(name, |file| {
            let rest = file.bytes.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_all(|files| {
            if files.room.is_some_and(|room| room < bytes.len()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            files.take(bytes.len());
            files.files.insert(name.to_owned(), File { bytes: bytes.to_vec(), synced: bytes.len() });
            files.name_all();
            Ok(())
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.with_all(Files::name_all);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with_all(|files| {
            let file = files.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            files.files.insert(to.to_owned(), file);
            files.name_all();
            Ok(())
        })
    }

    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_all(|files| {
            if !files.files.contains_key(name) && files.take(bytes.len()) < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Nothing of it is certain.
            files.files.insert(name.to_owned(), File { bytes: bytes.to_vec(), synced: 0 });
            Ok(())
        })
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        if self.with_all(|files| files.truncate_fails) {
            return Err(io::Error::other("the disk is ill"));
        }
        self.with(name, |file| {
            file.bytes.truncate(length as usize);
            file.synced = file.synced.min(length as usize);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with_all(|files| {
            if files.remove_fails {
                return Err(io::Error::other("the disk is ill"));
            }
            files.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

/// A process with the spool open.
pub(super) struct Process {
    pub disk: Memory,
    pub shelf: Arc<Shelf>,
    pub store: Store,
    pub cursor: Cursor,
}

impl Process {
    pub(super) fn start(disk: &Memory, limit: u64) -> (Process, Found) {
        Process::with_tail(disk, limit, 0)
    }

    /// One that keeps so many bytes of what it appended last in memory; else all is read from the disk.
    pub(super) fn with_tail(disk: &Memory, limit: u64, tail: usize) -> (Process, Found) {
        let found = recover(disk).expect("recovers");
        let shelf = Shelf::with_tail(&found, tail);
        let store = Store::new(Arc::new(disk.clone()), shelf.clone(), found.identity.clone(), limit);
        (Process { disk: disk.clone(), shelf, store, cursor: Cursor::default() }, found)
    }

    /// Appends so many clicks one by one, and shows them.
    pub(super) fn append(&mut self, from: u64, count: u64) -> Result<(), AppendError> {
        (from..from + count).try_for_each(|number| {
            self.store.append(&batch(number, 1), 1)?;
            self.store.show(1);
            Ok(())
        })
    }

    /// Sends all that waits from this sequence number on: the clicks, and the number behind them.
    pub(super) fn send(&mut self, mut from: u64) -> (Vec<u64>, u64) {
        let (mut sent, mut buffer) = (Vec::new(), Vec::new());
        let mut each = |sequence: u64, payload: &[u8]| {
            if sequence >= from {
                sent.push(number(payload));
                from = sequence + 1;
            }
            true
        };
        while self.cursor.read(&self.shelf, &self.disk, &mut buffer, &mut each).expect("reads").is_some() {}
        // An error costs only room.
        let _ = self.shelf.done(&self.disk, &self.cursor, from);
        (sent, from)
    }
}

/// Clicks with these numbers in them.
pub(super) fn batch(from: u64, count: usize) -> ClickBatch {
    let mut batch = ClickBatch::default();
    for number in from..from + count as u64 {
        batch.push(|out| {
            out.extend_from_slice(format!("{number}:{}", "x".repeat(number as usize % 50)).as_bytes());
            number
        });
    }
    batch
}

/// The number in a click.
pub(super) fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).expect("text").split(':').next().expect("a number").parse().expect("a number")
}
