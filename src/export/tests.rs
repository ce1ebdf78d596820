//! Exports of files; the real servers' opinion of them is in `tests/clickhouse/export.rs`.

use super::*;
use crate::model::time::DAY;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::path::Path;

/// 2025-11-22.
const FIRST: u64 = 20_414;

fn click(n: u64) -> String {
    let ts = (FIRST + n % 3) * DAY + n;
    format!(r#"{{"id":"c{n}","ts":{ts},"workspace":"w{}","link":"d/{n}","tags":["t{}"]}}"#, n % 2, n % 5)
}

fn export(folder: &Path, lines: &[String]) -> Export {
    let path = folder.join("clicks");
    fs::write(&path, lines.join("\n")).expect("writes");
    Export {
        stream: Stream::Clicks,
        from: Source::Files(vec![path.display().to_string()]),
        days: 0..=u32::MAX,
        out: folder.join("out"),
        replace: true,
    }
}

/// Names and bytes of all files under the export's folder.
fn files(export: &Export) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(export.folder()).expect("reads");
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("reads"));
    entries.map(|entry| read(entry.expect("reads"))).collect()
}

#[test]
fn each_day_is_a_file_with_each_click_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut lines: Vec<String> = (0..90).map(click).collect();
    lines.extend((0..30).map(click));
    lines.push("no click".to_owned());
    let export = export(folder.path(), &lines);
    let done = export.run(&Stop::new()).expect("exports");
    let first = u32::try_from(FIRST).expect("small");
    assert_eq!(done.written.files, BTreeMap::from([(first, 30), (first + 1, 30), (first + 2, 30)]));
    assert_eq!((done.records, done.malformed, done.written.repeats), (120, 1, 30));
    let names: Vec<String> = files(&export).into_keys().collect();
    assert_eq!(names, ["2025-11-22.parquet", "2025-11-23.parquet", "2025-11-24.parquet"], "and nothing else is left");
}

#[test]
fn the_bytes_are_the_same_however_much_memory_there_is() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut lines: Vec<String> = (0..500).map(|n| click(n % 300)).collect();
    lines.shuffle(&mut rng);
    let mut seen = None;
    for memory in [1, 10_000, 1 << 20] {
        let folder = tempfile::tempdir().expect("a folder");
        let export = export(folder.path(), &lines);
        export.run_within(memory + rng.random_range(0..99), &Stop::new()).expect("exports");
        let files = files(&export);
        assert_eq!(files.len(), 3, "no run is left");
        assert_eq!(seen.get_or_insert_with(|| files.clone()), &files);
    }
}

#[test]
fn a_file_that_is_there_stays_unless_it_is_to_be_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<String> = (0..9).map(click).collect();
    let mut export = export(folder.path(), &lines);
    let first = u32::try_from(FIRST).expect("small");
    export.days = first + 1..=first + 1;
    export.run(&Stop::new()).expect("exports");
    assert_eq!(files(&export).len(), 1, "only the day that was asked for");
    let there = export.folder().join("2025-11-23.parquet");
    fs::write(&there, "mine").expect("writes");
    export.days = 0..=u32::MAX;
    export.replace = false;
    let done = export.run(&Stop::new()).expect("exports");
    assert_eq!((done.written.files.len(), done.written.kept), (2, vec![first + 1]));
    assert_eq!(fs::read(&there).expect("reads"), b"mine");
    export.replace = true;
    export.run(&Stop::new()).expect("exports");
    assert!(fs::read(&there).expect("reads").starts_with(b"PAR1"));
}

#[test]
fn what_is_not_finished_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<String> = (0..9).map(click).collect();
    let export = export(folder.path(), &lines);
    let stop = Stop::new();
    stop.ask();
    assert!(export.run(&stop).is_err());
    // A name that can't be taken.
    fs::create_dir_all(export.folder().join("2025-11-24.parquet").join("x")).expect("makes");
    let error = export.run(&Stop::new()).expect_err("a folder is in the way");
    assert!(format!("{error:#}").contains("2025-11-24.parquet"), "{error:#}");
    let mut names: Vec<String> =
        fs::read_dir(export.folder()).expect("reads").map(|entry| entry.expect("reads").file_name().into_string().expect("text")).collect();
    names.sort();
    assert_eq!(names, ["2025-11-22.parquet", "2025-11-23.parquet", "2025-11-24.parquet"]);
}
