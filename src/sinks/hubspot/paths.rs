//! Where each area of HubSpot's API lies, version included.
//!
//! A version presets all of them, and each may be set by itself: HubSpot ends versions area by area. 2026-03 is the default: v1 to v4
//! end in 2027, and 2026-09 refuses more than can be checked before a write.

use serde::Deserialize;

/// Versions of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// The versions before the dated ones; they end in 2027. OAuth v1, which ends in February, is set by `token` alone.
    #[serde(rename = "v3")]
    V3,
    /// March 2026.
    #[default]
    #[serde(rename = "2026-03")]
    March2026,
    /// September 2026.
    #[serde(rename = "2026-09")]
    September2026,
}

/// Where each area of the API lies below `base_url`, version included.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawPaths")]
pub struct Paths {
    /// Token endpoint.
    pub token: String,
    /// Property definitions.
    pub properties: String,
    /// Contacts.
    pub contacts: String,
    /// Deals.
    pub deals: String,
    /// Pipelines.
    pub pipelines: String,
    /// Associations.
    pub associations: String,
    /// Timeline events with templates. It has no dated successor.
    pub timeline: String,
    /// App events.
    pub app_events: String,
    /// Occurrences of custom events.
    pub custom_events: String,
    /// Definitions of custom events.
    pub event_definitions: String,
}

/// The block as it is typed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPaths {
    version: Version,
    token: Option<String>,
    properties: Option<String>,
    contacts: Option<String>,
    deals: Option<String>,
    pipelines: Option<String>,
    associations: Option<String>,
    timeline: Option<String>,
    app_events: Option<String>,
    custom_events: Option<String>,
    event_definitions: Option<String>,
}

impl Paths {
    /// Those of a version; an area that does not have it keeps the nearest that it has.
    pub fn of(version: Version) -> Self {
        let (dated, associations) = match version {
            Version::V3 => ("v3", "/crm/v4/associations"),
            Version::March2026 => ("2026-03", "/crm/associations/2026-03"),
            Version::September2026 => ("2026-09", "/crm/associations/2026-09"),
        };
        let crm = |area: &str| match version {
            Version::V3 => format!("/crm/v3/{area}"),
            // The version stands after the first part of the area: /crm/objects/2026-03/contacts.
            _ => match area.split_once('/') {
                Some((first, rest)) => format!("/crm/{first}/{dated}/{rest}"),
                None => format!("/crm/{area}/{dated}"),
            },
        };
        let events = if version == Version::September2026 { "/events/custom/2026-09".to_owned() } else { format!("/events/{dated}") };
        Paths {
            token: format!("/oauth/{dated}/token"),
            properties: crm("properties"),
            contacts: crm("objects/contacts"),
            deals: crm("objects/deals"),
            pipelines: crm("pipelines"),
            associations: associations.to_owned(),
            timeline: "/integrators/timeline/v3".to_owned(),
            app_events: match version {
                Version::V3 => "/integrators/timeline/v4".to_owned(),
                Version::March2026 | Version::September2026 => "/integrators/timeline/2026-03".to_owned(),
            },
            custom_events: format!("{events}/send"),
            event_definitions: format!("{events}/event-definitions"),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Paths::of(Version::default())
    }
}

impl From<RawPaths> for Paths {
    fn from(raw: RawPaths) -> Self {
        let RawPaths {
            version,
            token,
            properties,
            contacts,
            deals,
            pipelines,
            associations,
            timeline,
            app_events,
            custom_events,
            event_definitions,
        } = raw;
        let preset = Paths::of(version);
        Paths {
            token: token.unwrap_or(preset.token),
            properties: properties.unwrap_or(preset.properties),
            contacts: contacts.unwrap_or(preset.contacts),
            deals: deals.unwrap_or(preset.deals),
            pipelines: pipelines.unwrap_or(preset.pipelines),
            associations: associations.unwrap_or(preset.associations),
            timeline: timeline.unwrap_or(preset.timeline),
            app_events: app_events.unwrap_or(preset.app_events),
            custom_events: custom_events.unwrap_or(preset.custom_events),
            event_definitions: event_definitions.unwrap_or(preset.event_definitions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Paths, serde_saphyr::Error> {
        serde_saphyr::from_str(yaml)
    }

    #[test]
    fn versions_are_selectable_as_a_whole_and_by_area() {
        let paths = parse("{}").expect("parses");
        assert_eq!(
            [paths.token.as_str(), &paths.contacts, &paths.properties, &paths.custom_events],
            ["/oauth/2026-03/token", "/crm/objects/2026-03/contacts", "/crm/properties/2026-03", "/events/2026-03/send"]
        );
        let paths = parse("{version: v3, token: /oauth/v1/token}").expect("parses");
        assert_eq!(
            [paths.token.as_str(), &paths.deals, &paths.properties, &paths.associations, &paths.event_definitions],
            ["/oauth/v1/token", "/crm/v3/objects/deals", "/crm/v3/properties", "/crm/v4/associations", "/events/v3/event-definitions"]
        );
        let paths = parse("{version: 2026-09}").expect("parses");
        assert_eq!([paths.custom_events.as_str(), &paths.deals], ["/events/custom/2026-09/send", "/crm/objects/2026-09/deals"]);
        assert!(parse("{version: v9}").is_err() && parse("{contact: /x}").is_err());
    }
}
