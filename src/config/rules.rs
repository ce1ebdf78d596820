//! Threshold rules: the text a person writes, and what it means once checked.
//!
//! A rule file holds one rule as the article writes it, a list of rules, or a mapping with the key `rules`.
//! Reading opens nothing and asks nobody; whether a pipeline or stage exists is for `check --online`.

use super::lenient::{self, Lenient};
use super::mistakes::{Mistake, Mistakes};
use super::tree::{Node, Value};
use crate::model::outputs::Guard;
use crate::model::time::{DAY, HOUR, Ms};
use serde::Deserialize;

/// A rule as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    /// Unique in its workspace; derived from the content when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// The workspace it belongs to; absent: every workspace that reads this file.
    #[serde(default)]
    pub workspace: Option<String>,
    /// `live` (default), `shadow` or `off`.
    #[serde(default)]
    pub mode: Mode,
    /// Also act on hot periods that began before the rule was added.
    #[serde(default)]
    pub backfill: bool,
    /// What is counted.
    pub trigger: RawTrigger,
    /// What a hot rule does.
    pub action: RawAction,
}

/// The `trigger` block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTrigger {
    /// All links with this tag count; or give `link`.
    #[serde(default)]
    pub link_tag: Option<String>,
    /// This one link counts, as `domain/slug`; or give `link_tag`.
    #[serde(default)]
    pub link: Option<String>,
    /// Length of the rolling window: `30d`, `12h`, `90m`.
    pub contact_window: String,
    /// Clicks in the window that make the rule hot.
    pub click_threshold: u64,
}

/// The `action` block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAction {
    /// Only `advance_deal_stage` exists.
    #[serde(rename = "type")]
    pub kind: ActionKind,
    /// Internal id of the pipeline.
    pub pipeline: String,
    /// Internal id of the stage the deal must be in.
    pub from_stage: String,
    /// Internal id of the stage it moves to.
    pub to_stage: String,
    /// Further conditions.
    #[serde(default)]
    pub guard: RawGuard,
}

/// What an action can be.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Moves a deal to its next stage.
    AdvanceDealStage,
}

/// The `guard` block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGuard {
    /// The deal must name the person among its contacts. Default true.
    pub require_associated_contact: bool,
    /// Least amount; a deal without an amount does not pass.
    pub deal_amount_min: Option<f64>,
}

impl Default for RawGuard {
    fn default() -> Self {
        RawGuard { require_associated_contact: true, deal_amount_min: None }
    }
}

/// How much a rule may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Deltas are written to HubSpot.
    #[default]
    Live,
    /// Deltas are emitted, marked as shadow, and not written.
    Shadow,
    /// The rule does nothing.
    Off,
}

/// What a rule counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Clicks on links with this tag.
    Tag(String),
    /// Clicks on this link.
    Link(String),
}

/// A checked rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in its workspace.
    pub name: String,
    /// The workspace it belongs to; `None`: every workspace.
    pub workspace: Option<String>,
    /// How much it may do.
    pub mode: Mode,
    /// Also act on hot periods from before it was added.
    pub backfill: bool,
    /// What is counted.
    pub counted: Counted,
    /// Window length, ms.
    pub window: Ms,
    /// Clicks that make it hot; at least 1.
    pub threshold: u64,
    /// Internal id of the pipeline.
    pub pipeline: String,
    /// Stage the deal must be in.
    pub from_stage: String,
    /// Stage it moves to.
    pub to_stage: String,
    /// Further conditions.
    pub guard: Guard,
}

impl Rule {
    /// The rule's meaning in words: its name unless it has one, and what tells a changed rule from the old one.
    pub fn meaning(&self) -> String {
        let of = match &self.counted {
            Counted::Tag(tag) => format!("tag {tag}"),
            Counted::Link(link) => format!("link {link}"),
        };
        let least = self.guard.deal_amount_min.map(|least| format!(", amount {least}")).unwrap_or_default();
        let loose = if self.guard.require_associated_contact { "" } else { ", by deal" };
        let Rule { threshold, pipeline, from_stage, to_stage, .. } = self;
        format!("{of} {threshold}x in {}: {pipeline} {from_stage} -> {to_stage}{least}{loose}", window_text(self.window))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    rules: Vec<RawRule>,
}

/// Reads and checks a rule file.
///
/// # Errors
/// All mistakes, each with its line.
pub fn read(text: &str) -> Result<Vec<Rule>, Mistakes> {
    let tree = Node::read(text).map_err(|(line, problem)| Mistake::new(line, problem))?;
    // The shape decides what the text is read as.
    match &tree.value {
        Value::Null => Ok(Vec::new()),
        Value::List(_) => checked(lenient::read::<Vec<RawRule>>(tree), &[], |rules| rules),
        Value::Map(entries) if entries.iter().any(|(key, _)| key.text == "rules") => {
            checked(lenient::read::<RuleFile>(tree), &["rules"], |file| file.rules)
        }
        Value::Text(_) | Value::Plain(..) | Value::Map(_) => checked(lenient::read::<RawRule>(tree), &[], |rule| vec![rule]),
    }
}

fn checked<T>(read: Lenient<T>, path: &[&str], rules: impl FnOnce(T) -> Vec<RawRule>) -> Result<Vec<Rule>, Mistakes> {
    let Lenient { value, tree, mut mistakes, .. } = read;
    let (rules, wrong) = check_all(value.map(rules).unwrap_or_default(), &tree, path);
    mistakes.extend(wrong);
    mistakes.sort_by_key(|mistake| mistake.line);
    if mistakes.is_empty() { Ok(rules) } else { Err(Mistakes(mistakes)) }
}

/// Checks rules that were read from the list (or the one rule) at `path` of a tree: those that are right, and what is wrong with the others.
pub fn check_all(raw: Vec<RawRule>, tree: &Node, path: &[&str]) -> (Vec<Rule>, Vec<Mistake>) {
    let (mut rules, mut mistakes) = (Vec::with_capacity(raw.len()), Vec::new());
    for (place, raw) in raw.into_iter().enumerate() {
        let label = raw.name.clone().unwrap_or_else(|| format!("number {}", place + 1));
        let step = place.to_string();
        let listed = matches!(tree.at(path).map(|node| &node.value), Some(Value::List(_)));
        let line = |within: &[&str]| {
            let at = path.iter().copied().chain(listed.then_some(step.as_str())).chain(within.iter().copied());
            tree.line_of(at)
        };
        let mut wrong = |within: &[&str], problem: String| mistakes.push(Mistake::new(line(within), format!("rule {label}: {problem}")));
        let rule = check(raw, &mut wrong);
        let twice =
            |rule: &Rule| rules.iter().any(|(other, _): &(Rule, u64)| (&other.workspace, &other.name) == (&rule.workspace, &rule.name));
        match rule {
            Some(rule) if twice(&rule) => mistakes.push(Mistake::new(line(&["name"]), stands_twice(&rule))),
            Some(rule) => rules.push((rule, line(&[]))),
            None => {}
        }
    }
    (rules.into_iter().map(|(rule, _)| rule).collect(), mistakes)
}

/// What is wrong with two rules of one name in one workspace.
pub fn stands_twice(rule: &Rule) -> String {
    format!("rule {}: stands there twice; give each rule of a workspace its own `name`", rule.name)
}

/// The rule, unless something is wrong with it; `wrong` is told each mistake and the path within the rule.
fn check(raw: RawRule, wrong: &mut impl FnMut(&[&str], String)) -> Option<Rule> {
    let RawRule { name, workspace, mode, backfill, trigger, action } = raw;
    let RawTrigger { link_tag, link, contact_window, click_threshold } = trigger;
    let RawAction { kind: ActionKind::AdvanceDealStage, pipeline, from_stage, to_stage, guard } = action;
    let mut right = true;
    let mut wrong = |within: &[&str], problem: String| {
        right = false;
        wrong(within, problem);
    };
    let mut text = |within: &[&str], value: &str| {
        if value.trim().is_empty() {
            wrong(within, format!("`{}` is empty", within.last().unwrap_or(&"")));
        }
        value.trim().to_owned()
    };
    let name = name.map(|name| text(&["name"], &name));
    let (pipeline, from_stage, to_stage) =
        (text(&["action", "pipeline"], &pipeline), text(&["action", "from_stage"], &from_stage), text(&["action", "to_stage"], &to_stage));
    let counted = match (&link_tag, &link) {
        (Some(tag), None) => Some(Counted::Tag(text(&["trigger", "link_tag"], tag))),
        (None, Some(link)) if !link.contains("://") => Some(Counted::Link(text(&["trigger", "link"], link))),
        (None, Some(link)) => {
            wrong(&["trigger", "link"], format!("`link: {link}` never counts; write `domain/slug`, without `https://`"));
            None
        }
        (Some(_), Some(_)) => {
            wrong(&["trigger", "link"], "`link_tag` and `link` are both given; keep one".to_owned());
            None
        }
        (None, None) => {
            wrong(&["trigger"], "nothing to count; give `link_tag` or `link`".to_owned());
            None
        }
    };
    if click_threshold == 0 {
        let problem = "`click_threshold` is 0; every contact would be hot, it is at least 1";
        wrong(&["trigger", "click_threshold"], problem.to_owned());
    }
    let window = window(&contact_window);
    if window.is_none() {
        let problem = format!("`contact_window: {contact_window}` is not a length of time; write `30d`, `12h` or `90m`, up to 366d");
        wrong(&["trigger", "contact_window"], problem);
    }
    if from_stage == to_stage && !from_stage.is_empty() {
        wrong(&["action", "to_stage"], "`from_stage` and `to_stage` are the same; nothing would move".to_owned());
    }
    let RawGuard { require_associated_contact, deal_amount_min } = guard;
    if deal_amount_min.is_some_and(|least| !(least.is_finite() && least >= 0.0)) {
        wrong(&["action", "guard", "deal_amount_min"], "`deal_amount_min` must be a number of at least 0".to_owned());
    }
    let guard = Guard { require_associated_contact, deal_amount_min };
    let (counted, window) = (counted?, window?);
    let threshold = click_threshold;
    let rule = Rule { name: String::new(), workspace, mode, backfill, counted, window, threshold, pipeline, from_stage, to_stage, guard };
    right.then(|| Rule { name: name.unwrap_or_else(|| rule.meaning()), ..rule })
}

/// A window's length as a rule would write it.
pub fn window_text(length: Ms) -> String {
    match length {
        _ if length.is_multiple_of(DAY) => format!("{}d", length / DAY),
        _ if length.is_multiple_of(HOUR) => format!("{}h", length / HOUR),
        _ => format!("{}m", length / 60_000),
    }
}

/// `30d`, `12h`, `90m` in ms; `None` for anything else, zero, or more than 366 days.
pub fn window(text: &str) -> Option<Ms> {
    let text = text.trim();
    let unit = match text.chars().last()? {
        'd' => DAY,
        'h' => HOUR,
        'm' => 60_000,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length = number.parse::<Ms>().ok()?.checked_mul(unit)?;
    (1..=366 * DAY).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The article's rule, as it stands there.
    const ARTICLE: &str = r#"
trigger:
  link_tag: "sales-collateral"   # all links tagged this way count
  contact_window: 30d            # rolling
  click_threshold: 50
action:
  type: advance_deal_stage
  pipeline: "default"
  from_stage: "appointmentscheduled"
  to_stage: "qualifiedtobuy"
  guard:
    require_associated_contact: true
    deal_amount_min: 5000        # only deals worth advancing
"#;

    #[test]
    fn the_article_s_rule_is_read_as_it_stands() {
        let rules = read(ARTICLE).expect("the article's rule");
        assert_eq!(rules.len(), 1);
        let rule = &rules[0];
        assert_eq!(rule.counted, Counted::Tag("sales-collateral".to_owned()));
        assert_eq!((rule.window, rule.threshold), (30 * DAY, 50));
        assert_eq!(rule.guard, Guard { require_associated_contact: true, deal_amount_min: Some(5_000.0) });
        assert_eq!(rule.mode, Mode::Live);
    }

    #[test]
    fn lists_and_named_lists_are_read_too() {
        let item = ARTICLE.trim().replace('\n', "\n  ");
        assert_eq!(read(&format!("- {item}\n- name: second\n  {item}\n")).expect("a list").len(), 2);
        let item = ARTICLE.trim().replace('\n', "\n    ");
        assert_eq!(read(&format!("rules:\n  - {item}\n")).expect("a named list").len(), 1);
        assert_eq!(read("").expect("an empty file").len(), 0);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, says) in [
            ("contact_window: 30d ", "contact_window: 30w ", "contact_window"),
            ("click_threshold: 50", "click_threshold: 0", "at least 1"),
            ("link_tag:", "link_tagg:", "link_tagg"),
            ("type: advance_deal_stage", "type: demote", "demote"),
            ("to_stage: \"qualifiedtobuy\"", "to_stage: \"appointmentscheduled\"", "the same"),
            ("deal_amount_min: 5000", "deal_amount_min: -1", "at least 0"),
            ("link_tag: \"sales-collateral\"", "link: a/b\n  link_tag: c", "keep one"),
            ("link_tag: \"sales-collateral\"", "link: https://s.elido.me/abc123", "without `https://`"),
        ] {
            let text = ARTICLE.replace(from, to);
            assert_ne!(text, ARTICLE, "{from} is in the article");
            let said = read(&text).expect_err(from).to_string();
            assert!(said.contains(says), "{from}: {said}");
        }
        let item = ARTICLE.trim().replace('\n', "\n  ");
        assert!(read(&format!("- {item}\n- {item}\n")).expect_err("twice").to_string().contains("twice"));
    }

    #[test]
    fn windows_are_minutes_hours_days() {
        assert_eq!(window("30d"), Some(30 * DAY));
        assert_eq!(window("90m"), Some(90 * 60_000));
        assert_eq!(window("366d"), Some(366 * DAY));
        for bad in ["", "d", "0d", "-1d", "1.5d", "30", "30s", "367d", "99999999999999999999d", "30 days"] {
            assert_eq!(window(bad), None, "{bad}");
        }
    }
}
