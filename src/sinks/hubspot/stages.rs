//! Reads a batch of deals and moves those that still qualify.
//!
//! # Safety
//! - HubSpot has no conditional write, so the deal is read in the request before the write, and nothing is asked in between.
//! - A write whose answer was lost is never repeated blindly: the next try reads first. In `to_stage`: it was ours (after a crash we
//!   no longer know that we wrote, and say `already-there`). In `from_stage`: it was not done. Anywhere else: a person moved it, and it
//!   stays there.
//! - Of several deltas for one deal only the oldest is in a batch; the next one reads the deal again.
//! - A deal is gone when HubSpot says so of it. An answer that does not mention it says nothing.

use super::associations::Associations;
use super::budget::Share;
use super::deal::{DealNow, Verdict, judge};
use super::emails;
use super::entries::Stages;
use super::outcome::{ItemError, Outcome, error_of, item_errors};
use super::queue::Entry;
use super::record::Lane;
use super::request;
use super::work::{Again, Desk, Fate, LookUp, Report, alone, id_in, results, smaller};
use crate::model::outputs::Person;
use crate::model::reason;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const LANE: Lane = Lane::Stages;

/// A deal's contacts, where a guard asks for them.
type Contacts = BTreeMap<String, BTreeSet<String>>;

/// Reads, decides, writes; the fates are those of each deal's oldest delta.
pub async fn write(desk: Desk<'_>, batch: Vec<Entry<Stages>>) -> Report<Stages> {
    let mut report = Report::new();
    // Contacts and persons first: they seldom change, and the deals themselves are read just before the write.
    let Some((batch, contacts)) = contacts(desk, &mut report, batch).await else { return report };
    let Some((batch, persons)) = persons(desk, &mut report, batch, &contacts).await else { return report };
    let size = batch.len();
    let ids = batch.iter().map(|e| e.key.as_str());
    let outcome = desk.call(&request::read_deals(desk.paths, ids), Share::Full).await;
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return report };
    let Outcome::Done(body) = outcome else {
        for entry in batch {
            let fate = match &outcome {
                _ if size > 1 => smaller(size),
                Outcome::NotFound(refusal) => Fate::Dead(reason::DEAL_GONE, refusal.detail()),
                Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
                _ => Fate::Dead(reason::REFUSED, "HubSpot does not let this deal be read".to_owned()),
            };
            report.fates.push((entry, fate));
        }
        return report;
    };
    let errors = item_errors(&body);
    if results(&body).is_empty() && errors.is_empty() && size > 1 {
        // A success that holds nothing is none; a deal that stands alone is asked for by itself.
        let again = Fate::Again(Again { counts: true, cap: Some(size / 2), ..Again::default() });
        report.fates.extend(batch.into_iter().map(|entry| (entry, again.clone())));
        return report;
    }
    let mut deals: HashMap<String, DealNow> =
        results(&body).iter().filter_map(|record| Some((id_in(record, "id")?, DealNow::read(record)))).collect();
    let (mut moves, mut unread) = (Vec::new(), Vec::new());
    for entry in batch {
        let Some((delta, _)) = entry.value.steps.front() else { continue };
        let Some(now) = deals.get_mut(&entry.key) else {
            unread.push(entry);
            continue;
        };
        now.contacts = contacts.get(&entry.key).cloned().unwrap_or_default();
        match judge(delta, now, persons.get(&entry.key).map(String::as_str)) {
            Verdict::Move => moves.push(entry),
            Verdict::There if entry.value.sent => report.fates.push((entry, Fate::Delivered)),
            Verdict::There => report.fates.push((entry, Fate::Dropped("already-there"))),
            Verdict::Drop(reason) => report.fates.push((entry, Fate::Dropped(reason))),
        }
    }
    if !moves.is_empty() {
        move_deals(desk, &mut report, moves).await;
    }
    // Only now: between reading the others and moving them nothing is asked.
    for entry in unread {
        let fate = not_read(desk, &mut report, &entry.key, &errors, size).await;
        report.fates.push((entry, fate));
    }
    report
}

/// What it means for a deal that the answer to a batch of `size` does not hold it.
async fn not_read(desk: Desk<'_>, report: &mut Report<Stages>, deal: &str, errors: &[ItemError], size: usize) -> Fate {
    let named = errors.iter().find(|error| error.about.iter().any(|id| id == deal));
    // One that names nobody may be about this deal.
    let unnamed = errors.iter().find(|error| error.about.is_empty());
    if let Some(error) = named.or(unnamed) {
        return match report.common(LANE, &error.outcome) {
            Some(fate) => fate,
            None if named.is_none() && size > 1 => alone(),
            None => refused(&error.outcome),
        };
    }
    const GONE: &str = "HubSpot does not know the deal: deleted, or merged into another";
    match desk.call(&request::get_deal(desk.paths, deal), Share::Full).await {
        Outcome::Done(body) if id_in(&body, "id").is_some_and(|id| id != deal) => Fate::Dead(reason::DEAL_GONE, GONE.to_owned()),
        Outcome::Done(_) => Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() }),
        Outcome::NotFound(_) => Fate::Dead(reason::DEAL_GONE, GONE.to_owned()),
        outcome => report.unclear(LANE, &outcome),
    }
}

/// Reads the contacts of the deals whose guards ask for them; a deal for which HubSpot fails, or of which it says nothing, is tried again.
/// Gives nothing back when all is decided by then.
async fn contacts(desk: Desk<'_>, report: &mut Report<Stages>, batch: Vec<Entry<Stages>>) -> Option<(Vec<Entry<Stages>>, Contacts)> {
    let asks = |entry: &&Entry<Stages>| entry.value.steps.front().is_some_and(|(delta, _)| delta.guard.require_associated_contact);
    let mut pages: Vec<(String, Option<String>)> = batch.iter().filter(asks).map(|e| (e.key.clone(), None)).collect();
    let mut read = Associations::default();
    while !pages.is_empty() {
        let request = request::read_deal_contacts(desk.paths, pages.iter().map(|(id, after)| (id.as_str(), after.as_deref())));
        let outcome = match desk.call(&request, Share::Full).await {
            Outcome::Done(body) => match read.add(pages.iter().map(|(id, _)| id.as_str()), &body) {
                Some(more) => {
                    pages = more.into_iter().map(|(id, after)| (id, Some(after))).collect();
                    continue;
                }
                None => Outcome::Transient("a success that holds no associations".to_owned(), None),
            },
            // That a deal has no contacts is told deal by deal. This says that nothing is there to ask.
            Outcome::NotFound(refusal) => Outcome::Transient(format!("deals' contacts can't be read: {}", refusal.brief()), None),
            outcome => outcome,
        };
        let size = batch.len();
        let batch = report.whole(LANE, batch, &outcome)?;
        let fate = if size > 1 { smaller(size) } else { not_shown(&outcome) };
        report.fates.extend(batch.into_iter().map(|entry| (entry, fate.clone())));
        return None;
    }
    let size = batch.len();
    let asked: BTreeSet<String> = batch.iter().filter(asks).map(|entry| entry.key.clone()).collect();
    let mut rest = Vec::with_capacity(size);
    for entry in batch {
        let error = read.failed.iter().find(|error| error.about.contains(&entry.key));
        match error.filter(|_| asked.contains(&entry.key)) {
            Some(error) => {
                let fate =
                    report.common(LANE, &error.outcome).unwrap_or_else(|| if size > 1 { alone() } else { not_shown(&error.outcome) });
                report.fates.push((entry, fate));
            }
            None => rest.push(entry),
        }
    }
    (!rest.is_empty()).then_some((rest, read.contacts))
}

/// HubSpot will not say which contacts a deal has.
fn not_shown(outcome: &Outcome) -> Fate {
    match outcome {
        Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
        _ => Fate::Dead(reason::REFUSED, "HubSpot does not show the deal's contacts".to_owned()),
    }
}

/// The deltas' persons as HubSpot knows them now: looked up where a deal has contacts and names none that we know the person by.
/// Gives nothing back when all is decided by then.
async fn persons(
    desk: Desk<'_>,
    report: &mut Report<Stages>,
    batch: Vec<Entry<Stages>>,
    contacts: &Contacts,
) -> Option<(Vec<Entry<Stages>>, HashMap<String, String>)> {
    let (mut rest, mut persons) = (Vec::with_capacity(batch.len()), HashMap::new());
    let asked = |entry: &Entry<Stages>| {
        let (delta, _) = entry.value.steps.front()?;
        let any = contacts.get(&entry.key).is_some_and(|contacts| !contacts.is_empty());
        delta.person.clone().filter(|_| delta.guard.require_associated_contact && any)
    };
    let email = |person| if let Person::Email(email) = person { Some(email) } else { None };
    let by_email = emails::look_up(desk, batch.iter().filter_map(asked).filter_map(email).collect(), Share::Full).await;
    for entry in batch {
        let looked_up = match asked(&entry) {
            None => LookUp::Gone,
            Some(Person::ContactId(id)) if contacts.get(&entry.key).is_some_and(|contacts| contacts.contains(&id)) => LookUp::Merged(id),
            Some(Person::ContactId(id)) => desk.look_up(&id, Share::Full).await,
            Some(Person::Email(email)) => by_email.get(&email).cloned().unwrap_or(LookUp::Gone),
        };
        match looked_up {
            LookUp::Merged(id) => drop(persons.insert(entry.key.clone(), id)),
            LookUp::There | LookUp::Gone => {}
            LookUp::Unclear(outcome) => {
                let fate = report.unclear(LANE, &outcome);
                report.fates.push((entry, fate));
                continue;
            }
        }
        rest.push(entry);
    }
    (!rest.is_empty()).then_some((rest, persons))
}

async fn move_deals(desk: Desk<'_>, report: &mut Report<Stages>, batch: Vec<Entry<Stages>>) {
    let size = batch.len();
    let stage = |entry: &Entry<Stages>| entry.value.steps.front().map(|(delta, _)| delta.to_stage.clone()).unwrap_or_default();
    let stages: Vec<String> = batch.iter().map(stage).collect();
    let moves = batch.iter().zip(&stages).map(|(entry, stage)| (entry.key.as_str(), stage.as_str()));
    let clicks = batch.iter().filter_map(|entry| entry.value.steps.front()).map(|(delta, _)| delta.last_click.id.as_str());
    let outcome = desk.write("hubspot stages", clicks, &request::move_deals(desk.paths, moves), Share::Full).await;
    let mut batch = batch;
    if matches!(outcome, Outcome::Transient(..)) {
        batch.iter_mut().for_each(|entry| entry.value.sent = true);
    }
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return };
    let Outcome::Done(body) = outcome else {
        for entry in batch {
            let fate = if size > 1 { smaller(size) } else { refused(&outcome) };
            report.fates.push((entry, fate));
        }
        return;
    };
    let errors = item_errors(&body);
    for (at, (mut entry, stage)) in batch.into_iter().zip(stages).enumerate() {
        let record = results(&body).iter().find(|record| id_in(record, "id").is_some_and(|id| id == entry.key));
        let error = error_of(&errors, at, &entry.key);
        let shown = record.map(|record| record.pointer("/properties/dealstage").and_then(Value::as_str));
        let fate = match (shown, error) {
            (Some(Some(now)), _) if now == stage => Fate::Delivered,
            (Some(Some(_)), _) => Fate::Dropped("overruled"),
            (None, Some(error)) => report.common(LANE, &error.outcome).unwrap_or_else(|| refused(&error.outcome)),
            // Neither moved nor refused, or the answer does not show the stage: read again.
            (Some(None) | None, _) => {
                entry.value.sent = true;
                Fate::Again(Again { counts: true, cap: Some(1), ..Again::default() })
            }
        };
        report.fates.push((entry, fate));
    }
}

fn refused(outcome: &Outcome) -> Fate {
    match outcome {
        Outcome::NotFound(refusal) => Fate::Dead(reason::DEAL_GONE, refusal.detail()),
        // The account's own rules: required properties, stages that may not be skipped. Asking again would change nothing.
        Outcome::Refused(refusal) if refusal.category == "VALIDATION_ERROR" => Fate::Dead(reason::VALIDATION, refusal.detail()),
        Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
        _ => Fate::Dead(reason::REFUSED, "HubSpot reports a conflict".to_owned()),
    }
}
