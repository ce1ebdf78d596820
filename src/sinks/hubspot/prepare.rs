//! Gets an account ready: its type of event and the contact properties, or a clear word on what is in the way.

use super::event_api::EventApi;
use super::outcome::Outcome;
use super::record::Lane;
use super::service::Service;
use super::settings::Settings;
use super::setup::{self, Change, Finding, Standing};
use super::work::Suspend;
use crate::oauth::Connections;
use std::sync::Arc;
use std::time::Duration;

/// How far an account is ready.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What takes the events.
    pub event_api: Option<EventApi>,
    /// Whether the contact properties are there.
    pub provisioned: bool,
    /// Properties that can't be written, and why.
    pub refused: Vec<(String, String)>,
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
        let after = match in_the_way(what, outcome) {
            None => SOON,
            Some(why) => {
                let lane = (*outcome != Outcome::Disconnected).then_some(lane);
                self.problem = Some(Suspend { lane, why });
                LATER
            }
        };
        self.again = Some(after);
    }
}

/// What somebody must do about an outcome; nothing when it may pass by itself.
fn in_the_way(what: &str, outcome: &Outcome) -> Option<String> {
    Some(match outcome {
        Outcome::Throttled(_) | Outcome::Transient(..) => return None,
        Outcome::Disconnected => "HubSpot no longer accepts our tokens for this account: install the app again".to_owned(),
        Outcome::Unauthorized => format!("{what}: HubSpot does not accept the credentials"),
        Outcome::Forbidden(scopes) => format!("{what}: the app lacks one of these scopes: {}", scopes.join(", ")),
        Outcome::NotFound(refusal) | Outcome::Refused(refusal) => format!("{what}: {}", refusal.detail()),
        Outcome::Done(_) | Outcome::Exists => format!("{what}: HubSpot's answer makes no sense"),
    })
}

const PROPERTIES: &str = "contact properties";
const EVENTS: &str = "type of event";

/// Looks, and makes what is missing.
pub async fn account(service: &Service, settings: &Settings, portal: &str) -> Prepared {
    let mut prepared = Prepared::default();
    match setup::contact_properties(service, settings, portal, Change::Make).await {
        Ok(found) => {
            prepared.provisioned = true;
            let refused = |(name, standing)| if let Standing::Refused(why) = standing { Some((name, why)) } else { None };
            prepared.refused = found.into_iter().filter_map(refused).collect();
        }
        Err(outcome) => prepared.failed(Lane::Properties, PROPERTIES, &outcome),
    }
    match setup::event_type(service, settings, portal, Change::Make).await {
        Ok((event_api, _)) => prepared.event_api = event_api,
        Err(outcome) => prepared.failed(Lane::Events, EVENTS, &outcome),
    }
    prepared
}

/// Looks at everything that an account must have, or makes it, over connections that are open; what fails is a finding, too.
///
/// # Errors
/// When no HTTP client can be made.
pub async fn provision(settings: &Settings, connections: &Arc<Connections>, portal: &str, change: Change) -> anyhow::Result<Vec<Finding>> {
    let service = Service::new(settings, Arc::clone(connections), &[portal.to_owned()])?;
    Ok(inspect(&service, settings, portal, change).await)
}

async fn inspect(service: &Service, settings: &Settings, portal: &str, change: Change) -> Vec<Finding> {
    let failed = |what: &str, outcome: &Outcome| {
        let why = in_the_way(what, outcome).unwrap_or_else(|| "HubSpot does not answer; try again".to_owned());
        Finding { what: what.to_owned(), standing: Standing::Refused(why) }
    };
    let mut findings = Vec::new();
    match setup::contact_properties(service, settings, portal, change).await {
        Ok(found) => {
            findings.extend(found.into_iter().map(|(name, standing)| Finding { what: format!("contact property {name}"), standing }))
        }
        Err(outcome) => findings.push(failed(PROPERTIES, &outcome)),
    }
    match setup::event_type(service, settings, portal, change).await {
        Ok((_, finding)) => findings.push(finding),
        Err(outcome) => findings.push(failed(EVENTS, &outcome)),
    }
    findings
}
