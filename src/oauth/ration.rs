//! How many installations may begin, so that whoever asks for ever neither fills the store nor keeps others from installing.
//!
//! Pure: time is passed in.
//!
//! # Meaning
//! In a minute one address has [`EACH`], and all have [`ALL`] together. An address is that of the connection; of IPv6 the first half, which is what
//! one subscriber has. No header is asked: anybody can write one. Behind a proxy all of its clients are therefore one address, and their
//! shares are the proxy's to keep; whoever is kept out can still use `clickline hubspot login --code`, which asks nobody's leave.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Installations that one address may begin in a minute.
pub const EACH: u32 = 60;
/// Installations that may begin in a minute; each is a row until it expires.
pub const ALL: u32 = 600;
/// The minute.
const WINDOW: Duration = Duration::from_secs(60);

/// What has begun in the minute that began at `since`.
#[derive(Debug)]
pub struct Ration {
    since: Instant,
    all: u32,
    /// By address; at most [`ALL`] of them.
    each: HashMap<Option<IpAddr>, u32>,
}

impl Ration {
    /// Nothing has begun.
    pub fn new(now: Instant) -> Self {
        Ration { since: now, all: 0, each: HashMap::new() }
    }

    /// Whether one more may begin, for a connection from `from`; those without an address count as one. What is refused is not counted.
    pub fn take(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) > WINDOW {
            *self = Ration::new(now);
        }
        if self.all >= ALL {
            return false;
        }
        let each = self.each.entry(from.map(subscriber)).or_default();
        if *each >= EACH {
            return false;
        }
        *each += 1;
        self.all += 1;
        true
    }
}

/// An IPv4 address, also where it is written as IPv6; the first 64 bits of any other.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Option<IpAddr> {
        Some(address.parse().expect("an address"))
    }

    #[test]
    fn one_address_does_not_use_up_what_others_have() {
        let now = Instant::now();
        let mut ration = Ration::new(now);
        let mut taken = |address: &str, now| (0..2 * EACH).filter(|_| ration.take(from(address), now)).count();
        assert_eq!(taken("192.0.2.1", now), 60);
        assert_eq!(taken("192.0.2.2", now), 60);
        assert_eq!(taken("::ffff:192.0.2.2", now), 0, "the same, written otherwise");
        assert_eq!(taken("2001:db8::1", now), 60);
        assert_eq!(taken("2001:db8::ffff:2", now), 0, "another address of the same subscriber");
        assert_eq!(taken("2001:db8:0:1::1", now), 60);
        assert_eq!(taken("192.0.2.1", now + WINDOW * 2), 60, "a minute later");
    }

    #[test]
    fn all_addresses_together_fill_no_table() {
        let now = Instant::now();
        let mut ration = Ration::new(now);
        let taken = (0..5000u32).filter(|n| ration.take(Some(IpAddr::V4((*n).into())), now)).count();
        assert_eq!(taken, 600);
        assert!(ration.each.len() <= 600);
        assert!(!ration.take(None, now));
    }
}
