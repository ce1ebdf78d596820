//! The spool against a plain list, on a file system that forgets and lies.

use super::disk::Appender;
use super::*;
use crate::ClickBatch;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// So many bytes survive a power cut for certain.
    synced: usize,
}

#[derive(Default)]
struct Files {
    files: BTreeMap<String, File>,
    /// The disk takes so many bytes more.
    room: Option<usize>,
    sync_fails: bool,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Files>>);

impl Memory {
    fn with<T>(&self, name: &str, f: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        self.0.lock().expect("one thread").files.get_mut(name).map(f).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A power cut: of each file what was synced stays, and `kept` thousandths of the rest; `zeroed` bytes of that are zeros.
    fn power_cut(&self, kept: usize, zeroed: usize) {
        let mut files = self.0.lock().expect("one thread");
        for file in files.files.values_mut() {
            let unsure = file.bytes.len() - file.synced;
            file.bytes.truncate(file.synced + unsure * kept / 1000);
            let from = file.bytes.len().saturating_sub(zeroed).max(file.synced);
            file.bytes[from..].fill(0);
            file.synced = file.bytes.len();
        }
        (files.room, files.sync_fails) = (None, false);
    }
}

struct Handle(Memory, String);

impl Appender for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.0.0.lock().expect("one thread");
        let taken = files.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        files.room = files.room.map(|room| room - taken);
        files.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.bytes.extend_from_slice(&bytes[..taken]);
        if taken == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(&self.1, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.0.0.lock().expect("one thread").sync_fails {
            return Err(io::Error::other("the disk is ill"));
        }
        self.0.with(&self.1, |file| file.synced = file.bytes.len())
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().expect("one thread").files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appender>> {
        let mut files = self.0.lock().expect("one thread");
        if files.files.insert(name.to_owned(), File::default()).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
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
        self.0.lock().expect("one thread").files.insert(name.to_owned(), File { bytes: bytes.to_vec(), synced: bytes.len() });
        Ok(())
    }

    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Nothing of it is certain.
        self.0.lock().expect("one thread").files.insert(name.to_owned(), File { bytes: bytes.to_vec(), synced: 0 });
        Ok(())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.with(name, |file| {
            file.bytes.truncate(length as usize);
            file.synced = file.synced.min(length as usize);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().expect("one thread").files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Appends so many records, synced or not.
    Append {
        count: usize,
        sync: bool,
    },
    /// Appends to a disk that takes no more than so many bytes.
    FullDisk {
        count: usize,
        room: usize,
    },
    /// Appends, and the sync fails: the process ends, as it must.
    SyncFails {
        count: usize,
    },
    /// The forwarder sends what it has read; only then is it done with it when `acknowledged`.
    Forward {
        acknowledged: bool,
    },
    /// The process is killed.
    Kill,
    PowerCut {
        kept: usize,
        zeroed: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6usize, any::<bool>()).prop_map(|(count, sync)| Step::Append { count, sync }),
        1 => (1..6usize, 0..400usize).prop_map(|(count, room)| Step::FullDisk { count, room }),
        1 => (1..6usize).prop_map(|count| Step::SyncFails { count }),
        3 => any::<bool>().prop_map(|acknowledged| Step::Forward { acknowledged }),
        1 => Just(Step::Kill),
        1 => (0..=1000usize, 0..40usize).prop_map(|(kept, zeroed)| Step::PowerCut { kept, zeroed }),
    ]
}

/// A process with the spool open. `committed` is Kafka's own word on how far it got.
struct Process {
    disk: Memory,
    shelf: Arc<Shelf>,
    store: Store,
    cursor: Cursor,
}

impl Process {
    fn start(disk: &Memory, limit: u64) -> (Process, Found) {
        let found = recover(disk).expect("recovers");
        let shelf = Shelf::new(&found);
        let store = Store::new(Arc::new(disk.clone()), shelf.clone(), found.first, limit);
        (Process { disk: disk.clone(), shelf, store, cursor: Cursor::default() }, found)
    }
}

fn batch(from: u64, count: usize) -> ClickBatch {
    let mut batch = ClickBatch::default();
    for number in from..from + count as u64 {
        batch.push(|out| {
            out.extend_from_slice(format!("{number}:{}", "x".repeat(number as usize % 50)).as_bytes());
            number
        });
    }
    batch
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).expect("text").split(':').next().expect("a number").parse().expect("a number")
}

proptest! {
    #[test]
    fn what_was_promised_arrives_once_and_in_order(steps in proptest::collection::vec(step(), 1..60), limit in 400..4000u64) {
        let disk = Memory::default();
        let (mut process, _) = Process::start(&disk, limit);
        let mut next = 0;
        // What must arrive after a kill; after a power cut; and what did arrive.
        let (mut taken, mut synced) = (BTreeSet::new(), BTreeSet::new());
        let mut topic: Vec<u64> = Vec::new();
        let mut committed = 0;
        let mut buffer = Vec::new();
        for step in steps.iter().chain([&Step::Kill, &Step::Forward { acknowledged: true }]) {
            match *step {
                Step::Append { count, sync } => {
                    let clicks = batch(next, count);
                    let numbers = next..next + count as u64;
                    next += count as u64;
                    if process.store.append(&clicks, 1).is_ok() {
                        taken.extend(numbers);
                        if sync {
                            process.store.sync().expect("a good disk");
                            // A sync covers all of the segment, and earlier segments are synced when they end in durable mode.
                            synced.extend(taken.iter().copied().filter(|number| disk_has_synced(&disk, *number)));
                        }
                        process.store.show(1);
                    }
                }
                Step::FullDisk { count, room } => {
                    disk.0.lock().expect("one thread").room = Some(room);
                    if process.store.append(&batch(next, count), 1).is_ok() {
                        taken.extend(next..next + count as u64);
                        process.store.show(1);
                    }
                    next += count as u64;
                    disk.0.lock().expect("one thread").room = None;
                }
                Step::SyncFails { count } => {
                    if process.store.append(&batch(next, count), 1).is_ok() {
                        disk.0.lock().expect("one thread").sync_fails = true;
                        prop_assert!(process.store.sync().is_err());
                        disk.0.lock().expect("one thread").sync_fails = false;
                    }
                    next += count as u64;
                    process = Process::start(&disk, limit).0;
                }
                Step::Forward { acknowledged } => {
                    let mut cursor = process.cursor.clone();
                    let mut sent = Vec::new();
                    let mut end = committed;
                    while let Some(damaged) = cursor
                        .read(&process.shelf, &disk, &mut buffer, |sequence, payload| if sequence >= end {
                            sent.push(number(payload));
                            end = sequence + 1;
                        })
                        .expect("reads")
                    {
                        prop_assert_eq!(damaged, 0, "recovery leaves only whole records here");
                    }
                    if acknowledged {
                        topic.extend(sent);
                        committed = end;
                        process.shelf.done(&process.disk, &cursor, end).expect("a good disk");
                        process.cursor = cursor;
                    }
                }
                Step::Kill => process = Process::start(&disk, limit).0,
                Step::PowerCut { kept, zeroed } => {
                    disk.power_cut(kept, zeroed);
                    // What was not synced may be gone.
                    taken = taken.iter().copied().filter(|number| synced.contains(number) || topic.contains(number)).collect();
                    process = Process::start(&disk, limit).0;
                }
            }
            prop_assert!(process.shelf.bytes() <= limit);
        }
        let arrived: BTreeSet<u64> = topic.iter().copied().collect();
        prop_assert_eq!(arrived.len(), topic.len(), "none twice");
        prop_assert!(topic.is_sorted(), "in order");
        prop_assert!(taken.is_subset(&arrived), "missing: {:?}", taken.difference(&arrived).collect::<Vec<_>>());
    }

    /// A flipped bit in any segment costs one record, which is counted.
    #[test]
    fn a_flipped_bit_costs_its_record(count in 2..30usize, at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let disk = Memory::default();
        let (mut process, found) = Process::start(&disk, 1 << 20);
        process.store.append(&batch(0, count), 1).expect("a good disk");
        let name = segment_name(found.first);
        disk.with(&name, |file| {
            let at = frame::SEGMENT_HEADER + at.index(file.bytes.len() - frame::SEGMENT_HEADER);
            file.bytes[at] ^= 1 << bit;
        }).expect("a segment");
        let (mut process, found) = Process::start(&disk, 1 << 20);
        prop_assert_eq!(found.waiting, count as u64 - 1);
        prop_assert_eq!(found.corrupt + found.torn, 1);
        let mut numbers = Vec::new();
        let mut buffer = Vec::new();
        while process.cursor.read(&process.shelf, &disk, &mut buffer, |_, payload| numbers.push(number(payload))).expect("reads").is_some() {}
        prop_assert_eq!(numbers.len(), count - 1);
        prop_assert!(numbers.is_sorted());
    }
}

/// A spool that is full of one segment has room again when that is sent, though nothing is appended meanwhile.
#[test]
fn a_last_segment_that_is_large_enough_goes_once_it_is_sent() {
    let disk = Memory::default();
    let (mut process, found) = Process::start(&disk, 1_000);
    let mut buffer = Vec::new();
    let mut clicks = ClickBatch::default();
    clicks.push(|out| {
        out.resize(900, b'x');
        0
    });
    process.store.append(&clicks, 1).expect("room");
    assert!(matches!(process.store.append_first(&clicks, 1), Err(AppendError::Full)), "it isn't even shown yet");
    process.store.show(1);
    assert!(process.store.nearly_full());
    assert_eq!(process.cursor.read(&process.shelf, &disk, &mut buffer, |_, _| ()).expect("reads"), Some(0));
    assert!(process.store.nearly_full(), "it isn't sent yet");
    process.shelf.done(&disk, &process.cursor, found.first + 1).expect("a good disk");
    assert_eq!((process.shelf.bytes(), process.store.nearly_full()), (0, false));
    // One that may still grow stays.
    process.store.append(&batch(0, 1), 1).expect("room");
    process.store.show(1);
    let mut read = Vec::new();
    for count in 1..3 {
        process.cursor.read(&process.shelf, &disk, &mut buffer, |sequence, _| read.push(sequence)).expect("reads");
        process.shelf.done(&disk, &process.cursor, found.first + 1 + count).expect("a good disk");
        assert!(process.shelf.bytes() > 0);
        process.store.append(&batch(count, 1), 1).expect("room");
        process.store.show(1);
    }
    assert_eq!(read, [found.first + 1, found.first + 2]);
}

/// Whether the record is within what is synced.
fn disk_has_synced(disk: &Memory, wanted: u64) -> bool {
    let files = disk.0.lock().expect("one thread");
    files.files.iter().filter(|(name, _)| segment_base(name).is_some()).any(|(_, file)| {
        let mut has = false;
        frame::decode(&file.bytes[..file.synced], true, |_, payload| has |= number(payload) == wanted);
        has
    })
}
