//! The spool against a plain list, on a file system that forgets and lies.

use super::memory::{Memory, Process, batch, number};
use super::*;
use crate::ClickBatch;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    /// Appends so many records, synced or not.
    Append {
        count: usize,
        sync: bool,
    },
    /// Appends to a disk that takes no more than so many bytes, and from which perhaps nothing can be cut off. The same records come again, or never.
    FullDisk {
        count: usize,
        room: usize,
        stuck: bool,
        again: bool,
    },
    /// Appends, and the sync fails: the process ends, as it must.
    SyncFails {
        count: usize,
    },
    /// The forwarder sends what it has read; only then is it done with it when `acknowledged`.
    Forward {
        acknowledged: bool,
    },
    /// The process is killed. The disk takes so many bytes more until the next step.
    Kill {
        room: Option<usize>,
    },
    PowerCut {
        kept: usize,
        zeroed: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6usize, any::<bool>()).prop_map(|(count, sync)| Step::Append { count, sync }),
        2 => (1..6usize, 0..400usize, any::<bool>(), any::<bool>())
            .prop_map(|(count, room, stuck, again)| Step::FullDisk { count, room, stuck, again }),
        1 => (1..6usize).prop_map(|count| Step::SyncFails { count }),
        3 => any::<bool>().prop_map(|acknowledged| Step::Forward { acknowledged }),
        1 => proptest::option::of(0..200usize).prop_map(|room| Step::Kill { room }),
        1 => (0..=1000usize, 0..40usize).prop_map(|(kept, zeroed)| Step::PowerCut { kept, zeroed }),
    ]
}

proptest! {
    #[test]
    fn what_was_promised_arrives_once_and_in_order(steps in proptest::collection::vec(step(), 1..60), limit in 400..4000u64, tail in 0..2000usize) {
        let disk = Memory::default();
        let (mut process, _) = Process::with_tail(&disk, limit, tail);
        let mut next = 0;
        // What must arrive after a kill; after a power cut; and what did arrive.
        let (mut taken, mut synced) = (BTreeSet::new(), BTreeSet::new());
        let mut topic: Vec<u64> = Vec::new();
        let (mut committed, mut left) = (0, 0);
        let mut buffer = Vec::new();
        for step in steps.iter().chain([&Step::Kill { room: None }, &Step::Forward { acknowledged: true }]) {
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
                Step::FullDisk { count, room, stuck, again } => {
                    let clicks = batch(next, count);
                    disk.with_all(|files| (files.room, files.truncate_fails) = (Some(room), stuck));
                    let mut appended = process.store.append(&clicks, 1).is_ok();
                    disk.with_all(|files| (files.room, files.truncate_fails) = (None, false));
                    if !appended && again {
                        appended = process.store.append(&clicks, 1).is_ok();
                    }
                    if appended {
                        taken.extend(next..next + count as u64);
                        process.store.show(1);
                    } else {
                        process.store.give_up();
                    }
                    // What could not be cut off is there once more.
                    left += if stuck { room as u64 } else { 0 };
                    next += count as u64;
                }
                Step::SyncFails { count } => {
                    if process.store.append(&batch(next, count), 1).is_ok() {
                        disk.with_all(|files| files.sync_fails = true);
                        prop_assert!(process.store.sync().is_err());
                        disk.with_all(|files| files.sync_fails = false);
                    }
                    next += count as u64;
                    process = Process::with_tail(&disk, limit, tail).0;
                }
                Step::Forward { acknowledged } => {
                    let mut cursor = process.cursor.clone();
                    let mut sent = Vec::new();
                    let mut end = committed;
                    while let Some(damaged) = cursor
                        .read(&process.shelf, &disk, &mut buffer, |sequence, payload| {
                            if sequence >= end {
                                sent.push(number(payload));
                                end = sequence + 1;
                            }
                            // As many as a transaction holds.
                            sequence % 3 > 0
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
                Step::Kill { room } => {
                    disk.with_all(|files| files.room = room);
                    process = Process::with_tail(&disk, limit, tail).0;
                    disk.with_all(|files| files.room = None);
                }
                Step::PowerCut { kept, zeroed } => {
                    disk.power_cut(kept, zeroed);
                    // What was not synced may be gone.
                    taken = taken.iter().copied().filter(|number| synced.contains(number) || topic.contains(number)).collect();
                    process = Process::with_tail(&disk, limit, tail).0;
                }
            }
            prop_assert!(process.shelf.bytes() <= limit + left);
        }
        let arrived: BTreeSet<u64> = topic.iter().copied().collect();
        prop_assert_eq!(arrived.len(), topic.len(), "none twice");
        prop_assert!(topic.is_sorted(), "in order");
        prop_assert!(taken.is_subset(&arrived), "missing: {:?}", taken.difference(&arrived).collect::<Vec<_>>());
    }

    /// A flipped bit in any segment, the last or one that had ended, costs one record. It is counted as lost, and never as what a crash leaves.
    #[test]
    fn a_flipped_bit_costs_its_record(count in 1..30usize, at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let disk = Memory::default();
        let (mut process, _) = Process::start(&disk, 2_000);
        for number in 0..count as u64 {
            process.store.append(&batch(number, 1), 1).expect("a good disk");
            process.store.show(1);
        }
        let places: Vec<(String, usize)> = disk.with_all(|files| {
            let segments = files.files.iter().filter(|(name, _)| segment_base(name).is_some());
            segments.flat_map(|(name, file)| (frame::SEGMENT_HEADER..file.bytes.len()).map(|at| (name.clone(), at))).collect()
        });
        let (name, at) = &places[at.index(places.len())];
        disk.with(name, |file| file.bytes[*at] ^= 1 << bit).expect("a segment");
        for _ in 0..2 {
            let (mut process, found) = Process::start(&disk, 2_000);
            prop_assert_eq!(found.waiting, count as u64 - 1);
            prop_assert_eq!((found.corrupt, found.torn), (1, 0));
            let mut numbers = Vec::new();
            let mut buffer = Vec::new();
            let mut each = |_: u64, payload: &[u8]| {
                numbers.push(number(payload));
                true
            };
            while process.cursor.read(&process.shelf, &disk, &mut buffer, &mut each).expect("reads").is_some() {}
            prop_assert_eq!(numbers.len(), count - 1);
            prop_assert!(numbers.is_sorted());
            // A segment of nothing but damage is gone.
            if count == 1 || found.segments.iter().all(|segment| &segment.name != name) {
                break;
            }
        }
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
    assert_eq!(process.cursor.read(&process.shelf, &disk, &mut buffer, |_, _| true).expect("reads"), Some(0));
    assert!(process.store.nearly_full(), "it isn't sent yet");
    let first = found.identity.first();
    process.shelf.done(&disk, &process.cursor, first + 1).expect("a good disk");
    assert_eq!((process.shelf.bytes(), process.store.nearly_full()), (0, false));
    // One that may still grow stays.
    process.store.append(&batch(0, 1), 1).expect("room");
    process.store.show(1);
    let mut read = Vec::new();
    for count in 1..3 {
        let each = |sequence: u64, _: &[u8]| {
            read.push(sequence);
            true
        };
        process.cursor.read(&process.shelf, &disk, &mut buffer, each).expect("reads");
        process.shelf.done(&disk, &process.cursor, first + 1 + count).expect("a good disk");
        assert!(process.shelf.bytes() > 0);
        process.store.append(&batch(count, 1), 1).expect("room");
        process.store.show(1);
    }
    assert_eq!(read, [first + 1, first + 2]);
}

/// Whether the record is within what is synced.
fn disk_has_synced(disk: &Memory, wanted: u64) -> bool {
    disk.with_all(|files| {
        files.files.iter().filter(|(name, _)| segment_base(name).is_some()).any(|(_, file)| {
            let mut has = false;
            frame::decode(&file.bytes[..file.synced], true, |_, payload| has |= number(payload) == wanted);
            has
        })
    })
}
