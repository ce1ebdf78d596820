//! Tokens and scopes.

use super::proxy::Fault;
use super::*;
use crate::oauth::{Condition, Facts, Feature};
use crate::sinks::hubspot::{Events, Portal};
use clickline_sandbox::Rotation;

/// What is known of the portal's connection.
pub(super) fn facts(sink: &Sink) -> Facts {
    let [status] = sink.connections().status().expect("reads").try_into().expect("one portal");
    status.facts.unwrap_or_else(|| panic!("{:?}", status.problem))
}

#[test]
fn tokens_are_refreshed_in_time_and_rotated_ones_are_kept() {
    let config = Config { access_token_for: Duration::from_secs(2), rotation: Rotation::Always, ..Config::default() };
    let world = World::with(config);
    let sink = world.start();
    for n in 0..8u64 {
        world.put(Topic::Timeline, &nth(n as usize));
        world.flush();
        wait(&sink, "delivered", |stats| stats.events == n + 1);
        std::thread::sleep(Duration::from_millis(500));
    }
    let facts = facts(&sink);
    let stats = sink.stop().expect("stops");
    assert!((2..=5).contains(&stats.refreshes), "{stats:?}");
    let denied = world.sandbox.requests().iter().filter(|r| r.status == 401).count();
    assert_eq!(denied, 0, "refreshed before the end, not after a 401");
    assert_eq!((facts.rotations, facts.attempts), (stats.refreshes, stats.refreshes));

    // The configuration still holds the first refresh token, which is dead by now.
    std::thread::sleep(Duration::from_secs(2));
    let sink = world.start();
    world.put(Topic::Timeline, &nth(99));
    assert_eq!(world.settle(&sink, "after a restart", 1).events, 1);
}

#[test]
fn a_token_that_ends_early_is_refreshed_once() {
    let mut world = World::new();
    let expired = r#"{"status":"error","message":"The OAuth token used to make this call expired.","category":"EXPIRED_AUTHENTICATION"}"#;
    let proxy = Proxy::start(&world.sandbox.url(), "/events/batch/create", move |seen| match seen.number {
        0 => Fault::Answer(401, None, expired),
        _ => Fault::None,
    });
    world.through(&proxy);
    world.put(Topic::Timeline, &nth(1));
    let sink = world.start();
    let stats = world.settle(&sink, "delivered", 1);
    assert_eq!((stats.events, stats.refreshes, stats.retried), (1, 2, 0));
}

#[test]
fn a_removed_app_keeps_its_queue_until_it_is_installed_again() {
    let mut world = World::new();
    let good = world.settings.portals[PORTAL].clone();
    let mut bad = good.clone();
    bad.refresh_token = Some(super::super::Secret::new("na1-revoked"));
    world.settings.portals.insert(PORTAL.to_owned(), bad);
    for n in 0..10 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let sink = world.start();
    wait(&sink, "suspended", |stats| stats.suspended == 1 && stats.read == 10);
    std::thread::sleep(Duration::from_secs(2));
    let stats = sink.stop().expect("stops");
    assert_eq!((stats.events, stats.dead_letters, stats.lag, stats.caught_up), (0, 0, 10, false));
    assert_eq!(stats.refreshes, 1, "no storm at the token endpoint");

    world.settings.portals.insert(PORTAL.to_owned(), good);
    let sink = world.start();
    assert_eq!(world.settle(&sink, "all", 10).events, 10);
}

#[test]
fn a_missing_scope_stops_its_lane_alone() {
    let mut world = World::new();
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    let scopes = [
        "oauth",
        "timeline",
        "crm.objects.contacts.read",
        "crm.objects.contacts.write",
        "crm.schemas.contacts.write",
        "crm.objects.deals.read",
    ];
    let token = world.sandbox.refresh_token_for(PORTAL, "clickline", &scopes);
    world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(super::super::Secret::new(token));
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    world.put(Topic::Timeline, &nth(1));
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "x", 1)]));
    world.flush();
    let sink = world.start();
    let stats = wait(&sink, "the others", |stats| stats.events == 1 && stats.properties == 1 && stats.suspended == 1);
    assert_eq!((stats.stages, stats.dead_letters, stats.lag), (0, 0, 1));
    assert_eq!(world.deal("1"), "appointmentscheduled");
    let status = sink.connections().status().expect("reads");
    assert_eq!(
        status[0].gated.iter().find(|(feature, _)| *feature == Feature::MoveDeals).map(|(_, missing)| missing[0]),
        Some("crm.objects.deals.write")
    );

    // Installed again with every scope: the deal that had waited is moved.
    install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
    let stats = wait(&sink, "the deal", |stats| stats.stages == 1);
    assert_eq!((stats.suspended, stats.dead_letters), (0, 0));
    assert_eq!(world.deal("1"), "qualifiedtobuy");
}

#[test]
fn an_installation_connects_a_portal_that_had_been_waiting() {
    let mut world = World::new();
    world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = None;
    for n in 0..10 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let sink = world.start();
    wait(&sink, "it waits", |stats| stats.suspended == 1 && stats.read == 10);
    assert_eq!(sink.stats().refreshes, 0, "nothing to refresh");

    let installed = install(&world, &sink, PORTAL, &[PORTAL.to_owned()]);
    assert_eq!(installed.expect("installs").portal, PORTAL);
    let began = Instant::now();
    let stats = world.settle(&sink, "delivered", 10);
    assert_eq!((stats.events, stats.suspended, stats.dead_letters), (10, 0, 0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(facts(&sink).condition, Condition::Connected);
}

#[test]
fn an_installation_in_another_account_connects_nothing_and_is_given_back() {
    let world = World::with(Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() });
    let sink = world.start();
    let error = install(&world, &sink, "77", &[PORTAL.to_owned()]).expect_err("is foreign");
    assert!(error.to_string().contains("77"), "{error}");
    assert_eq!(world.posts("/token/revoke"), 1);
}

/// Installs the app in a portal for a workspace that has `portals`.
pub(super) fn install(
    world: &World,
    sink: &Sink,
    portal: &str,
    portals: &[String],
) -> Result<crate::oauth::Row, crate::oauth::InstallError> {
    let redirect = "http://localhost:1/cb";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let http = crate::http::client(Duration::from_secs(5)).expect("a client");
        let address = format!("{}/sandbox/portals/{portal}/authorization-code", world.sandbox.url());
        let made = http.post(address).json(&serde_json::json!({ "redirect_uri": redirect })).send().await.expect("answers");
        let made: serde_json::Value = made.json().await.expect("JSON");
        sink.connections().install(made["code"].as_str().expect("a code"), redirect, "acme", portals).await
    })
}

#[test]
fn portals_do_not_wait_for_each_other() {
    let mut world = World::with(Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() });
    let mut broken = world.settings.portals[PORTAL].clone();
    broken.refresh_token = Some(super::super::Secret::new("na1-revoked"));
    world.settings.portals.insert("77".to_owned(), broken);
    for n in 0..300 {
        world.put(Topic::Timeline, &TimelineEvent { portal: "77".into(), ..nth(n) });
        world.put(Topic::Timeline, &TimelineEvent { portal: "5".into(), ..nth(1_000 + n) });
        world.put(Topic::Timeline, &nth(2_000 + n));
    }
    world.flush();
    let portals = vec![PORTAL.to_owned(), "77".to_owned()];
    let sink = Sink::start(world.settings.clone(), world.kafka.clone(), portals.clone(), &world.state()).expect("starts");
    let stats = wait(&sink, "the good portal", |stats| stats.events == 300 && stats.read == 900 && stats.suspended == 1);
    assert_eq!((stats.foreign, stats.lag, stats.dead_letters), (300, 300, 0));
    sink.stop().expect("stops");

    // Somebody installs the app again; nothing was lost, and what was delivered is not sent again.
    let token = world.sandbox.refresh_token("77");
    world.sandbox.create_contact("77", Some("801"), &[("email", "ada@example.com")]);
    world.settings.portals.get_mut("77").expect("is there").refresh_token = Some(super::super::Secret::new(token));
    let sink = Sink::start(world.settings.clone(), world.kafka.clone(), portals, &world.state()).expect("starts");
    let stats = wait(&sink, "the other portal", |stats| stats.caught_up);
    assert_eq!((stats.events, world.sandbox.snapshot("77").events.len(), world.sandbox.snapshot(PORTAL).events.len()), (300, 300, 300));
}

#[test]
fn a_portal_that_cannot_be_written_to_is_passed_by_and_loses_nothing() {
    let mut world = World::with(Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() });
    let good = world.settings.portals[PORTAL].clone();
    let broken = Portal { refresh_token: Some(super::super::Secret::new("na1-revoked")), ..good };
    world.settings.portals.insert("77".to_owned(), broken);
    // Twenty records an account: the dead one fills its share at once, in the same partition as the other.
    world.settings.held = 40;
    const EACH: usize = 200;
    for n in 0..EACH {
        world.put(Topic::Timeline, &TimelineEvent { portal: "77".into(), ..event(&format!("clk:c{n}:77"), "801") });
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let portals = vec![PORTAL.to_owned(), "77".to_owned()];
    let sink = Sink::start(world.settings.clone(), world.kafka.clone(), portals.clone(), &world.state()).expect("starts");
    let stats = wait(&sink, "the good portal", |stats| stats.events == EACH as u64);
    wait(&sink, "the other is held back", |stats| stats.held_back as usize == EACH - 20);
    assert_eq!((stats.dead_letters, stats.caught_up), (0, false));
    sink.stop().expect("stops");

    let token = world.sandbox.refresh_token("77");
    world.sandbox.create_contact("77", Some("801"), &[("email", "ada@example.com")]);
    world.settings.portals.get_mut("77").expect("is there").refresh_token = Some(super::super::Secret::new(token));
    let sink = Sink::start(world.settings.clone(), world.kafka.clone(), portals, &world.state()).expect("starts");
    let stats = wait(&sink, "all", |stats| stats.caught_up);
    assert_eq!((stats.events, stats.held_back, stats.dead_letters), (EACH as u64, 0, 0), "{stats:?}");
    for portal in ["77", PORTAL] {
        let mut ids: Vec<String> = world.sandbox.snapshot(portal).events.into_iter().map(|event| event.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), EACH, "portal {portal}");
    }
}

/// A portal with a private app's token, events as custom events.
fn by_static_token(world: &mut World) {
    let token = world.sandbox.static_token(PORTAL, None);
    let portal = Portal { access_token: Some(super::super::Secret::new(token)), events: Events::CustomEvents, ..Portal::default() };
    world.settings.portals.insert(PORTAL.to_owned(), portal);
}

#[test]
fn a_401_for_one_kind_of_request_stops_that_lane_alone_where_the_token_cannot_be_renewed() {
    let mut world = World::new();
    by_static_token(&mut world);
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    let refused = r#"{"status":"error","message":"Authentication credentials not found.","category":"INVALID_AUTHENTICATION"}"#;
    let proxy = Proxy::start(&world.sandbox.url(), "/send/batch", move |seen| match seen.path.ends_with("/send/batch") {
        true => Fault::Answer(401, None, refused),
        false => Fault::None,
    });
    let good = world.settings.base_url.clone();
    world.through(&proxy);
    for n in 0..5 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "x", 1)]));
    world.flush();
    let sink = world.start();
    wait(&sink, "the events are refused", |stats| stats.suspended == 1 && stats.properties == 1);
    // What comes later than the refusal is written all the same.
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    world.flush();
    let stats = wait(&sink, "the deal", |stats| stats.stages == 1);
    assert_eq!((stats.events, stats.lag, stats.dead_letters, stats.retried), (0, 5, 0, 0));
    let metrics = sink.connections().metrics().text().expect("writes");
    assert!(metrics.contains("hubspot_connected{portal=\"4242\"} 1"), "{metrics}");
    sink.stop().expect("stops");
    world.settings.base_url = good;
    let sink = world.start();
    assert_eq!(wait(&sink, "the events", |stats| stats.caught_up).events, 5);
}

#[test]
fn a_static_token_that_is_refused_for_everything_shuts_the_account_and_loses_nothing() {
    let mut world = World::new();
    by_static_token(&mut world);
    let good = world.settings.portals[PORTAL].clone();
    let bad = Portal { access_token: Some(super::super::Secret::new("pat-na1-revoked")), ..good.clone() };
    world.settings.portals.insert(PORTAL.to_owned(), bad);
    for n in 0..5 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let sink = world.start();
    let stats = wait(&sink, "shut", |stats| stats.suspended == 1 && stats.read == 5);
    assert_eq!((stats.events, stats.lag, stats.dead_letters), (0, 5, 0));
    let metrics = sink.connections().metrics().text().expect("writes");
    assert!(metrics.contains("hubspot_connected{portal=\"4242\"} 0"), "{metrics}");
    sink.stop().expect("stops");
    world.settings.portals.insert(PORTAL.to_owned(), good);
    let sink = world.start();
    assert_eq!(wait(&sink, "the events", |stats| stats.caught_up).events, 5);
}
