//! The CRM mirror: HubSpot's contacts and deals in `crm.contacts` and `crm.deals`.
//!
//! ```text
//!  HubSpot ─ list ────────────────────┐              follow.rs   what is next, for one account
//!    │ search.rs, journal.rs,         ▼              mirror.rs   read from HubSpot, written where it differs
//!    │ webhooks.rs ──► which ids ──► read by id      record.rs   what HubSpot says, as a record
//!    ▼                                │              ledger.rs   what stands in the topics
//!  clickline.changes (webhooks)       ▼              client.rs   requests, quota, what is in the way
//!                          crm.contacts, crm.deals   cursor.rs   clickline.sources: how far it has come
//! ```
//!
//! # Guarantee
//! The last record of each key is what HubSpot said when it was read last, and it is read again after every change that HubSpot tells
//! of. A record is written when it differs from the last one of its key, and only then: also after a crash at any point, because
//! the topics themselves are the ledger. A restart goes on where the last one was, within a load, too.
//!
//! Not guaranteed: every state that a record passed through (two changes before it is read are one record); what HubSpot tells
//! nobody of, before the next load; one record for each change when two processes mirror one account into the same topics.
//! HubSpot's reads by id are taken to be at least as new as the event that announced them; a reading that HubSpot itself dates before an
//! earlier one is left out.
//!
//! # Limits
//! An account costs about 70 bytes a contact or deal in memory. A load asks for 100 records a request: at 40 requests in 10 s
//! a million takes 42 min.

mod client;
mod cursor;
mod events;
mod faults;
mod follow;
mod journal;
mod ledger;
mod mirror;
mod object;
mod record;
mod search;
mod settings;
mod signature;
mod stats;
#[cfg(test)]
mod tests;
pub mod webhooks;

pub use cursor::Cursor;
pub use mirror::Hints;
pub(in crate::sources) use record::time;
pub(in crate::sources) use settings::length;
pub use settings::{Changes, CrmSettings};

use super::kafka::Clock;
use super::writer::Writer;
use crate::kafka::{Isolation, Kafka};
use crate::metrics::Metrics;
use crate::model::inputs::split_key;
use crate::sinks::hubspot::{Paths, Secret, Service, Settings};
use crate::state::{Erased, State};
use crate::stop::Stop;
use anyhow::Context as _;
use client::Client;
use faults::Faults;
use follow::{Follower, Way};
use journal::{Access, Journal};
use ledger::Ledger;
use mirror::Mirror;
use object::{Id, Object};
use stats::Stats;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The mirror of some accounts, not running yet.
#[derive(Clone)]
pub struct Crm {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// What is configured.
    pub settings: CrmSettings,
    /// Accounts to mirror.
    pub portals: Vec<String>,
    /// The way to HubSpot, shared with the sink.
    pub(crate) service: Arc<Service>,
    /// HubSpot's paths.
    pub paths: Paths,
    /// The window that `settings.requests` is counted in.
    pub per: Duration,
    /// The app's own way in; for the ways of learning changes that need one.
    access: Option<Access>,
    /// The wall clock.
    pub now: Clock,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// Where it stands who was erased.
    pub state: Arc<State>,
    faults: Faults,
}

impl Crm {
    /// For these accounts; `state` says who was erased, and is told who was.
    ///
    /// # Errors
    /// When the app's secret, or a certificate authority, can't be read.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn new(
        kafka: Kafka,
        settings: CrmSettings,
        hubspot: &Settings,
        service: Arc<Service>,
        portals: Vec<String>,
        now: Clock,
        metrics: Arc<Metrics>,
        state: Arc<State>,
    ) -> anyhow::Result<Self> {
        let app = |settings: &CrmSettings| -> anyhow::Result<Access> {
            Ok(Access {
                base_url: hubspot.base_url.clone(),
                token_url: hubspot.token_url(),
                client_id: hubspot.client_id.clone(),
                client_secret: hubspot.read_client_secret()?,
                journal: settings.journal_path.clone(),
                subscriptions: settings.subscriptions_path.clone(),
                http: hubspot.client()?,
            })
        };
        let access = if settings.changes == Changes::Search { None } else { Some(app(&settings)?) };
        let (paths, per) = (hubspot.paths.clone(), hubspot.budget.per);
        Ok(Crm { kafka, settings, portals, service, paths, per, access, now, metrics, state, faults: Faults::default() })
    }

    /// The app's secret, with which HubSpot signs webhooks; none where changes are searched for.
    pub fn secret(&self) -> Option<Secret> {
        self.access.as_ref().map(|access| access.client_secret.clone())
    }

    /// Mirrors until Kafka fails; the next call goes on from what is in the topics. Must run within a `LocalSet`.
    ///
    /// # Errors
    /// Always: why it ended.
    pub async fn run(&self, stop: &Stop) -> anyhow::Result<()> {
        let (kafka, portals, stop) = (self.kafka.clone(), self.portals.clone(), stop.clone());
        let opened = tokio::task::spawn_blocking(move || open(&kafka, &portals, &stop)).await.context("the CRM mirror broke down")??;
        let writer = Rc::new(Writer::new(&self.kafka, None)?);
        let mut followers = JoinSet::new();
        for (portal, (ledger, cursor)) in opened {
            let client = Client::new(Arc::clone(&self.service), &portal, self.paths.clone(), self.settings.requests, self.per);
            let way = match self.settings.changes {
                Changes::Search => Way::Search(search::Search::default()),
                Changes::Journal => {
                    let access = self.access.clone().context("the journal needs the app's own credentials")?;
                    Way::Journal(Box::new(Journal::new(access, &portal)))
                }
                Changes::Webhooks => Way::Webhooks(Box::new(self.kafka.clone()), None),
            };
            let (stats, faults) = (Stats::of(&self.metrics, &portal), self.faults.clone());
            let mirror = Mirror {
                portal,
                client,
                ledger,
                writer: Rc::clone(&writer),
                kafka: self.kafka.clone(),
                state: Arc::clone(&self.state),
                erased: Erased::default(),
                now: Arc::clone(&self.now),
                stats,
                faults,
            };
            let follower = Follower { mirror, cursor, way, settings: self.settings.clone(), now: Arc::clone(&self.now) };
            followers.spawn_local(follower.run());
        }
        match followers.join_next().await {
            // All of them: they share the writer, and what the topics say is read anew.
            Some(ended) => Err(ended.context("the CRM mirror broke down")?),
            None => anyhow::bail!("there is no account to mirror"),
        }
    }
}

/// What the topics say of each account, and how far its mirror has come. Blocks; waits for brokers that are away.
fn open(kafka: &Kafka, portals: &[String], stop: &Stop) -> anyhow::Result<BTreeMap<String, (Ledger, Cursor)>> {
    let mut opened: BTreeMap<String, (Ledger, Cursor)> = portals.iter().map(|portal| (portal.clone(), Default::default())).collect();
    for object in Object::ALL {
        // Uncommitted, as the dataflow reads it.
        kafka.read_all(object.topic(&kafka.topics), Isolation::Uncommitted, stop, |_, key, value| {
            // Whatever others have written there is not ours to end.
            if let Ok((portal, id)) = split_key(key)
                && let Ok(id) = id.parse::<Id>()
                && let Some((ledger, _)) = opened.get_mut(portal)
            {
                ledger.wrote(object, id, value.filter(|value| !value.is_empty()), 0);
            }
            Ok(())
        })?;
    }
    let topic = &kafka.topics.sources;
    kafka.read_all(topic, Isolation::Uncommitted, stop, |place, key, value| {
        let key = key.map(String::from_utf8_lossy).unwrap_or_default();
        let Some((_, cursor)) = key.strip_prefix("crm/").and_then(|portal| opened.get_mut(portal)) else { return Ok(()) };
        let read = value.map(serde_json::from_slice::<Cursor>).transpose().ok().filter(|read| read.as_ref().is_none_or(|read| read.v == 1));
        let unreadable = || format!("the record {place:?} of the topic {topic} is no cursor that this build can read: use the version that wrote it, or delete the topic, and everything is loaded again");
        *cursor = read.with_context(unreadable)?.unwrap_or_default();
        Ok(())
    })?;
    Ok(opened)
}
