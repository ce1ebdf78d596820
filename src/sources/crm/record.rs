//! What HubSpot says of a contact or deal, as the record of its mirror. Pure.
//!
//! # Meaning
//! The same state always gives the same bytes: lists are in the order of their ids or text, whatever order HubSpot gives them in. A
//! deal without a stage or pipeline is not mirrored, and neither is what the dataflow would refuse.

use super::object::{Id, Object};
use crate::model::inputs::{Input, MAX_LIST};
use crate::model::time::Ms;
use crate::model::{Contact, Deal};
use crate::sinks::hubspot::text;
use serde_json::Value;
use std::collections::BTreeSet;

/// One reading of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub id: Id,
    /// When HubSpot changed it last, ms; 0 where HubSpot does not say.
    pub modified: Ms,
    /// Records that were merged into it.
    pub merged: Vec<Id>,
    /// The record of the mirror; none for what is not mirrored.
    pub value: Option<Vec<u8>>,
}

/// An id in HubSpot's JSON, which writes it as text or as a number.
pub fn id(value: &Value) -> Option<Id> {
    text(value)?.trim().parse().ok().filter(|id| *id > 0)
}

/// A time in HubSpot's JSON: ISO 8601, or milliseconds since the epoch.
pub fn time(value: &Value) -> Option<Ms> {
    let text = text(value)?;
    text.parse().ok().or_else(|| Ms::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok())
}

/// When a record was changed last, as a list, a read or a search shows it.
pub fn modified(object: Object, shown: &Value) -> Ms {
    let property = shown.pointer("/properties").and_then(|properties| properties.get(object.modified()));
    property.and_then(time).or_else(|| shown.get("updatedAt").and_then(time)).unwrap_or(0)
}

fn property<'a>(shown: &'a Value, name: &str) -> Option<&'a str> {
    shown.get("properties")?.get(name)?.as_str().map(str::trim).filter(|value| !value.is_empty())
}

fn merged(shown: &Value, own: Id) -> Vec<Id> {
    let listed = property(shown, "hs_merged_object_ids").unwrap_or_default();
    let ids: BTreeSet<Id> = listed.split(';').filter_map(|id| id.trim().parse().ok()).filter(|id| *id > 0 && *id != own).collect();
    ids.into_iter().collect()
}

fn texts(ids: impl IntoIterator<Item = Id>) -> Vec<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

/// A contact as HubSpot shows it; `None` where it has no id.
pub fn contact(portal: &str, shown: &Value) -> Option<Reading> {
    let id = id(shown.get("id")?)?;
    let email = property(shown, "email").map(str::to_owned);
    let listed = property(shown, "hs_additional_emails").unwrap_or_default();
    let additional: BTreeSet<&str> = listed.split(';').map(str::trim).filter(|email| !email.is_empty()).collect();
    let merged = merged(shown, id);
    let contact = Contact {
        v: 1,
        portal: portal.to_owned(),
        contact_id: id.to_string(),
        additional_emails: additional.into_iter().filter(|other| email.as_deref() != Some(other)).map(str::to_owned).collect(),
        email,
        merged_ids: texts(merged.iter().copied()),
    };
    let value = serde_json::to_vec(&contact).ok();
    let value = value.filter(|value| taken::<Contact>(id, value));
    Some(Reading { id, modified: modified(Object::Contacts, shown), merged, value })
}

/// A deal as HubSpot shows it, with the contacts it is associated with; `None` where it has no id.
pub fn deal(portal: &str, shown: &Value, contacts: &BTreeSet<Id>) -> Option<Reading> {
    let id = id(shown.get("id")?)?;
    if contacts.len() > MAX_LIST {
        tracing::warn!(
            event = "deal_contacts_cut",
            portal,
            deal = id,
            contacts = contacts.len(),
            "the deal has more contacts than are mirrored; at most {MAX_LIST}"
        );
    }
    let value = property(shown, "pipeline").zip(property(shown, "dealstage")).and_then(|(pipeline, stage)| {
        let deal = Deal {
            v: 1,
            portal: portal.to_owned(),
            deal_id: id.to_string(),
            pipeline: pipeline.to_owned(),
            stage: stage.to_owned(),
            amount: property(shown, "amount").and_then(|amount| amount.parse().ok()).filter(|amount: &f64| amount.is_finite()),
            contact_ids: texts(contacts.iter().copied().take(MAX_LIST)),
        };
        serde_json::to_vec(&deal).ok()
    });
    let value = value.filter(|value| taken::<Deal>(id, value));
    Some(Reading { id, modified: modified(Object::Deals, shown), merged: merged(shown, id), value })
}

/// Whether the dataflow would take a record.
fn taken<T: Input>(id: Id, value: &[u8]) -> bool {
    let read = T::read(value);
    if let Err(refusal) = &read {
        tracing::warn!(event = "record_not_mirrored", id, "a {} is not mirrored: {refusal}", T::NAME);
    }
    read.is_ok()
}

/// The contacts that a deal's record names.
pub fn named(value: &[u8]) -> Box<[Id]> {
    let deal: Option<Deal> = serde_json::from_slice(value).ok();
    deal.into_iter().flat_map(|deal| deal.contact_ids).filter_map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_contact_is_what_hubspot_says_in_an_order_of_its_own() {
        let shown = json!({"id": "801", "updatedAt": "2026-11-23T08:15:31.001Z", "properties": {"email": "ada@example.com",
            "hs_additional_emails": "z@example.com;a@example.com;ada@example.com; ", "hs_merged_object_ids": "9;77;801", "lastmodifieddate": "2026-11-23T08:15:31.000Z"}});
        let reading = contact("4242", &shown).expect("a contact");
        assert_eq!((reading.id, reading.merged.as_slice(), reading.modified), (801, [9, 77].as_slice(), 1_795_421_731_000));
        let wanted = r#"{"v":1,"portal":"4242","contact_id":"801","email":"ada@example.com","additional_emails":["a@example.com","z@example.com"],"merged_ids":["9","77"]}"#;
        assert_eq!(String::from_utf8(reading.value.expect("mirrored")).expect("text"), wanted);
        let bare = contact("4242", &json!({"id": 7, "properties": {"email": null}})).expect("a contact");
        assert_eq!(
            bare.value.as_deref(),
            Some(&br#"{"v":1,"portal":"4242","contact_id":"7","email":null,"additional_emails":[],"merged_ids":[]}"#[..])
        );
        assert_eq!(contact("4242", &json!({"id": "x"})), None);
    }

    #[test]
    fn a_deal_needs_a_stage_and_an_amount_that_is_a_number() {
        let shown =
            |stage: &str, amount: &str| json!({"id": "9", "properties": {"pipeline": "default", "dealstage": stage, "amount": amount}});
        let value = |shown: &Value| deal("4242", shown, &BTreeSet::from([801, 9])).expect("a deal").value;
        let wanted =
            br#"{"v":1,"portal":"4242","deal_id":"9","pipeline":"default","stage":"s","amount":12000.5,"contact_ids":["9","801"]}"#;
        assert_eq!(value(&shown("s", "12000.5")).as_deref(), Some(&wanted[..]));
        assert_eq!(named(wanted).as_ref(), [9, 801]);
        for odd in ["", "NaN", "inf", "12 EUR"] {
            let value = value(&shown("s", odd)).expect("mirrored");
            assert!(String::from_utf8_lossy(&value).contains("\"amount\":null"), "{odd}");
        }
        assert_eq!(value(&shown(" ", "1")), None);
    }
}
