//! Looks whether a type of event that the configuration names is there, as far as HubSpot shows it.
//!
//! The sink itself does not look: a wrong name shows with the first event, and an answer here is no reason to stop.

use super::budget::Share;
use super::outcome::{Outcome, text};
use super::portal::{Events, Portal};
use super::request;
use super::service::Service;
use super::settings::Settings;
use super::setup::{Standing, send};
use super::work::listed;
use serde_json::Value;

/// How the type of event stands that the configuration gives to an account.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn look(service: &Service, settings: &Settings, portal: &str) -> Result<Standing, Outcome> {
    // Refused when the settings were checked.
    let Some(account) = settings.portals.get(portal) else { return Err(Outcome::Unauthorized) };
    match account {
        Portal { events: Events::Timeline, event_template_id: Some(id), app_id: Some(app_id), .. } => template(settings, *app_id, id).await,
        Portal { events: Events::Timeline, .. } => Ok(Standing::Unchecked("that takes the app_id and the developer key")),
        Portal { events: Events::AppEvents, .. } => Ok(Standing::Unchecked("HubSpot does not show the types of app events")),
        Portal { events: Events::CustomEvents, event_type, .. } => {
            let name = event_type.as_deref().unwrap_or_default();
            let look = request::get(format!("{}/{}", settings.paths.event_definitions, request::segment(name)));
            match service.call(portal, &look, Share::Bulk).await {
                Outcome::Done(_) => Ok(Standing::Ready),
                Outcome::NotFound(_) => Ok(Standing::Refused(
                    "the account has no such custom event; correct event_type, or leave it out to have one made".to_owned(),
                )),
                Outcome::Forbidden(_) => Ok(Standing::Unchecked("that takes the scope behavioral_events.event_definitions.read_write")),
                outcome => Err(outcome),
            }
        }
    }
}

/// Looks for the template among those of the app.
async fn template(settings: &Settings, app_id: u64, given: &str) -> Result<Standing, Outcome> {
    let unusable = |e: anyhow::Error| Outcome::Transient(format!("{e:#}"), None);
    let Some(key) = settings.read_developer_key().map_err(unusable)? else {
        return Ok(Standing::Unchecked("that takes the developer key"));
    };
    let http = settings.client().map_err(unusable)?;
    let address = format!("{}{}/{app_id}/event-templates", settings.base_url, settings.paths.timeline);
    // The developer key travels in the query: HubSpot offers no other way. No message of ours quotes an address.
    let answer = send(http.get(address).query(&[("hapikey", key.reveal())])).await?;
    let is_given = |template: &Value| template.get("id").and_then(text).is_some_and(|id| id == given);
    Ok(match listed(&answer)?.iter().any(is_given) {
        true => Standing::Ready,
        false => {
            Standing::Refused(format!("the app {app_id} has no such template; correct event_template_id, or leave it out to have one made"))
        }
    })
}
