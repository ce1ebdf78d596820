//! The table of connections: copied, edited, put back, sealed anew, away.

use crate::world::*;
use base64::Engine as _;
use clickline::oauth::{Facts, Pending, Row, Seal, TokenError};
use clickline::sinks::hubspot::Secret;
use clickline_sandbox::{Config, Rotation};
use std::time::Duration;

#[test]
fn a_row_put_back_from_a_backup_is_noticed_before_it_burns_the_token() {
    for cluster in clusters() {
        for config in [rotating(), Config::default()] {
            let rotates = config.rotation == Rotation::Always;
            let cluster = cluster.as_ref().map(|_| Cluster::start_if_there().expect("is installed"));
            let world = World::new(config, cluster);
            let connections = world.open();
            let first = access(&connections).expect("a token");
            let [backup] = block_on(world.store().list()).expect("reads").try_into().expect("one row");
            block_on(connections.renew(PORTAL, &first)).expect("another token");
            drop(connections);
            let calls = world.token_calls();

            let [now] = block_on(world.store().list()).expect("reads").try_into().expect("one row");
            assert!(block_on(world.store().swap(Some(now.token_version), &backup)).expect("writes"), "the old row is put back");
            let connections = world.open();
            // HubSpot would say so of the token from the backup.
            let got = block_on(connections.renew(PORTAL, &first));
            if rotates {
                let Err(TokenError::Unusable(why)) = got else { panic!("{got:?}") };
                assert!(why.contains("backup") && why.contains("log in again"), "{why}");
                assert_eq!(world.token_calls(), calls, "HubSpot was not asked");
                // The token in use was not burnt: the newest row, brought back, goes on.
                assert!(block_on(world.store().swap(Some(backup.token_version), &now)).expect("writes"));
                access(&connections).expect("goes on");
            } else {
                got.expect("a token that was never replaced is as good as ever");
                assert_eq!(world.token_calls(), calls + 1);
            }
        }
    }
}

#[test]
fn a_table_from_another_environment_is_not_used() {
    for cluster in clusters() {
        let mut world = World::new(Config::default(), cluster);
        access(&world.open()).expect("a token");
        let calls = world.token_calls();
        let [row] = block_on(world.store().list()).expect("reads").try_into().expect("one row");

        // The same database under a configuration for staging, whose own token is not there yet.
        world.settings.connections.environment = "staging".to_owned();
        world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = None;
        let connections = world.open();
        assert_eq!(access(&connections), Err(TokenError::NotConnected));
        let problem = connections.status().expect("reads").remove(0).problem.expect("a problem");
        assert!(problem.contains("sandbox") && problem.contains("staging"), "{problem}");

        // Somebody renames the row.
        let renamed = clickline::oauth::Stored { environment: "staging".to_owned(), ..row.clone() };
        assert!(block_on(world.store().swap(None, &renamed)).expect("writes"));
        let Err(TokenError::Unusable(why)) = access(&connections) else { panic!("is not used") };
        assert!(why.contains("seal is broken"), "{why}");

        // Somebody edits the row by hand.
        world.settings.connections.environment = "sandbox".to_owned();
        let edited = clickline::oauth::Stored { facts: row.facts.replace("\"attempts\":1", "\"attempts\":0"), ..row.clone() };
        assert_ne!(edited, row);
        assert!(block_on(world.store().swap(Some(row.token_version), &edited)).expect("writes"));
        assert!(matches!(access(&world.open()), Err(TokenError::Unusable(_))));
        let torn = clickline::oauth::Stored { facts: "{".to_owned(), token_version: row.token_version + 1, ..row.clone() };
        assert!(block_on(world.store().swap(Some(row.token_version), &torn)).expect("writes"));
        world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(Secret::new("na1-of-the-configuration"));
        assert!(matches!(access(&world.open()), Err(TokenError::Unusable(_))), "it opens, and leaves the row alone");
        assert_eq!(world.token_calls(), calls, "HubSpot was never asked");
    }
}

#[test]
fn keys_are_changed_and_tokens_are_unreadable_without_them() {
    for cluster in clusters() {
        let mut world = World::new(Config::default(), cluster);
        let key = |id: &str, byte: u8| format!("{id}:{}", base64::engine::general_purpose::STANDARD.encode([byte; 32]));
        let mut with = |keys: String| {
            world.settings.connections.keys = Some(Secret::new(keys));
            world.open()
        };
        let first = access(&with(key("old", 1))).expect("a token");
        assert_eq!(access(&with(format!("{},{}", key("new", 2), key("old", 1)))).expect("opens"), first);
        assert_eq!(access(&with(key("new", 2))).expect("was sealed again at the last start"), first);
        let Err(TokenError::Unusable(why)) = access(&with(key("old", 1))) else { panic!("is not readable") };
        assert!(why.contains("`new`"), "{why}");
        world.settings.connections.keys = Some(Secret::new(key("new", 2)));
        let [row] = block_on(world.store().list()).expect("reads").try_into().expect("one row");
        assert!(!String::from_utf8_lossy(&row.sealed).contains(first.token.reveal()) && !row.facts.contains(first.token.reveal()));
        assert_eq!(world.token_calls(), 1);

        // No key: no start, and what to do.
        world.settings.connections.keys = None;
        if std::env::var_os("CLICKLINE_TOKEN_KEYS").is_none() {
            let said = format!("{:#}", try_open(&world.settings, &world.path()).expect_err("no key"));
            assert!(said.contains("clickline hubspot key"), "{said}");
        }
    }
}

#[test]
fn tokens_of_the_first_version_are_taken_over_and_leave_no_trace() {
    let world = World::new(rotating(), None);
    // As the first version left it: the configured token was replaced since, and the present one is in the table.
    let token = world.sandbox.refresh_token(PORTAL);
    let configured = world.settings.portals[PORTAL].refresh_token.clone().expect("a token");
    let seed = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, configured.reveal().as_bytes());
    let db = rusqlite::Connection::open(world.path()).expect("opens");
    db.execute_batch(
        "CREATE TABLE tokens (portal TEXT PRIMARY KEY, access_token TEXT, refresh_token TEXT NOT NULL, expires_at INTEGER NOT NULL,
         token_version INTEGER NOT NULL, rotations INTEGER NOT NULL, scopes TEXT NOT NULL, seed BLOB) STRICT, WITHOUT ROWID;
         CREATE TABLE ledger (key BLOB PRIMARY KEY, outcome TEXT NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE parked (id INTEGER PRIMARY KEY, ledger_key BLOB NOT NULL UNIQUE, portal TEXT NOT NULL, email TEXT NOT NULL, topic TEXT NOT NULL,
         partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL, key BLOB, payload BLOB NOT NULL, parked_at INTEGER NOT NULL,
         next_at INTEGER NOT NULL, tries INTEGER NOT NULL) STRICT;
         PRAGMA user_version = 1;",
    )
    .expect("makes");
    let row = rusqlite::params![PORTAL, token, seed.as_bytes().as_slice()];
    db.execute("INSERT INTO tokens VALUES (?1, NULL, ?2, 0, 7, 3, 'oauth timeline', ?3)", row).expect("writes");
    drop(db);

    let connections = world.open();
    access(&connections).expect("a token");
    let facts = facts(&connections);
    assert_eq!((facts.rotations, facts.attempts), (4, 1), "counted on");
    drop(connections);
    for file in std::fs::read_dir(world.folder.path()).expect("lists") {
        // A journal may go while we look; what it held is nowhere then.
        let Ok(bytes) = std::fs::read(file.expect("lists").path()) else { continue };
        assert!(!bytes.windows(token.len()).any(|part| part == token.as_bytes()), "no token in the clear");
    }
    access(&world.open()).expect("the configured token, which is older, did not come back");
    assert_eq!(world.token_calls(), 1);
}

#[test]
fn postgres_may_go_away_for_a_while() {
    let Some(cluster) = Cluster::start_if_there() else { return };
    let mut world = World::new(rotating(), Some(cluster));
    let connections = world.open();
    let first = access(&connections).expect("a token");
    world.cluster.as_mut().expect("is there").stop();
    assert_eq!(access(&connections).expect("the last one is remembered"), first);
    let Err(TokenError::Store(_)) = block_on(connections.renew(PORTAL, &first)) else { panic!("no call without a row") };
    assert_eq!(world.token_calls(), 1);
    world.cluster.as_mut().expect("is there").start();
    let second = block_on(connections.renew(PORTAL, &first)).expect("another token");
    assert_ne!(first, second);
    assert_eq!((world.token_calls(), facts(&connections).rotations), (2, 2));
}

#[test]
fn over_tls_postgres_must_be_who_it_says_it_is() {
    let Some((cluster, authority)) = Cluster::start_with_tls_if_there() else { return };
    let mut world = World::new(rotating(), None);
    let stranger = world.folder.path().join("stranger.pem");
    std::fs::write(&stranger, crate::support::postgres::authority().0).expect("writes");
    let mut opened = |host: &str, sslmode: &str, ca_file: Option<&std::path::Path>| {
        world.settings.connections.postgres = Some(Secret::new(cluster.address_over_tls(host, sslmode)));
        world.settings.connections.postgres_ca_file = ca_file.map(std::path::Path::to_owned);
        try_open(&world.settings, &world.path())
    };
    let here = Some(authority.as_path());
    for (host, sslmode, ca_file, word) in [
        ("localhost", "disable", here, "no encryption"),
        ("localhost", "require", None, "postgres_ca_file"),
        ("localhost", "require", Some(stranger.as_path()), "postgres_ca_file"),
        // It is not what the certificate calls it.
        ("127.0.0.1", "require", here, "write the host as the certificate has it"),
        ("localhost", "require", Some(std::path::Path::new("/nowhere/ca.pem")), "/nowhere/ca.pem"),
    ] {
        let said = format!("{:#}", opened(host, sslmode, ca_file).expect_err("is not used"));
        assert!(said.contains(word), "{host} {sslmode}: {said}");
    }
    let first = access(&opened("localhost", "require", here).expect("opens")).expect("a token");
    assert_eq!(access(&opened("localhost", "prefer", here).expect("opens")).expect("the one that is there"), first);
    assert_eq!(world.token_calls(), 1);
}

#[test]
fn an_answer_waits_for_postgres_to_come_back() {
    let Some(cluster) = Cluster::start_if_there() else { return };
    let mut world = World::new(rotating(), Some(cluster));
    let connections = world.open();
    world.sandbox.fault(serde_json::json!({"match": {"path": "/oauth/*/token"}, "fault": {"kind": "delay", "ms": 700}}));
    let mut cluster = world.cluster.take().expect("is there");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| access(&connections));
        wait_for("HubSpot to be asked", || (world.token_calls() == 1).then_some(()));
        cluster.stop();
        // The answer comes now, and there is nowhere to put it.
        std::thread::sleep(Duration::from_secs(2));
        cluster.start();
        asked.join().expect("ends").expect("a token");
    });
    let facts = facts(&connections);
    assert_eq!((facts.rotations, facts.unanswered_since, world.token_calls()), (1, None, 1), "the only copy was kept");
}

#[test]
fn a_call_that_was_begun_is_finished_and_stored_though_nobody_waits() {
    let world = World::new(rotating(), None);
    world.sandbox.fault(serde_json::json!({"match": {"path": "/oauth/*/token"}, "fault": {"kind": "delay", "ms": 500}}));
    let connections = world.open();
    let given_up = block_on(async { tokio::time::timeout(Duration::from_millis(100), connections.access(PORTAL)).await });
    assert!(given_up.is_err(), "it went away before the answer");
    // The process ends as asked.
    drop(connections);
    access(&world.open()).expect("the token that came then");
    assert_eq!(world.token_calls(), 1);
}

#[test]
fn both_tables_keep_what_they_promise() {
    for cluster in clusters() {
        let world = World::new(Config::default(), cluster);
        let store = world.store();
        let seal = Seal::parse(world.settings.connections.keys.as_ref().expect("keys").reveal()).expect("keys");
        let row = |portal: &str, version| {
            let secrets = clickline::oauth::Secrets { access_token: None, refresh_token: "r".to_owned() };
            let row = Row { portal: portal.to_owned(), token_version: version, facts: Facts::default(), secrets };
            seal.close("e", &row).expect("seals")
        };
        block_on(async {
            assert_eq!(store.read("e", "1").await.expect("reads"), None);
            assert!(!store.swap(Some(1), &row("1", 2)).await.expect("writes"), "nothing to change");
            assert!(store.swap(None, &row("1", 1)).await.expect("writes"));
            assert!(!store.swap(None, &row("1", 9)).await.expect("writes"), "there is one");
            let next = row("1", 2);
            assert!(store.swap(Some(1), &next).await.expect("writes"));
            assert!(!store.swap(Some(1), &row("1", 3)).await.expect("writes"), "it is further");
            assert_eq!(store.read("e", "1").await.expect("reads"), Some(next.clone()));
            assert_eq!(store.read("other", "1").await.expect("reads"), None);
            assert!(store.swap(None, &row("0", 1)).await.expect("writes"));
            let portals: Vec<String> = store.list().await.expect("reads").into_iter().map(|row| row.portal).collect();
            assert_eq!(portals, ["0", "1"]);

            let pending = |expires_at| Pending {
                workspace: "acme".into(),
                redirect_uri: "http://localhost/cb".into(),
                browser: vec![7; 32],
                expires_at,
            };
            store.begin_install(b"s1", &pending(10), 1).await.expect("writes");
            store.begin_install(b"s2", &pending(20), 1).await.expect("writes");
            assert_eq!(store.take_install(b"s1").await.expect("reads"), Some(pending(10)));
            assert_eq!(store.take_install(b"s1").await.expect("reads"), None, "once");
            store.begin_install(b"s3", &pending(99), 50).await.expect("writes");
            assert_eq!(store.take_install(b"s2").await.expect("reads"), None, "forgotten");
        });
        // A file or database that is opened again is as it was.
        assert_eq!(block_on(world.store().list()).expect("reads").len(), 2);
    }
}
