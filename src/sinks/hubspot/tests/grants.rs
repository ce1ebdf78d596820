//! Grants that die and come back, and a token endpoint that stumbles: deltas wait, nothing is lost, nobody is hammered.

use super::auth::{facts, install};
use super::proxy::{Fault, Proxy};
use super::*;
use crate::metrics::{Refresh, RefreshResult};
use crate::oauth::{Condition, Mode, Why};
use crate::sinks::hubspot::{Events, Portal, Secret};
use clickline_sandbox::Rotation;

/// What HubSpot says of a dead refresh token, in the article's words.
const DEAD: &str = r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}"#;

fn attempts(sink: &Sink, result: RefreshResult) -> u64 {
    sink.connections().metrics().refresh_attempts.get_or_create(&Refresh { portal: PORTAL.to_owned(), result }).get()
}

/// Times of the requests to the token endpoint, by the sandbox's log.
fn token_calls(world: &World) -> Vec<u64> {
    world.sandbox.requests().iter().filter(|request| request.path.ends_with("/token")).map(|request| request.at_ms).collect()
}

#[test]
fn a_backlog_after_a_reinstall_flushes_at_the_quotas_speed_and_loses_nothing() {
    const EVENTS: usize = 1_500;
    let mut world = World::new();
    // Ten events a request: more requests than ten seconds hold.
    world.settings.portals.get_mut(PORTAL).expect("is there").event_batch = Some(10);
    world.put(Topic::Timeline, &nth(0));
    let sink = world.start();
    wait(&sink, "the first", |stats| stats.events == 1);

    // Somebody removes the app: all its tokens die.
    uninstall(&world, &sink);
    for n in 1..EVENTS {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    wait(&sink, "all read, nothing written", |stats| stats.suspended == 1 && stats.read == EVENTS as u64);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((sink.stats().events, sink.stats().dead_letters), (1, 0));
    assert_eq!(facts(&sink).condition, Condition::ReinstallRequired(Why::Refused));
    assert_eq!(
        (token_calls(&world).len(), attempts(&sink, RefreshResult::BadRefreshToken)),
        (2, 1),
        "one refresh, and one that was refused"
    );

    install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
    let began = Instant::now();
    let stats = world.settle(&sink, "the backlog", EVENTS as u64);
    let took = began.elapsed();
    assert_eq!((stats.events as usize, stats.dead_letters, stats.rate_limited), (EVENTS, 0, 0), "{stats:?}");
    let mut ids: Vec<String> = world.sandbox.snapshot(PORTAL).events.into_iter().map(|event| event.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), EVENTS, "nothing lost, nothing twice");
    // 150 requests, of which a window of ten seconds holds 100 beside the reserve.
    assert!(took < Duration::from_secs(30), "{took:?}");
    println!("measured: {EVENTS} deltas in 150 requests after a reinstall: {took:?}");
}

/// Removes the app from the portal, as a person does in HubSpot's pages.
fn uninstall(world: &World, sink: &Sink) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let access = sink.connections().access(PORTAL).await.expect("a token");
        let address = format!("{}/appinstalls/v3/external-install", world.sandbox.url());
        let http = crate::http::client(Duration::from_secs(5)).expect("a client");
        let gone = http.delete(address).bearer_auth(access.token.reveal()).send().await.expect("answers");
        assert_eq!(gone.status(), 204);
    });
}

#[test]
fn a_token_endpoint_that_stumbles_is_waited_for() {
    let mut world = World::new();
    let proxy = Proxy::start(&world.sandbox.url(), "/token", |seen| match seen.number {
        0 => Fault::Answer(429, Some("1"), "{}"),
        1 => Fault::Answer(500, None, DEAD),
        2 => Fault::Answer(502, None, "<html>BAD_REFRESH_TOKEN</html>"),
        3 => Fault::Answer(200, None, "<html>"),
        4 => Fault::Answer(200, None, r#"{"access_token":""#),
        _ => Fault::None,
    });
    world.through(&proxy);
    for n in 0..50 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "delivered", 50);
    assert_eq!((stats.events, stats.dead_letters, stats.refreshes), (50, 0, 6));
    let counted = [RefreshResult::Throttled, RefreshResult::Failed, RefreshResult::Ok].map(|result| attempts(&sink, result));
    assert_eq!(counted, [1, 4, 1]);
    assert_eq!(facts(&sink).failures, 0);
    let text = sink.connections().metrics().text().expect("writes");
    assert!(text.contains("hubspot_refresh_attempts_total{portal=\"4242\",result=\"ok\"} 1"), "{text}");
    let last =
        text.lines().find_map(|line| line.strip_prefix("hubspot_last_refresh_timestamp_seconds{portal=\"4242\"} ")).expect("is there");
    assert!(last.parse::<u64>().expect("a time") * 1000 + 60_000 > crate::model::time::now(), "{last}");
}

#[test]
fn a_dead_grant_costs_one_call_whatever_the_status_it_is_told_with() {
    for status in [400, 401] {
        let mut world = World::new();
        let proxy = Proxy::start(&world.sandbox.url(), "/token", move |seen| match seen.number {
            usize::MAX => Fault::None,
            _ => Fault::Answer(status, None, DEAD),
        });
        world.through(&proxy);
        for n in 0..10 {
            world.put(Topic::Timeline, &nth(n));
        }
        world.flush();
        // Restarts do not begin the count anew.
        for _ in 0..3 {
            let sink = world.start();
            wait(&sink, "suspended", |stats| stats.suspended == 1 && stats.read == 10);
            std::thread::sleep(Duration::from_millis(500));
            assert!(sink.stats().refreshes <= 1);
            assert_eq!(facts(&sink).attempts, 1, "of all processes");
            let stats = sink.stop().expect("stops");
            assert_eq!((stats.events, stats.dead_letters, stats.lag), (0, 0, 10));
        }
    }
}

#[test]
fn an_answer_that_is_lost_on_the_way_ends_a_rotating_grant_and_is_told_as_that() {
    for (rotation, survives) in [(Rotation::Never, true), (Rotation::Always, false), (Rotation::Grace(Duration::from_secs(60)), true)] {
        let mut world = World::with(Config { rotation, ..Config::default() });
        let proxy = Proxy::start(&world.sandbox.url(), "/token", |seen| match seen.number {
            0 => Fault::Lose,
            _ => Fault::None,
        });
        world.through(&proxy);
        world.put(Topic::Timeline, &nth(1));
        let sink = world.start();
        if survives {
            assert_eq!(world.settle(&sink, "delivered", 1).events, 1);
            assert_eq!(facts(&sink).unanswered_since, None);
        } else {
            wait(&sink, "suspended", |stats| stats.suspended == 1);
            let condition = facts(&sink).condition;
            assert!(matches!(condition, Condition::ReinstallRequired(Why::LostAnswer { .. })), "{condition:?}");
            install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
            assert_eq!(world.settle(&sink, "delivered", 1).events, 1);
        }
    }
}

#[test]
fn wrong_credentials_of_the_app_are_told_and_tried_anew_with_others() {
    let mut world = World::new();
    let good = world.settings.client_secret.replace(Secret::new("wrong"));
    world.put(Topic::Timeline, &nth(1));
    world.flush();
    for _ in 0..2 {
        let sink = world.start();
        wait(&sink, "suspended", |stats| stats.suspended == 1);
        assert!(matches!(&facts(&sink).condition, Condition::BadClient(code) if code == "BAD_CLIENT_SECRET"));
    }
    assert_eq!(token_calls(&world).len(), 1, "a restart with the same credentials does not ask again");
    world.settings.client_secret = good;
    let sink = world.start();
    assert_eq!(world.settle(&sink, "delivered", 1).events, 1);
    assert_eq!(token_calls(&world).len(), 2);
}

#[test]
fn a_private_apps_token_moves_deals_and_writes_properties_but_no_timeline_events() {
    let mut world = World::new();
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    let token = Secret::new(world.sandbox.static_token(PORTAL, None));
    let portal = Portal { access_token: Some(token), ..Portal::default() };
    world.settings.portals.insert(PORTAL.to_owned(), portal.clone());
    // Nothing of an app is needed then.
    world.settings.client_secret = None;
    world.settings.client_id = String::new();
    world.settings.connections.keys = None;
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    world.put(Topic::Timeline, &nth(1));
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "x", 1)]));
    world.flush();
    let sink = world.start();
    let stats = wait(&sink, "deal and contact", |stats| stats.stages == 1 && stats.properties == 1 && stats.suspended == 1);
    assert_eq!((stats.events, stats.dead_letters, stats.lag), (0, 0, 1), "the event waits");
    assert_eq!((world.deal("1").as_str(), world.posts("/events/batch/create")), ("qualifiedtobuy", 0));
    assert_eq!((token_calls(&world).len(), sink.connections().status().expect("reads")[0].mode), (0, Mode::Static));
    assert!(sink.connections().metrics().text().expect("writes").contains("hubspot_connected{portal=\"4242\"} 1"));
    sink.stop().expect("stops");

    // Custom events take it.
    world.settings.portals.insert(PORTAL.to_owned(), Portal { events: Events::CustomEvents, ..portal.clone() });
    let sink = world.start();
    assert_eq!(world.settle(&sink, "the event, too", 1).events, 1);
    sink.stop().expect("stops");

    // A token that HubSpot refuses is not tried again and again.
    world.settings.portals.insert(PORTAL.to_owned(), Portal { access_token: Some(Secret::new("pat-wrong")), ..portal });
    world.put(Topic::ContactProperties, &properties("p2", "801", &[("elido_last_utm_source", "y", 2)]));
    let before = world.sandbox.requests().len();
    let sink = world.start();
    wait(&sink, "suspended", |stats| stats.suspended == 1);
    std::thread::sleep(Duration::from_secs(1));
    let asked = world.sandbox.requests().len() - before;
    assert!(asked <= 4 && token_calls(&world).is_empty(), "{asked} requests");
    assert!(sink.connections().metrics().text().expect("writes").contains("hubspot_connected{portal=\"4242\"} 0"));
}

#[test]
fn the_articles_three_scopes_write_all_that_they_allow() {
    let mut world = World::new();
    let existing = "elido_last_utm_source";
    world.make_property(existing, "string", "text");
    let scopes = ["oauth", "timeline", "crm.objects.contacts.write", "crm.objects.deals.read"];
    let token = world.sandbox.refresh_token_for(PORTAL, "clickline", &scopes);
    world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(Secret::new(token));
    // An address that can't be looked up comes first, and a property that can't be made is among the values.
    world.put(Topic::ContactProperties, &by_email(properties("p0", "801", &[(existing, "never", 1)]), "ada@example.com"));
    world.flush();
    let sink = world.start();
    wait(&sink, "the address waits", |stats| stats.suspended == 1 && stats.read == 1);
    world.put(Topic::ContactProperties, &properties("p1", "801", &[(existing, "x", 2)]));
    world.put(Topic::ContactProperties, &properties("p2", "801", &[(existing, "y", 3), ("elido_last_utm_medium", "email", 3)]));
    world.put(Topic::Timeline, &nth(1));
    world.flush();
    let stats =
        wait(&sink, "all that is allowed", |stats| stats.events == 1 && stats.properties + stats.dead_letters == 2 && stats.parked == 1);
    assert_eq!((stats.properties, stats.dead_letters, stats.lag, stats.parked), (1, 1, 0, 1), "{stats:?}");
    assert_eq!(world.contact("801").get(existing).map(String::as_str), Some("y"));
    let [dead] = world.dead_letters(1).try_into().expect("one");
    assert!(dead.reason == "property-refused" && dead.detail.contains("crm.schemas.contacts.write"), "{dead:?}");
    // At the most what was sent before the first refresh told the scopes.
    assert!(world.sandbox.requests().iter().filter(|request| request.status == 403).count() <= 1, "nothing is tried in vain");

    // Installed again with every scope: the property is made, and what waited for its address is found.
    install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
    wait(&sink, "the address", |stats| stats.lag == 0 && stats.parked == 0 && stats.suspended == 0);
    let made = || world.sandbox.requests().iter().any(|request| request.path.ends_with("/properties/contacts") && request.status == 201);
    let end = Instant::now() + PATIENCE;
    while !made() {
        assert!(Instant::now() < end, "the property is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    world.put(Topic::ContactProperties, &properties("p3", "801", &[("elido_last_utm_medium", "social", 4)]));
    world.flush();
    wait(&sink, "the property", |stats| stats.lag == 0 && stats.properties >= 2);
    assert_eq!(world.contact("801").get("elido_last_utm_medium").map(String::as_str), Some("social"));
}

/// Nobody's fault may keep the other properties from being written.
fn one_that_cannot_be_made(status: u16, body: &'static str, says: &str) {
    let mut world = World::new();
    let (broken, other) = ("elido_last_utm_source", "elido_last_utm_medium");
    world.make_property(other, "string", "text");
    let proxy = Proxy::start(&world.sandbox.url(), "/properties/contacts", move |seen| match seen.body.contains("groupName") {
        true => Fault::Answer(status, None, body),
        false => Fault::None,
    });
    world.sandbox.create_contact(PORTAL, Some("802"), &[("email", "grace@example.com")]);
    world.settings.base_url = proxy.url();
    world.settings.provision = vec![broken.to_owned(), other.to_owned()];
    world.put(Topic::ContactProperties, &properties("p1", "801", &[(broken, "x", 1)]));
    world.put(Topic::ContactProperties, &properties("p2", "802", &[(other, "email", 1)]));
    let sink = world.start();
    let stats = world.settle(&sink, "one is refused, one written", 2);
    assert_eq!((stats.properties, stats.dead_letters), (1, 1), "{stats:?}");
    let [dead] = world.dead_letters(1).try_into().expect("one");
    assert!(dead.reason == "property-refused" && dead.detail.contains(says), "{dead:?}");
    assert_eq!(world.contact("802").get(other).map(String::as_str), Some("email"));
}

#[test]
fn a_property_that_hubspot_does_not_make_is_in_no_others_way() {
    const BODY: &str = r#"{"status":"error","category":"VALIDATION_ERROR","message":"name is reserved","correlationId":"c"}"#;
    one_that_cannot_be_made(400, BODY, "name is reserved");
}

#[test]
fn a_property_that_hubspot_hides_is_in_no_others_way() {
    const BODY: &str = r#"{"status":"error","category":"OBJECT_ALREADY_EXISTS","message":"exists","correlationId":"c"}"#;
    one_that_cannot_be_made(409, BODY, "does not show it");
}

#[test]
fn a_property_that_is_archived_is_refused_and_the_others_are_written() {
    let world = World::new();
    let (archived, other) = ("elido_last_utm_source", "elido_last_utm_medium");
    world.make_property(archived, "string", "text");
    world.by_hand(reqwest::Method::DELETE, &format!("/crm/v3/properties/contacts/{archived}"), &serde_json::Value::Null);
    world.put(Topic::ContactProperties, &properties("p1", "801", &[(archived, "x", 1), (other, "email", 1)]));
    let sink = world.start();
    let stats = world.settle(&sink, "one is refused", 1);
    assert_eq!((stats.properties, stats.dead_letters), (0, 1), "{stats:?}");
    let [dead] = world.dead_letters(1).try_into().expect("one");
    assert!(dead.reason == "property-refused" && dead.detail.contains("archived"), "{dead:?}");
    assert_eq!(world.contact("801").get(other).map(String::as_str), Some("email"));
}

#[test]
fn a_static_token_that_was_refused_once_is_told_to_be_good_again() {
    let mut world = World::new();
    let token = Secret::new(world.sandbox.static_token(PORTAL, None));
    world
        .settings
        .portals
        .insert(PORTAL.to_owned(), Portal { access_token: Some(token), events: Events::CustomEvents, ..Portal::default() });
    let proxy = Proxy::start(&world.sandbox.url(), "/contacts", |seen| match seen.number {
        0 => Fault::Answer(401, None, "{}"),
        _ => Fault::None,
    });
    world.through(&proxy);
    world.settings.provision.truncate(1);
    let sink = world.start();
    let connected = |value: u8| {
        let line = format!("hubspot_connected{{portal=\"{PORTAL}\"}} {value}");
        sink.connections().metrics().text().expect("writes").contains(&line)
    };
    let end = Instant::now() + PATIENCE;
    while !connected(1) {
        assert!(Instant::now() < end, "it is connected");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_request_that_is_refused_again_and_again_stops_its_lane_alone() {
    let mut world = World::new();
    // Whatever the token, HubSpot answers 401 to events, and to nothing else.
    let proxy = Proxy::start(&world.sandbox.url(), "/events/batch/create", |seen| match seen.number {
        usize::MAX => Fault::None,
        _ => Fault::Answer(401, None, "{}"),
    });
    world.through(&proxy);
    world.put(Topic::Timeline, &nth(1));
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "x", 1)]));
    world.flush();
    let sink = world.start();
    wait(&sink, "events wait", |stats| stats.suspended == 1 && stats.properties == 1);
    // The same again from other hands: the token is not renewed for each, and the connection stays.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connections = sink.connections();
    for _ in 0..3 {
        let access = runtime.block_on(connections.access(PORTAL)).expect("a token");
        connections.accepted(PORTAL, &access);
        let renewed = runtime.block_on(connections.renew(PORTAL, &access));
        assert_eq!(renewed, Err(crate::oauth::TokenError::Rationed));
    }
    assert_eq!((facts(&sink).condition, sink.stats().refreshes), (Condition::Connected, 2));
    world.put(Topic::ContactProperties, &properties("p2", "801", &[("elido_last_utm_source", "y", 2)]));
    world.flush();
    let stats = wait(&sink, "properties go on", |stats| stats.properties == 2);
    assert_eq!((stats.events, stats.dead_letters, stats.lag), (0, 0, 1), "{stats:?}");
}

#[test]
fn addresses_that_may_not_be_looked_for_wait_without_stopping_the_others_and_without_an_end() {
    let mut world = World::new();
    let existing = "elido_last_utm_source";
    world.make_property(existing, "string", "text");
    let scopes = ["oauth", "timeline", "crm.objects.contacts.write", "crm.objects.deals.read"];
    let token = world.sandbox.refresh_token_for(PORTAL, "clickline", &scopes);
    world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(Secret::new(token));
    // Far more of them than may be in memory.
    world.settings.held = 20;
    const EACH: usize = 60;
    let stranger = |id: &str| by_email(properties(id, "", &[(existing, "x", 1)]), "nobody@example.com");
    for n in 0..EACH {
        world.put(Topic::ContactProperties, &by_email(properties(&format!("p{n}"), "", &[(existing, "x", 1)]), "ada@example.com"));
        world.put(Topic::Timeline, &TimelineEvent { person: Person::Email("ada@example.com".into()), ..nth(n) });
    }
    world.put(Topic::ContactProperties, &stranger("nobody"));
    world.put(Topic::ContactProperties, &properties("by-id", "801", &[(existing, "y", 2)]));
    world.put(Topic::Timeline, &nth(EACH));
    world.flush();
    let sink = world.start();
    let stats = wait(&sink, "the others", |stats| stats.properties == 1 && stats.events == 1 && stats.parked == 2 * EACH as u64 + 1);
    assert_eq!((stats.lag, stats.dead_letters), (0, 0), "{stats:?}");
    sink.stop().expect("stops");

    // They wait for longer than an address whose contact is looked for.
    world.settings.park_for = Duration::from_secs(6);
    let sink = world.start();
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!((sink.stats().parked, sink.stats().dead_letters), (2 * EACH as u64 + 1, 0));
    install(&world, &sink, PORTAL, &[PORTAL.to_owned()]).expect("installs");
    let stats = wait(&sink, "those, too", |stats| stats.events == EACH as u64 && stats.parked == 1);
    assert_eq!((stats.dead_letters, stats.superseded), (0, EACH as u64), "a newer click was written");
    assert_eq!(world.sandbox.snapshot(PORTAL).events.len(), EACH + 1);
    wait(&sink, "nobody appears", |stats| stats.dead_letters == 1 && stats.parked == 0);
}
