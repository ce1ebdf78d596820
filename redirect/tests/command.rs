//! The program as a user starts it: help, exit codes, signals.

mod common;

use common::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clickline-redirect"))
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = program().args(arguments).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn serves_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--workers", "1", "--default-domain", "s.elido.me", "--log-format", "json", "--links"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("a line"));
    let address = lines.next().expect("a first line");
    let address = address.strip_prefix("listening on http://").expect("the address").parse().expect("an address");
    assert_eq!(lines.next().as_deref(), Some("ready"));
    assert!(request(address, "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "));

    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    };
    let more = "- {domain: s.elido.me, slug: new, workspace: acme, destination: \"https://acme.example/new\"}\n";
    std::fs::write(&path, format!("{LINKS}{more}")).expect("written");
    signal("-HUP");
    wait_for(|| request(address, "GET", "/new", SAFARI).0.starts_with("HTTP/1.1 302 "));
    signal("-TERM");
    assert_eq!(lines.last().as_deref(), Some("2 clicks served, 0 delivered, 0 lost"));
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    let log = std::io::read_to_string(child.stderr.take().expect("piped")).expect("its log");
    let events: Vec<String> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("one JSON object a line")["event"].as_str().expect("a name").to_owned()
        })
        .collect();
    assert_eq!(events, ["links_read", "redirect_listening", "links_read", "redirect_stopped"]);
}

/// With few file handles the server takes as many connections as it can, and the others as soon as those end.
#[test]
fn a_lack_of_file_handles_passes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_clickline-redirect")])
        .args(["--listen", "127.0.0.1:0", "--workers", "1", "--default-domain", "s.elido.me", "--metrics", "0", "--links"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("a line"));
    let address = lines.next().expect("a first line");
    let address = address.strip_prefix("listening on http://").expect("the address").parse().expect("an address");
    assert!(lines.next().is_some_and(|line| line.starts_with("metrics on http://127.0.0.1:")));
    assert_eq!(lines.next().as_deref(), Some("ready"));
    // More than it has handles for; the kernel takes the rest into its queue.
    let held: Vec<_> = (0..60).map(|_| connect(address)).collect();
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("a line"));
    assert!(log.any(|line| line.contains("raise the limit of open files")), "the log says what to do");
    let waiting = std::thread::spawn(move || request(address, "GET", "/abc123", SAFARI).0);
    drop(held);
    assert!(waiting.join().expect("answered in the end").starts_with("HTTP/1.1 302 "));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs").success());
    // Nobody may wait for a full pipe.
    std::thread::spawn(move || log.for_each(drop));
    assert_eq!(lines.last().as_deref(), Some("1 clicks served, 0 delivered, 0 lost"));
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_bad_link_ends_the_start_with_2_and_its_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, format!("{LINKS}- {{domain: s.elido.me, slug: abc123, workspace: acme, destination: \"https://x.example\"}}\n"))
        .expect("written");
    let (code, _, error) = run(&["--listen", "127.0.0.1:0", "--links", &path.to_string_lossy()]);
    assert_eq!(code, Some(2));
    assert!(error.contains("line 11: s.elido.me/abc123 stands in line 1 already"), "{error}");
}

#[test]
fn what_is_wrong_with_the_configuration_ends_with_2() {
    let (code, _, error) = run(&[]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--links"), "{error}");
    let (code, _, error) = run(&["--links", "/nowhere/links.yaml"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("cannot read the links in /nowhere/links.yaml") && error.contains("No such file"), "{error}");
    let (code, _, error) = run(&["--links", "x", "--kafka", "127.0.0.1:9", "--kafka-property", "no.such.option=1"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("no.such.option"), "{error}");
    assert_eq!(run(&["--workers", "many"]).0, Some(2));
    assert_eq!(run(&["--links", "x", "--trusted-proxy", "10.0.0.0/99"]).0, Some(2));
    assert_eq!(run(&["--links", "x", "--client-header", "Host", "--trusted-proxy", "10.0.0.0/8"]).0, Some(2));
    assert_eq!(run(&["--links", "x", "--drain-deadline", "soon"]).0, Some(2));
}

#[test]
fn a_port_in_use_ends_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    let listen = taken.local_addr().expect("an address").to_string();
    let (code, _, error) = run(&["--listen", &listen, "--links", &path.to_string_lossy()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("choose another port"), "{error}");
}

#[test]
fn check_lists_every_problem() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, format!("{LINKS}- slug: x\n- domain: s.elido.me\n  slug: z1\n  workspace: acme\n  destination: ftp://x\n"))
        .expect("written");
    let (code, out, _) = run(&["--check", "--links", &path.to_string_lossy()]);
    assert_eq!(code, Some(2));
    assert!(out.contains("line 11: missing field `domain`"), "{out}");
    assert!(out.contains("line 12: `destination` starts with \"ftp\""), "{out}");
    assert!(out.contains("2 good links, 2 problems"), "{out}");
    std::fs::write(&path, LINKS).expect("written");
    assert_eq!(run(&["--check", "--links", &path.to_string_lossy()]).0, Some(0));
}

#[test]
fn help_names_every_exit_code() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for part in ["--listen", "--links", "--kafka", "Exit codes: 0", "Example of a links file"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}
