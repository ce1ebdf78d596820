//! Refused records: on their way to the dead-letter topic, and what was decided about them.

use super::settle::{int, uint};
use super::{LedgerKey, State};
use rusqlite::types::Value;
use rusqlite::{Transaction, TransactionBehavior, params};
use std::collections::BTreeSet;

/// A refused record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// The row; 0 before it is stored.
    pub id: i64,
    /// When it was refused, ms since the Unix epoch.
    pub at: u64,
    /// Reason code.
    pub reason: String,
    /// What is wrong, without quoting the record.
    pub detail: String,
    /// Where it was read.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The original bytes.
    pub payload: Vec<u8>,
}

/// Keeps refused records until they are on the dead-letter topic.
pub(super) fn put(tx: &Transaction<'_>, dead: &[DeadLetterRow]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO dead_letters (at, reason, detail, topic, partition, \"offset\", key, payload, published)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
    )?;
    for d in dead {
        let key: Value = d.key.clone().map_or(Value::Null, Value::Blob);
        insert.execute(params![int(d.at), d.reason, d.detail, d.topic, d.partition, d.offset, key, d.payload])?;
    }
    Ok(())
}

impl State {
    /// Up to `limit` refused records that are not yet on the dead-letter topic and come after the row `after`, oldest first; 0: from the
    /// first on.
    ///
    /// # Errors
    /// When the database fails.
    pub fn dead_letters_unpublished(&self, after: i64, limit: usize) -> anyhow::Result<Vec<DeadLetterRow>> {
        let db = self.db();
        let mut statement = db.prepare_cached(
            "SELECT id, at, reason, detail, topic, partition, \"offset\", key, payload FROM dead_letters
             WHERE published = 0 AND id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let rows = statement.query_map([after, int(limit as u64)], |row| {
            Ok(DeadLetterRow {
                id: row.get(0)?,
                at: uint(row, 1)?,
                reason: row.get(2)?,
                detail: row.get(3)?,
                topic: row.get(4)?,
                partition: row.get(5)?,
                offset: row.get(6)?,
                key: row.get(7)?,
                payload: row.get(8)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// These refused records are on the dead-letter topic; their bytes are no longer kept here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn dead_letters_published(&self, ids: &[i64]) -> anyhow::Result<()> {
        let mut db = self.db();
        let tx = db.transaction()?;
        {
            let mut statement = tx.prepare_cached("UPDATE dead_letters SET published = 1, key = NULL, payload = x'' WHERE id = ?1")?;
            for id in ids {
                statement.execute([id])?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// How many refused records nobody has decided about, and when the oldest of them was refused (ms since the Unix epoch).
    ///
    /// # Errors
    /// When the database fails.
    pub fn dead_letters_open(&self) -> anyhow::Result<(u64, Option<u64>)> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT count(*), min(at) FROM dead_letters")?;
        Ok(statement.query_row([], |row| Ok((uint(row, 0)?, row.get::<_, Option<i64>>(1)?.map(|at| u64::try_from(at).unwrap_or(0)))))?)
    }

    /// Decides about a dead letter, in one transaction: `decision` names it, `outcome` is kept for it; the record that was read at
    /// `place` (topic, partition, offset) and refused at `at` (ms since the Unix epoch) no longer counts as an open one; another that was
    /// read at the same place, from a topic that was made anew, does. With `again` the record of that ledger key is to be sent once more.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn decide(
        &self,
        decision: LedgerKey,
        outcome: &str,
        (place, at): ((&str, i32, i64), u64),
        again: Option<LedgerKey>,
        now: u64,
    ) -> anyhow::Result<()> {
        let mut db = self.db();
        let tx = db.transaction()?;
        tx.execute(
            "INSERT INTO ledger (key, outcome, at) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET outcome = excluded.outcome, at = excluded.at",
            params![decision.0.as_slice(), outcome, int(now)],
        )?;
        if let Some(record) = again {
            // Only a dead one: what was delivered meanwhile stays so.
            tx.execute("UPDATE ledger SET outcome = 'replay' WHERE key = ?1 AND outcome LIKE 'dead:%'", [record.0.as_slice()])?;
        }
        let (topic, partition, offset) = place;
        // Whoever decides has seen it on its topic, also where a crash kept us from noting that.
        tx.execute(
            "DELETE FROM dead_letters WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND at = ?4",
            params![topic, partition, offset, int(at)],
        )?;
        tx.commit()?;
        Ok(())
    }

    /// How many refused records that were read at these places (topic, partition, offset) count as open.
    ///
    /// # Errors
    /// When the database fails.
    pub fn dead_letter_count(&self, places: &BTreeSet<(String, i32, i64)>) -> anyhow::Result<usize> {
        let db = self.db();
        let count = "SELECT count(*) FROM dead_letters WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND published = 1";
        let mut statement = db.prepare_cached(count)?;
        let rows = places.iter().map(|(topic, partition, offset)| statement.query_row(params![topic, partition, offset], |row| row.get(0)));
        Ok(rows.collect::<rusqlite::Result<Vec<u32>>>()?.into_iter().map(|count| count as usize).sum())
    }

    /// Refused records that were read at these places (topic, partition, offset) no longer count as open. Gives back how many did.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn forget_dead_letters(&self, places: &BTreeSet<(String, i32, i64)>) -> anyhow::Result<usize> {
        let mut db = self.db();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut known = 0;
        for (topic, partition, offset) in places {
            let delete = "DELETE FROM dead_letters WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND published = 1";
            known += tx.prepare_cached(delete)?.execute(params![topic, partition, offset])?;
        }
        tx.commit()?;
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settle::Settlement;
    use super::super::tests::open;
    use super::*;

    #[test]
    fn dead_letters_are_published_once() {
        let (_folder, state) = open();
        let dead = DeadLetterRow {
            id: 0,
            at: 1,
            reason: "refused".into(),
            detail: "d".into(),
            topic: "t".into(),
            partition: 0,
            offset: 3,
            key: Some(b"k".to_vec()),
            payload: b"p".to_vec(),
        };
        state.settle(&Settlement { dead: vec![dead.clone()], ..Default::default() }, 1).expect("settles");
        let rows = state.dead_letters_unpublished(0, 10).expect("reads");
        assert_eq!(rows, [DeadLetterRow { id: rows[0].id, ..dead.clone() }]);
        assert!(state.dead_letters_unpublished(rows[0].id, 10).expect("reads").is_empty(), "what comes after it");
        state.dead_letters_published(&[rows[0].id]).expect("writes");
        assert!(state.dead_letters_unpublished(0, 10).expect("reads").is_empty());
        assert_eq!(state.dead_letters_open().expect("reads"), (1, Some(1)));
        let decision = LedgerKey::of("decisions", "t:0:3");
        state.decide(decision, "dropped", (("t", 0, 3), 1), None, 5).expect("decides");
        assert_eq!(state.dead_letters_open().expect("reads"), (0, None));
        assert_eq!(state.outcome(decision).expect("reads").as_deref(), Some("dropped"));
        // A crash between the topic's acknowledgement and our note of it.
        state.settle(&Settlement { dead: vec![DeadLetterRow { offset: 4, ..dead }], ..Default::default() }, 6).expect("settles");
        let decision = LedgerKey::of("decisions", "t:0:4");
        state.decide(decision, "dropped", (("t", 0, 4), 0), None, 7).expect("decides");
        assert_eq!(state.dead_letters_open().expect("reads"), (1, Some(1)), "another was refused at that time and place");
        state.decide(decision, "dropped", (("t", 0, 4), 1), None, 7).expect("decides");
        assert_eq!(state.dead_letters_open().expect("reads"), (0, None));
        assert!(state.dead_letters_unpublished(0, 10).expect("reads").is_empty());
    }
}
