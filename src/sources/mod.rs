//! Where the dataflow's input comes from, and how a record becomes an [`Arrival`].
//!
//! # Meaning
//! A source says of each record what it is and in which tick it was appended. Its capability is the clock: it stands
//! at the end of the tick up to which every partition has been read. What can't be read becomes a dead letter and
//! never stops the job.
//!
//! # Ties and edges
//! Log time never runs backwards in a partition: the sources clamp it before they call [`decode`].
//!
//! # Credit
//! Timely has no flow control: a source lets only so many bytes be between itself and the end of the dataflow
//! ([`Credit`]), whose frontier the outbox holds back until it has written.

pub mod crm;
pub mod feeds;
pub mod files;
pub mod forms;
pub mod kafka;
pub mod snapshot;
mod trouble;
pub mod writer;

use crate::dataflow::plan::Times;
use crate::dataflow::rows::{Arrival, Place};
use crate::kafka::Topics;
use crate::model::inputs::{Input, Refusal, split_key};
use crate::model::outputs::DeadLetter;
use crate::model::time::{Ms, tick_end};
use crate::model::{Contact, Deal, Form, PackedClick};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use timely::dataflow::ProbeHandle;
use ustr::ustr;

/// How far the timestamp of a signed request may lie from now, either way, ms. HubSpot asks for this; form posts keep to it, too.
pub const SIGNED_WITHIN: Ms = 300_000;

/// What a topic or file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Redirects served.
    Clicks,
    /// Form submissions.
    Forms,
    /// Mirror of HubSpot's contacts.
    Contacts,
    /// Mirror of HubSpot's deals.
    Deals,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Clicks, Kind::Forms, Kind::Contacts, Kind::Deals];

    /// `clicks`, `forms`, `contacts`, `deals`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Clicks => "clicks",
            Kind::Forms => "forms",
            Kind::Contacts => "contacts",
            Kind::Deals => "deals",
        }
    }

    /// The name of its topic.
    pub fn topic(self, topics: &Topics) -> &str {
        match self {
            Kind::Clicks => &topics.clicks,
            Kind::Forms => &topics.forms,
            Kind::Contacts => &topics.contacts,
            Kind::Deals => &topics.deals,
        }
    }
}

/// How far a partition has been read: all records before `next` belong to the mark's tick or an earlier one.
///
/// Travels beside the records, with the tick of the last record before `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The topic.
    pub kind: Kind,
    /// The partition.
    pub partition: i32,
    /// The offset after the last record read.
    pub next: i64,
}

/// First offsets that were not read yet, by topic and partition.
pub type Offsets = BTreeMap<Kind, BTreeMap<i32, i64>>;

/// What the sources have read since they started; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Meter {
    records: [AtomicU64; 4],
    /// The largest own time of a record, by kind; 0 for none.
    newest: [AtomicU64; 4],
    /// Records that went to the dead letters.
    dead: AtomicU64,
    /// Bytes read, as they lie in the file or message.
    bytes: AtomicU64,
    /// Records whose log time lay before what their partition had already reached.
    clamped: AtomicU64,
    /// Most bytes that were between a source and the end of the dataflow.
    peak_in_flight: AtomicU64,
    /// Offsets between where reading began and what was then the end.
    waiting: AtomicU64,
    /// Records that came from snapshots.
    copied: AtomicU64,
    /// Where each partition of this process stands.
    places: Mutex<BTreeMap<(Kind, i32), Standing>>,
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The offset after the last record read.
    pub next: i64,
    /// The offset after the last record that the brokers have, as far as is known.
    pub end: i64,
    /// The log time it has reached, ms since the Unix epoch.
    pub log_time: Ms,
}

impl Meter {
    /// Records read of `kind`, dead letters among them.
    pub fn records(&self, kind: Kind) -> u64 {
        self.records[kind as usize].load(Ordering::Relaxed)
    }

    /// Records read of all kinds.
    pub fn total(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.records(*kind)).sum()
    }

    /// When the newest click or form that was read happened, by its own time, ms; `None` before the first, and for states, which have no time.
    pub fn newest(&self, kind: Kind) -> Option<Ms> {
        Some(self.newest[kind as usize].load(Ordering::Relaxed)).filter(|ts| *ts > 0)
    }

    /// Records that went to the dead letters.
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Bytes read, compressed where the file is.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records whose log time had to be moved up to what their partition had already reached.
    pub fn clamped(&self) -> u64 {
        self.clamped.load(Ordering::Relaxed)
    }

    /// Most bytes that one source had between itself and the end of the dataflow.
    pub fn peak_in_flight(&self) -> u64 {
        self.peak_in_flight.load(Ordering::Relaxed)
    }

    /// Records that lay between the places where reading began and what was the end then, as far as partitions have been
    /// taken up; compaction and transactions leave offsets without a record.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records that came from snapshots, not from Kafka.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Where the partitions of this process stand.
    pub fn places(&self) -> BTreeMap<(Kind, i32), Standing> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stands(&self, kind: Kind, places: impl Iterator<Item = (i32, Standing)>) {
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(places.map(|(partition, place)| ((kind, partition), place)));
    }

    fn count(&self, kind: Kind, arrival: &Arrival) {
        self.records[kind as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(ts) = own_time(arrival) {
            self.newest[kind as usize].fetch_max(ts, Ordering::Relaxed);
        }
        if matches!(arrival, Arrival::Dead(_)) {
            self.dead.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A record as a source found it.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// What the topic or file holds.
    pub kind: Kind,
    /// The message's key; a file has none.
    pub key: Option<&'a [u8]>,
    /// The message's payload; `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Where it lies.
    pub place: Place,
    /// Topic, or the file's path.
    pub source: &'a str,
}

/// Reads one record; the second value is the end of its tick.
pub fn decode(found: Found<'_>, log_time: Ms, times: &Times) -> (Arrival, Ms) {
    let at = tick_end(log_time, times.tick);
    let arrival = read(found).and_then(|arrival| {
        let ts = own_time(&arrival).unwrap_or(0);
        if ts > log_time.saturating_add(times.max_future) {
            let (ahead, most) = (ts - log_time, times.max_future);
            return Err(Refusal::new("clock", format!("`ts` lies {ahead} ms ahead of the log's time; at most {most} (max_future)")));
        }
        Ok(arrival)
    });
    (arrival.unwrap_or_else(|refusal| dead(found, refusal, at)), at)
}

/// The same record once more, as it was read before, at a log time that may be another one.
fn again(arrival: Arrival, log_time: Ms, kind: Kind, source: &str, times: &Times) -> (Arrival, Ms) {
    let Arrival::Dead(letter) = arrival else { return (arrival, tick_end(log_time, times.tick)) };
    // Whether it is refused, and what its letter says, may depend on the time.
    let bytes = |text: &str| STANDARD.decode(text).unwrap_or_default();
    let (key, payload) = (letter.key_base64.as_deref().map(bytes), bytes(&letter.payload_base64));
    let place = Place { partition: letter.partition, offset: letter.offset };
    decode(Found { kind, key: key.as_deref(), payload: Some(&payload), place, source }, log_time, times)
}

/// When it happened, for what happens; a state has no time of its own.
fn own_time(arrival: &Arrival) -> Option<Ms> {
    match arrival {
        Arrival::Click(_, click) => Some(click.ts),
        Arrival::Form(_, form) => Some(form.ts),
        Arrival::Contact(..) | Arrival::Deal(..) | Arrival::Dead(_) | Arrival::Carried(_) => None,
    }
}

/// What stands in the dead letters for a record that was refused in the tick that ends at `at`.
fn dead(found: Found<'_>, refusal: Refusal, at: Ms) -> Arrival {
    Arrival::Dead(Arc::new(DeadLetter {
        v: 1,
        reason: refusal.reason.to_owned(),
        detail: refusal.detail,
        source: found.source.to_owned(),
        partition: found.place.partition,
        offset: found.place.offset,
        key_base64: found.key.map(|key| STANDARD.encode(key)),
        payload_base64: STANDARD.encode(found.payload.unwrap_or_default()),
        at,
    }))
}

fn read(found: Found<'_>) -> Result<Arrival, Refusal> {
    let Found { kind, key, payload, place, source: _ } = found;
    let bytes = payload.unwrap_or_default();
    Ok(match kind {
        Kind::Clicks => Arrival::Click(place, Arc::new(PackedClick::read(bytes)?)),
        Kind::Forms => Arrival::Form(place, Arc::new(Form::read(bytes)?)),
        Kind::Contacts => match payload {
            Some(bytes) => {
                let contact = Contact::read(bytes)?;
                Arrival::Contact(place, ustr(&contact.portal), ustr(&contact.contact_id), Some(Arc::new(contact)))
            }
            None => {
                let (portal, id) = split_key(key)?;
                Arrival::Contact(place, ustr(portal), ustr(id), None)
            }
        },
        Kind::Deals => match payload {
            Some(bytes) => {
                let deal = Deal::read(bytes)?;
                Arrival::Deal(place, ustr(&deal.portal), ustr(&deal.deal_id), Some(Arc::new(deal)))
            }
            None => {
                let (portal, id) = split_key(key)?;
                Arrival::Deal(place, ustr(portal), ustr(id), None)
            }
        },
    })
}

/// Bytes that a source has let into the dataflow and that its end has not retired.
struct Credit {
    limit: usize,
    held: usize,
    by_tick: BTreeMap<Ms, usize>,
    /// At the end of the dataflow.
    done: ProbeHandle<Ms>,
    meter: Arc<Meter>,
}

impl Credit {
    fn new(limit: usize, done: ProbeHandle<Ms>, meter: Arc<Meter>) -> Self {
        Credit { limit, held: 0, by_tick: BTreeMap::new(), done, meter }
    }

    /// Takes back what the end of the dataflow has retired.
    fn retire(&mut self) {
        while let Some(entry) = self.by_tick.first_entry()
            && !self.done.less_equal(entry.key())
        {
            self.held -= entry.remove();
        }
    }

    /// Whether a record of the tick that ends at `at` may come in.
    ///
    /// - A tick closes only when all of it has been read, so credit must not block the tick that the whole dataflow
    ///   waits for: otherwise nothing would ever be retired.
    /// - That is the tick of the global frontier, not the least of this source: a worker that is ahead of the others
    ///   must not run away.
    fn allows(&self, at: Ms) -> bool {
        self.held < self.limit || !self.done.less_than(&at)
    }

    fn take(&mut self, at: Ms, bytes: usize) {
        // A record is more than its text: the decoded strings, the containers it travels in.
        let bytes = bytes + 256;
        *self.by_tick.entry(at).or_default() += bytes;
        self.held += bytes;
        self.meter.peak_in_flight.fetch_max(self.held as u64, Ordering::Relaxed);
    }

    /// Whether the end of the dataflow has passed everything before `at`.
    fn passed(&self, at: Ms) -> bool {
        !self.done.less_than(&at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(kind: Kind, key: Option<&'a [u8]>, payload: Option<&'a [u8]>) -> Found<'a> {
        Found { kind, key, payload, place: Place { partition: 3, offset: 7 }, source: "topic" }
    }

    fn refused(found: Found<'_>, log_time: Ms) -> DeadLetter {
        match decode(found, log_time, &Times::with_tick(100)).0 {
            Arrival::Dead(letter) => (*letter).clone(),
            other => panic!("must be a dead letter: {other:?}"),
        }
    }

    #[test]
    fn a_record_belongs_to_the_tick_it_was_appended_in() {
        let click = br#"{"id":"a","ts":5,"workspace":"w","link":"l"}"#;
        let (arrival, at) = decode(found(Kind::Clicks, None, Some(click)), 1_201, &Times::with_tick(100));
        assert_eq!(at, 1_300);
        assert!(matches!(arrival, Arrival::Click(Place { partition: 3, offset: 7 }, click) if click.ts == 5));
        assert_eq!(decode(found(Kind::Clicks, None, Some(click)), 1_200, &Times::with_tick(100)).1, 1_200);
    }

    #[test]
    fn the_future_is_refused_beyond_its_bound() {
        let click = |ts: Ms| format!(r#"{{"id":"a","ts":{ts},"workspace":"w","link":"l"}}"#).into_bytes();
        let most = 1_000 + Times::with_tick(100).max_future;
        let (ahead, beyond) = (click(most), click(most + 1));
        assert!(matches!(decode(found(Kind::Clicks, None, Some(&ahead)), 1_000, &Times::with_tick(100)).0, Arrival::Click(..)));
        assert_eq!(refused(found(Kind::Clicks, None, Some(&beyond)), 1_000).reason, "clock");
    }

    #[test]
    fn the_newest_time_is_that_of_what_could_be_read() {
        let (meter, times) = (Meter::default(), Times::with_tick(100));
        let click = |ts: Ms| format!(r#"{{"id":"a","ts":{ts},"workspace":"w","link":"l"}}"#);
        // The last is refused: it lies too far ahead.
        for text in [click(900), click(700), "{}".to_owned(), click(1_000 + times.max_future + 1)] {
            meter.count(Kind::Clicks, &decode(found(Kind::Clicks, None, Some(text.as_bytes())), 1_000, &times).0);
        }
        assert_eq!((meter.newest(Kind::Clicks), meter.newest(Kind::Forms)), (Some(900), None));
        assert_eq!((meter.records(Kind::Clicks), meter.dead()), (4, 2));
    }

    #[test]
    fn a_dead_letter_keeps_place_and_bytes() {
        let letter = refused(found(Kind::Forms, Some(b"k\xff"), Some(b"{\xff")), 1_001);
        assert_eq!(
            (letter.reason.as_str(), letter.source.as_str(), letter.partition, letter.offset, letter.at),
            ("json", "topic", 3, 7, 1_100)
        );
        assert_eq!(STANDARD.decode(&letter.payload_base64).expect("base64"), b"{\xff");
        assert_eq!(STANDARD.decode(letter.key_base64.expect("a key")).expect("base64"), b"k\xff");
    }

    #[test]
    fn tombstones_end_contacts_and_deals() {
        let times = Times::with_tick(100);
        let (arrival, _) = decode(found(Kind::Contacts, Some(b"4242/801"), None), 1, &times);
        assert!(matches!(arrival, Arrival::Contact(_, portal, id, None) if portal == "4242" && id == "801"));
        let (arrival, _) = decode(found(Kind::Deals, Some(b"4242/9001"), None), 1, &times);
        assert!(matches!(arrival, Arrival::Deal(_, portal, id, None) if portal == "4242" && id == "9001"));
        assert_eq!(refused(found(Kind::Deals, Some(b"9001"), None), 1).reason, "key");
        assert_eq!(refused(found(Kind::Contacts, None, None), 1).reason, "key");
        assert_eq!(refused(found(Kind::Clicks, None, None), 1).reason, "json");
    }
}
