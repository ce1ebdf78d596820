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

use foldhash::quality::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
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
        Bursts {
            config,
            hasher: RandomState::default(),
            buckets: (0..buckets).map(|_| Bucket { next: AtomicU64::new(0), clicks: Default::default() }).collect(),
        }
    }

    /// Remembers a click and says whether it is part of a burst.
    pub(crate) fn sees(&self, event: &Event<'_>) -> bool {
        let Event { workspace, link, person, client, user_agent, now } = *event;
        let BurstConfig { contact: by_contact, links: by_links, client: by_client } = self.config;
        let Some(last) = self.buckets.len().checked_sub(1) else { return false };
        let link = self.hasher.hash_one((workspace, link)) & LINK;
        let mut burst = false;
        let mut look = |key: u64, clicks: Option<Limit>, links: Option<Limit>| {
            let recent = self.buckets[key as usize & last].push(key >> 48, link, now);
            burst |= clicks.is_some_and(|limit| recent.iter(limit.within, now).count() >= limit.count);
            burst |= links.is_some_and(|limit| recent.links(limit.within, now) >= limit.count);
        };
        match (person, client) {
            (Some(person), _) if by_contact.or(by_links).is_some() => look(self.hasher.hash_one((workspace, person)), by_contact, by_links),
            // Only where nothing better tells visitors apart, and then with the user agent: an office shares its address.
            (None, Some(client)) if by_links.is_some() => look(self.hasher.hash_one((network(client), user_agent)), None, by_links),
            _ => {}
        }
        if let Some(client) = client.filter(|_| by_client.is_some()) {
            look(self.hasher.hash_one(network(client)), by_client, None);
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
mod tests {
    use super::*;
    use std::collections::{HashSet, VecDeque};

    fn limit(text: &str) -> Option<Limit> {
        Some(text.parse().expect("a limit"))
    }

    fn config() -> BurstConfig {
        BurstConfig { contact: limit("5/2s"), links: limit("3/2s"), client: limit("10/2s") }
    }

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    const BLANK: Event<'_> = Event { workspace: "w", link: "d/s", person: None, client: None, user_agent: b"", now: 0 };

    #[test]
    fn limits_are_read() {
        assert_eq!("10/2s".parse(), Ok(Limit { count: 10, within: 2_000 }));
        assert_eq!("2/500ms".parse(), Ok(Limit { count: 2, within: 500 }));
        for text in ["", "10", "1/2s", "16/2s", "10/2", "10/0s", "10/61s", "x/2s", "10/99999999999999999999s"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn many_clicks_by_one_contact() {
        let bursts = Bursts::new(config());
        // From many addresses, on one link: 50 in a second.
        let found: Vec<bool> = (0..50_u8)
            .map(|n| bursts.sees(&Event { person: Some("801"), client: client(n), now: 1_000 + 20 * u64::from(n), ..BLANK }))
            .collect();
        assert_eq!(found.iter().position(|burst| *burst), Some(4));
        assert!(found[4..].iter().all(|burst| *burst));
        // Another contact, and the same two seconds after its last.
        assert!(!bursts.sees(&Event { person: Some("802"), now: 2_000, ..BLANK }));
        assert!(!bursts.sees(&Event { person: Some("801"), now: 1_980 + 2_000, ..BLANK }));
    }

    #[test]
    fn three_links_by_one_contact() {
        let bursts = Bursts::new(config());
        let on = |link, now| bursts.sees(&Event { person: Some("801"), link, now, ..BLANK });
        assert_eq!([on("d/1", 0), on("d/2", 900), on("d/2", 1_000), on("d/3", 1_999)], [false, false, false, true]);
        assert!(!on("d/4", 10_000));
    }

    #[test]
    fn one_address() {
        let bursts = Bursts::new(config());
        let at = |now, address| bursts.sees(&Event { client: Some(address), now, ..BLANK });
        let four = client(1).expect("an address");
        let found: Vec<bool> = (0..12).map(|n| at(n * 100, four)).collect();
        assert_eq!(found.iter().position(|burst| *burst), Some(9));
        assert!(!at(1_200, client(2).expect("an address")));
        // One person's many IPv6 addresses are one.
        let six = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
        let found: Vec<bool> = (0..10).map(|n| at(5_000 + u64::from(n), six(n))).collect();
        assert_eq!(found.iter().position(|burst| *burst), Some(9));
    }

    #[test]
    fn links_by_one_address_and_agent() {
        let bursts = Bursts::new(config());
        let office = |agent: &'static [u8], link| bursts.sees(&Event { client: client(9), user_agent: agent, link, now: 7, ..BLANK });
        // Three colleagues with browsers of their own, each a link; then one with three.
        assert_eq!([office(b"a", "1"), office(b"b", "2"), office(b"c", "3")], [false, false, false]);
        assert_eq!([office(b"a", "2"), office(b"a", "3")], [false, true]);
    }

    #[test]
    fn off_is_off() {
        let bursts = Bursts::new(BurstConfig::default());
        assert!((0..100).all(|_| !bursts.sees(&Event { person: Some("801"), client: client(1), ..BLANK })));
    }

    /// A plain list of everybody's clicks, which forgets nothing that matters.
    #[test]
    fn as_a_plain_list_says() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let bursts = Bursts::new(config());
            let mut log: VecDeque<(u64, u8, u8, u8)> = VecDeque::new();
            let mut now = 1 << 40;
            for _ in 0..5_000 {
                now += random.random_range(0..300);
                let (person, link, address) = (random.random_range(0..6_u8), random.random_range(0..6_u8), random.random_range(0..2_u8));
                log.push_back((now, person, link, address));
                log.retain(|(at, ..)| now - at < 2_000);
                let of: Vec<u8> = log.iter().filter(|(_, other, ..)| *other == person).map(|(_, _, link, _)| *link).collect();
                let different: HashSet<u8> = of.iter().copied().collect();
                let from = log.iter().filter(|(.., other)| *other == address).count();
                let expected = of.len() >= 5 || different.len() >= 3 || from >= 10;
                let (person, link) = (person.to_string(), link.to_string());
                let found = bursts.sees(&Event { person: Some(&person), link: &link, client: client(address), now, ..BLANK });
                // Two of six links share their 20 bits once in 70,000 runs.
                assert!(found == expected, "seed {seed}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn several_workers_see_one_burst() {
        let bursts = Bursts::new(config());
        let flagged: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..25).filter(|_| bursts.sees(&Event { person: Some("801"), now: 5, ..BLANK })).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        // The first to end its look has seen at most one of each thread; the eighth has at most three under way before it.
        assert!((93..100).contains(&flagged), "{flagged}");
    }
}
