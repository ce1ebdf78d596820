//! The contact mirror: which contact an identity stands for, per portal.
//!
//! # Meaning
//! A contact id stands for the contact that carries it in `merged_ids`, else for itself. An e-mail stands for the
//! contact that carries it as `email`, else for the one that carries it among `additional_emails`, else for itself.
//! Merges are followed to their end: of 77 merged into 801 and 801 into 900, all three stand for 900.
//!
//! # Ties and edges
//! - A merge beats the merged contact's own record: HubSpot's mirror may still hold it.
//! - Two contacts that claim one e-mail or one merged id: the smallest id (shorter first, then by text) has it.
//! - A circle of merges stands for the smallest id in it.
//! - Of several states of a contact in one tick the last in the log counts; a tombstone is a state.
//!
//! # Cost
//! A few look-ups for each changed contact, and one for each identity of the persons it touches.

use super::rows::{Place, Standing, Who};
use super::step::Machine;
use crate::model::Contact;
use crate::model::inputs::normal_email;
use crate::model::time::Ms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use ustr::Ustr;

/// A contact's new state, or its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContactState {
    /// HubSpot account.
    pub portal: Ustr,
    /// The contact.
    pub id: Ustr,
    /// Where it stands in the log.
    pub place: Place,
    /// `None`: a tombstone.
    pub contact: Option<Arc<Contact>>,
}

impl ContactState {
    /// A portal's contacts are kept together: a claim may concern any of them.
    pub fn route(&self) -> u64 {
        super::rows::mix(super::rows::hash(&self.portal))
    }
}

/// How a contact claims an identity; the least claim has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// 0 for a merged id or primary e-mail, 1 for an additional e-mail.
    rank: u8,
    /// Shorter ids are older.
    length: usize,
    id: Ustr,
}

#[derive(Default)]
struct Portal {
    /// What each contact claims.
    contacts: HashMap<Ustr, BTreeSet<(Who, u8)>>,
    claims: HashMap<Who, BTreeSet<Claim>>,
    /// Identities that stand for another.
    stands: HashMap<Who, Who>,
    /// The reverse.
    members: HashMap<Who, BTreeSet<Who>>,
}

impl Portal {
    /// Takes a contact's new state; says which identities it concerns.
    fn take(&mut self, id: Ustr, contact: Option<&Contact>, concerned: &mut BTreeSet<Who>) {
        let wanted = contact.map(|contact| wants(id, contact)).unwrap_or_default();
        let held = self.contacts.remove(&id).unwrap_or_default();
        let claim = |rank| Claim { rank, length: id.len(), id };
        for (who, rank) in held.difference(&wanted) {
            if let Some(claims) = self.claims.get_mut(who) {
                claims.remove(&claim(*rank));
                if claims.is_empty() {
                    self.claims.remove(who);
                }
            }
            concerned.insert(*who);
        }
        for (who, rank) in wanted.difference(&held) {
            self.claims.entry(*who).or_default().insert(claim(*rank));
            concerned.insert(*who);
        }
        if !wanted.is_empty() {
            self.contacts.insert(id, wanted);
        }
    }

    /// The contact that an identity stands for; itself where nobody claims it.
    fn resolve(&self, who: Who) -> Who {
        let mut path = vec![who];
        let mut here = who;
        while let Some(claim) = self.claims.get(&here).and_then(BTreeSet::first) {
            here = Who::contact(&claim.id);
            if let Some(start) = path.iter().position(|seen| *seen == here) {
                let circle = &path[start..];
                return circle.iter().copied().min_by_key(|who| (who.text().len(), who.text())).unwrap_or(here);
            }
            path.push(here);
        }
        here
    }

    fn stands_for(&self, who: Who) -> Who {
        self.stands.get(&who).copied().unwrap_or(who)
    }

    fn set(&mut self, who: Who, is: Who) {
        let was = self.stands_for(who);
        if let Some(members) = self.members.get_mut(&was) {
            members.remove(&who);
            if members.is_empty() {
                self.members.remove(&was);
            }
        }
        if is == who {
            self.stands.remove(&who);
        } else {
            self.stands.insert(who, is);
            self.members.entry(is).or_default().insert(who);
        }
    }
}

/// The identities that a contact claims.
fn wants(id: Ustr, contact: &Contact) -> BTreeSet<(Who, u8)> {
    let mut wanted = BTreeSet::new();
    for merged in contact.merged_ids.iter().filter(|merged| **merged != *id && !merged.trim().is_empty()) {
        wanted.insert((Who::contact(merged), 0));
    }
    let primary = contact.email.as_deref().map(normal_email).filter(|email| !email.is_empty());
    for email in contact.additional_emails.iter().map(|email| normal_email(email)).filter(|email| !email.is_empty()) {
        if primary.as_ref() != Some(&email) {
            wanted.insert((Who::email(&email), 1));
        }
    }
    if let Some(email) = primary {
        wanted.insert((Who::email(&email), 0));
    }
    wanted
}

/// The machine; see the module.
#[derive(Default)]
pub struct Persons {
    portals: HashMap<Ustr, Portal>,
}

impl Machine for Persons {
    type In = ContactState;
    type Out = Standing;

    fn step(&mut self, _at: Ms, rows: &mut Vec<ContactState>, out: &mut dyn FnMut(Standing)) {
        let mut newest: BTreeMap<(Ustr, Ustr), ContactState> = BTreeMap::new();
        for row in rows.drain(..) {
            let entry = newest.entry((row.portal, row.id));
            let kept = entry.or_insert_with(|| row.clone());
            if kept.place < row.place {
                *kept = row;
            }
        }
        let mut concerned: BTreeMap<Ustr, BTreeSet<Who>> = BTreeMap::new();
        for ((name, id), state) in newest {
            let portal = self.portals.entry(name).or_default();
            portal.take(id, state.contact.as_deref(), concerned.entry(name).or_default());
        }
        for (name, directly) in concerned {
            let Some(portal) = self.portals.get_mut(&name) else { continue };
            // Whoever stood for the same person may have come by a chain through the changed identity.
            let mut affected = directly.clone();
            for who in &directly {
                let person = portal.stands_for(*who);
                affected.extend(portal.members.get(&person).into_iter().flatten());
                affected.insert(person);
            }
            for who in affected {
                let (was, is) = (portal.stands_for(who), portal.resolve(who));
                if was != is {
                    portal.set(who, is);
                    let other = |person: Who| Some(person).filter(|person| *person != who);
                    out(Standing { portal: name, who, was: other(was), is: other(is) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::run;
    use super::*;
    use proptest::prelude::*;
    use ustr::ustr;

    fn state(offset: i64, id: &str, contact: Option<(&str, &[&str], &[&str])>) -> ContactState {
        let contact = contact.map(|(email, additional, merged)| {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            Arc::new(Contact {
                v: 1,
                portal: "p".into(),
                contact_id: id.into(),
                email: Some(email.to_owned()).filter(|email| !email.is_empty()),
                additional_emails: owned(additional),
                merged_ids: owned(merged),
            })
        });
        ContactState { portal: ustr("p"), id: ustr(id), place: Place { partition: 0, offset }, contact }
    }

    /// Where everybody stands after all rows.
    fn standings(said: &[(Standing, Ms)]) -> BTreeMap<String, String> {
        let mut stands: BTreeMap<Who, Who> = BTreeMap::new();
        for (standing, _) in said {
            assert_eq!(stands.get(&standing.who).copied(), standing.was, "said before and now agree");
            match standing.is {
                Some(is) => stands.insert(standing.who, is),
                None => stands.remove(&standing.who),
            };
        }
        stands.into_iter().map(|(who, is)| (who.to_string(), is.text().to_owned())).collect()
    }

    fn after(rows: Vec<(ContactState, Ms)>) -> BTreeMap<String, String> {
        standings(&run(&mut Persons::default(), rows, Ms::MAX))
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(who, is)| ((*who).to_owned(), (*is).to_owned())).collect()
    }

    #[test]
    fn emails_follow_their_contact_and_merges_are_followed_to_their_end() {
        let rows = vec![
            (state(1, "77", Some(("Ada@Example.com ", &[], &[]))), 10),
            (state(2, "801", Some(("b@x", &[], &["77"]))), 20),
            (state(3, "900", Some(("", &[], &["801"]))), 30),
        ];
        assert_eq!(after(rows[..1].to_vec()), map(&[("e:ada@example.com", "77")]));
        assert_eq!(after(rows[..2].to_vec()), map(&[("c:77", "801"), ("e:ada@example.com", "801"), ("e:b@x", "801")]));
        assert_eq!(after(rows), map(&[("c:77", "900"), ("c:801", "900"), ("e:ada@example.com", "900"), ("e:b@x", "900")]));
    }

    #[test]
    fn tombstones_and_changes_let_go() {
        let rows = vec![
            (state(1, "1", Some(("a@x", &["b@x"], &["9"]))), 10),
            (state(2, "2", Some(("b@x", &[], &[]))), 10),
            (state(3, "1", Some(("c@x", &[], &[]))), 20),
            (state(4, "2", None), 30),
        ];
        assert_eq!(after(rows[..2].to_vec()), map(&[("c:9", "1"), ("e:a@x", "1"), ("e:b@x", "2")]), "the primary address wins");
        assert_eq!(after(rows), map(&[("e:c@x", "1")]));
    }

    #[test]
    fn the_last_state_of_a_tick_counts_and_circles_end() {
        let rows = vec![
            (state(5, "1", Some(("new@x", &[], &[]))), 10),
            (state(4, "1", Some(("old@x", &[], &[]))), 10),
            (state(6, "2", Some(("", &[], &["3"]))), 10),
            (state(7, "3", Some(("d@x", &[], &["2"]))), 10),
        ];
        assert_eq!(after(rows), map(&[("c:3", "2"), ("e:d@x", "2"), ("e:new@x", "1")]));
    }

    proptest! {
        /// However the mirror came to its state, everybody stands where the state says.
        #[test]
        fn history_does_not_matter(changes in proptest::collection::vec((0u8..5, proptest::option::of((0u8..4, proptest::collection::vec(0u8..4, 0..2), proptest::collection::vec(0u8..5, 0..3))), 0u64..3), 0..30)) {
            let mut at = 0;
            let mut last: BTreeMap<u8, ContactState> = BTreeMap::new();
            let mut rows = Vec::new();
            for (offset, (id, contact, wait)) in changes.into_iter().enumerate() {
                at += wait;
                let name = id.to_string();
                let texts = |numbers: &[u8], prefix: &str| numbers.iter().map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
                let row = match &contact {
                    None => state(offset as i64, &name, None),
                    Some((email, additional, merged)) => {
                        let (additional, merged) = (texts(additional, "m"), texts(merged, ""));
                        let additional: Vec<&str> = additional.iter().map(String::as_str).collect();
                        let merged: Vec<&str> = merged.iter().map(String::as_str).collect();
                        state(offset as i64, &name, Some((&format!("m{email}"), &additional, &merged)))
                    }
                };
                last.insert(id, row.clone());
                rows.push((row, at));
            }
            let fresh = last.into_values().map(|row| (row, 0)).collect();
            prop_assert_eq!(after(rows), after(fresh));
        }
    }
}
