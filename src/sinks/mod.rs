//! Where the dataflow's output goes.

pub mod hubspot;
pub mod outbox;
