//! How many connections there are, altogether and of each client.
//!
//! # Cost
//! The lock is taken when a connection is made or ends, never for a request, and held for one look into a map.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the connections of all workers.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    /// 0 is no limit.
    max_per_client: u32,
    open: AtomicUsize,
    /// Connections of each client that has some. The map's hasher is seeded at random.
    clients: Mutex<HashMap<IpAddr, u32>>,
}

impl Connections {
    pub(crate) fn new(max: usize, max_per_client: u32) -> Connections {
        Connections { max, max_per_client, open: AtomicUsize::new(0), clients: Mutex::default() }
    }

    /// Room for one more connection of a client that is not known yet, if there is any.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        // Made at once, so that its end gives back what was taken.
        let place = Place { connections: self.clone(), client: None };
        (self.open.fetch_add(1, Relaxed) < self.max).then_some(place)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // The map is whole at every moment.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one open connection; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    client: Option<IpAddr>,
}

impl Place {
    /// Counts the connection as this client's; false when that one has too many.
    pub(crate) fn claim(&mut self, client: IpAddr) -> bool {
        if self.connections.max_per_client == 0 || self.client.is_some() {
            return true;
        }
        let client = network(client);
        let mut clients = self.connections.clients();
        let count = clients.entry(client).or_default();
        if *count >= self.connections.max_per_client {
            return false;
        }
        *count += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Relaxed);
        let Some(client) = self.client else { return };
        let mut clients = self.connections.clients();
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }
}

/// Whom to count together: who has one IPv6 address has the 2^64 around it.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let connections = Arc::new(Connections::new(3, 2));
        let enter = |client: &str| {
            let mut place = connections.enter()?;
            place.claim(client.parse().expect("an address")).then_some(place)
        };
        let first = enter("2001:db8::1").expect("room");
        let second = enter("2001:db8::2").expect("room");
        assert!(enter("2001:db8::3").is_none(), "the third of one network");
        let other = enter("198.51.100.1").expect("room for another client");
        assert!(enter("198.51.100.2").is_none(), "the fourth altogether");
        drop(first);
        let third = enter("2001:db8::3").expect("room again");
        drop((second, third, other));
        assert_eq!((connections.open.load(Relaxed), connections.clients().len()), (0, 0));
    }
}
