//! Records that wait in the database until a contact with their address appears.

use super::settle::{int, uint};
use super::{LedgerKey, State};
use rusqlite::types::Value;
use rusqlite::{Row, Transaction, params};

/// A record to put aside until its contact appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// What the ledger will know it by.
    pub ledger_key: LedgerKey,
    /// HubSpot account.
    pub portal: String,
    /// Whose contact is awaited.
    pub email: String,
    /// Where the record was read.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The record itself.
    pub payload: Vec<u8>,
    /// Since when it waits, ms since the Unix epoch.
    pub parked_at: u64,
    /// When to look again, ms since the Unix epoch.
    pub next_at: u64,
    /// How often the contact was looked for.
    pub tries: u32,
}

/// A parked record that is due.
pub type Parked = Park;

const PARKED: &str = "ledger_key, portal, email, topic, partition, \"offset\", key, payload, parked_at, next_at, tries";

fn parked(row: &Row<'_>) -> rusqlite::Result<Parked> {
    Ok(Park {
        ledger_key: LedgerKey(row.get(0)?),
        portal: row.get(1)?,
        email: row.get(2)?,
        topic: row.get(3)?,
        partition: row.get(4)?,
        offset: row.get(5)?,
        key: row.get(6)?,
        payload: row.get(7)?,
        parked_at: uint(row, 8)?,
        next_at: uint(row, 9)?,
        tries: row.get(10)?,
    })
}

/// Puts records aside; of one that waits already only the next look changes.
pub(super) fn put(tx: &Transaction<'_>, park: &[Park]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(&format!(
        "INSERT INTO parked ({PARKED}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (ledger_key) DO UPDATE SET next_at = excluded.next_at, tries = excluded.tries"
    ))?;
    for p in park {
        let key: Value = p.key.clone().map_or(Value::Null, Value::Blob);
        insert.execute(params![
            p.ledger_key.0.as_slice(),
            p.portal,
            p.email,
            p.topic,
            p.partition,
            p.offset,
            key,
            p.payload,
            int(p.parked_at),
            int(p.next_at),
            p.tries
        ])?;
    }
    Ok(())
}

/// These records wait no longer.
pub(super) fn take_out<'a>(tx: &Transaction<'_>, keys: impl IntoIterator<Item = &'a LedgerKey>) -> rusqlite::Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM parked WHERE ledger_key = ?1")?;
    for key in keys {
        delete.execute([key.0.as_slice()])?;
    }
    Ok(())
}

impl State {
    /// Up to `limit` parked records of an account that are due at `now`, the longest due first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parked_due(&self, portal: &str, now: u64, limit: usize) -> anyhow::Result<Vec<Parked>> {
        let db = self.db();
        let mut statement =
            db.prepare_cached(&format!("SELECT {PARKED} FROM parked WHERE portal = ?1 AND next_at <= ?2 ORDER BY next_at, id LIMIT ?3"))?;
        let rows = statement.query_map(params![portal, int(now), int(limit as u64)], parked)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many records are parked.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parked_count(&self) -> anyhow::Result<u64> {
        Ok(self.db().query_row("SELECT count(*) FROM parked", [], |row| uint(row, 0))?)
    }

    /// Up to `limit` records that are parked since `before` (ms since the Unix epoch) or longer and that nobody looks after any more: their
    /// account or topic is not among those given.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parked_orphans(&self, portals: &[String], topics: &[String], before: u64, limit: usize) -> anyhow::Result<Vec<Parked>> {
        let db = self.db();
        let mut statement = db.prepare_cached(&format!(
            "SELECT {PARKED} FROM parked WHERE parked_at <= ?1
             AND (portal NOT IN (SELECT value FROM json_each(?2)) OR topic NOT IN (SELECT value FROM json_each(?3))) ORDER BY id LIMIT ?4"
        ))?;
        let (portals, topics) = (serde_json::to_string(portals)?, serde_json::to_string(topics)?);
        let rows = statement.query_map(params![int(before), portals, topics, int(limit as u64)], parked)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The time that the parked records of an account have begins anew at `now`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parked_anew(&self, portal: &str, now: u64) -> anyhow::Result<()> {
        let db = self.db();
        let mut statement = db.prepare_cached("UPDATE parked SET parked_at = ?2 WHERE portal = ?1 AND parked_at < ?2")?;
        statement.execute(params![portal, int(now)])?;
        Ok(())
    }

    /// A contact with this address has just been seen: what waits for it is due at `now`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parked_appeared(&self, portal: &str, email: &str, now: u64) -> anyhow::Result<()> {
        let db = self.db();
        let mut statement = db.prepare_cached("UPDATE parked SET next_at = min(next_at, ?3) WHERE portal = ?1 AND email = ?2")?;
        statement.execute(params![portal, email, int(now)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open;
    use super::super::{Settlement, Standing};
    use super::*;

    fn park(id: &str) -> Park {
        Park {
            ledger_key: LedgerKey::of("t", id),
            portal: "1".into(),
            email: "ada@example.com".into(),
            topic: "t".into(),
            partition: 0,
            offset: 7,
            key: None,
            payload: b"{}".to_vec(),
            parked_at: 100,
            next_at: 130,
            tries: 1,
        }
    }

    #[test]
    fn parked_records_wait_and_leave() {
        let (_folder, state) = open();
        state.settle(&Settlement { park: vec![park("1")], ..Default::default() }, 100).expect("settles");
        assert_eq!(state.standing(LedgerKey::of("t", "1")).expect("reads"), Standing::Settled, "it is not sent a second way");
        assert!(state.parked_due("1", 129, 10).expect("reads").is_empty());
        assert_eq!(state.parked_due("1", 130, 10).expect("reads"), [park("1")]);
        let later = Park { next_at: 500, tries: 2, parked_at: 131, ..park("1") };
        state.settle(&Settlement { park: vec![later.clone()], ..Default::default() }, 131).expect("settles");
        assert_eq!(
            state.parked_due("1", 500, 10).expect("reads"),
            [Park { parked_at: 100, ..later }],
            "the wait began at the first parking"
        );
        state.parked_appeared("1", "ada@example.com", 140).expect("writes");
        assert_eq!(state.parked_due("1", 140, 10).expect("reads").len(), 1);
        let done = vec![(LedgerKey::of("t", "1"), "delivered".to_owned())];
        state.settle(&Settlement { done, ..Default::default() }, 141).expect("settles");
        assert_eq!(state.parked_count().expect("reads"), 0);
    }

    #[test]
    fn parked_records_that_nobody_looks_after_are_found() {
        let (_folder, state) = open();
        let of = |id: &str, portal: &str, topic: &str| Park { portal: portal.into(), topic: topic.into(), ..park(id) };
        let rows = vec![of("1", "1", "t"), of("2", "gone", "t"), of("3", "1", "renamed")];
        state.settle(&Settlement { park: rows.clone(), ..Default::default() }, 1).expect("settles");
        let found = |before| state.parked_orphans(&["1".to_owned()], &["t".to_owned()], before, 10).expect("reads");
        assert_eq!(found(100), rows[1..]);
        assert_eq!(found(99), [], "not yet");
    }
}
