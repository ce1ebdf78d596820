//! Configuration in two phases: `Raw…` is what was typed, the checked types are what it means.
//!
//! Reading opens no socket.

pub mod rules;
