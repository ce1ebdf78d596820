//! Bursts: more clicks within seconds than a person makes.
//!
//! # Meaning
//! A click is part of a burst when it is at least the `count`-th within `within` of
//! - one contact (or one ad click id, where there is no contact): [`BurstConfig::contact`];
//! - one contact, counting different links: [`BurstConfig::links`]; without a contact, of one address and user agent;
//! - one client address, an IPv6 one by its first 64 bits: [`BurstConfig::client`].
//!
//! # Ties and edges
//! The clicks before the `count`-th were answered and recorded as a person's: a burst lets `count − 1` clicks through before it is noticed, and
//! no more until it pauses. Clicks that are a machine's for another reason don't count.
//!
//! # How it is shared
//! All workers write into one table of a fixed size without locks: who clicks over several connections is served by several workers. A key has a bucket,
//! the bucket keeps its last [`ENTRIES`] clicks, whoever's they are. Each click takes the next place and then looks at all of them. Two that come in the very
//! same instant may not see each other; the next one sees both.
//!
//! # Limits
//! 4 MiB. Keys that share a bucket push each other's clicks out, so a burst may be missed, never invented: an entry is told from another
//! key's by 16 bits beside the 15 of the bucket, and from another click's time after 74 hours. At 50,000 clicks a second a bucket sees three a second.

use crate::large_pages;
use crate::prefetch::prefetch;
use foldhash::quality::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clicks that a bucket keeps; with its cursor two cache lines.
const ENTRIES: usize = 15;
/// Buckets of the table.
const BUCKETS: usize = 1 << 15;
/// Times are kept in so many bits, in milliseconds: 74 hours.
const TIME: u64 = (1 << 28) - 1;
/// Links are told apart by so many bits.
const LINK: u64 = (1 << 20) - 1;

/// How many clicks within which time are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    count: usize,
    /// Milliseconds.
    within: u64,
}

impl Limit {
    /// `count` clicks (2 to 15) within `within_ms` milliseconds (1 to 60,000); None when out of these bounds.
    pub fn new(count: usize, within_ms: u64) -> Option<Limit> {
        ((2..=ENTRIES).contains(&count) && (1..=60_000).contains(&within_ms)).then_some(Limit { count, within: within_ms })
    }
}

impl FromStr for Limit {
    type Err = String;

    /// `10/2s`, `10/500ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no limit; write 2 to {ENTRIES} clicks within up to 60 s as 10/2s or 5/500ms");
        let (count, within) = text.split_once('/').ok_or_else(wrong)?;
        let (number, unit) = match (within.strip_suffix("ms"), within.strip_suffix('s')) {
            (Some(number), _) => (number, 1),
            (_, Some(number)) => (number, 1_000),
            _ => return Err(wrong()),
        };
        let within = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
        count.parse().ok().and_then(|count| Limit::new(count, within)).ok_or_else(wrong)
    }
}

/// What is a burst; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BurstConfig {
    /// Clicks of one contact.
    pub contact: Option<Limit>,
    /// Different links that one contact clicked.
    pub links: Option<Limit>,
    /// Clicks of one client address.
    pub client: Option<Limit>,
}

/// One click, as far as bursts care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub workspace: &'a str,
    pub link: &'a str,
    /// Contact, or ad click id.
    pub person: Option<&'a str>,
    pub client: Option<IpAddr>,
    pub user_agent: &'a [u8],
    /// Milliseconds since the epoch.
    pub now: u64,
}

/// The last clicks of a key, one place after the other.
#[repr(align(128))]
struct Bucket {
    next: AtomicU64,
    /// Key (16 bits), link (20), time (28); 0: none.
    clicks: [AtomicU64; ENTRIES],
}

/// Finds bursts. One for all workers.
pub(crate) struct Bursts {
    config: BurstConfig,
    /// Seeded at the start, so that nobody can choose keys that share a bucket.
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

impl Bursts {
    pub(crate) fn new(config: BurstConfig) -> Bursts {
        let buckets = if config == BurstConfig::default() { 0 } else { BUCKETS };
        let buckets: Box<[Bucket]> = (0..buckets).map(|_| Bucket { next: AtomicU64::new(0), clicks: Default::default() }).collect();
        let Range { start, end } = buckets.as_ptr_range();
        large_pages::enlarge(std::iter::once(start.addr()..end.addr()));
        Bursts { config, hasher: RandomState::default(), buckets }
    }

    /// A click of this person is about to be [seen](Bursts::sees): its bucket is far away in memory, and there is still something else to do.
    pub(crate) fn expect(&self, workspace: &str, person: &str) {
        if let Some(bucket) = self.person(workspace, person).and_then(|key| self.bucket(key)) {
            bucket.expect();
        }
    }

    /// The key of a person, where persons' clicks are counted.
    fn person(&self, workspace: &str, person: &str) -> Option<u64> {
        self.config.contact.or(self.config.links).map(|_| self.hasher.hash_one((workspace, person)))
    }

    /// The bucket of a key; none when nothing is a burst.
    fn bucket(&self, key: u64) -> Option<&Bucket> {
        self.buckets.get(key as usize % BUCKETS)
    }

    /// Remembers a click and says whether it is part of a burst.
    pub(crate) fn sees(&self, event: &Event<'_>) -> bool {
        let Event { workspace, link, person, client, user_agent, now } = *event;
        let BurstConfig { contact: by_contact, links: by_links, client: by_client } = self.config;
        if self.buckets.is_empty() {
            return false;
        }
        let link = self.hasher.hash_one((workspace, link)) & LINK;
        let first = match (person, client) {
            (Some(person), _) => self.person(workspace, person).map(|key| (key, by_contact, by_links)),
            // Only where nothing better tells visitors apart, and then with the user agent: an office shares its address.
            (None, Some(client)) if by_links.is_some() => Some((self.hasher.hash_one((network(client), user_agent)), None, by_links)),
            _ => None,
        };
        let second = client.filter(|_| by_client.is_some()).map(|client| (self.hasher.hash_one(network(client)), by_client, None));
        let looks = [first, second].into_iter().flatten().filter_map(|(key, clicks, links)| Some((self.bucket(key)?, key, clicks, links)));
        // Both buckets are asked for before the first is written: the processor waits for their memory together.
        looks.clone().for_each(|(bucket, ..)| bucket.expect());
        let mut burst = false;
        for (bucket, key, clicks, links) in looks {
            let recent = bucket.push(key >> 48, link, now);
            burst |= clicks.is_some_and(|limit| recent.iter(limit.within, now).count() >= limit.count);
            burst |= links.is_some_and(|limit| recent.links(limit.within, now) >= limit.count);
        }
        burst
    }
}

/// Who has an IPv6 address has at least its first 64 bits' network.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address) >> 64 << 64,
    }
}

/// The clicks of one key in its bucket.
struct Recent {
    clicks: [u64; ENTRIES],
}

impl Bucket {
    /// Asks for both of its cache lines.
    fn expect(&self) {
        prefetch(&self.next);
        prefetch(&self.clicks[ENTRIES - 1]);
    }

    /// Takes the next place for a click, and gives back the clicks of its key.
    fn push(&self, key: u64, link: u64, now: u64) -> Recent {
        // 0 marks a free place.
        let key = key.max(1);
        let click = key << 48 | link << 28 | now & TIME;
        let place = self.next.fetch_add(1, Ordering::Relaxed) as usize % ENTRIES;
        // Nothing else is published with it; each place is a whole by itself.
        self.clicks[place].store(click, Ordering::Relaxed);
        let mut clicks = [0; ENTRIES];
        for (copy, other) in clicks.iter_mut().zip(&self.clicks) {
            let other = other.load(Ordering::Relaxed);
            if other >> 48 == key {
                *copy = other;
            }
        }
        // A whole round of others may have come in between.
        clicks[place] = click;
        Recent { clicks }
    }
}

impl Recent {
    fn iter(&self, within: u64, now: u64) -> impl Iterator<Item = u64> {
        self.clicks.iter().copied().filter(move |click| {
            // Workers' clocks are looked at in turn: one may be a little ahead.
            let age = now.wrapping_sub(*click) & TIME;
            *click != 0 && (age < within || age > TIME - within)
        })
    }

    /// How many different links there are.
    fn links(&self, within: u64, now: u64) -> usize {
        let mut seen = [0; ENTRIES];
        let mut count = 0;
        for link in self.iter(within, now).map(|click| click >> 28 & LINK) {
            if !seen[..count].contains(&link) {
                seen[count] = link;
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
