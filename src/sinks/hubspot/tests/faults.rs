//! HubSpot fails, stalls, throttles.

use super::proxy::Fault;
use super::*;

#[test]
fn a_429_moves_the_clock_and_counts_as_no_try() {
    let mut world = World::new();
    let body = r#"{"status":"error","message":"You have reached your ten_secondly_rolling limit.","policyName":"TEN_SECONDLY_ROLLING"}"#;
    let proxy = Proxy::start(&world.sandbox.url(), "/events/batch/create", move |seen| match seen.number {
        0..3 => Fault::Answer(429, Some("1"), body),
        _ => Fault::None,
    });
    world.through(&proxy);
    world.settings.concurrency = 1;
    world.put(Topic::Timeline, &nth(1));
    let sink = world.start();
    let started = Instant::now();
    let stats = world.settle(&sink, "delivered", 1);
    assert_eq!((stats.events, stats.rate_limited, stats.retried), (1, 3, 0));
    assert!(started.elapsed() >= Duration::from_secs(3), "each answer asked for a second");
}

#[test]
fn the_budget_is_kept_so_well_that_hubspot_never_has_to_say_no() {
    let limit = 14;
    let mut world = World::with(Config { burst_limit: limit, ..Config::default() });
    world.settings.budget.requests = limit;
    world.settings.budget.reserve = 2;
    for n in 0..1_500 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 1_500);
    assert_eq!((stats.events, stats.rate_limited), (1_500, 0));
    let times: Vec<u64> = world.sandbox.requests().iter().filter(|r| r.portal.is_some()).map(|r| r.at_ms).collect();
    assert!(times.len() > limit, "{} requests", times.len());
    for (i, first) in times.iter().enumerate() {
        assert!(times[i..].iter().take_while(|at| **at < first + 10_000).count() <= limit);
    }
}

#[test]
fn an_outage_is_sat_out_and_lost_answers_make_no_second_event() {
    let mut world = World::new();
    world.settings.request_timeout = Duration::from_secs(1);
    let proxy = Proxy::start(&world.sandbox.url(), "/create", |seen| match seen.number % 7 {
        _ if !seen.path.ends_with("/create") => Fault::None,
        0 => Fault::Lose,
        1 => Fault::Answer(503, None, "<html>down</html>"),
        2 => Fault::Hang,
        4 => Fault::Answer(500, None, ""),
        _ => Fault::None,
    });
    world.through(&proxy);
    for n in 0..400 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 400);
    assert_eq!((stats.events, stats.dead_letters), (400, 0));
    assert!(stats.retried > 0);
    assert_eq!(world.sandbox.snapshot(PORTAL).events.len(), 400);
}

/// A sink whose only record HubSpot fails to take was killed after the first failure.
fn killed_while_it_fails() -> (World, Proxy) {
    let mut world = World::new();
    let proxy = Proxy::start(&world.sandbox.url(), "/create", |seen| match seen.path.ends_with("/create") {
        true => Fault::Answer(500, None, "{}"),
        false => Fault::None,
    });
    world.through(&proxy);
    world.put(Topic::Timeline, &nth(1));
    world.flush();
    let sink = world.start();
    wait(&sink, "it has failed", |stats| stats.retried >= 1);
    sink.kill();
    (world, proxy)
}

/// Puts the times of a stopped sink's file back, as though its clock had stood there.
fn back(world: &World, statement: &str, by: Duration) {
    let db = rusqlite::Connection::open(world.state()).expect("opens");
    let by = i64::try_from(by.as_millis()).expect("fits");
    assert_eq!(db.execute(statement, [by]).expect("writes"), 1, "{statement}");
}

const HOUR: Duration = Duration::from_secs(3600);
const FAILING: &str = "UPDATE ledger SET at = at - ?1 WHERE outcome = 'failing'";
const ALIVE: &str = "UPDATE alive SET at = at - ?1";

#[test]
fn a_restart_gives_no_record_more_time() {
    let (mut world, _proxy) = killed_while_it_fails();
    // It had failed for an hour in which the sink ran.
    back(&world, FAILING, HOUR);
    world.settings.give_up_after = HOUR / 2;
    let sink = world.start();
    let stats = wait(&sink, "given up", |stats| stats.caught_up);
    assert_eq!((stats.dead_letters, stats.retried), (1, 1));
    assert_eq!(world.dead_letters(1)[0].reason, "gave-up");
}

#[test]
fn a_week_in_which_no_sink_ran_takes_no_time_from_a_record() {
    let (mut world, _proxy) = killed_while_it_fails();
    back(&world, FAILING, HOUR * 24 * 7);
    back(&world, ALIVE, HOUR * 24 * 7);
    world.settings.give_up_after = HOUR / 2;
    let sink = world.start();
    let stats = wait(&sink, "tried again", |stats| stats.retried >= 2);
    assert_eq!((stats.dead_letters, stats.lag), (0, 1), "{stats:?}");
    sink.stop().expect("stops");
    // And for no longer than what remained of the half hour.
    back(&world, FAILING, HOUR);
    let sink = world.start();
    assert_eq!(wait(&sink, "given up", |stats| stats.caught_up).dead_letters, 1);
}

#[test]
fn a_stop_does_not_wait_for_the_budget() {
    let mut world = World::new();
    // Two requests read the deal and its contacts; the one that moves it must wait ten seconds.
    world.settings.provision.clear();
    world.settings.budget.requests = 2;
    world.settings.budget.reserve = 1;
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    world.flush();
    let sink = world.start();
    wait(&sink, "the budget is used up", |stats| stats.calls == 2);
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    let stats = sink.stop().expect("stops");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((stats.stages, stats.lag, stats.dead_letters), (0, 1, 0), "{stats:?}");
    assert_eq!(world.deal("1"), "appointmentscheduled");

    world.settings.budget.requests = 110;
    let sink = world.start();
    assert_eq!(wait(&sink, "all", |stats| stats.caught_up).stages, 1);
}

#[test]
fn after_an_outage_the_queue_leaves_in_full_batches() {
    let mut world = World::new();
    world.settings.retry_cap = Duration::from_millis(300);
    let until = Instant::now() + Duration::from_secs(6);
    let proxy = Proxy::start(&world.sandbox.url(), "/create", move |seen| match Instant::now() < until {
        true if seen.path.ends_with("/create") => Fault::Answer(503, None, ""),
        _ => Fault::None,
    });
    world.through(&proxy);
    for n in 0..2_000 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 2_000);
    assert_eq!((stats.events, stats.dead_letters), (2_000, 0));
    let passed = world.posts("/events/batch/create");
    assert!(passed <= 40, "{passed} requests for 20 batches");
}

#[test]
fn a_record_that_makes_hubspot_stumble_is_given_up_alone() {
    let mut world = World::new();
    world.settings.retry_cap = Duration::from_millis(200);
    world.settings.give_up_after = Duration::from_secs(6);
    let proxy = Proxy::start(&world.sandbox.url(), "/create", |seen| match seen.body.contains("clk:c13:") {
        true => Fault::Answer(500, None, "{}"),
        false => Fault::None,
    });
    world.through(&proxy);
    for n in 0..64 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 64);
    assert_eq!((stats.events, stats.dead_letters), (63, 1), "{stats:?}");
    assert_eq!(world.dead_letters(1)[0].reason, "gave-up");
}

#[test]
fn hubspot_away_at_the_start_is_waited_for() {
    let mut world = World::new();
    let until = Instant::now() + Duration::from_secs(3);
    let proxy = Proxy::start(&world.sandbox.url(), "", move |_| match Instant::now() < until {
        true => Fault::Answer(502, None, "<html>"),
        false => Fault::None,
    });
    world.through(&proxy);
    world.put(Topic::Timeline, &nth(1));
    let sink = world.start();
    assert_eq!(world.settle(&sink, "delivered", 1).events, 1);
}

#[test]
fn no_secret_and_no_address_is_ever_logged() {
    log::listen();
    let mut world = World::new();
    world.settings.park_for = Duration::from_secs(1);
    let proxy = Proxy::start(&world.sandbox.url(), "", |seen| match seen.number {
        1 | 7 => Fault::Answer(502, None, "<html>"),
        9 => Fault::Answer(429, Some("1"), "{}"),
        _ => Fault::None,
    });
    world.through(&proxy);
    let email = "canary@example.com";
    for n in 0..5 {
        world.put(Topic::Timeline, &TimelineEvent { person: Person::Email(email.into()), ..nth(n) });
        world.put(Topic::ContactProperties, &by_email(properties(&format!("p{n}"), "", &[("no_such_property", "x", 1)]), email));
        let stranger = by_email(properties(&format!("q{n}"), "", &[("elido_last_utm_source", "x", 1)]), "stranger-canary@example.com");
        world.put(Topic::ContactProperties, &stranger);
    }
    let sink = world.start();
    world.flush();
    wait(&sink, "all", |stats| stats.read == 15 && stats.caught_up && stats.parked == 0);
    sink.stop().expect("stops");
    let ours = log::lines();
    assert!(ours.iter().any(|line| line.contains("HubSpot")), "something was logged");
    for word in ["canary@example.com", "sandbox-secret", "na1-", "Bearer", "sandbox-developer-key"] {
        let found = ours.iter().find(|line| line.contains(word));
        assert!(found.is_none(), "{word}: {found:?}");
    }
}

/// The commit fails, or the process is told so, when HubSpot has everything: it ends with a loud word, and the next one finds out what
/// HubSpot has.
#[test]
fn a_commit_that_fails_ends_the_sink_and_what_was_done_is_found_again() {
    let world = World::new();
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    drop(State::open(&world.state()).expect("makes the tables"));
    let db = rusqlite::Connection::open(world.state()).expect("opens");
    let full = "CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(FAIL, 'no space left'); END";
    db.execute_batch(full).expect("makes the disk full");
    for n in 0..20 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "x", 1)]));
    world.flush();
    for _ in 0..3 {
        let sink = world.start();
        let end = Instant::now() + PATIENCE;
        while sink.running() {
            assert!(Instant::now() < end, "it goes on without its ledger: {:?}", sink.stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        let said = format!("{:#}", sink.stop().expect_err("fails"));
        assert!(said.contains("state database can't be written") && said.contains("no space left"), "{said}");
    }
    db.execute_batch("DROP TRIGGER full").expect("makes room");
    let sink = world.start();
    let stats = world.settle(&sink, "all", 22);
    assert_eq!((stats.read, stats.events, stats.dead_letters, stats.lag), (22, 20, 0, 0), "{stats:?}");
    let snapshot = world.sandbox.snapshot(PORTAL);
    let ids: std::collections::BTreeSet<&str> = snapshot.events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((snapshot.events.len(), ids.len()), (20, 20));
    let stages: Vec<&str> = snapshot.deal("1").expect("the deal").stages.iter().map(|at| at.stage.as_str()).collect();
    assert_eq!(stages, ["appointmentscheduled", "qualifiedtobuy"]);
    assert_eq!(world.contact("801")["elido_last_utm_source"], "x");
}

#[test]
fn time_in_which_an_account_was_shut_is_no_time_in_which_hubspot_failed() {
    use super::auth::install;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};
    let mut world = World::new();
    let down = Arc::new(AtomicU8::new(1));
    let state = Arc::clone(&down);
    let proxy = Proxy::start(&world.sandbox.url(), "/create", move |seen| match state.load(Ordering::SeqCst) {
        1 if seen.path.ends_with("/events/batch/create") => Fault::Answer(503, None, "{}"),
        _ => Fault::None,
    });
    world.through(&proxy);
    world.settings.give_up_after = Duration::from_secs(4);
    world.settings.retry_cap = Duration::from_millis(300);
    world.put(Topic::Timeline, &nth(1));
    world.flush();
    let sink = world.start();
    wait(&sink, "HubSpot fails", |stats| stats.retried >= 1);
    // The app is removed for longer than HubSpot may fail.
    world.sandbox.revoke_grants(PORTAL);
    world.sandbox.expire_access_tokens(PORTAL);
    down.store(0, Ordering::SeqCst);
    wait(&sink, "suspended", |stats| stats.suspended == 1);
    down.store(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_secs(4));
    let before = sink.stats().retried;
    install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
    wait(&sink, "it fails again", |stats| stats.retried > before);
    assert_eq!(sink.stats().dead_letters, 0);
    down.store(0, Ordering::SeqCst);
    assert_eq!(wait(&sink, "delivered", |stats| stats.caught_up).events, 1);
}
