//! What became of records that could not be read or that HubSpot refused: looked at, sent once more, or dropped.
//!
//! # Meaning
//! A dead letter lies on its topic for good; what somebody decides about it lies in the state database, under the place where the record was
//! read. A crash may put a dead letter on the topic twice: both are one, because they name the same place.
//!
//! # Replay
//! The original bytes are appended to the topic they came from, with their key.
//!
//! - Before that, one transaction notes the intention and takes the record's refusal out of the ledger. So a crash in between leaves a
//!   decision that is taken up again by the next replay, and at worst two copies on the topic.
//! - A delta is known to the ledger by its id, not by its place: whichever copy comes first is sent, and settles the other. The original
//!   copy counts, too, should its offset be read again.
//! - Clicks and forms are known to the dataflow by their id for 72 hours.
//!
//! Therefore a replay has its effect once. It is not forced: a deal is looked at before it is moved, and a property that a newer click has
//! written stays.
//!
//! Not for ever: the ledger forgets, decisions among the rest, after `ledger_for`. What was refused longer ago is not replayed: whether that
//! had been done before, nobody knows.

mod topic;

pub(crate) use topic::Sender;

use crate::kafka::Kafka;
use crate::model::Named;
use crate::model::inputs::split_key;
use crate::model::outputs::{DeadLetter, Topic};
use crate::model::time::{Ms, millis};
use crate::sinks::hubspot::delta_id;
use crate::sinks::outbox::size::CUT;
use crate::state::{Erased, LedgerKey, State};
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The topics of deltas.
const DELTAS: [Topic; 3] = [Topic::DealStages, Topic::ContactProperties, Topic::Timeline];

/// Where a dead letter lies on its topic: `partition:offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Id {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(p, o)| Some(Id { partition: p.parse().ok()?, offset: o.parse().ok()? }));
        parts.ok_or_else(|| format!("`{text}` is no dead letter; `clickline dead-letters ls` lists them, as in `0:17`"))
    }
}

/// What was decided about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Nothing yet.
    Open,
    /// A replay has begun and was cut off: replay it again.
    Replaying,
    /// It was sent once more. If it was refused again, that is another dead letter.
    Replayed,
    /// It was dropped.
    Dropped,
}

impl Decision {
    /// As it is written and shown.
    pub fn text(self) -> &'static str {
        match self {
            Decision::Open => "open",
            Decision::Replaying => "replaying",
            Decision::Replayed => "replayed",
            Decision::Dropped => "dropped",
        }
    }

    fn read(text: Option<&str>) -> Self {
        let known = [Decision::Replaying, Decision::Replayed, Decision::Dropped];
        known.into_iter().find(|decision| Some(decision.text()) == text).unwrap_or(Decision::Open)
    }

    /// Whether somebody still has to decide.
    pub fn undecided(self) -> bool {
        matches!(self, Decision::Open | Decision::Replaying)
    }
}

/// A dead letter, and what was decided about it.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// Where it lies.
    pub id: Id,
    /// What was decided.
    pub decision: Decision,
    /// HubSpot account, where the record is a delta that names one.
    pub portal: Option<String>,
    /// The record's own id, where it is a delta that can be read.
    pub record: Option<String>,
    /// The dead letter itself.
    #[serde(flatten)]
    pub letter: DeadLetter,
}

impl Letter {
    /// The original bytes.
    ///
    /// # Errors
    /// The dead letter was not written by clickline.
    pub fn payload(&self) -> anyhow::Result<Vec<u8>> {
        STANDARD.decode(&self.letter.payload_base64).context("the dead letter's bytes are no base64")
    }

    fn key(&self) -> anyhow::Result<Option<Vec<u8>>> {
        self.letter.key_base64.as_ref().map(|key| STANDARD.decode(key).context("the dead letter's key is no base64")).transpose()
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// These alone; all where it is empty.
    pub ids: Vec<Id>,
    /// With this reason.
    pub reason: Option<String>,
    /// Read from this topic.
    pub source: Option<String>,
    /// Of this HubSpot account.
    pub portal: Option<String>,
    /// Those about which somebody has decided, too.
    pub decided: bool,
}

impl Filter {
    fn fits(&self, letter: &Letter) -> bool {
        let Filter { ids, reason, source, portal, decided } = self;
        (ids.is_empty() || ids.contains(&letter.id))
            && reason.as_ref().is_none_or(|reason| *reason == letter.letter.reason)
            && source.as_ref().is_none_or(|source| *source == letter.letter.source)
            && portal.as_ref().is_none_or(|portal| Some(portal) == letter.portal.as_ref())
            && (*decided || letter.decision.undecided())
    }
}

/// The dead-letter topic and what was decided about what lies on it.
pub struct DeadLetters {
    kafka: Kafka,
    state: State,
    /// How long the ledger remembers, ms; none while nothing makes it forget.
    remembered: Option<Ms>,
    /// The accounts of each workspace.
    workspaces: BTreeMap<String, Vec<String>>,
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The record is on its topic again.
    Sent,
    /// Somebody had decided about it before.
    Decided(Decision),
}

impl DeadLetters {
    /// Those of a job.
    pub fn new(kafka: Kafka, state: State) -> Self {
        DeadLetters { kafka, state, remembered: None, workspaces: BTreeMap::new() }
    }

    /// With how long the sink's ledger remembers.
    #[must_use]
    pub fn with_ledger_for(self, ledger_for: Option<Duration>) -> Self {
        DeadLetters { remembered: ledger_for.map(millis), ..self }
    }

    /// With the accounts of each workspace: whose an input is that names an erased person. Without them it is taken for theirs wherever the
    /// person was erased.
    #[must_use]
    pub fn with_workspaces(self, workspaces: BTreeMap<String, Vec<String>>) -> Self {
        DeadLetters { workspaces, ..self }
    }

    /// The dead letters that fit, oldest first; each once, however often it lies on the topic. Those of erased persons are on the topic until
    /// its retention, and are none of anybody's business.
    ///
    /// # Errors
    /// The topic or the state database can't be read.
    pub fn list(&self, filter: &Filter) -> anyhow::Result<Vec<Letter>> {
        let mut found: BTreeMap<LedgerKey, Letter> = BTreeMap::new();
        let erased = self.state.erased()?;
        topic::read(&self.kafka, self.kafka.topics.output(Topic::DeadLetters), |id, letter| {
            if Self::of_erased(&self.kafka, &self.workspaces, &erased, &letter) {
                return Ok(());
            }
            let key = Self::decision_key(&self.kafka, &letter);
            let decision = Decision::read(self.state.outcome(key)?.as_deref());
            let (portal, record) = Self::about(&self.kafka, &letter);
            let letter = Letter { id, decision, portal, record, letter };
            if filter.fits(&letter) {
                found.entry(key).or_insert(letter);
            }
            Ok(())
        })?;
        let mut letters: Vec<Letter> = found.into_values().collect();
        letters.sort_by_key(|letter| (letter.letter.at, letter.id));
        Ok(letters)
    }

    /// Sends a dead letter's record once more.
    ///
    /// # Errors
    /// The record came from no topic of the job, Kafka does not take it, or the state database fails: then replay it again.
    pub fn replay(&self, letter: &Letter, sender: &mut Option<Sender>, now: Ms) -> anyhow::Result<Replay> {
        let key = Self::decision_key(&self.kafka, &letter.letter);
        // Looked at anew: somebody else may have been quicker.
        let decision = Decision::read(self.state.outcome(key)?.as_deref());
        if !decision.undecided() {
            return Ok(Replay::Decided(decision));
        }
        let DeadLetter { source, partition, offset, at, .. } = &letter.letter;
        self.replayable(letter)?;
        // Rows of the ledger are no younger than the refusal, so until then none about it can have been forgotten.
        if self.remembered.is_some_and(|remembered| at.saturating_add(remembered) <= now) {
            bail!(
                "{}: it was refused longer ago than the ledger remembers (`hubspot.ledger_for`): whether it was replayed since is not known any \
                 more, and HubSpot might get it twice; do by hand what is still to be done, and drop it",
                letter.id
            );
        }
        if Self::of_erased(&self.kafka, &self.workspaces, &self.state.erased()?, &letter.letter) {
            bail!("{}: it is of a person who was erased", letter.id);
        }
        let (record_key, payload) = (letter.key()?, letter.payload()?);
        let place = ((source.as_str(), *partition, *offset), *at);
        let record = letter.record.as_ref().map(|id| LedgerKey::of(source, id));
        self.state.decide(key, Decision::Replaying.text(), place, record, now)?;
        let sender = match sender {
            Some(sender) => sender,
            None => sender.insert(Sender::new(&self.kafka)?),
        };
        sender.send(source, record_key.as_deref(), &payload)?;
        self.state.decide(key, Decision::Replayed.text(), place, None, now)?;
        Ok(Replay::Sent)
    }

    /// Drops a dead letter; says what had been decided about it if somebody was quicker.
    ///
    /// # Errors
    /// The state database fails.
    pub fn drop_letter(&self, letter: &Letter, now: Ms) -> anyhow::Result<Option<Decision>> {
        let key = Self::decision_key(&self.kafka, &letter.letter);
        let decision = Decision::read(self.state.outcome(key)?.as_deref());
        if !decision.undecided() {
            return Ok(Some(decision));
        }
        let DeadLetter { source, partition, offset, at, .. } = &letter.letter;
        self.state.decide(key, Decision::Dropped.text(), ((source, *partition, *offset), *at), None, now)?;
        Ok(None)
    }

    /// Whether a dead letter's record names a person who was erased in its account, or in one of its workspace's.
    pub(crate) fn of_erased(kafka: &Kafka, workspaces: &BTreeMap<String, Vec<String>>, erased: &Erased, letter: &DeadLetter) -> bool {
        if erased.nobody() {
            return false;
        }
        let decoded = |text: &String| STANDARD.decode(text).unwrap_or_default();
        let mut named = Named::in_record(&decoded(&letter.payload_base64));
        // A contact's record may say nothing of whose it is.
        if letter.source == kafka.topics.contacts
            && let Some(key) = letter.key_base64.as_ref().map(decoded)
            && let Ok((portal, id)) = split_key(Some(&key))
        {
            named.portal = Some(portal.to_owned());
            named.contacts.insert(id.to_owned());
        }
        erased.named(&named, workspaces)
    }

    /// What the ledger may know of a dead letter: what was decided about it, and what became of its record.
    pub(crate) fn keys(kafka: &Kafka, letter: &DeadLetter) -> impl Iterator<Item = LedgerKey> {
        let (_, record) = Self::about(kafka, letter);
        // A delta that could not be read is known by its place.
        let place = LedgerKey::of(&letter.source, &format!("{}:{}", letter.partition, letter.offset));
        let record = record.map_or(place, |id| LedgerKey::of(&letter.source, &id));
        [Self::decision_key(kafka, letter), record].into_iter()
    }

    /// Whether it makes sense to send a record once more.
    fn replayable(&self, letter: &Letter) -> anyhow::Result<()> {
        let DeadLetter { source, detail, .. } = &letter.letter;
        let topics = &self.kafka.topics;
        let input = [&topics.clicks, &topics.forms].contains(&source);
        let delta = DELTAS.iter().any(|topic| topics.output(*topic) == source);
        if !input && !delta {
            bail!(
                "{}: only clicks, forms and deltas are replayed, and this came from `{source}`; correct it there and drop this",
                letter.id
            );
        }
        if delta && letter.record.is_none() || detail.contains(CUT) {
            bail!("{}: its bytes are no whole record, so it would be refused again: drop it", letter.id);
        }
        Ok(())
    }

    /// What the ledger knows a decision by: the record, and the place where it was read.
    fn decision_key(kafka: &Kafka, letter: &DeadLetter) -> LedgerKey {
        let DeadLetter { source, partition, offset, payload_base64, .. } = letter;
        LedgerKey::of(kafka.topics.output(Topic::DeadLetters), &format!("{source}:{partition}:{offset}:{payload_base64}"))
    }

    /// Account and id of a delta that can be read.
    fn about(kafka: &Kafka, letter: &DeadLetter) -> (Option<String>, Option<String>) {
        let of = DELTAS.into_iter().find(|topic| kafka.topics.output(*topic) == letter.source);
        let payload = STANDARD.decode(&letter.payload_base64).unwrap_or_default();
        of.and_then(|topic| delta_id(topic, &payload)).unzip()
    }
}

/// Sends replayed records; made once for many.
pub type Replayer = Option<Sender>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_shown() {
        let id = Id { partition: 3, offset: 17 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "3", "3:x", ":1", "a:1"] {
            assert!(wrong.parse::<Id>().expect_err(wrong).contains("dead-letters ls"));
        }
    }

    #[test]
    fn decisions_are_read_as_they_are_written() {
        for decision in [Decision::Replaying, Decision::Replayed, Decision::Dropped] {
            assert_eq!(Decision::read(Some(decision.text())), decision);
        }
        assert_eq!(Decision::read(None), Decision::Open);
        assert!(Decision::Replaying.undecided() && !Decision::Dropped.undecided());
    }
}
