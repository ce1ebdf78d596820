//! clickline: short-link clicks into CRM action.
//!
//! The README is the way in; `dataflow` is the heart.

#![forbid(unsafe_code)]

pub mod config;
pub mod dataflow;
pub mod kafka;
pub mod model;
