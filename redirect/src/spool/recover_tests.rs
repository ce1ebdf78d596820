//! Starts on disks that are full, damaged, or another's.

use super::memory::{Memory, Process, batch};
use super::*;

fn refusal(disk: &Memory) -> String {
    match recover(disk) {
        Err(Unusable::Wrong(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// Nothing at all can be written: what is there is read, sent and removed, and then there is room.
#[test]
fn what_is_on_a_full_disk_is_sent_and_makes_room() {
    let disk = Memory::default();
    let (mut process, _) = Process::start(&disk, 2_000);
    process.append(0, 15).expect("room");
    // A file system that copies what it overwrites cannot note the position either.
    disk.remove("position").expect("it was made at the start");
    disk.with_all(|files| files.room = Some(0));
    let (mut process, found) = Process::start(&disk, 2_000);
    assert_eq!(found.waiting, 15);
    assert!(matches!(process.append(100, 1), Err(AppendError::Disk(_))), "its run is not on the disk");
    process.store.give_up();
    let (sent, committed) = process.send(0);
    assert_eq!(sent, (0..15).collect::<Vec<_>>());
    assert_eq!(process.shelf.bytes(), 0, "all of it has gone, though nothing could be noted");
    // The next start on the full disk takes the same run, which nobody has used.
    let (mut process, found) = Process::start(&disk, 2_000);
    assert_eq!((found.waiting, found.corrupt), (0, 0));
    disk.with_all(|files| files.room = None);
    process.append(20, 3).expect("room again");
    process.store.give_up();
    let (mut process, found) = Process::start(&disk, 2_000);
    assert!(found.identity.first() > committed && found.waiting == 3);
    assert_eq!(process.send(committed).0, [20, 21, 22]);
}

/// A position that cannot be noted keeps no segment, and one that cannot be removed is tried again.
#[test]
fn what_could_not_be_removed_goes_later() {
    let disk = Memory::default();
    let (mut process, _) = Process::start(&disk, 2_000);
    process.append(0, 15).expect("room");
    disk.with_all(|files| files.remove_fails = true);
    let (_, committed) = process.send(0);
    let before = process.shelf.bytes();
    assert!(before > 0 && process.shelf.waiting().is_none(), "it takes room, and nothing waits");
    disk.with_all(|files| files.remove_fails = false);
    process.append(15, 1).expect("room");
    assert_eq!(process.send(committed).0, [15]);
    assert!(process.shelf.bytes() < before);
    let (_, found) = Process::start(&disk, 2_000);
    assert_eq!((found.waiting, found.corrupt), (0, 0));
}

/// A position may outlive the file that says which run it belongs to: what is numbered from then on is beyond it, and does not pass for sent.
#[test]
fn a_position_without_its_run_takes_nothing_for_sent() {
    let disk = Memory::default();
    for _ in 0..3 {
        let _ = Process::start(&disk, 2_000);
    }
    let (mut process, _) = Process::start(&disk, 2_000);
    process.append(0, 5).expect("room");
    let (_, committed) = process.send(0);
    process.store.give_up();
    for name in disk.list().expect("files") {
        if name == "spool" || segment_base(&name).is_some() {
            disk.remove(&name).expect("it is there");
        }
    }
    let (mut process, found) = Process::start(&disk, 2_000);
    assert!(found.identity.first() > committed, "{:?} is not beyond {committed}", found.identity);
    process.append(5, 3).expect("room");
    process.store.give_up();
    assert_eq!(Process::start(&disk, 2_000).1.waiting, 3);
}

/// However often it is started, nothing of a refused spool is touched. With a new id all of it can be sent.
#[test]
fn a_refused_spool_stays_refused_until_it_is_adopted() {
    let disk = Memory::default();
    let (mut process, found) = Process::start(&disk, 1 << 20);
    process.append(0, 3).expect("room");
    let before = found.identity;
    refuse(&disk).expect("a good disk");
    // Answered before the process ended.
    process.append(3, 2).expect("room");
    for _ in 0..3 {
        let files = disk.list().expect("a good disk");
        assert!(refusal(&disk).contains("the name `adopt`"));
        assert_eq!(disk.list().expect("a good disk"), files);
    }
    disk.rename("refused", "adopt").expect("it is there");
    let (mut process, found) = Process::start(&disk, 1 << 20);
    assert!(found.identity.id != before.id && found.identity.first() > before.first());
    assert_eq!(process.send(0).0, [0, 1, 2, 3, 4]);
    // From here on it is a spool like any other.
    let (_, again) = Process::start(&disk, 1 << 20);
    assert_eq!(again.identity.id, found.identity.id);
}

#[test]
fn segments_without_the_file_that_names_them_are_refused() {
    let disk = Memory::default();
    Process::start(&disk, 1 << 20).0.append(0, 3).expect("room");
    disk.remove("spool").expect("it is there");
    assert!(refusal(&disk).contains("the file `spool` is missing"));
}

/// A segment that somebody removed, and one that lost its end, are missed.
#[test]
fn what_is_missing_between_two_segments_is_lost() {
    for cut in [false, true] {
        let disk = Memory::default();
        let (mut process, found) = Process::start(&disk, 2_000);
        process.append(0, 30).expect("room");
        let whole = Process::start(&disk, 2_000).1;
        assert!(whole.segments.len() > 3 && whole.corrupt == 0 && whole.waiting == 30);
        let [second, third] = [&whole.segments[1], &whole.segments[2]];
        let records = third.base - second.base;
        if cut {
            disk.truncate(&second.name, 30).expect("a good disk");
        } else {
            disk.remove(&second.name).expect("it is there");
        }
        let (mut process, found_again) = Process::start(&disk, 2_000);
        assert_eq!((found_again.corrupt, found_again.torn, found_again.waiting), (records, 0, 30 - records));
        assert_eq!(process.send(found.identity.first()).0.len() as u64, 30 - records);
    }
}

/// What Kafka had before it was lost is not lost.
#[test]
fn what_was_committed_is_not_missed() {
    let disk = Memory::default();
    let (mut process, _) = Process::start(&disk, 2_000);
    process.append(0, 30).expect("room");
    disk.with_all(|files| files.remove_fails = true);
    process.send(0);
    disk.with_all(|files| files.remove_fails = false);
    let whole = disk.list().expect("a good disk");
    let second = whole.iter().filter(|name| segment_base(name).is_some()).nth(1).expect("several");
    disk.remove(second).expect("it is there");
    assert_eq!(Process::start(&disk, 2_000).1.corrupt, 0);
}

/// The file system's journal is waited for only where something is said of a power cut.
#[test]
fn names_are_made_certain_only_with_what_is_in_the_files() {
    let disk = Memory::default();
    let (mut process, _) = Process::start(&disk, 4_000);
    let before = disk.with_all(|files| files.named);
    process.append(0, 30).expect("room");
    assert_eq!(disk.with_all(|files| files.named), before);
    let (mut process, _) = Process::start(&disk, 1 << 20);
    let before = disk.with_all(|files| files.named);
    for number in 0..10 {
        process.store.append(&batch(number, 1), 1).expect("room");
        process.store.sync().expect("a good disk");
        process.store.show(1);
    }
    assert_eq!(disk.with_all(|files| files.named), before + 1, "once a segment");
}

/// A process with two clicks whose try to append five more, 2 to 6, failed half-way and could not be cut off; the disk is well again.
fn half_appended(disk: &Memory) -> Process {
    let (mut process, _) = Process::start(disk, 1 << 20);
    process.append(0, 2).expect("room");
    disk.with_all(|files| (files.room, files.truncate_fails) = (Some(100), true));
    assert!(process.store.append(&batch(2, 5), 1).is_err());
    disk.with_all(|files| (files.room, files.truncate_fails) = (None, false));
    process
}

/// What a failed try has left gets no number that another click has, also where it could not be cut off.
#[test]
fn what_was_given_up_shadows_nothing() {
    let disk = Memory::default();
    let mut process = half_appended(&disk);
    process.store.give_up();
    process.append(10, 3).expect("room");
    let (mut process, found) = Process::start(&disk, 1 << 20);
    assert_eq!(found.corrupt, 0);
    let (sent, _) = process.send(0);
    assert!([0, 1, 10, 11, 12].iter().all(|click| sent.contains(click)), "{sent:?}");
}

/// The same clicks keep their numbers, so that they are there once.
#[test]
fn what_is_tried_again_is_there_once() {
    let disk = Memory::default();
    let mut process = half_appended(&disk);
    process.store.append(&batch(2, 5), 1).expect("room");
    process.store.show(1);
    process.store.give_up();
    process.append(7, 1).expect("room");
    let (mut process, found) = Process::start(&disk, 1 << 20);
    assert_eq!((found.corrupt, found.waiting), (0, 8));
    assert_eq!(process.send(0).0, (0..8).collect::<Vec<_>>());
}
