//! What a click record keeps of the client's address: nothing, unless it is configured.
//!
//! # Meaning
//! - `ClientAddress::None`: nothing.
//! - `ClientAddress::Truncated`: its network, `192.0.2.0/24` or `2001:db8:1::/48`.
//! - `ClientAddress::Hashed`: a keyed hash under a salt of the day (UTC of the event time): clicks of one address on one day are told from others, and
//!   nobody without the key can try addresses out, nor follow one from day to day.
//!
//! # Edges
//! Without a key of one's own a random one is drawn when the server starts: hashes then differ after a restart and between servers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One day, in milliseconds.
const DAY: u64 = 86_400_000;

/// What is kept of client addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// Nothing.
    #[default]
    None,
    /// The network: 24 bits of IPv4, 48 of IPv6.
    Truncated,
    /// A keyed hash that changes every day.
    Hashed,
}

impl FromStr for ClientAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(ClientAddress::None),
            "truncated" => Ok(ClientAddress::Truncated),
            "hashed" => Ok(ClientAddress::Hashed),
            _ => Err(format!("{text:?} is no way to keep addresses; write none, truncated or hashed")),
        }
    }
}

/// A secret that client addresses are hashed with.
#[derive(Clone)]
pub struct AddressKey(hmac::Key);

impl AddressKey {
    /// From a secret of at least 16 bytes; None when it is shorter.
    pub fn new(secret: &[u8]) -> Option<AddressKey> {
        (secret.len() >= 16).then(|| AddressKey(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// A random one.
    pub(crate) fn random() -> Option<AddressKey> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).ok()?;
        AddressKey::new(&secret)
    }
}

impl fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressKey")
    }
}

/// Writes what is kept; one per worker.
pub(crate) struct Addresses {
    keep: ClientAddress,
    key: Option<AddressKey>,
    /// Day since the epoch, and its salt.
    day: Option<(u64, hmac::Key)>,
}

impl Addresses {
    pub(crate) fn new(keep: ClientAddress, key: Option<AddressKey>) -> Addresses {
        Addresses { keep, key, day: None }
    }

    /// What is kept of an address at `now`, in milliseconds since the epoch.
    pub(crate) fn kept(&mut self, address: IpAddr, now: u64) -> Option<String> {
        let address = address.to_canonical();
        match self.keep {
            ClientAddress::None => None,
            ClientAddress::Truncated => Some(match address {
                IpAddr::V4(address) => format!("{}/24", Ipv4Addr::from_bits(address.to_bits() >> 8 << 8)),
                IpAddr::V6(address) => format!("{}/48", Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
            }),
            ClientAddress::Hashed => {
                let day = now / DAY;
                if self.day.as_ref().is_none_or(|(of, _)| *of != day) {
                    let salt = hmac::sign(&self.key.as_ref()?.0, format!("clickline client address\n{day}").as_bytes());
                    self.day = Some((day, hmac::Key::new(hmac::HMAC_SHA256, salt.as_ref())));
                }
                let (_, salt) = self.day.as_ref()?;
                let hash = match address {
                    IpAddr::V4(address) => hmac::sign(salt, &address.octets()),
                    IpAddr::V6(address) => hmac::sign(salt, &address.octets()),
                };
                Some(URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn nothing_or_the_network() {
        let mut none = Addresses::new(ClientAddress::None, None);
        assert_eq!(none.kept(address("192.0.2.77"), 0), None);
        let mut network = Addresses::new(ClientAddress::Truncated, None);
        for (text, kept) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            assert_eq!(network.kept(address(text), 0).as_deref(), Some(kept));
        }
    }

    #[test]
    fn hashes_tell_addresses_apart_for_a_day() {
        let key = |byte: u8| AddressKey::new(&[byte; 16]);
        let mut one = Addresses::new(ClientAddress::Hashed, key(1));
        let mut hash = |text, now| one.kept(address(text), now).expect("a hash");
        let morning = hash("192.0.2.77", 20_000 * DAY);
        assert_eq!(morning, hash("::ffff:192.0.2.77", 20_001 * DAY - 1));
        let all: HashSet<String> =
            [morning.clone(), hash("192.0.2.78", 20_000 * DAY), hash("::1", 20_000 * DAY), hash("192.0.2.77", 20_001 * DAY)].into();
        assert_eq!(all.len(), 4);
        // Back on the day before, as a clock may be set.
        assert_eq!(morning, hash("192.0.2.77", 20_000 * DAY + 5));
        let mut other = Addresses::new(ClientAddress::Hashed, key(2));
        assert_ne!(other.kept(address("192.0.2.77"), 20_000 * DAY), Some(morning));
        assert!(AddressKey::new(&[1; 15]).is_none() && AddressKey::random().is_some());
        assert_eq!(format!("{:?}", key(1)), "Some(AddressKey)");
    }
}
