//! The second look at a history: what the dataflow says of those who are asked about.

use crate::dataflow::first_match::Field;
use crate::dataflow::intake::Record;
use crate::dataflow::last_utm::UtmChange;
use crate::dataflow::rows::{Advance, Arrival, Heat, Measure, Place, Resolved, Subject, Who};
use crate::history::{Ear, Heard};
use crate::model::PackedClick;
use crate::model::outputs::DeadLetter;
use crate::model::time::Ms;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// Whom it is about.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// HubSpot account.
    pub portal: Ustr,
    /// Contact ids and e-mails.
    pub identities: BTreeSet<Who>,
    /// Deals that name them, or the one that is asked about.
    pub deals: BTreeSet<Ustr>,
    /// The deal whose own links are asked about.
    pub links_of: Option<Ustr>,
    /// Click ids of their forms, with workspace and field.
    pub click_ids: HashMap<String, BTreeSet<(Ustr, Field)>>,
}

impl Wanted {
    /// Whether a click may be theirs: it names one of them, or carries a click id that a form of theirs carries.
    fn click(&self, click: &PackedClick) -> bool {
        if self.links_of.is_some_and(|deal| click.deal_id() == Some(deal.as_str())) {
            return true;
        }
        if let Some(contact) = click.contact_id() {
            return self.identities.contains(&Who::contact(contact));
        }
        let met = |field, value: Option<&str>| {
            let found = value.and_then(|value| self.click_ids.get(value));
            found.is_some_and(|places| places.contains(&(ustr(click.workspace()), field)))
        };
        met(Field::Gclid, click.gclid()) || met(Field::Fbclid, click.fbclid())
    }

    fn subject(&self, subject: Subject) -> bool {
        let deal = || self.links_of.is_some_and(|deal| subject.who == Who::deal(&deal));
        subject.portal == self.portal && (self.identities.contains(&subject.who) || deal())
    }

    /// Whether a record that could not be read seems to be about them.
    fn letter(&self, letter: &DeadLetter) -> bool {
        let bytes = STANDARD.decode(&letter.payload_base64).unwrap_or_default();
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return false };
        let text = |field: &str| value[field].as_str();
        let contact = |id: &str| self.identities.contains(&Who::contact(id));
        let named = |field: &str| value[field].as_array().into_iter().flatten().filter_map(|id| id.as_str()).any(contact);
        text("contact_id").is_some_and(contact)
            || text("email").is_some_and(|email| self.identities.contains(&Who::email(&crate::model::inputs::normal_email(email))))
            || text("deal_id").is_some_and(|id| self.deals.contains(&ustr(id)))
            || named("contact_ids")
            || named("merged_ids")
    }
}

/// A click or form by workspace and id.
pub type RecordId = (Ustr, String);

/// What was said of them, each with its tick's end.
pub struct Witness {
    /// Whom it is about.
    pub wanted: Wanted,
    /// Clicks as they came in, repetitions among them.
    pub clicks: Vec<(Ms, Place, Arc<PackedClick>)>,
    /// Ticks in which a click was no repetition.
    pub taken: BTreeMap<RecordId, BTreeSet<Ms>>,
    /// Forms that were no repetition, likewise.
    pub forms: BTreeMap<RecordId, BTreeSet<Ms>>,
    /// Clicks that found a person in the portal.
    pub resolved: BTreeMap<RecordId, Vec<(Ms, Resolved)>>,
    /// Clicks whose hold expired.
    pub expired: BTreeMap<RecordId, BTreeSet<Ms>>,
    /// The last word on each count.
    pub counts: BTreeMap<(Subject, Measure), (Ms, u64)>,
    /// Hot periods, tick by tick.
    pub heats: Vec<(Ms, Heat)>,
    /// Changes of last campaign values.
    pub values: Vec<(Ms, UtmChange)>,
    /// Deals that moved.
    pub advances: Vec<(Ms, Advance)>,
    /// Records that could not be read and seem to be about them.
    pub dead: Vec<(Ms, Arc<DeadLetter>)>,
}

impl Witness {
    /// Of those who are wanted.
    pub fn new(wanted: Wanted) -> Self {
        Witness {
            wanted,
            clicks: Vec::new(),
            taken: BTreeMap::new(),
            forms: BTreeMap::new(),
            resolved: BTreeMap::new(),
            expired: BTreeMap::new(),
            counts: BTreeMap::new(),
            heats: Vec::new(),
            values: Vec::new(),
            advances: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Whether nothing at all was about them.
    pub fn has_nothing(&self) -> bool {
        self.clicks.is_empty() && self.resolved.is_empty() && self.forms.is_empty() && self.dead.is_empty()
    }
}

/// A click's workspace and id.
pub fn id_of(click: &PackedClick) -> RecordId {
    (ustr(click.workspace()), click.id_text().to_owned())
}

impl Ear for Witness {
    const ALL: bool = true;

    fn arrival(&mut self, arrival: &Arrival, at: Ms) {
        match arrival {
            Arrival::Click(place, click) if self.wanted.click(click) => self.clicks.push((at, *place, Arc::clone(click))),
            Arrival::Dead(letter) if self.wanted.letter(letter) => self.dead.push((at, Arc::clone(letter))),
            _ => {}
        }
    }

    fn row(&mut self, row: Heard<'_>, at: Ms) {
        let wanted = &self.wanted;
        match row {
            Heard::Taken(Record::Click(click)) if wanted.click(click) => {
                self.taken.entry(id_of(click)).or_default().insert(at);
            }
            Heard::Taken(Record::Form(form)) if wanted.identities.contains(&Who::email(&form.email)) => {
                self.forms.entry((ustr(&form.workspace), form.id.clone())).or_default().insert(at);
            }
            Heard::Resolved(resolved) => {
                let Resolved { hit, person } = resolved;
                let theirs = wanted.identities.contains(&hit.subject.who) || wanted.identities.contains(person) || wanted.click(&hit.click);
                if hit.subject.portal == wanted.portal && theirs {
                    self.resolved.entry(id_of(&hit.click)).or_default().push((at, resolved.clone()));
                }
            }
            Heard::Unresolved(click) if wanted.click(click) => {
                self.expired.entry(id_of(click)).or_default().insert(at);
            }
            Heard::Values(change) if change.portal == wanted.portal && wanted.identities.contains(&change.who) => {
                self.values.push((at, change.clone()));
            }
            Heard::Count(change) if wanted.subject(change.subject) => {
                let last = self.counts.entry((change.subject, change.measure)).or_default();
                if last.0 <= at {
                    *last = (at, change.is);
                }
            }
            Heard::Heat(heat) if wanted.subject(heat.subject) => self.heats.push((at, heat.clone())),
            Heard::Advance(advance) => {
                let subject = advance.candidate.subject;
                if wanted.subject(subject) || subject.portal == wanted.portal && wanted.deals.contains(&advance.deal) {
                    self.advances.push((at, advance.clone()));
                }
            }
            _ => {}
        }
    }
}
