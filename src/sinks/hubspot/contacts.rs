//! Writes a batch of contacts' properties.
//!
//! Properties are written by contact id alone: an upsert by address could make contacts, and the same contact by id and by address
//! in one batch makes HubSpot refuse all of it.

use super::budget::Share;
use super::entries::Properties;
use super::outcome::{ItemError, Outcome, Refusal, error_of, item_errors};
use super::queue::Entry;
use super::record::Lane;
use super::request;
use super::work::{Again, Desk, Fate, LookUp, Report, id_in, results, smaller};
use crate::model::reason;
use serde_json::Value;

const LANE: Lane = Lane::Properties;
/// Merges that are followed one after the other: ids that lead to each other must not keep a batch going for ever.
const MERGES: u8 = 8;

/// Writes the properties of a batch of contacts.
pub async fn write(desk: Desk<'_>, batch: Vec<Entry<Properties>>) -> Report<Properties> {
    let mut report = Report::new();
    let size = batch.len();
    let sent = batch.iter().map(|e| (e.key.as_str(), &e.value));
    let clicks = batch.iter().flat_map(|e| e.value.changes.values().map(|change| change.from.1.as_str()));
    let outcome = desk.write("hubspot properties", clicks, &request::update_contacts(desk.paths, sent), Share::Bulk).await;
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return report };
    match outcome {
        Outcome::Done(body) => {
            let errors = item_errors(&body);
            if results(&body).is_empty() && errors.is_empty() && size > 1 {
                // A success that holds nothing is none; a contact that stands alone is looked up.
                let again = Fate::Again(Again { counts: true, cap: Some(size / 2), ..Again::default() });
                report.fates.extend(batch.into_iter().map(|entry| (entry, again.clone())));
                return report;
            }
            for (at, entry) in batch.into_iter().enumerate() {
                let fate = written(desk, &mut report, at, &entry, &body, &errors).await;
                report.fates.push((entry, fate));
            }
        }
        Outcome::Refused(refusal) => {
            let named = batch.iter().any(|entry| names(entry, &refusal));
            for entry in batch {
                let fate = if names(&entry, &refusal) {
                    Fate::WithoutProperties(refusal.properties.clone())
                } else if named {
                    Fate::Again(Again::default())
                } else if size > 1 {
                    smaller(size)
                } else {
                    Fate::Dead(reason::REFUSED, refusal.detail())
                };
                report.fates.push((entry, fate));
            }
        }
        outcome => {
            for entry in batch {
                let fate = if size > 1 { smaller(size) } else { failed(desk, &mut report, &entry, &outcome).await };
                report.fates.push((entry, fate));
            }
        }
    }
    report
}

/// Whether a refusal names a property that this entry writes.
fn names(entry: &Entry<Properties>, refusal: &Refusal) -> bool {
    refusal.properties.iter().any(|(name, _)| entry.value.changes.contains_key(name))
}

async fn written(
    desk: Desk<'_>,
    report: &mut Report<Properties>,
    at: usize,
    entry: &Entry<Properties>,
    body: &Value,
    errors: &[ItemError],
) -> Fate {
    let trace = at.to_string();
    let traced = |record: &&Value| id_in(record, "objectWriteTraceId").is_some_and(|id| id == trace);
    let same = |record: &&Value| id_in(record, "id").is_some_and(|id| id == entry.key);
    if let Some(record) = results(body).iter().find(traced).or_else(|| results(body).iter().find(same)) {
        report.ignored += entry.value.changes.iter().filter(|(name, change)| kept_another(record, name, &change.value)).count() as u64;
        return Fate::Delivered;
    }
    match error_of(errors, at, &entry.key) {
        Some(error) => failed(desk, report, entry, &error.outcome).await,
        // Neither written nor refused: merged away, as observed; but that it is gone is not said, however often it was looked up.
        None => unknown(desk, report, entry, "HubSpot's answer does not mention the contact").await,
    }
}

/// Whether HubSpot's answer shows another value than the one sent.
fn kept_another(record: &Value, name: &str, sent: &str) -> bool {
    record.get("properties").and_then(|p| p.get(name)).and_then(Value::as_str).is_some_and(|kept| kept != sent)
}

async fn failed(desk: Desk<'_>, report: &mut Report<Properties>, entry: &Entry<Properties>, outcome: &Outcome) -> Fate {
    if let Some(fate) = report.common(LANE, outcome) {
        return fate;
    }
    match outcome {
        Outcome::NotFound(refusal) if entry.value.followed > 0 => Fate::Dead(reason::CONTACT_GONE, refusal.detail()),
        Outcome::NotFound(refusal) => unknown(desk, report, entry, &refusal.detail()).await,
        Outcome::Refused(refusal) if names(entry, refusal) => Fate::WithoutProperties(refusal.properties.clone()),
        Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
        _ => Fate::Dead(reason::CONFLICT, "HubSpot says that another contact has such a value".to_owned()),
    }
}

/// The contact was deleted or merged, or HubSpot has not said anything of it.
async fn unknown(desk: Desk<'_>, report: &mut Report<Properties>, entry: &Entry<Properties>, detail: &str) -> Fate {
    match desk.look_up(&entry.key, Share::Bulk).await {
        LookUp::Merged(survivor) if entry.value.followed < MERGES => Fate::Contact(survivor),
        LookUp::Gone => Fate::Dead(reason::CONTACT_GONE, detail.to_owned()),
        LookUp::There | LookUp::Merged(_) => Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() }),
        LookUp::Unclear(outcome) => report.unclear(LANE, &outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_that_was_not_kept_is_noticed() {
        let record = json!({"id": "801", "properties": {"a": "x", "b": "other"}});
        assert!(!kept_another(&record, "a", "x"));
        assert!(kept_another(&record, "b", "x"));
        assert!(!kept_another(&record, "not-shown", "x"));
    }
}
