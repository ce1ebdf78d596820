//! Restart, coalescing, parked persons, dead letters.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[test]
fn events_land_once_whenever_the_sink_is_killed() {
    let world = World::new();
    const EVENTS: usize = 2_000;
    for n in 0..EVENTS {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    for kill_at in [1, 150, 700] {
        let sink = world.start();
        wait(&sink, "some events", |stats| stats.events + stats.skipped >= kill_at);
        sink.kill();
    }
    let sink = world.start();
    wait(&sink, "all events", |stats| stats.caught_up);
    let stats = sink.stop().expect("stops");
    let mut ids: Vec<String> = world.sandbox.snapshot(PORTAL).events.into_iter().map(|e| e.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), EVENTS, "each once");
    assert_eq!(stats.dead_letters, 0);
    assert!(stats.read < EVENTS as u64, "committed offsets are not read again: {stats:?}");
    let calls = world.posts("/events/batch/create");
    assert!(calls < EVENTS / 100 * 4, "{calls} calls for {EVENTS} events");
}

#[test]
fn a_topic_read_again_from_its_beginning_sends_nothing_twice() {
    let world = World::new();
    for n in 0..50 {
        world.put(Topic::Timeline, &nth(n));
        world.put(Topic::ContactProperties, &properties(&format!("p{n}"), "801", &[("elido_last_utm_source", "x", n as u64)]));
    }
    let sink = world.start();
    world.settle(&sink, "all", 100);
    sink.stop().expect("stops");
    let db = rusqlite::Connection::open(world.state()).expect("opens");
    assert!(db.execute("DELETE FROM offsets", []).expect("deletes") >= 2);
    drop(db);
    let calls = world.sandbox.requests().len();
    let sink = world.start();
    let stats = wait(&sink, "again", |stats| stats.caught_up);
    assert_eq!((stats.read, stats.skipped, stats.events), (100, 100, 0));
    assert_eq!(world.posts("/batch/update") + world.posts("/batch/create"), {
        let requests = world.sandbox.requests();
        requests[..calls].iter().filter(|r| r.path.ends_with("/batch/update") || r.path.ends_with("/batch/create")).count()
    });
}

#[test]
fn many_deltas_of_a_contact_are_few_writes_and_the_newest_value_stays() {
    let mut world = World::new();
    world.settings.linger = Duration::from_millis(500);
    // In an order that is not that of their clicks.
    for n in 0..300u64 {
        let ts = (n * 7) % 300;
        world.put(Topic::ContactProperties, &properties(&format!("p{n}"), "801", &[("elido_last_utm_source", &format!("s{ts}"), ts)]));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 300);
    assert_eq!(stats.properties + stats.superseded, 300);
    assert_eq!(world.contact("801")["elido_last_utm_source"], "s299");
    let writes = world.posts("/batch/update");
    assert!(writes <= 5, "{writes} writes");

    // An older click that is resolved late, also after a restart.
    sink.stop().expect("stops");
    let sink = world.start();
    world.put(Topic::ContactProperties, &properties("late", "801", &[("elido_last_utm_source", "s5", 5)]));
    let stats = world.settle(&sink, "the late one", 1);
    assert_eq!((stats.superseded, stats.properties), (1, 0));
    assert_eq!(world.contact("801")["elido_last_utm_source"], "s299");
}

#[test]
fn properties_of_an_address_wait_for_its_contact() {
    let world = World::new();
    let email = "grace@example.com";
    world.put(Topic::ContactProperties, &by_email(properties("p1", "", &[("elido_last_utm_source", "old", 1)]), email));
    let sink = world.start();
    let stats = world.settle(&sink, "parked", 1);
    assert_eq!((stats.parked, stats.lag, stats.properties), (1, 0, 0));
    sink.stop().expect("stops");

    // Parked records outlive a restart, and what was written meanwhile from a newer click is not overwritten.
    let grace = world.sandbox.create_contact(PORTAL, None, &[("email", email)]);
    let mut newer = properties("p2", &grace, &[("elido_last_utm_source", "new", 9)]);
    newer.properties.insert("elido_last_utm_medium".into(), "email".into());
    newer.from.insert("elido_last_utm_medium".into(), newer.from["elido_last_utm_source"].clone());
    world.put(Topic::ContactProperties, &newer);
    let sink = world.start();
    let stats = world.settle(&sink, "unparked", 1);
    wait(&sink, "unparked", |stats| stats.parked == 0 && stats.caught_up);
    assert_eq!(world.contact(&grace)["elido_last_utm_source"], "new", "{stats:?}");
    assert!(world.outcome(Topic::ContactProperties, "p1").is_some());
}

#[test]
fn nothing_makes_a_contact_unless_it_is_configured() {
    let mut world = World::new();
    world.settings.park_retry = Duration::from_secs(3600);
    let email = "grace@example.com";
    let by_address = TimelineEvent { person: Person::Email(email.into()), ..nth(1) };
    world.put(Topic::Timeline, &by_address);
    world.put(Topic::ContactProperties, &by_email(properties("p1", "", &[("elido_last_utm_source", "webinar", 1)]), email));
    let sink = world.start();
    let stats = world.settle(&sink, "parked", 2);
    assert_eq!((stats.parked, stats.events, stats.properties, stats.lag), (2, 0, 0, 0));
    assert_eq!(world.sandbox.snapshot(PORTAL).contacts.len(), 1, "nobody was made");
    sink.stop().expect("stops");

    // Whatever finds the contact wakes all that waits for it.
    world.settings.portals.get_mut(PORTAL).expect("is there").create_contacts = true;
    let sink = world.start();
    world.put(Topic::Timeline, &TimelineEvent { person: Person::Email(email.into()), ..nth(2) });
    world.flush();
    wait(&sink, "written", |stats| stats.events == 2 && stats.properties == 1 && stats.parked == 0);
    let snapshot = world.sandbox.snapshot(PORTAL);
    let grace: Vec<_> = snapshot.contacts.iter().filter(|c| c.properties.get("email").is_some_and(|e| e == email)).collect();
    assert_eq!(grace.len(), 1, "one contact");
    assert_eq!(grace[0].properties["elido_last_utm_source"], "webinar");
    assert!(snapshot.events.iter().all(|event| event.object_id == grace[0].id));
    assert_eq!((world.posts("/contacts/batch/create"), world.contact("801")["email"].as_str()), (1, "ada@example.com"));
}

#[test]
fn a_contact_that_somebody_else_makes_in_between_is_found() {
    let mut world = World::new();
    world.settings.portals.get_mut(PORTAL).expect("is there").create_contacts = true;
    let email = "grace@example.com";
    // HubSpot says that it is not there; by the time it is made, it is.
    let gone = r#"{"status":"COMPLETE","results":[],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","message":"x","context":{"ids":["grace@example.com"]}}]}"#;
    let proxy = Proxy::start(&world.sandbox.url(), "/contacts/batch/read", move |seen| match seen.number {
        0 => proxy::Fault::Answer(207, None, gone),
        _ => proxy::Fault::None,
    });
    world.through(&proxy);
    let grace = world.sandbox.create_contact(PORTAL, None, &[("email", email)]);
    world.put(Topic::Timeline, &TimelineEvent { person: Person::Email(email.into()), ..nth(1) });
    let sink = world.start();
    let stats = world.settle(&sink, "written", 1);
    assert_eq!((stats.events, stats.dead_letters), (1, 0));
    let snapshot = world.sandbox.snapshot(PORTAL);
    assert_eq!((snapshot.contacts.len(), snapshot.events[0].object_id.as_str()), (2, grace.as_str()));
}

#[test]
fn a_contact_that_never_appears_ends_as_a_dead_letter() {
    let mut world = World::new();
    world.settings.park_for = Duration::from_secs(1);
    let delta = by_email(properties("p1", "", &[("elido_last_utm_source", "x", 1)]), "nobody@example.com");
    world.put(Topic::ContactProperties, &delta);
    let sink = world.start();
    world.flush();
    wait(&sink, "given up", |stats| stats.dead_letters == 1 && stats.caught_up && stats.parked == 0);
    let letters = world.dead_letters(1);
    assert_eq!((letters[0].reason.as_str(), letters[0].source.as_str()), ("no-contact", "hubspot.contact-properties"));
    let payload = STANDARD.decode(&letters[0].payload_base64).expect("base64");
    assert_eq!(serde_json::from_slice::<ContactProperties>(&payload).expect("the record"), delta, "it can be replayed");
    assert!(!letters[0].detail.contains('@'));
}

#[test]
fn one_poisoned_record_takes_no_other_along() {
    let mut world = World::new();
    world.settings.linger = Duration::from_millis(500);
    world.put_bytes(Topic::Timeline, b"{\"v\":1,\"canary\":\"ada@example.com\"");
    for n in 0..150 {
        let mut event = nth(n);
        if n == 77 {
            event.tokens.insert("no_such_token".into(), "x".into());
        }
        world.put(Topic::Timeline, &event);
        let name = if n % 50 == 3 { "no_such_property" } else { "elido_last_utm_medium" };
        let changes = [("elido_last_utm_source", "x", n as u64), (name, "y", n as u64)];
        world.put(Topic::ContactProperties, &properties(&format!("p{n}"), "801", &changes));
    }
    world.put(Topic::ContactProperties, &properties("gone", "999", &[("elido_last_utm_source", "x", 1)]));
    world.put(Topic::ContactProperties, &by_email(properties("odd", "", &[("elido_last_utm_source", "x", 1)]), "no address at all"));
    world.put(Topic::Timeline, &event("clk:gone:4242", "999"));
    let sink = world.start();
    let stats = world.settle(&sink, "all", 304);
    assert_eq!((stats.events, world.sandbox.snapshot(PORTAL).events.len()), (149, 149));
    let mut reasons: Vec<String> = world.dead_letters(7).into_iter().map(|d| format!("{} {}", d.source, d.reason)).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "hubspot.contact-properties contact-gone",
            "hubspot.contact-properties property-refused",
            "hubspot.contact-properties property-refused",
            "hubspot.contact-properties property-refused",
            "hubspot.timeline contact-gone",
            "hubspot.timeline malformed",
            "hubspot.timeline refused",
        ]
    );
    let contact = world.contact("801");
    assert_eq!((contact["elido_last_utm_source"].as_str(), contact["elido_last_utm_medium"].as_str()), ("x", "y"));
    assert_eq!(stats.dead_letters, 7);
}

#[test]
fn a_stop_loses_nothing() {
    let world = World::new();
    for n in 0..1_000 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let mut delivered = 0;
    while delivered < 1_000 {
        let sink = world.start();
        wait(&sink, "some", |stats| stats.events > 0 || stats.caught_up);
        let stats = sink.stop().expect("stops");
        assert_eq!(stats.skipped, 0, "what was in flight at a stop was settled, and offsets passed it");
        delivered += stats.events;
    }
    assert_eq!((delivered, world.sandbox.snapshot(PORTAL).events.len()), (1_000, 1_000));
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture how_fast"]
fn how_fast_the_sink_is_when_nothing_holds_it_back() {
    let mut world = World::with(Config { burst_limit: 1_000_000, ..Config::default() });
    world.settings.budget.requests = 1_000_000;
    // The embedded broker keeps 5 MB a partition.
    const EVENTS: usize = 8_000;
    for n in 0..EVENTS {
        world.put(Topic::Timeline, &nth(n));
    }
    world.flush();
    let began = Instant::now();
    let sink = world.start();
    let stats = world.settle(&sink, "all", EVENTS as u64);
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(stats.events, EVENTS as u64);
    println!("{EVENTS} events in {seconds:.2} s: {:.0} a second, {} calls", EVENTS as f64 / seconds, stats.calls);
}

#[test]
fn what_is_parked_for_an_account_that_is_no_longer_configured_is_given_up_in_time() {
    let mut world = World::with(Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() });
    world.put(Topic::ContactProperties, &by_email(properties("p1", "", &[("elido_last_utm_source", "x", 1)]), "nobody@example.com"));
    let sink = world.start();
    world.flush();
    wait(&sink, "parked", |stats| stats.parked == 1 && stats.caught_up);
    sink.stop().expect("stops");

    // Its time is over when the sink starts; time in which none ran would not count.
    world.settings.park_for = Duration::ZERO;
    let token = world.sandbox.refresh_token("77");
    world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(super::super::Secret::new(token));
    let other = world.settings.portals.remove(PORTAL).expect("is there");
    world.settings.portals.insert("77".to_owned(), other);
    let sink = Sink::start(world.settings.clone(), world.kafka.clone(), vec!["77".to_owned()], &world.state()).expect("starts");
    let stats = wait(&sink, "given up", |stats| stats.parked == 0 && stats.dead_letters == 1);
    assert_eq!(stats.lag, 0);
    let [dead] = world.dead_letters(1).try_into().expect("one");
    assert!(dead.reason == "no-contact" && dead.detail.contains("no longer configured"), "{dead:?}");
    assert_eq!(world.outcome(Topic::ContactProperties, "p1").as_deref(), Some("dead: no-contact"));
}

#[test]
fn records_that_were_deleted_unread_are_counted_and_passed() {
    let world = World::new();
    world.put(Topic::Timeline, &nth(0));
    let sink = world.start();
    world.settle(&sink, "the first", 1);
    sink.stop().expect("stops");
    // The embedded broker keeps five megabytes of a partition.
    let extra_data = serde_json::json!({ "referrer": "x".repeat(200_000) });
    for n in 1..=60 {
        world.put(Topic::Timeline, &TimelineEvent { portal: "999".into(), extra_data: extra_data.clone(), ..nth(n) });
        world.flush();
    }
    world.put(Topic::Timeline, &nth(61));
    let sink = world.start();
    let stats = world.settle(&sink, "the last", 1);
    assert!(stats.lost > 0 && stats.lost + stats.read == 61, "{stats:?}");
    assert_eq!(stats.events, 1);
    sink.stop().expect("stops");
    let sink = world.start();
    let stats = wait(&sink, "again", |stats| stats.caught_up);
    assert_eq!((stats.lost, stats.read), (0, 0), "told once");
}

#[test]
fn a_topic_that_was_made_anew_is_read_from_its_beginning() {
    let world = World::new();
    for n in 0..5 {
        world.put(Topic::Timeline, &nth(n));
    }
    let sink = world.start();
    world.settle(&sink, "all", 5);
    sink.stop().expect("stops");
    let db = rusqlite::Connection::open(world.state()).expect("opens");
    assert_eq!(db.execute("UPDATE offsets SET next = 1000 WHERE next = 5", []).expect("updates"), 1);
    drop(db);
    world.put(Topic::Timeline, &nth(5));
    let sink = world.start();
    let stats = world.settle(&sink, "the sixth", 6);
    assert_eq!((stats.read, stats.skipped, stats.events, stats.lost), (6, 5, 1, 0));
}
