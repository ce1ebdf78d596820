//! Rules in variants: each with every threshold and window that is asked for, and with its own.

use crate::config::rules::{Mode, Rule, window};
use crate::model::time::Ms;
use std::collections::BTreeSet;

/// Most thresholds in one list.
pub const MAX_THRESHOLDS: usize = 200;
/// Most windows in one list.
pub const MAX_WINDOWS: usize = 30;
/// Most variants of all rules: each costs a look at every change of a count that it counts.
pub const MAX_VARIANTS: usize = 20_000;

/// `3,5,10..50:5`: numbers, and ranges with both their ends, by ones or by a step.
///
/// # Errors
/// What can't be read, and how it is written.
pub fn thresholds(text: &str) -> Result<Vec<u64>, String> {
    let mut found = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let wrong = || format!("`{part}` is no threshold; write numbers and ranges from 1 on, such as 3,5,10..50:5");
        let number = |text: &str| text.trim().parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(wrong);
        match part.split_once("..") {
            None => drop(found.insert(number(part)?)),
            Some((from, rest)) => {
                let (to, step) = rest.split_once(':').unwrap_or((rest, "1"));
                let (from, to, step) = (number(from)?, number(to)?, number(step)?);
                if from > to {
                    return Err(format!("`{part}` ends before it begins"));
                }
                if (to - from) / step >= MAX_THRESHOLDS as u64 {
                    return Err(format!("`{part}` holds more than {MAX_THRESHOLDS} thresholds; give it a step, such as {from}..{to}:10"));
                }
                found.extend((0..=(to - from) / step).map(|n| from + n * step));
            }
        }
    }
    if found.len() > MAX_THRESHOLDS {
        return Err(format!("{} thresholds; at most {MAX_THRESHOLDS}", found.len()));
    }
    Ok(found.into_iter().collect())
}

/// `7d,30d`: lengths as in a rule's `contact_window`, ms.
///
/// # Errors
/// What can't be read, and how it is written.
pub fn windows(text: &str) -> Result<Vec<Ms>, String> {
    let length = |part: &str| window(part).ok_or_else(|| format!("`{part}` is no window; write 30d, 12h or 90m, several with commas"));
    let found = text.split(',').map(length).collect::<Result<BTreeSet<Ms>, String>>()?;
    if found.len() > MAX_WINDOWS {
        return Err(format!("{} windows; at most {MAX_WINDOWS}", found.len()));
    }
    Ok(found.into_iter().collect())
}

/// One rule with one window and one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// The rule's place in [`Variants::of`].
    pub rule: usize,
    /// The window's length, ms.
    pub window: Ms,
    /// Clicks that make it hot.
    pub threshold: u64,
    /// Whether the rule is written so.
    pub own: bool,
}

/// All variants of some rules.
#[derive(Clone, Debug)]
pub struct Variants {
    /// The rules as they are written.
    pub of: Vec<Rule>,
    /// Their variants, by rule, window and threshold.
    pub all: Vec<Variant>,
}

impl Variants {
    /// Every rule with each of the thresholds and its own, in each of the windows and its own. A rule that is off is tried
    /// like the others.
    ///
    /// # Errors
    /// No rule at all; too many variants.
    pub fn new(of: Vec<Rule>, thresholds: &[u64], windows: &[Ms]) -> Result<Self, String> {
        let mut all = Vec::new();
        for (rule, written) in of.iter().enumerate() {
            let windows: BTreeSet<Ms> = windows.iter().copied().chain([written.window]).collect();
            let thresholds: BTreeSet<u64> = thresholds.iter().copied().chain([written.threshold]).collect();
            if all.len() + windows.len() * thresholds.len() > MAX_VARIANTS {
                let (rules, windows, thresholds) = (of.len(), windows.len(), thresholds.len());
                return Err(format!(
                    "{rules} rules in {windows} windows at {thresholds} thresholds are more than {MAX_VARIANTS} variants; ask for fewer at a time"
                ));
            }
            for window in windows {
                let own = |threshold| window == written.window && threshold == written.threshold;
                all.extend(thresholds.iter().map(|n| Variant { rule, window, threshold: *n, own: own(*n) }));
            }
        }
        if all.is_empty() { Err("there is no rule to try".to_owned()) } else { Ok(Variants { of, all }) }
    }

    /// The variants as rules of a plan. Each is called by its number: two rules may share a name in different workspaces.
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |(number, variant): (usize, &Variant)| Rule {
            name: number.to_string(),
            window: variant.window,
            threshold: variant.threshold,
            mode: Mode::Shadow,
            backfill: false,
            ..self.of[variant.rule].clone()
        };
        self.all.iter().enumerate().map(rule).collect()
    }

    /// The variant that a rule of the plan stands for.
    pub fn of_rule(&self, rule: &Rule) -> Option<&Variant> {
        self.all.get(rule.name.parse::<usize>().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules;
    use crate::model::time::DAY;

    #[test]
    fn thresholds_are_numbers_and_ranges() {
        assert_eq!(thresholds("3"), Ok(vec![3]));
        assert_eq!(thresholds(" 5, 3,3 ,10..50:20"), Ok(vec![3, 5, 10, 30, 50]));
        assert_eq!(thresholds("1..4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(thresholds("1..6:4,6..6"), Ok(vec![1, 5, 6]));
        assert_eq!(thresholds("1..200").map(|all| all.len()), Ok(200));
        for (bad, says) in [
            ("", "no threshold"),
            ("3,,5", "no threshold"),
            ("0", "from 1 on"),
            ("-1", "no threshold"),
            ("1..x", "1..x"),
            ("1..9:0", "no threshold"),
            ("9..1", "ends before it begins"),
            ("1..201", "give it a step"),
            ("1..18446744073709551615", "more than 200"),
            ("1..150,1000..1150", "301 thresholds; at most 200"),
        ] {
            let said = thresholds(bad).expect_err(bad);
            assert!(said.contains(says), "{bad}: {said}");
        }
    }

    #[test]
    fn windows_are_those_of_rules() {
        assert_eq!(windows("30d, 7d,168h"), Ok(vec![7 * DAY, 30 * DAY]));
        for bad in ["", "7", "7d,", "7w", "400d"] {
            assert!(windows(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (1..=31).map(|n| format!("{n}d")).collect();
        assert!(windows(&many.join(",")).expect_err("too many").contains("at most 30"));
    }

    fn rule(name: &str, window: &str, threshold: u64) -> String {
        format!(
            "- name: {name}\n  mode: off\n  trigger: {{link_tag: x, contact_window: {window}, click_threshold: {threshold}}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
        )
    }

    #[test]
    fn a_rule_s_own_numbers_are_among_its_variants() {
        let rules = rules::read(&(rule("one", "30d", 4) + &rule("two", "7d", 2))).expect("rules");
        let variants = Variants::new(rules, &[2, 3], &[7 * DAY]).expect("variants");
        let said: Vec<(usize, Ms, u64, bool)> = variants.all.iter().map(|v| (v.rule, v.window / DAY, v.threshold, v.own)).collect();
        assert_eq!(
            said,
            [
                (0, 7, 2, false),
                (0, 7, 3, false),
                (0, 7, 4, false),
                (0, 30, 2, false),
                (0, 30, 3, false),
                (0, 30, 4, true),
                (1, 7, 2, true),
                (1, 7, 3, false)
            ]
        );
        for (variant, rule) in variants.all.iter().zip(variants.rules()) {
            assert_eq!(variants.of_rule(&rule), Some(variant));
            assert_eq!((rule.window, rule.threshold, rule.mode), (variant.window, variant.threshold, Mode::Shadow), "also one that is off");
        }
        assert_eq!(Variants::new(vec![], &[2], &[]).expect_err("none"), "there is no rule to try");
        let many: Vec<Rule> = (0..101).map(|n| rules::read(&rule(&n.to_string(), "1d", 1)).expect("a rule").remove(0)).collect();
        let all: Vec<u64> = (1..=200).collect();
        assert!(Variants::new(many, &all, &[]).expect_err("too many").contains("101 rules in 1 windows at 200 thresholds"));
    }
}
