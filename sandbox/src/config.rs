//! What a sandbox is started with: address, apps, portals, limits, and the choices where HubSpot's documents leave one.

use crate::clock::Clock;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How to start a sandbox. [`Config::default`] listens on a free port of 127.0.0.1 with one app (`clickline` /
/// `sandbox-secret`) and one portal (`4242`), and behaves as HubSpot's documents say.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The apps registered with the sandbox. The first one is the app that in-process helpers act for.
    pub apps: Vec<App>,
    /// HubSpot accounts that exist from the start; each id is a decimal number.
    pub portals: Vec<String>,
    /// The developer key (`?hapikey=`) that may manage event templates.
    pub developer_key: String,
    /// Redirect URIs that `/oauth/authorize` accepts; empty means any well-formed one (https with a domain, or localhost).
    pub redirect_uris: Vec<String>,
    /// Scopes that an authorize URL must ask for, as an app's settings would demand.
    pub required_scopes: Vec<String>,
    /// How long an access token lives. HubSpot: 1,800 s.
    pub access_token_for: Duration,
    /// What a refresh does to the refresh token.
    pub rotation: Rotation,
    /// What a timeline event with a known id is answered with.
    pub duplicate_events: DuplicateEvents,
    /// Requests per rolling 10 s, app and portal; search and batch associations do not count. HubSpot: 110.
    pub burst_limit: usize,
    /// Search requests per rolling second and portal. HubSpot: 5.
    pub search_limit: usize,
    /// Whether a 429 carries `Retry-After` (seen, not documented; off by default).
    pub retry_after: bool,
    /// How far search lags behind writes. HubSpot is eventually consistent by up to tens of seconds; the default is none.
    pub search_delay: Duration,
    /// Where the sandbox reads the time.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            apps: vec![App { client_id: "clickline".into(), client_secret: "sandbox-secret".into() }],
            portals: vec!["4242".into()],
            developer_key: "sandbox-developer-key".into(),
            redirect_uris: Vec::new(),
            required_scopes: Vec::new(),
            access_token_for: Duration::from_secs(1800),
            rotation: Rotation::Never,
            duplicate_events: DuplicateEvents::Conflict,
            burst_limit: 110,
            search_limit: 5,
            retry_after: false,
            search_delay: Duration::ZERO,
            clock: Clock::system(),
        }
    }
}

impl Config {
    /// HubSpot's id of the app at `index` of [`Config::apps`]: 1000001, 1000002, …
    pub(crate) fn app_id(index: usize) -> u64 {
        1_000_001 + index as u64
    }
}

/// An app as its developer registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Public id.
    pub client_id: String,
    /// Secret that goes with it.
    pub client_secret: String,
}

/// What a refresh does to the refresh token. HubSpot documents no rotation; observers see the same token come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The same refresh token comes back, as observed.
    #[default]
    Never,
    /// A new one comes back and the old one is dead at once.
    Always,
    /// A new one comes back; the old one lives on for this long.
    Grace(Duration),
}

/// What a timeline event whose id is taken is answered with. HubSpot's documents do not say it for v3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DuplicateEvents {
    /// 409, as HubSpot's newer app events do.
    #[default]
    Conflict,
    /// 400 with the text of the v1 API.
    BadRequest,
    /// 201 with the event that is already there, unchanged.
    Accept,
}
