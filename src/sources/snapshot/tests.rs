//! What is copied is read back; what is damaged ends the copy and never says anything else.

use super::*;
use crate::dataflow::rows::{Arrival, Place as At};
use crate::model::outputs::DeadLetter;
use crate::model::{Click, Form, Utm};
use proptest::prelude::*;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,2}", "\\PC{0,12}", Just("0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10".to_owned())]
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(text())
}

fn click() -> impl Strategy<Value = Click> {
    let names = (text(), any::<u64>(), text(), text(), proptest::collection::vec(text(), 0..3));
    let ids = (maybe(), maybe(), maybe(), maybe());
    let utm = (maybe(), maybe(), maybe(), maybe(), maybe());
    let rest = (maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe());
    (names, ids, utm, rest).prop_map(|(names, ids, utm, rest)| {
        let (id, ts, workspace, link, tags) = names;
        let (deal_id, contact_id, fbclid, gclid) = ids;
        let (source, medium, campaign, term, content) = utm;
        let (title, destination, referrer, user_agent, device, os, browser, country, bot) = rest;
        let utm = Utm { source, medium, campaign, term, content };
        Click {
            v: 1,
            id,
            ts,
            workspace,
            link,
            title,
            destination,
            tags,
            deal_id,
            contact_id,
            fbclid,
            gclid,
            utm,
            referrer,
            user_agent,
            device,
            os,
            browser,
            country,
            bot,
        }
    })
}

/// A record of partition 3 without its offset and append time.
fn arrival() -> impl Strategy<Value = Arrival> {
    let at = At { partition: 3, offset: 0 };
    let form = (text(), any::<u64>(), text(), text(), maybe(), maybe()).prop_map(move |(id, ts, workspace, email, fbclid, gclid)| {
        Arrival::Form(at, Arc::new(Form { v: 1, id, ts, workspace, email, fbclid, gclid }))
    });
    let dead = (text(), text(), maybe()).prop_map(|(reason, detail, key_base64)| {
        let source = "clicks".to_owned();
        Arrival::Dead(Arc::new(DeadLetter {
            v: 1,
            reason,
            detail,
            source,
            partition: 3,
            offset: 9,
            key_base64,
            payload_base64: "e30=".into(),
            at: 7,
        }))
    });
    prop_oneof![8 => click().prop_map(move |click| Arrival::Click(at, click.into())), 2 => form, 1 => dead]
}

/// Rows with offsets and append times that rise, in the batches in which they are handed over.
fn batches() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let row = (1..4i64, 0..5_000u64, arrival());
    proptest::collection::vec(proptest::collection::vec(row, 1..20), 1..8).prop_map(|batches| {
        let (mut offset, mut appended) = (4, 1_700_000_000_000);
        let mut place = |(gap, wait, arrival): (i64, Ms, Arrival)| {
            offset += gap;
            appended += wait;
            let at = At { partition: 3, offset };
            let arrival = match arrival {
                Arrival::Click(_, click) => Arrival::Click(at, click),
                Arrival::Form(_, form) => Arrival::Form(at, form),
                other => other,
            };
            Row { offset, appended, arrival, bytes: 0 }
        };
        batches.into_iter().map(|batch| batch.into_iter().map(&mut place).collect()).collect()
    })
}

fn spot(folder: &Path) -> Spot {
    let snapshots = Snapshots { folder: folder.to_owned(), keep_clicks: Ms::MAX, keep_forms: 0 };
    snapshots.of(Kind::Clicks, "clicks", 3, &Times::with_tick(100))
}

fn open(folder: &Path) -> Opened {
    Opened::open(spot(folder)).expect("a disk").expect("nobody else has it")
}

/// Copies batches, each a block of its own, going on after what is there; begins at offset 5.
fn write(folder: &Path, batches: &[Vec<Row>]) {
    for batch in batches {
        let mut recorder = Recorder::start("test", Some(Ms::MAX));
        let opened = open(folder);
        recorder.open(if opened.after().is_none() { opened.begin(5) } else { all(opened).1 });
        let mut rows = batch.iter().map(|row| (row.clone(), last(row))).collect();
        assert!(recorder.take(3, &mut rows), "there is room");
    }
}

fn last(row: &Row) -> Last {
    Last::of(row.offset, row.appended.cast_signed(), format!("{row:?}").as_bytes())
}

/// All that a copy says, and where it would go on.
fn all(opened: Opened) -> (Vec<Row>, Place) {
    let mut copied = opened.read(0, i64::MAX);
    let mut rows = Vec::new();
    loop {
        match copied.advance() {
            Next::Row(row) => rows.push(row),
            Next::End(next) => {
                assert_eq!(next, copied.position());
                return (rows, copied.finish());
            }
        }
    }
}

fn said(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|Row { offset, appended, arrival, bytes: _ }| format!("{offset} {appended} {arrival:?}")).collect()
}

fn file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder.join("clicks-3")).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    files.sort();
    files.pop().expect("a segment")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_copied_is_read_back_over_any_restarts(batches in batches()) {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &batches);
        let rows: Vec<Row> = batches.concat();
        let opened = open(folder.path());
        prop_assert_eq!(opened.last(), rows.last().map(last));
        prop_assert_eq!(opened.after(), Some(5));
        prop_assert_eq!(said(&all(opened).0), said(&rows));
    }

    /// Any byte changed, or the file cut anywhere: whole blocks from the beginning, as they were, and what comes after that
    /// is copied anew without a gap.
    #[test]
    fn damage_ends_the_copy_and_changes_nothing_before_it(batches in batches(), at in any::<prop::sample::Index>(), cut in any::<bool>(), late in any::<bool>()) {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &batches);
        // Found when the folder is opened, or only when the block is read.
        let early = if late { Some(open(folder.path())) } else { None };
        let path = file(folder.path());
        let mut bytes = fs::read(&path).expect("a file");
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 0x20 }
        fs::write(&path, bytes).expect("a disk");
        let (rows, place) = all(early.unwrap_or_else(|| open(folder.path())));
        let whole: Vec<usize> = batches.iter().scan(0, |sum, batch| { *sum += batch.len(); Some(*sum) }).collect();
        let good = rows.len();
        let in_label = at < spot(folder.path()).label.len();
        prop_assert!(good == 0 || whole.contains(&good));
        prop_assert!(late && in_label || good < whole[whole.len() - 1], "something is missing");
        let all_rows: Vec<Row> = batches.concat();
        prop_assert_eq!(said(&rows), said(&all_rows[..good]));
        let next = rows.last().map_or(5, |row| row.offset + 1);
        if late || !rows.is_empty() {
            prop_assert_eq!(place.next, next);
        }
        drop(place);
        let mut rest = batches.clone();
        if !in_label {
            rest.drain(..whole.iter().position(|n| *n == good).map_or(0, |n| n + 1));
            write(folder.path(), &rest);
            prop_assert_eq!(said(&all(open(folder.path())).0), said(&all_rows));
        }
    }
}

fn rows(from: i64, count: i64) -> Vec<Row> {
    let click = |offset: i64| {
        let click = Click { v: 1, id: format!("c{offset:05}"), workspace: "w".into(), link: "l".repeat(900), ..Click::default() };
        Arrival::Click(At { partition: 3, offset }, click.into())
    };
    let appended = |offset: i64| 1_700_000_000_000 + offset.cast_unsigned() * 1_000;
    (from..from + count).map(|offset| Row { offset, appended: appended(offset), arrival: click(offset), bytes: 0 }).collect()
}

#[test]
fn a_folder_has_one_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(folder.path());
    assert!(Opened::open(spot(folder.path())).expect("a disk").is_none());
    assert_eq!(clear(folder.path(), true).expect("a disk"), (0, 1), "what a job holds is left alone");
    drop(first);
    drop(open(folder.path()));
}

#[test]
fn what_no_job_holds_can_be_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(clear(&folder.path().join("none"), true).expect("a disk"), (0, 0));
    write(folder.path(), &[rows(5, 3), rows(8, 3)]);
    fs::write(folder.path().join("file"), "not ours").expect("a disk");
    assert_eq!(clear(folder.path(), false).expect("a disk"), (1, 0));
    assert!(open(folder.path()).last().is_some(), "a look deletes nothing");
    assert_eq!(clear(folder.path(), true).expect("a disk"), (1, 0));
    assert!(open(folder.path()).last().is_none() && folder.path().join("file").exists());
    assert_eq!(clear(folder.path(), true).expect("a disk"), (0, 0));
}

#[test]
fn a_copy_of_another_label_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[rows(5, 10)]);
    let other = Snapshots { folder: folder.path().to_owned(), keep_clicks: 0, keep_forms: 0 };
    let other = other.of(Kind::Clicks, "clicks", 3, &Times::with_tick(200));
    let opened = Opened::open(other).expect("a disk").expect("nobody has it");
    assert_eq!((opened.last(), opened.after()), (None, None));
}

#[test]
fn a_file_that_is_missing_ends_the_copy() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[rows(5, 10), rows(15, 10), rows(25, 10)]);
    let path = file(folder.path());
    // Three files, as if each were full.
    let opened = open(folder.path());
    let (head, of_segment) = (opened.spot.label.clone(), opened.segments[0].clone());
    drop(opened);
    let bytes = fs::read(&path).expect("a file");
    let block = (bytes.len() - head.len()) / 3;
    assert_eq!(of_segment.rows, 30);
    for (n, after) in [(0, 5), (1, 15), (2, 25)] {
        let part = &bytes[head.len() + n * block..head.len() + (n + 1) * block];
        fs::write(segment::path(&folder.path().join("clicks-3"), after), [head.as_bytes(), part].concat()).expect("a disk");
    }
    assert_eq!(all(open(folder.path())).0.len(), 30);
    // What was appended before the second file's records is not needed: whole files are passed over.
    let mut copied = open(folder.path()).read(1_700_000_016_000, i64::MAX);
    assert_eq!((copied.left(), copied.position(), copied.end()), (20, 15, 35));
    assert!(matches!(copied.advance(), Next::Row(Row { offset: 15, .. })));
    drop(copied);
    fs::remove_file(segment::path(&folder.path().join("clicks-3"), 15)).expect("a disk");
    assert_eq!(all(open(folder.path())).0.len(), 10);
}

#[test]
fn what_nobody_needs_any_more_is_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recorder = Recorder::start("test", Some(1_000_000));
    recorder.open(open(folder.path()).begin(5));
    // A hundred megabytes: a link of 900 bytes stands in each block once, so the ids must be long.
    for from in (5..80_005).step_by(1_000) {
        let mut batch: Vec<(Row, Last)> = rows(from, 1_000).into_iter().map(|row| (row.clone(), last(&row))).collect();
        for (row, _) in &mut batch {
            if let Arrival::Click(_, click) = &mut row.arrival {
                *click = Click { gclid: Some(format!("{}{}", row.offset, "g".repeat(1_200))), ..click.unpacked() }.into();
            }
        }
        while !recorder.take(3, &mut batch) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    drop(recorder);
    let opened = open(folder.path());
    let after = opened.after().expect("something is there");
    let (oldest, newest) = (opened.segments.first().expect("some").appended, opened.segments.last().expect("some").appended);
    assert!(after > 5 && newest - oldest >= 1_000_000, "{after}: the last {} ms are kept", newest - oldest);
    assert_eq!(all(opened).0.last().map(|row| row.offset), Some(80_004));
}

#[test]
fn a_disk_that_refuses_does_not_stop_the_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recorder = Recorder::start("test", Some(Ms::MAX));
    let place = open(folder.path()).begin(5);
    fs::remove_dir_all(folder.path().join("clicks-3")).expect("a disk");
    recorder.open(place);
    let mut batch: Vec<_> = rows(5, 10).into_iter().map(|row| (row.clone(), last(&row))).collect();
    assert!(recorder.take(3, &mut batch) && batch.is_empty());
    drop(recorder);
    assert_eq!(open(folder.path()).after(), None);
}

#[test]
fn what_waits_for_the_disk_is_bounded_by_its_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recorder = Recorder::start("test", Some(Ms::MAX));
    recorder.open(open(folder.path()).begin(5));
    // Made beforehand, so that they come faster than any thread can take them; each says that it is 40 MB.
    let heavy = |row: Row| (Row { bytes: 40_000, ..row.clone() }, last(&row));
    let batches: Vec<Vec<(Row, Last)>> = (0..20).map(|n| rows(5 + n * 1_000, 1_000).into_iter().map(heavy).collect()).collect();
    let mut full = false;
    for mut batch in batches {
        while !recorder.take(3, &mut batch) {
            full = true;
            std::thread::yield_now();
        }
        assert!(batch.is_empty());
    }
    assert!(full, "there was no room once");
    drop(recorder);
    assert_eq!(all(open(folder.path())).0.last().map(|row| row.offset), Some(20_004), "and nothing was left out");
}

#[test]
fn bytes_behind_the_end_are_cut_off_before_writing_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[rows(5, 10)]);
    let mut torn = fs::File::options().write(true).open(file(folder.path())).expect("a file");
    torn.seek(std::io::SeekFrom::End(0)).expect("a disk");
    torn.write_all(&[0; 300]).expect("a disk");
    write(folder.path(), &[rows(15, 10)]);
    assert_eq!(all(open(folder.path())).0.len(), 20);
}
