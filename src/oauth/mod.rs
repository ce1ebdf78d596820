//! Connections to HubSpot accounts: how they are made, kept and renewed.
//!
//! ```text
//!  browser ──► routes.rs ──► install.rs                 decide.rs    when to call, what an answer makes of a row (pure)
//!                 │ state, once; code                   features.rs  what the granted scopes allow (pure)
//!                 ▼                                     endpoint.rs  the token endpoint
//!  connections.rs (handle) ──► keeper.rs ──► store.rs   row.rs       facts and tokens
//!        ▲                        │     SQLite: state/connections.rs, PostgreSQL: postgres.rs
//!   sinks/hubspot/service.rs      ├──► seal.rs          AES-256-GCM, bound to the row's place
//!                                 └──► witness.rs       old rows put back are noticed
//! ```
//!
//! # Guarantee
//! Of any number of threads and processes that need a new access token, one calls the token endpoint. Whatever refresh token comes back is
//! stored before the access token with it is used. A dead grant costs at most three calls an hour until somebody logs in. A row that was
//! copied, edited, or put back from a backup costs none.
//!
//! # Not
//! If HubSpot rotates refresh tokens (it does not today), the answer to a refresh is lost when the process is killed, or the connection breaks,
//! between HubSpot's commit and ours: no client can prevent that. It is reported as what it is, and deltas wait in their topics.

mod configured;
mod connections;
mod decide;
mod endpoint;
mod features;
mod install;
mod keeper;
mod postgres;
mod prepare;
mod ration;
mod routes;
mod row;
mod rows;
mod seal;
mod settings;
mod store;
mod witness;

pub use configured::{App, Configured};
pub(crate) use connections::passing_key;
pub use connections::{Connections, InstallError, Mode, Status};
pub use endpoint::Grant;
pub use features::{EventScopes, Feature, gated};
pub use install::{BeginError, Begun, Callback, FinishError, Installer};
pub use keeper::{Access, TokenError};
pub use postgres::Postgres;
pub use routes::{CALLBACK, READY, TAKES_LOGINS, routes};
pub use row::{Condition, Facts, Lease, Row, Secrets, Why};
pub use seal::{Seal, SealError, new_key};
pub use settings::{ConnectionSettings, Sealing};
pub use store::{Answer, Pending, Store, Stored};
pub use witness::Witness;
