//! Reads the week's result back from the sandbox and compares it with what was written down beforehand.

use super::scenario::{CONTACTS, DEALS, MERGED};
use clickline_sandbox::Snapshot;
use std::fmt::Write as _;

/// The title that the article gives.
const ARTICLE_TITLE: &str = "Clicked: Q2 pricing PDF (s.elido.me/abc123)";
/// A property of HubSpot's own that nobody but HubSpot may write, and the value it had before the week.
pub const FIRST_TOUCH: (&str, &str) = ("hs_analytics_source_data_1", "ebook-2025");

/// One line of the summary.
pub struct Line {
    text: String,
    /// What was expected, where it differs.
    wrong: Option<String>,
}

fn line(text: String, wrong: Option<String>) -> Line {
    Line { text, wrong }
}

/// Compares a portal with the expectations.
pub fn compare(portal: &Snapshot) -> Vec<Line> {
    let mut lines = Vec::new();
    for expected in &CONTACTS {
        let name = format!("{} {}", expected.name.0, expected.name.1);
        let Some(contact) = portal.contact(expected.id) else {
            lines.push(line(format!("{name}: no such contact"), Some("a contact".to_owned())));
            continue;
        };
        let events = portal.events.iter().filter(|event| event.object_id == expected.id).count();
        let value = |name: &str| contact.properties.get(&format!("elido_last_utm_{name}")).map(String::as_str);
        let utm = ["source", "campaign", "medium"].map(value);
        let shown = |utm: &[Option<&str>; 3]| utm.map(|value| value.unwrap_or("–")).join(" / ");
        let right = events == expected.events && utm == expected.utm;
        lines.push(line(
            format!("{name:<18} {events:>3} events   last UTM {}", shown(&utm)),
            (!right).then(|| format!("{} events, {}", expected.events, shown(&expected.utm))),
        ));
    }
    let ada: Vec<&str> = portal.events.iter().filter(|event| event.object_id == "801").map(|event| event.title.as_str()).collect();
    let right = ada == [ARTICLE_TITLE, ARTICLE_TITLE];
    lines.push(line(format!("Ada's timeline: {}", ada.join(" · ")), (!right).then(|| format!("twice \"{ARTICLE_TITLE}\""))));
    let first_touch = portal.contact("801").and_then(|ada| ada.properties.get(FIRST_TOUCH.0)).map_or("–", String::as_str);
    let writes = portal.contact("801").and_then(|ada| ada.history.get(FIRST_TOUCH.0)).copied().unwrap_or(0);
    let right = first_touch == FIRST_TOUCH.1 && writes == 1;
    lines.push(line(format!("Ada's first touch: {first_touch}, as before"), (!right).then(|| format!("{} untouched", FIRST_TOUCH.1))));
    for expected in &DEALS {
        let stage = portal.deal(expected.id).and_then(|deal| deal.properties.get("dealstage")).map_or("–", String::as_str);
        let moves = match portal.deal(expected.id) {
            Some(deal) => deal.stages.iter().filter(|change| change.source_type == "INTEGRATION").count(),
            None => 0,
        };
        let moved = usize::from(expected.ends != expected.stage || expected.id == super::scenario::MOVED_BACK);
        let right = stage == expected.ends && moves == moved;
        lines.push(line(
            format!("{:<20} {} → {stage}, {moves} moved by clickline: {}", expected.name, expected.stage, expected.why),
            (!right).then(|| format!("{}, moved {moved} times", expected.ends)),
        ));
    }
    let strangers = portal.events.iter().filter(|event| !CONTACTS.iter().any(|contact| contact.id == event.object_id)).count();
    lines.push(line(format!("events on other contacts: {strangers}"), (strangers > 0).then(|| format!("none, also not on {}", MERGED.0))));
    lines
}

/// A check that is not about the portal.
pub fn also(text: &str, seen: usize, expected: usize) -> Line {
    line(format!("{text}: {seen}"), (seen != expected).then(|| expected.to_string()))
}

/// How many lines are wrong.
pub fn wrong(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.wrong.is_some()).count()
}

/// The summary as text.
pub fn render(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let (mark, expected) = match &line.wrong {
            None => ("✓", String::new()),
            Some(expected) => ("✗", format!("   (expected {expected})")),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {mark} {}{expected}", line.text);
    }
    text
}
