//! Random configurations with one key misspelt, and files that want to exhaust whoever reads them.

use super::mistakes::Mistakes;
use super::{Config, rules};
use proptest::prelude::*;
use std::path::Path;

/// One line of a file: its indentation, key and value, and whether the key is one of ours rather than a name that somebody gave.
type Line = (usize, &'static str, String, bool);

fn file() -> impl Strategy<Value = Vec<Line>> {
    let rule = (1..100u64, 1..60u64, any::<bool>(), any::<bool>());
    let workspace = (proptest::collection::vec(rule, 0..3), any::<bool>(), any::<bool>());
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (options, workspace.clone(), workspace).prop_map(|((tick, workers, times, http, state), acme, beta)| {
        let mut lines: Vec<Line> = Vec::new();
        let mut line = |depth: usize, key: &'static str, value: &str| lines.push((depth, key, value.to_owned(), true));
        line(0, "kafka", "");
        line(1, "brokers", "'b:9092'");
        if tick {
            line(0, "tick", "200ms");
        }
        if workers {
            line(0, "workers", "2");
        }
        if times {
            line(0, "times", "");
            line(1, "dedupe_horizon", "24h");
            line(1, "max_future", "1m");
        }
        if http {
            line(0, "http", "");
            line(1, "listen", "127.0.0.1:9000");
        }
        if state {
            line(0, "snapshots", "none");
        }
        line(0, "workspaces", "");
        for (name, (rules, counts, mapping)) in [("acme", acme), ("beta", beta)] {
            lines.push((1, name, String::new(), false));
            let mut line = |depth: usize, key: &'static str, value: &str| lines.push((depth, key, value.to_owned(), true));
            line(2, "portals", "['4242']");
            if counts {
                line(2, "counts", "all");
            }
            if mapping {
                line(2, "field_mapping", "{utm_source: last_source}");
            }
            if !rules.is_empty() {
                line(2, "rules", "");
            }
            for (place, (threshold, days, backfill, guard)) in rules.into_iter().enumerate() {
                // The key of a list's item stands behind the dash.
                line(3, "- name", &format!("r{place}"));
                if backfill {
                    line(4, "backfill", "true");
                }
                line(4, "trigger", "");
                line(5, "link_tag", "sales");
                line(5, "contact_window", &format!("{days}d"));
                line(5, "click_threshold", &threshold.to_string());
                line(4, "action", "");
                line(5, "type", "advance_deal_stage");
                line(5, "pipeline", "default");
                line(5, "from_stage", "a");
                line(5, "to_stage", "b");
                if guard {
                    line(5, "guard", "");
                    line(6, "deal_amount_min", "5000");
                }
            }
        }
        lines
    })
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|(depth, key, value, _)| format!("{}{key}: {value}\n", "  ".repeat(*depth))).collect()
}

/// A slip of the fingers: a letter left out, doubled, another one, or two that changed places.
fn slip(key: &str, place: usize, kind: usize) -> String {
    let mut letters: Vec<char> = key.chars().collect();
    let place = place % letters.len();
    match kind {
        0 => drop(letters.remove(place)),
        1 => letters.insert(place, letters[place]),
        2 if place + 1 < letters.len() && letters[place] != letters[place + 1] => letters.swap(place, place + 1),
        _ => letters[place] = 'q',
    }
    letters.into_iter().collect()
}

proptest! {
    #[test]
    fn a_misspelt_key_is_told_with_its_line_and_the_right_one(lines in file(), which in any::<prop::sample::Index>(), place in 0..20usize, kind in 0..4usize) {
        let right = text(&lines);
        prop_assert!(Config::read(&right, Path::new("")).is_ok(), "{right}");
        let ours: Vec<usize> = (0..lines.len()).filter(|&at| lines[at].3).collect();
        let at = ours[which.index(ours.len())];
        let key = lines[at].1.trim_start_matches("- ");
        let wrong = slip(key, place, kind);
        let mut written: Vec<String> = right.lines().map(str::to_owned).collect();
        written[at] = written[at].replacen(&format!("{key}:"), &format!("{wrong}:"), 1);
        let Mistakes(mistakes) = Config::read(&written.join("\n"), Path::new("")).expect_err("misspelt");
        let line = u64::try_from(at + 1).expect("a short file");
        let expected = format!("unknown key `{wrong}`; did you mean `{key}`?");
        prop_assert_eq!(mistakes.iter().map(|m| (m.line, m.problem.as_str())).collect::<Vec<_>>(), vec![(line, expected.as_str())]);
    }

    #[test]
    fn no_text_breaks_the_reader(text in "[a-z:\\-\\[\\]{}&*!|>'\"#%@,? \n0-9<~]{0,200}") {
        let _ = Config::read(&text, Path::new(""));
        let _ = rules::read(&text);
    }

    #[test]
    fn no_damage_to_a_right_file_breaks_the_reader(lines in file(), at in any::<prop::sample::Index>(), put in "[:\\[\\]{}&*!|>'\"#\t\n-]{1,3}") {
        let mut text = text(&lines);
        text.insert_str(at.index(text.len()), &put);
        if let Err(Mistakes(mistakes)) = Config::read(&text, Path::new("")) {
            prop_assert!(!mistakes.is_empty());
        }
    }
}

#[test]
fn bombs_are_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let of = vec![format!("*a{}", n - 1); 9].join(", ");
        laughs.push_str(&format!("a{n}: &a{n} [{of}]\n"));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    for (name, text) in [("laughs", laughs), ("deep", deep), ("nested", nested)] {
        let Mistakes(mistakes) = Config::read(&text, Path::new("")).expect_err(name);
        assert_eq!(mistakes.len(), 1, "{name}: {mistakes:?}");
        assert!(rules::read(&text).is_err(), "{name}");
    }
}
