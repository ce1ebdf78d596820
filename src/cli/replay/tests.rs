//! Command lines as people type them.

use super::*;
use crate::cli::inputs::NO_PORTAL;
use crate::cli::{Cli, Command};
use clap::Parser as _;
use std::fs;
use std::path::Path;

fn args(folder: &Path, more: &[&str]) -> Args {
    let path = |name: &str| folder.join(name).display().to_string();
    let (out, clicks) = (path("out"), path("clicks.jsonl"));
    let line = [&["clickline", "replay", "--out", &out, "--clicks", &clicks], more].concat();
    match Cli::try_parse_from(line).expect("parses").command {
        Command::Replay(args) => args,
        other => panic!("{other:?}"),
    }
}

fn write(folder: &Path, name: &str, lines: &[&str]) -> String {
    let path = folder.join(name);
    fs::write(&path, lines.join("\n")).expect("writes");
    path.display().to_string()
}

fn click(id: &str, workspace: &str) -> String {
    format!(r#"{{"id":"{id}","ts":1763800000000,"workspace":"{workspace}","link":"l","contact_id":"1"}}"#)
}

/// A folder with clicks of two workspaces.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "clicks.jsonl", &[&click("a", "acme"), "not json", &click("b", "beta")]);
    folder
}

fn refused(args: &Args) -> String {
    match plan(args) {
        Err(Failure::Configuration(error)) => format!("{error:#}"),
        other => panic!("must be refused: {other:?}"),
    }
}

#[test]
fn without_portals_every_workspace_has_one() {
    let folder = folder();
    let plan = plan(&args(folder.path(), &[])).expect("a plan");
    for workspace in ["acme", "beta"] {
        let connections = plan.connections(ustr::ustr(workspace));
        assert_eq!(connections.iter().map(|c| c.portal.as_str()).collect::<Vec<_>>(), [NO_PORTAL]);
    }
    assert_eq!(plan.times.tick, 1_000);
}

#[test]
fn the_only_portal_is_everybody_s_and_several_must_be_told_apart() {
    let folder = folder();
    let one = write(folder.path(), "one", &[r#"{"portal":"4242","contact_id":"1"}"#]);
    let two = write(folder.path(), "two", &[r#"{"portal":"4343","deal_id":"1","pipeline":"p","stage":"s"}"#]);
    let found = plan(&args(folder.path(), &["--contacts", &one])).expect("a plan");
    assert_eq!(found.connections(ustr::ustr("beta"))[0].portal, "4242");
    let said = refused(&args(folder.path(), &["--contacts", &one, "--deals", &two]));
    assert!(said.contains("4242, 4343") && said.contains("--connect WORKSPACE=PORTAL"), "{said}");
    let given = ["--contacts", &one, "--deals", &two, "--connect", "acme=4242", "acme=4343", "--connect", "beta=4343"];
    let plan = plan(&args(folder.path(), &given)).expect("a plan");
    assert_eq!((plan.connections(ustr::ustr("acme")).len(), plan.connections(ustr::ustr("beta")).len()), (2, 1));
}

#[test]
fn what_comes_through_a_pipe_must_be_connected_by_hand() {
    let folder = folder();
    assert!(refused(&args(folder.path(), &["--deals", "-"])).contains("--connect"));
    assert!(plan(&args(folder.path(), &["--forms", "-"])).is_ok());
    assert!(plan(&args(folder.path(), &["--deals", "-", "--connect", "acme=1"])).is_ok());
}

#[test]
fn a_rule_for_nobody_is_refused() {
    let folder = folder();
    let rule = "workspace: gamma\ntrigger: {link_tag: t, contact_window: 1d, click_threshold: 1}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}";
    let rules = write(folder.path(), "rules.yaml", &[rule]);
    assert!(refused(&args(folder.path(), &["--rules", &rules])).contains("gamma"));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let base = ["clickline", "replay", "--out", "o", "--clicks", "c"];
    for more in [&["--connect", "acme"][..], &["--tick", "soon"], &["--workers", "0"], &["--config", "c", "--rules", "r"]] {
        assert!(Cli::try_parse_from([&base[..], more].concat()).is_err(), "{more:?}");
    }
    assert!(Cli::try_parse_from(["clickline", "replay", "--out", "o"]).is_err(), "no clicks");
}

#[test]
fn a_replay_says_what_it_did() {
    let folder = folder();
    let summary = Replay {
        files: args(folder.path(), &[]).inputs.files(),
        plan: plan(&args(folder.path(), &[])).expect("a plan"),
        out: folder.path().join("out"),
        workers: 1,
    };
    let summary = summary.run(&Arc::default(), &Stop::new()).expect("runs");
    let text = show::summary(&summary, &folder.path().join("out"));
    let counts: Vec<(&str, &str)> = text.lines().filter_map(|line| line.trim().rsplit_once(' ')).collect();
    let count = |of: &str| counts.iter().find(|(what, _)| what.contains(of)).expect(of).1;
    assert_eq!((count("clicks "), count("hubspot.timeline"), count("dead-letters ")), ("3", "2", "1"), "{text}");
    assert!(text.contains("dead-letters.jsonl says which"), "{text}");
}
