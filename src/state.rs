//! The state database: connections, what was delivered, how far the sink has read, what is parked, what was refused, who was erased.
//!
//! One SQLite file, readable by its owner alone, in WAL mode with full synchronisation: a refresh token that HubSpot has rotated
//! is the only copy, so it is on disk before it is used.
//!
//! # Guarantee
//! A [`Settlement`] is one transaction: the ledger says what was done with a record, and the offset passes it, both or neither.
//! After a crash the sink reads again what was not settled, finds in the ledger what was settled out of order, and repeats at most
//! the writes that were in flight; those are idempotent. Without this file the sink starts at the topics' beginning and writes
//! everything again (HubSpot then refuses the events it knows; deals are read before they are moved).
//!
//! # Limits
//! One sink: a second one on the same file is safe (transactions wait for each other, connections are changed by compare-and-set) but
//! would deliver the same records. About 60 bytes a delivered record; 10 million records are 600 MB.

mod alive;
mod connections;
mod dead_letters;
mod erased;
mod erasures;
mod ledger;
mod parked;
mod settle;

pub use alive::EVERY as ALIVE_EVERY;
pub use connections::ClearTokens;
pub use dead_letters::DeadLetterRow;
pub use erased::Erased;
pub use erasures::{Erasure, Removed};
pub use ledger::Standing;
pub use parked::{Park, Parked};
pub use settle::{ContactValue, Settlement};

use anyhow::{Context, bail};
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long another process's transaction is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// One step a version: version `n` is what the first `n` steps make. Steps are added, never changed. A file with a greater version was
/// written by a newer clickline.
const STEPS: [&str; 4] = [FIRST, CONNECTIONS, ALIVE, erased::ERASURES];

/// The first version whose deleted rows are overwritten; what an older file holds of such rows goes when it is rewritten.
const OVERWRITES: i64 = 4;

/// Version 3: when a sink last used the file, and what of the ledger it must then look through.
const ALIVE: &str = "
CREATE TABLE alive (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    at  INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_failing ON ledger (key) WHERE outcome = 'failing';
";

/// Version 2: connections with sealed tokens. The rows of `tokens` move there, sealed, when the connections are opened: only they
/// have the key ([`crate::oauth`]).
const CONNECTIONS: &str = "
CREATE TABLE connections (
    environment   TEXT NOT NULL,
    portal        TEXT NOT NULL,
    token_version INTEGER NOT NULL,
    facts         TEXT NOT NULL,
    sealed        BLOB NOT NULL,
    PRIMARY KEY (environment, portal)
) STRICT, WITHOUT ROWID;
CREATE TABLE installs (
    state        BLOB PRIMARY KEY,
    workspace    TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    browser      BLOB NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const FIRST: &str = "
CREATE TABLE tokens (
    portal        TEXT PRIMARY KEY,
    access_token  TEXT,
    refresh_token TEXT NOT NULL,
    expires_at    INTEGER NOT NULL,
    token_version INTEGER NOT NULL,
    rotations     INTEGER NOT NULL,
    scopes        TEXT NOT NULL,
    seed          BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE ledger (
    key     BLOB PRIMARY KEY,
    outcome TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_at ON ledger (at);
CREATE TABLE offsets (
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next      INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE parked (
    id         INTEGER PRIMARY KEY,
    ledger_key BLOB NOT NULL UNIQUE,
    portal     TEXT NOT NULL,
    email      TEXT NOT NULL,
    topic      TEXT NOT NULL,
    partition  INTEGER NOT NULL,
    \"offset\" INTEGER NOT NULL,
    key        BLOB,
    payload    BLOB NOT NULL,
    parked_at  INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    tries      INTEGER NOT NULL
) STRICT;
CREATE INDEX parked_next ON parked (next_at);
CREATE INDEX parked_email ON parked (portal, email);
CREATE TABLE contact_values (
    portal   TEXT NOT NULL,
    contact  TEXT NOT NULL,
    property TEXT NOT NULL,
    ts       INTEGER NOT NULL,
    click_id TEXT NOT NULL,
    PRIMARY KEY (portal, contact, property)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters (
    id        INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    detail    TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    \"offset\" INTEGER NOT NULL,
    key       BLOB,
    payload   BLOB NOT NULL,
    published INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_letters_unpublished ON dead_letters (id) WHERE published = 0;
";

/// What the ledger knows a record by: a hash of topic and record id, so that the file holds no e-mail for what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerKey([u8; 16]);

impl LedgerKey {
    /// The key of the record `id` of `topic`.
    pub fn of(topic: &str, id: &str) -> Self {
        let topic = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, topic.as_bytes());
        LedgerKey(uuid::Uuid::new_v5(&topic, id.as_bytes()).into_bytes())
    }
}

/// The open database. Calls block for as long as a small SQLite transaction takes.
#[derive(Debug)]
pub struct State {
    db: Mutex<Connection>,
}

impl State {
    /// Opens the file, and makes it (mode 0600) where there is none.
    ///
    /// # Errors
    /// When it can't be read or written, or was written by a newer version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        create(path).with_context(|| format!("the state database {} can't be made", path.display()))?;
        let db = Connection::open(path).with_context(|| format!("the state database {} can't be opened", path.display()))?;
        let state = Self::prepare(db).with_context(|| format!("the state database {} can't be used", path.display()))?;
        Ok(state)
    }

    /// Opens the file to be read alone; where there is none, an empty database that is kept nowhere.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn look(path: &Path) -> anyhow::Result<Self> {
        let db = if path.exists() { Connection::open(path) } else { Connection::open_in_memory() };
        let db = db.with_context(|| format!("the state database {} can't be opened", path.display()))?;
        let state = Self::prepare(db).with_context(|| format!("the state database {} can't be used", path.display()))?;
        state.db().pragma_update(None, "query_only", true)?;
        Ok(state)
    }

    fn prepare(mut db: Connection) -> anyhow::Result<Self> {
        db.busy_timeout(BUSY)?;
        // Another process that makes the file at this moment is not waited for by the timeout.
        let until = Instant::now() + BUSY;
        while let Err(error) = db.pragma_update(None, "journal_mode", "wal") {
            if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) || Instant::now() > until {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        db.pragma_update(None, "synchronous", "full")?;
        // What was deleted is overwritten: an address that waited here for a day must not be found in the file for years.
        db.pragma_update(None, "secure_delete", true)?;
        db.set_prepared_statement_cache_capacity(64);
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let Some(missing) = usize::try_from(version).ok().and_then(|version| STEPS.get(version..)) else {
            bail!("it has schema version {version} and this clickline knows {}: use the version that wrote it", STEPS.len());
        };
        for step in missing {
            tx.execute_batch(step)?;
        }
        tx.pragma_update(None, "user_version", i64::try_from(STEPS.len())?)?;
        tx.commit()?;
        if (1..OVERWRITES).contains(&version)
            && let Err(error) = db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
        {
            tracing::warn!(
                event = "vacuum_needed",
                "deleted rows of before can't be overwritten, run `VACUUM` on the state database yourself: {error}"
            );
        }
        Ok(State { db: Mutex::new(db) })
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves SQLite itself whole: its open transaction was rolled back.
        self.db.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Makes the file with the right mode before SQLite would make it with the process's; WAL files inherit it.
fn create(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn open() -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().expect("a folder");
        let state = State::open(&folder.path().join("deep/state.db")).expect("opens");
        (folder, state)
    }

    pub(super) fn erasure(portal: &str, contacts: &[&str], emails: &[&str]) -> Erasure {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
        Erasure { portal: portal.to_owned(), contacts: texts(contacts), emails: texts(emails) }
    }

    #[test]
    #[cfg(unix)]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, _state) = open();
        for file in std::fs::read_dir(folder.path().join("deep")).expect("lists") {
            let file = file.expect("lists");
            let mode = file.metadata().expect("is there").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.path().display());
        }
    }

    #[test]
    fn a_look_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        assert_eq!(State::look(&path).expect("opens").parked_count().expect("reads"), 0);
        assert!(!path.exists(), "nothing was made");
        drop(State::open(&path).expect("opens"));
        let looked = State::look(&path).expect("opens");
        let settlement = Settlement { offsets: vec![("t".into(), 0, 5)], ..Default::default() };
        assert!(looked.settle(&settlement, 1).is_err());
    }

    #[test]
    fn a_newer_file_is_refused() {
        let (folder, state) = open();
        state.db().pragma_update(None, "user_version", 5).expect("set");
        drop(state);
        let error = State::open(&folder.path().join("deep/state.db")).expect_err("is newer");
        assert!(format!("{error:#}").contains("schema version 5"), "{error:#}");
    }

    #[test]
    fn a_file_of_the_first_version_keeps_what_it_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        let db = Connection::open(&path).expect("opens");
        db.execute_batch(FIRST).expect("makes");
        db.execute("INSERT INTO tokens VALUES ('4242', 'a', 'canary', 5, 3, 1, 'oauth timeline', NULL)", []).expect("writes");
        db.execute("INSERT INTO offsets VALUES ('t', 0, 7), ('deleted', 0, 8)", []).expect("writes");
        db.execute("DELETE FROM offsets WHERE topic = 'deleted'", []).expect("writes");
        db.pragma_update(None, "user_version", 1).expect("set");
        drop(db);
        let state = State::open(&path).expect("opens");
        let [row] = state.clear_tokens().expect("reads").try_into().expect("one row");
        assert_eq!((row.portal.as_str(), row.token_version, row.rotations, row.scopes.len()), ("4242", 3, 1, 2));
        assert!(!format!("{row:?}").contains("canary"));
        state.forget_clear_tokens("4242").expect("forgets");
        assert_eq!(state.clear_tokens().expect("reads"), []);
        for file in std::fs::read_dir(folder.path()).expect("lists") {
            let bytes = std::fs::read(file.expect("lists").path()).expect("reads");
            assert!(!bytes.windows(6).any(|part| part == b"canary"), "it is overwritten");
            assert!(!bytes.windows(7).any(|part| part == b"deleted"), "what an older version has deleted, too");
        }
        let offset: i64 = state.db().query_row("SELECT next FROM offsets", [], |row| row.get(0)).expect("reads");
        assert_eq!(offset, 7);
    }
}
