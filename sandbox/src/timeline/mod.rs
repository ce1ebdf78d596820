//! The timeline API, version 3: event templates of an app, and events on the records of a portal.

pub(crate) mod events;
pub(crate) mod render;
pub(crate) mod templates;

/// Both prefixes in use: the specification's and the older one.
pub(crate) const PREFIXES: [&str; 2] = ["/integrators/timeline/v3", "/crm/v3/timeline"];
