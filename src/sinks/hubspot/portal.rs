//! The settings of one HubSpot account: how it is connected, and which of HubSpot's event APIs takes its events.

use crate::oauth::EventScopes;
use crate::secret::Secret;
use serde::Deserialize;
use std::path::PathBuf;

/// One HubSpot account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Environment variable that holds the refresh token of the installation. Not needed once a login has stored one.
    #[serde(default)]
    pub refresh_token_env: Option<String>,
    /// File that holds it.
    #[serde(default)]
    pub refresh_token_file: Option<PathBuf>,
    /// The token itself; only for callers in the same process.
    #[serde(skip)]
    pub refresh_token: Option<Secret>,
    /// Environment variable that holds a private app's token or a service key: then no app is installed, and nothing is refreshed.
    #[serde(default)]
    pub access_token_env: Option<String>,
    /// File that holds it.
    #[serde(default)]
    pub access_token_file: Option<PathBuf>,
    /// The token itself; only for callers in the same process.
    #[serde(skip)]
    pub access_token: Option<Secret>,
    /// HubSpot's id of the app that owns the event template.
    #[serde(default)]
    pub app_id: Option<u64>,
    /// The event template of short-link clicks. Without one, the sink finds or makes it, with `app_id` and the developer key.
    #[serde(default)]
    pub event_template_id: Option<String>,
    /// Which of HubSpot's event APIs takes the events.
    #[serde(default)]
    pub events: Events,
    /// The type of the events. App events: the type's fully qualified name. Custom events: the definition's fully qualified name
    /// (`pe4242_…`); without one, the sink finds or makes its own.
    #[serde(default)]
    pub event_type: Option<String>,
    /// The most events in one request, where HubSpot takes fewer than the API's own maximum (100 timeline, 500 app and custom events).
    #[serde(default)]
    pub event_batch: Option<usize>,
    /// Make a contact for an e-mail address that has none. Without this its events and properties wait for `park_for`.
    #[serde(default)]
    pub create_contacts: bool,
    /// The account's time zone, such as `Europe/Berlin`: its daily limit is counted anew at midnight there. Without one, the sink asks
    /// again every quarter of an hour once HubSpot's limit is reached, and `budget.daily` is counted anew at midnight UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
}

/// HubSpot's event APIs that the sink can write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Events {
    /// Timeline v3 with event templates: for apps that have had them before.
    #[default]
    Timeline,
    /// App events: for technology partners, after HubSpot's approval; the type is part of the app's project.
    AppEvents,
    /// Custom events: for any account whose subscription has them; the definition is the account's.
    CustomEvents,
}

impl Portal {
    /// The account's time zone, where it is given.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn zone(&self) -> Result<Option<jiff::tz::TimeZone>, String> {
        let zone = |name: &String| {
            jiff::tz::TimeZone::get(name).map_err(|_| format!("time_zone: {name:?} is no time zone; write it as in `Europe/Berlin`"))
        };
        self.time_zone.as_ref().map(zone).transpose()
    }

    /// Whether it is connected by a token that does not change.
    pub fn fixed(&self) -> bool {
        self.access_token.is_some() || self.access_token_env.is_some() || self.access_token_file.is_some()
    }

    /// Whether HubSpot takes events over this kind of connection at all.
    pub fn events_allowed(&self) -> bool {
        !self.fixed() || self.events == Events::CustomEvents
    }

    /// What scopes its events take.
    pub fn event_scopes(&self) -> EventScopes {
        match (self.events, &self.event_type) {
            (Events::Timeline | Events::AppEvents, _) => EventScopes::Timeline,
            (Events::CustomEvents, Some(_)) => EventScopes::Custom,
            (Events::CustomEvents, None) => EventScopes::CustomMade,
        }
    }

    /// Checks what depends on other fields; `developer_key` says whether there is one.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self, developer_key: bool) -> Result<(), String> {
        match self.events {
            _ if !self.events_allowed() => {}
            Events::Timeline if self.event_template_id.is_none() && (self.app_id.is_none() || !developer_key) => {
                return Err("timeline events need an event_template_id, or an app_id and the developer key to make one".to_owned());
            }
            Events::AppEvents if self.event_type.is_none() => {
                return Err("app events need the event_type, the fully qualified name of the type in the app's project".to_owned());
            }
            Events::Timeline | Events::AppEvents | Events::CustomEvents => {}
        }
        if self.event_batch == Some(0) {
            return Err("event_batch must be at least 1; leave it out for the API's own maximum".to_owned());
        }
        self.zone().map(drop)
    }
}

/// Why a portal with an access token of its own gets no timeline events.
pub const NO_EVENTS: &str = "HubSpot takes timeline events from installed apps alone, not over a private app's token: connect the portal by an app, or set \
                             `events: custom_events`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_api_says_what_it_needs() {
        let check = |portal: &str| serde_saphyr::from_str::<Portal>(portal).expect("parses").check(false);
        let wrong = |portal: &str| check(portal).expect_err(portal);
        assert!(wrong("{}").contains("event_template_id"));
        assert!(wrong("{events: app_events}").contains("event_type"));
        assert!(wrong("{events: custom_events, event_batch: 0}").contains("event_batch"));
        assert!(wrong("{events: custom_events, time_zone: Europe/Atlantis}").contains("Europe/Berlin"));
        for right in ["{events: app_events, event_type: ae1_x}", "{events: custom_events, time_zone: Europe/Berlin, create_contacts: true}"]
        {
            check(right).expect("right");
        }
    }
}
