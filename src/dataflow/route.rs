//! Sends each click and form where its person may be found.
//!
//! # Meaning
//! A click of a machine goes nowhere. A click that names its contact is resolved. Else one that carries a click id goes
//! to the meeting place of each of its click ids, where forms with the same value come too. Else it is anonymous. A
//! click on a link that names a deal also counts for the deal, whoever made it, where a rule asks for that.
//!
//! # Not guaranteed
//! A click of a workspace with no portal still waits for its form, so that `clicks.unresolved` holds all that found
//! nobody; it makes no output for HubSpot.

use super::first_match::{Field, Meeting, Met};
use super::intake::Record;
use super::plan::Plan;
use super::rows::{self, Hit, Subject, Via, Who};
use crate::model::{Form, PackedClick};
use smallvec::SmallVec;
use std::sync::Arc;

/// Where a record goes.
#[derive(Clone, Debug)]
pub enum Routed {
    /// A click with its identity.
    Hit(Hit),
    /// A click or form at a meeting place.
    Met(Meeting, Met),
}

/// All places that a record goes to.
pub fn route(plan: &Plan, record: &Record, mut to: impl FnMut(Routed)) {
    match record {
        Record::Click(click) => route_click(plan, click, to),
        Record::Form(form) => {
            for meeting in meetings(&form.workspace, form.gclid.as_deref(), form.fbclid.as_deref()) {
                to(Routed::Met(meeting, Met::Form(Arc::clone(form))));
            }
        }
    }
}

fn meetings<'a>(workspace: &str, gclid: Option<&'a str>, fbclid: Option<&'a str>) -> impl Iterator<Item = Meeting> + use<'a> {
    let workspace = rows::workspace(workspace);
    [(Field::Gclid, gclid), (Field::Fbclid, fbclid)]
        .into_iter()
        .filter_map(move |(field, value)| value.map(|value| Meeting::on(workspace, field, value)))
}

fn route_click(plan: &Plan, click: &Arc<PackedClick>, mut to: impl FnMut(Routed)) {
    if click.bot().is_some() {
        return;
    }
    let workspace = rows::workspace(click.workspace());
    if let Some(deal) = click.deal_id()
        && plan.workspaces.get(&workspace).is_some_and(|workspace| !workspace.by_deal.is_empty())
    {
        for connection in plan.connections(workspace) {
            let subject = Subject::new(*connection, Who::deal(deal));
            to(Routed::Hit(Hit { subject, click: Arc::clone(click), via: None }));
        }
    }
    if let Some(contact) = click.contact_id() {
        hits(plan, click, Who::contact(contact), &Via::Eid, |hit| to(Routed::Hit(hit)));
        return;
    }
    let places: SmallVec<[Meeting; 2]> = meetings(click.workspace(), click.gclid(), click.fbclid()).collect();
    let halves = if places.len() == 2 { 2 } else { 1 };
    for meeting in places {
        to(Routed::Met(meeting, Met::Click { click: Arc::clone(click), halves }));
    }
}

/// A resolved click, once for each connection of its workspace.
fn hits(plan: &Plan, click: &Arc<PackedClick>, who: Who, via: &Via, mut to: impl FnMut(Hit)) {
    for connection in plan.connections(rows::workspace(click.workspace())) {
        to(Hit { subject: Subject::new(*connection, who), click: Arc::clone(click), via: Some(via.clone()) });
    }
}

/// A click resolved by a form.
pub fn hits_by_form(plan: &Plan, click: &Arc<PackedClick>, form: &Arc<Form>, to: impl FnMut(Hit)) {
    hits(plan, click, Who::email(&form.email), &Via::Form(Arc::clone(form)), to);
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Counts, Times, WorkspaceSpec};
    use super::*;
    use crate::model::Click;

    fn routed(click: Click) -> Vec<String> {
        let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into(), "2".into()], counts: Counts::Ruled };
        let rule = "trigger: {link_tag: x, contact_window: 1d, click_threshold: 1}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {require_associated_contact: false}}";
        let rules = crate::config::rules::read(rule).expect("a rule");
        let plan = Plan::new(Times::with_tick(100), &[spec], &rules, |_, _| 0).expect("a plan");
        let mut said = Vec::new();
        let click = Click { id: "c".into(), workspace: "w".into(), ..click };
        route(&plan, &Record::Click(click.into()), |to| {
            said.push(match to {
                Routed::Hit(hit) => format!("{} {}", hit.subject.portal, hit.subject.who),
                Routed::Met(meeting, Met::Click { halves, .. }) => format!("{:?} {halves}", meeting.field),
                Routed::Met(_, Met::Form(_)) => "form".to_owned(),
            });
        });
        said
    }

    #[test]
    fn a_click_goes_where_its_person_may_be_found() {
        let text = |value: &str| Some(value.to_owned());
        assert_eq!(routed(Click { contact_id: text("801"), gclid: text("g"), ..Click::default() }), ["1 c:801", "2 c:801"]);
        assert_eq!(routed(Click { gclid: text("g"), ..Click::default() }), ["Gclid 1"]);
        assert_eq!(routed(Click { gclid: text("g"), fbclid: text("f"), ..Click::default() }), ["Gclid 2", "Fbclid 2"]);
        assert!(routed(Click::default()).is_empty(), "anonymous");
        assert!(routed(Click { contact_id: text("801"), deal_id: text("9"), bot: text("head"), ..Click::default() }).is_empty());
        assert_eq!(routed(Click { deal_id: text("9"), ..Click::default() }), ["1 d:9", "2 d:9"], "anonymous clicks count for the deal");
    }
}
