//! Erasing a person: what the database held of them goes, and whom to refuse from then on is remembered ([`Erased`]).
//!
//! # Guarantee
//! [`State::erase`] removes and remembers in one transaction, and [`State::settle_unless_erased`] commits nothing that was planned before
//! an erasure which it does not know. So a running sink writes nothing back, whoever erases, and a crash leaves both or neither.
//!
//! # Not guaranteed
//! That a request which is under way is called back. Backups of the file and blocks that the disk has put aside are not reached.

use super::State;
use super::erased::{Erased, hash, key};
use super::settle::{Settlement, int};
use crate::model::Named;
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, BTreeSet};

/// A person to erase in one HubSpot account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasure {
    /// The account.
    pub portal: String,
    /// All of the person's ids in it, those of merged contacts among them.
    pub contacts: BTreeSet<String>,
    /// All of the person's addresses.
    pub emails: BTreeSet<String>,
}

/// What an erasure has removed from the database, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Records that waited for their contact.
    pub parked: usize,
    /// Notes of which click a property was written from.
    pub values: usize,
    /// Refused records that had not reached their topic.
    pub dead_letters: usize,
    /// Ids and addresses that are refused from now on and were not before.
    pub remembered: usize,
}

/// Rows that are a person's.
#[derive(Debug, Default)]
struct Rows {
    parked: Vec<i64>,
    dead: Vec<i64>,
    values: usize,
}

impl Rows {
    fn find(db: &Connection, erasure: &Erasure) -> rusqlite::Result<Self> {
        let (who, portal) = (Erased::only(erasure), &erasure.portal);
        let mut found = Rows::default();
        let mut statement = db.prepare_cached("SELECT id, email, payload FROM parked WHERE portal = ?1")?;
        let mut rows = statement.query([portal])?;
        while let Some(row) = rows.next()? {
            let theirs = || row.get::<_, Vec<u8>>(2).map(|payload| who.named(&Named::in_record(&payload), &BTreeMap::new()));
            if who.email(portal, &row.get::<_, String>(1)?) || theirs()? {
                found.parked.push(row.get(0)?);
            }
        }
        // The bytes of those that are on their topic are no longer here.
        let mut statement = db.prepare_cached("SELECT id, payload FROM dead_letters WHERE published = 0")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if who.named(&Named::in_record(&row.get::<_, Vec<u8>>(1)?), &BTreeMap::new()) {
                found.dead.push(row.get(0)?);
            }
        }
        let mut statement = db.prepare_cached("SELECT count(*) FROM contact_values WHERE portal = ?1 AND contact = ?2")?;
        for contact in &erasure.contacts {
            found.values += statement.query_row([portal, contact], |row| row.get::<_, u32>(0))? as usize;
        }
        Ok(found)
    }
}
impl State {
    /// What [`State::erase`] would remove.
    ///
    /// # Errors
    /// When the database fails.
    pub fn erasable(&self, erasure: &Erasure) -> anyhow::Result<Removed> {
        let mut known = self.erased()?;
        let db = self.db();
        let Rows { parked, dead, values } = Rows::find(&db, erasure)?;
        known.learn_from(&db)?;
        let contacts = erasure.contacts.iter().filter(|id| !known.contact(&erasure.portal, id)).count();
        let emails = erasure.emails.iter().filter(|email| !known.email(&erasure.portal, email)).count();
        Ok(Removed { parked: parked.len(), values, dead_letters: dead.len(), remembered: contacts + emails })
    }

    /// Removes whatever is kept of a person but for the ledger's hashes ([`State::forget_ledger`]), and remembers whom to refuse from
    /// `now` (ms since the Unix epoch) on. The second time it finds nothing.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn erase(&self, erasure: &Erasure, now: u64) -> anyhow::Result<Removed> {
        let mut db = self.db();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Rows { parked, dead, values } = Rows::find(&tx, erasure)?;
        let mut removed = Removed { parked: parked.len(), values, dead_letters: dead.len(), remembered: 0 };
        for id in parked {
            // Why it failed, or that it was to be sent once more, goes with it.
            tx.execute("DELETE FROM ledger WHERE key = (SELECT ledger_key FROM parked WHERE id = ?1)", [id])?;
            tx.execute("DELETE FROM parked WHERE id = ?1", [id])?;
        }
        for id in dead {
            tx.execute("DELETE FROM dead_letters WHERE id = ?1", [id])?;
        }
        for contact in &erasure.contacts {
            tx.execute("DELETE FROM contact_values WHERE portal = ?1 AND contact = ?2", [&erasure.portal, contact])?;
            let insert = "INSERT INTO erasures (portal, contact, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            removed.remembered += tx.execute(insert, params![erasure.portal, contact, int(now)])?;
        }
        if !erasure.emails.is_empty() {
            tx.execute("INSERT INTO erasure_key VALUES (1, ?1) ON CONFLICT DO NOTHING", [rand::random::<[u8; 32]>().as_slice()])?;
            let key = key(&tx)?.ok_or_else(|| anyhow::anyhow!("the key of erased addresses was not stored"))?;
            for email in &erasure.emails {
                let hash = hash(&key, email);
                // Refused for as long as if it were the first time.
                tx.execute("UPDATE erasures SET at = ?3 WHERE portal = ?1 AND email = ?2", params![erasure.portal, hash, int(now)])?;
                let insert = "INSERT INTO erasures (portal, email, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
                removed.remembered += tx.execute(insert, params![erasure.portal, hash, int(now)])?;
            }
        }
        tx.commit()?;
        drop(db);
        self.scrub()?;
        Ok(removed)
    }

    /// Commits a settlement as [`State::settle`] does, but nothing of it where somebody was erased of whom `known` does not know; says which.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub fn settle_unless_erased(&self, settlement: &Settlement, known: &Erased, now: u64) -> anyhow::Result<bool> {
        self.settle_if(settlement, now, |tx| {
            let newest: i64 = tx.prepare_cached("SELECT coalesce(max(id), 0) FROM erasures")?.query_row([], |row| row.get(0))?;
            Ok(newest <= known.seen)
        })
    }

    /// Empties the write-ahead log, which still has the pages as they were. What was deleted from the pages themselves is overwritten
    /// (`secure_delete`).
    ///
    /// # Errors
    /// When the database fails.
    pub fn scrub(&self) -> anyhow::Result<()> {
        self.db().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{erasure, open};
    use super::super::{ContactValue, DeadLetterRow, LedgerKey, Park};
    use super::*;
    use crate::model::outputs::Person;

    fn park(portal: &str, email: &str) -> Park {
        let (topic, payload) = ("t".to_owned(), format!(r#"{{"portal":"{portal}","email":"{email}"}}"#).into_bytes());
        let ledger_key = LedgerKey::of("t", &format!("{portal} {email}"));
        let (portal, email) = (portal.to_owned(), email.to_owned());
        Park { ledger_key, portal, email, topic, partition: 0, offset: 1, key: None, payload, parked_at: 1, next_at: 1, tries: 1 }
    }

    fn dead(portal: &str, contact: &str) -> DeadLetterRow {
        let payload = format!(r#"{{"portal":"{portal}","contact_id":"{contact}"}}"#).into_bytes();
        let (topic, reason, detail) = ("t".to_owned(), "refused".to_owned(), "d".to_owned());
        DeadLetterRow { id: 0, at: 1, reason, detail, topic, partition: 0, offset: 3, key: None, payload }
    }

    fn value(portal: &str, contact: &str) -> ContactValue {
        ContactValue { portal: portal.into(), contact: contact.into(), property: "p".into(), ts: 1, click_id: "c".into() }
    }

    /// All bytes of the database's files.
    fn bytes(folder: &tempfile::TempDir) -> Vec<u8> {
        let files = std::fs::read_dir(folder.path().join("deep")).expect("lists");
        files.flat_map(|file| std::fs::read(file.expect("lists").path()).expect("reads")).collect()
    }

    fn holds(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }

    #[test]
    fn one_is_erased_and_nobody_else() {
        let (folder, state) = open();
        let settlement = Settlement {
            // Many of them, so that pages are split, freed and used again.
            park: (0..200)
                .map(|n| park("1", &format!("someone{n}@example.org")))
                .chain([park("1", "canary@example.com"), park("2", "canary@example.com")])
                .collect(),
            values: vec![value("1", "90210777"), value("1", "802"), value("2", "90210777")],
            dead: vec![dead("1", "90210777"), dead("1", "802"), dead("2", "90210777")],
            failing: vec![(park("1", "canary@example.com").ledger_key, 5)],
            ..Settlement::default()
        };
        state.settle(&settlement, 1).expect("settles");
        let ada = erasure("1", &["90210777"], &["Canary@Example.com"]);
        let expected = Removed { parked: 1, values: 1, dead_letters: 1, remembered: 2 };
        assert_eq!(state.erasable(&ada).expect("looks"), expected);
        assert_eq!(state.parked_count().expect("reads"), 202, "a look removes nothing");
        assert_eq!(state.erase(&ada, 9).expect("erases"), expected);
        assert_eq!(state.erase(&ada, 9).expect("erases"), Removed::default(), "nothing is left");
        assert_eq!(state.erasable(&ada).expect("looks"), Removed::default());
        assert_eq!(state.failing_since(park("1", "canary@example.com").ledger_key).expect("reads"), None);
        assert_eq!(state.parked_count().expect("reads"), 201);
        assert_eq!(state.contact_value("1", "802", "p").expect("reads"), Some((1, "c".into())));
        assert_eq!(state.dead_letters_unpublished(0, 9).expect("reads").len(), 2);
        let erased = state.erased().expect("reads");
        let email = |email: &str| Person::Email(email.to_owned());
        assert!(erased.person("1", &email(" canary@EXAMPLE.com")) && erased.contact("1", "90210777"));
        assert!(!erased.person("2", &email("canary@example.com")) && !erased.contact("2", "90210777"), "another account's");

        let other = erasure("2", &["90210777"], &["canary@example.com"]);
        assert_eq!(state.erase(&other, 9).expect("erases"), expected);
        let bytes = bytes(&folder);
        assert!(!holds(&bytes, "canary@"), "neither the file nor its log has the address");
        assert!(holds(&bytes, "someone7@example.org"));
    }

    #[test]
    fn what_was_deleted_before_is_overwritten_too() {
        let (folder, state) = open();
        state.settle(&Settlement { park: vec![park("1", "canary@example.com")], ..Default::default() }, 1).expect("settles");
        let done = vec![(park("1", "canary@example.com").ledger_key, "delivered".to_owned())];
        state.settle(&Settlement { done, ..Default::default() }, 2).expect("settles");
        state.erase(&erasure("1", &[], &["canary@example.com"]), 3).expect("erases");
        assert!(!holds(&bytes(&folder), "canary@"));
    }

    #[test]
    fn what_was_planned_before_an_erasure_is_not_committed() {
        let (_folder, state) = open();
        let mut known = Erased::default();
        let settlement = Settlement { park: vec![park("1", "ada@example.com")], offsets: vec![("t".into(), 0, 5)], ..Default::default() };
        state.erase(&erasure("1", &["801"], &["ada@example.com"]), 9).expect("erases");
        assert!(!state.settle_unless_erased(&settlement, &known, 10).expect("settles"));
        assert_eq!((state.parked_count().expect("reads"), state.offsets("t").expect("reads").len()), (0, 0), "nothing of it");
        assert!(known.learn(&state).expect("reads") && !known.learn(&state).expect("reads"), "once");
        assert!(state.settle_unless_erased(&Settlement { park: vec![], ..settlement }, &known, 10).expect("settles"));
        assert_eq!(state.offsets("t").expect("reads").len(), 1);
    }
}
