//! What a connection may do, by the scopes that were granted; and which scope is missing for the rest.
//!
//! HubSpot lets an app install with fewer scopes than it needs and refuses single calls later. So each feature names the scopes of its calls
//! here, is left alone where one is missing, and the missing one is named at the start and in `clickline hubspot status`.

use std::fmt;

/// What an installation asks for unless the configuration says otherwise.
pub const SCOPES: [&str; 7] = [
    "oauth",
    "timeline",
    "crm.objects.contacts.read",
    "crm.objects.contacts.write",
    "crm.schemas.contacts.write",
    "crm.objects.deals.read",
    "crm.objects.deals.write",
];

/// What it asks for where the account can grant it.
pub const OPTIONAL_SCOPES: [&str; 1] = ["forms"];

/// Which of HubSpot's APIs takes an account's events, as far as scopes differ by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventScopes {
    /// Timeline events and app events.
    #[default]
    Timeline,
    /// Custom events of a type that the configuration names.
    Custom,
    /// Custom events of a type that is looked for, and made where it is missing.
    CustomMade,
}

impl EventScopes {
    /// The scopes that an installation has to ask for beside [`SCOPES`]. An app that does not list them need not be asked for them, and HubSpot
    /// would refuse to: so only accounts that need them ask.
    pub fn beside(self) -> &'static [&'static str] {
        match self {
            EventScopes::Timeline => &[],
            EventScopes::Custom => &[SEND],
            EventScopes::CustomMade => &[SEND, DEFINE],
        }
    }
}

/// Sends custom events.
const SEND: &str = "analytics.behavioral_events.send";
/// Looks for the type of custom events, and makes it.
const DEFINE: &str = "behavioral_events.event_definitions.read_write";

/// Something that clickline does in an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Writes an event for each click.
    Events,
    /// Finds contacts by their e-mail.
    FindContacts,
    /// Writes the last UTM values.
    ContactProperties,
    /// Makes the contact properties that are missing.
    MakeProperties,
    /// Reads deals, before a stage is changed and for the mirror.
    ReadDeals,
    /// Moves deals to their next stage.
    MoveDeals,
    /// Reads form submissions.
    Forms,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 7] = [
        Feature::Events,
        Feature::FindContacts,
        Feature::ContactProperties,
        Feature::MakeProperties,
        Feature::ReadDeals,
        Feature::MoveDeals,
        Feature::Forms,
    ];

    /// The scopes that its calls need in an account with such events, all of them; of several that HubSpot takes for a call, the one to ask
    /// for comes first.
    pub fn needs(self, events: EventScopes) -> &'static [&'static [&'static str]] {
        match self {
            Feature::Events => match events {
                EventScopes::Timeline => &[&["timeline", "crm.objects.contacts.write"]],
                EventScopes::Custom => &[&[SEND]],
                EventScopes::CustomMade => &[&[SEND], &[DEFINE]],
            },
            Feature::FindContacts => &[&["crm.objects.contacts.read"]],
            Feature::ContactProperties => &[&["crm.objects.contacts.write"]],
            Feature::MakeProperties => &[&["crm.schemas.contacts.write"]],
            Feature::ReadDeals => &[&["crm.objects.deals.read"]],
            Feature::MoveDeals => &[&["crm.objects.deals.read"], &["crm.objects.deals.write"]],
            Feature::Forms => &[&["forms"]],
        }
    }

    /// The scopes to ask for that are missing among `granted`; none: the feature works.
    pub fn missing(self, events: EventScopes, granted: &[String]) -> Vec<&'static str> {
        let has = |any: &&&[&str]| any.iter().any(|scope| granted.iter().any(|given| given == scope));
        self.needs(events).iter().filter(|any| !has(any)).filter_map(|any| any.first().copied()).collect()
    }

    /// One word for it, as `status --format json` has it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Events => "events",
            Feature::FindContacts => "find_contacts",
            Feature::ContactProperties => "contact_properties",
            Feature::MakeProperties => "make_properties",
            Feature::ReadDeals => "read_deals",
            Feature::MoveDeals => "move_deals",
            Feature::Forms => "forms",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Feature::Events => "write events",
            Feature::FindContacts => "find contacts by e-mail",
            Feature::ContactProperties => "write contact properties",
            Feature::MakeProperties => "make contact properties",
            Feature::ReadDeals => "read deals",
            Feature::MoveDeals => "move deals",
            Feature::Forms => "read form submissions",
        })
    }
}

/// The features that do not work with these scopes in an account with such events, each with what is missing. Nothing is known of a connection without scopes (one that
/// was never refreshed, or a static token): then nothing is said to be missing, and HubSpot says it call by call.
pub fn gated(events: EventScopes, granted: &[String]) -> Vec<(Feature, Vec<&'static str>)> {
    if granted.is_empty() {
        return Vec::new();
    }
    Feature::ALL.into_iter().map(|feature| (feature, feature.missing(events, granted))).filter(|(_, missing)| !missing.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::CALLBACK;
    use crate::serve::Http;
    use crate::sources::crm::webhooks;

    fn scopes(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn the_articles_three_scopes_can_neither_move_a_deal_nor_make_a_property() {
        let article = scopes(&["crm.objects.contacts.write", "crm.objects.deals.read", "timeline"]);
        let expected = [
            (Feature::FindContacts, vec!["crm.objects.contacts.read"]),
            (Feature::MakeProperties, vec!["crm.schemas.contacts.write"]),
            (Feature::MoveDeals, vec!["crm.objects.deals.write"]),
            (Feature::Forms, vec!["forms"]),
        ];
        assert_eq!(gated(EventScopes::Timeline, &article), expected);
    }

    #[test]
    fn what_we_ask_for_is_enough() {
        for events in [EventScopes::Timeline, EventScopes::Custom, EventScopes::CustomMade] {
            assert_eq!(gated(events, &scopes(&[&SCOPES[..], &OPTIONAL_SCOPES, events.beside()].concat())), [], "{events:?}");
            assert_eq!(gated(events, &[]), [], "nothing is known");
        }
        let timeline = EventScopes::Timeline;
        assert_eq!(gated(timeline, &scopes(&SCOPES)), [(Feature::Forms, vec!["forms"])], "the optional one");
        assert_eq!(Feature::MoveDeals.missing(timeline, &scopes(&["oauth"])), ["crm.objects.deals.read", "crm.objects.deals.write"]);
    }

    #[test]
    fn custom_events_have_scopes_of_their_own() {
        let all = scopes(&[&SCOPES[..], &OPTIONAL_SCOPES].concat());
        assert_eq!(gated(EventScopes::Custom, &all), [(Feature::Events, vec![SEND])]);
        assert_eq!(gated(EventScopes::CustomMade, &all), [(Feature::Events, vec![SEND, DEFINE])]);
        assert_eq!(Feature::Events.missing(EventScopes::CustomMade, &scopes(&[DEFINE])), [SEND]);
    }

    #[test]
    fn the_app_that_is_shipped_lists_what_we_ask_for() {
        let app: serde_json::Value = serde_json::from_str(include_str!("../../deploy/hubspot/src/app/app-hsmeta.json")).expect("JSON");
        let auth = &app["config"]["auth"];
        assert_eq!(auth["requiredScopes"], serde_json::json!(SCOPES));
        assert_eq!(auth["optionalScopes"], serde_json::json!([&OPTIONAL_SCOPES[..], EventScopes::CustomMade.beside()].concat()));
        let (here, there) = (Http::default(), Http { public_url: Some("https://clickline.example.com".to_owned()), ..Http::default() });
        let address = |http: &Http, path: &str| http.address(http.listen.port(), path);
        assert_eq!(auth["redirectUrls"], serde_json::json!([address(&here, CALLBACK), address(&there, CALLBACK)]));
        let subscribed = include_str!("../../deploy/hubspot/src/app/webhooks/webhooks-hsmeta.json");
        let subscribed: serde_json::Value = serde_json::from_str(subscribed).expect("JSON");
        assert_eq!(subscribed["config"]["settings"]["targetUrl"], address(&there, webhooks::PATH));
    }
}
