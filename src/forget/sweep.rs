//! Goes through the stores beside the state database's own rows, and removes what names erased persons.
//!
//! # Meaning
//! | store | what is done |
//! | --- | --- |
//! | ledger | outcomes of deltas and decisions about dead letters go; their keys are hashes of ids that may hold an address |
//! | dead letters | no longer open, listed, shown or replayed; the bytes stay on their topic until its retention |
//! | `crm.contacts`, `clicks.counts`, `clickline.state` | a tombstone for each key |
//! | ClickHouse | rows of clicks and deltas go |
//! | delta topics, `dead-letters`, `clicks`, `forms` | nothing can be taken out of them: told as [`Left`] |
//!
//! Who is erased is asked by id and by hash of address, so that a round needs no address that somebody would have to keep.
//!
//! # Cost
//! One pass over three delta topics, the dead letters and three compacted topics. `clicks` and `forms` are not read: whoever is named
//! there is named until the retention has passed.

use super::How;
use super::topics::{Keeps, end, keeps, scan};
use crate::dead_letters::DeadLetters;
use crate::kafka::{Kafka, Seen};
use crate::model::Named;
use crate::model::inputs::split_key;
use crate::model::outputs::{DeadLetter, Topic};
use crate::model::time::Ms;
use crate::sinks::clickhouse::{self, Forgotten};
use crate::sinks::hubspot::delta_id;
use crate::state::{Erased, LedgerKey, State};
use anyhow::Context as _;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The topics of deltas.
const DELTAS: [Topic; 3] = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages];

/// Where the stores are.
pub struct Stores<'a> {
    /// Brokers and topics.
    pub kafka: &'a Kafka,
    /// The state database.
    pub state: &'a State,
    /// ClickHouse, where there is one.
    pub clickhouse: Option<&'a clickhouse::Settings>,
    /// The accounts of each workspace.
    pub workspaces: &'a BTreeMap<String, Vec<String>>,
    /// Whether the mirror's records of contacts are ended here. A mirror that runs does so itself, and says nothing twice.
    pub contacts: bool,
}

/// What a round has removed, or would remove, and what it can't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Outcomes in the ledger.
    pub ledger: usize,
    /// Dead letters about which nobody had decided.
    pub dead_letters: usize,
    /// Keys that were ended, by topic.
    pub tombstones: BTreeMap<String, usize>,
    /// Rows in ClickHouse.
    pub clickhouse: Option<Forgotten>,
    /// What stays in topics.
    pub left: Vec<Left>,
    /// Stores that could not be gone through: do it again.
    pub failed: Vec<String>,
}

/// What stays in a topic, out of everybody's reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The topic.
    pub topic: String,
    /// Records that name the person; `None` where the topic is not read for that.
    pub records: Option<usize>,
    /// When the last of them was appended, or ended (ms since the Unix epoch): from then on the topic's own settings count.
    pub since: Ms,
    /// When the last of them is deleted by these settings, or at the earliest compacted (ms since the Unix epoch); `None`: nobody knows, or
    /// never.
    pub until: Option<Ms>,
}

impl Swept {
    /// How much was found that could be removed.
    pub fn count(&self) -> usize {
        let rows = self.clickhouse.map_or(0, |gone| gone.clicks + gone.deltas);
        self.ledger + self.dead_letters + self.tombstones.values().sum::<usize>() + usize::try_from(rows).unwrap_or(usize::MAX)
    }
}

/// What of one topic is theirs.
#[derive(Debug, Default)]
struct Found {
    records: usize,
    /// When the newest of them was appended, ms since the Unix epoch.
    newest: Ms,
    ledger: BTreeSet<LedgerKey>,
    /// Places of refused records, as their letters name them.
    places: BTreeSet<(String, i32, i64)>,
    keys: BTreeSet<String>,
}

impl Found {
    fn note(&mut self, seen: &Seen<'_>) {
        self.records += 1;
        self.newest = self.newest.max(seen.at);
    }
}

/// Goes through the stores for `erased` at `now` (ms since the Unix epoch). Blocks. What fails is in the result, and the other stores are
/// gone through all the same.
///
/// # Errors
/// No runtime for the clients.
pub fn sweep(stores: &Stores<'_>, erased: &Erased, how: How, now: Ms) -> anyhow::Result<Swept> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (mut swept, topics) = (Swept::default(), &stores.kafka.topics);
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    let tried = |swept: &mut Swept, topic: &str, read: anyhow::Result<Found>| match read {
        Ok(read) => Some(read),
        Err(error) => {
            swept.failed.push(format!("{topic}: {error:#}"));
            None
        }
    };
    for topic in DELTAS {
        let name = topics.output(topic);
        let read = deltas(stores, topic, name, erased);
        found.extend(tried(&mut swept, name, read).map(|read| (name, read)));
    }
    let name = topics.output(Topic::DeadLetters);
    let read = letters(stores, name, erased);
    found.extend(tried(&mut swept, name, read).map(|read| (name, read)));
    let contacts = stores.contacts.then_some(topics.contacts.as_str());
    for name in contacts.into_iter().chain([topics.output(Topic::Counts), topics.output(Topic::State)]) {
        let read = keyed(stores, name, erased);
        found.extend(tried(&mut swept, name, read).map(|read| (name, read)));
    }
    let keys: BTreeSet<LedgerKey> = found.values().flat_map(|found| found.ledger.iter().copied()).collect();
    let places: BTreeSet<(String, i32, i64)> = found.values().flat_map(|found| found.places.iter().cloned()).collect();
    match how {
        How::Look => (swept.ledger, swept.dead_letters) = (stores.state.ledger_count(&keys)?, stores.state.dead_letter_count(&places)?),
        How::Remove => {
            (swept.ledger, swept.dead_letters) = (stores.state.forget_ledger(&keys)?, stores.state.forget_dead_letters(&places)?);
            stores.state.scrub()?;
        }
    }
    for (name, found) in found.iter().filter(|(_, found)| !found.keys.is_empty()) {
        let ended = if how == How::Remove { runtime.block_on(end(stores.kafka, name, &found.keys)) } else { Ok(()) };
        match ended {
            Ok(()) => drop(swept.tombstones.insert((*name).to_owned(), found.keys.len())),
            Err(error) => swept.failed.push(format!("{name}: {error:#}")),
        }
    }
    if let Some(settings) = stores.clickhouse {
        match runtime.block_on(in_clickhouse(settings, stores.workspaces, erased, how)) {
            Ok(gone) => swept.clickhouse = Some(gone),
            Err(error) => swept.failed.push(format!("ClickHouse: {error:#}")),
        }
    }
    let unread = [topics.clicks.as_str(), topics.forms.as_str()];
    let named: Vec<&str> =
        unread.iter().copied().chain(found.iter().filter(|(_, found)| found.records > 0).map(|(name, _)| *name)).collect();
    swept.left = named.iter().map(|name| left(name, found.get(name), how, now)).collect();
    Ok(swept)
}

fn left(topic: &str, found: Option<&Found>, how: How, now: Ms) -> Left {
    // Of a topic that was not read the newest may be of this moment; what is ended now is compacted with its tombstone.
    let since = found.filter(|found| found.keys.is_empty() || how == How::Look).map_or(now, |found| found.newest);
    Left { topic: topic.to_owned(), records: found.map(|found| found.records), since, until: None }
}

impl Swept {
    /// Asks the brokers until when what is left stays. What they do not say in time stays unknown.
    ///
    /// # Errors
    /// No runtime for the client.
    pub fn ask_until(&mut self, kafka: &Kafka) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let topics: Vec<&str> = self.left.iter().map(|left| left.topic.as_str()).collect();
        let kept = runtime.block_on(keeps(kafka, &topics));
        for left in &mut self.left {
            left.until = match kept.get(&left.topic) {
                Some(Keeps::For(ms) | Keeps::UntilCompacted(ms)) => Some(left.since.saturating_add(*ms)),
                Some(Keeps::Forever) | None => None,
            };
        }
        Ok(())
    }
}

/// Deltas that are theirs.
fn deltas(stores: &Stores<'_>, topic: Topic, name: &str, erased: &Erased) -> anyhow::Result<Found> {
    let mut found = Found::default();
    scan(stores.kafka, name, |seen| {
        let payload = seen.payload.unwrap_or_default();
        if erased.named(&Named::in_record(payload), stores.workspaces) {
            found.note(&seen);
            found.ledger.extend(delta_id(topic, payload).map(|(_, id)| LedgerKey::of(name, &id)));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Dead letters that are theirs.
fn letters(stores: &Stores<'_>, name: &str, erased: &Erased) -> anyhow::Result<Found> {
    let mut found = Found::default();
    scan(stores.kafka, name, |seen| {
        let Ok(letter) = serde_json::from_slice::<DeadLetter>(seen.payload.unwrap_or_default()) else { return Ok(()) };
        if DeadLetters::of_erased(stores.kafka, stores.workspaces, erased, &letter) {
            found.note(&seen);
            found.ledger.extend(DeadLetters::keys(stores.kafka, &letter));
            found.places.insert((letter.source, letter.partition, letter.offset));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Keys of a compacted topic whose last record is theirs, and all records that are.
fn keyed(stores: &Stores<'_>, name: &str, erased: &Erased) -> anyhow::Result<Found> {
    let mut found = Found::default();
    scan(stores.kafka, name, |seen| {
        let Some(Ok(key)) = seen.key.map(std::str::from_utf8) else { return Ok(()) };
        let Some(payload) = seen.payload.filter(|payload| !payload.is_empty()) else {
            found.keys.remove(key);
            return Ok(());
        };
        let mut named = Named::in_record(payload);
        if name == stores.kafka.topics.contacts {
            // The record of somebody who has the address now, or who was merged with them and is not erased, is that one's.
            let own = split_key(seen.key).map(|(_, id)| id.to_owned());
            named.contacts = own.into_iter().collect();
            named.emails.clear();
        }
        if erased.named(&named, stores.workspaces) {
            found.note(&seen);
            found.keys.insert(key.to_owned());
        } else {
            found.keys.remove(key);
        }
        Ok(())
    })?;
    Ok(found)
}

async fn in_clickhouse(
    settings: &clickhouse::Settings,
    workspaces: &BTreeMap<String, Vec<String>>,
    erased: &Erased,
    how: How,
) -> anyhow::Result<Forgotten> {
    let service = clickhouse::Service::new(settings)?;
    let mut all = Forgotten::default();
    for portal in erased.portals() {
        let of = clickhouse::Of {
            portal,
            workspaces: workspaces
                .iter()
                .filter(|(_, portals)| portals.iter().any(|of| of == portal))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        let contacts: Vec<String> = erased.contacts(portal).cloned().collect();
        let mut emails = clickhouse::addresses(&service, portal).await?;
        emails.retain(|email| erased.email(portal, email));
        if contacts.is_empty() && emails.is_empty() {
            continue;
        }
        let Forgotten { clicks, deltas } = clickhouse::forget(&service, &of, &contacts, &emails, how).await?;
        (all.clicks, all.deltas) = (all.clicks + clicks, all.deltas + deltas);
    }
    Ok(all)
}
