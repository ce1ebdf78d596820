//! Writes the deltas to HubSpot: deal stages, contact properties, timeline events.
//!
//! ```text
//!  Kafka: three delta topics          settings.rs  the configuration        deal.rs      may this deal be moved?
//!     │ reader.rs   read_committed    record.rs    records, receipts        outcome.rs   what an answer means
//!     ▼                               queue.rs     one key at a time        request.rs   effects as requests
//!  run.rs ◄──► state database         lanes.rs     which batch is next      budget.rs    110 requests in 10 s
//!     │ settle.rs   fates             tracker.rs   offsets             allowance.rs  an account's requests and pauses
//!     ▼                               account.rs   lanes open and closed    service.rs   one request
//!  stages.rs  emails.rs               prepare.rs, setup.rs  what an account must have
//!  contacts.rs  events.rs             event_api.rs  timeline, app events, custom events
//!     │                               pipelines.rs  what rules expect of an account
//!     ▼                               associations.rs  which contacts a deal has
//!  HubSpot                            suspects.rs  what makes HubSpot stumble
//!                                     behind.rs    accounts that can't keep up
//!                                     overwritten.rs  whose move was overwritten
//!                                     referrer.rs  how much of a page's address may leave
//!                                     dead_letters.rs  refused records to their topic
//!                                     erased.rs    persons who are not to be written to
//! ```
//!
//! # Guarantee
//! Every delta has its effect once in the end. It is sent at least once; events are idempotent by their id, properties by the click
//! they came from, stages because the deal is read before it is moved. What was delivered is in the ledger, so that reading a topic
//! again sends nothing twice. Per contact and per deal, deltas are applied in order; a value that came from an older click never
//! replaces one from a newer click.
//!
//! A person who was erased ([`crate::forget`]) is in no request that is begun after the sink has heard of it: what waits for them goes, and
//! deltas that come later are dropped and counted.
//!
//! Not guaranteed: an order between contacts or deals, and that nobody moves a deal in the one round trip between reading and
//! writing it: HubSpot has no conditional write.
//!
//! # Cost
//! 110 requests in 10 s and account, 3 of them kept for deal stages. A batch holds 100 records, so about 1,000 events or contacts a
//! second and account; a stage move costs three requests for up to 100 deals, four where the
//! clicks' persons are known by their address, and of the bulk's places one for 50 of them afterwards.

mod account;
mod allowance;
mod associations;
mod behind;
mod budget;
mod chores;
mod contacts;
mod daily;
mod dead_letters;
mod deal;
pub mod dry;
mod emails;
mod entries;
mod erased;
mod event_api;
mod events;
mod exposed;
#[cfg(test)]
mod fixtures;
mod given;
mod intake;
mod lanes;
mod outcome;
mod overwritten;
mod paths;
mod pipelines;
mod portal;
mod prepare;
mod queue;
mod reader;
mod record;
mod referrer;
mod request;
mod run;
mod service;
mod settings;
mod settle;
mod setup;
mod sink;
mod stages;
mod standing;
mod standstill;
mod stats;
mod suspects;
#[cfg(test)]
mod tests;
mod tracker;
mod work;

pub use crate::secret::{Secret, read as read_secret};
pub(crate) use associations::Associations;
pub(crate) use budget::{Share, Wait, Window};
pub use exposed::Exposed;
pub(crate) use outcome::{Outcome, Refusal, item_errors, text};
pub use paths::{Paths, Version};
pub use pipelines::Move;
pub use portal::{Events, Portal};
pub use prepare::{accounts as setup_accounts, takes_token};
pub(crate) use record::delta_id;
pub(crate) use request::{Method, Request, segment};
pub(crate) use service::Service;
pub use settings::{Budget, Settings};
pub use setup::{Change, Finding, Standing};
pub use sink::Sink;
pub use standing::AccountStanding;
pub use stats::Stats;
pub(crate) use work::RETIRED;
