//! The dataflow: from what was clicked to what HubSpot should hear.

pub mod first_match;
pub mod intake;
pub mod plan;
pub mod rows;
pub mod settle;
pub mod step;
