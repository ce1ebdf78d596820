//! What waits for HubSpot under one key: a deal's steps, a contact's values, an event, whatever an e-mail address waits with.
//!
//! Pure. Each says how it takes in what arrives later for the same key, and which records of the topics it settles.

use super::queue::Fold;
use super::record::Receipt;
use crate::model::outputs::{DealStage, Person, TimelineEvent};
use std::collections::{BTreeMap, VecDeque};

/// The deltas of one deal, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// The deltas.
    pub steps: VecDeque<(DealStage, Receipt)>,
    /// Whether the oldest was sent and its answer never came: then a deal in its stage was moved by us.
    pub sent: bool,
}

/// A value to write, and the click it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The click's own time and id: of two changes the greater is the newer.
    pub from: (u64, String),
    /// The value.
    pub value: String,
}

/// The property deltas of one person, coalesced: the newest value of each property.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// What to write, by property.
    pub changes: BTreeMap<String, Change>,
    /// The records that this settles, each with the properties it named.
    pub receipts: Vec<(Receipt, Vec<String>)>,
    /// Properties that HubSpot refuses, with its reason; the records that name them become dead letters.
    pub refused: BTreeMap<String, String>,
    /// How many merges were followed from the contact that the deltas name to the one that this is for.
    pub followed: u8,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The event.
    pub delta: TimelineEvent,
    /// The contact it goes to, where the delta does not say or that one was merged: found by address or by looking it up.
    pub contact: Option<String>,
    /// Whether the contact was looked up after HubSpot did not know it.
    pub looked_up: bool,
    /// Whether no earlier process can have sent it, as [`Receipt::fresh`] says of all of its records.
    pub fresh: bool,
    /// The records that this settles: one, or several when a topic was read again.
    pub receipts: Vec<Receipt>,
}

/// What waits for the contact of an e-mail address to be found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addressed {
    /// Properties to write, coalesced.
    pub properties: Properties,
    /// Events, in the order in which they were read. One that was read twice is here twice: they become one where events wait.
    pub events: Vec<Event>,
}

/// The records that an entry settles.
pub trait Records: Fold {
    /// Shows each record whose turn it is.
    fn each(&mut self, see: impl FnMut(&mut Receipt));

    /// Takes out the records of which `given_up` says so.
    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt>;

    /// Whether no record is left.
    fn none_left(&self) -> bool;
}

impl Fold for Stages {
    fn fold(&mut self, newer: Self) {
        self.steps.extend(newer.steps);
    }
}

impl Records for Stages {
    /// The others wait for the oldest and have not been tried.
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        if let Some((_, receipt)) = self.steps.front_mut() {
            see(receipt);
        }
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        match self.steps.front() {
            Some((_, receipt)) if given_up(receipt) => self.steps.pop_front().map(|(_, receipt)| receipt).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn none_left(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Fold for Properties {
    fn fold(&mut self, newer: Self) {
        for (name, change) in newer.changes {
            match self.changes.get_mut(&name) {
                Some(old) if old.from >= change.from => {}
                Some(old) => *old = change,
                None => {
                    self.changes.insert(name, change);
                }
            }
        }
        self.receipts.extend(newer.receipts);
        self.refused.extend(newer.refused);
        self.followed = self.followed.max(newer.followed);
    }
}

impl Records for Properties {
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        self.receipts.iter_mut().for_each(|(receipt, _)| see(receipt));
    }

    /// The values stay: a newer record may have brought the same, and whatever is written is guarded by its click's time.
    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        self.receipts.extract_if(.., |(receipt, _)| given_up(receipt)).map(|(receipt, _)| receipt).collect()
    }

    fn none_left(&self) -> bool {
        self.receipts.is_empty()
    }
}

impl Fold for Event {
    fn fold(&mut self, newer: Self) {
        self.fresh &= newer.fresh;
        self.receipts.extend(newer.receipts);
    }
}

impl Records for Event {
    fn each(&mut self, see: impl FnMut(&mut Receipt)) {
        self.receipts.iter_mut().for_each(see);
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        self.receipts.extract_if(.., |receipt| given_up(receipt)).collect()
    }

    fn none_left(&self) -> bool {
        self.receipts.is_empty()
    }
}

impl Fold for Addressed {
    fn fold(&mut self, newer: Self) {
        self.properties.fold(newer.properties);
        // Not searched for what is there already: tens of thousands may wait for one address.
        self.events.extend(newer.events);
    }
}

impl Records for Addressed {
    fn each(&mut self, mut see: impl FnMut(&mut Receipt)) {
        self.properties.each(&mut see);
        self.events.iter_mut().for_each(|event| event.each(&mut see));
    }

    fn take_out(&mut self, given_up: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        let mut out = self.properties.take_out(&given_up);
        out.extend(self.events.iter_mut().flat_map(|event| event.take_out(&given_up)));
        self.events.retain(|event| !event.none_left());
        out
    }

    fn none_left(&self) -> bool {
        self.properties.none_left() && self.events.is_empty()
    }
}

impl Properties {
    /// Gives these properties up, with HubSpot's reason for each. Says whether any of them was to be written.
    pub fn refuse<'a>(&mut self, names: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
        let mut any = false;
        for (name, reason) in names {
            if self.changes.remove(name).is_some() {
                self.refused.insert(name.clone(), reason.clone());
                any = true;
            }
        }
        any
    }
}

impl Event {
    /// An event that no record stands for yet.
    pub fn new(delta: TimelineEvent) -> Self {
        Event { delta, contact: None, looked_up: false, fresh: true, receipts: Vec::new() }
    }

    /// HubSpot's id of the contact it goes to, once that is known.
    pub fn contact(&self) -> Option<&str> {
        self.contact.as_deref().or(match &self.delta.person {
            Person::ContactId(id) => Some(id),
            Person::Email(_) => None,
        })
    }
}
