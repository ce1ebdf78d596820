//! Where connections are kept: a small trait, so that one process can do with SQLite and several can share PostgreSQL.
//!
//! A store knows nothing of tokens, clocks or HubSpot. It keeps one [`Stored`] row for each environment and portal, changes it only by
//! compare-and-set on `token_version`, and keeps installations that have begun until they are taken, once.

use crate::model::time::Ms;
use std::fmt::Debug;
use std::pin::Pin;

/// What a store's methods give back: it may wait for a network.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// One connection as it stands in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The environment it belongs to, as the configuration calls it.
    pub environment: String,
    /// HubSpot's account id.
    pub portal: String,
    /// Grows with every change; the compare-and-set.
    pub token_version: i64,
    /// What is no secret, as JSON ([`super::Facts`]); readable, and bound to the seal: an edited text makes the row unreadable.
    pub facts: String,
    /// The tokens, sealed ([`super::Seal`]).
    pub sealed: Vec<u8>,
}

/// An installation that has begun in a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which workspace it is for.
    pub workspace: String,
    /// Where HubSpot was asked to send the browser back to; the exchange must name the same.
    pub redirect_uri: String,
    /// SHA-256 of what the browser holds in a cookie.
    pub browser: Vec<u8>,
    /// From then on it is as if it had never begun.
    pub expires_at: Ms,
}

/// A table of connections. Every method is one statement: it happens whole or not at all, also when the process ends in the middle.
pub trait Store: Debug + Send + Sync {
    /// A portal's row.
    fn read<'a>(&'a self, environment: &'a str, portal: &'a str) -> Answer<'a, Option<Stored>>;

    /// The rows of all environments, by environment and portal.
    fn list(&self) -> Answer<'_, Vec<Stored>>;

    /// Writes `row` if the table's is still at `seen`; with `None`, if there is none. `false`: somebody else was faster.
    fn swap<'a>(&'a self, seen: Option<i64>, row: &'a Stored) -> Answer<'a, bool>;

    /// Remembers an installation under the hash of its `state`, and forgets those that expired before `now`.
    fn begin_install<'a>(&'a self, state: &'a [u8], pending: &'a Pending, now: Ms) -> Answer<'a, ()>;

    /// Takes an installation out: of any number of calls for one `state`, one gets it. It may have expired.
    fn take_install<'a>(&'a self, state: &'a [u8]) -> Answer<'a, Option<Pending>>;
}
