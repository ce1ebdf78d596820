//! An answer of the token endpoint that finds the row changed.

use super::super::endpoint::Grant;
use super::super::row::{Condition, Lease, Secrets};
use super::super::seal::Seal;
use super::*;
use crate::oauth::Configured as _;
use crate::sinks::hubspot::Settings;
use crate::state::State;

#[test]
fn a_connection_that_nobody_uses_is_refreshed_once_a_week() {
    use crate::model::time::{DAY, now};
    let sandbox = clickline_sandbox::Sandbox::start(clickline_sandbox::Config::default()).expect("a sandbox");
    let settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", BTreeMap::new());
    let (_folder, mut keeper, _, claimed) = claimed();
    keeper.endpoint = Some(Endpoint::new(settings.app().expect("is right")).expect("is right"));
    let secrets = Secrets { access_token: Some("old".to_owned()), refresh_token: sandbox.refresh_token("4242") };
    run(async {
        let mut version = claimed.token_version;
        for (days, calls) in [(6, 0), (8, 1), (0, 1)] {
            let at = now() - days * DAY;
            let facts = Facts { client_id: "clickline".to_owned(), refreshed_at: at, expires_at: at + 1_800_000, ..Facts::default() };
            let row = Row { portal: "4242".to_owned(), token_version: version + 10, facts, secrets: secrets.clone() };
            assert!(keeper.swap(version, &row).await.expect("writes"));
            keeper.keep_alive().await;
            version = keeper.row("4242").await.expect("opens").token_version;
            assert_eq!(sandbox.requests().len(), calls, "{days} days");
        }
    });
}

/// A keeper over a new file, with a row at version 1; and its own process's claim on it.
fn claimed() -> (tempfile::TempDir, Keeper, Row, Row) {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings::for_sandbox("http://127.0.0.1:1", "app", "secret", BTreeMap::new());
    let keeper = Keeper {
        environment: "e".to_owned(),
        store: Arc::new(State::open(&folder.path().join("state.db")).expect("opens")),
        seal: settings.connections.read_seal().expect("keys"),
        witness: Witness::open(&folder.path().join("witness"), "e").expect("opens"),
        endpoint: Some(Endpoint::new(settings.app().expect("is right")).expect("is right")),
        portals: BTreeMap::from([("4242".to_owned(), Link::App(tokio::sync::Mutex::default()))]),
        seeds: BTreeMap::new(),
        events: BTreeMap::new(),
        holder: "me".to_owned(),
        lease_for: 20_000,
        spread: 0.0,
        now: crate::model::time::now,
        metrics: Arc::default(),
        refreshes: AtomicU64::new(0),
        open_calls: AtomicUsize::new(0),
        scopes: Mutex::default(),
        revived: Mutex::default(),
        accepted: Mutex::default(),
    };
    let secrets = Secrets { access_token: None, refresh_token: "r0".to_owned() };
    let facts = Facts { client_id: "app".to_owned(), ..Facts::default() };
    let called = Row { portal: "4242".to_owned(), token_version: 1, facts, secrets };
    let lease = Some(Lease { holder: "me".to_owned(), until: crate::model::time::now() + 20_000 });
    let claimed = Row { token_version: 2, facts: Facts { lease, ..called.facts.clone() }, ..called.clone() };
    assert!(run(keeper.store.swap(None, &keeper.seal.close("e", &claimed).expect("seals"))).expect("writes"));
    (folder, keeper, called, claimed)
}

fn run<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}

fn granted() -> Reply {
    let grant = Grant {
        access_token: "a1".to_owned(),
        refresh_token: Some("r1".to_owned()),
        lifetime: Duration::from_secs(1800),
        scopes: vec!["oauth".to_owned()],
        hub_id: None,
    };
    Reply::Granted(grant)
}

/// Another process changes the row, then our answer comes.
fn after(change: impl FnOnce(&mut Row), reply: Reply) -> (RefreshResult, Row) {
    let (_folder, keeper, called, claimed) = claimed();
    let mut other = claimed.clone();
    change(&mut other);
    other.token_version += 1;
    run(async {
        assert!(keeper.swap(claimed.token_version, &other).await.expect("writes"));
        let endpoint = keeper.endpoint.as_ref().expect("an app");
        let result = keeper.keep(endpoint, &called, claimed, reply).await.expect("is stored or thrown away");
        (result, keeper.row("4242").await.expect("opens"))
    })
}

fn lease_of_another(row: &mut Row) {
    row.facts.lease = Some(Lease { holder: "other".to_owned(), until: crate::model::time::now() + 20_000 });
}

#[test]
fn an_answer_whose_lease_ran_out_is_still_the_newest() {
    let (result, row) = after(lease_of_another, granted());
    assert_eq!((result, row.secrets.refresh_token.as_str(), row.token_version), (RefreshResult::Ok, "r1", 4));
}

#[test]
fn an_answer_heals_a_row_that_another_process_gave_up() {
    // It asked with the refresh token that our call had used up, and was refused.
    let (result, row) = after(|row| row.facts.condition = Condition::ReinstallRequired(Why::Refused), granted());
    assert_eq!((result, row.secrets.refresh_token.as_str()), (RefreshResult::Ok, "r1"));
    assert_eq!(row.facts.condition, Condition::Connected);
}

#[test]
fn newer_tokens_of_another_process_win() {
    let newer = |row: &mut Row| row.secrets = Secrets { access_token: Some("a2".to_owned()), refresh_token: "r2".to_owned() };
    for reply in [granted(), Reply::Dead] {
        let (result, row) = after(newer, reply);
        assert_eq!((result, row.secrets.refresh_token.as_str()), (RefreshResult::Overtaken, "r2"));
        assert_eq!(row.facts.condition, Condition::Connected, "a refusal of the old token says nothing of the new one");
    }
}

#[test]
fn a_refusal_leaves_the_row_to_whoever_has_the_lease() {
    let (result, row) = after(lease_of_another, Reply::Dead);
    assert_eq!((result, row.facts.condition, row.token_version), (RefreshResult::BadRefreshToken, Condition::Connected, 3));
}

#[test]
fn what_the_seal_hides_is_not_in_what_is_logged() {
    let (_folder, keeper, called, _) = claimed();
    let said = format!("{keeper:?} {called:?} {:?} {:?}", granted(), Seal::Off);
    for secret in ["r0", "r1", "a1", "secret\""] {
        assert!(!said.contains(&format!("\"{secret}")), "{said}");
    }
}

#[test]
fn a_trial_revives_its_own_portal_once_hubspot_has_accepted_the_token() {
    let (_folder, keeper, called, claimed) = claimed();
    let facts = |forced_at| Facts { forced_at, expires_at: crate::model::time::now() + 1_800_000, ..called.facts.clone() };
    let row = |version, forced_at, token: &str| {
        let secrets = Secrets { access_token: Some(token.to_owned()), refresh_token: "r0".to_owned() };
        Row { token_version: version, facts: facts(forced_at), secrets, portal: "4242".to_owned() }
    };
    let revived = |portal: &str| keeper.revived.lock().expect("unpoisoned").get(portal).copied().unwrap_or(0);
    let shut = async || {
        let Some(Link::App(cell)) = keeper.portals.get("4242") else { panic!("an app") };
        cell.lock().await.said = Some(TokenError::Disconnected(Why::AccessRefused));
    };
    run(async {
        shut().await;
        assert!(keeper.swap(claimed.token_version, &row(3, 1, "a1")).await.expect("writes"));
        let access = keeper.get("4242", None).await.expect("a token");
        keeper.look_for_logins().await;
        assert_eq!(revived("4242"), 0, "it may be refused as those before");
        keeper.accepted("4242", &access);
        keeper.look_for_logins().await;
        assert_eq!(keeper.get("4242", None).await.expect("a token"), access);
        assert_eq!((revived("4242"), revived("77")), (1, 0), "once, and no other portal");

        // A new installation is no trial.
        shut().await;
        assert!(keeper.swap(3, &row(4, 0, "a2")).await.expect("writes"));
        keeper.look_for_logins().await;
        assert_eq!(revived("4242"), 2);
    });
}
