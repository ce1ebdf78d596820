//! Connections to HubSpot between processes, crashes, databases and browsers, against the sandbox and its log; on SQLite and on a real
//! PostgreSQL.

mod browser;
mod processes;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod world;
