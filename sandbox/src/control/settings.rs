//! Settings that can be changed while the sandbox runs.

use crate::config::{AppEvents, Config, DuplicateEvents, JournalEnd, Rotation};
use crate::http::{AppState, Body};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::patch;
use serde::Deserialize;
use std::time::Duration;

/// The route of settings.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/sandbox/settings", patch(change))
}

/// What to change; what is left out stays. The meaning of each is that of [`Config`].
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    access_token_for_s: Option<u64>,
    rotation: Option<RotationName>,
    reuse_revokes_family: Option<bool>,
    bad_refresh_status: Option<u16>,
    duplicate_events: Option<DuplicateName>,
    app_events: Option<AppEventsName>,
    burst_limit: Option<usize>,
    static_burst_limit: Option<usize>,
    static_daily_limit: Option<u64>,
    oauth_daily_limit: Option<u64>,
    search_limit: Option<usize>,
    retry_after: Option<bool>,
    search_delay_ms: Option<u64>,
    journal_end: Option<JournalEndName>,
    webhook_retries_ms: Option<Vec<u64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RotationName {
    Never,
    Always,
    GraceMs(u64),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DuplicateName {
    Conflict,
    BadRequest,
    Accept,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AppEventsName {
    Accepted,
    Created,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum JournalEndName {
    NoContent,
    NotFound,
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

impl Settings {
    fn apply(self, config: &mut Config) {
        set(&mut config.access_token_for, self.access_token_for_s.map(Duration::from_secs));
        let rotation = self.rotation.map(|name| match name {
            RotationName::Never => Rotation::Never,
            RotationName::Always => Rotation::Always,
            RotationName::GraceMs(ms) => Rotation::Grace(Duration::from_millis(ms)),
        });
        set(&mut config.rotation, rotation);
        set(&mut config.reuse_revokes_family, self.reuse_revokes_family);
        set(&mut config.bad_refresh_status, self.bad_refresh_status);
        let duplicate_events = self.duplicate_events.map(|name| match name {
            DuplicateName::Conflict => DuplicateEvents::Conflict,
            DuplicateName::BadRequest => DuplicateEvents::BadRequest,
            DuplicateName::Accept => DuplicateEvents::Accept,
        });
        set(&mut config.duplicate_events, duplicate_events);
        let app_events = self.app_events.map(|name| match name {
            AppEventsName::Accepted => AppEvents::Accepted,
            AppEventsName::Created => AppEvents::Created,
        });
        set(&mut config.app_events, app_events);
        set(&mut config.burst_limit, self.burst_limit);
        set(&mut config.static_burst_limit, self.static_burst_limit);
        set(&mut config.static_daily_limit, self.static_daily_limit);
        set(&mut config.oauth_daily_limit, self.oauth_daily_limit.map(Some));
        set(&mut config.search_limit, self.search_limit);
        set(&mut config.retry_after, self.retry_after);
        set(&mut config.search_delay, self.search_delay_ms.map(Duration::from_millis));
        let journal_end = self.journal_end.map(|name| match name {
            JournalEndName::NoContent => JournalEnd::NoContent,
            JournalEndName::NotFound => JournalEnd::NotFound,
        });
        set(&mut config.journal_end, journal_end);
        set(&mut config.webhook_retries, self.webhook_retries_ms.map(|all| all.into_iter().map(Duration::from_millis).collect()));
    }
}

async fn change(State(app): State<AppState>, Body(settings): Body<Settings>) -> StatusCode {
    app.configure(|config| settings.apply(config));
    StatusCode::NO_CONTENT
}
