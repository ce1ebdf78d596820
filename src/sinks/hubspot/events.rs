//! Writes a batch of events, by whichever of HubSpot's APIs the account has.
//!
//! An event that HubSpot has already is delivered. An event whose contact is gone is tried with the contact it was merged into, if
//! there is one. A batch that is refused as a whole is halved until the one that is at fault stands alone.
//!
//! # A conflict of a whole batch
//! App events answer 409 for all of a batch when one id is known, and store none of it. After an answer that was lost every id of the
//! batch may be known, and to find that out event by event costs more failed requests than it has events. But such a batch
//! is tried again with none but its own events, and HubSpot stores all of a batch or nothing: one known id then means that all are.
//!
//! Where that conclusion can't be drawn, a few events go one by one instead of by halves: no request is cheaper that says which of them are known
//! ([`conflicting`]).
//!
//! # Safety
//! That conclusion holds only where no other request can have stored any of them. So it is drawn only of events that no earlier process,
//! and no earlier record of the same event, can have sent; and whenever a batch may have been stored, it is a batch of its own from then
//! on, a 5xx not excepted: entries of one [`together`](super::queue::Tries::together) were together in all requests that may have stored
//! one of them. Anything else is halved until the known event stands alone.

use super::budget::Share;
use super::entries::Event;
use super::event_api::{Acceptance, EventApi};
use super::outcome::{Outcome, item_errors};
use super::queue::Entry;
use super::record::Lane;
use super::work::{Again, Desk, Fate, LookUp, Report, alone, id_in, results, smaller};
use crate::model::reason;
use serde_json::Value;
use std::collections::HashSet;

const LANE: Lane = Lane::Events;
/// So many events of which one is known go one by one: that is 8 requests where halves are 7 for one that is known, and 15 for all.
const FEW: usize = 8;

/// Sends the batch.
pub async fn write(desk: Desk<'_>, api: &EventApi, batch: Vec<Entry<Event>>) -> Report<Event> {
    let mut report = Report::new();
    let size = batch.len();
    let clicks = batch.iter().map(|e| e.value.delta.click_id.as_str());
    let request = api.request(desk.paths, batch.iter().map(|e| &e.value));
    let outcome = desk.write("hubspot timeline", clicks, &request, Share::Bulk).await;
    report.unsure = api.all_or_nothing() && matches!(outcome, Outcome::Transient(..));
    let Some(batch) = report.whole(LANE, batch, &outcome) else { return report };
    match outcome {
        Outcome::Done(body) => itemised(desk, &mut report, api, batch, &body).await,
        Outcome::Exists if stored_before(api, &batch) => {
            report.known += size as u64;
            report.fates.extend(batch.into_iter().map(|entry| (entry, Fate::Delivered)));
        }
        outcome => {
            for entry in batch {
                let fate = match outcome {
                    Outcome::Exists if size > 1 => conflicting(size),
                    _ if size > 1 => smaller(size),
                    _ => single(desk, &mut report, &entry, &outcome).await,
                };
                report.fates.push((entry, fate));
            }
        }
    }
    report
}

/// Whether a conflict means that HubSpot has all of the batch.
fn stored_before(api: &EventApi, batch: &[Entry<Event>]) -> bool {
    let together = batch.first().and_then(|entry| entry.tries.together);
    let alike = |entry: &Entry<Event>| entry.tries.together == together && entry.value.fresh && !entry.tries.repeated;
    api.all_or_nothing() && together.is_some() && batch.iter().all(alike)
}

/// To be tried again in a smaller batch, to find out which events of this one HubSpot has.
///
/// That is most often all of them, after a crash: then each must be asked for by itself in the end, and every batch on the way is in vain. It is
/// one of them at least, and then a few single requests are about as many as halves of halves.
fn conflicting(size: usize) -> Fate {
    if size <= FEW { alone() } else { smaller(size) }
}

/// Each event's fate, from the body of a success.
async fn itemised(desk: Desk<'_>, report: &mut Report<Event>, api: &EventApi, batch: Vec<Entry<Event>>, body: &Value) {
    let size = batch.len();
    let errors = item_errors(body);
    let stored: HashSet<String> = results(body).iter().filter_map(|result| id_in(result, "id")).collect();
    // Without an error the status speaks for all where the API does not list what it took.
    let whole = errors.is_empty() && stored.is_empty() && api.acceptance() == Acceptance::Whole;
    for entry in batch {
        let named = errors.iter().find(|error| error.about.contains(&entry.key));
        let fate = match named {
            _ if whole || stored.contains(&entry.key) => Fate::Delivered,
            Some(error) => single(desk, report, &entry, &error.outcome).await,
            // An error that names nobody: whose is it?
            None if !errors.is_empty() && size > 1 => alone(),
            None if !errors.is_empty() => single(desk, report, &entry, &errors[0].outcome).await,
            // A success that says nothing of this event is none; a second try finds out by the event's id.
            None => {
                report.unsure = api.all_or_nothing();
                Fate::Again(Again { counts: true, ..Again::default() })
            }
        };
        report.fates.push((entry, fate));
    }
}

/// What an answer about one event means for it.
async fn single(desk: Desk<'_>, report: &mut Report<Event>, entry: &Entry<Event>, outcome: &Outcome) -> Fate {
    if let Some(fate) = report.common(LANE, outcome) {
        return fate;
    }
    match outcome {
        Outcome::NotFound(refusal) => missing(desk, report, entry, &refusal.detail()).await,
        Outcome::Refused(refusal) => Fate::Dead(reason::REFUSED, refusal.detail()),
        _ => {
            report.known += 1;
            Fate::Delivered
        }
    }
}

/// HubSpot misses something: the contact, or the type of event.
async fn missing(desk: Desk<'_>, report: &mut Report<Event>, entry: &Entry<Event>, detail: &str) -> Fate {
    if entry.value.looked_up {
        return Fate::Dead(reason::CONTACT_GONE, detail.to_owned());
    }
    let looked_up = match entry.value.contact() {
        Some(id) => desk.look_up(id, Share::Bulk).await,
        None => LookUp::There,
    };
    match looked_up {
        LookUp::Merged(survivor) => Fate::Contact(survivor),
        LookUp::Gone => Fate::Dead(reason::CONTACT_GONE, detail.to_owned()),
        LookUp::There => report.doubtful(format!("is the type of event right? {detail}")),
        LookUp::Unclear(outcome) => report.unclear(LANE, &outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::super::event_api::batch_max;
    use super::super::fixtures;
    use super::super::portal::Events;
    use super::super::queue::Tries;
    use super::*;
    use std::time::Instant;

    /// An event that was sent without an answer, in a batch of this number if in any.
    fn sent(id: &str, together: Option<u64>) -> Entry<Event> {
        let tries = Tries { together, ..Tries::new(Instant::now()) };
        Entry { key: id.to_owned(), value: Event::new(fixtures::event(id, "801")), tries }
    }

    /// Requests until a batch is done of which HubSpot has the first `known` events, and all that are cut from it.
    fn requests(size: usize, known: usize) -> usize {
        if known == 0 || size == 1 {
            return 1;
        }
        let Fate::Again(Again { cap: Some(cap), .. }) = conflicting(size) else { panic!("again") };
        let pieces = (0..size).step_by(cap).map(|from| requests(cap.min(size - from), known.saturating_sub(from).min(cap)));
        1 + pieces.sum::<usize>()
    }

    #[test]
    fn a_batch_of_which_all_are_known_costs_three_requests_for_two_events_at_most() {
        for size in 1..=batch_max(Events::AppEvents) {
            assert!(2 * requests(size, size) <= 3 * size.max(2), "{} for {size}", requests(size, size));
            assert!(requests(size, 1) <= 1 + FEW + 3 * size.ilog2() as usize, "{} for one of {size}", requests(size, 1));
        }
        assert_eq!((requests(100, 100), requests(500, 500)), (131, 627), "as docs/hubspot.md counts");
    }

    #[test]
    fn a_conflict_means_that_all_are_there_only_where_no_other_request_can_have_stored_one() {
        let api = |api| EventApi { api, event_type: "7".into(), batch_max: batch_max(api) };
        let of = |batch: &[Entry<Event>]| stored_before(&api(Events::AppEvents), batch);
        let batch = [sent("a", Some(3)), sent("b", Some(3))];
        assert!(of(&batch) && of(&batch[..1]), "all of what was sent together, and any part of it");
        assert!(!stored_before(&api(Events::Timeline), &batch), "which takes each event by itself");
        assert!(!of(&[sent("a", None), sent("b", None)]), "none of them was sent by us: somebody else's");
        assert!(!of(&[sent("a", Some(3)), sent("b", Some(4))]), "sent in two batches");
        let [mut known, other] = batch;
        known.value.fresh = false;
        assert!(!of(&[known.clone(), other.clone()]), "an earlier process may have sent it alone");
        known.value.fresh = true;
        known.tries.repeated = true;
        assert!(!of(&[known, other]), "so may we, for an earlier record of the same event");
    }
}
