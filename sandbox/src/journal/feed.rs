//! From a change to an event of the journal.

use super::subscriptions::Subscription;
use crate::changes::{Change, What};
use crate::clock::iso;
use crate::crm::Kind;
use crate::oauth::inspect::hub_id;
use crate::portal::Portal;
use serde_json::{Map, Value, json};

/// The action of a change, and the type of subscription that it belongs to.
pub(super) fn action(what: &What) -> (&'static str, &'static str) {
    match what {
        What::Created => ("OBJECT", "CREATE"),
        What::Set { .. } => ("OBJECT", "UPDATE"),
        What::Deleted => ("OBJECT", "DELETE"),
        What::Restored => ("OBJECT", "RESTORE"),
        What::Merged { .. } => ("OBJECT", "MERGE"),
        What::Associated { removed: false, .. } => ("ASSOCIATION", "ASSOCIATION_ADDED"),
        What::Associated { removed: true, .. } => ("ASSOCIATION", "ASSOCIATION_REMOVED"),
        What::PrivacyDeleted => ("GDPR_PRIVACY_DELETION", "GDPR_DELETE"),
    }
}

/// The new values that go with a change: those of the same record among the changes from it on.
pub(super) fn about<'c>(change: &Change, from_it_on: &'c [Change]) -> Vec<(&'c str, &'c str)> {
    if !matches!(change.what, What::Created | What::Set { .. }) {
        return Vec::new();
    }
    let same = from_it_on.iter().filter(|c| (c.kind, c.id) == (change.kind, change.id));
    same.filter_map(|c| match &c.what {
        What::Set { name, value } => Some((name.as_str(), value.as_str())),
        _ => None,
    })
    .collect()
}

/// The event that a subscriber reads.
pub(super) fn event(subscription: &Subscription, portal: &Portal, change: &Change, values: Vec<(&str, &str)>) -> Value {
    let (kind, action) = action(&change.what);
    let kind = match kind {
        "ASSOCIATION" => "association",
        "GDPR_PRIVACY_DELETION" => "gdprPrivacyDeletion",
        _ => "crmObject",
    };
    let mut event = json!({
        "type": kind, "portalId": hub_id(&portal.id), "occurredAt": iso(change.at), "action": action,
        "objectTypeId": change.kind.type_id(), "objectId": change.id,
    });
    let values: Map<String, Value> =
        values.into_iter().filter(|(name, _)| subscription.shows(name)).map(|(name, value)| (name.to_owned(), value.into())).collect();
    if !values.is_empty() {
        event["propertyChanges"] = values.into();
    }
    match &change.what {
        What::Associated { with, .. } => {
            event["associatedObjectTypeId"] = change.kind.other().type_id().into();
            event["associatedObjectId"] = (*with).into();
            event["associationType"] = association(change.kind).into();
        }
        What::Merged { others, .. } => event["mergedObjectIds"] = json!(others),
        _ => {}
    }
    event
}

/// `CONTACT_TO_DEAL`, `DEAL_TO_CONTACT`
pub(crate) fn association(from: Kind) -> String {
    format!("{}_TO_{}", from.singular().to_uppercase(), from.other().singular().to_uppercase())
}
