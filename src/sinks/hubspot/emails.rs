//! Finds the contacts of e-mail addresses, and makes those that are missing where the account is set to.
//!
//! An address whose contact was made by somebody else between the look and the making is answered with a conflict, which names the
//! contact or not; then it is looked for once more.

use super::budget::Share;
use super::entries::Addressed;
use super::outcome::{ItemError, Outcome, error_of, item_errors};
use super::queue::Entry;
use super::record::Lane;
use super::request;
use super::work::{Again, Desk, Fate, LookUp, Report, id_in, results, smaller};
use crate::model::reason;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

const LANE: Lane = Lane::Properties;

type Batch = Vec<Entry<Addressed>>;

/// Finds the contacts of a batch of e-mail addresses; with `create` makes those that are not there.
pub async fn find(desk: Desk<'_>, create: bool, batch: Batch) -> Report<Addressed> {
    let mut report = Report::new();
    let size = batch.len();
    let outcome = desk.call(&request::find_contacts(desk.paths, batch.iter().map(|e| e.key.as_str())), Share::Bulk).await;
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return report };
    let (found, errors) = match &outcome {
        Outcome::Done(body) => (addresses(body), item_errors(body)),
        Outcome::Refused(refusal) if size == 1 => {
            report.fates.extend(batch.into_iter().map(|entry| (entry, Fate::Dead(reason::REFUSED, refusal.detail()))));
            return report;
        }
        _ if size > 1 => {
            report.fates.extend(batch.into_iter().map(|entry| (entry, smaller(size))));
            return report;
        }
        _ => (HashMap::new(), Vec::new()),
    };
    let mut missing = Vec::new();
    for entry in batch {
        let missed = errors.iter().any(|e| matches!(e.outcome, Outcome::NotFound(_)) && e.about.contains(&entry.key));
        let fate = match found.get(&entry.key) {
            Some(id) => Fate::Contact(id.clone()),
            None if missed => Fate::NoContact,
            // Neither found nor missed: an additional address that the answer does not show.
            None => by_itself(desk, &mut report, &entry.key).await,
        };
        match fate {
            Fate::NoContact if create => missing.push(entry),
            fate => report.fates.push((entry, fate)),
        }
    }
    if !missing.is_empty() {
        make(desk, &mut report, missing).await;
    }
    report
}

/// Looks for one address alone.
async fn by_itself(desk: Desk<'_>, report: &mut Report<Addressed>, email: &str) -> Fate {
    match desk.find(email, Share::Bulk).await {
        LookUp::Merged(id) => Fate::Contact(id),
        LookUp::There | LookUp::Gone => Fate::NoContact,
        LookUp::Unclear(outcome) => report.unclear(LANE, &outcome),
    }
}

/// Which contacts have these addresses, at most a batch of them: with one request, but for addresses that its answer does not settle.
pub async fn look_up(desk: Desk<'_>, emails: BTreeSet<String>, share: Share) -> HashMap<String, LookUp> {
    if emails.is_empty() {
        return HashMap::new();
    }
    let outcome = desk.call(&request::find_contacts(desk.paths, emails.iter().map(String::as_str)), share).await;
    let (found, errors) = match &outcome {
        Outcome::Done(body) => (addresses(body), item_errors(body)),
        // One of them may be what HubSpot does not take.
        Outcome::NotFound(_) | Outcome::Refused(_) | Outcome::Exists => (HashMap::new(), Vec::new()),
        outcome => return emails.into_iter().map(|email| (email, LookUp::Unclear(outcome.clone()))).collect(),
    };
    let mut known = HashMap::with_capacity(emails.len());
    for email in emails {
        let missed = errors.iter().any(|e| matches!(e.outcome, Outcome::NotFound(_)) && e.about.contains(&email));
        let looked_up = match found.get(&email.to_lowercase()) {
            Some(id) => LookUp::Merged(id.clone()),
            None if missed => LookUp::Gone,
            None => desk.find(&email, share).await,
        };
        known.insert(email, looked_up);
    }
    known
}

/// Makes a contact for each address.
async fn make(desk: Desk<'_>, report: &mut Report<Addressed>, batch: Batch) {
    let size = batch.len();
    let outcome = desk.call(&request::create_contacts(desk.paths, batch.iter().map(|e| e.key.as_str())), Share::Bulk).await;
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return };
    let (made, errors) = match &outcome {
        Outcome::Done(body) => (addresses(body), item_errors(body)),
        _ if size > 1 => {
            report.fates.extend(batch.into_iter().map(|entry| (entry, smaller(size))));
            return;
        }
        _ => (HashMap::new(), vec![ItemError { trace: vec!["0".to_owned()], about: Vec::new(), outcome: outcome.clone() }]),
    };
    for (at, entry) in batch.into_iter().enumerate() {
        let error = error_of(&errors, at, &entry.key);
        let fate = match (made.get(&entry.key), error.map(|e| &e.outcome)) {
            (Some(id), _) => Fate::Contact(id.clone()),
            (None, Some(Outcome::Exists)) => match by_itself(desk, report, &entry.key).await {
                // It exists and is not found: it has just been made, or deleted. The next try looks again.
                Fate::NoContact => Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() }),
                fate => fate,
            },
            (None, Some(outcome)) => report.unclear(LANE, outcome),
            (None, None) => Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() }),
        };
        report.fates.push((entry, fate));
    }
}

/// Address → contact, of an answer's contacts.
fn addresses(body: &Value) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for record in results(body) {
        let Some(id) = id_in(record, "id") else { continue };
        let property = |name: &str| record.pointer(&format!("/properties/{name}")).and_then(Value::as_str).unwrap_or_default();
        for address in property("hs_additional_emails").split(';').chain([property("email")]) {
            found.insert(address.trim().to_lowercase(), id.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_contact_is_found_by_any_of_its_addresses() {
        let body =
            json!({"results": [{"id": "801", "properties": {"email": "Ada@Example.com", "hs_additional_emails": "a@x.com; b@x.com"}}]});
        let found = addresses(&body);
        for address in ["ada@example.com", "a@x.com", "b@x.com"] {
            assert_eq!(found.get(address).map(String::as_str), Some("801"), "{address}");
        }
    }
}
