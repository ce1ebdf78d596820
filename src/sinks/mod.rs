//! Where the dataflow's output goes.

pub mod outbox;
