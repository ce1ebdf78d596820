//! The ledger: what was done with each record, and since when HubSpot fails to take one.

use super::settle::{int, uint};
use super::{LedgerKey, State};
use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, params};
use std::collections::BTreeSet;

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

/// HubSpot fails to take these records, since then.
pub(super) fn failing(tx: &Transaction<'_>, failing: &[(LedgerKey, u64)]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO ledger (key, outcome, at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET at = excluded.at WHERE outcome = 'failing'",
    )?;
    for (key, since) in failing {
        insert.execute(params![key.0.as_slice(), FAILING, int(*since)])?;
    }
    Ok(())
}

/// These records are done with, and how. What was done with a record before stays.
pub(super) fn done(tx: &Transaction<'_>, done: &[(LedgerKey, String)], now: u64) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO ledger (key, outcome, at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET outcome = excluded.outcome, at = excluded.at WHERE outcome IN ('failing', 'replay')",
    )?;
    for (key, outcome) in done {
        insert.execute(params![key.0.as_slice(), outcome, int(now)])?;
    }
    Ok(())
}

/// Nothing is to be known of these records that are not done with.
pub(super) fn forget(tx: &Transaction<'_>, erased: &[LedgerKey]) -> rusqlite::Result<()> {
    let mut forget = tx.prepare_cached("DELETE FROM ledger WHERE key = ?1 AND outcome IN ('failing', 'replay')")?;
    for key in erased {
        forget.execute([key.0.as_slice()])?;
    }
    Ok(())
}

impl State {
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

    /// What was done with a record.
    ///
    /// # Errors
    /// When the database fails.
    pub fn outcome(&self, key: LedgerKey) -> anyhow::Result<Option<String>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT outcome FROM ledger WHERE key = ?1")?;
        Ok(statement.query_row([key.0.as_slice()], |row| row.get(0)).optional()?)
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

    /// How many of these records the ledger knows.
    ///
    /// # Errors
    /// When the database fails.
    pub fn ledger_count(&self, keys: &BTreeSet<LedgerKey>) -> anyhow::Result<usize> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM ledger WHERE key = ?1)")?;
        let known = keys.iter().map(|key| statement.query_row([key.0.as_slice()], |row| row.get::<_, bool>(0)));
        Ok(known.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().filter(|known| *known).count())
    }

    /// The ledger no longer knows these records; they must be of erased persons, for nothing else keeps them from being sent again.
    /// Gives back how many it knew.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn forget_ledger(&self, keys: &BTreeSet<LedgerKey>) -> anyhow::Result<usize> {
        let mut db = self.db();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut known = 0;
        for key in keys {
            known += tx.prepare_cached("DELETE FROM ledger WHERE key = ?1")?.execute([key.0.as_slice()])?;
        }
        tx.commit()?;
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settlement;
    use super::super::tests::open;
    use super::*;

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
}
