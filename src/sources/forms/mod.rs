//! The forms source: form posts to the job's own HTTP server, and the submissions of forms in HubSpot, into the topic `forms`.
//!
//! ```text
//!  POST /forms/WORKSPACE ─► endpoint.rs, signature.rs ─┐
//!                                                      ├─► submission.rs ─► forms
//!  HubSpot's submissions ─► poll.rs ───────────────────┘
//! ```
//!
//! # Guarantee
//! Every form that was answered with 200, and every submission that HubSpot lists, is in the topic; each counts once, by its id.

pub mod endpoint;
mod poll;
mod settings;
mod signature;
mod submission;
#[cfg(test)]
mod tests;

pub use poll::Cursor;
pub use settings::{FormsSettings, HubSpotForm, Key};
pub use signature::sign;

use super::kafka::Clock;
use super::writer::Writer;
use crate::kafka::{Isolation, Kafka};
use crate::sinks::hubspot::Service;
use crate::stop::Stop;
use anyhow::Context as _;
use poll::Poll;
use prometheus_client::metrics::counter::Counter;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The forms in HubSpot that are read, not yet running.
#[derive(Clone)]
pub struct Forms {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// What is configured.
    pub settings: FormsSettings,
    /// The way to HubSpot, shared with the sink.
    pub(crate) service: Arc<Service>,
    /// Counts the submissions that were taken.
    pub taken: Counter,
    /// The wall clock.
    pub now: Clock,
}

impl Forms {
    /// Reads until Kafka fails; the next call goes on from the cursors. Must run within a `LocalSet`.
    ///
    /// # Errors
    /// Always: why it ended.
    pub async fn run(&self, stop: &Stop) -> anyhow::Result<()> {
        let (kafka, stop) = (self.kafka.clone(), stop.clone());
        let cursors = tokio::task::spawn_blocking(move || cursors(&kafka, &stop)).await.context("the forms source broke down")??;
        let writer = Rc::new(Writer::new(&self.kafka, None)?);
        let mut polls = JoinSet::new();
        for form in &self.settings.hubspot {
            let cursor = match cursors.get(&poll::key(form)) {
                None => Cursor::default(),
                Some(written) => Cursor::read(written).with_context(|| {
                    format!("a cursor in {} can't be read by this build: use the version that wrote it", self.kafka.topics.sources)
                })?,
            };
            let FormsSettings { keys: _, hubspot: _, every, since, overlap, submissions_path } = &self.settings;
            let poll = Poll {
                service: Arc::clone(&self.service),
                form: form.clone(),
                path: submissions_path.clone(),
                taken: cursor.clone(),
                cursor,
                times: [*every, *since, *overlap],
                writer: Rc::clone(&writer),
                topic: self.kafka.topics.forms.clone(),
                sources: self.kafka.topics.sources.clone(),
                counter: self.taken.clone(),
                now: Arc::clone(&self.now),
            };
            polls.spawn_local(poll.run());
        }
        match polls.join_next().await {
            Some(ended) => Err(ended.context("the forms source broke down")?),
            None => anyhow::bail!("there is no form to read"),
        }
    }
}

/// The newest cursor of each form. Blocks; waits for brokers that are away.
fn cursors(kafka: &Kafka, stop: &Stop) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut cursors = BTreeMap::new();
    kafka.read_all(&kafka.topics.sources, Isolation::Uncommitted, stop, |_, key, value| {
        let key = key.map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        match value {
            Some(value) => drop(cursors.insert(key, value.to_vec())),
            None => drop(cursors.remove(&key)),
        }
        Ok(())
    })?;
    Ok(cursors)
}
