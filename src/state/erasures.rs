//! Erased persons: what the database held of them is gone, and what names them later is dropped.
//!
//! # What is remembered
//! Whoever must be refused later must be known again. Of a contact that is its bare id in HubSpot, for ever: links in old mails carry it,
//! and once HubSpot and this database have nothing else it leads to nobody. Of an address it is HMAC-SHA-256 under a key of this file,
//! until nothing older than the erasure can arrive any more (`ledger_for`). The key keeps tables of hashes that somebody else has made from
//! fitting; whoever has the file can still ask it about an address that he knows.
//!
//! # Guarantee
//! [`State::erase`] removes and remembers in one transaction, and [`State::settle_unless_erased`] commits nothing that was planned before
//! an erasure which it does not know. So a running sink writes nothing back, whoever erases, and a crash leaves both or neither.
//!
//! # Not guaranteed
//! That a request which is under way is called back. Backups of the file and blocks that the disk has put aside are not reached.

use super::settle::{Settlement, int};
use super::{LedgerKey, State};
use crate::model::Named;
use crate::model::inputs::normal_email;
use crate::model::outputs::Person;
use ring::hmac;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Version 4.
pub(super) const ERASURES: &str = "
CREATE TABLE erasures (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    portal  TEXT NOT NULL,
    contact TEXT,
    email   BLOB,
    at      INTEGER NOT NULL,
    swept   INTEGER NOT NULL DEFAULT 0,
    CHECK ((contact IS NULL) <> (email IS NULL))
) STRICT;
CREATE UNIQUE INDEX erasures_contact ON erasures (portal, contact) WHERE contact IS NOT NULL;
CREATE UNIQUE INDEX erasures_email ON erasures (portal, email) WHERE email IS NOT NULL;
CREATE TABLE erasure_key (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    key BLOB NOT NULL
) STRICT;
";

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

/// Who is erased, as it is asked about each record: in memory, a few hundred bytes a person.
#[derive(Clone, Debug, Default)]
pub struct Erased {
    key: Option<hmac::Key>,
    /// The last row that is in here.
    seen: i64,
    contacts: BTreeMap<String, HashSet<String>>,
    emails: BTreeMap<String, HashSet<Vec<u8>>>,
}

fn hash(key: &hmac::Key, email: &str) -> Vec<u8> {
    hmac::sign(key, normal_email(email).as_bytes()).as_ref().to_vec()
}

impl Erased {
    /// This person alone.
    pub fn only(erasure: &Erasure) -> Self {
        let Erasure { portal, contacts, emails } = erasure;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let emails = emails.iter().map(|email| hash(&key, email)).collect();
        Erased {
            contacts: BTreeMap::from([(portal.clone(), contacts.iter().cloned().collect())]),
            emails: BTreeMap::from([(portal.clone(), emails)]),
            key: Some(key),
            seen: 0,
        }
    }

    /// Whether nobody is.
    pub fn nobody(&self) -> bool {
        self.contacts.is_empty() && self.emails.is_empty()
    }

    /// The accounts in which somebody is.
    pub fn portals(&self) -> BTreeSet<&str> {
        self.contacts.keys().chain(self.emails.keys()).map(String::as_str).collect()
    }

    /// The erased ids of an account.
    pub fn contacts(&self, portal: &str) -> impl Iterator<Item = &String> {
        self.contacts.get(portal).into_iter().flatten()
    }

    /// Whether a contact is.
    pub fn contact(&self, portal: &str, id: &str) -> bool {
        self.contacts.get(portal).is_some_and(|ids| ids.contains(id))
    }

    /// Whether an address is; it need not be in its normal form.
    pub fn email(&self, portal: &str, email: &str) -> bool {
        let hashes = self.emails.get(portal).filter(|hashes| !hashes.is_empty());
        hashes.zip(self.key.as_ref()).is_some_and(|(hashes, key)| hashes.contains(&hash(key, email)))
    }

    /// Whether the person of a delta is.
    pub fn person(&self, portal: &str, person: &Person) -> bool {
        match person {
            Person::ContactId(id) => self.contact(portal, id),
            Person::Email(email) => self.email(portal, email),
        }
    }

    /// Whether a record names somebody who is. `portals` are those of the workspaces: a record that names no account belongs to all
    /// of its workspace's, and one that names no workspace that is known to any.
    pub fn named(&self, named: &Named, portals: &BTreeMap<String, Vec<String>>) -> bool {
        if self.nobody() || named.nobody() {
            return false;
        }
        let of_workspace = named.workspace.as_ref().and_then(|workspace| portals.get(workspace));
        let asked: BTreeSet<&str> = match (&named.portal, of_workspace) {
            (Some(portal), _) => BTreeSet::from([portal.as_str()]),
            (None, Some(portals)) => portals.iter().map(String::as_str).collect(),
            (None, None) => self.portals(),
        };
        asked.into_iter().any(|portal| {
            named.contacts.iter().any(|id| self.contact(portal, id)) || named.emails.iter().any(|email| self.email(portal, email))
        })
    }

    /// Takes in who was erased since the last time; says whether anybody was.
    ///
    /// # Errors
    /// When the database fails.
    pub fn learn(&mut self, state: &State) -> anyhow::Result<bool> {
        self.learn_from(&state.db())
    }

    fn learn_from(&mut self, db: &Connection) -> anyhow::Result<bool> {
        let before = self.seen;
        let mut statement = db.prepare_cached("SELECT id, portal, contact, email FROM erasures WHERE id > ?1 ORDER BY id")?;
        let mut rows = statement.query([before])?;
        while let Some(row) = rows.next()? {
            self.seen = row.get(0)?;
            let portal: String = row.get(1)?;
            match (row.get::<_, Option<String>>(2)?, row.get::<_, Option<Vec<u8>>>(3)?) {
                (Some(contact), _) => drop(self.contacts.entry(portal).or_default().insert(contact)),
                (None, Some(email)) => drop(self.emails.entry(portal).or_default().insert(email)),
                (None, None) => {}
            }
        }
        if self.seen > before && self.key.is_none() {
            self.key = key(db)?;
        }
        Ok(self.seen > before)
    }
}

fn key(db: &Connection) -> rusqlite::Result<Option<hmac::Key>> {
    let key: Option<Vec<u8>> = db.query_row("SELECT key FROM erasure_key", [], |row| row.get(0)).optional()?;
    Ok(key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)))
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
    /// Everybody who is erased.
    ///
    /// # Errors
    /// When the database fails.
    pub fn erased(&self) -> anyhow::Result<Erased> {
        let mut erased = Erased::default();
        erased.learn(self)?;
        Ok(erased)
    }

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
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut known = 0;
        for key in keys {
            known += tx.prepare_cached("DELETE FROM ledger WHERE key = ?1")?.execute([key.0.as_slice()])?;
        }
        tx.commit()?;
        Ok(known)
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
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut known = 0;
        for (topic, partition, offset) in places {
            let delete = "DELETE FROM dead_letters WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND published = 1";
            known += tx.prepare_cached(delete)?.execute(params![topic, partition, offset])?;
        }
        tx.commit()?;
        Ok(known)
    }

    /// How often the other stores were gone through for whoever was erased the longest ago with the fewest such rounds: that number, and
    /// when the erasure was (ms since the Unix epoch). `None` when nobody is erased.
    ///
    /// # Errors
    /// When the database fails.
    pub fn least_swept(&self) -> anyhow::Result<Option<(u64, u64)>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT swept, min(at) FROM erasures GROUP BY swept ORDER BY swept LIMIT 1")?;
        Ok(statement.query_row([], |row| Ok((super::settle::uint(row, 0)?, super::settle::uint(row, 1)?))).optional()?)
    }

    /// The other stores were gone through for everybody whom `known` knows.
    ///
    /// # Errors
    /// When the database fails.
    pub fn swept(&self, known: &Erased) -> anyhow::Result<()> {
        self.db().execute("UPDATE erasures SET swept = swept + 1 WHERE id <= ?1", [known.seen])?;
        Ok(())
    }

    /// Addresses that were erased before `before` (ms since the Unix epoch) are no longer refused: nothing that old arrives any more.
    ///
    /// # Errors
    /// When the database fails.
    pub fn prune_erasures(&self, before: u64) -> anyhow::Result<usize> {
        Ok(self.db().prepare_cached("DELETE FROM erasures WHERE email IS NOT NULL AND at < ?1")?.execute([int(before)])?)
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
    use super::super::tests::open;
    use super::super::{ContactValue, DeadLetterRow, Park};
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400_000;

    fn erasure(portal: &str, contacts: &[&str], emails: &[&str]) -> Erasure {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
        Erasure { portal: portal.to_owned(), contacts: texts(contacts), emails: texts(emails) }
    }

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

    #[test]
    fn addresses_are_forgotten_in_the_end_and_ids_never() {
        let (_folder, state) = open();
        state.erase(&erasure("1", &["801"], &["ada@example.com", "b@example.com"]), DAY).expect("erases");
        state.erase(&erasure("1", &[], &["b@example.com"]), 3 * DAY).expect("erases");
        assert_eq!(state.prune_erasures(2 * DAY).expect("prunes"), 1);
        let erased = state.erased().expect("reads");
        assert!(erased.contact("1", "801") && !erased.email("1", "ada@example.com") && erased.email("1", "b@example.com"));
        // Numbers are not given a second time, so nobody is missed who was erased after that.
        let mut known = erased;
        assert_eq!(state.prune_erasures(4 * DAY).expect("prunes"), 1);
        state.erase(&erasure("1", &["9"], &[]), 5 * DAY).expect("erases");
        assert!(known.learn(&state).expect("reads") && known.contact("1", "9"));
    }

    #[test]
    fn rounds_are_counted_for_those_who_are_known() {
        let (_folder, state) = open();
        assert_eq!(state.least_swept().expect("reads"), None);
        state.erase(&erasure("1", &["801"], &[]), 5).expect("erases");
        let known = state.erased().expect("reads");
        state.erase(&erasure("1", &["802"], &[]), 7).expect("erases");
        state.swept(&known).expect("writes");
        assert_eq!(state.least_swept().expect("reads"), Some((0, 7)));
    }

    #[test]
    fn records_without_an_account_belong_to_those_of_their_workspace() {
        let erased = Erased::only(&erasure("1", &["801"], &["ada@example.com"]));
        let portals = BTreeMap::from([("acme".to_owned(), vec!["1".to_owned()]), ("other".to_owned(), vec!["2".to_owned()])]);
        let named = |text: &str| erased.named(&Named::in_record(text.as_bytes()), &portals);
        assert!(named(r#"{"workspace":"acme","contact_id":"801"}"#) && named(r#"{"portal":"1","email":"Ada@example.com"}"#));
        assert!(!named(r#"{"workspace":"other","contact_id":"801"}"#) && !named(r#"{"portal":"2","email":"ada@example.com"}"#));
        assert!(named("broken ada@example.com") && !named("broken grace@example.com"));
    }

    proptest! {
        /// Whoever is erased, in whatever order and however often: exactly they are known, also by those who learn of it in pieces.
        #[test]
        fn exactly_who_was_erased_is_known(steps in prop::collection::vec((0u8..3, prop::collection::btree_set(0u8..9, 0..4), prop::collection::btree_set(0u8..9, 0..4)), 1..6)) {
            let (_folder, state) = open();
            let mut pieces = Erased::default();
            let mut wanted: BTreeSet<(u8, bool, u8)> = BTreeSet::new();
            for (portal, contacts, emails) in steps {
                wanted.extend(contacts.iter().map(|n| (portal, true, *n)));
                wanted.extend(emails.iter().map(|n| (portal, false, *n)));
                let erasure = Erasure {
                    portal: portal.to_string(),
                    contacts: contacts.iter().map(u8::to_string).collect(),
                    emails: emails.iter().map(|n| format!("{n}@example.com")).collect(),
                };
                state.erase(&erasure, 1).expect("erases");
                pieces.learn(&state).expect("reads");
            }
            let whole = state.erased().expect("reads");
            for (portal, n) in (0..3).flat_map(|portal| (0..9).map(move |n| (portal, n))) {
                for erased in [&whole, &pieces] {
                    let (of, email) = (portal.to_string(), format!("{n}@example.com"));
                    prop_assert_eq!(erased.contact(&of, &n.to_string()), wanted.contains(&(portal, true, n)));
                    prop_assert_eq!(erased.email(&of, &email), wanted.contains(&(portal, false, n)));
                }
            }
        }
    }
}
