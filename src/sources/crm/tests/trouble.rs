//! What HubSpot does to a reader: failures, limits, an index that is behind, a journal that forgets.

use super::super::client::Client;
use super::super::object::Object;
use super::*;
use crate::sources::trouble::Trouble;
use clickline_sandbox::{Clock, JournalEnd};

/// How often everything was read.
fn loads(crm: &Crm) -> u64 {
    Stats::of(&crm.metrics, PORTAL).loads.get()
}

#[test]
fn a_search_finds_what_its_index_shows_late_and_hundreds_of_changes_in_one_millisecond() {
    block_on(async {
        let (clock, hand) = Clock::manual(time::now());
        let config =
            Config { burst_limit: 100_000, search_limit: 100_000, search_delay: Duration::from_secs(20), clock, ..Config::default() };
        let world = World::around(Sandbox::start(config).expect("a sandbox"));
        let ids: Vec<String> =
            (0..450).map(|at| world.sandbox.create_contact(PORTAL, None, &[("email", &format!("{at}@example.com"))])).collect();
        hand.advance(Duration::from_secs(600));
        let mut crm = world.crm(Changes::Search);
        (crm.settings.reload_every, crm.settings.overlap, crm.settings.every) = (Some(3_600_000), 60_000, 1_000);
        let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
        let began = Instant::now();
        while loads(&crm) == 0 {
            assert!(began.elapsed() < PATIENCE, "the load does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.agrees().await;
        // All in one millisecond, which the index does not show yet; and a later one that it shows first would hide them.
        for id in &ids {
            world.sandbox.edit_contact(PORTAL, id, &[("email", &format!("new-{id}@example.com"))]);
        }
        world.sandbox.merge_contacts(PORTAL, &ids[0], &ids[1]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        hand.advance(Duration::from_secs(5));
        world.sandbox.create_contact(PORTAL, None, &[("email", "later@example.com")]);
        hand.advance(Duration::from_secs(20));
        world.agrees().await;
        world.says_nothing_twice().await;
        assert_eq!(loads(&crm), 1, "by search alone");
        running.abort();
    });
}

#[test]
fn whatever_hubspot_answers_the_mirror_is_right_in_the_end() {
    block_on(async {
        let world = World::new();
        for at in 0..3 {
            let contact = world.sandbox.create_contact(PORTAL, None, &[("email", &format!("{at}@example.com"))]);
            world.sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled")], &[&contact]);
        }
        let reply = |path: &str, status: u16, more: Value| {
            let mut fault = json!({ "kind": "reply", "status": status });
            fault.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            world.sandbox.fault(json!({ "match": { "path": path, "times": 1 }, "fault": fault }));
        };
        reply("/crm/*/contacts", 502, json!({ "body": "<html>Bad Gateway</html>" }));
        reply("/crm/*/deals", 429, json!({ "retry_after": 1 }));
        reply("/crm/*/contacts/batch/read", 500, json!({}));
        world.sandbox.fault(json!({ "match": { "path": "*/associations/*", "times": 1 }, "fault": { "kind": "close" } }));
        let nothing = json!({ "kind": "reply", "status": 200, "body": { "status": "COMPLETE", "results": [] } });
        world.sandbox.fault(json!({ "match": { "path": "*/associations/*", "times": 1, "skip": 1 }, "fault": nothing }));
        world
            .sandbox
            .fault(json!({ "match": { "path": "/webhooks-journal/journal*", "times": 1, "skip": 2 }, "fault": { "kind": "close" } }));
        let running = tokio::task::spawn_local(mirror(world.crm(Changes::Journal), vec![]));
        world.agrees().await;
        let ids: Vec<String> = world.sandbox.snapshot(PORTAL).contacts.into_iter().map(|contact| contact.id).collect();
        world.sandbox.expire_access_tokens(PORTAL);
        world.sandbox.merge_contacts(PORTAL, &ids[0], &ids[1]);
        world.sandbox.archive_contact(PORTAL, &ids[2]);
        world.agrees().await;
        world.says_nothing_twice().await;
        running.abort();
    });
}

#[test]
fn a_journal_that_nobody_read_for_three_days_is_not_trusted() {
    block_on(async {
        let config = Config { burst_limit: 100_000, journal_end: JournalEnd::NotFound, ..Config::default() };
        let world = World::around(Sandbox::start(config).expect("a sandbox"));
        let id = world.sandbox.create_contact(PORTAL, None, &[("email", "ada@example.com")]);
        let mut crm = world.crm(Changes::Journal);
        crm.settings.reload_every = Some(30 * time::DAY);
        let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
        world.agrees().await;
        world.sandbox.edit_contact(PORTAL, &id, &[("email", "grace@example.com")]);
        world.agrees().await;
        running.abort();
        // Two days later the journal is good enough; four days later everything is read again.
        for (days, wanted) in [(2, 1), (4 + 2, 2)] {
            crm.now = Arc::new(move || time::now() + days * time::DAY);
            world.sandbox.edit_contact(PORTAL, &id, &[("email", &format!("{days}@example.com"))]);
            let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
            world.agrees().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(loads(&crm), wanted, "after {days} days");
            running.abort();
        }
        world.says_nothing_twice().await;
    });
}

#[test]
fn a_missing_scope_is_named() {
    block_on(async {
        let mut world = World::new();
        let token = world.sandbox.refresh_token_for(PORTAL, "clickline", &["oauth", "crm.objects.contacts.read"]);
        world.settings.portals.get_mut(PORTAL).expect("the portal").refresh_token = Some(crate::sinks::hubspot::Secret::new(token));
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Arc::new(Metrics::default());
        let service = Service::open(&world.settings, &folder.path().join("state.db"), &[PORTAL.to_owned()], metrics).expect("a service");
        let client = Client::new(Arc::new(service), PORTAL, world.settings.paths.clone(), 100, Duration::from_secs(10));
        client.list(Object::Contacts, None).await.expect("contacts may be read");
        let trouble = client.list(Object::Deals, None).await.expect_err("deals may not");
        assert!(matches!(&trouble, Trouble::Stuck(why) if why.contains("crm.objects.deals.read")), "{trouble}");
    });
}

#[test]
fn a_success_that_names_no_record_does_not_say_that_it_is_gone() {
    block_on(async {
        let world = World::new();
        let id = world.sandbox.create_contact(PORTAL, None, &[("email", "ada@example.com")]);
        let client = Client::new(Arc::clone(&world.service), PORTAL, world.settings.paths.clone(), 100, Duration::from_secs(10));
        let number = id.parse().expect("a number");
        for said in [json!({ "page": "empty" }), json!({ "body": {} }), json!({ "body": [] })] {
            let mut fault = json!({ "kind": "reply", "status": 200 });
            fault.as_object_mut().expect("an object").extend(said.as_object().expect("an object").clone());
            world.sandbox.fault(json!({ "match": { "path": format!("/crm/*/contacts/{id}"), "times": 1 }, "fault": fault }));
            let trouble = client.one(Object::Contacts, number).await.expect_err("nothing is known");
            assert!(matches!(trouble, Trouble::Later(..)), "{trouble}");
            assert!(client.one(Object::Contacts, number).await.expect("reads").is_some(), "it is there");
        }
    });
}

#[test]
fn reading_keeps_to_its_part_of_the_budget() {
    block_on(async {
        let world = World::new();
        let client = Client::new(Arc::clone(&world.service), PORTAL, world.settings.paths.clone(), 3, Duration::from_millis(400));
        let began = Instant::now();
        for _ in 0..7 {
            client.list(Object::Contacts, None).await.expect("a page");
        }
        assert!(began.elapsed() >= Duration::from_millis(800), "seven requests are three windows of three: {:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..5 {
            client
                .search(Object::Contacts, json!({ "filterGroups": [], "sorts": [], "properties": [], "limit": 1, "after": "0" }))
                .await
                .expect("results");
        }
        assert!(began.elapsed() >= Duration::from_secs(1), "the fifth search is in the next second: {:?}", began.elapsed());
        assert_eq!(world.service.rate_limited.load(std::sync::atomic::Ordering::Relaxed), 0);
    });
}
