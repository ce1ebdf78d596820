//! What the tests of this module share.

use super::{Hosts, Terms};
use crate::dataflow::plan::{Plan, Times};
use crate::kafka::Kafka;

#[path = "../../tests/support/ports.rs"]
mod ports;
pub(super) use ports::free_addresses;

/// Process `process` of those at `addresses`.
pub(super) fn hosts(addresses: &[String], process: usize) -> Hosts {
    Hosts { addresses: addresses.to_vec(), process }
}

/// Of a job with nothing to do.
pub(super) fn terms(workers: usize) -> Terms {
    Terms::of(&Plan::new(Times::with_tick(100), &[], &[], |_, _| 0).expect("a plan"), &Kafka::at("b:1"), workers, 3)
}
