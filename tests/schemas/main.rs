//! The schemas in `docs/schemas/` are what the code says, break nothing of the last release, and say what records look like.
//!
//! Records by the thousand, each with the job's or the redirect server's own verdict, go into the file that `CLICKLINE_RECORDS` names;
//! `tests/schemas/run` has an independent validator hold them against the schemas.

#[path = "../oracle_model/mod.rs"]
mod oracle_model;
mod records;

use clickline::schema::{Role, all};
use records::Records;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas")
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let json = entries.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    json.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read_to_string(&path).expect("a file")))
        .collect()
}

#[test]
fn the_documents_are_what_the_code_says() {
    let said: BTreeMap<String, String> = all().iter().map(|document| (document.file(), document.text())).collect();
    assert!(files(&folder()) == said, "docs/schemas is not what the code says; `clickline schema --out docs/schemas` writes it anew");
}

#[test]
fn nothing_of_the_last_release_breaks() {
    let documents = all();
    let published = files(&folder().join("published"));
    assert!(published.len() >= 15, "docs/schemas/published holds the schemas of the last release");
    for (file, text) in published {
        let older: Value = serde_json::from_str(&text).expect("JSON");
        let document = documents.iter().find(|document| document.file() == file).unwrap_or_else(|| panic!("{file}: the topic is gone"));
        let breaks = document.breaks(&older);
        assert!(
            breaks.is_empty(),
            "{file} breaks:\n{}\nA change like that needs a new schema version (docs/topics.md).",
            breaks.join("\n")
        );
    }
}

#[test]
fn records_and_verdicts_for_the_validator() {
    let mut records = Records::default();
    records.of_the_oracle(0..4);
    records.of_the_redirect_server();
    records.of_links();
    records.of_the_documentation();
    records.of_the_jobs_notes();
    let topics =
        |taken: bool| records.0.iter().filter(|record| record.taken == taken).map(|record| record.topic.as_str()).collect::<BTreeSet<_>>();
    for document in all() {
        assert!(topics(true).contains(document.topic.as_str()), "no record of {}", document.topic);
        let refused = document.role == Role::Own || topics(false).contains(document.topic.as_str());
        assert!(refused, "no record of {} that must be refused", document.topic);
    }
    if let Some(path) = std::env::var_os("CLICKLINE_RECORDS") {
        let mut file = std::io::BufWriter::new(fs::File::create(path).expect("a file for the records"));
        records.0.iter().for_each(|record| writeln!(file, "{}", record.line()).expect("written"));
        file.flush().expect("written");
    }
}

fn schema(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clickline")).arg("schema").args(arguments).output().expect("runs")
}

#[test]
fn the_command_prints_writes_and_compares() {
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = text(&schema(&[]));
    assert_eq!(listed.lines().count(), all().len(), "{listed}");
    assert_eq!(text(&schema(&["clicks"])), fs::read_to_string(folder().join("clicks.json")).expect("a file"));
    let unknown = schema(&["click"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are clicks, forms"), "{unknown:?}");

    let older = tempfile::tempdir().expect("a folder");
    let path = older.path().to_str().expect("UTF-8");
    assert!(schema(&["--out", path]).status.success());
    assert_eq!(files(older.path()), files(&folder()));
    let same = schema(&["--compare", path]);
    assert!(same.status.success() && text(&same).contains("15 schemas: nothing breaks"), "{same:?}");

    // Somebody reads a field that this build does not write any more.
    let counts = older.path().join("clicks.counts.json");
    let mut schema_of_counts: Value = serde_json::from_str(&fs::read_to_string(&counts).expect("a file")).expect("JSON");
    schema_of_counts["properties"]["median"] = serde_json::json!({"type": "integer"});
    fs::write(&counts, schema_of_counts.to_string()).expect("written");
    let broken = schema(&["--compare", path]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken).contains("clicks.counts: /median: the field is gone"), "{broken:?}");
}
