//! Gets an account ready: the event template and the contact properties, or a clear word on what is in the way.

use super::outcome::Outcome;
use super::record::Lane;
use super::service::Service;
use super::settings::{Portal, Settings};
use super::setup;
use super::work::Suspend;
use crate::http;
use std::time::Duration;

/// How far an account is ready.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The event template.
    pub template: Option<String>,
    /// Whether the contact properties are there.
    pub provisioned: bool,
    /// What somebody must do.
    pub problem: Option<Suspend>,
    /// When to try the rest again.
    pub again: Option<Duration>,
}

/// After a failure that may pass by itself.
const SOON: Duration = Duration::from_secs(2);
/// After one that needs somebody.
const LATER: Duration = Duration::from_secs(60);

impl Prepared {
    fn failed(&mut self, lane: Lane, what: &str, outcome: &Outcome) {
        let mut problem = |lane: Option<Lane>, why: String| {
            self.problem = Some(Suspend { lane, why });
            LATER
        };
        let after = match outcome {
            Outcome::Throttled(_) | Outcome::Transient(..) => SOON,
            Outcome::Disconnected => {
                problem(None, "HubSpot no longer accepts our tokens for this account: install the app again".to_owned())
            }
            Outcome::Unauthorized => problem(Some(lane), format!("{what}: HubSpot does not accept the credentials")),
            Outcome::Forbidden(scopes) => problem(Some(lane), format!("{what}: the app lacks one of these scopes: {}", scopes.join(", "))),
            Outcome::NotFound(refusal) | Outcome::Refused(refusal) => problem(Some(lane), format!("{what}: {}", refusal.detail())),
            Outcome::Done(_) | Outcome::Exists => problem(Some(lane), format!("{what}: HubSpot's answer makes no sense")),
        };
        self.again = Some(after);
    }
}

/// Looks, and makes what is missing.
pub async fn account(service: &Service, settings: &Settings, portal: &str) -> Prepared {
    let mut prepared = Prepared::default();
    match setup::contact_properties(service, settings, portal).await {
        Ok(()) => prepared.provisioned = true,
        Err(outcome) => prepared.failed(Lane::Properties, "contact properties", &outcome),
    }
    match template(settings, portal).await {
        Ok(template) => prepared.template = Some(template),
        Err(outcome) => prepared.failed(Lane::Events, "event template", &outcome),
    }
    prepared
}

async fn template(settings: &Settings, portal: &str) -> Result<String, Outcome> {
    let unusable = |e: anyhow::Error| Outcome::Transient(format!("{e:#}"), None);
    match settings.portals.get(portal) {
        Some(Portal { event_template_id: Some(template), .. }) => Ok(template.clone()),
        Some(Portal { app_id: Some(app_id), .. }) => {
            let key = settings.read_developer_key().map_err(unusable)?.ok_or(Outcome::Unauthorized)?;
            let http = http::client(settings.request_timeout).map_err(unusable)?;
            setup::event_template(&http, settings, *app_id, &key).await
        }
        // Refused when the settings were checked.
        _ => Err(Outcome::Unauthorized),
    }
}
