//! What the sink settles, in one transaction; and how far it has read.

use super::{DeadLetterRow, LedgerKey, Park, State, dead_letters, ledger, parked};
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

/// Notes from which click each property was written, unless a newer one was noted.
fn written(tx: &Transaction<'_>, values: &[ContactValue]) -> rusqlite::Result<()> {
    let mut upsert = tx.prepare_cached(
        "INSERT INTO contact_values (portal, contact, property, ts, click_id) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET ts = excluded.ts, click_id = excluded.click_id
         WHERE (excluded.ts, excluded.click_id) > (ts, click_id)",
    )?;
    for v in values {
        upsert.execute(params![v.portal, v.contact, v.property, int(v.ts), v.click_id])?;
    }
    Ok(())
}

/// Notes where to read on.
fn passed(tx: &Transaction<'_>, offsets: &[(String, i32, i64)]) -> rusqlite::Result<()> {
    let mut upsert = tx.prepare_cached(
        "INSERT INTO offsets (topic, partition, next) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET next = excluded.next",
    )?;
    for (topic, partition, next) in offsets {
        upsert.execute(params![topic, partition, next])?;
    }
    Ok(())
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
        ledger::failing(&tx, failing)?;
        ledger::done(&tx, done, now)?;
        ledger::forget(&tx, erased)?;
        parked::take_out(&tx, done.iter().map(|(key, _)| key).chain(erased))?;
        parked::put(&tx, park)?;
        written(&tx, values)?;
        dead_letters::put(&tx, dead)?;
        // Last, so that whoever reads this function sees what an offset vouches for.
        passed(&tx, offsets)?;
        super::alive::note(&tx, now)?;
        if !may(&tx)? {
            return Ok(false);
        }
        tx.commit()?;
        Ok(true)
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
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::super::tests::open;
    use super::*;

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
    fn an_older_click_does_not_replace_a_value() {
        let (_folder, state) = open();
        let value =
            |ts, id: &str| ContactValue { portal: "1".into(), contact: "801".into(), property: "p".into(), ts, click_id: id.into() };
        for (ts, id) in [(5, "b"), (4, "z"), (5, "a")] {
            state.settle(&Settlement { values: vec![value(ts, id)], ..Default::default() }, 1).expect("settles");
        }
        assert_eq!(state.contact_value("1", "801", "p").expect("reads"), Some((5, "b".into())));
    }
}
