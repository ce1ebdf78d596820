//! Records for the unit tests of this folder.

use super::record::{Lane, Raw, Receipt};
use crate::model::outputs::{ContactProperties, DealStage, Found, Guard, LastClick, Person, TimelineEvent, ValueFrom};
use crate::state::LedgerKey;
use std::collections::BTreeMap;

/// A receipt of partition 0.
pub fn receipt(lane: Lane, offset: i64) -> Receipt {
    let raw = Raw { partition: 0, offset, key: None, payload: Vec::new() };
    Receipt {
        lane,
        portal: "4242".into(),
        raw,
        ledger_key: LedgerKey::of(lane.topic().default_name(), &offset.to_string()),
        parked: None,
        failing_since: None,
        person: None,
        fresh: true,
    }
}

/// An event of a contact.
pub fn event(id: &str, contact: &str) -> TimelineEvent {
    TimelineEvent {
        v: 1,
        id: id.into(),
        portal: "4242".into(),
        workspace: "acme".into(),
        click_id: id.into(),
        ts: 1_763_800_000_123,
        person: Person::ContactId(contact.into()),
        title: "Clicked: Q2 pricing PDF (s.elido.me/abc123)".into(),
        tokens: BTreeMap::from([("link_slug".into(), "abc123".into()), ("country".into(), "FR".into())]),
        extra_data: serde_json::json!({"utm": {"source": "webinar"}}),
        found: Found::Eid,
        at: 1_763_800_000_200,
    }
}

/// Property changes of a contact: name, value, time of the click.
pub fn properties(id: &str, contact: &str, changes: &[(&str, &str, u64)]) -> ContactProperties {
    ContactProperties {
        v: 1,
        id: id.into(),
        portal: "4242".into(),
        person: Person::ContactId(contact.into()),
        properties: changes.iter().map(|(n, v, _)| ((*n).to_owned(), (*v).to_owned())).collect(),
        from: changes.iter().map(|(n, _, ts)| ((*n).to_owned(), ValueFrom { click_id: format!("c{ts}"), ts: *ts })).collect(),
        at: 1_763_800_000_200,
    }
}

/// A deal to move from `appointmentscheduled` to `qualifiedtobuy`, earned by contact 801.
pub fn stage(id: &str, deal: &str) -> DealStage {
    DealStage {
        v: 1,
        id: id.into(),
        portal: "4242".into(),
        workspace: "acme".into(),
        rule: "sales-collateral".into(),
        shadow: false,
        deal_id: deal.into(),
        person: Some(Person::ContactId("801".into())),
        pipeline: "default".into(),
        from_stage: "appointmentscheduled".into(),
        to_stage: "qualifiedtobuy".into(),
        guard: Guard { require_associated_contact: true, deal_amount_min: Some(5000.0) },
        link_tag: Some("sales-collateral".into()),
        link: None,
        count: 50,
        threshold: 50,
        window_ms: 2_592_000_000,
        hot_since: 1_763_800_000_200,
        last_click: LastClick { id: "c1".into(), ts: 1_763_800_000_123 },
        at: 1_763_800_000_200,
    }
}
