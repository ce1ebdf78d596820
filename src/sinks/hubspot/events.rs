//! Writes a batch of timeline events.
//!
//! An event that HubSpot has already is delivered. An event whose contact is gone is tried with the contact it was merged into, if
//! there is one. A batch that is refused as a whole is halved until the one that is at fault stands alone.

use super::budget::Share;
use super::lanes::Event;
use super::outcome::{Outcome, item_errors};
use super::queue::Entry;
use super::record::Lane;
use super::request;
use super::work::{Desk, Fate, LookUp, Report, Suspend, alone, id_in, results, smaller};
use crate::model::outputs::Person;
use std::collections::HashSet;

const LANE: Lane = Lane::Events;

/// Sends the batch.
pub async fn write(desk: Desk<'_>, template: &str, batch: Vec<Entry<Event>>) -> Report<Event> {
    let mut report = Report::new();
    let size = batch.len();
    let outcome = desk.call(&request::create_events(desk.paths, template, batch.iter().map(|e| &e.value)), Share::Bulk).await;
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return report };
    let Outcome::Done(body) = outcome else {
        for entry in batch {
            let fate = if size > 1 { smaller(size) } else { single(desk, &mut report, &entry, &outcome).await };
            report.fates.push((entry, fate));
        }
        return report;
    };
    let errors = item_errors(&body);
    let stored: HashSet<String> = results(&body).iter().filter_map(|result| id_in(result, "id")).collect();
    for entry in batch {
        let named = errors.iter().find(|error| error.about.contains(&entry.key));
        let fate = match named {
            _ if stored.contains(&entry.key) || errors.is_empty() => Fate::Delivered,
            Some(error) => single(desk, &mut report, &entry, &error.outcome).await,
            None if size > 1 => alone(),
            None => single(desk, &mut report, &entry, &errors[0].outcome).await,
        };
        report.fates.push((entry, fate));
    }
    report
}

/// What an answer about one event means for it.
async fn single(desk: Desk<'_>, report: &mut Report<Event>, entry: &Entry<Event>, outcome: &Outcome) -> Fate {
    if let Some(fate) = report.common(LANE, outcome) {
        return fate;
    }
    match outcome {
        Outcome::NotFound(refusal) => missing(desk, report, entry, &refusal.detail()).await,
        Outcome::Refused(refusal) => Fate::Dead("refused", refusal.detail()),
        _ => Fate::Delivered,
    }
}

/// HubSpot misses something: the contact, or the template.
async fn missing(desk: Desk<'_>, report: &mut Report<Event>, entry: &Entry<Event>, detail: &str) -> Fate {
    let known = match (&entry.value.merged_into, &entry.value.delta.person) {
        (Some(_), _) => return Fate::Dead("contact-gone", detail.to_owned()),
        (None, Person::ContactId(id)) => Some(id),
        (None, Person::Email(_)) => None,
    };
    let looked_up = match known {
        Some(id) => desk.look_up(id, Share::Bulk).await,
        None => LookUp::There,
    };
    match looked_up {
        LookUp::Merged(survivor) => Fate::Contact(survivor),
        LookUp::Gone => Fate::Dead("contact-gone", detail.to_owned()),
        LookUp::There => {
            report.suspend = Some(Suspend { lane: Some(LANE), why: format!("is event_template_id right? {detail}") });
            Fate::Again(super::work::Again::default())
        }
        LookUp::Unclear(outcome) => report.unclear(LANE, &outcome),
    }
}
