//! A dry run: says which calls the sink would make for what lies in the delta topics, makes none, and leaves everything as it is.
//!
//! It reads the topics from where the sink has come to up to their ends, passes over what the ledger knows, and shapes the rest into batches
//! as they would be if all of it were there at once. What depends on an answer of HubSpot's is said with its condition: a deal is moved
//! *if* it still qualifies, properties are written *if* the address has a contact. E-mail addresses are masked.
//!
//! # Cost
//! A batch of events, contacts and addresses of each account in memory, and all deal stages.

use super::entries::Addressed;
use super::event_api::{EventApi, batch_max};
use super::lanes::{BATCH_MAX, Batch, Lanes, Work};
use super::overwritten;
use super::portal::Events;
use super::reader;
use super::record::{Delta, Lane, Raw, Receipt};
use super::request::{self, Method, Request};
use super::settings::Settings;
use crate::kafka::Kafka;
use crate::model::outputs::Person;
use crate::state::{Erased, LedgerKey, Standing, State};
use crate::stop::Stop;
use anyhow::{Context as _, anyhow};
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

/// How long the brokers may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a dry run found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Deltas that are not settled.
    pub records: u64,
    /// Calls for them, were every answer the hoped-for one.
    pub calls: u64,
    /// Deltas that the ledger knows as settled.
    pub skipped: u64,
    /// Deltas of erased persons, which are dropped.
    pub erased: u64,
    /// Stage deltas of rules that only watch.
    pub shadow: u64,
    /// Records that are no delta and would become dead letters.
    pub malformed: u64,
    /// Records that wait for the contact of their address.
    pub parked: u64,
}

/// Prints the calls to `out`, until `stop` is asked.
///
/// # Errors
/// The topics or the state database can't be read, or `out` is closed.
pub fn run(settings: &Settings, kafka: &Kafka, portals: &[String], state: &State, stop: &Stop, out: impl Write) -> anyhow::Result<Planned> {
    let accounts = portals.iter().map(|portal| (portal.clone(), Lanes::default())).collect();
    let parked = state.parked_count()?;
    let erased = state.erased()?;
    let mut dry = Dry { settings, state, erased, out, accounts, planned: Planned { parked, ..Planned::default() } };
    for lane in Lane::ALL {
        dry.lane(kafka, lane, stop)?;
    }
    Ok(dry.planned)
}

struct Dry<'a, W> {
    settings: &'a Settings,
    state: &'a State,
    erased: Erased,
    out: W,
    accounts: BTreeMap<String, Lanes>,
    planned: Planned,
}

impl<W: Write> Dry<'_, W> {
    /// One topic, to its end.
    fn lane(&mut self, kafka: &Kafka, lane: Lane, stop: &Stop) -> anyhow::Result<()> {
        let topic = kafka.topics.output(lane.topic());
        let consumer = reader::consumer(kafka)?;
        let metadata = match consumer.fetch_metadata(Some(topic), PATIENCE) {
            Ok(metadata) => metadata,
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => return Ok(()),
            Err(error) => return Err(anyhow!(error).context(format!("the brokers do not say what the topic {topic} has"))),
        };
        let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
        let mut open: BTreeSet<i32> = found.flat_map(|found| found.partitions()).map(|partition| partition.id()).collect();
        let stored = self.state.offsets(topic)?;
        let mut list = TopicPartitionList::new();
        for partition in &open {
            let (begin, end) = consumer.fetch_watermarks(topic, *partition, PATIENCE)?;
            // Where the records are gone, the sink goes on at the first that is there.
            let next = stored.get(partition).copied().filter(|next| (begin..=end).contains(next)).unwrap_or(begin);
            list.add_partition_offset(topic, *partition, Offset::Offset(next))?;
        }
        consumer.assign(&list)?;
        let mut heard = Instant::now();
        while !open.is_empty() && !stop.asked() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let payload = message.payload().unwrap_or_default().to_vec();
                    self.record(topic, lane, Raw { partition: message.partition(), offset: message.offset(), key: None, payload })?;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) if heard.elapsed() > PATIENCE => return Err(anyhow!(error).context(format!("{topic} can't be read"))),
                None if heard.elapsed() > PATIENCE => return Err(anyhow!("{topic} can't be read: the brokers send nothing")),
                Some(Err(_)) | None => {}
            }
        }
        for portal in self.accounts.keys().cloned().collect::<Vec<_>>() {
            while let Some(batch) = self.accounts.get_mut(&portal).and_then(|lanes| take(lanes, true)) {
                self.batch(&portal, batch)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, topic: &str, lane: Lane, raw: Raw) -> anyhow::Result<()> {
        let Ok(delta) = Delta::decode(lane, &raw.payload) else {
            self.planned.malformed += 1;
            return Ok(());
        };
        let portal = delta.portal().to_owned();
        let Some(lanes) = self.accounts.get_mut(&portal) else { return Ok(()) };
        if delta.person().is_some_and(|person| self.erased.person(&portal, person)) {
            self.planned.erased += 1;
            return Ok(());
        }
        let ledger_key = LedgerKey::of(topic, delta.id());
        if self.state.standing(ledger_key)? == Standing::Settled {
            self.planned.skipped += 1;
            return Ok(());
        }
        if matches!(&delta, Delta::Stage(delta) if delta.shadow) {
            self.planned.shadow += 1;
            return Ok(());
        }
        self.planned.records += 1;
        // Without the bytes: nothing is written of them.
        let raw = Raw { payload: Vec::new(), ..raw };
        lanes.push(
            delta,
            Receipt { lane, portal: portal.clone(), raw, ledger_key, parked: None, failing_since: None, person: None, fresh: true },
            Instant::now(),
        );
        while let Some(batch) = self.accounts.get_mut(&portal).and_then(|lanes| take(lanes, false)) {
            self.batch(&portal, batch)?;
        }
        Ok(())
    }

    /// The calls for a batch; its keys are done with.
    fn batch(&mut self, portal: &str, batch: Batch) -> anyhow::Result<()> {
        let paths = &self.settings.paths;
        match batch {
            Batch::Stages(entries) => {
                let front = || entries.iter().filter_map(|entry| Some((entry.key.as_str(), &entry.value.steps.front()?.0)));
                let asking = || front().filter(|(_, delta)| delta.guard.require_associated_contact);
                if asking().next().is_some() {
                    self.call(portal, "", &request::read_deal_contacts(paths, asking().map(|(id, _)| (id, None))))?;
                }
                let address = |person: &Person| if let Person::Email(email) = person { Some(email.clone()) } else { None };
                let addresses: BTreeSet<String> = asking().filter_map(|(_, delta)| address(delta.person.as_ref()?)).collect();
                if !addresses.is_empty() {
                    let find = request::find_contacts(paths, addresses.iter().map(String::as_str));
                    self.call(portal, "if the deal has contacts: ", &find)?;
                }
                self.call(portal, "", &request::read_deals(paths, entries.iter().map(|e| e.key.as_str())))?;
                let moves = request::move_deals(paths, front().map(|(id, delta)| (id, delta.to_stage.as_str())));
                self.call(portal, "if the deal still is in its stage and pipeline and its guards hold: ", &moves)?;
                for moved in entries.chunks(overwritten::AT_ONCE) {
                    let histories = request::read_stage_histories(paths, moved.iter().map(|e| e.key.as_str()));
                    self.call(portal, "of what was moved: ", &histories)?;
                }
                for mut entry in entries {
                    entry.value.steps.pop_front();
                    let Some(lanes) = self.accounts.get_mut(portal) else { continue };
                    if entry.value.steps.is_empty() {
                        lanes.stages.release(&entry.key);
                    } else {
                        // The deal's next step has a call of its own.
                        lanes.stages.put_back(entry, Instant::now());
                    }
                }
            }
            Batch::Emails(entries) => {
                self.call(portal, "", &request::find_contacts(paths, entries.iter().map(|e| e.key.as_str())))?;
                if self.settings.portals.get(portal).is_some_and(|account| account.create_contacts) {
                    let create = request::create_contacts(paths, entries.iter().map(|e| e.key.as_str()));
                    self.call(portal, "if the address has no contact: ", &create)?;
                }
                for entry in entries {
                    let Addressed { properties, events } = entry.value;
                    let who = format!("(contact of {})", masked(&entry.key));
                    if let Some(lanes) = self.accounts.get_mut(portal) {
                        lanes.found(&entry.key, &who, Addressed { properties, events }, Instant::now());
                    }
                }
            }
            Batch::Contacts(mut entries) => {
                for entry in &mut entries {
                    let mut overtaken = Vec::new();
                    for (name, change) in &entry.value.changes {
                        if self.state.contact_value(portal, &entry.key, name)?.is_some_and(|written| written >= change.from) {
                            overtaken.push(name.clone());
                        }
                    }
                    overtaken.iter().for_each(|name| drop(entry.value.changes.remove(name)));
                }
                let worth: Vec<_> = entries.iter().filter(|e| !e.value.changes.is_empty()).map(|e| (e.key.as_str(), &e.value)).collect();
                if !worth.is_empty() {
                    self.call(portal, "", &request::update_contacts(paths, worth))?;
                }
                if let Some(lanes) = self.accounts.get_mut(portal) {
                    entries.iter().for_each(|entry| lanes.contacts.release(&entry.key));
                }
            }
            Batch::Events(entries) => {
                let api = self.event_api(portal);
                self.call(portal, "", &api.request(paths, entries.iter().map(|entry| &entry.value)))?;
                if let Some(lanes) = self.accounts.get_mut(portal) {
                    entries.iter().for_each(|entry| lanes.events.release(&entry.key));
                }
            }
        }
        Ok(())
    }

    /// What would take the events; a type that the sink would find or make at its start has no name yet.
    fn event_api(&self, portal: &str) -> EventApi {
        let account = self.settings.portals.get(portal).cloned().unwrap_or_default();
        let given = if account.events == Events::Timeline { account.event_template_id } else { account.event_type };
        let event_type = given.unwrap_or_else(|| "(found or made at the start)".to_owned());
        EventApi { api: account.events, event_type, batch_max: BATCH_MAX.min(batch_max(account.events)) }
    }

    /// Prints a call: a line for the request, and one for each of its inputs.
    fn call(&mut self, portal: &str, condition: &str, request: &Request) -> anyhow::Result<()> {
        self.planned.calls += 1;
        let Request { method, path, body } = request;
        let method = match method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let body = body.clone().map(mask).unwrap_or(Value::Null);
        let closed = "standard output is closed";
        writeln!(self.out, "{portal}  {condition}{method} {path}").context(closed)?;
        match body.get("inputs").and_then(Value::as_array) {
            Some(inputs) => inputs.iter().try_for_each(|input| writeln!(self.out, "    {input}")),
            None => writeln!(self.out, "    {body}"),
        }
        .context(closed)
    }
}

/// The next batch: a full one, or with `all` whatever there is.
fn take(lanes: &mut Lanes, all: bool) -> Option<Batch> {
    let (linger, now) = (if all { Duration::ZERO } else { Duration::from_secs(u64::from(u32::MAX)) }, Instant::now());
    // Deals are not held up to fill a batch by the sink; here they are, for a shorter text.
    lanes.next(|work| all || work != Work::Stages, BATCH_MAX, linger, now)
}

/// Without the e-mail addresses.
fn mask(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('@') => Value::String(text.split(' ').map(masked).collect::<Vec<_>>().join(" ")),
        Value::Array(list) => Value::Array(list.into_iter().map(mask).collect()),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(name, value)| (name, mask(value))).collect()),
        other => other,
    }
}

/// `a***@example.com` for an address, anything else as it is.
fn masked(word: &str) -> String {
    match word.split_once('@') {
        Some((name, domain)) => format!("{}***@{domain}", name.chars().next().unwrap_or('*')),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_masked_wherever_they_stand() {
        let body = json!({"inputs": [{"id": "ada@example.com"}, {"properties": {"x": "by ada@example.com today"}}], "n": 1});
        let text = mask(body).to_string();
        assert!(!text.contains("ada@") && text.contains("a***@example.com today"), "{text}");
    }
}
