//! Two processes at once, one that is killed, and one that stands still for longer than its lease. They are this test's own program, started again as [`child`].

use crate::world::*;
use clickline::oauth::{Condition, TokenError, Why};
use clickline::sinks::hubspot::{Secret, Settings};
use clickline_sandbox::{Config, Rotation};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// Askers in each of two processes.
const ASKERS: usize = 50;

/// Not a test: what other tests start as a process of its own.
#[test]
#[ignore = "does nothing unless another test starts it"]
fn child() {
    let Ok(does) = std::env::var("CHILD_DOES") else { return };
    let given = |name: &str| std::env::var(name).expect(name);
    let tokens = BTreeMap::from([(PORTAL.to_owned(), given("CHILD_TOKEN"))]);
    let mut settings = Settings::for_sandbox(&given("CHILD_URL"), "clickline", "sandbox-secret", tokens);
    settings.request_timeout = Duration::from_secs(given("CHILD_WITHIN").parse().expect("seconds"));
    settings.connections.keys = Some(Secret::new(given("CHILD_KEYS")));
    settings.connections.postgres = std::env::var("CHILD_POSTGRES").ok().map(Secret::new);
    let gate = PathBuf::from(given("CHILD_GATE"));
    opened(&gate);
    let connections = open(&settings, &PathBuf::from(given("CHILD_STATE")));
    let first = std::sync::Barrier::new(ASKERS);
    std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                let got = access(&connections).expect("a token");
                let got = if does == "renew" {
                    // Both processes have the same token before one of them gives it up.
                    if first.wait().is_leader() {
                        std::fs::write(gate.with_extension(std::process::id().to_string()), "").expect("writes");
                    }
                    opened(&gate.with_extension("second"));
                    block_on(connections.renew(PORTAL, &got)).expect("another token")
                } else {
                    got
                };
                println!("token {}", got.token.reveal());
            });
        }
    });
}

/// Waits for a gate to be opened.
fn opened(gate: &std::path::Path) {
    while !gate.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The tokens that two processes of [`ASKERS`] askers got.
fn ask_in_two_processes(world: &World, what: &str) -> Vec<String> {
    let gate = world.folder.path().join("gate");
    let _ = std::fs::remove_file(&gate);
    let children: Vec<Child> = (0..2).map(|_| world.child(what).spawn().expect("starts")).collect();
    std::thread::sleep(Duration::from_millis(200));
    std::fs::write(&gate, "").expect("opens the gate");
    if what == "renew" {
        for child in &children {
            wait_for("both processes to have a token", || gate.with_extension(child.id().to_string()).exists().then_some(()));
        }
        std::fs::write(gate.with_extension("second"), "").expect("opens the gate");
    }
    let mut tokens = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("ends");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        tokens.extend(text.lines().filter_map(|line| line.strip_prefix("token ")).map(str::to_owned));
    }
    tokens
}

#[test]
fn a_hundred_askers_in_two_processes_make_one_call() {
    for cluster in clusters() {
        for config in [Config::default(), rotating()] {
            // Each time a table that nobody has opened before: both processes make it, and take over the configured token.
            let cluster = cluster.as_ref().map(|_| Cluster::start_if_there().expect("is installed"));
            let world = World::new(config, cluster);
            let began = Instant::now();
            let tokens = ask_in_two_processes(&world, "access");
            assert_eq!((tokens.len(), BTreeSet::from_iter(&tokens).len()), (2 * ASKERS, 1), "all have the same token");
            assert_eq!(world.token_calls(), 1, "one call");
            let took = began.elapsed();

            // All of them are told that this token is spent.
            let renewed = ask_in_two_processes(&world, "renew");
            assert_eq!((renewed.len(), BTreeSet::from_iter(&renewed).len()), (2 * ASKERS, 1));
            assert_ne!(renewed[0], tokens[0]);
            assert_eq!(world.token_calls(), 2, "one more");
            let refused = world.sandbox.requests().iter().filter(|request| request.status >= 400).count();
            assert_eq!(refused, 0);
            println!("measured: 100 askers in 2 processes, one call, {took:?} with the start of the processes");
        }
    }
}

#[test]
fn a_crash_between_answer_and_row_is_survived_or_told_as_what_it_is() {
    for cluster in clusters() {
        for config in [Config::default(), rotating()] {
            let rotates = config.rotation == Rotation::Always;
            let cluster = cluster.as_ref().map(|_| Cluster::start_if_there().expect("is installed"));
            let mut world = World::new(config, cluster);
            // The lease is five seconds longer.
            world.settings.request_timeout = Duration::from_secs(1);
            std::fs::write(world.folder.path().join("gate"), "").expect("opens the gate");
            let killed = world.child("access").env("CLICKLINE_FAILPOINT", "token.answered").status().expect("starts");
            assert!(!killed.success(), "it was killed at the failpoint");
            assert_eq!(world.token_calls(), 1, "HubSpot had answered");

            // The lease of the dead process is waited for, not more.
            let began = Instant::now();
            let connections = world.open();
            let got = access(&connections);
            assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
            assert_eq!(world.token_calls(), 2);
            if rotates {
                let Err(TokenError::Disconnected(Why::LostAnswer { asked_at })) = got else { panic!("{got:?}") };
                assert!(asked_at > 1_700_000_000_000);
                assert!(matches!(facts(&connections).condition, Condition::ReinstallRequired(Why::LostAnswer { .. })));
                for _ in 0..20 {
                    access(&connections).expect_err("is lost");
                    access(&world.open()).expect_err("in another process, too");
                }
                assert_eq!(world.token_calls(), 2, "no storm");
            } else {
                got.expect("the old refresh token goes on");
                assert_eq!(facts(&connections).unanswered_since, None);
            }
        }
    }
}

/// A process that comes to a place while it refreshes, and stands still there.
fn stands_still(world: &World, place: &str) -> Child {
    let child = world.child("access").env("CLICKLINE_FAILPOINT", format!("{place}!stop")).spawn().expect("starts");
    let stat = format!("/proc/{}/stat", child.id());
    // The state comes after the name, which is in brackets.
    let stopped = || std::fs::read_to_string(&stat).ok()?.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(());
    wait_for("the process to stand still", stopped);
    child
}

/// It goes on; the tokens that its askers got, if they got any.
fn goes_on(child: Child) -> Option<BTreeSet<String>> {
    let told = std::process::Command::new("kill").args(["-CONT", &child.id().to_string()]).status();
    assert!(told.is_ok_and(|status| status.success()), "kill -CONT reaches our own child");
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8(output.stdout).expect("text");
    output.status.success().then(|| text.lines().filter_map(|line| line.strip_prefix("token ")).map(str::to_owned).collect())
}

#[test]
fn a_process_that_stands_still_for_longer_than_its_lease_burns_no_token() {
    let one = |place: &str, config: Config| {
        let (rotation, strict) = (config.rotation, config.reuse_revokes_family);
        let mut world = World::new(config, None);
        // The lease is five seconds longer.
        world.settings.request_timeout = Duration::from_secs(1);
        std::fs::write(world.folder.path().join("gate"), "").expect("opens the gate");
        let sleeper = stands_still(&world, place);
        let asked = usize::from(place == "token.answered");
        assert_eq!(world.token_calls(), asked, "{place}");

        // Another process waits for the lease to end, and takes its own.
        let connections = world.open();
        let got = access(&connections);
        assert_eq!(world.token_calls(), asked + 1, "{place}");
        let woken = goes_on(sleeper);
        match (place, rotation) {
            // It sees that it is late, sends nothing, and takes what the other has stored.
            ("token.calling", _) => {
                let token = got.expect("a token").token.reveal().to_owned();
                assert_eq!(woken, Some(BTreeSet::from([token])), "the newest token");
            }
            // HubSpot as it is: the token that came first is as good as the one after it.
            (_, Rotation::Never) => {
                got.expect("a token");
                assert!(woken.is_some_and(|tokens| tokens.len() == 1));
            }
            // The refresh token was spent for an answer that nobody had stored. Who wakes up brings the newest there is.
            _ => {
                let Err(TokenError::Disconnected(Why::LostAnswer { .. })) = got else { panic!("{got:?}") };
                assert!(woken.is_some_and(|tokens| tokens.len() == 1));
            }
        }
        assert_eq!(world.token_calls(), asked + 1, "{place}: nobody called again");
        assert_eq!(facts(&connections).condition, Condition::Connected, "{place}");
        let last = access(&connections).expect("a token");
        let refused = world.sandbox.requests().iter().filter(|request| request.status >= 400).count();
        assert_eq!(refused, usize::from(asked == 1 && rotation == Rotation::Always), "{place}: what HubSpot refused");
        if asked == 1 && strict {
            // The same refresh token, sent twice, was the end of both: that is told once HubSpot refuses what it has given, and no storm follows.
            let renewed = block_on(connections.renew(PORTAL, &last));
            assert_eq!(renewed, Err(TokenError::Disconnected(Why::Refused)));
            (0..20).for_each(|_| drop(block_on(connections.renew(PORTAL, &last)).expect_err("somebody must log in")));
            assert_eq!(world.token_calls(), asked + 2);
        }
    };
    std::thread::scope(|scope| {
        for (place, config) in [
            ("token.calling", rotating()),
            ("token.calling", Config::default()),
            ("token.answered", Config::default()),
            ("token.answered", Config { rotation: Rotation::Always, ..Config::default() }),
            ("token.answered", rotating()),
        ] {
            scope.spawn(move || one(place, config));
        }
    });
}
