//! Command lines as people type them, and what they are told.

use super::*;
use crate::cli::{Cli, Command};
use clap::Parser as _;
use std::fs;
use std::path::Path;

const RULES: &str = "
- name: pricing
  trigger: {link_tag: sales, contact_window: 30d, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 100}}
- name: off, with a comma
  mode: off
  trigger: {link: s/1, contact_window: 1d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {require_associated_contact: false}}
";

fn write(folder: &Path, name: &str, lines: &[String]) -> String {
    let path = folder.join(name);
    fs::write(&path, lines.join("\n")).expect("writes");
    path.display().to_string()
}

/// Noon of 2025-11-22 and some hours.
fn at(hours: u64) -> Ms {
    1_763_812_800_000 + hours * 3_600_000
}

fn deal(hours: u64, id: &str, stage: &str, amount: &str, contacts: &str) -> String {
    let ts = at(hours);
    format!(r#"{{"ts":{ts},"portal":"4242","deal_id":"{id}","pipeline":"p","stage":"{stage}","amount":{amount},"contact_ids":{contacts}}}"#)
}

/// Six clicks of 801, one an hour, on a link that names the deal 9003; 9001 is moved by hand after four days.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let click = |n: u64| {
        let ts = at(n);
        format!(r#"{{"id":"c{n}","ts":{ts},"workspace":"acme","link":"s/1","tags":["sales"],"contact_id":"801","deal_id":"9003"}}"#)
    };
    let far = format!(r#"{{"id":"far","ts":{},"workspace":"acme","link":"s/2","contact_id":"1"}}"#, at(40 * 24));
    let clicks: Vec<String> = (0..6).map(click).chain([far]).collect();
    write(folder.path(), "clicks.jsonl", &clicks);
    let deals = [
        deal(0, "9001", "a", "1234.5", r#"["801"]"#),
        deal(0, "9002", "a", "50", r#"["801"]"#),
        deal(0, "9003", "a", "null", r#"["7"]"#),
        deal(96, "9001", "b", "1234.5", r#"["801"]"#),
    ];
    write(folder.path(), "deals.jsonl", &deals);
    write(folder.path(), "rules.yaml", &[RULES.to_owned()]);
    folder
}

fn args(folder: &Path, more: &[&str]) -> Args {
    let path = |name: &str| folder.join(name).display().to_string();
    let (clicks, deals, rules) = (path("clicks.jsonl"), path("deals.jsonl"), path("rules.yaml"));
    let line = [&["clickline", "backtest", "--clicks", &clicks, "--deals", &deals, "--rules", &rules], more].concat();
    match Cli::try_parse_from(line).expect("parses").command {
        Command::Backtest(args) => args,
        other => panic!("{other:?}"),
    }
}

fn report(args: &Args) -> crate::backtest::report::Report {
    prepare(args).expect("right").run(&Arc::default()).expect("runs")
}

fn refused(args: &Args) -> String {
    match prepare(args) {
        Err(Failure::Configuration(error)) => format!("{error:#}"),
        other => panic!("must be refused: {other:?}"),
    }
}

#[test]
fn the_table_says_what_would_have_moved() {
    let folder = folder();
    let said = show::table(&report(&args(folder.path(), &["--thresholds", "5..7", "--list-deals"])), true);
    let expected = "\
history   2025-11-22 12:00 to 2026-01-01 12:00 UTC: 7 clicks, 0 forms, 0 states of contacts, 4 of deals

acme: pricing
  clicks on links tagged sales move a deal of p of at least 100 from a to b
  such deals ever in a: 1; of them later in b: 1
  window  threshold  deals    worth  no amount  moved  days ahead  repeated  first             last
     30d         3*      1  1,234.5          0      1         3.9         0  2025-11-22 14:00  2025-11-22 14:00
     30d         5       1  1,234.5          0      1         3.8         0  2025-11-22 16:00  2025-11-22 16:00
     30d         6       1  1,234.5          0      1         3.8         0  2025-11-22 17:00  2025-11-22 17:00
     30d         7       0        0          0      0           -         0  -                 -

  3 clicks in 30d
    when                   deal  who  clicks   amount  moved
    2025-11-22 14:00  4242/9001  801       3  1,234.5  2025-11-26 12:00
";
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("acme: off, with a comma (off)\n"), "one that is off is tried: {said}");
    assert!(said.contains("such deals ever in a: 3; of them later in b: 1"), "{said}");
    assert!(said.ends_with("\n* as the rule is written\n"), "{said}");
}

#[test]
fn tools_get_csv_and_json() {
    let folder = folder();
    let report = report(&args(folder.path(), &[]));
    let said = show::csv(&report, false).expect("text");
    assert_eq!(
        said,
        "workspace,rule,window,threshold,own,deals,worth,without_amount,moved,ahead_ms,repeated,first,last,deals_in_stage,deals_moved\n\
         acme,pricing,30d,3,true,1,1234.5,0,1,338400000,0,2025-11-22T14:00:00.000Z,2025-11-22T14:00:00.000Z,1,1\n\
         acme,\"off, with a comma\",1d,2,true,1,0,1,0,,0,2025-11-22T13:00:00.000Z,2025-11-22T13:00:00.000Z,3,1\n"
    );
    let said = show::csv(&report, true).expect("text");
    assert_eq!(
        said,
        "workspace,rule,window,threshold,own,at,portal,deal_id,contact_id,email,count,hot_since,amount,moved,repeated\n\
         acme,pricing,30d,3,true,2025-11-22T14:00:00.000Z,4242,9001,801,,3,2025-11-22T14:00:00.000Z,1234.5,2025-11-26T12:00:00.000Z,false\n\
         acme,\"off, with a comma\",1d,2,true,2025-11-22T13:00:00.000Z,4242,9003,,,2,2025-11-22T13:00:00.000Z,,,false\n"
    );
    let said: serde_json::Value = serde_json::from_str(&show::json(&report).expect("text")).expect("JSON");
    assert_eq!(said["history"]["from"], "2025-11-22T12:00:00.000Z");
    let advance = &said["rules"][0]["variants"][0]["advances"][0];
    assert_eq!((&advance["deal_id"], &advance["contact_id"], &advance["amount"]), (&"9001".into(), &"801".into(), &1234.5.into()));
}

#[test]
fn a_range_bounds_what_is_told_and_not_what_is_counted() {
    let folder = folder();
    let deals = |more: &[&str]| -> Vec<usize> {
        let all = [&["--thresholds", "4", "--windows", "30d"], more].concat();
        report(&args(folder.path(), &all)).rules[0].variants.iter().map(|variant| variant.deals).collect()
    };
    assert_eq!(deals(&[]), [1, 1]);
    assert_eq!(deals(&["--from", "2025-11-22T14:30:00Z"]), [0, 1]);
    assert_eq!(deals(&["--to", "2025-11-22T14:30:00Z"]), [1, 0]);
    assert_eq!(deals(&["--from", "2025-11-22", "--to", "2025-11-22"]), [1, 1]);
    assert_eq!(deals(&["--from", "2025-11-23"]), [0, 0]);
    assert!(refused(&args(folder.path(), &["--from", "2025-11-23", "--to", "2025-11-22"])).contains("--from lies after --to"));
}

#[test]
fn what_the_numbers_cannot_say_is_noted() {
    let folder = folder();
    let notes = |more: &[&str]| report(&args(folder.path(), more)).notes;
    assert_eq!(notes(&[]), Vec::<String>::new());
    assert!(notes(&["--windows", "90d"])[0].contains("960 hours long, shorter than the window of 90d"));
    let timeless = deal(0, "9001", "b", "500", "[]").replacen(&format!("\"ts\":{},", at(0)), "", 1);
    write(folder.path(), "deals.jsonl", &[timeless]);
    let said = notes(&[]);
    assert!(said[0].contains("no line of the deals has a `ts`"), "{said:?}");
    assert!(said[1].contains("pricing: no deal that it may advance ever stood in a of p"), "{said:?}");
    write(folder.path(), "deals.jsonl", &["not json".to_owned()]);
    let said = notes(&[]);
    assert!(said[0].contains("no deals") && said[1].contains("1 records could not be read"), "{said:?}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let base = ["clickline", "backtest", "--clicks", "c", "--rules", "r"];
    for more in [&["--thresholds", "0"][..], &["--windows", "1w"], &["--from", "soon"], &["--format", "xml"], &["--workers", "0"]] {
        assert!(Cli::try_parse_from([&base[..], more].concat()).is_err(), "{more:?}");
    }
    assert!(Cli::try_parse_from(["clickline", "backtest", "--rules", "r"]).is_err(), "neither files nor topics");
    let folder = folder();
    write(folder.path(), "rules.yaml", &[String::new()]);
    assert!(refused(&args(folder.path(), &[])).contains("no rule to try"));
    write(folder.path(), "rules.yaml", &[RULES.replace("- name: off", "- workspace: nobody\n  name: off")]);
    assert!(refused(&args(folder.path(), &[])).contains("the workspace `nobody`, which does not exist"));
}

#[test]
fn a_configuration_names_topics_and_its_rules_may_be_replaced() {
    let folder = folder();
    let config = "kafka: {brokers: 'b:1'}\ntick: 200ms\nworkers: 2\nworkspaces:\n  acme:\n    portals: ['4242']\n    rules:\n      - trigger: {link_tag: t, contact_window: 30d, click_threshold: 50}\n        action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}\n";
    let path = write(folder.path(), "c.yaml", &[config.to_owned()]);
    let ready = |more: &[&str]| {
        let line = [&["clickline", "backtest", "--config", &path], more].concat();
        let Command::Backtest(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("another command") };
        prepare(&args)
    };
    let rules = folder.path().join("rules.yaml").display().to_string();
    let own = ready(&[]).expect("right");
    assert!(matches!(own.history, History::Topics(..)));
    assert_eq!((own.plan.times.tick, own.workers, own.variants.of.len()), (200, 2, 1));
    assert_eq!(ready(&["--rules", &rules]).expect("right").variants.of.len(), 2);
    let clicks = folder.path().join("clicks.jsonl").display().to_string();
    let files = ready(&["--clicks", &clicks]).expect("right");
    assert!(matches!(files.history, History::Files(..)));
    assert_eq!(files.plan.times.tick, 1_000);
    assert!(matches!(ready(&["--deals", &clicks]), Err(Failure::Configuration(_))), "half of it from files");
}

#[test]
fn a_chart_is_drawn_for_one_line_and_for_many() {
    let folder = folder();
    for (more, lines) in [(&[][..], 0), (&["--thresholds", "1..30", "--windows", "1d,2d,3d,4d,5d,6d,7d,8d,9d,10d"], 11 + 10)] {
        let report = report(&args(folder.path(), more));
        let svg = chart::svg(&report).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Deals advanced against threshold", "pricing", "off, with a comma", "window of 30d", "as the rule is written"] {
            assert!(svg.contains(text), "{text}");
        }
        let (polylines, rings) = (curves(&svg).len(), shapes(&svg, "circle", "r=\"5\"").len());
        // Of one variant there is nothing to join; its ring is drawn white and then in its colour.
        assert_eq!((polylines, rings), (lines, 1 + 2 * 2), "{svg}");
    }
}

/// The elements of a kind with such an attribute.
fn shapes<'a>(svg: &'a str, kind: &str, with: &str) -> Vec<&'a str> {
    svg.split('<').filter(|element| element.starts_with(kind) && element.contains(with)).collect()
}

/// An attribute's value.
fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    element.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next()).unwrap_or_else(|| panic!("{name}: {element}"))
}

/// The points of each drawn line of more than one, in pixels: the axes are black, lines are not.
fn curves(svg: &str) -> Vec<Vec<(f64, f64)>> {
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let points = |element: &str| {
        let points = attribute(element, "points").split_whitespace().map(|point| point.split_once(',').expect("x and y"));
        points.map(|(x, y)| (number(x), number(y))).collect::<Vec<_>>()
    };
    shapes(svg, "polyline", "points").into_iter().map(points).filter(|points| points.len() > 2).collect()
}

#[test]
fn a_chart_s_lines_are_as_high_as_the_deals_are_many() {
    let folder = folder();
    // Contacts 1 to 6 click once to six times, and have a deal each of another worth: the higher the threshold, the fewer deals.
    let clicks: Vec<String> = (1..7u64)
        .flat_map(|who| (0..who).map(move |n| (who, n)))
        .map(|(who, n)| {
            let ts = at(30 * n);
            format!(r#"{{"id":"{who}-{n}","ts":{ts},"workspace":"acme","link":"s/1","tags":["sales"],"contact_id":"{who}"}}"#)
        })
        .collect();
    write(folder.path(), "clicks.jsonl", &clicks);
    let deals: Vec<String> =
        (1..7).map(|who| deal(0, &format!("900{who}"), "a", &(1_000 * who).to_string(), &format!("[\"{who}\"]"))).collect();
    write(folder.path(), "deals.jsonl", &deals);
    write(folder.path(), "rules.yaml", &[RULES.split("- name: off").next().expect("a rule").to_owned()]);
    let report = report(&args(folder.path(), &["--thresholds", "1..8", "--windows", "2d,30d"]));
    let variants = &report.rules[0].variants;
    let of_window =
        |window: &str| variants.iter().filter(|variant| variant.window == window).map(|variant| variant.deals).collect::<Vec<_>>();
    let (narrow, wide) = (of_window("2d"), of_window("30d"));
    assert_eq!((&*wide, &*narrow), (&[6, 5, 4, 3, 2, 1, 0, 0][..], &[6, 5, 0, 0, 0, 0, 0, 0][..]));

    let curves = curves(&chart::svg(&report).expect("drawn"));
    assert_eq!(curves.len(), 2, "{curves:?}");
    // Six deals are so many pixels above none.
    let (top, bottom) = (curves[1][0].1, curves[1][7].1);
    assert!(bottom - top > 200.0, "{curves:?}");
    for (curve, deals) in curves.iter().zip([narrow, wide]) {
        assert_eq!(curve.len(), deals.len());
        for (place, ((x, y), deals)) in curve.iter().zip(deals).enumerate() {
            let (width, height) = (curve[7].0 - curve[0].0, bottom - (bottom - top) * deals as f64 / 6.0);
            assert!((y - height).abs() <= 1.0, "{deals} deals at {y}, not at {height}: {curves:?}");
            assert!((x - curve[0].0 - width * place as f64 / 7.0).abs() <= 1.0, "{place} at {x}: {curves:?}");
        }
    }
}
