//! What flows between the operators: small rows, names interned once.
//!
//! A [`Ustr`] is one pointer to a string that the process holds once; it compares by pointer, hashes by a stored
//! hash, and is written as its string when a row crosses to another process. Clicks and forms travel as `Arc`s: a
//! row is moved between workers, never copied.

use super::plan::Connection;
use crate::model::outputs::Person;
use crate::model::time::Ms;
pub use crate::model::{ClickId, UtmField};
use crate::model::{Contact, Deal, Form, PackedClick};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// A place in the log; of two records of one key the one further on is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// What a source read, decoded. Never crosses to another worker as it is, and so has no form in bytes.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// A redirect served.
    Click(Place, Arc<PackedClick>),
    /// A form submitted.
    Form(Place, Arc<Form>),
    /// A contact's new state, or its end.
    Contact(Place, Ustr, Ustr, Option<Arc<Contact>>),
    /// A deal's new state, or its end.
    Deal(Place, Ustr, Ustr, Option<Arc<Deal>>),
    /// What could not be read.
    Dead(Arc<crate::model::outputs::DeadLetter>),
    /// How something stood before the log that is kept; once, in the tick at which a restart resumes.
    Carried(Carried),
}

impl Arrival {
    /// A look at what is read of a click to find out where it goes.
    pub fn look(&self) -> u64 {
        match self {
            Arrival::Click(_, click) => click.ts ^ click.workspace().as_bytes().first().copied().map_or(0, u64::from),
            _ => 0,
        }
    }
}

/// What the log that is kept does not say, because it began before it; see [`super::carried`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carried {
    /// A rule is hot for a subject.
    Period {
        /// Rule and subject.
        candidate: Candidate,
        /// Since which tick's end; `None`: not any more.
        since: Option<Ms>,
    },
    /// Deals that have advanced in the running hot period.
    Advanced {
        /// Rule and subject.
        candidate: Candidate,
        /// All of them; none: the period has ended.
        deals: Vec<Ustr>,
    },
    /// An identity's last campaign values.
    Utm {
        /// The identity, in its connection.
        subject: Subject,
        /// In the order of [`UtmField::ALL`]; boxed, since few rows are this one and all are as wide as the widest.
        values: Box<UtmValues>,
    },
    /// What a rule left behind that the plan does not have any more.
    Gone {
        /// Whose it was.
        subject: Subject,
        /// Its record's key.
        key: String,
    },
}

impl Carried {
    /// Whose it is.
    pub fn subject(&self) -> Subject {
        match self {
            Carried::Period { candidate, .. } | Carried::Advanced { candidate, .. } => candidate.subject,
            Carried::Utm { subject, .. } | Carried::Gone { subject, .. } => *subject,
        }
    }
}

/// Campaign values, each with the click that brought it, in the order of [`UtmField::ALL`].
pub type UtmValues = [Option<(ClickRef, Arc<str>)>; 3];

/// `mark` and `text` as one interned name.
pub fn named(mark: &str, text: &str) -> Ustr {
    thread_local! {
        static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.push_str(mark);
        buffer.push_str(text);
        ustr(buffer)
    })
}

/// A workspace's name, interned: of one record after the other it is mostly the same.
pub fn workspace(name: &str) -> Ustr {
    thread_local! {
        static LAST: Cell<Option<Ustr>> = const { Cell::new(None) };
    }
    match LAST.get() {
        Some(last) if last == name => last,
        _ => {
            let name = ustr(name);
            LAST.set(Some(name));
            name
        }
    }
}

/// Who or what is counted: `c:` a contact id, `e:` an e-mail, `d:` a deal.
///
/// A contact id that is a number in its plain spelling, as HubSpot's are, is kept as that number: it is compared and hashed
/// without a look at any text, and costs no name. All else is an interned name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Who(Name);

/// One way only for each: no number is ever a [`Name::Text`] of a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Name {
    Contact(u64),
    Text(Ustr),
}

/// The number that `id` is the plain spelling of: digits without a zero before them, few enough to leave room for a mark.
fn number(id: &str) -> Option<u64> {
    let plain = (1..=18).contains(&id.len()) && id.bytes().all(|digit| digit.is_ascii_digit()) && (id.len() == 1 || !id.starts_with('0'));
    plain.then(|| id.bytes().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

impl Who {
    /// A contact id.
    pub fn contact(id: &str) -> Self {
        Who(number(id).map_or_else(|| Name::Text(named("c:", id)), Name::Contact))
    }

    /// An e-mail, already in its normal form.
    pub fn email(email: &str) -> Self {
        Who(Name::Text(named("e:", email)))
    }

    /// A deal that a link names.
    pub fn deal(id: &str) -> Self {
        Who(Name::Text(named("d:", id)))
    }

    /// From its text with its mark, as it is displayed.
    pub fn read(text: &str) -> Self {
        text.strip_prefix("c:").map_or_else(|| Who(Name::Text(ustr(text))), Who::contact)
    }

    /// The id or e-mail without its mark.
    pub fn text(self) -> &'static str {
        match self.0 {
            Name::Contact(id) => ustr(&id.to_string()).as_str(),
            Name::Text(name) => &name.as_str()[2..],
        }
    }

    /// Whether it is a contact id.
    pub fn is_contact(self) -> bool {
        matches!(self.0, Name::Contact(_)) || self.marked("c:")
    }

    /// Whether it is a deal.
    pub fn is_deal(self) -> bool {
        self.marked("d:")
    }

    fn marked(self, mark: &str) -> bool {
        matches!(self.0, Name::Text(name) if name.as_str().starts_with(mark))
    }

    /// As an output names it; `None` for a deal.
    pub fn person(self) -> Option<Person> {
        match self.0 {
            Name::Contact(id) => Some(Person::ContactId(id.to_string())),
            Name::Text(_) if self.is_contact() => Some(Person::ContactId(self.text().to_owned())),
            Name::Text(_) if self.is_deal() => None,
            Name::Text(_) => Some(Person::Email(self.text().to_owned())),
        }
    }

    /// Writes its text with its mark, as it is displayed, behind `text`.
    pub fn write_to(self, text: &mut String) {
        match self.0 {
            Name::Contact(mut id) => {
                // Backwards into the room that the longest takes, without the formatter: once or more for every click.
                let mut digits = [b'0'; 20];
                let mut first = digits.len() - 1;
                loop {
                    digits[first] = b'0' + (id % 10) as u8;
                    id /= 10;
                    if id == 0 {
                        break;
                    }
                    first -= 1;
                }
                text.push_str("c:");
                text.extend(digits[first..].iter().copied().map(char::from));
            }
            Name::Text(name) => text.push_str(&name),
        }
    }

    /// A key for maps of this process: a number is told from where a name lies by its highest bit, which no place has.
    pub fn address(self) -> u64 {
        match self.0 {
            Name::Contact(id) => id | 1 << 63,
            Name::Text(name) => address(name),
        }
    }

    /// Its part of a worker's number, the same in every process.
    fn route(self) -> u64 {
        match self.0 {
            Name::Contact(id) => mix(id),
            Name::Text(name) => hash(&name),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Name::Contact(id) => write!(f, "c:{id}"),
            Name::Text(name) => f.write_str(&name),
        }
    }
}

/// A person, an identity of a person, or a deal, in one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// Whose clicks.
    pub workspace: Ustr,
    /// Where the contact or deal lives.
    pub portal: Ustr,
    /// Who.
    pub who: Who,
}

impl Subject {
    /// `who` in `connection`.
    pub fn new(connection: Connection, who: Who) -> Self {
        Subject { workspace: connection.workspace, portal: connection.portal, who }
    }

    /// A key for maps of this process: names are interned once, so where they lie tells them apart, unread.
    pub fn address(&self) -> [u64; 3] {
        [self.who.address(), address(self.workspace), address(self.portal)]
    }

    /// Where it is kept: all connections of a portal keep one person at one worker, so that one change of the
    /// contact mirror reaches them all.
    pub fn route(&self) -> u64 {
        route_of(self.portal, self.who)
    }
}

/// Where a name lies, which tells it apart from all others in this process.
pub fn address(name: Ustr) -> u64 {
    name.as_str().as_ptr() as u64
}

/// The worker's number for a portal's person, before the division by the number of workers.
pub fn route_of(portal: Ustr, who: Who) -> u64 {
    mix(hash(&portal) ^ who.route().rotate_left(32))
}

/// A text's hash that is the same in every process, unlike that of a map, and whatever else the program is built with, unlike
/// the one that comes with an interned name: all workers of a cluster must agree. Only their load depends on how good it is.
pub fn hash(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step = |hash: u64, word: [u8; 8]| (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    step(words.iter().fold(text.len() as u64, |hash, word| step(hash, *word)), last)
}

/// A click id's [`hash`]; all it needs lies in the row.
pub fn hash_id(id: &ClickId) -> u64 {
    match id {
        ClickId::Uuid(id) => {
            let (words, _) = id.as_chunks::<8>();
            words.iter().fold(16, |hash: u64, word| (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        }
        ClickId::Text(text) => hash(text),
    }
}

/// Spreads a hash over all bits: workers are chosen by the low ones.
pub fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ (hash >> 29)
}

/// When and which: clicks are ordered by their own time, then by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClickRef {
    /// The click's own time.
    pub ts: Ms,
    /// The click.
    pub id: ClickId,
}

impl ClickRef {
    /// Of a record.
    pub fn of(click: &PackedClick) -> Self {
        ClickRef { ts: click.ts, id: click.id.clone() }
    }
}

/// How a click's identity became known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Via {
    /// The link named the contact.
    Eid,
    /// A form carried the same click id.
    Form(Arc<Form>),
}

/// A click and whom it belongs to, in one connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hit {
    /// The identity it was resolved to, or the deal that its link names.
    pub subject: Subject,
    /// The click.
    pub click: Arc<PackedClick>,
    /// How; `None` when the subject is a deal.
    pub via: Option<Via>,
}

/// The contact mirror's word on one identity of a portal: the contact it stands for, or itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// HubSpot account.
    pub portal: Ustr,
    /// The identity.
    pub who: Who,
    /// Whom it stood for before this tick; itself where `None`.
    pub was: Option<Who>,
    /// Whom it stands for from this tick's end on; itself where `None`.
    pub is: Option<Who>,
}

/// A resolved click and whose it is at the tick's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The click and its identity.
    pub hit: Hit,
    /// Whom the identity stands for.
    pub person: Who,
}

/// What of a click is counted: a tag (`t:`) or link (`l:`) in a window of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Measure {
    /// `t:tag` or `l:link`.
    pub key: Ustr,
    /// The window's length, ms.
    pub window: Ms,
}

/// One identity's part of a person's count, as it stands at the tick's end; replaces what was said before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Whose count it is part of.
    pub subject: Subject,
    /// What is counted.
    pub measure: Measure,
    /// The identity whose clicks these are.
    pub identity: Who,
    /// Clicks in the window; 0 when it is no part any more.
    pub n: u64,
    /// The newest of them.
    pub last: Option<ClickRef>,
}

/// An identity's newest campaign values that came with one click; they replace what was said before of the same fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUtm {
    /// Whose values they may be.
    pub subject: Subject,
    /// The identity whose click brought them.
    pub identity: Who,
    /// The click; `None` when the identity belongs to somebody else now, and none of its values is the person's.
    pub click: Option<ClickRef>,
    /// The values, in the order of [`UtmField::ALL`]; `None` where another click brought the field's.
    pub texts: [Option<Arc<str>>; 3],
    /// Whether this was so before the tick: it has been told already.
    pub carried: bool,
}

/// A person's count after a tick in which it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CountChange {
    /// Whose.
    pub subject: Subject,
    /// Of what.
    pub measure: Measure,
    /// Before the tick.
    pub was: u64,
    /// At the tick's end.
    pub is: u64,
}

/// A stretch of time in which a person's count is at or above a rule's threshold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HotPeriod {
    /// The tick's end at which it began.
    pub since: Ms,
    /// The count at this tick's end.
    pub count: u64,
    /// The newest click that counts.
    pub last: ClickRef,
}

/// A hot period that began, went on with another count, or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heat {
    /// The rule.
    pub rule: super::plan::RuleIx,
    /// The person, or the deal that the links name.
    pub subject: Subject,
    /// Whether it is the period's first tick.
    pub begins: bool,
    /// The period; `None`: it has ended.
    pub period: Option<HotPeriod>,
}

/// Which deal a hot rule may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The rule.
    pub rule: super::plan::RuleIx,
    /// The person or deal whose count earns it.
    pub subject: Subject,
}

/// A deal that has earned its next stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// Rule and subject.
    pub candidate: Candidate,
    /// The deal.
    pub deal: Ustr,
    /// The hot period.
    pub period: HotPeriod,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn click_ids_keep_their_spelling_and_order() {
        for id in
            ["0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10", "0199F3C2-7C1E-7D2A-B0A1-2F6F3C9D1E10", "c-1", "0199f3c27c1e7d2ab0a12f6f3c9d1e10", ""]
        {
            assert_eq!(ClickId::of(id).to_string(), id);
        }
        let mut ids = ["z", "0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10", "0", "ffffffff-7c1e-7d2a-b0a1-2f6f3c9d1e10", "1"];
        let mut packed: Vec<ClickId> = ids.iter().map(|id| ClickId::of(id)).collect();
        ids.sort_unstable();
        packed.sort();
        assert_eq!(packed.iter().map(ToString::to_string).collect::<Vec<_>>(), ids);
    }

    #[test]
    fn marks_tell_ids_apart() {
        assert_ne!(Who::contact("1"), Who::deal("1"));
        assert_eq!(Who::email("a@b").person(), Some(Person::Email("a@b".into())));
        assert_eq!(Who::contact("7").text(), "7");
        assert_eq!(Who::deal("7").person(), None);
    }

    #[test]
    fn contacts_keep_their_spelling() {
        for id in ["0", "7", "801", "007", "+7", "", "7a", "999999999999999999", "1000000000000000000", "18446744073709551617", "٣"] {
            let who = Who::contact(id);
            assert_eq!((who.text(), who.to_string()), (id, format!("c:{id}")));
            let mut text = String::from("is ");
            who.write_to(&mut text);
            assert_eq!(text, format!("is c:{id}"));
            assert!(who.is_contact() && !who.is_deal());
            assert_eq!(who.person(), Some(Person::ContactId(id.to_owned())));
            assert_eq!((Who::read(&who.to_string()), Who::read(&who.to_string()).address()), (who, who.address()));
        }
        for who in [Who::email("c:7@x"), Who::deal("7")] {
            assert_eq!(Who::read(&who.to_string()), who);
        }
        assert_ne!(Who::contact("7").address(), Who::contact("07").address());
    }
}
