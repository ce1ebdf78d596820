//! An explanation as text.

use crate::cli::text::{Table, length, to_the_second};
use crate::explain::story::{Delta, Explanation, OfClick, OfDeal, OfDealState, OfRule, OfSubject, Outcome, Verdict};
use crate::model::outputs::Person;
use crate::model::time::Ms;
use indicatif::HumanFloatCount;
use serde_json::Value;
use std::collections::BTreeSet;

/// All of it, for people.
pub fn text(explanation: &Explanation) -> String {
    let Explanation { asked, portal, as_of, notes, subjects, clicks, forms, unreadable, deals, deltas } = explanation;
    let mut text = format!("{asked} of portal {portal}, as of {} UTC\n", to_the_second(*as_of));
    notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    subjects.iter().for_each(|subject| text.push_str(&identities(subject, asked)));
    text.push_str(&format!("\nclicks ({})\n", clicks.len()));
    text.push_str(&of_clicks(clicks));
    if !forms.is_empty() {
        let mut table = Table::new(&["submitted", "form", "workspace", "e-mail", "click id", ""]);
        for form in forms {
            let ids = [("gclid", &form.gclid), ("fbclid", &form.fbclid)];
            let ids: Vec<String> = ids.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_deref()?))).collect();
            let repeated = if form.repeated { "repeated: no effect" } else { "" };
            table.row([
                to_the_second(form.ts),
                form.id.clone(),
                form.workspace.clone(),
                form.email.clone(),
                ids.join(", "),
                repeated.into(),
            ]);
        }
        text.push_str(&format!("\nforms ({})\n{}", forms.len(), table.text("  ")));
    }
    if !unreadable.is_empty() {
        text.push_str(&format!("\nrecords that could not be read ({})\n", unreadable.len()));
        for letter in unreadable {
            let place = format!("{} partition {} offset {}", letter.source, letter.partition, letter.offset);
            text.push_str(&format!("  {}  {place}: {}: {}\n", to_the_second(letter.at), letter.reason, letter.detail));
        }
    }
    for subject in subjects {
        text.push_str(&format!("\nrules that count for {}\n", name(subject)));
        if subject.rules.is_empty() {
            text.push_str("  none\n");
        }
        subject.rules.iter().for_each(|rule| text.push_str(&of_rule(rule)));
    }
    text.push_str(&format!("\ndeals ({})\n", deals.len()));
    deals.iter().for_each(|deal| text.push_str(&of_deal(deal, subjects.len() > 1)));
    text.push_str(&format!("\ndeltas ({})\n", deltas.len()));
    deltas.iter().for_each(|delta| text.push_str(&format!("  {}  {}\n", to_the_second(delta.at), of_delta(delta))));
    text
}

fn person(person: &Person) -> &str {
    match person {
        Person::ContactId(text) | Person::Email(text) => text,
    }
}

fn name(subject: &OfSubject) -> String {
    match (&subject.person, &subject.deal_id) {
        (Some(Person::ContactId(id)), _) => format!("contact {id}"),
        (Some(Person::Email(email)), _) => email.clone(),
        (None, deal) => format!("deal {}, by its own links", deal.as_deref().unwrap_or_default()),
    }
}

fn identities(subject: &OfSubject, asked: &str) -> String {
    let names: Vec<String> = subject.identities.iter().map(|identity| format!("{} ({})", identity.text, identity.is)).collect();
    let name = name(subject);
    match names.as_slice() {
        [] if name == asked || subject.deal_id.is_some() => String::new(),
        [] => format!("  {name}\n"),
        names => format!("  {name} is also {}\n", names.join(", ")),
    }
}

fn of_clicks(clicks: &[OfClick]) -> String {
    if clicks.is_empty() {
        return "  none\n".to_owned();
    }
    let mut table = Table::new(&["made", "click", "workspace", "link", "tags", "counts for", "whose"]);
    for click in clicks {
        let numbers: Vec<String> = click.counts_for.iter().map(|number| format!("[{number}]")).collect();
        let numbers = if numbers.is_empty() { "no rule".to_owned() } else { numbers.join(" ") };
        let (made, tags) = (to_the_second(click.ts), click.tags.join(" "));
        table.row([made, click.id.clone(), click.workspace.clone(), click.link.clone(), tags, numbers, outcome(click)]);
    }
    table.text("  ")
}

fn outcome(click: &OfClick) -> String {
    match &click.outcome {
        Outcome::Eid { person: whose } => format!("{}, by the link", person(whose)),
        Outcome::Form { form_id, after_click_ms, held_ms, person: whose, somebody_else } => {
            let apart = length(after_click_ms.unsigned_abs());
            let when = if *after_click_ms > 0 { "after" } else { "before" };
            let held = if *held_ms > 0 { format!(", held for {}", length(*held_ms)) } else { String::new() };
            let other = if *somebody_else { " (somebody else)" } else { "" };
            format!("{}{other}, by form {form_id} {apart} {when} the click{held}", person(whose))
        }
        Outcome::Held { until } => format!("waits for a form until {}", to_the_second(*until)),
        Outcome::Expired { at } => format!("nobody: expired {} without a form", to_the_second(*at)),
        Outcome::Anonymous => "nobody: neither contact nor click id".to_owned(),
        Outcome::Machine { reason } => format!("a machine: {reason}"),
        Outcome::Repeated => "repeated: its id had been seen, no effect".to_owned(),
        Outcome::Unconnected => "no effect: its workspace is not connected to the portal".to_owned(),
    }
}

fn of_rule(rule: &OfRule) -> String {
    let OfRule { number, workspace, rule: name, counts, window, threshold, count, missing, .. } = rule;
    let shadow = if rule.shadow { " (shadow)" } else { "" };
    let now = match rule.hot_since {
        Some(since) => format!("{count}, hot since {}", to_the_second(since)),
        None => format!("{count}, {missing} missing"),
    };
    let mut text = format!("  [{number}] {workspace}: {name}{shadow}\n      {threshold} clicks on {counts} in {window}: {now}\n");
    for period in &rule.hot_before {
        text.push_str(&format!("      was hot from {} to {}\n", to_the_second(period.from), to_the_second(period.to)));
    }
    text
}

fn state(state: &OfDealState) -> String {
    let amount = state.amount.map_or_else(|| "no amount".to_owned(), |amount| format!("amount {}", HumanFloatCount(amount)));
    let contacts = if state.contact_ids.is_empty() { "nobody".to_owned() } else { state.contact_ids.join(", ") };
    format!("{} of {}, {amount}, names {contacts}", state.stage, state.pipeline)
}

/// A moment, or that it was so from the beginning.
fn since(at: Ms) -> String {
    if at == 0 { "from the beginning".to_owned() } else { format!("since {}", to_the_second(at)) }
}

fn of_deal(deal: &OfDeal, several: bool) -> String {
    let mut text = match &deal.state {
        Some(now) => format!("  {}: {} {}\n", deal.deal_id, state(now), since(deal.since)),
        None => format!("  {}: deleted {}\n", deal.deal_id, to_the_second(deal.since)),
    };
    for before in &deal.before {
        text.push_str(&format!("    before: {} {}\n", state(before), since(before.from)));
    }
    let mut elsewhere = BTreeSet::new();
    for verdict in &deal.rules {
        let of_pipeline = verdict.guards.iter().all(|guard| guard.guard != "pipeline" || guard.passes);
        if of_pipeline || verdict.advanced.is_some() || verdict.advanced_before > 0 {
            text.push_str(&of_verdict(verdict, several));
        } else {
            elsewhere.insert(format!("[{}]", verdict.number));
        }
    }
    if !elsewhere.is_empty() {
        let numbers: Vec<String> = elsewhere.into_iter().collect();
        text.push_str(&format!("    {} of other pipelines\n", numbers.join(" ")));
    }
    text
}

fn of_verdict(verdict: &Verdict, several: bool) -> String {
    let who = verdict.who.as_ref().filter(|_| several).map(|who| format!(" for {who}")).unwrap_or_default();
    let mut said = Vec::new();
    if let Some(at) = verdict.advanced {
        said.push(format!("advanced {}", to_the_second(at)));
    }
    if verdict.advanced_before > 0 {
        said.push(format!("advanced {} time(s) in earlier hot periods", verdict.advanced_before));
    }
    if verdict.hot_since.is_some() {
        said.push(format!("hot with {} of {} clicks", verdict.count, verdict.threshold));
    }
    let passed: Vec<&str> = verdict.guards.iter().filter(|guard| guard.passes).map(|guard| guard.why.as_str()).collect();
    if !passed.is_empty() {
        said.push(passed.join(", "));
    }
    let now =
        if verdict.missing.is_empty() { String::new() } else { format!("\n        does not move now: {}", verdict.missing.join("; ")) };
    format!("    [{}]{who} {}{now}\n", verdict.number, said.join("; "))
}

fn of_delta(delta: &Delta) -> String {
    let record = &delta.record;
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    match delta.topic {
        "hubspot.timeline" => format!("timeline    {} (click {})", text("title"), text("click_id")),
        "hubspot.contact-properties" => {
            let values = record["properties"].as_object().into_iter().flatten();
            let value = |(property, value): (&String, &Value)| {
                let from = record["from"][property]["click_id"].as_str().unwrap_or_default();
                format!("{property} = {} (click {from})", value.as_str().unwrap_or_default())
            };
            format!("properties  {}", values.map(value).collect::<Vec<_>>().join(", "))
        }
        _ => {
            let shadow = if record["shadow"] == true { " (shadow: not written)" } else { "" };
            format!(
                "stage       deal {} from {} to {}{shadow} (rule {}: {} of {} clicks, the last one {})",
                text("deal_id"),
                text("from_stage"),
                text("to_stage"),
                text("rule"),
                record["count"],
                record["threshold"],
                record["last_click"]["id"].as_str().unwrap_or_default()
            )
        }
    }
}
