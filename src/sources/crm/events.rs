//! What an event of HubSpot's is about, whether it came by webhook or from the journal. Pure.
//!
//! # Meaning
//! An event is taken for a hint and no more: it says which records to read again. So it does not matter in which order events
//! come, how often, or what they say of values. One thing nobody can read again: that a person has wished to be erased.

use super::mirror::Hints;
use super::object::{Id, Object};
use super::record::id;
use serde_json::Value;

/// The account that an event is of, and the records that it concerns; `None` for an event that names none of ours.
pub fn hint(event: &Value) -> Option<(String, Hints)> {
    let portal = event.get("portalId").and_then(id)?.to_string();
    let mut hints = Hints::default();
    if let Some((from, to)) = ends(event) {
        for (object, at) in [(from, "fromObjectId"), (to, "toObjectId")] {
            // A contact's own record does not hold its deals.
            if object == Some(Object::Deals)
                && let Some(id) = event.get(at).and_then(id)
            {
                hints.add(Object::Deals, id);
            }
        }
    } else {
        let object = object(event)?;
        for id in ids(event) {
            hints.add(object, id);
        }
        if object == Object::Contacts && erases(event) {
            hints.erased.clone_from(&hints.contacts);
        }
    }
    (!hints.is_empty()).then_some((portal, hints))
}

fn text<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event.get(name)?.as_str()
}

/// `contact.propertyChange`; HubSpot's payloads say `subscriptionType`, a table in its documents says `eventType`.
fn subscription(event: &Value) -> Option<&str> {
    text(event, "subscriptionType").or_else(|| text(event, "eventType"))
}

/// Whether a record was deleted for good at its person's wish: `contact.privacyDeletion`, in the journal `gdprPrivacyDeletion`.
fn erases(event: &Value) -> bool {
    let says = |text: &str| text.to_ascii_lowercase().ends_with("privacydeletion");
    subscription(event).is_some_and(says) || text(event, "type").is_some_and(says) || text(event, "action") == Some("GDPR_DELETE")
}

fn object(event: &Value) -> Option<Object> {
    let named = text(event, "objectTypeId").or_else(|| text(event, "objectType"));
    // A name that is none of ours is another object's; without one the subscription says it.
    match named {
        Some(name) => Object::named(name),
        None => Object::named(subscription(event)?.split('.').next()?),
    }
}

/// All records that an event names, those of a merge among them.
fn ids(event: &Value) -> impl Iterator<Item = Id> {
    let single = ["objectId", "primaryObjectId", "newObjectId"].into_iter().filter_map(|name| event.get(name));
    let lists = ["mergedObjectIds", "objectIds"].into_iter().filter_map(|name| event.get(name)?.as_array()).flatten();
    single.chain(lists).filter_map(id)
}

/// The two ends of an association, where the event is about one.
fn ends(event: &Value) -> Option<(Option<Object>, Option<Object>)> {
    event.get("fromObjectId").or_else(|| event.get("toObjectId"))?;
    let named = |name: &str| text(event, name).and_then(Object::named);
    let (from, to) = (named("fromObjectTypeId"), named("toObjectTypeId"));
    if from.is_some() || to.is_some() {
        return Some((from, to));
    }
    match text(event, "associationType").and_then(|ends| ends.split_once("_TO_")) {
        Some((from, to)) => Some((Object::named(from), Object::named(to))),
        // The end whose event it is comes first.
        None => Some((object(event), None)),
    }
}

/// The events of a journal's file: `{"journalEvents": […]}`, or the list alone.
pub fn of_file(bytes: &[u8]) -> Option<Vec<Value>> {
    let mut file: Value = serde_json::from_slice(bytes).ok()?;
    let listed = ["journalEvents", "events", "results"].into_iter().find_map(|name| file.get_mut(name).map(Value::take));
    match listed.unwrap_or(file) {
        Value::Array(events) => Some(events),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn of(event: &Value) -> (Vec<Id>, Vec<Id>) {
        let (portal, hints) = hint(event).expect("ours");
        assert_eq!(portal, "33");
        (hints.contacts.into_iter().collect(), hints.deals.into_iter().collect())
    }

    #[test]
    fn webhooks_say_which_record_they_are_about() {
        let change = json!({"eventId":3816279340u64,"portalId":33,"subscriptionType":"deal.propertyChange","objectId":1246965,"propertyName":"dealstage"});
        assert_eq!(of(&change), (vec![], vec![1_246_965]));
        assert_eq!(of(&json!({"portalId":"33","eventType":"contact.privacyDeletion","objectId":"801"})), (vec![801], vec![]));
        for erasure in [
            json!({"portalId":33,"subscriptionType":"contact.privacyDeletion","objectId":801}),
            json!({"portalId":33,"type":"gdprPrivacyDeletion","action":"GDPR_DELETE","objectTypeId":"0-1","objectId":801}),
        ] {
            assert_eq!(hint(&erasure).expect("ours").1.erased, BTreeSet::from([801]), "{erasure}");
        }
        let deletion = json!({"portalId":33,"subscriptionType":"contact.deletion","objectId":801});
        assert_eq!(hint(&deletion).expect("ours").1.erased, BTreeSet::new(), "who was deleted may be restored");
        let generic = json!({"portalId":33,"subscriptionType":"object.creation","objectTypeId":"0-1","objectId":5});
        assert_eq!(of(&generic), (vec![5], vec![]));
        let merge = json!({"portalId":33,"subscriptionType":"contact.merge","objectId":1,"primaryObjectId":1,"mergedObjectIds":[2,3],"newObjectId":4});
        assert_eq!(of(&merge), (vec![1, 2, 3, 4], vec![]));
        for association in [
            json!({"portalId":33,"subscriptionType":"deal.associationChange","associationType":"DEAL_TO_CONTACT","fromObjectId":9,"toObjectId":801}),
            json!({"portalId":33,"subscriptionType":"contact.associationChange","associationType":"CONTACT_TO_DEAL","fromObjectId":801,"toObjectId":9}),
            json!({"portalId":33,"type":"association","action":"ASSOCIATION_REMOVED","fromObjectTypeId":"0-1","fromObjectId":801,"toObjectTypeId":"0-3","toObjectId":9}),
            json!({"portalId":33,"subscriptionType":"deal.associationChange","fromObjectId":9,"toObjectId":801}),
        ] {
            assert_eq!(of(&association), (vec![], vec![9]));
        }
        for other in [
            json!({"portalId":33,"subscriptionType":"company.creation","objectId":1}),
            json!({"portalId":33,"subscriptionType":"object.creation","objectTypeId":"0-2","objectId":1}),
            json!({"subscriptionType":"deal.creation","objectId":1}),
            json!([]),
        ] {
            assert_eq!(hint(&other), None, "{other}");
        }
    }

    #[test]
    fn a_journal_s_file_holds_events() {
        let file =
            br#"{"offset":"u","journalEvents":[{"portalId":33,"action":"UPDATE","objectTypeId":"0-3","objectId":9}],"publishedAt":"x"}"#;
        let events = of_file(file).expect("events");
        assert_eq!(hint(&events[0]).expect("ours").1.deals, BTreeSet::from([9]));
        assert_eq!(of_file(b"[]"), Some(Vec::new()));
        assert_eq!((of_file(b"{}"), of_file(b"<html>")), (None, None));
    }

    proptest! {
        /// No bytes make it panic.
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for event in of_file(&bytes).unwrap_or_default() {
                let _ = hint(&event);
            }
        }
    }
}
