//! A file that remembers how far each connection has come, kept apart from the database, so that an old row put back is noticed.
//!
//! # Meaning
//! After each new token of a connection a line with its `token_version` and the token's fingerprint is appended. A row is **stale** when
//! its version is not greater than the last one witnessed and its refresh token is another one: it was restored from a backup, and
//! HubSpot may have replaced its token since. Using it could make HubSpot revoke the one in use, so it is not used. A
//! restored row whose refresh token is still the last one witnessed (HubSpot rotates none today) is as good as ever and goes on.
//!
//! # Ties and edges
//! - Several processes may have files of their own or share one. What another process did and this one never saw is not missed: the
//!   witness is a lower bound.
//! - Without the file nothing is known, and every row is taken as it is. So to restore a database *and mean it*, log in again, or
//!   delete the file; to notice a restore of the whole folder, keep the file elsewhere (`hubspot.connections.witness`).
//! - A line that a crash cut short is passed over.
//!
//! # Cost
//! About 120 bytes a refresh; more than a megabyte is written anew at the start.

use super::row::{Row, fingerprint};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A longer file is written anew at the start.
const TIDY_FROM: u64 = 1 << 20;

/// The open witness.
#[derive(Debug)]
pub struct Witness {
    path: PathBuf,
    environment: String,
    /// By portal.
    last: Mutex<BTreeMap<String, Seen>>,
}

/// The last that was witnessed of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: i64,
    refresh_token: String,
    seed: Option<String>,
}

impl Witness {
    /// Reads the file; it is made with the first token.
    ///
    /// # Errors
    /// When it is there and can't be read or tidied up.
    pub fn open(path: &Path, environment: &str) -> anyhow::Result<Self> {
        let what = || format!("the witness {} can't be used", path.display());
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(what),
        };
        let mut all: BTreeMap<(String, String), Seen> = BTreeMap::new();
        for (place, seen) in text.lines().filter_map(parse) {
            let newer = all.get(&place).is_none_or(|before| before.version <= seen.version);
            if newer {
                all.insert(place, seen);
            }
        }
        if text.len() as u64 > TIDY_FROM {
            let lines: String = all.iter().map(|((environment, portal), seen)| line(environment, portal, seen)).collect();
            let beside = path.with_extension("tidy");
            let mut file = private(OpenOptions::new().write(true).create(true).truncate(true), &beside).with_context(what)?;
            file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path)).with_context(what)?;
        }
        let last = all.into_iter().filter(|((of, _), _)| of == environment).map(|((_, portal), seen)| (portal, seen)).collect();
        Ok(Witness { path: path.to_owned(), environment: environment.to_owned(), last: Mutex::new(last) })
    }

    /// The version that shows a row to be stale, if it is.
    pub fn stale(&self, row: &Row) -> Option<i64> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = last.get(&row.portal)?;
        let stale = row.token_version <= seen.version && fingerprint(&row.secrets.refresh_token) != seen.refresh_token;
        stale.then_some(seen.version)
    }

    /// Whether a token of the configuration is one that the connection began with and has left behind: the row is gone, and with it
    /// the token in use.
    pub fn left_behind(&self, portal: &str, seed: &str) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(portal).is_some_and(|seen| seen.seed.as_deref() == Some(seed) && seen.refresh_token != seed)
    }

    /// The last version witnessed of a portal; a row that is made anew must be beyond it.
    pub fn version(&self, portal: &str) -> i64 {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(portal).map_or(0, |seen| seen.version)
    }

    /// Notes a row whose tokens were just stored. To be called after the row is stored: a witness that is behind is a lower
    /// bound, one that is ahead would raise a false alarm.
    ///
    /// # Errors
    /// When the file can't be written. The tokens are stored all the same.
    pub fn note(&self, row: &Row) -> anyhow::Result<()> {
        let seen =
            Seen { version: row.token_version, refresh_token: fingerprint(&row.secrets.refresh_token), seed: row.facts.seed.clone() };
        let line = line(&self.environment, &row.portal, &seen);
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.get(&row.portal).is_some_and(|before| before.version >= seen.version) {
                return Ok(());
            }
            last.insert(row.portal.clone(), seen);
        }
        let what = || format!("the witness {} can't be written", self.path.display());
        // One short write at the end: processes that share the file do not tear each other's lines.
        let mut file = private(OpenOptions::new().create(true).append(true), &self.path).with_context(what)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).with_context(what)
    }
}

fn private(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    options.open(path)
}

/// Begins with a line break, so that a line which a crash cut short before does not spoil this one.
fn line(environment: &str, portal: &str, seen: &Seen) -> String {
    let Seen { version, refresh_token, seed } = seen;
    format!("\n1 {environment} {portal} {version} {refresh_token} {} .", seed.as_deref().unwrap_or("-"))
}

fn parse(line: &str) -> Option<((String, String), Seen)> {
    let mut words = line.split(' ');
    let mut next = || words.next();
    // The full stop says that the line is whole.
    let ("1", environment, portal, version, refresh_token, seed, ".") = (next()?, next()?, next()?, next()?, next()?, next()?, next()?)
    else {
        return None;
    };
    let seed = (seed != "-").then(|| seed.to_owned());
    let seen = Seen { version: version.parse().ok()?, refresh_token: refresh_token.to_owned(), seed };
    Some(((environment.to_owned(), portal.to_owned()), seen))
}

#[cfg(test)]
mod tests {
    use super::super::row::{Facts, Secrets};
    use super::*;

    fn row(version: i64, refresh_token: &str) -> Row {
        let secrets = Secrets { access_token: None, refresh_token: refresh_token.to_owned() };
        let facts = Facts { seed: Some(fingerprint("r0")), ..Facts::default() };
        Row { portal: "4242".to_owned(), token_version: version, facts, secrets }
    }

    #[test]
    fn an_old_row_put_back_is_noticed_unless_its_token_is_still_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/witness");
        let witness = Witness::open(&path, "production").expect("opens");
        assert_eq!(witness.stale(&row(1, "r0")), None, "nothing is known");
        witness.note(&row(3, "r0")).expect("notes");
        witness.note(&row(5, "r1")).expect("notes");
        let again = Witness::open(&path, "production").expect("opens");
        for witness in [witness, again] {
            assert_eq!(witness.stale(&row(3, "r0")), Some(5), "restored");
            assert_eq!(witness.stale(&row(5, "other")), Some(5), "another history of the same length");
            assert_eq!(witness.stale(&row(2, "r1")), None, "restored, and its token is in use");
            assert_eq!(witness.stale(&row(6, "r2")), None, "another process went on");
            assert_eq!(witness.version("4242"), 5);
            assert!(witness.left_behind("4242", &fingerprint("r0")) && !witness.left_behind("4242", &fingerprint("new")));
        }
        assert_eq!(Witness::open(&path, "staging").expect("opens").version("4242"), 0);
        let text = fs::read_to_string(&path).expect("reads");
        assert!(!text.contains("r0") && !text.contains("r1"));
    }

    #[test]
    fn a_line_cut_short_at_any_place_loses_that_line_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("witness");
        Witness::open(&path, "e").and_then(|witness| witness.note(&row(3, "r0"))).expect("notes");
        let first = fs::read(&path).expect("reads").len();
        Witness::open(&path, "e").and_then(|witness| witness.note(&row(12, "r1"))).expect("notes");
        let whole = fs::read(&path).expect("reads");
        for cut in first..whole.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            let witness = Witness::open(&path, "e").expect("opens");
            assert_eq!(witness.version("4242"), 3, "{cut}");
            witness.note(&row(20, "r2")).expect("notes");
            assert_eq!(Witness::open(&path, "e").expect("opens").version("4242"), 20, "{cut}");
        }
    }

    #[test]
    fn a_long_file_is_tidied_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("witness");
        let text: String =
            (0..30_000).map(|n| line("e", "4242", &Seen { version: n, refresh_token: "ab".repeat(16), seed: None })).collect();
        fs::write(&path, text).expect("writes");
        assert_eq!(Witness::open(&path, "e").expect("opens").version("4242"), 29_999);
        assert!(fs::metadata(&path).expect("is there").len() < 200);
        assert_eq!(Witness::open(&path, "e").expect("opens").version("4242"), 29_999);
    }
}
