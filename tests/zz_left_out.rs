//! The last word of `cargo test`: which parts of the tests had nothing to run on, and how to run them.
//!
//! Not a test of anything, and without the test harness, so that its words are always seen. With
//! `CLICKLINE_TESTS_REQUIRE=all` (set by `tests/run`) it fails when anything was left out.

mod support;

use std::path::Path;
use std::process::ExitCode;

/// A part that needs more than cargo.
struct Part {
    /// What it is.
    name: &'static str,
    /// Why it did not run; `None`: it ran.
    missing: Option<String>,
    /// Whether it is no failure that it did not, whatever is required: not every container may have it.
    may: bool,
}

fn parts() -> [Part; 8] {
    let kafka = support::kafka::jars().is_none().then(|| "its jars are not in target/kafka/lib".to_owned());
    let postgres = support::postgres::programs().is_none().then(|| "initdb and postgres are not installed".to_owned());
    let clicks = match std::env::var("CLICKLINE_DATA") {
        Err(_) => Some("CLICKLINE_DATA is not set".to_owned()),
        Ok(data) if !Path::new(&data).join("clicks/1usagov").is_dir() => Some(format!("no clicks/1usagov in CLICKLINE_DATA={data}")),
        Ok(_) => None,
    };
    let clickhouse = support::clickhouse::program().is_none().then(|| "its library is not in target/clickhouse".to_owned());
    // Found as tests/status/page.mjs finds it.
    let browser = std::env::var_os("CHROMIUM").unwrap_or_else(|| "chromium".into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let chromium = (!std::env::split_paths(&path).any(|folder| folder.join(&browser).is_file()))
        .then(|| format!("{} is not installed", Path::new(&browser).display()));
    let disk = support::clickhouse::small_disk().err();
    let network = support::network::possible().err();
    [
        Part { name: "a machine of a cluster that vanishes without a word (network namespaces)", missing: network, may: true },
        Part {
            name: "the redirect server's spool on a disk that is really full (redirect/tests/disk.rs)",
            // It tries the same: a mount namespace, as it is or in one of users, and a file system in memory.
            missing: disk.clone(),
            may: true,
        },
        Part { name: "the ClickHouse sink with a disk that is really full (a file system of the test's own)", missing: disk, may: true },
        Part { name: "the status page in Chromium (tests/status/page.mjs)", missing: chromium, may: false },
        Part { name: "the ClickHouse sink on a real ClickHouse", missing: clickhouse, may: false },
        Part { name: "everything on a real Apache Kafka (transactions, append times, restarts)", missing: kafka, may: false },
        Part { name: "connections to HubSpot kept in a real PostgreSQL", missing: postgres, may: false },
        Part { name: "the real clicks of 1.usa.gov through the whole job", missing: clicks, may: false },
    ]
}

fn main() -> ExitCode {
    // Tools that list tests want names, and this has none.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let left_out: Vec<Part> = parts().into_iter().filter(|part| part.missing.is_some()).collect();
    if left_out.is_empty() {
        println!("\nleft out: nothing\n");
        return ExitCode::SUCCESS;
    }
    println!("\nleft out on this machine:");
    for Part { name, missing, .. } in &left_out {
        println!("  - {name}: {}", missing.as_deref().unwrap_or_default());
    }
    println!("`tests/run` fetches what is missing and runs everything.\n");
    match std::env::var("CLICKLINE_TESTS_REQUIRE").as_deref() {
        Ok("all") if left_out.iter().any(|part| !part.may) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
