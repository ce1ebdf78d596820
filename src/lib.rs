//! clickline: short-link clicks into CRM action.
//!
//! The README is the way in; `dataflow` is the heart.

#![forbid(unsafe_code)]

pub mod backtest;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dataflow;
pub mod dead_letters;
pub mod engine;
pub mod explain;
pub mod export;
pub mod failpoint;
pub mod forget;
pub mod history;
pub mod http;
pub mod job;
pub mod kafka;
#[cfg(test)]
mod log_events;
pub mod metrics;
pub mod model;
pub mod oauth;
pub mod replay;
pub mod schema;
pub mod secret;
pub mod serve;
pub mod sinks;
pub mod sources;
pub mod state;
pub mod status;
pub mod stop;
mod traces;
