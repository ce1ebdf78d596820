//! Who is erased: whom the database remembers so that records of them can be refused.
//!
//! # What is remembered
//! Whoever must be refused later must be known again. Of a contact that is its bare id in HubSpot, for ever: links in old mails carry it,
//! and once HubSpot and this database have nothing else it leads to nobody. Of an address it is HMAC-SHA-256 under a key of this file,
//! until nothing older than the erasure can arrive any more (`ledger_for`). The key keeps tables of hashes that somebody else has made from
//! fitting; whoever has the file can still ask it about an address that he knows.

use super::State;
use super::erasures::Erasure;
use super::settle::{int, uint};
use crate::model::Named;
use crate::model::inputs::normal_email;
use crate::model::outputs::Person;
use ring::hmac;
use rusqlite::{Connection, OptionalExtension as _};
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

/// Who is erased, as it is asked about each record: in memory, a few hundred bytes a person.
#[derive(Clone, Debug, Default)]
pub struct Erased {
    key: Option<hmac::Key>,
    /// The last row that is in here.
    pub(super) seen: i64,
    contacts: BTreeMap<String, HashSet<String>>,
    emails: BTreeMap<String, HashSet<Vec<u8>>>,
}

/// What is kept of an address.
pub(super) fn hash(key: &hmac::Key, email: &str) -> Vec<u8> {
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

    /// The same, from a transaction or connection that is open.
    pub(super) fn learn_from(&mut self, db: &Connection) -> anyhow::Result<bool> {
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

/// The key of the hashes, once there is one.
pub(super) fn key(db: &Connection) -> rusqlite::Result<Option<hmac::Key>> {
    let key: Option<Vec<u8>> = db.query_row("SELECT key FROM erasure_key", [], |row| row.get(0)).optional()?;
    Ok(key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)))
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

    /// How often the other stores were gone through for whoever was erased the longest ago with the fewest such rounds: that number, and
    /// when the erasure was (ms since the Unix epoch). `None` when nobody is erased.
    ///
    /// # Errors
    /// When the database fails.
    pub fn least_swept(&self) -> anyhow::Result<Option<(u64, u64)>> {
        let db = self.db();
        let mut statement = db.prepare_cached("SELECT swept, min(at) FROM erasures GROUP BY swept ORDER BY swept LIMIT 1")?;
        Ok(statement.query_row([], |row| Ok((uint(row, 0)?, uint(row, 1)?))).optional()?)
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::{erasure, open};
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400_000;

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
