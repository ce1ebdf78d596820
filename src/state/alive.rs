//! Time in which no sink ran: it counts neither towards the tries of a record that HubSpot fails to take nor towards the wait of a parked one.
//!
//! Each [`Settlement`](super::Settlement) and, where there is nothing to settle, [`State::alive`] every few seconds notes the time. What
//! lies between the last note and the next start was spent stopped, so [`State::resume`] moves the beginning of every wait by that much.
//! A crash adds to a wait at most what [`EVERY`] is.

use super::State;
use super::settle::int;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::time::Duration;

/// How often a sink that settles nothing notes that it runs.
pub const EVERY: Duration = Duration::from_secs(5);

/// Notes that a sink runs at `now`; never goes back.
pub(super) fn note(db: &Connection, now: u64) -> rusqlite::Result<()> {
    let statement = "INSERT INTO alive (one, at) VALUES (1, ?1) ON CONFLICT DO UPDATE SET at = excluded.at WHERE excluded.at > at";
    db.prepare_cached(statement)?.execute([int(now)])?;
    Ok(())
}

impl State {
    /// A sink runs at `now` (ms since the Unix epoch).
    ///
    /// # Errors
    /// When the database fails.
    pub fn alive(&self, now: u64) -> anyhow::Result<()> {
        Ok(note(&self.db(), now)?)
    }

    /// A sink starts at `now` (ms since the Unix epoch): since the last note none has run, so whatever began to fail or to wait before
    /// began later by as much. Gives back that time, ms. All of it or nothing: a crash in here moves nothing twice.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn resume(&self, now: u64) -> anyhow::Result<u64> {
        let mut db = self.db();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let last: Option<i64> = tx.query_row("SELECT at FROM alive", [], |row| row.get(0)).optional()?;
        // A file from before there were notes, or a clock that went back: nothing is known, and nothing moves.
        let stopped = last.map_or(0, |last| int(now).saturating_sub(last).max(0));
        if stopped > 0 {
            // What began after the last note is not moved into the future.
            tx.execute("UPDATE ledger SET at = max(at, min(at + ?1, ?2)) WHERE outcome = 'failing'", params![stopped, int(now)])?;
            tx.execute("UPDATE parked SET parked_at = max(parked_at, min(parked_at + ?1, ?2))", params![stopped, int(now)])?;
        }
        note(&tx, now)?;
        tx.commit()?;
        Ok(u64::try_from(stopped).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::settle::Settlement;
    use super::super::tests::open;
    use super::super::{LedgerKey, Park};
    use proptest::prelude::*;

    const WEEK: u64 = 7 * 86_400_000;

    fn park(key: LedgerKey, now: u64) -> Park {
        let (topic, payload) = ("t".into(), b"{}".to_vec());
        let (portal, email) = ("1".into(), "ada@example.com".into());
        Park { ledger_key: key, portal, email, topic, partition: 0, offset: 1, key: None, payload, parked_at: now, next_at: now, tries: 1 }
    }

    #[test]
    fn a_week_stopped_takes_no_time_from_a_record() {
        let (_folder, state) = open();
        let (key, waits) = (LedgerKey::of("t", "1"), LedgerKey::of("t", "2"));
        assert_eq!(state.resume(1_000).expect("starts"), 0, "the first start");
        let settlement = Settlement { failing: vec![(key, 2_000)], park: vec![park(waits, 2_000)], ..Default::default() };
        state.settle(&settlement, 2_000).expect("settles");
        state.alive(5_000).expect("notes");
        assert_eq!(state.resume(5_000 + WEEK).expect("starts"), WEEK);
        assert_eq!(state.failing_since(key).expect("reads"), Some(2_000 + WEEK), "it has failed for three seconds, as before");
        assert_eq!(state.parked_due("1", 5_000 + WEEK, 9).expect("reads")[0].parked_at, 2_000 + WEEK);
        assert_eq!(state.resume(5_000 + WEEK).expect("starts"), 0, "a crash right after the start moves nothing again");
        assert_eq!(state.resume(4_000).expect("starts"), 0, "nor does a clock that goes back");
        assert_eq!(state.failing_since(key).expect("reads"), Some(2_000 + WEEK));
    }

    #[test]
    fn what_was_settled_stays_where_it_was() {
        let (_folder, state) = open();
        let key = LedgerKey::of("t", "1");
        state.settle(&Settlement { done: vec![(key, "delivered".into())], ..Default::default() }, 1_000).expect("settles");
        state.resume(1_000 + WEEK).expect("starts");
        assert_eq!(state.prune(1_001, 9).expect("prunes"), 1, "the ledger's own age is that of the wall clock");
    }

    proptest! {
        /// Whatever the runs and stops: a record has failed for the time that sinks ran, give or take nothing where each run ends with a note.
        #[test]
        fn only_running_time_counts(runs in prop::collection::vec((0u64..100_000, 0u64..1_000_000), 1..12)) {
            let (_folder, state) = open();
            let key = LedgerKey::of("t", "1");
            let (mut now, mut ran) = (1_000_000, 0);
            state.resume(now).expect("starts");
            state.settle(&Settlement { failing: vec![(key, now)], ..Default::default() }, now).expect("settles");
            for (run, stop) in runs {
                now += run;
                ran += run;
                state.alive(now).expect("notes");
                now += stop;
                state.resume(now).expect("starts");
                prop_assert_eq!(now - state.failing_since(key).expect("reads").expect("fails"), ran);
            }
        }
    }
}
