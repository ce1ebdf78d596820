//! From a change to the event that a subscriber is sent.

use super::Subscription;
use crate::changes::{Change, What};
use crate::config::Config;
use crate::journal::association;
use crate::oauth::inspect::hub_id;
use serde_json::{Value, json};

/// The last part of a subscription's type, for a change.
fn suffix(what: &What) -> &'static str {
    match what {
        What::Created => "creation",
        What::Set { .. } => "propertyChange",
        What::Deleted => "deletion",
        What::Restored => "restore",
        What::PrivacyDeleted => "privacyDeletion",
        What::Merged { .. } => "merge",
        What::Associated { .. } => "associationChange",
    }
}

/// The event, when the subscription wants one for this change.
pub(super) fn event(app: usize, portal: &str, subscription: &Subscription, change: &Change, number: u64) -> Option<Value> {
    let event_type = format!("{}.{}", change.kind.singular(), suffix(&change.what));
    if subscription.event_type != event_type {
        return None;
    }
    let mut event = json!({
        "eventId": number, "subscriptionId": subscription.id, "portalId": hub_id(portal), "appId": Config::app_id(app),
        "occurredAt": change.at, "subscriptionType": event_type, "attemptNumber": 0, "changeSource": change.source.source_type(),
    });
    if let Some(id) = change.source.source_id() {
        event["sourceId"] = id.into();
    }
    match &change.what {
        What::Associated { with, removed } => {
            event["associationType"] = association(change.kind).into();
            event["fromObjectId"] = change.id.into();
            event["toObjectId"] = (*with).into();
            event["associationRemoved"] = (*removed).into();
            event["isPrimaryAssociation"] = false.into();
            return Some(event);
        }
        What::Set { name, value } => {
            if subscription.property_name.as_ref() != Some(name) {
                return None;
            }
            event["propertyName"] = name.as_str().into();
            event["propertyValue"] = value.as_str().into();
        }
        What::Merged { others, properties_moved } => {
            event["primaryObjectId"] = change.id.into();
            event["mergedObjectIds"] = json!(others);
            event["newObjectId"] = change.id.into();
            event["numberOfPropertiesMoved"] = (*properties_moved).into();
        }
        What::Created => event["changeFlag"] = "CREATED".into(),
        What::Deleted => event["changeFlag"] = "DELETED".into(),
        What::Restored | What::PrivacyDeleted => {}
    }
    event["objectId"] = change.id.into();
    Some(event)
}
