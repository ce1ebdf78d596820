//! Connections to HubSpot between processes, crashes and databases, against the sandbox and its log; on SQLite and on a real PostgreSQL.
//!
//! Processes are this test's own program, started again as [`child`].

mod support;

use base64::Engine as _;
use clickline::metrics::Metrics;
use clickline::oauth::{
    Access, CALLBACK, Condition, Connections, Facts, Installer, Pending, Postgres, Row, Seal, Store, TokenError, Why, routes,
};
use clickline::serve::{Bound, Server};
use clickline::sinks::hubspot::{Secret, Settings};
use clickline::state::State;
use clickline_sandbox::{Config, Rotation, Sandbox};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::postgres::Postgres as Cluster;
use support::process::wait_for;

const PORTAL: &str = "4242";
/// Askers in each of two processes.
const ASKERS: usize = 50;

/// A sandbox, a table of connections, and settings that fit both.
struct World {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    cluster: Option<Cluster>,
    settings: Settings,
}

impl World {
    fn new(config: Config, cluster: Option<Cluster>) -> World {
        let sandbox = Sandbox::start(config).expect("a sandbox");
        let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
        let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
        settings.connections.postgres = cluster.as_ref().map(|cluster| Secret::new(cluster.address()));
        // The lease is five seconds longer.
        settings.request_timeout = Duration::from_secs(1);
        World { sandbox, folder: tempfile::tempdir().expect("a folder"), cluster, settings }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn open(&self) -> Connections {
        open(&self.settings, &self.path())
    }

    /// The table itself.
    fn store(&self) -> Box<dyn Store> {
        match &self.cluster {
            Some(cluster) => Box::new(block_on(Postgres::open(&cluster.address())).expect("opens")),
            None => Box::new(State::open(&self.path()).expect("opens")),
        }
    }

    /// Calls to the token endpoint, by the sandbox's log.
    fn token_calls(&self) -> usize {
        self.sandbox.requests().iter().filter(|request| request.path.ends_with("/token")).count()
    }

    /// Starts this program again, to do `what` with the connections.
    fn child(&self, what: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "child", "--ignored", "--nocapture"]);
        let keys = self.settings.connections.keys.as_ref().expect("keys").reveal();
        let token = self.settings.portals[PORTAL].refresh_token.as_ref().expect("a token").reveal();
        command.env("CHILD_DOES", what).env("CHILD_URL", self.sandbox.url()).env("CHILD_KEYS", keys).env("CHILD_TOKEN", token);
        command.env("CHILD_STATE", self.path()).env("CHILD_GATE", self.folder.path().join("gate"));
        if let Some(cluster) = &self.cluster {
            command.env("CHILD_POSTGRES", cluster.address());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn open(settings: &Settings, state: &std::path::Path) -> Connections {
    try_open(settings, state).expect("opens")
}

fn try_open(settings: &Settings, path: &std::path::Path) -> anyhow::Result<Connections> {
    let state = Arc::new(State::open(path)?);
    Connections::open(settings, &state, path, &[PORTAL.to_owned()], Arc::new(Metrics::default()))
}

/// Runs something that may use sockets and timers, PostgreSQL's among them: connections to it live on a thread of their own.
fn block_on<T>(what: impl Future<Output = T>) -> T {
    use std::sync::LazyLock;
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));
    RUNTIME.block_on(what)
}

fn access(connections: &Connections) -> Result<Access, TokenError> {
    block_on(connections.access(PORTAL))
}

fn facts(connections: &Connections) -> Facts {
    let [status] = connections.status().expect("reads").try_into().expect("one portal");
    status.facts.unwrap_or_else(|| panic!("{:?}", status.problem))
}

/// Both kinds of table; PostgreSQL where it is installed.
fn clusters() -> Vec<Option<Cluster>> {
    let mut all = vec![None];
    all.extend(Cluster::start_if_there().map(Some));
    all
}

fn rotating() -> Config {
    // The strictest that a server may be: a refresh token that comes twice ends all that came from it.
    Config { rotation: Rotation::Always, reuse_revokes_family: true, ..Config::default() }
}

/// Not a test: what other tests start as a process of its own.
#[test]
#[ignore = "does nothing unless another test starts it"]
fn child() {
    let Ok(does) = std::env::var("CHILD_DOES") else { return };
    let given = |name: &str| std::env::var(name).expect(name);
    let tokens = BTreeMap::from([(PORTAL.to_owned(), given("CHILD_TOKEN"))]);
    let mut settings = Settings::for_sandbox(&given("CHILD_URL"), "clickline", "sandbox-secret", tokens);
    settings.request_timeout = Duration::from_secs(1);
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
            let world = World::new(config, cluster);
            std::fs::write(world.folder.path().join("gate"), "").expect("opens the gate");
            let killed = world.child("access").env("CLICKLINE_FAILPOINT", "token.answered").status().expect("starts");
            assert!(!killed.success(), "it was killed at the failpoint");
            assert_eq!(world.token_calls(), 1, "HubSpot had answered");

            // The lease of the dead process is waited for, not more.
            let began = Instant::now();
            let connections = world.open();
            let got = access(&connections);
            assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
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
        let bytes = std::fs::read(file.expect("lists").path()).expect("reads");
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

/// A browser that follows nothing by itself.
struct Browser {
    http: reqwest::Client,
    cookie: Option<String>,
}

/// Status, where it leads, and the page.
type Answer = (u16, Option<String>, String);

impl Browser {
    fn new() -> Browser {
        Browser { http: clickline::http::client(Duration::from_secs(5)).expect("a client"), cookie: None }
    }

    fn get(&mut self, address: &str) -> Answer {
        let mut call = self.http.get(address);
        if let Some(cookie) = &self.cookie {
            call = call.header("cookie", format!("other=1; {cookie}"));
        }
        block_on(async {
            let answer = call.send().await.expect("answers");
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let (status, location) = (answer.status().as_u16(), header("location"));
            if let Some(cookie) = header("set-cookie").filter(|cookie| !cookie.contains("Max-Age=0")) {
                assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
                self.cookie = cookie.split(';').next().map(str::to_owned);
            }
            (status, location, answer.text().await.expect("a page"))
        })
    }

    /// Decides on the sandbox's consent page; gives back where it leads.
    fn decide(&self, authorize: &str, portal: &str, decision: &str) -> String {
        let url = url::Url::parse(authorize).expect("an address");
        let mut form: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        form.extend([("portal", portal), ("decision", decision)].map(|(name, value)| (name.to_owned(), value.to_owned())));
        let to = url.join("/oauth/authorize").expect("an address");
        block_on(async {
            let answer = self.http.post(to).form(&form).send().await.expect("answers");
            answer.headers().get("location").expect("leads back").to_str().expect("text").to_owned()
        })
    }
}

#[test]
fn a_browser_installs_the_app_once_and_only_where_it_began() {
    for cluster in clusters() {
        let config = Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() };
        let mut world = World::new(config, cluster);
        world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = None;
        let connections = Arc::new(world.open());
        let bound = Bound::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        let port = bound.address().port();
        let callback = format!("http://localhost:{port}{CALLBACK}");
        let workspaces = BTreeMap::from([("acme".to_owned(), vec![PORTAL.to_owned()]), ("empty".to_owned(), Vec::new())]);
        let installer =
            Installer::new(Arc::clone(&connections), &world.settings.connections, workspaces, callback.clone()).expect("is right");
        let server = Server::start(bound, routes(Arc::new(installer))).expect("starts");
        let at = |path: &str| format!("http://localhost:{port}{path}");
        let mut browser = Browser::new();

        for unknown in ["/oauth/install?workspace=other", "/oauth/install?workspace=empty", "/oauth/install?workspace=%3Cscript%3E"] {
            let (status, location, page) = browser.get(&at(unknown));
            assert!(status == 404 && location.is_none() && !page.contains("<script"), "{page}");
        }
        // What else a request asks for changes nothing about where it leads.
        let (status, location, _) =
            browser.get(&at("/oauth/install?workspace=acme&redirect_uri=https://evil.example&state=mine&next=//evil"));
        let authorize = location.expect("leads to HubSpot");
        assert_eq!(status, 303);
        assert!(
            authorize.starts_with(&format!("{}/oauth/{PORTAL}/authorize?", world.sandbox.url())) && !authorize.contains("evil"),
            "{authorize}"
        );
        assert!(authorize.contains("optional_scope=forms"), "{authorize}");

        // Somebody else's browser is led to the same callback.
        let back = browser.decide(&authorize, PORTAL, "grant");
        assert!(back.starts_with(&callback), "the exact redirect URI");
        let (status, _, page) = Browser::new().get(&back);
        assert!(status == 400 && page.contains("another browser"), "{page}");
        // That used the state up.
        assert_eq!(browser.get(&back).0, 400);
        assert_eq!((world.token_calls(), connections.status().expect("reads")[0].installed), (0, false));

        let begin = |browser: &mut Browser| browser.get(&at("/oauth/install?workspace=acme")).1.expect("leads to HubSpot");
        let authorize = begin(&mut browser);
        let denied = browser.decide(&authorize, PORTAL, "deny");
        let (status, _, page) = browser.get(&denied);
        assert!(status == 400 && page.contains("access_denied"), "{page}");

        let authorize = begin(&mut browser);
        let foreign = browser.decide(&authorize, "77", "grant");
        let (status, _, page) = browser.get(&foreign);
        assert!(status == 502 && page.contains("77") && page.contains("not among the portals"), "{page}");

        let authorize = begin(&mut browser);
        let back = browser.decide(&authorize, PORTAL, "grant");
        let (status, location, page) = browser.get(&back);
        assert!(status == 200 && location.is_none() && page.contains("Connected") && page.contains("acme"), "{page}");
        let facts = facts(&connections);
        assert_eq!((facts.workspace.as_deref(), &facts.condition), (Some("acme"), &Condition::Connected));
        assert!(facts.scopes.contains(&"forms".to_owned()) && facts.scopes.contains(&"crm.objects.deals.write".to_owned()));
        let token = access(&connections).expect("a token").token;
        assert!(!page.contains(token.reveal()) && !page.contains("http"), "no token and nothing from outside: {page}");
        assert_eq!(browser.get(&back).0, 400, "the state counts once");

        for odd in ["?code=x", "?state=", "?state=x&code=y", "?error=%3Cb%3E&state=x", ""] {
            let (status, location, page) = browser.get(&at(&format!("{CALLBACK}{odd}")));
            assert!(status == 400 && location.is_none() && !page.contains("<b>"), "{odd}: {page}");
        }
        server.stop();
    }
}
