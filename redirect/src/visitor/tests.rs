//! Tests of the judge: each reason, each policy, files that change while it works.

use super::*;
use crate::identity::{EidPolicy, Scope, sign};
use crate::query::pairs;
use proptest::prelude::*;
use std::collections::HashSet;

const NOW: u64 = 1_763_800_000_123;
const KEY: &str = "k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const SAFARI: &[u8] =
    b"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";

fn person<'a>() -> Visitor<'a> {
    Visitor { user_agent: Some(SAFARI), ..Visitor::default() }
}

fn judge(config: VisitorConfig) -> Judge {
    Judge::new(Arc::new(Visitors::new(config).expect("the configuration is fine")))
}

/// The contact and what is known of a click on `w`'s link `d/s`.
fn click<'a>(judge: &'a mut Judge, query: &str, visitor: &Visitor<'_>, client: &str, now: u64) -> (Option<String>, Known<'a>) {
    let mut marks = Marks::of(&pairs(query).collect());
    let known = judge.look("w", "d/s", &mut marks, visitor, client.parse().expect("an address"), now);
    (marks.eid.map(Cow::into_owned), known)
}

#[test]
fn every_reason_and_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scanners, offices, agents) = (folder.path().join("scanners"), folder.path().join("offices"), folder.path().join("agents"));
    std::fs::write(&scanners, "192.0.2.0/24\n").expect("written");
    std::fs::write(&offices, "203.0.113.0/24\n").expect("written");
    std::fs::write(&agents, r#"[{"pattern": "SecretProbe"}]"#).expect("written");
    let mut judge = judge(VisitorConfig {
        scanner_networks: Some(scanners),
        burst_except: Some(offices),
        bot_agents: Some(agents),
        burst: bots::BurstConfig { client: "3/2s".parse().ok(), ..Default::default() },
        ..VisitorConfig::default()
    });
    let bot = |judge: &mut Judge, visitor: Visitor<'_>, client| click(judge, "", &visitor, client, NOW).1.bot.map(Reason::label);
    let with = |words: &'static [u8]| Visitor { user_agent: Some(words), ..Visitor::default() };
    assert_eq!(bot(&mut judge, person(), "198.51.100.1"), None);
    assert_eq!(bot(&mut judge, Visitor { head: true, prefetch: true, ..person() }, "192.0.2.1"), Some("head"));
    assert_eq!(bot(&mut judge, Visitor { prefetch: true, ..with(b"Slackbot 1.0") }, "192.0.2.1"), Some("prefetch"));
    assert_eq!(bot(&mut judge, with(b"Slackbot 1.0"), "192.0.2.1"), Some("link-preview"));
    assert_eq!(bot(&mut judge, with(b"curl/8"), "192.0.2.1"), Some("user-agent"));
    assert_eq!(bot(&mut judge, with(b"Mozilla/5.0 (Windows NT 10.0) Chrome/1 SecretProbe"), "198.51.100.2"), Some("user-agent"));
    assert_eq!(bot(&mut judge, Visitor::default(), "198.51.100.2"), Some("user-agent"));
    assert_eq!(bot(&mut judge, person(), "192.0.2.1"), Some("network"));
    assert_eq!(bot(&mut judge, person(), "::ffff:192.0.2.1"), Some("network"));
    let burst: Vec<_> = (0..3).map(|_| bot(&mut judge, person(), "198.51.100.9")).collect();
    assert_eq!(burst, [None, None, Some("burst")]);
    assert!((0..20).all(|_| bot(&mut judge, person(), "203.0.113.5").is_none()), "an office may");
}

proptest! {
    /// No page that a visitor comes from makes a click a machine's, or a person's: whoever sends the header writes into it what he likes.
    #[test]
    fn a_referrer_decides_nothing(
        referrer in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), "https?://[a-z.]{1,30}(bot|crawler|semalt|slack)[a-z./]{0,20}".prop_map(String::into_bytes)],
        agent in prop_oneof![Just(SAFARI), Just(&b"curl/8"[..]), Just(&b"Slackbot 1.0"[..]), Just(&b""[..])],
        head: bool,
        prefetch: bool,
    ) {
        let without = Visitor { user_agent: Some(agent), head, prefetch, ..Visitor::default() };
        let with = Visitor { referrer: Some(&referrer), ..without };
        let [expected, found] = [without, with].map(|visitor| {
            let mut judge = judge(VisitorConfig::default());
            let (eid, known) = click(&mut judge, "eid=801", &visitor, "198.51.100.1", NOW);
            (eid, known.agent.to_vec(), known.country, known.client, known.bot)
        });
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn fifty_clicks_in_a_second_do_not_move_a_deal() {
    let limits = bots::BurstConfig { contact: "5/2s".parse().ok(), links: "3/2s".parse().ok(), client: None };
    let mut judge = judge(VisitorConfig { burst: limits, ..VisitorConfig::default() });
    let people =
        (0..50_u64).filter(|n| click(&mut judge, "eid=801", &person(), &format!("198.51.100.{n}"), NOW + n * 20).1.bot.is_none()).count();
    assert_eq!(people, 4, "what was answered before the burst was known");
    // An ad click id stands for a person, the destination's own does not.
    let found = (0..5).filter(|_| click(&mut judge, "gclid=G1", &person(), "198.51.100.1", NOW).1.bot.is_some()).count();
    assert_eq!(found, 1);
}

#[test]
fn only_signed_ids_count_where_they_are_required() {
    let keys = Keys::parse(KEY).expect("keys");
    let token = |scope| sign(keys.signing("w").expect("a key"), "w", scope, "801", None).expect("a token");
    let (mine, elsewhere) = (token(Scope::Link("d/s")), token(Scope::Link("d/t")));
    let config = |default| VisitorConfig {
        eid: EidConfig { keys: Some(KeySource::Given(keys.clone())), default, ..EidConfig::default() },
        ..VisitorConfig::default()
    };
    let mut strict = judge(config(EidPolicy::Require));
    let contact = |judge: &mut Judge, eid: &str| click(judge, &format!("eid={eid}&gclid=G"), &person(), "198.51.100.1", NOW).0;
    assert_eq!(contact(&mut strict, "801"), None);
    assert_eq!(contact(&mut strict, &elsewhere), None);
    assert_eq!(contact(&mut strict, &mine).as_deref(), Some("801"));
    assert_eq!(contact(&mut strict, &mine.replace('.', "%2E")).as_deref(), Some("801"), "however it is encoded");
    assert_eq!(contact(&mut strict, &format!("801&eid={mine}")), None, "the first one is judged");
    assert_eq!(strict.shared.eid_counts().iter().map(|(_, count)| count).sum::<u64>(), 0, "counted at the end of the turn");
    strict.end_turn();
    assert_eq!(strict.shared.eid_counts()[..4], [("signed", 2), ("plain", 0), ("unsigned", 2), ("wrong", 1)]);
    let mut mild = judge(config(EidPolicy::Prefer));
    assert_eq!(
        [contact(&mut mild, "801"), contact(&mut mild, &mine), contact(&mut mild, &elsewhere)],
        [Some("801".to_owned()), Some("801".to_owned()), None]
    );
    let without_keys = VisitorConfig { eid: EidConfig { default: EidPolicy::Require, ..EidConfig::default() }, ..VisitorConfig::default() };
    assert!(without_keys.check().expect_err("no keys").to_string().contains("--eid-keys"));
}

#[test]
fn keys_and_lists_change_while_it_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let (keys, agents) = (folder.path().join("keys"), folder.path().join("agents"));
    std::fs::write(&keys, KEY).expect("written");
    std::fs::write(&agents, "[]").expect("written");
    let eid = EidConfig { keys: Some(KeySource::File(keys.clone())), default: EidPolicy::Require, ..EidConfig::default() };
    let mut judge = judge(VisitorConfig { eid, bot_agents: Some(agents.clone()), ..VisitorConfig::default() });
    let old = Keys::parse(KEY).expect("keys");
    let query = format!("eid={}", sign(old.signing("w").expect("a key"), "w", Scope::Workspace, "801", None).expect("a token"));
    let shared = judge.shared.clone();
    let mut now = || {
        let (contact, known) = click(&mut judge, &query, &person(), "198.51.100.1", NOW);
        (contact.is_some(), known.bot.is_some())
    };
    assert_eq!(now(), (true, false));
    std::fs::write(&keys, KEY.replace("k ", "new ")).expect("written");
    std::fs::write(&agents, r#"[{"pattern": "Safari"}]"#).expect("written");
    shared.look(true);
    assert_eq!(now(), (false, true), "the key is gone, and what was known of the user agent is read again");
    std::fs::write(&keys, "broken").expect("written");
    std::fs::write(&agents, "[").expect("written");
    shared.look(true);
    assert_eq!(now(), (false, true), "mistakes change nothing");
}

#[test]
fn country_and_address() {
    let mut judge = judge(VisitorConfig { client_address: ClientAddress::Hashed, ..VisitorConfig::default() });
    let mut of = |header: &'static [u8]| {
        let (_, known) = click(&mut judge, "", &Visitor { country: Some(header), ..person() }, "198.51.100.1", NOW);
        (known.country, known.client)
    };
    assert_eq!([of(b"fr").0, of(b"XX").0, of(b"fra").0], [Some(*b"FR"), None, None]);
    let kept: HashSet<_> = [of(b"").1, of(b"").1].into();
    assert!(kept.len() == 1 && !kept.contains(&None));
}
