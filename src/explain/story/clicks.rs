//! Clicks and what became of each.

use super::{Sources, moment_of};
use crate::config::rules::{Counted, Rule};
use crate::dataflow::rows::{Resolved, Subject, Via, Who};
use crate::explain::witness::{RecordId, id_of};
use crate::model::PackedClick;
use crate::model::outputs::Person;
use crate::model::time::{HOLD, Ms};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use ustr::ustr;

/// A click, as often as it came in.
#[derive(Clone, Debug, Serialize)]
pub struct OfClick {
    /// When it was made.
    #[serde(serialize_with = "moment_of")]
    pub ts: Ms,
    /// When it came in: the tick's end.
    #[serde(serialize_with = "moment_of")]
    pub at: Ms,
    /// Its id.
    pub id: String,
    /// Where it was made.
    pub workspace: String,
    /// The link.
    pub link: String,
    /// The link's tags.
    pub tags: Vec<String>,
    /// The deal that the link names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deal_id: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Rules whose count it is part of now, by number.
    pub counts_for: Vec<usize>,
    /// Whether it can be part of a count at all.
    #[serde(skip)]
    pub counted: bool,
}

/// What became of a click.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Outcome {
    /// The link named the contact.
    Eid {
        /// Whose it is now.
        #[serde(flatten)]
        person: Person,
    },
    /// A form carried the same click id.
    Form {
        /// The form.
        form_id: String,
        /// Form time minus click time, ms; negative when the form came first.
        after_click_ms: i64,
        /// How long it was held, ms: from when it came in until the form did.
        held_ms: Ms,
        /// Whose it is now.
        #[serde(flatten)]
        person: Person,
        /// Whether that is somebody else than who was asked about.
        somebody_else: bool,
    },
    /// Waits for a form.
    Held {
        /// The last moment at which a form's own time may lie.
        #[serde(serialize_with = "moment_of")]
        until: Ms,
    },
    /// No form came in time.
    Expired {
        /// When it was given up.
        #[serde(serialize_with = "moment_of")]
        at: Ms,
    },
    /// Nothing says whose it is.
    Anonymous,
    /// A machine made it.
    Machine {
        /// How that is known.
        reason: String,
    },
    /// Its id had been seen.
    Repeated,
    /// Its workspace is not connected to the portal.
    Unconnected,
}

/// A form with one of the e-mails.
#[derive(Clone, Debug, Serialize)]
pub struct OfForm {
    /// When it was submitted.
    #[serde(serialize_with = "moment_of")]
    pub ts: Ms,
    /// Its id.
    pub id: String,
    /// Whose form it is.
    pub workspace: String,
    /// The e-mail.
    pub email: String,
    /// Google's click id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gclid: Option<String>,
    /// Facebook's click id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fbclid: Option<String>,
    /// Whether its id had been seen.
    pub repeated: bool,
}

/// A record that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// When.
    #[serde(serialize_with = "moment_of")]
    pub at: Ms,
    /// Topic or file.
    pub source: String,
    /// Partition; 0 for a file.
    pub partition: i32,
    /// Offset, or the line's number.
    pub offset: i64,
    /// Reason code.
    pub reason: String,
    /// What is wrong.
    pub detail: String,
}

fn person(who: Who) -> Person {
    who.person().unwrap_or_else(|| Person::ContactId(who.text().to_owned()))
}

/// All clicks by their times.
pub fn clicks(from: &Sources<'_>) -> Vec<OfClick> {
    let mut arrivals: Vec<_> = from.witness.clicks.iter().collect();
    arrivals.sort_by_key(|(at, place, _)| (*at, *place));
    // Of several appearances in the tick in which a click was taken the first one is it.
    let mut used: BTreeSet<(RecordId, Ms)> = BTreeSet::new();
    let mut clicks = Vec::with_capacity(arrivals.len());
    for (at, _, click) in arrivals {
        let id = id_of(click);
        let taken = from.witness.taken.get(&id).is_some_and(|ticks| ticks.contains(at)) && used.insert((id.clone(), *at));
        let outcome = if taken { outcome(from, &id, *at, click) } else { Outcome::Repeated };
        clicks.push(OfClick {
            ts: click.ts,
            at: *at,
            id: click.id_text().to_owned(),
            workspace: click.workspace().to_owned(),
            link: click.link().to_owned(),
            tags: click.tags().map(str::to_owned).collect(),
            deal_id: click.deal_id().map(str::to_owned),
            counted: !matches!(outcome, Outcome::Machine { .. } | Outcome::Repeated),
            outcome,
            counts_for: Vec::new(),
        });
    }
    clicks.sort_by(|a, b| (a.ts, &a.id, a.at).cmp(&(b.ts, &b.id, b.at)));
    clicks
}

/// What became of a click that was taken at `at`.
fn outcome(from: &Sources<'_>, id: &RecordId, at: Ms, click: &PackedClick) -> Outcome {
    if let Some(reason) = click.bot() {
        return Outcome::Machine { reason: reason.to_owned() };
    }
    // An id that was seen long ago may be taken anew: what follows belongs to the last time before it.
    let next = from.witness.taken.get(id).and_then(|ticks| ticks.range(at + 1..).next()).copied().unwrap_or(Ms::MAX);
    let resolved = from.witness.resolved.get(id).and_then(|all| all.iter().find(|(of, _)| (at..next).contains(of)));
    if let Some((resolved_at, Resolved { hit, .. })) = resolved {
        let now = from.known.person(from.portal, hit.subject.who);
        return match &hit.via {
            Some(Via::Form(form)) => Outcome::Form {
                form_id: form.id.clone(),
                after_click_ms: i64::try_from(form.ts).unwrap_or(i64::MAX).saturating_sub(i64::try_from(click.ts).unwrap_or(i64::MAX)),
                held_ms: resolved_at - at,
                person: person(now),
                somebody_else: !from.theirs(hit.subject.who),
            },
            Some(Via::Eid) | None => Outcome::Eid { person: person(now) },
        };
    }
    if let Some(expired) = from.witness.expired.get(id).and_then(|ticks| ticks.range(at..next).next()) {
        return Outcome::Expired { at: *expired };
    }
    let connected = from.plan.connections(id.0).iter().any(|connection| connection.portal == from.portal);
    match (click.contact_id(), click.gclid(), click.fbclid()) {
        _ if !connected => Outcome::Unconnected,
        (None, None, None) => Outcome::Anonymous,
        _ => Outcome::Held { until: click.ts.saturating_add(HOLD) },
    }
}

/// The ids of the clicks that a rule counts for a subject now, by their times.
pub fn counting(from: &Sources<'_>, rule: &Rule, subject: Subject) -> Vec<String> {
    let counts = |click: &PackedClick| {
        let named = match &rule.counted {
            Counted::Tag(tag) => click.tags().any(|of| of == tag),
            Counted::Link(link) => click.link() == link,
        };
        named && subject.workspace == click.workspace() && click.ts <= from.end && from.end < click.ts.saturating_add(rule.window)
    };
    let mut clicks: BTreeMap<(Ms, &str, usize), &PackedClick> = BTreeMap::new();
    if subject.who.is_deal() {
        let taken = |at: Ms, click: &PackedClick| from.witness.taken.get(&id_of(click)).is_some_and(|ticks| ticks.contains(&at));
        let theirs = from
            .witness
            .clicks
            .iter()
            .filter(|(at, _, click)| click.bot().is_none() && click.deal_id() == Some(subject.who.text()) && taken(*at, click));
        // A repetition in the same tick is the same click.
        let once: BTreeMap<(&str, Ms), &PackedClick> = theirs.map(|(at, _, click)| ((click.id_text(), *at), click.as_ref())).collect();
        clicks.extend(once.values().filter(|click| counts(click)).enumerate().map(|(n, click)| ((click.ts, click.id_text(), n), *click)));
    } else {
        let resolved = from.witness.resolved.values().flatten();
        let theirs = resolved.filter(|(_, resolved)| from.known.person(from.portal, resolved.hit.subject.who) == subject.who);
        let theirs = theirs.map(|(_, resolved)| resolved.hit.click.as_ref()).filter(|click| counts(click));
        clicks.extend(theirs.enumerate().map(|(n, click)| ((click.ts, click.id_text(), n), click)));
    }
    clicks.into_values().map(|click| click.id_text().to_owned()).collect()
}

/// All forms by their times.
pub fn forms(from: &Sources<'_>) -> Vec<OfForm> {
    let theirs = from.known.forms.iter().filter(|(_, _, form)| from.theirs(Who::email(&form.email)));
    let mut used: BTreeSet<(RecordId, Ms)> = BTreeSet::new();
    let forms = theirs.map(|(at, _, form)| {
        let id = (ustr(&form.workspace), form.id.clone());
        let taken = from.witness.forms.get(&id).is_some_and(|ticks| ticks.contains(at)) && used.insert((id, *at));
        OfForm {
            ts: form.ts,
            id: form.id.clone(),
            workspace: form.workspace.clone(),
            email: form.email.clone(),
            gclid: form.gclid.clone(),
            fbclid: form.fbclid.clone(),
            repeated: !taken,
        }
    });
    forms.collect()
}

/// All records that could not be read, by time.
pub fn unreadable(from: &Sources<'_>) -> Vec<Letter> {
    let mut letters: Vec<_> = from.witness.dead.iter().collect();
    letters.sort_by(|(a, x), (b, y)| (a, &x.source, x.partition, x.offset).cmp(&(b, &y.source, y.partition, y.offset)));
    let letter = |(at, letter): &(Ms, std::sync::Arc<crate::model::outputs::DeadLetter>)| Letter {
        at: *at,
        source: letter.source.clone(),
        partition: letter.partition,
        offset: letter.offset,
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
    };
    letters.into_iter().map(letter).collect()
}
