//! Lists of networks: scanners, and offices that may click as much as they like.
//!
//! # Format
//! One network a line in CIDR form (`192.0.2.0/24`, `2001:db8::/32`, or a single address); `#` begins a comment.
//!
//! # Cost
//! Sorted ranges that don't overlap: a look-up is one binary search, some twenty steps for a million networks of 32 bytes each.
//!
//! # Edges
//! IPv4 addresses that come as IPv6 (`::ffff:192.0.2.1`) are IPv4.

use crate::Error;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Networks, as ranges of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks(Box<[(u128, u128)]>);

impl Networks {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Networks, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::Config(format!("cannot read the networks in {} ({error}); check the path and its permissions", path.display()))
        })?;
        Networks::parse(&text).map_err(|message| Error::Config(format!("{}, {message}", path.display())))
    }

    /// Reads text of the file's format. The error says what is wrong with which line, and what to do.
    pub(crate) fn parse(text: &str) -> Result<Networks, String> {
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                ranges.push(range(line).map_err(|message| format!("line {number}: {message}"))?);
            }
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Ok(Networks(merged.into()))
    }

    /// Whether an address is in one of them.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).is_some_and(|at| number <= self.0[at].1)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
    .to_bits()
}

fn range(text: &str) -> Result<(u128, u128), String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let wrong = || format!("{text:?} is no network; write one as 192.0.2.0/24 or 2001:db8::/32");
    let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.trim().parse::<u32>().ok().filter(|length| *length <= whole).ok_or_else(wrong)?,
        None => whole,
    };
    let rest = u128::MAX.checked_shr(128 - whole + length).unwrap_or(0);
    let first = number(address);
    if first & rest != 0 {
        let network = Ipv6Addr::from_bits(first & !rest).to_canonical();
        return Err(format!("{text:?} is an address inside its network; write {network}/{length}"));
    }
    Ok((first, first | rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn by_hand() {
        let networks =
            Networks::parse("# ours\n192.0.2.0/25\n192.0.2.128/25 # the other half\n\n2001:db8::/32\n203.0.113.7").expect("networks");
        assert_eq!(networks.0.len(), 3);
        for (text, inside) in [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("192.0.1.255", false),
            ("::ffff:192.0.2.7", true),
            ("203.0.113.7", true),
            ("203.0.113.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(networks.contains(address(text)), inside, "{text}");
        }
        let all = Networks::parse("0.0.0.0/0\n::/0").expect("networks");
        assert!(all.contains(address("1.2.3.4")) && all.contains(address("::1")));
        assert!(!Networks::default().contains(address("1.2.3.4")));
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for (text, part) in [
            ("\n192.0.2.1/24", "line 2: \"192.0.2.1/24\" is an address inside its network; write 192.0.2.0/24"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("192.0.2.0/33", "no network"),
            ("example.com", "no network"),
            ("1.2.3.4/-1", "no network"),
        ] {
            let error = Networks::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        /// Against a plain comparison of bits.
        #[test]
        fn an_address_is_in_a_network_when_their_first_bits_are_the_same(
            entries in prop::collection::vec((any::<u32>(), 0_u32..=32), 0..12), address in any::<u32>(), near in any::<bool>()
        ) {
            let mask = |length: u32| u32::MAX.checked_shl(32 - length).unwrap_or(0);
            let entries: Vec<(u32, u32)> = entries.into_iter().map(|(bits, length)| (bits & mask(length), length)).collect();
            let text: String = entries.iter().map(|(bits, length)| format!("{}/{length}\n", std::net::Ipv4Addr::from_bits(*bits))).collect();
            let networks = Networks::parse(&text).expect("networks");
            let address = match entries.first() {
                Some((bits, length)) if near => bits.wrapping_add(address & !mask(*length)),
                _ => address,
            };
            let inside = entries.iter().any(|(bits, length)| address & mask(*length) == *bits);
            prop_assert_eq!(networks.contains(IpAddr::V4(std::net::Ipv4Addr::from_bits(address))), inside);
        }
    }
}
