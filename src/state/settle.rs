//! What the sink settles, in one transaction; and what it reads back at the start.

use super::dead_letters::DeadLetterRow;
use super::{LedgerKey, State};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::collections::BTreeMap;

/// What one commit of the sink changes.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Records that are done with, and how.
    pub done: Vec<(LedgerKey, String)>,
    /// Where to read on: topic, partition, next offset.
    pub offsets: Vec<(String, i32, i64)>,
    /// Records that wait in the database from now on, or wait longer.
    pub park: Vec<Park>,
    /// Properties as they were written.
    pub values: Vec<ContactValue>,
    /// Records that are refused for good.
    pub dead: Vec<DeadLetterRow>,
    /// Records that HubSpot has begun to fail to take, and since when (ms since the Unix epoch).
    pub failing: Vec<(LedgerKey, u64)>,
    /// Records of erased persons, dropped: nothing is kept of them, no outcome either.
    pub erased: Vec<LedgerKey>,
}

impl Settlement {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        let Settlement { done, offsets, park, values, dead, failing, erased } = self;
        let written = park.is_empty() && values.is_empty() && dead.is_empty();
        done.is_empty() && offsets.is_empty() && written && failing.is_empty() && erased.is_empty()
    }
}

/// What the ledger says of a record that is not done with: HubSpot fails to take it.
const FAILING: &str = "failing";
/// The same of a dead letter that is to be sent once more.
const REPLAY: &str = "replay";

/// How a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// To be sent.
    New,
    /// To be sent once more: it was a dead letter, and somebody has decided so.
    Replayed,
    /// To be sent; HubSpot has failed to take it since then, ms since the Unix epoch.
    Failing(u64),
    /// Done with, or parked: it must not be sent.
    Settled,
}

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

/// The click a written property value came from; an older one must not overwrite it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactValue {
    /// HubSpot account.
    pub portal: String,
    /// HubSpot's id of the contact.
    pub contact: String,
    /// The property's internal name.
    pub property: String,
    /// The click's own time.
    pub ts: u64,
    /// The click.
    pub click_id: String,
}

/// SQLite's integers are signed; times and offsets fit.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

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

impl State {
    /// Commits a settlement at `now` (ms since the Unix epoch): all of it or nothing.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn settle(&self, settlement: &Settlement, now: u64) -> anyhow::Result<()> {
        self.settle_if(settlement, now, |_| Ok(true)).map(drop)
    }

    /// Commits a settlement if `may` says so, which is asked last, when nobody else can write any more; says which.
    pub(super) fn settle_if(
        &self,
        settlement: &Settlement,
        now: u64,
        may: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<bool>,
    ) -> anyhow::Result<bool> {
        let Settlement { done, offsets, park, values, dead, failing, erased } = settlement;
        let mut db = self.db();
        let tx = db.transaction()?;
        {
            let mut insert = tx.prepare_cached(
                "INSERT INTO ledger (key, outcome, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET at = excluded.at WHERE outcome = 'failing'",
            )?;
            for (key, since) in failing {
                insert.execute(params![key.0.as_slice(), FAILING, int(*since)])?;
            }
            let mut insert = tx.prepare_cached(
                "INSERT INTO ledger (key, outcome, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET outcome = excluded.outcome, at = excluded.at WHERE outcome IN ('failing', 'replay')",
            )?;
            let mut unpark = tx.prepare_cached("DELETE FROM parked WHERE ledger_key = ?1")?;
            for (key, outcome) in done {
                insert.execute(params![key.0.as_slice(), outcome, int(now)])?;
                unpark.execute([key.0.as_slice()])?;
            }
            let mut forget = tx.prepare_cached("DELETE FROM ledger WHERE key = ?1 AND outcome IN ('failing', 'replay')")?;
            for key in erased {
                forget.execute([key.0.as_slice()])?;
                unpark.execute([key.0.as_slice()])?;
            }
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
            let mut upsert = tx.prepare_cached(
                "INSERT INTO contact_values (portal, contact, property, ts, click_id) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET ts = excluded.ts, click_id = excluded.click_id
                 WHERE (excluded.ts, excluded.click_id) > (ts, click_id)",
            )?;
            for v in values {
                upsert.execute(params![v.portal, v.contact, v.property, int(v.ts), v.click_id])?;
            }
            let mut insert = tx.prepare_cached(
                "INSERT INTO dead_letters (at, reason, detail, topic, partition, \"offset\", key, payload, published)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
            )?;
            for d in dead {
                let key: Value = d.key.clone().map_or(Value::Null, Value::Blob);
                insert.execute(params![int(d.at), d.reason, d.detail, d.topic, d.partition, d.offset, key, d.payload])?;
            }
            // Last, so that whoever reads this function sees what an offset vouches for.
            let mut upsert = tx.prepare_cached(
                "INSERT INTO offsets (topic, partition, next) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET next = excluded.next",
            )?;
            for (topic, partition, next) in offsets {
                upsert.execute(params![topic, partition, next])?;
            }
        }
        super::alive::note(&tx, now)?;
        if !may(&tx)? {
            return Ok(false);
        }
        tx.commit()?;
        Ok(true)
    }

    /// How a record stands.
    ///
    /// # Errors
    /// When the database fails.
    pub fn standing(&self, key: LedgerKey) -> anyhow::Result<Standing> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM parked WHERE ledger_key = ?1)")?;
        if statement.query_row([key.0.as_slice()], |row| row.get(0))? {
            return Ok(Standing::Settled);
        }
        let mut statement = db.prepare_cached("SELECT outcome, at FROM ledger WHERE key = ?1")?;
        let row = statement.query_row([key.0.as_slice()], |row| Ok((row.get::<_, String>(0)?, uint(row, 1)?))).optional()?;
        Ok(match row {
            None => Standing::New,
            Some((outcome, since)) if outcome == FAILING => Standing::Failing(since),
            Some((outcome, _)) if outcome == REPLAY => Standing::Replayed,
            Some(_) => Standing::Settled,
        })
    }

    /// Since when HubSpot has failed to take a record that is not done with, parked ones included; ms since the Unix epoch.
    ///
    /// # Errors
    /// When the database fails.
    pub fn failing_since(&self, key: LedgerKey) -> anyhow::Result<Option<u64>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT at FROM ledger WHERE key = ?1 AND outcome = 'failing'")?;
        Ok(statement.query_row([key.0.as_slice()], |row| uint(row, 0)).optional()?)
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

    /// What was done with a record.
    ///
    /// # Errors
    /// When the database fails.
    pub fn outcome(&self, key: LedgerKey) -> anyhow::Result<Option<String>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT outcome FROM ledger WHERE key = ?1")?;
        Ok(statement.query_row([key.0.as_slice()], |row| row.get(0)).optional()?)
    }

    /// Where to read on in a topic, by partition.
    ///
    /// # Errors
    /// When the database fails.
    pub fn offsets(&self, topic: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT partition, next FROM offsets WHERE topic = ?1")?;
        let rows = statement.query_map([topic], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

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

    /// The click that a contact's property was last written from: its time and id.
    ///
    /// # Errors
    /// When the database fails.
    pub fn contact_value(&self, portal: &str, contact: &str, property: &str) -> anyhow::Result<Option<(u64, String)>> {
        let db = self.db();
        let mut statement =
            db.prepare_cached("SELECT ts, click_id FROM contact_values WHERE portal = ?1 AND contact = ?2 AND property = ?3")?;
        Ok(statement.query_row([portal, contact, property], |row| Ok((uint(row, 0)?, row.get(1)?))).optional()?)
    }

    /// Forgets what was settled before `before` (ms since the Unix epoch), at most `limit` records; gives back how many.
    ///
    /// # Errors
    /// When the database fails.
    pub fn prune(&self, before: u64, limit: usize) -> anyhow::Result<usize> {
        let db = self.db();
        let mut statement =
            db.prepare_cached("DELETE FROM ledger WHERE key IN (SELECT key FROM ledger WHERE at < ?1 ORDER BY at LIMIT ?2)")?;
        Ok(statement.execute(params![int(before), int(limit as u64)])?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open;
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
    fn a_settlement_is_remembered() {
        let (_folder, state) = open();
        let key = LedgerKey::of("t", "1");
        assert_eq!(state.standing(key).expect("reads"), Standing::New);
        let settlement = Settlement {
            done: vec![(key, "delivered".into())],
            offsets: vec![("t".into(), 0, 5), ("t".into(), 1, 9)],
            ..Default::default()
        };
        state.settle(&settlement, 1).expect("settles");
        assert_eq!(state.standing(key).expect("reads"), Standing::Settled);
        assert_eq!(state.standing(LedgerKey::of("other", "1")).expect("reads"), Standing::New, "ids belong to their topic");
        assert_eq!(state.outcome(key).expect("reads").as_deref(), Some("delivered"));
        assert_eq!(state.offsets("t").expect("reads"), BTreeMap::from([(0, 5), (1, 9)]));
        assert_eq!(state.prune(1, 10).expect("prunes"), 0);
        assert_eq!(state.prune(2, 10).expect("prunes"), 1);
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
    fn an_older_click_does_not_replace_a_value() {
        let (_folder, state) = open();
        let value =
            |ts, id: &str| ContactValue { portal: "1".into(), contact: "801".into(), property: "p".into(), ts, click_id: id.into() };
        for (ts, id) in [(5, "b"), (4, "z"), (5, "a")] {
            state.settle(&Settlement { values: vec![value(ts, id)], ..Default::default() }, 1).expect("settles");
        }
        assert_eq!(state.contact_value("1", "801", "p").expect("reads"), Some((5, "b".into())));
    }

    #[test]
    fn a_record_that_fails_is_remembered_until_it_is_done_with() {
        let (_folder, state) = open();
        let key = LedgerKey::of("t", "1");
        let failing = |since| Settlement { failing: vec![(key, since)], ..Default::default() };
        let done = |outcome: &str| Settlement { done: vec![(key, outcome.to_owned())], ..Default::default() };
        state.settle(&failing(7), 7).expect("settles");
        state.settle(&failing(9), 9).expect("settles");
        assert_eq!(state.standing(key).expect("reads"), Standing::Failing(9), "the sink says since when");
        assert_eq!(state.failing_since(key).expect("reads"), Some(9));
        state.settle(&done("dead: gave-up"), 10).expect("settles");
        state.settle(&failing(11), 11).expect("settles");
        assert_eq!(state.standing(key).expect("reads"), Standing::Settled);
        let decision = LedgerKey::of("decisions", "t:0:3");
        state.decide(decision, "replaying", (("t", 0, 3), 1), Some(key), 12).expect("decides");
        assert_eq!(state.standing(key).expect("reads"), Standing::Replayed, "once more");
        state.settle(&done("delivered"), 13).expect("settles");
        state.decide(decision, "replaying", (("t", 0, 3), 1), Some(key), 14).expect("decides");
        assert_eq!(state.outcome(key).expect("reads").as_deref(), Some("delivered"), "what was delivered is not sent again");
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
