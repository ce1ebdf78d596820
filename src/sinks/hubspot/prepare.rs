//! Gets an account ready: its type of event and the contact properties, or a clear word on what is in the way.

use super::budget::Share;
use super::event_api::EventApi;
use super::given;
use super::outcome::Outcome;
use super::pipelines::{self, Move};
use super::record::Lane;
use super::request;
use super::service::Service;
use super::settings::Settings;
use super::setup::{self, Change, Finding, Standing};
use super::work::{RETIRED, Suspend};
use crate::metrics::Metrics;
use crate::oauth::{Connections, Feature};
use crate::state::State;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;
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
        Outcome::Throttled(_) | Outcome::Transient(..) | Outcome::Unsent(..) => return None,
        Outcome::Disconnected => "the account is not connected: `clickline hubspot status` says why, and what to do".to_owned(),
        Outcome::Retired => format!("{what}: {RETIRED}"),
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

/// Looks at everything that these accounts must have, or makes it, and at the moves of their rules, by account; what fails is a finding,
/// too. Blocks.
///
/// # Errors
/// When a secret can't be read, or the state database can't be opened.
pub fn accounts(
    settings: &Settings,
    portals: &[String],
    state: &Path,
    change: Change,
    moves: &BTreeMap<String, Vec<Move>>,
) -> anyhow::Result<BTreeMap<String, Vec<Finding>>> {
    settings.check(portals)?;
    let path = state;
    let state = Arc::new(State::open(path)?);
    let connections = Connections::open(settings, &state, path, portals, Arc::new(Metrics::default()))?;
    let service = Service::new(settings, Arc::new(connections), portals)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let mut found = BTreeMap::new();
        for portal in portals {
            let mut findings = inspect(&service, settings, portal, change).await;
            if let Some(moves) = moves.get(portal) {
                match pipelines::read(&service, settings, portal).await {
                    Ok(known) => findings.extend(pipelines::check(&known, moves)),
                    Err(outcome) => findings.push(failed("pipelines", &outcome)),
                }
            }
            found.insert(portal.clone(), findings);
        }
        Ok(found)
    })
}

fn failed(what: &str, outcome: &Outcome) -> Finding {
    let why = match outcome {
        Outcome::Unsent(why, _) => why.clone(),
        outcome => in_the_way(what, outcome).unwrap_or_else(|| "HubSpot does not answer; try again".to_owned()),
    };
    Finding { what: what.to_owned(), standing: Standing::Refused(why) }
}

/// Asks HubSpot whether it accepts the access token that an account has; none: no answer to go by.
///
/// # Errors
/// When the HTTP client can't be set up.
pub async fn takes_token(settings: &Settings, connections: &Arc<Connections>, portal: &str) -> anyhow::Result<Option<bool>> {
    let service = Service::new(settings, Arc::clone(connections), &[portal.to_owned()])?;
    Ok(match service.call(portal, &request::any(&settings.paths), Share::Full).await {
        Outcome::Throttled(_) | Outcome::Transient(..) | Outcome::Unsent(..) => None,
        Outcome::Unauthorized | Outcome::Disconnected => Some(false),
        // Whatever else it says, it knows the token.
        _ => Some(true),
    })
}

/// Looks at everything that an account must have, or makes it.
pub async fn inspect(service: &Service, settings: &Settings, portal: &str, change: Change) -> Vec<Finding> {
    let mut findings = Vec::new();
    match setup::contact_properties(service, settings, portal, change).await {
        Ok(found) => {
            findings.extend(found.into_iter().map(|(name, standing)| Finding { what: format!("contact property {name}"), standing }))
        }
        Err(outcome) => findings.push(failed(PROPERTIES, &outcome)),
    }
    match setup::event_type(service, settings, portal, change).await {
        Ok((_, Finding { what, standing: Standing::Unchecked(_) })) => findings.push(match given::look(service, settings, portal).await {
            Ok(standing) => Finding { what, standing },
            Err(outcome) => failed(&what, &outcome),
        }),
        Ok((_, finding)) => findings.push(finding),
        Err(outcome) => findings.push(failed(EVENTS, &outcome)),
    }
    // Form submissions are read only where somebody wants them.
    for feature in Feature::ALL.into_iter().filter(|feature| *feature != Feature::Forms) {
        let missing = service.connections().missing(portal, feature);
        if !missing.is_empty() {
            let why = format!("the app lacks the scope {}: add it and install the app again", missing.join(", "));
            findings.push(Finding { what: format!("leave to {feature}"), standing: Standing::Refused(why) });
        }
    }
    findings
}
