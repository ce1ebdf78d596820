//! Who clicked: contact, human or machine, device, country.
//!
//! ```text
//! request ─► eid ─────► identity ─► contact, or nobody
//!            user agent ► cache ──► device, system, browser; machine?
//!            address ──► networks, geoip, what is kept of it
//!            all ──────► bursts
//! ```
//!
//! # Meaning
//! [`Visitors`] is what all workers share; each has a [`Judge`], which keeps what needs no sharing: the user agents seen last, the day's salt, the
//! counts of this turn. The sources are [`Watched`] files; a worker sees a new value at its next click.
//!
//! # Cost
//! A click whose user agent was seen before: a hash of it, and where configured one look-up each in the networks, the database and the burst table
//! (two with a contact). A signature is checked only where there is one: two blocks of SHA-256.

mod address;
mod config;
mod watched;

pub use address::{AddressKey, ClientAddress};
pub use config::VisitorConfig;

use crate::Error;
use crate::agent::{Agent, Cache, Facts};
use crate::bots::{self, Agents, Bursts, Event, Networks, Reason};
use crate::click::{self, Visitor};
use crate::geo::GeoIp;
use crate::identity::{self, EidConfig, KeySource, Keys, Outcome};
use crate::query::Marks;
use address::Addresses;
use arc_swap::ArcSwap;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use watched::Watched;

/// What became of the `eid` of redirects, since the start: label of `redirect_eid_total`, and how many.
pub type EidCounts = [(&'static str, u64); Outcome::LABELS.len()];

/// What all workers share.
pub(crate) struct Visitors {
    eid: EidConfig,
    keys: Watched<Keys>,
    agents: Watched<Option<Agents>>,
    scanners: Watched<Networks>,
    offices: Watched<Networks>,
    geo: Watched<Option<GeoIp>>,
    bursts: Bursts,
    client_address: ClientAddress,
    address_key: Option<AddressKey>,
    eids: [AtomicU64; Outcome::LABELS.len()],
}

impl Visitors {
    /// Reads all files.
    pub(crate) fn new(config: VisitorConfig) -> Result<Visitors, Error> {
        let VisitorConfig { eid, bot_agents, scanner_networks, burst, burst_except, geoip, client_address, address_key } = config;
        if eid.reads_tokens() && eid.keys.is_none() {
            return Err(Error::Config(
                "`eid` is to be signed, and there are no keys; give a file with --eid-keys, or CLICKLINE_EID_KEYS".to_owned(),
            ));
        }
        let keys = match &eid.keys {
            Some(KeySource::File(path)) => Watched::open(path.clone(), Keys::read)?,
            Some(KeySource::Given(keys)) => Watched::fixed(keys.clone()),
            None => Watched::fixed(Keys::default()),
        };
        let networks =
            |path: Option<_>| path.map_or_else(|| Ok(Watched::fixed(Networks::default())), |path| Watched::open(path, Networks::read));
        let agents = match bot_agents {
            Some(path) => Watched::open(path, |path| {
                let agents = Agents::read(path)?;
                tracing::info!(event = "list_read", patterns = agents.len(), "read the user agents in {}", path.display());
                Ok(Some(agents))
            })?,
            None => Watched::fixed(None),
        };
        let geo = geoip.map_or_else(|| Ok(Watched::fixed(None)), |path| Watched::open(path, |path| GeoIp::read(path).map(Some)))?;
        let address_key = match (client_address, address_key) {
            (ClientAddress::Hashed, None) => Some(
                AddressKey::random()
                    .ok_or_else(|| Error::Config("the system gives no random numbers; set CLICKLINE_ADDRESS_KEY".to_owned()))?,
            ),
            (_, key) => key,
        };
        Ok(Visitors {
            eid,
            keys,
            agents,
            scanners: networks(scanner_networks)?,
            offices: networks(burst_except)?,
            geo,
            bursts: Bursts::new(burst),
            client_address,
            address_key,
            eids: Default::default(),
        })
    }

    /// Reads the files that have changed, or all of them `now`. Blocks on the disk: not for workers.
    pub(crate) fn look(&self, now: bool) {
        self.keys.look(now);
        self.agents.look(now);
        self.scanners.look(now);
        self.offices.look(now);
        self.geo.look(now);
    }

    pub(crate) fn eid_counts(&self) -> EidCounts {
        std::array::from_fn(|at| (Outcome::LABELS[at], self.eids[at].load(Ordering::Relaxed)))
    }
}

/// What is known of a visitor beside what the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known<'a> {
    /// What the record says of the user agent ([`click::agent_fields`]).
    pub agent: &'a [u8],
    pub country: Option<[u8; 2]>,
    /// What is kept of the client's address.
    pub client: Option<String>,
    /// Why it is a machine's click, if it is.
    pub bot: Option<Reason>,
}

type Reader<T> = arc_swap::cache::Cache<Arc<ArcSwap<T>>, Arc<T>>;

/// Judges visitors; one per worker.
pub(crate) struct Judge {
    shared: Arc<Visitors>,
    keys: Reader<Keys>,
    agents: Reader<Option<Agents>>,
    scanners: Reader<Networks>,
    offices: Reader<Networks>,
    geo: Reader<Option<GeoIp>>,
    seen: Cache,
    /// What the user agents in `seen` were read with.
    seen_with: Arc<Option<Agents>>,
    addresses: Addresses,
    /// Counts that `shared` hasn't got yet.
    eids: [u64; Outcome::LABELS.len()],
}

impl Judge {
    pub(crate) fn new(shared: Arc<Visitors>) -> Judge {
        let mut agents = shared.agents.reader();
        Judge {
            keys: shared.keys.reader(),
            seen_with: agents.load().clone(),
            agents,
            scanners: shared.scanners.reader(),
            offices: shared.offices.reader(),
            geo: shared.geo.reader(),
            seen: Cache::new(),
            addresses: Addresses::new(shared.client_address, shared.address_key.clone()),
            eids: Default::default(),
            shared,
        }
    }

    /// A click with these marks is about to be [judged](Judge::look); there is still something else to do.
    pub(crate) fn expect(&self, workspace: &str, marks: &Marks<'_>) {
        // Who clicks with a signed contact is found out later.
        if let Some(person) = person(marks) {
            self.shared.bursts.expect(workspace, person);
        }
    }

    /// Judges one click on a link at `now` (ms since the epoch). `marks` are the request's own; their `eid` becomes the contact, or nobody.
    pub(crate) fn look(
        &mut self,
        workspace: &str,
        link: &str,
        marks: &mut Marks<'_>,
        visitor: &Visitor<'_>,
        client: IpAddr,
        now: u64,
    ) -> Known<'_> {
        if let Some(eid) = marks.eid.take() {
            let (contact, outcome) = identity::judge(self.shared.eid.policy(workspace), self.keys.load(), workspace, link, &eid, now);
            self.eids[outcome as usize] += 1;
            marks.eid = match outcome {
                // The whole of it.
                Outcome::Plain => Some(eid),
                _ => contact.map(|contact| Cow::Owned(contact.to_owned())),
            };
        }
        let words = visitor.user_agent.unwrap_or_default();
        let agents = self.agents.load();
        if !Arc::ptr_eq(agents, &self.seen_with) {
            self.seen_with = agents.clone();
            self.seen.clear();
        }
        let facts = self.seen.get(words, || facts(words, (*self.seen_with).as_ref()));
        let mut bot = match visitor {
            Visitor { head: true, .. } => Some(Reason::Head),
            Visitor { prefetch: true, .. } => Some(Reason::Prefetch),
            _ => facts.machine,
        };
        if bot.is_none() && self.scanners.load().contains(client) {
            bot = Some(Reason::Network);
        }
        if bot.is_none() {
            // Where an office clicks, its address says nothing; its people are still people.
            let client = Some(client).filter(|client| !self.offices.load().contains(*client));
            let event = Event { workspace, link, person: person(marks), client, user_agent: words, now };
            bot = self.shared.bursts.sees(&event).then_some(Reason::Burst);
        }
        let country = visitor.country.and_then(country).or_else(|| self.geo.load().as_ref().as_ref()?.country(client));
        Known { agent: &facts.fields, country, client: self.addresses.kept(client, now), bot }
    }

    /// Hands the counts over.
    pub(crate) fn end_turn(&mut self) {
        for (count, shared) in self.eids.iter_mut().zip(&self.shared.eids) {
            if *count > 0 {
                shared.fetch_add(std::mem::take(count), Ordering::Relaxed);
            }
        }
    }
}

/// Who clicks, as far as bursts care: the contact, or else the ad's click id.
fn person<'m>(marks: &'m Marks<'_>) -> Option<&'m str> {
    marks.eid.as_deref().or(marks.gclid.as_deref()).or(marks.fbclid.as_deref())
}

/// What a user agent's words tell.
fn facts(words: &[u8], list: Option<&Agents>) -> Facts {
    let text = String::from_utf8_lossy(words);
    let listed = || list.is_some_and(|agents| agents.contains(words)).then_some(Reason::UserAgent);
    Facts { fields: click::agent_fields(words, &Agent::read(&text)), machine: bots::says(&text).or_else(listed) }
}

/// Two letters, in upper case. `XX` is Cloudflare's word for unknown.
fn country(value: &[u8]) -> Option<[u8; 2]> {
    match value.trim_ascii() {
        [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
            let code = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
            (&code != b"XX").then_some(code)
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
