//! The first look at a history: who is who, and which clicks may be theirs.

use super::Asked;
use super::witness::Wanted;
use crate::dataflow::first_match::Field;
use crate::dataflow::persons::{ContactState, Persons};
use crate::dataflow::rows::{Arrival, Place, Who};
use crate::dataflow::step::Machine as _;
use crate::history::deals::{DealStates, state_at};
use crate::history::{Ear, Heard};
use crate::model::time::Ms;
use crate::model::{Contact, Form};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// States of contacts and deals, and all forms.
#[derive(Default)]
pub struct Mirror {
    contacts: BTreeMap<Ms, Vec<ContactState>>,
    deals: BTreeMap<(Ustr, Ustr), DealStates>,
    forms: Vec<(Ms, Place, Arc<Form>)>,
}

impl Ear for Mirror {
    const ALL: bool = false;

    fn arrival(&mut self, arrival: &Arrival, at: Ms) {
        match arrival {
            Arrival::Contact(place, portal, id, contact) => {
                let state = ContactState { portal: *portal, id: *id, place: *place, contact: contact.clone() };
                self.contacts.entry(at).or_default().push(state);
            }
            Arrival::Deal(place, portal, id, deal) => {
                self.deals.entry((*portal, *id)).or_default().insert((at, *place), deal.clone());
            }
            Arrival::Form(place, form) => self.forms.push((at, *place, Arc::clone(form))),
            Arrival::Click(..) | Arrival::Dead(_) | Arrival::Carried(_) => {}
        }
    }

    fn row(&mut self, _row: Heard<'_>, _at: Ms) {}
}

/// A contact's last state and its tick's end; `None`: it was deleted.
type LastState = (Ms, Option<Arc<Contact>>);

/// What the mirror says at the end of the history.
pub struct Known {
    /// Identities that stand for another, by portal.
    stands: HashMap<(Ustr, Who), Who>,
    /// The last state of each contact, by portal and id.
    pub contacts: HashMap<(Ustr, Ustr), LastState>,
    /// All states of all deals.
    pub deals: BTreeMap<(Ustr, Ustr), DealStates>,
    /// All forms, by their times.
    pub forms: Vec<(Ms, Place, Arc<Form>)>,
}

impl Mirror {
    /// Follows the contacts to the end of the history.
    pub fn known(self) -> Known {
        let Mirror { contacts: by_tick, deals, mut forms } = self;
        let (mut persons, mut stands, mut contacts) = (Persons::default(), HashMap::new(), HashMap::new());
        for (at, mut states) in by_tick {
            states.sort_by_key(|state| state.place);
            for state in &states {
                contacts.insert((state.portal, state.id), (at, state.contact.clone()));
            }
            persons.step(at, &mut states, &mut |standing| {
                let name = (standing.portal, standing.who);
                match standing.is {
                    Some(is) => drop(stands.insert(name, is)),
                    None => drop(stands.remove(&name)),
                }
            });
        }
        forms.sort_by(|(_, _, a), (_, _, b)| (a.ts, &a.id).cmp(&(b.ts, &b.id)));
        Known { stands, contacts, deals, forms }
    }
}

impl Known {
    /// Whom an identity stands for.
    pub fn person(&self, portal: Ustr, who: Who) -> Who {
        self.stands.get(&(portal, who)).copied().unwrap_or(who)
    }

    /// All identities that stand for a person, itself among them.
    pub fn identities(&self, portal: Ustr, person: Who) -> BTreeSet<Who> {
        let others = self.stands.iter().filter(|((of, _), is)| *of == portal && **is == person).map(|((_, who), _)| *who);
        others.chain([person]).collect()
    }

    /// The persons that a contact or deal is about: one, or all that a deal names.
    pub fn persons(&self, portal: Ustr, asked: &Asked) -> Vec<Who> {
        match asked {
            Asked::Contact(id) => vec![self.person(portal, Who::contact(id))],
            Asked::Email(email) => vec![self.person(portal, Who::email(email))],
            Asked::Deal(id) => {
                let contacts = self.deals.get(&(portal, ustr(id))).and_then(|states| state_at(states, Ms::MAX)).and_then(|(_, deal)| deal);
                let persons = contacts.iter().flat_map(|deal| &deal.contact_ids).map(|id| self.person(portal, Who::contact(id)));
                persons.collect::<BTreeSet<Who>>().into_iter().collect()
            }
        }
    }

    /// Whether a portal's own records name them.
    pub fn knows(&self, portal: Ustr, asked: &Asked) -> bool {
        match asked {
            Asked::Contact(id) => {
                self.stands.contains_key(&(portal, Who::contact(id)))
                    || self.contacts.contains_key(&(portal, ustr(id)))
                    || !self.deals_of(portal, &BTreeSet::from([Who::contact(id)])).is_empty()
            }
            Asked::Email(email) => self.stands.contains_key(&(portal, Who::email(email))),
            Asked::Deal(id) => self.deals.contains_key(&(portal, ustr(id))),
        }
    }

    /// Deals that name one of the identities, or did.
    pub fn deals_of(&self, portal: Ustr, identities: &BTreeSet<Who>) -> BTreeSet<Ustr> {
        let ids: BTreeSet<&str> = identities.iter().filter(|who| who.is_contact()).map(|who| who.text()).collect();
        let names = |states: &DealStates| states.values().flatten().any(|deal| deal.contact_ids.iter().any(|id| ids.contains(id.as_str())));
        self.deals.iter().filter(|((of, _), states)| *of == portal && names(states)).map(|((_, id), _)| *id).collect()
    }

    /// What to listen for in the second look.
    pub fn wanted(&self, portal: Ustr, asked: &Asked) -> Wanted {
        let identities: BTreeSet<Who> =
            self.persons(portal, asked).into_iter().flat_map(|person| self.identities(portal, person)).collect();
        let (deals, links_of) = match asked {
            Asked::Deal(id) => (BTreeSet::from([ustr(id)]), Some(ustr(id))),
            Asked::Contact(_) | Asked::Email(_) => (self.deals_of(portal, &identities), None),
        };
        let mut click_ids: HashMap<String, BTreeSet<(Ustr, Field)>> = HashMap::new();
        for (_, _, form) in self.forms.iter().filter(|(_, _, form)| identities.contains(&Who::email(&form.email))) {
            for (field, value) in [(Field::Gclid, &form.gclid), (Field::Fbclid, &form.fbclid)] {
                let Some(value) = value else { continue };
                click_ids.entry(value.clone()).or_default().insert((ustr(&form.workspace), field));
            }
        }
        Wanted { portal, identities, deals, links_of, click_ids }
    }
}
