//! What a sandbox is started with: address, apps, portals, limits, and the choices where HubSpot's documents leave one.

use crate::clock::Clock;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
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
    /// Whether a refresh token that has been rotated away and comes back kills every token of its installation (RFC 9700,
    /// section 4.14.2). Off by default: HubSpot documents no such thing.
    pub reuse_revokes_family: bool,
    /// HTTP status of a dead refresh token. HubSpot: 400; some clients were told 401.
    pub bad_refresh_status: u16,
    /// What a timeline event with a known id is answered with.
    pub duplicate_events: DuplicateEvents,
    /// What an app event that was stored is answered with.
    pub app_events: AppEvents,
    /// Requests per rolling 10 s, app and portal; search, batch associations, custom events and the journal do not count.
    /// HubSpot: 110.
    pub burst_limit: usize,
    /// The same for a static token (private app, service key). HubSpot: 100 or 190, by product.
    pub static_burst_limit: usize,
    /// Requests a day (UTC) and portal, of all its static tokens together. HubSpot: 250,000 to 1,000,000, by product.
    pub static_daily_limit: u64,
    /// Requests a day (UTC), app and portal. None, as HubSpot names no such limit for OAuth apps.
    pub oauth_daily_limit: Option<u64>,
    /// Search requests per rolling second and portal. HubSpot: 5.
    pub search_limit: usize,
    /// Whether a 429 carries `Retry-After` (seen, not documented; off by default).
    pub retry_after: bool,
    /// What the webhooks journal answers when there is nothing after an offset.
    pub journal_end: JournalEnd,
    /// Pauses before each retry of a webhook that was not answered with 2xx. HubSpot: up to 10 retries within 24 hours.
    pub webhook_retries: Vec<Duration>,
    /// How many requests the log keeps in memory; older ones are forgotten.
    pub requests_kept: usize,
    /// Bytes of request and answer bodies that the log keeps in memory; the oldest are dropped, the requests stay.
    pub bodies_kept: usize,
    /// A file that every request is appended to as one line of JSON, bodies included, whatever memory forgets. Where none is
    /// named and the environment variable `CLICKLINE_SANDBOX_LOGS` names a folder, it is a file of its own there: what tests
    /// exchange with any sandbox can then be held to HubSpot's documents.
    pub request_log: Option<PathBuf>,
    /// How far search lags behind writes. HubSpot is eventually consistent by up to tens of seconds; the default is none.
    pub search_delay: Duration,
    /// Where the sandbox reads the time.
    pub clock: Clock,
}

/// Ten pauses that add up to less than a day; HubSpot says no more than that.
const WEBHOOK_RETRY_MINUTES: [u64; 10] = [1, 2, 5, 10, 20, 60, 120, 180, 360, 600];

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
            reuse_revokes_family: false,
            bad_refresh_status: 400,
            duplicate_events: DuplicateEvents::Conflict,
            app_events: AppEvents::Accepted,
            burst_limit: 110,
            static_burst_limit: 190,
            static_daily_limit: 625_000,
            oauth_daily_limit: None,
            search_limit: 5,
            retry_after: false,
            journal_end: JournalEnd::NoContent,
            webhook_retries: WEBHOOK_RETRY_MINUTES.map(|minutes| Duration::from_secs(60 * minutes)).to_vec(),
            requests_kept: 50_000,
            bodies_kept: 64 * 1024 * 1024,
            request_log: None,
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

    /// HubSpot's id of the private app or service key behind the static token with this number: 2000001, 2000002, …
    pub(crate) fn static_app_id(number: u64) -> u64 {
        2_000_001 + number
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

/// What an app event that was stored is answered with; the specification lists both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AppEvents {
    /// 200 with an empty body: accepted, and mirrored elsewhere later.
    #[default]
    Accepted,
    /// 201 with the event.
    Created,
}

/// What the webhooks journal answers at its end. The specification lists neither; a client in the field reads 204.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JournalEnd {
    /// 204.
    #[default]
    NoContent,
    /// 404.
    NotFound,
}
