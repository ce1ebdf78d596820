//! The dead letters as the page shows them, and its two decisions: those of `clickline dead-letters replay` and `drop`.

use crate::dead_letters::{DeadLetters, Filter, Id, Letter, Replay};
use crate::kafka::Kafka;
use crate::model::time;
use crate::state::State;
use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Letters shown at once, the newest.
const SHOWN: usize = 200;
/// Bytes of a record that are shown.
const PAYLOAD: usize = 2_000;

/// Where they lie.
#[derive(Clone)]
pub struct Letters {
    /// Their topic, and those to replay to.
    pub kafka: Kafka,
    /// The state database with the decisions.
    pub state: PathBuf,
    /// How long the sink's ledger remembers.
    pub ledger_for: Option<Duration>,
    /// The accounts of each workspace.
    pub workspaces: BTreeMap<String, Vec<String>>,
}

/// A dead letter that nobody has decided about.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    id: String,
    at: time::Ms,
    reason: String,
    detail: String,
    source: String,
    portal: Option<String>,
    /// The record as text, cut off.
    record: String,
}

/// What to do about one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decide {
    /// Send it once more.
    Replay,
    /// Let it go.
    Drop,
}

impl Letters {
    /// The newest that nobody has decided about, and how many there are. Reads the topic: may wait for the brokers.
    ///
    /// # Errors
    /// The topic or the state database can't be read.
    pub fn open(&self) -> anyhow::Result<(Vec<Shown>, usize)> {
        let letters = self.dead_letters()?.list(&Filter::default())?;
        Ok((letters.iter().rev().take(SHOWN).map(shown).collect(), letters.len()))
    }

    /// Decides about one; says in words what came of it.
    ///
    /// # Errors
    /// It is not there, can't be replayed, or Kafka or the state database fail.
    pub fn decide(&self, id: Id, decide: Decide) -> anyhow::Result<String> {
        let dead_letters = self.dead_letters()?;
        let letters = dead_letters.list(&Filter { ids: vec![id], decided: true, ..Filter::default() })?;
        let letter = letters.first().ok_or_else(|| anyhow!("there is no such dead letter {id}"))?;
        let before = match decide {
            Decide::Replay => match dead_letters.replay(letter, &mut None, time::now())? {
                Replay::Sent => None,
                Replay::Decided(before) => Some(before),
            },
            Decide::Drop => dead_letters.drop_letter(letter, time::now())?,
        };
        let done = match decide {
            Decide::Replay => "replayed",
            Decide::Drop => "dropped",
        };
        tracing::info!(event = "dead_letter_decided", %id, done, "decided on the status page");
        Ok(before.map_or_else(|| format!("{id} {done}"), |before| format!("{id} was {} before", before.text())))
    }

    fn dead_letters(&self) -> anyhow::Result<DeadLetters> {
        let letters = DeadLetters::new(self.kafka.clone(), State::open(&self.state)?);
        Ok(letters.with_ledger_for(self.ledger_for).with_workspaces(self.workspaces.clone()))
    }
}

fn shown(letter: &Letter) -> Shown {
    let payload = letter.payload().unwrap_or_default();
    let record = String::from_utf8_lossy(&payload[..payload.len().min(PAYLOAD)]).into_owned();
    let Letter { id, portal, letter, .. } = letter;
    Shown {
        id: id.to_string(),
        at: letter.at,
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
        source: letter.source.clone(),
        portal: portal.clone(),
        record,
    }
}
