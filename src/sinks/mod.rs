//! Where the dataflow's output goes.

pub mod clickhouse;
pub mod hubspot;
pub mod outbox;
