//! What the sink counts.

use serde::Serialize;

/// Counters since the start, and the present state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Records read from the delta topics, parked ones that came back included.
    pub read: u64,
    /// Timeline events delivered.
    pub events: u64,
    /// Events of these that HubSpot had already: their answer was lost. Many of them mean that the ledger was.
    pub known: u64,
    /// Property deltas delivered, coalesced ones included.
    pub properties: u64,
    /// Stage deltas delivered.
    pub stages: u64,
    /// Records that were deleted from their topic before they were read, at most: HubSpot does not get them.
    pub lost: u64,
    /// Records that the ledger knew as settled.
    pub skipped: u64,
    /// Records of portals that this sink does not serve.
    pub foreign: u64,
    /// Records of erased persons, dropped.
    pub erased: u64,
    /// Moves that came on top of a person's, made between reading the deal and moving it.
    pub overwritten: u64,
    /// Stage deltas whose deal no longer qualified.
    pub dropped: u64,
    /// Stage deltas of rules that only watch.
    pub shadow: u64,
    /// Property deltas whose every value had been overtaken by a newer click's.
    pub superseded: u64,
    /// Property values that HubSpot took and did not keep.
    pub ignored: u64,
    /// Tries that failed and were, or will be, repeated.
    pub retried: u64,
    /// Records refused for good.
    pub dead_letters: u64,
    /// Dead letters of this sink that were neither replayed nor dropped.
    pub dead_letters_open: u64,
    /// When the oldest of them was refused, ms since the Unix epoch; 0 when there is none.
    pub dead_letters_oldest_at: u64,
    /// Requests sent, to the token endpoint not counted.
    pub calls: u64,
    /// Requests that HubSpot answered with 429.
    pub rate_limited: u64,
    /// Refreshes of access tokens.
    pub refreshes: u64,
    /// Records that wait in the state database for their contact to appear.
    pub parked: u64,
    /// Portals that can't be written to until somebody acts: app removed, or scopes missing.
    pub suspended: u64,
    /// Records of accounts that can't keep up, passed over for now.
    pub held_back: u64,
    /// Records read and not yet settled, those held back included.
    pub lag: u64,
    /// All delta topics were read to their end and everything is settled (parked records apart). A record appended within the last
    /// fetch may not be known yet.
    pub caught_up: bool,
}
