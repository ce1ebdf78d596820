//! What integration tests share: real parts that are started for a test and end with it.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod clickhouse;
pub mod clock;
pub mod http_faults;
pub mod hubspot;
pub mod job;
pub mod kafka;
pub mod network;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod recount;
