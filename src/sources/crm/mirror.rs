//! One account's mirror: records are read from HubSpot and written where they have changed.
//!
//! # Order
//! States go before tombstones, and a tombstone is written only when the states are acknowledged: a contact that was merged is
//! with its survivor before its own record ends, so that no click is between the two. Deals that name a contact which is gone
//! are read again before its record ends: after a crash in between it is still the contact's record that leads to them. Who was erased is
//! noted in the state database before anything else: the record says which ids and addresses are theirs.
//!
//! # Not guaranteed
//! HubSpot has no reading of several records at one moment: a deal and its contacts may be of different moments, until the next change of
//! either is read.

use super::client::{Batch, Client, PAGE, listed_contacts};
use super::cursor::{Cursor, Load, key};
use super::faults::{Faults, Step};
use super::ledger::Ledger;
use super::object::{Id, Object};
use super::record::{self, Reading};
use super::stats::Stats;
use crate::forget::{Asked, find};
use crate::kafka::Kafka;
use crate::sources::kafka::Clock;
use crate::sources::trouble::{Trouble, strange};
use crate::sources::writer::{Record, Writer};
use crate::state::{Erased, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// What somebody says has changed; it is read from HubSpot, whatever was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hints {
    /// Contacts.
    #[serde(default)]
    pub contacts: BTreeSet<Id>,
    /// Deals.
    #[serde(default)]
    pub deals: BTreeSet<Id>,
    /// Contacts that were deleted for good, at the person's own wish; they are among the contacts, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub erased: BTreeSet<Id>,
}

impl Hints {
    /// Ids of one kind.
    pub fn of(object: Object, ids: BTreeSet<Id>) -> Self {
        match object {
            Object::Contacts => Hints { contacts: ids, ..Hints::default() },
            Object::Deals => Hints { deals: ids, ..Hints::default() },
        }
    }

    /// Takes in what somebody else says.
    pub fn extend(&mut self, other: Hints) {
        let Hints { contacts, deals, erased } = other;
        self.contacts.extend(contacts);
        self.deals.extend(deals);
        self.erased.extend(erased);
    }

    /// One more.
    pub fn add(&mut self, object: Object, id: Id) {
        match object {
            Object::Contacts => self.contacts.insert(id),
            Object::Deals => self.deals.insert(id),
        };
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty() && self.deals.is_empty() && self.erased.is_empty()
    }
}

/// One account's mirror.
pub struct Mirror {
    /// The account.
    pub portal: String,
    /// The way to HubSpot.
    pub client: Client,
    /// What stands in the topics.
    pub ledger: Ledger,
    /// The way to the topics.
    pub writer: Rc<Writer>,
    /// Their names, and the brokers.
    pub kafka: Kafka,
    /// Where it stands who was erased.
    pub state: Arc<State>,
    /// Who was, as far as is known.
    pub erased: Erased,
    /// The wall clock.
    pub now: Clock,
    /// What was done.
    pub stats: Stats,
    /// Where a test lets it end.
    pub faults: Faults,
}

impl Mirror {
    /// Reads what is said to have changed, and writes what has.
    ///
    /// # Errors
    /// See [`Trouble`]; what was written until then stands, and the same again finishes it.
    pub async fn refresh(&mut self, hints: Hints) -> Result<(), Trouble> {
        let Hints { mut contacts, mut deals, erased } = hints;
        contacts.extend(self.erase(erased).await?);
        self.learn()?;
        let mut ended = self.read_again(Object::Contacts, contacts).await?;
        ended.retain(|id| self.ledger.has(Object::Contacts, *id));
        deals.extend(self.ledger.naming(&ended));
        let gone = self.read_again(Object::Deals, deals).await?;
        self.end(Object::Deals, gone).await?;
        self.end(Object::Contacts, ended).await
    }

    /// HubSpot has erased these contacts: so does everybody who shares the state database, before the mirror's own records of them end, for
    /// these say who it is. Gives back all ids that go with them.
    async fn erase(&self, ids: BTreeSet<Id>) -> Result<BTreeSet<Id>, Trouble> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let (kafka, portals, state, now) = (self.kafka.clone(), [self.portal.clone()], Arc::clone(&self.state), (self.now)());
        let asked = Asked::Contacts(ids.iter().map(Id::to_string).collect());
        let erased = tokio::task::spawn_blocking(move || -> anyhow::Result<BTreeSet<Id>> {
            let mut ids = BTreeSet::new();
            for (erasure, _) in find(&kafka, &portals, &asked)? {
                state.erase(&erasure, now)?;
                ids.extend(erasure.contacts.iter().filter_map(|id| id.parse::<Id>().ok()));
            }
            Ok(ids)
        });
        let erased = erased.await.map_err(anyhow::Error::new).and_then(|erased| erased);
        let erased =
            erased.map_err(|error| Trouble::Later(format!("a contact that HubSpot has erased can't be erased here: {error:#}"), None))?;
        tracing::info!(
            event = "erasure_seen",
            portal = self.portal,
            contacts = ids.len(),
            "HubSpot has erased contacts; what is kept of them here goes, too"
        );
        self.faults.hit(Step::Erased)?;
        Ok(erased)
    }

    fn learn(&mut self) -> Result<(), Trouble> {
        let learned = self.erased.learn(&self.state);
        learned.map(drop).map_err(|error| Trouble::Later(format!("who was erased can't be read: {error:#}"), None))
    }

    /// Reads records by id and writes those that are there; gives back those that are not.
    async fn read_again(&mut self, object: Object, ids: BTreeSet<Id>) -> Result<BTreeSet<Id>, Trouble> {
        let mut gone = BTreeSet::new();
        let ids: Vec<Id> = ids.into_iter().collect();
        for chunk in ids.chunks(PAGE) {
            let Batch { mut found, gone: missing, unsaid } = self.client.batch(object, &chunk.iter().copied().collect()).await?;
            gone.extend(missing);
            for id in unsaid {
                // The survivor of a merge is answered for the merged one.
                let shown = self.client.one(object, id).await?;
                if shown.as_ref().and_then(|shown| shown.get("id")).and_then(record::id) != Some(id) {
                    gone.insert(id);
                }
                found.extend(shown);
            }
            self.faults.hit(Step::Read)?;
            gone.extend(self.put(object, &found, None).await?);
        }
        Ok(gone)
    }

    /// Takes one page of a load; gives back where the load goes on.
    ///
    /// # Errors
    /// As [`Mirror::refresh`].
    pub async fn load(&mut self, load: &Load) -> Result<Option<Load>, Trouble> {
        self.learn()?;
        let object = load.object;
        let page = self.client.list(object, load.after.as_deref()).await?;
        self.faults.hit(Step::Read)?;
        let ids: Vec<Id> = page.found.iter().filter_map(|shown| shown.get("id").and_then(record::id)).collect();
        let ascending = load.ascending && ids.iter().try_fold(load.last, |last, id| (*id > last).then_some(*id)).is_some();
        let last = ids.iter().copied().fold(load.last, Id::max);
        let mut contacts = BTreeMap::new();
        if object == Object::Deals {
            contacts = self.contacts(&page.found).await?;
        }
        let merged = self.put(object, &page.found, Some(&contacts)).await?;
        let mut absent = match (ascending, &page.next) {
            (true, Some(_)) => self.ledger.between(object, load.last, Some(last)),
            (true, None) => self.ledger.between(object, load.last, None),
            (false, Some(_)) => BTreeSet::new(),
            // Nothing is known of gaps: each record is asked for.
            (false, None) => self.ledger.between(object, 0, None),
        };
        absent.retain(|id| !ids.contains(id));
        absent.extend(merged);
        self.refresh(Hints::of(object, absent)).await?;
        Ok(match (page.next, object) {
            (Some(after), _) => Some(Load { object, after: Some(after), last, ascending }),
            (None, Object::Contacts) => Some(Load::start(Object::Deals)),
            (None, Object::Deals) => None,
        })
    }

    /// The contacts of deals that a list shows.
    async fn contacts(&self, found: &[Value]) -> Result<BTreeMap<Id, BTreeSet<Id>>, Trouble> {
        let mut contacts = BTreeMap::new();
        let mut more = Vec::new();
        for shown in found {
            let Some(id) = shown.get("id").and_then(record::id) else { continue };
            match listed_contacts(shown) {
                Some(listed) => drop(contacts.insert(id, listed)),
                None => more.push(id),
            }
        }
        if !more.is_empty() {
            contacts.extend(self.client.contacts_of(more).await?);
        }
        Ok(contacts)
    }

    /// Writes records as HubSpot shows them, where they differ from what stands there. Gives back those of the mirror that are now
    /// part of another record, or nothing to mirror. A deal's contacts are read where they are not given.
    async fn put(
        &mut self,
        object: Object,
        found: &[Value],
        contacts: Option<&BTreeMap<Id, BTreeSet<Id>>>,
    ) -> Result<BTreeSet<Id>, Trouble> {
        let read;
        let contacts = match (object, contacts) {
            (Object::Deals, None) => {
                read = self.client.contacts_of(found.iter().filter_map(|shown| shown.get("id").and_then(record::id))).await?;
                Some(&read)
            }
            (_, contacts) => contacts,
        };
        // One of each: the survivor of several merges may have been answered several times.
        let mut readings: BTreeMap<Id, Reading> = BTreeMap::new();
        for shown in found {
            let reading = match object {
                Object::Contacts => record::contact(&self.portal, shown),
                Object::Deals => {
                    let Some(id) = shown.get("id").and_then(record::id) else { continue };
                    // Not known is not none.
                    let of = contacts.and_then(|contacts| contacts.get(&id)).ok_or_else(|| strange("associations"))?;
                    record::deal(&self.portal, shown, of)
                }
            };
            readings.extend(reading.map(|reading| (reading.id, reading)));
        }
        let mut gone = BTreeSet::new();
        let mut changed = Vec::new();
        for reading in readings.into_values() {
            gone.extend(reading.merged.iter().copied().filter(|id| self.ledger.has(object, *id)));
            // Somebody whom HubSpot still has and who was erased here is not mirrored.
            let erased = object == Object::Contacts && self.erased.contact(&self.portal, &reading.id.to_string());
            let Some(value) = reading.value.as_ref().filter(|_| !erased) else {
                gone.insert(reading.id);
                continue;
            };
            self.stats.read.inc();
            // A copy of HubSpot's that is behind must not undo what was read before.
            if reading.modified < self.ledger.modified(object, reading.id) {
                continue;
            }
            if self.ledger.says(object, reading.id, value) {
                self.ledger.confirm(object, reading.id, reading.modified);
            } else {
                changed.push(reading);
            }
        }
        let topic = object.topic(&self.kafka.topics).to_owned();
        let records: Vec<Record<'_>> = changed
            .iter()
            .map(|reading| Record { topic: &topic, key: format!("{}/{}", self.portal, reading.id), value: reading.value.clone() })
            .collect();
        self.write(&records).await?;
        for reading in changed {
            self.stats.written.inc();
            self.ledger.wrote(object, reading.id, reading.value.as_deref(), reading.modified);
        }
        Ok(gone)
    }

    /// Ends records.
    async fn end(&mut self, object: Object, mut gone: BTreeSet<Id>) -> Result<(), Trouble> {
        gone.retain(|id| self.ledger.has(object, *id));
        let topic = object.topic(&self.kafka.topics).to_owned();
        let records: Vec<Record<'_>> =
            gone.iter().map(|id| Record { topic: &topic, key: format!("{}/{id}", self.portal), value: None }).collect();
        self.write(&records).await?;
        for id in gone {
            self.stats.ended.inc();
            self.ledger.wrote(object, id, None, 0);
        }
        Ok(())
    }

    async fn write(&self, records: &[Record<'_>]) -> Result<(), Trouble> {
        if records.is_empty() {
            return Ok(());
        }
        let written = self.writer.write(records);
        self.faults.during(Step::Sent, written).await??;
        self.faults.hit(Step::Written)
    }

    /// Writes down how far this has come.
    ///
    /// # Safety
    /// - Every record of the steps that the cursor stands for is acknowledged: [`Mirror::refresh`] and [`Mirror::load`] returned.
    /// - Therefore a start that finds this cursor misses nothing, and one that does not find it does the last step again.
    ///
    /// # Errors
    /// See [`Trouble::Kafka`].
    pub async fn commit(&self, cursor: &Cursor) -> Result<(), Trouble> {
        let value = serde_json::to_vec(cursor).map_err(|error| Trouble::Kafka(error.into()))?;
        self.faults.hit(Step::Commit)?;
        self.writer.write(&[Record { topic: &self.kafka.topics.sources, key: key(&self.portal), value: Some(value) }]).await?;
        self.faults.hit(Step::Committed)
    }
}
