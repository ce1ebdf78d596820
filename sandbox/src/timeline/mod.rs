//! Timelines: event templates and events of version 3, and the app events that take their place.

pub(crate) mod app_event_types;
pub(crate) mod app_events;
pub(crate) mod events;
pub(crate) mod render;
pub(crate) mod templates;

/// Both prefixes in use: the specification's and the older one.
pub(crate) const PREFIXES: [&str; 2] = ["/integrators/timeline/v3", "/crm/v3/timeline"];
/// Both prefixes of app events: the specification's and the one that HubSpot's guides still write.
pub(crate) const APP_EVENT_PREFIXES: [&str; 2] = ["/integrators/timeline/2026-03", "/integrators/timeline/v4"];
