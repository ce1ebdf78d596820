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
