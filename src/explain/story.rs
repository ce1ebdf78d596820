//! The explanation: what was heard, put in order and in words.

mod clicks;
mod deals;

use super::Asked;
use super::mirror::Known;
use super::witness::Witness;
use crate::config::rules::{Counted, Mode, Rule, window_text};
use crate::dataflow::outputs;
use crate::dataflow::plan::{Connection, Plan, RuleIx};
use crate::dataflow::rows::{Subject, Who};
use crate::model::outputs::{Output, Person, Topic};
use crate::model::time::{Ms, rfc3339};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::sync::Arc;
use ustr::{Ustr, ustr};

pub use clicks::{Letter, OfClick, OfForm, Outcome};
pub use deals::{Guard, OfDeal, OfDealState, Verdict};

/// Everything about one contact or one deal.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Who was asked about.
    pub asked: String,
    /// HubSpot account.
    pub portal: String,
    /// The end of the history.
    #[serde(serialize_with = "moment_of")]
    pub as_of: Ms,
    /// What to know besides.
    pub notes: Vec<String>,
    /// The contact; for a deal every contact it names, and the deal itself where rules count its links.
    pub subjects: Vec<OfSubject>,
    /// Clicks that are theirs or may have been, by their times.
    pub clicks: Vec<OfClick>,
    /// Forms with their e-mails.
    pub forms: Vec<OfForm>,
    /// Records that could not be read and seem to be about them.
    pub unreadable: Vec<Letter>,
    /// The deal; for a contact all deals that name it, or did.
    pub deals: Vec<OfDeal>,
    /// What HubSpot is to hear, in the order of time.
    pub deltas: Vec<Delta>,
}

/// A contact or deal whose clicks are counted.
#[derive(Clone, Debug, Serialize)]
pub struct OfSubject {
    /// The person; absent for a deal.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// The deal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deal_id: Option<String>,
    /// Whether the portal has a record of it.
    pub in_mirror: bool,
    /// Ids and e-mails that stand for it.
    pub identities: Vec<Identity>,
    /// Rules that count for it.
    pub rules: Vec<OfRule>,
}

/// An id or e-mail that stands for a contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The id or e-mail.
    pub text: String,
    /// `e-mail`, `further e-mail`, `merged contact`, or `of a merged contact`.
    pub is: &'static str,
}

/// A rule and how far a contact or deal has come with it.
#[derive(Clone, Debug, Serialize)]
pub struct OfRule {
    /// Its number in this explanation.
    pub number: usize,
    /// Its workspace.
    pub workspace: String,
    /// Its name.
    pub rule: String,
    /// Whether it only watches.
    pub shadow: bool,
    /// What is counted: `links tagged …`, or the link.
    pub counts: String,
    /// In a window of this length, as in a rule.
    pub window: String,
    /// Clicks that make it hot.
    pub threshold: u64,
    /// Clicks in the window now.
    pub count: u64,
    /// Clicks that are missing now.
    pub missing: u64,
    /// Which clicks these are.
    pub clicks: Vec<String>,
    /// Since when it has been hot.
    #[serde(serialize_with = "moment")]
    pub hot_since: Option<Ms>,
    /// Hot periods that have ended.
    pub hot_before: Vec<Period>,
}

/// A hot period that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Period {
    /// Its first tick's end.
    #[serde(serialize_with = "moment_of")]
    pub from: Ms,
    /// The tick's end at which it was over.
    #[serde(serialize_with = "moment_of")]
    pub to: Ms,
}

/// A record of a delta topic.
#[derive(Clone, Debug, Serialize)]
pub struct Delta {
    /// When it was emitted.
    #[serde(serialize_with = "moment_of")]
    pub at: Ms,
    /// Its topic, by the default name.
    pub topic: &'static str,
    /// The record.
    pub record: serde_json::Value,
}

fn moment<S: Serializer>(at: &Option<Ms>, to: S) -> Result<S::Ok, S::Error> {
    at.map(rfc3339).serialize(to)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn moment_of<S: Serializer>(at: &Ms, to: S) -> Result<S::Ok, S::Error> {
    rfc3339(*at).serialize(to)
}

/// What the parts of a story are made from.
struct Sources<'a> {
    known: &'a Known,
    witness: &'a Witness,
    plan: &'a Plan,
    portal: Ustr,
    end: Ms,
    /// Contacts, or the contacts of a deal and the deal itself.
    subjects: Vec<Who>,
}

impl Sources<'_> {
    /// Whether it is about one of them, now.
    fn theirs(&self, identity: Who) -> bool {
        self.subjects.contains(&self.known.person(self.portal, identity))
    }

    /// The rules of workspaces that are connected to the portal, with their places in the plan.
    fn rules(&self) -> impl Iterator<Item = (RuleIx, Connection, &Rule)> {
        let rules = (0..).zip(&self.plan.rules);
        rules.filter_map(|(ix, planned)| {
            let workspace = ustr(planned.rule.workspace.as_deref().unwrap_or_default());
            let connection = Connection { workspace, portal: self.portal };
            self.plan.connections(workspace).contains(&connection).then_some((ix, connection, &planned.rule))
        })
    }
}

/// Tells what there is to tell.
pub(super) fn tell(known: &Known, witness: &Witness, plan: &Arc<Plan>, asked: &Asked, end: Ms) -> Explanation {
    let portal = witness.wanted.portal;
    let mut subjects = known.persons(portal, asked);
    subjects.extend(witness.wanted.links_of.map(|deal| Who::deal(&deal)));
    let from = Sources { known, witness, plan, portal, end, subjects };
    let mut clicks = clicks::clicks(&from);
    let of_subjects: Vec<OfSubject> =
        from.subjects.iter().map(|who| of_subject(&from, *who)).filter(|of| of.deal_id.is_none() || !of.rules.is_empty()).collect();
    for click in &mut clicks {
        let counting = of_subjects
            .iter()
            .flat_map(|subject| &subject.rules)
            .filter(|rule| click.workspace == rule.workspace && click.counted && rule.clicks.contains(&click.id));
        click.counts_for = counting.map(|rule| rule.number).collect::<BTreeSet<_>>().into_iter().collect();
    }
    let mut explanation = Explanation {
        asked: asked.to_string(),
        portal: portal.to_string(),
        as_of: end,
        notes: Vec::new(),
        subjects: of_subjects,
        clicks,
        forms: clicks::forms(&from),
        unreadable: clicks::unreadable(&from),
        deals: deals::deals(&from),
        deltas: deltas(&from),
    };
    explanation.notes = notes(&from, asked);
    explanation
}

fn of_subject(from: &Sources<'_>, who: Who) -> OfSubject {
    let rules = from.rules().filter(|(_, _, rule)| rule.guard.require_associated_contact != who.is_deal());
    let rules = rules.map(|(ix, connection, rule)| of_rule(from, ix, rule, Subject::new(connection, who))).collect();
    let in_mirror = match who {
        _ if who.is_deal() => from.known.deals.contains_key(&(from.portal, ustr(who.text()))),
        _ => from.known.contacts.get(&(from.portal, ustr(who.text()))).is_some_and(|(_, contact)| who.is_contact() && contact.is_some()),
    };
    let deal_id = who.is_deal().then(|| who.text().to_owned());
    OfSubject { person: who.person(), deal_id, in_mirror, identities: identities(from, who), rules }
}

fn identities(from: &Sources<'_>, person: Who) -> Vec<Identity> {
    if person.is_deal() {
        return Vec::new();
    }
    let contact = from.known.contacts.get(&(from.portal, ustr(person.text()))).and_then(|(_, contact)| contact.clone());
    let is = |who: Who| {
        let own = contact.as_ref().and_then(|contact| contact.email.as_deref()).map(crate::model::inputs::normal_email);
        let further =
            || contact.iter().flat_map(|contact| &contact.additional_emails).map(|email| crate::model::inputs::normal_email(email));
        match who {
            _ if who.is_contact() => "merged contact",
            _ if own.as_deref() == Some(who.text()) => "e-mail",
            _ if further().any(|email| email == who.text()) => "further e-mail",
            _ => "of a merged contact",
        }
    };
    let others = from.known.identities(from.portal, person).into_iter().filter(|who| *who != person);
    others.map(|who| Identity { text: who.text().to_owned(), is: is(who) }).collect()
}

fn of_rule(from: &Sources<'_>, ix: RuleIx, rule: &Rule, subject: Subject) -> OfRule {
    let count = from.plan.measure(ix).and_then(|measure| from.witness.counts.get(&(subject, measure))).map_or(0, |(_, count)| *count);
    let (hot_since, hot_before) = periods(from, ix, subject);
    OfRule {
        number: ix as usize + 1,
        workspace: subject.workspace.to_string(),
        rule: rule.name.clone(),
        shadow: rule.mode == Mode::Shadow,
        counts: match &rule.counted {
            Counted::Tag(tag) => format!("links tagged {tag}"),
            Counted::Link(link) => link.clone(),
        },
        window: window_text(rule.window),
        threshold: rule.threshold,
        count,
        missing: rule.threshold.saturating_sub(count),
        clicks: clicks::counting(from, rule, subject),
        hot_since,
        hot_before,
    }
}

/// Since when a rule is hot, and when it was before.
fn periods(from: &Sources<'_>, rule: RuleIx, subject: Subject) -> (Option<Ms>, Vec<Period>) {
    let mut heats: Vec<_> = from.witness.heats.iter().filter(|(_, heat)| heat.rule == rule && heat.subject == subject).collect();
    heats.sort_by_key(|(at, _)| *at);
    let (mut since, mut before) = (None, Vec::new());
    for (at, heat) in heats {
        match (&heat.period, since) {
            (Some(period), _) => since = Some(period.since),
            (None, Some(from)) => {
                before.push(Period { from, to: *at });
                since = None;
            }
            (None, None) => {}
        }
    }
    (since, before)
}

/// The records of the delta topics, as the job writes them.
fn deltas(from: &Sources<'_>) -> Vec<Delta> {
    let delta = |at: Ms, output: &Output| {
        let record = serde_json::from_slice(&output.value).ok()?;
        Some(Delta { at, topic: output.topic.default_name(), record })
    };
    let events = from.witness.resolved.values().flatten().filter(|(_, resolved)| from.theirs(resolved.hit.subject.who));
    let events = events.filter_map(|(at, resolved)| delta(*at, &outputs::timeline(resolved, *at)));
    let values = from.witness.values.iter().filter_map(|(at, change)| delta(*at, &outputs::contact_properties(change, *at)));
    // Of a deal that is asked about its own moves only, not those of its contacts' other deals.
    let asked = |deal: Ustr| from.witness.wanted.links_of.is_none_or(|only| only == deal);
    let moves = from.witness.advances.iter().filter(|(_, advance)| asked(advance.deal));
    let moves = moves.filter_map(|(at, advance)| delta(*at, &outputs::deal_stage(advance, from.plan, *at)?));
    let mut deltas: Vec<Delta> = events.chain(values).chain(moves).collect();
    // Of one tick: the event, what it changes, what it moves.
    let rank = |topic: &str| [Topic::Timeline, Topic::ContactProperties].iter().position(|of| of.default_name() == topic).unwrap_or(2);
    deltas.sort_by_cached_key(|delta| (delta.at, rank(delta.topic), delta.record["id"].to_string()));
    deltas
}

fn notes(from: &Sources<'_>, asked: &Asked) -> Vec<String> {
    let mut notes = Vec::new();
    let asked_for = match asked {
        Asked::Contact(id) => Some(Who::contact(id)),
        Asked::Email(email) => Some(Who::email(email)),
        Asked::Deal(_) => None,
    };
    if let Some(asked) = asked_for {
        let person = from.known.person(from.portal, asked);
        let contact = |who: Who| from.known.contacts.get(&(from.portal, ustr(who.text()))).filter(|_| who.is_contact());
        if person != asked {
            notes.push(format!("{} is contact {}", asked.text(), person.text()));
        }
        match contact(person) {
            Some((at, None)) => notes.push(format!("the contact was deleted: {} UTC", rfc3339(*at))),
            Some((_, Some(_))) => {}
            None if person.is_contact() => {
                notes.push("the portal has sent no record of this contact: it is known by its clicks or deals only".to_owned())
            }
            None => notes.push("no contact of the portal has this e-mail yet; it stands for itself".to_owned()),
        }
    }
    notes
}
