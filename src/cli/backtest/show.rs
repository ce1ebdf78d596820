//! A backtest's findings as text: tables for people, CSV and JSON for tools.

use crate::backtest::report::{Advanced, OfRule, OfVariant, Report};
use crate::cli::text::{Table, day_and_time, length};
use crate::model::outputs::Person;
use crate::model::time::{DAY, Ms, rfc3339};
use anyhow::Context as _;
use indicatif::{HumanCount, HumanFloatCount};

/// For people: a table for each rule, and with `deals` one for each of its variants.
pub fn table(report: &Report, deals: bool) -> String {
    let history = &report.history;
    let at = |at: Option<Ms>| at.map_or_else(|| "nothing".to_owned(), day_and_time);
    let count = |n: u64| HumanCount(n).to_string();
    let mut text = format!(
        "history   {} to {} UTC: {} clicks, {} forms, {} states of contacts, {} of deals\n",
        at(history.from),
        at(history.to),
        count(history.clicks),
        count(history.forms),
        count(history.contacts),
        count(history.deals)
    );
    for note in &report.notes {
        text.push_str(&format!("note      {note}\n"));
    }
    let mut starred = false;
    for rule in &report.rules {
        text.push_str(&format!("\n{}\n", head(rule)));
        let mut table =
            Table::new(&["window", "threshold", "deals", "worth", "no amount", "moved", "days ahead", "repeated", "first", "last"]);
        for variant in &rule.variants {
            starred |= variant.own;
            let moment = |at: Option<Ms>| at.map_or_else(|| "-".to_owned(), day_and_time);
            table.row([
                variant.window.clone(),
                format!("{}{}", variant.threshold, if variant.own { "*" } else { " " }),
                variant.deals.to_string(),
                HumanFloatCount(variant.worth).to_string(),
                variant.without_amount.to_string(),
                variant.moved.to_string(),
                variant.ahead_ms.map_or_else(|| "-".to_owned(), days),
                variant.repeated.to_string(),
                moment(variant.first),
                moment(variant.last),
            ]);
        }
        text.push_str(&table.text("  "));
        if deals {
            rule.variants.iter().for_each(|variant| text.push_str(&listed(variant)));
        }
    }
    if starred {
        text.push_str("\n* as the rule is written\n");
    }
    text
}

fn head(rule: &OfRule) -> String {
    let OfRule { workspace, rule: name, mode, pipeline, from_stage, to_stage, deals_in_stage, deals_moved, .. } = rule;
    let of = match (&rule.link_tag, &rule.link) {
        (Some(tag), _) => format!("links tagged {tag}"),
        (_, link) => link.clone().unwrap_or_default(),
    };
    let mode = if *mode == "live" { String::new() } else { format!(" ({mode})") };
    let least = rule.guard.deal_amount_min.map(|least| format!(" of at least {}", HumanFloatCount(least))).unwrap_or_default();
    let loose = if rule.guard.require_associated_contact { "" } else { ", whoever clicked on links that name the deal" };
    format!(
        "{workspace}: {name}{mode}\n  clicks on {of} move a deal of {pipeline}{least} from {from_stage} to {to_stage}{loose}\n  such deals ever in {from_stage}: {deals_in_stage}; of them later in {to_stage}: {deals_moved}"
    )
}

fn listed(variant: &OfVariant) -> String {
    if variant.advances.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["when", "deal", "who", "clicks", "amount", "moved", ""]);
    for advance in &variant.advances {
        table.row([
            day_and_time(advance.at),
            format!("{}/{}", advance.portal, advance.deal_id),
            who(advance).to_owned(),
            advance.count.to_string(),
            advance.amount.map_or_else(|| "-".to_owned(), |amount| HumanFloatCount(amount).to_string()),
            advance.moved.map_or_else(|| "-".to_owned(), day_and_time),
            if advance.repeated { "repeated" } else { "" }.to_owned(),
        ]);
    }
    format!("\n  {} clicks in {}\n{}", variant.threshold, variant.window, table.text("    "))
}

/// An e-mail only where the portal has no contact for it.
fn who(advance: &Advanced) -> &str {
    match &advance.person {
        Some(Person::ContactId(id)) => id,
        Some(Person::Email(email)) => email,
        None => "-",
    }
}

fn days(ms: Ms) -> String {
    if ms < DAY { length(ms) } else { format!("{:.1}", ms as f64 / DAY as f64) }
}

/// A line for each variant, or for each advance.
///
/// # Errors
/// None that a table in memory can have.
pub fn csv(report: &Report, deals: bool) -> anyhow::Result<String> {
    let mut to = csv::Writer::from_writer(Vec::new());
    let key = ["workspace", "rule", "window", "threshold", "own"];
    let columns: &[&str] = if deals {
        &["at", "portal", "deal_id", "contact_id", "email", "count", "hot_since", "amount", "moved", "repeated"]
    } else {
        &["deals", "worth", "without_amount", "moved", "ahead_ms", "repeated", "first", "last", "deals_in_stage", "deals_moved"]
    };
    to.write_record(key.iter().chain(columns))?;
    let moment = |at: Option<Ms>| at.map(rfc3339).unwrap_or_default();
    for rule in &report.rules {
        for variant in &rule.variants {
            let own = if variant.own { "true" } else { "false" };
            let key = [&rule.workspace, &rule.rule, &variant.window, &variant.threshold.to_string(), own].map(str::to_owned);
            if !deals {
                let row = [
                    variant.deals.to_string(),
                    variant.worth.to_string(),
                    variant.without_amount.to_string(),
                    variant.moved.to_string(),
                    variant.ahead_ms.map(|ms| ms.to_string()).unwrap_or_default(),
                    variant.repeated.to_string(),
                    moment(variant.first),
                    moment(variant.last),
                    rule.deals_in_stage.to_string(),
                    rule.deals_moved.to_string(),
                ];
                to.write_record(key.iter().chain(&row))?;
                continue;
            }
            for advance in &variant.advances {
                let (contact, email) = match &advance.person {
                    Some(Person::ContactId(id)) => (id.clone(), String::new()),
                    Some(Person::Email(email)) => (String::new(), email.clone()),
                    None => Default::default(),
                };
                let row = [
                    rfc3339(advance.at),
                    advance.portal.clone(),
                    advance.deal_id.clone(),
                    contact,
                    email,
                    advance.count.to_string(),
                    rfc3339(advance.hot_since),
                    advance.amount.map(|amount| amount.to_string()).unwrap_or_default(),
                    moment(advance.moved),
                    advance.repeated.to_string(),
                ];
                to.write_record(key.iter().chain(&row))?;
            }
        }
    }
    let bytes = to.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
    String::from_utf8(bytes).context("our own text is UTF-8")
}

/// All of it.
///
/// # Errors
/// None that our own records can have.
pub fn json(report: &Report) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}
