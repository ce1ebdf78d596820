//! Which ids and addresses are one person's, by what the mirror's topic says and has said.
//!
//! # Meaning
//! Ids are one person's when a record of a contact names them together (`contact_id` and `merged_ids`), whichever record, old or new,
//! and so on from each of them. Their addresses are all that their records have ever carried.
//!
//! # Ties and edges
//! - An address that a living contact carries who is somebody else is that one's: it has changed hands.
//! - Asked by address: the contacts that carry it now; where none does, those that carried it when they were deleted. Who has given it up
//!   otherwise is not meant.
//! - A deleted contact's records stand in the topic for as long as it keeps every record (`min.compaction.lag.ms`, 36 days); who is asked
//!   for later is known by the id or address alone.
//!
//! # Cost
//! The topic is read two to four times, and nothing is kept but the person.

use super::topics::scan;
use crate::kafka::Kafka;
use crate::model::Contact;
use crate::model::inputs::{Input as _, normal_email, split_key};
use crate::state::Erasure;
use std::collections::{BTreeMap, BTreeSet};

/// Whom somebody asks to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HubSpot's ids.
    Contacts(BTreeSet<String>),
    /// An address.
    Email(String),
}

/// Whether a contact carries the address that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Now,
    Before,
    /// It was deleted with it.
    Last,
}

/// A search in one account. Each pass shows it every record, in the order of the topic's partitions, until a pass finds nothing new.
#[derive(Clone, Debug)]
pub struct Search {
    portal: String,
    asked: Asked,
    contacts: BTreeSet<String>,
    emails: BTreeSet<String>,
    /// Contacts that carry or have carried the address that is asked for.
    carriers: BTreeMap<String, Carries>,
    /// Of the person's addresses, those that others carry now.
    others: BTreeMap<String, BTreeSet<String>>,
    /// What was known when the pass began.
    before: (usize, usize),
    known: bool,
}

fn emails(contact: &Contact) -> impl Iterator<Item = String> + '_ {
    contact.email.iter().chain(&contact.additional_emails).map(|email| normal_email(email).into_owned()).filter(|email| !email.is_empty())
}

impl Search {
    /// In an account.
    pub fn new(portal: &str, asked: &Asked) -> Self {
        let (contacts, emails) = match asked {
            Asked::Contacts(ids) => (ids.clone(), BTreeSet::new()),
            Asked::Email(email) => (BTreeSet::new(), BTreeSet::from([normal_email(email).into_owned()])),
        };
        let (portal, asked) = (portal.to_owned(), asked.clone());
        let (carriers, others) = (BTreeMap::new(), BTreeMap::new());
        Search { portal, asked, contacts, emails, carriers, others, before: (usize::MAX, usize::MAX), known: false }
    }

    /// A pass begins.
    pub fn begin(&mut self) {
        self.before = (self.contacts.len(), self.emails.len());
        self.carriers.clear();
        self.others.clear();
    }

    /// The next record of a contact; without a state it was deleted.
    pub fn see(&mut self, id: &str, contact: Option<&Contact>) {
        let carried: BTreeSet<String> = contact.into_iter().flat_map(emails).collect();
        if let Asked::Email(email) = &self.asked {
            let email = normal_email(email);
            let before = self.carriers.get(id).copied();
            let now = match contact {
                Some(_) if carried.contains(&*email) => Some(Carries::Now),
                Some(_) => before.map(|_| Carries::Before),
                None => before.map(|before| if before == Carries::Now { Carries::Last } else { before }),
            };
            if let Some(now) = now {
                self.carriers.insert(id.to_owned(), now);
            }
        }
        let one =
            |known: &BTreeSet<String>| known.contains(id) || contact.is_some_and(|of| of.merged_ids.iter().any(|id| known.contains(id)));
        if one(&self.contacts) {
            self.known = true;
            self.contacts.insert(id.to_owned());
            self.contacts.extend(contact.into_iter().flat_map(|of| of.merged_ids.iter().cloned()));
            self.emails.extend(carried);
        } else {
            let theirs: BTreeSet<String> = carried.intersection(&self.emails).cloned().collect();
            if theirs.is_empty() { drop(self.others.remove(id)) } else { drop(self.others.insert(id.to_owned(), theirs)) }
        }
    }

    /// The pass is over; says whether another one is needed.
    pub fn more(&mut self) -> bool {
        if let Asked::Email(_) = &self.asked {
            let of = |wanted| self.carriers.iter().filter(move |(_, carries)| **carries == wanted).map(|(id, _)| id.clone());
            let mut found: BTreeSet<String> = of(Carries::Now).collect();
            if found.is_empty() {
                found = of(Carries::Last).collect();
            }
            self.known |= !found.is_empty();
            self.contacts.extend(found);
        }
        self.before != (self.contacts.len(), self.emails.len())
    }

    /// Whether the mirror knows, or has known, the person.
    pub fn known(&self) -> bool {
        self.known
    }

    /// The person.
    pub fn erasure(self) -> Erasure {
        let Search { portal, asked, contacts, mut emails, others, .. } = self;
        for email in others.values().flatten() {
            emails.remove(email);
        }
        if let Asked::Email(email) = &asked {
            emails.insert(normal_email(email).into_owned());
        }
        Erasure { portal, contacts, emails }
    }
}

/// Looks for a person in these accounts; blocks for as long as the topic takes. Says of each account whether its mirror knows the person.
///
/// # Errors
/// The topic can't be read.
pub fn find(kafka: &Kafka, portals: &[String], asked: &Asked) -> anyhow::Result<Vec<(Erasure, bool)>> {
    let mut searches: BTreeMap<String, Search> = portals.iter().map(|portal| (portal.clone(), Search::new(portal, asked))).collect();
    loop {
        searches.values_mut().for_each(Search::begin);
        scan(kafka, &kafka.topics.contacts, |record| {
            // The key says whose record it is, also of one that ends; what is neither is not the mirror's.
            if let Ok((portal, id)) = split_key(record.key)
                && let Some(search) = searches.get_mut(portal)
            {
                match record.payload.filter(|payload| !payload.is_empty()).map(Contact::read) {
                    Some(Ok(contact)) => search.see(&contact.contact_id, Some(&contact)),
                    Some(Err(_)) => {}
                    None => search.see(id, None),
                }
            }
            Ok(())
        })?;
        if !searches.values_mut().fold(false, |more, search| search.more() | more) {
            return Ok(searches.into_values().map(|search| (search.clone().erasure(), search.known())).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contact(id: &str, emails: &[&str], merged: &[&str]) -> (String, Option<Contact>) {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let email = emails.first().map(|email| (*email).to_owned());
        let additional_emails = texts(emails.get(1..).unwrap_or_default());
        let of = Contact { v: 1, portal: "1".into(), contact_id: id.into(), email, additional_emails, merged_ids: texts(merged) };
        (id.to_owned(), Some(of))
    }

    fn gone(id: &str) -> (String, Option<Contact>) {
        (id.to_owned(), None)
    }

    fn search(log: &[(String, Option<Contact>)], asked: &Asked) -> (Vec<String>, Vec<String>, bool) {
        let mut search = Search::new("1", asked);
        for pass in 0.. {
            assert!(pass < 20, "it ends");
            search.begin();
            log.iter().for_each(|(id, contact)| search.see(id, contact.as_ref()));
            if !search.more() {
                break;
            }
        }
        let known = search.known();
        let Erasure { contacts, emails, .. } = search.erasure();
        (contacts.into_iter().collect(), emails.into_iter().collect(), known)
    }

    fn texts(of: &[&str]) -> Vec<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    fn by_id(id: &str) -> Asked {
        Asked::Contacts(BTreeSet::from([id.to_owned()]))
    }

    #[test]
    fn all_that_was_merged_goes_together() {
        let log = [
            contact("7", &["old@x"], &[]),
            contact("77", &["older@x", "Oldest@x"], &["70"]),
            contact("801", &["ada@x"], &[]),
            contact("801", &["ada@x"], &["7", "77"]),
            gone("7"),
            contact("9", &["grace@x"], &[]),
        ];
        let all = (texts(&["7", "70", "77", "801"]), texts(&["ada@x", "old@x", "older@x", "oldest@x"]), true);
        for asked in [by_id("801"), by_id("70"), by_id("7"), Asked::Email(" ADA@x".into())] {
            assert_eq!(search(&log, &asked), all, "{asked:?}");
        }
        assert_eq!(search(&log, &by_id("5")), (texts(&["5"]), vec![], false));
    }

    #[test]
    fn an_address_that_has_changed_hands_is_its_new_owners() {
        let log = [contact("1", &["sales@x", "ada@x"], &[]), contact("1", &["ada@x"], &[]), contact("2", &["sales@x"], &[])];
        assert_eq!(search(&log, &by_id("1")), (texts(&["1"]), texts(&["ada@x"]), true));
        assert_eq!(search(&log, &Asked::Email("sales@x".into())), (texts(&["2"]), texts(&["sales@x"]), true));
        // Its new owner has given it up, too.
        let log = [&log[..], &[contact("2", &["grace@x"], &[])]].concat();
        assert_eq!(search(&log, &by_id("1")).1, texts(&["ada@x", "sales@x"]));
        assert_eq!(search(&log, &Asked::Email("sales@x".into())), (vec![], texts(&["sales@x"]), false), "nobody's now");
        // Of the deleted the last address counts.
        let log = [&log[..], &[gone("2")]].concat();
        assert_eq!(search(&log, &Asked::Email("grace@x".into())).0, texts(&["2"]));
        assert_eq!(search(&log, &Asked::Email("sales@x".into())).0, texts(&[]));
    }

    proptest! {
        /// The same as what a plain reading of the whole log gives.
        #[test]
        fn passes_find_what_a_plain_reading_finds(
            log in prop::collection::vec((0u8..6, prop::option::weighted(0.8, (prop::collection::btree_set(0u8..5, 0..3), prop::collection::btree_set(0u8..6, 0..2)))), 0..25),
            wanted in 0u8..6,
        ) {
            let log: Vec<(String, Option<Contact>)> = log.into_iter().map(|(id, state)| match state {
                None => gone(&id.to_string()),
                Some((emails, merged)) => {
                    let emails: Vec<String> = emails.iter().map(|n| format!("{n}@x")).collect();
                    let merged: Vec<String> = merged.iter().map(u8::to_string).collect();
                    let (emails, merged): (Vec<&str>, Vec<&str>) = (emails.iter().map(|e| &**e).collect(), merged.iter().map(|id| &**id).collect());
                    contact(&id.to_string(), &emails, &merged)
                }
            }).collect();
            let mut ids = BTreeSet::from([wanted.to_string()]);
            for _ in 0..10 {
                for (id, contact) in &log {
                    let group: BTreeSet<String> = contact.iter().flat_map(|of| of.merged_ids.clone()).chain([id.clone()]).collect();
                    if !group.is_disjoint(&ids) {
                        ids.extend(group);
                    }
                }
            }
            let last: BTreeMap<&String, &Option<Contact>> = log.iter().map(|(id, contact)| (id, contact)).collect();
            let living = last.iter().filter(|(id, _)| !ids.contains(**id)).filter_map(|(_, contact)| contact.as_ref());
            let others: BTreeSet<String> = living.flat_map(|of| emails(of).collect::<Vec<_>>()).collect();
            let theirs = log.iter().filter(|(id, _)| ids.contains(id)).filter_map(|(_, contact)| contact.as_ref());
            let theirs: BTreeSet<String> = theirs.flat_map(|of| emails(of).collect::<Vec<_>>()).collect();
            let (found, addresses, _) = search(&log, &by_id(&wanted.to_string()));
            prop_assert_eq!(found, ids.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(addresses, theirs.difference(&others).cloned().collect::<Vec<_>>());
        }
    }
}
