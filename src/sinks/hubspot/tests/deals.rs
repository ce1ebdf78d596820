//! Deals: read before they are moved, in order, never twice.

use super::proxy::Fault;
use super::*;
use crate::model::outputs::Guard;

fn qualified(world: &World, id: &str) {
    world.sandbox.create_deal(PORTAL, Some(id), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
}

#[test]
fn a_deal_that_no_longer_qualifies_stays() {
    let world = World::new();
    let stage = [("dealstage", "appointmentscheduled")];
    world.sandbox.create_contact(PORTAL, Some("802"), &[("email", "other@example.com")]);
    qualified(&world, "1");
    world.sandbox.create_deal(PORTAL, Some("2"), &[stage[0], ("amount", "4999")], &["801"]);
    world.sandbox.create_deal(PORTAL, Some("3"), &[stage[0]], &["801"]);
    world.sandbox.create_deal(PORTAL, Some("4"), &[stage[0], ("amount", "12000")], &["802"]);
    world.sandbox.create_deal(PORTAL, Some("5"), &[stage[0], ("amount", "12000")], &[]);
    world.sandbox.create_deal(PORTAL, Some("6"), &[("dealstage", "contractsent"), ("amount", "12000")], &["801"]);
    world.sandbox.create_deal(PORTAL, Some("7"), &[("dealstage", "qualifiedtobuy"), ("amount", "12000")], &["801"]);
    qualified(&world, "8");
    for n in 1..=7 {
        world.put(Topic::DealStages, &nth_stage(n, &n.to_string()));
    }
    world.put(Topic::DealStages, &DealStage { shadow: true, ..nth_stage(8, "8") });
    world.put(Topic::DealStages, &nth_stage(9, "999"));
    let sink = world.start();
    let stats = world.settle(&sink, "all", 9);
    assert_eq!((stats.stages, stats.dropped, stats.shadow, stats.dead_letters), (1, 6, 1, 1));
    assert_eq!(world.deal("1"), "qualifiedtobuy");
    assert_eq!(world.deal("6"), "contractsent");
    assert_eq!(world.deal("8"), "appointmentscheduled", "a shadow writes nothing");
    let outcomes: Vec<String> = (1..=9).filter_map(|n| world.outcome(Topic::DealStages, &format!("s{n}"))).collect();
    assert_eq!(
        outcomes,
        [
            "delivered",
            "dropped: amount",
            "dropped: amount",
            "dropped: not-associated",
            "dropped: not-associated",
            "dropped: other-stage",
            "dropped: already-there",
            "shadow",
            "dead: deal-gone",
        ]
    );
    assert_eq!(world.dead_letters(1)[0].reason, "deal-gone");
}

#[test]
fn the_steps_of_one_deal_are_applied_in_order() {
    let world = World::new();
    let ids: Vec<String> = (1..=120).map(|n| n.to_string()).collect();
    for id in &ids {
        qualified(&world, id);
        world.put(Topic::DealStages, &stage(&format!("a{id}"), id));
        let second = DealStage { from_stage: "qualifiedtobuy".into(), to_stage: "contractsent".into(), ..stage(&format!("b{id}"), id) };
        world.put(Topic::DealStages, &second);
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 240);
    assert_eq!((stats.stages, stats.dropped), (240, 0));
    for deal in world.sandbox.snapshot(PORTAL).deals {
        let stages: Vec<&str> = deal.stages.iter().map(|s| s.stage.as_str()).collect();
        assert_eq!(stages, ["appointmentscheduled", "qualifiedtobuy", "contractsent"], "deal {}", deal.id);
    }
}

#[test]
fn a_merged_contact_still_counts_as_associated() {
    let world = World::new();
    world.sandbox.create_contact(PORTAL, Some("77"), &[("email", "old@example.com")]);
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["77"]);
    world.sandbox.merge_contacts(PORTAL, "801", "77");
    // The deltas were made before the merge was known.
    let survivor = world.sandbox.snapshot(PORTAL).deal("1").expect("the deal").contact_ids.clone();
    assert!(!survivor.contains(&"77".to_owned()));
    world.put(Topic::DealStages, &DealStage { person: Some(Person::ContactId("77".into())), ..nth_stage(1, "1") });
    world.put(Topic::ContactProperties, &properties("p1", "77", &[("elido_last_utm_source", "x", 1)]));
    world.put(Topic::Timeline, &event("clk:c1:4242", "77"));
    let sink = world.start();
    let stats = world.settle(&sink, "all", 3);
    assert_eq!((stats.stages, stats.properties, stats.events, stats.dead_letters), (1, 1, 1, 0), "{stats:?}");
    assert_eq!(world.deal("1"), "qualifiedtobuy");
    assert_eq!(world.contact(&survivor[0])["elido_last_utm_source"], "x");
}

#[test]
fn persons_known_by_address_are_looked_up_together() {
    let world = World::new();
    let all = 60;
    for n in 1..=all {
        let (contact, deal, email) = ((1_000 + n).to_string(), n.to_string(), format!("u{n}@example.com"));
        world.sandbox.create_contact(PORTAL, Some(&contact), &[("email", &email)]);
        world.sandbox.create_deal(PORTAL, Some(&deal), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &[&contact]);
        world.put(Topic::DealStages, &DealStage { person: Some(Person::Email(email)), ..nth_stage(n, &deal) });
    }
    qualified(&world, "900");
    world.put(Topic::DealStages, &DealStage { person: Some(Person::Email("nobody@example.com".into())), ..nth_stage(900, "900") });
    let sink = world.start();
    let stats = world.settle(&sink, "all", all as u64 + 1);
    assert_eq!((stats.stages, stats.dropped, stats.dead_letters), (all as u64, 1, 0), "{stats:?}");
    assert_eq!(world.deal("900"), "appointmentscheduled", "nobody has this address");
    let one_by_one = world.sandbox.requests().iter().filter(|r| r.method == "GET" && r.path.contains("/contacts/")).count();
    assert_eq!(one_by_one, 0, "requests for one contact");
    assert!(world.posts("/objects/2026-03/contacts/batch/read") <= world.posts("/objects/2026-03/deals/batch/read"));
}

#[test]
fn a_deals_own_links_need_no_contact() {
    let world = World::new();
    world.sandbox.create_deal(PORTAL, Some("1"), &[("dealstage", "appointmentscheduled")], &[]);
    let guard = Guard { require_associated_contact: false, deal_amount_min: None };
    world.put(Topic::DealStages, &DealStage { person: None, guard, ..nth_stage(1, "1") });
    let sink = world.start();
    assert_eq!(world.settle(&sink, "moved", 1).stages, 1);
    assert_eq!(world.deal("1"), "qualifiedtobuy");
}

#[test]
fn a_lost_answer_moves_no_deal_a_second_time() {
    let mut world = World::new();
    // The first write is applied and its answer lost.
    let proxy = Proxy::start(&world.sandbox.url(), "/deals/batch/update", |seen| match seen.number {
        0 => Fault::Lose,
        _ => Fault::None,
    });
    world.through(&proxy);
    qualified(&world, "1");
    world.put(Topic::DealStages, &nth_stage(1, "1"));
    let sink = world.start();
    let stats = world.settle(&sink, "moved", 1);
    assert_eq!((stats.stages, stats.dropped, stats.retried), (1, 0, 1));
    assert_eq!(world.posts("/deals/batch/update"), 1, "the second try read and saw that it was done");
    let snapshot = world.sandbox.snapshot(PORTAL);
    assert_eq!(snapshot.deal("1").expect("the deal").stages.len(), 2);
}

#[test]
fn deals_are_moved_once_whenever_the_sink_is_killed() {
    let world = World::new();
    // All of one contact.
    for n in 1..=500 {
        qualified(&world, &n.to_string());
        world.put(Topic::DealStages, &nth_stage(n, &n.to_string()));
    }
    world.flush();
    for calls in [3, 6, 9] {
        let sink = world.start();
        // In the middle of read, associations, write: at whichever of them it is.
        wait(&sink, "some calls", |stats| stats.calls >= calls || stats.caught_up);
        sink.kill();
    }
    let sink = world.start();
    let stats = wait(&sink, "all", |stats| stats.caught_up);
    assert_eq!(stats.dead_letters, 0);
    for deal in world.sandbox.snapshot(PORTAL).deals {
        let stages: Vec<&str> = deal.stages.iter().map(|s| s.stage.as_str()).collect();
        assert_eq!(stages, ["appointmentscheduled", "qualifiedtobuy"], "deal {}", deal.id);
    }
}

/// Of each deal that earned its stage the log says in one line what became of it, with the rule and, where it stays, why.
#[test]
fn every_stage_delta_leaves_one_line_in_the_log() {
    log::listen();
    let mut world = World::new();
    let stage = [("dealstage", "appointmentscheduled")];
    let [moved, small, gone, invalid, raced] = ["60001", "60002", "60003", "60004", "60005"];
    for deal in [moved, invalid, raced] {
        qualified(&world, deal);
    }
    world.sandbox.create_deal(PORTAL, Some(small), &[stage[0], ("amount", "4999")], &["801"]);
    let refused = r#"{"status":"error","category":"VALIDATION_ERROR","message":"closedate is required","correlationId":"x"}"#;
    let sandbox = world.sandbox.url();
    let proxy = Proxy::start(&sandbox, "/deals/batch/update", move |seen| match seen.path.ends_with("/deals/batch/update") {
        // A try that is repeated adds no line.
        true if seen.number == 0 => Fault::Answer(503, None, "{}"),
        // Alone or among others: the batch is halved until it is alone.
        true if seen.body.contains(invalid) => Fault::Answer(400, None, refused),
        _ => Fault::None,
    });
    world.through(&proxy);
    for (n, deal) in [moved, small, gone, invalid, raced].into_iter().enumerate() {
        world.put(Topic::DealStages, &nth_stage(600 + n, deal));
    }
    // A person has moved it, and back, since the rule was hot: it is moved all the same, once.
    world.sandbox.edit_deal(PORTAL, raced, &[("dealstage", "contractsent")]);
    world.sandbox.edit_deal(PORTAL, raced, &[("dealstage", "appointmentscheduled")]);
    let sink = world.start();
    let stats = world.settle(&sink, "all", 5);
    assert_eq!((stats.stages, stats.dropped, stats.dead_letters), (2, 1, 2));
    assert!(stats.retried > 0);
    // Read again from the beginning, nothing is said twice.
    sink.stop().expect("stops");
    back_to_the_beginning(&world);
    let sink = world.start();
    assert_eq!(wait(&sink, "again", |stats| stats.caught_up && stats.skipped == 5).stages, 0);
    sink.stop().expect("stops");
    let lines = log::lines();
    for (deal, words) in [
        (moved, "deal moved"),
        (raced, "deal moved"),
        (small, "reason=\"amount\""),
        (gone, "reason=\"deal-gone\""),
        (invalid, "reason=\"validation\""),
    ] {
        let of: Vec<&String> = lines.iter().filter(|line| line.contains(&format!("deal=\"{deal}\""))).collect();
        let [line] = of.as_slice() else { panic!("{deal}: {of:#?}") };
        assert!(line.contains(words) && line.contains("sales-collateral"), "{deal}: {line}");
    }
}

#[test]
fn a_persons_move_that_was_overwritten_is_told() {
    log::listen();
    let world = World::new();
    let [raced, calm] = ["61001", "61002"];
    qualified(&world, raced);
    qualified(&world, calm);
    // The person is quicker than the request that follows the read.
    world.sandbox.fault(serde_json::json!({
        "match": {"path": "*/deals/batch/update", "nth": [1]},
        "fault": {"kind": "edit", "object": "deals", "id": raced, "properties": {"dealstage": "contractsent"}},
    }));
    for (n, deal) in [raced, calm].into_iter().enumerate() {
        world.put(Topic::DealStages, &nth_stage(610 + n, deal));
    }
    let sink = world.start();
    let stats = world.settle(&sink, "moved", 2);
    assert_eq!(stats.stages, 2);
    wait(&sink, "the histories to be read", |stats| stats.overwritten == 1);
    let of = |deal: &str| {
        let named = format!("deal=\"{deal}\"");
        log::lines().into_iter().filter(|line| line.contains(&named)).collect::<Vec<String>>()
    };
    let [moved, overwrote] = of(raced).try_into().expect("two lines");
    assert!(moved.contains("deal moved"), "{moved}");
    for word in ["WARN", "deal_move_overwrote", "stage=\"contractsent\"", "to_stage=\"qualifiedtobuy\"", "sales-collateral"] {
        assert!(overwrote.contains(word), "{word}: {overwrote}");
    }
    assert_eq!(of(calm).len(), 1);
    // It is told, and nothing else is done about it.
    sink.stop().expect("stops");
    let stages = |deal: &str| world.sandbox.snapshot(PORTAL).deal(deal).expect("the deal").stages.len();
    assert_eq!((stages(raced), stages(calm)), (3, 2));
}

/// Forgets how far a stopped sink had read.
fn back_to_the_beginning(world: &World) {
    let db = rusqlite::Connection::open(world.state()).expect("opens");
    db.execute("DELETE FROM offsets", []).expect("forgets");
}
