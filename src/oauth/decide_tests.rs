//! What is done with a row, case by case.

use super::super::endpoint::Grant;
use super::*;
use proptest::prelude::*;

const NOW: Ms = 1_800_000_000_000;

fn row(facts: Facts) -> Row {
    let secrets = Secrets { access_token: Some("a0".into()), refresh_token: "r0".into() };
    Row { portal: "4242".into(), token_version: 3, facts, secrets }
}

/// An access token of 30 minutes that ends `left` ms from now.
fn ends_in(left: Ms) -> Facts {
    Facts { expires_at: NOW + left, refreshed_at: NOW + left - 1_800_000, ..Facts::default() }
}

fn caller(now: Ms) -> Caller<'static> {
    Caller { holder: "me", credentials: "good", now, lease_for: 20_000, spread: 0.0, spent: false, accepted: false }
}

fn granted(refresh_token: Option<&str>) -> Reply {
    let refresh_token = refresh_token.map(str::to_owned);
    Reply::Granted(Grant { access_token: "a1".into(), refresh_token, lifetime: Duration::from_secs(1800), scopes: vec![], hub_id: None })
}

/// Takes the lease and gets a reply at once.
fn call(row: &Row, now: Ms, reply: Reply) -> Row {
    let Step::Call(facts) = step(row, &caller(now)) else { panic!("calls: {row:?}") };
    settle(Row { facts: *facts, ..row.clone() }, &row.facts, reply, "good", now, 0.0)
}

#[test]
fn it_refreshes_ninety_seconds_before_the_end_and_spread_earlier() {
    assert_eq!(step(&row(ends_in(90_001)), &caller(NOW)), Step::Use);
    assert!(matches!(step(&row(ends_in(90_000)), &caller(NOW)), Step::Call(_)));
    let early = Caller { spread: 1.0, ..caller(NOW) };
    assert_eq!(step(&row(ends_in(120_001)), &early), Step::Use);
    assert!(matches!(step(&row(ends_in(120_000)), &early), Step::Call(_)));
    // A short life is not refreshed all the time.
    let short = Facts { expires_at: NOW + 2_000, refreshed_at: NOW, ..Facts::default() };
    assert_eq!(step(&row(short), &caller(NOW)), Step::Use);
}

#[test]
fn one_calls_and_the_others_wait_or_use_what_they_have() {
    let leased = |left| Facts { lease: Some(Lease { holder: "other".into(), until: NOW + 9_000 }), ..ends_in(left) };
    assert_eq!(step(&row(leased(60_000)), &caller(NOW)), Step::Use, "still good for a minute");
    assert_eq!(step(&row(leased(0)), &caller(NOW)), Step::Look(NOW + 9_000));
    let spent = Caller { spent: true, ..caller(NOW) };
    assert_eq!(step(&row(leased(60_000)), &spent), Step::Look(NOW + 9_000));
    let Step::Call(facts) = step(&row(leased(0)), &caller(NOW + 9_000)) else { panic!("the lease has run out") };
    assert_eq!((facts.lease.expect("taken").holder, facts.attempts, facts.unanswered_since), ("me".into(), 1, Some(NOW + 9_000)));
}

#[test]
fn whatever_refresh_token_comes_back_is_kept() {
    for (came, kept, rotations) in [(None, "r0", 0), (Some("r0"), "r0", 0), (Some("r1"), "r1", 1)] {
        let after = call(&row(ends_in(0)), NOW, granted(came));
        assert_eq!((after.secrets.refresh_token.as_str(), after.facts.rotations), (kept, rotations));
        assert_eq!((after.facts.expires_at, after.facts.refreshed_at), (NOW + 1_800_000, NOW));
        assert_eq!((after.facts.lease, after.facts.unanswered_since), (None, None));
    }
}

#[test]
fn a_dead_grant_is_asked_after_at_most_three_times_in_any_hour() {
    for reply in [Reply::Dead, Reply::BadClient("BAD_CLIENT_SECRET".into())] {
        let mut now_row = row(ends_in(0));
        let mut calls = Vec::new();
        // Somebody asks every second for six hours; now and then the endpoint stumbles.
        for now in (NOW..NOW + 6 * 3_600_000).step_by(1_000) {
            match step(&now_row, &caller(now)) {
                Step::Call(_) => {
                    calls.push(now);
                    let odd = calls.len() % 3 == 0;
                    now_row = call(&now_row, now, if odd { Reply::Failed("502".into(), None) } else { reply.clone() });
                }
                step => assert!(matches!(step, Step::Refuse(Refusal::Dead(_) | Refusal::BadClient(_))), "{step:?}"),
            }
        }
        let most = calls.iter().map(|from| calls.iter().filter(|at| (*from..=from + 3_600_000).contains(at)).count()).max();
        assert!(most.is_some_and(|most| most <= 3) && calls.len() > 5, "{calls:?}");
    }
}

#[test]
fn other_credentials_are_tried_at_once() {
    let after = call(&row(ends_in(0)), NOW, Reply::BadClient("BAD_CLIENT_SECRET".into()));
    assert!(matches!(step(&after, &caller(NOW + 1)), Step::Refuse(Refusal::BadClient(_))));
    assert!(matches!(step(&after, &Caller { credentials: "new", ..caller(NOW + 1) }), Step::Call(_)));
}

#[test]
fn an_outage_of_the_token_endpoint_is_waited_out_with_growing_pauses() {
    let mut now_row = row(ends_in(0));
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        now_row = call(&now_row, now, Reply::Failed("502".into(), None));
        let Step::Refuse(Refusal::Later(at)) = step(&now_row, &caller(now)) else { panic!("later") };
        pauses.push((at - now) / 1_000);
        now = at;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(now_row.facts.condition, Condition::Connected, "the grant is left alone");
    let asked = call(&row(ends_in(0)), NOW, Reply::Throttled(Some(Duration::from_secs(77))));
    assert_eq!(asked.facts.retry_at, NOW + 77_000);
    let healed = call(&now_row, now, granted(None));
    assert_eq!((healed.facts.failures, healed.facts.retry_at), (0, 0));
}

#[test]
fn a_failed_early_refresh_costs_nothing_while_the_token_lasts() {
    let after = call(&row(ends_in(60_000)), NOW, Reply::Failed("502".into(), None));
    assert_eq!(step(&after, &caller(NOW + 1)), Step::Use);
    let dead = call(&row(ends_in(60_000)), NOW, Reply::Dead);
    assert_eq!(step(&dead, &caller(NOW + 1)), Step::Use, "HubSpot lets live access tokens live");
    assert!(matches!(step(&dead, &caller(NOW + 58_000)), Step::Refuse(Refusal::Dead(Why::Refused))));
}

#[test]
fn an_answer_that_was_never_stored_is_told_apart_from_a_removed_app() {
    // The process ended during the call: the lease is still in the row.
    let Step::Call(facts) = step(&row(ends_in(0)), &caller(NOW)) else { panic!("calls") };
    let crashed = row(*facts);
    assert!(matches!(step(&crashed, &caller(NOW + 1)), Step::Look(_)));
    let later = NOW + 20_000;
    assert_eq!(call(&crashed, later, granted(None)).facts.unanswered_since, None, "tokens that do not rotate go on");
    let lost = call(&crashed, later, Reply::Dead);
    assert_eq!(lost.facts.condition, Condition::ReinstallRequired(Why::LostAnswer { asked_at: NOW }));
    // So after a broken connection, but not after an answer that says that nothing was done.
    let broken = call(&row(ends_in(0)), NOW, Reply::Failed("no answer".into(), None));
    assert!(matches!(call(&broken, later, Reply::Dead).facts.condition, Condition::ReinstallRequired(Why::LostAnswer { .. })));
    let throttled = call(&row(ends_in(0)), NOW, Reply::Throttled(None));
    assert_eq!(call(&throttled, later, Reply::Dead).facts.condition, Condition::ReinstallRequired(Why::Refused));
}

#[test]
fn tokens_that_are_granted_and_then_refused_shut_the_connection() {
    let mut now_row = row(ends_in(1_700_000));
    let mut calls = Vec::new();
    let mut shut = 0;
    // Somebody asks every ten seconds for six hours, and HubSpot refuses every access token.
    for now in (NOW..NOW + 6 * 3_600_000).step_by(10_000) {
        let spent = now_row.secrets.access_token.is_some();
        match step(&now_row, &Caller { spent, ..caller(now) }) {
            Step::Call(facts) => {
                calls.push(now);
                let before = now_row.facts.clone();
                now_row = settle(Row { facts: *facts, ..now_row }, &before, granted(None), "good", now, 0.0);
                assert_eq!(now_row.facts.condition, Condition::Connected);
            }
            Step::Shut(facts) => {
                shut += 1;
                assert_eq!(facts.condition, Condition::ReinstallRequired(Why::AccessRefused));
                now_row.facts = *facts;
                now_row.secrets.access_token = None;
            }
            step => assert_eq!(step, Step::Refuse(Refusal::Dead(Why::AccessRefused))),
        }
    }
    let most = calls.iter().map(|from| calls.iter().filter(|at| (*from..=from + 3_600_000).contains(at)).count()).max();
    assert!(most.is_some_and(|most| most <= 3) && calls.len() > 5, "{calls:?}");
    assert_eq!(shut, calls.len(), "each answer was tried once");
    // The app is removed meanwhile: that is told.
    let dead = call(&now_row, NOW + 7 * 3_600_000, Reply::Dead);
    assert_eq!(dead.facts.condition, Condition::ReinstallRequired(Why::Refused));
    // A token that ends early once in a while is no sign of it.
    let early = Facts { forced_at: NOW - DEAD_RETRY, ..ends_in(1_000_000) };
    assert!(matches!(step(&row(early), &Caller { spent: true, ..caller(NOW) }), Step::Call(_)));
}

#[test]
fn a_token_that_works_elsewhere_shuts_no_connection_and_is_not_renewed_all_the_time() {
    let mut now_row = row(ends_in(1_700_000));
    let mut calls = Vec::new();
    // One request is refused every ten seconds for six hours, and others are answered in between.
    for now in (NOW..NOW + 6 * 3_600_000).step_by(10_000) {
        match step(&now_row, &caller(now)) {
            Step::Use => {}
            Step::Call(_) => now_row = call(&now_row, now, granted(None)),
            step => panic!("the others go on: {step:?}"),
        }
        match step(&now_row, &Caller { spent: true, accepted: true, ..caller(now) }) {
            Step::Call(facts) => {
                calls.push(now);
                let before = now_row.facts.clone();
                now_row = settle(Row { facts: *facts, ..now_row }, &before, granted(None), "good", now, 0.0);
            }
            step => assert_eq!(step, Step::Refuse(Refusal::Rationed)),
        }
        assert_eq!(now_row.facts.condition, Condition::Connected);
    }
    let most = calls.iter().map(|from| calls.iter().filter(|at| (*from..=from + 3_600_000).contains(at)).count()).max();
    assert!(most.is_some_and(|most| most <= 3) && calls.len() > 5, "{calls:?}");
}

#[test]
fn a_refresh_that_never_left_burns_no_token_and_shuts_nothing() {
    let before = row(ends_in(1_700_000));
    for reply in [Reply::Unsent("the certificate of api.hubapi.com has expired".into()), Reply::Throttled(None)] {
        let Step::Call(facts) = step(&before, &Caller { spent: true, ..caller(NOW) }) else { panic!("calls") };
        let after = settle(Row { facts: *facts, ..before.clone() }, &before.facts, reply.clone(), "good", NOW, 0.0);
        let Facts { unanswered_since, forced_at, retry_at, ref condition, .. } = after.facts;
        assert_eq!((unanswered_since, forced_at, condition), (None, 0, &Condition::Connected), "{reply:?}");
        assert_eq!(after.secrets, before.secrets);
        // The access token is refused again meanwhile: the refresh is still to come, and may help.
        let next = step(&after, &Caller { spent: true, ..caller(NOW + 10) });
        assert_eq!(next, Step::Refuse(Refusal::Later(retry_at)), "{reply:?}");
        assert!(matches!(step(&after, &Caller { spent: true, ..caller(retry_at) }), Step::Call(_)), "{reply:?}");
    }
}

#[test]
fn a_refresh_that_brought_no_token_shuts_nothing() {
    let before = row(ends_in(1_700_000));
    let spent = |row: &Row, now| step(row, &Caller { spent: true, ..caller(now) });
    let Step::Call(claim) = spent(&before, NOW) else { panic!("calls") };
    let claimed = Row { facts: *claim, ..before.clone() };
    for reply in [Reply::Failed("the connection broke".into(), None), Reply::Odd("418".into())] {
        let after = settle(claimed.clone(), &before.facts, reply.clone(), "good", NOW, 0.0);
        assert_eq!(after.secrets, before.secrets);
        // The access token from before the refresh is refused again meanwhile.
        let at = after.facts.retry_at;
        assert_eq!(spent(&after, NOW + 10), Step::Refuse(Refusal::Later(at)), "{reply:?}");
        assert!(matches!(spent(&after, at), Step::Call(_)), "{reply:?}");
    }
    // Credentials that were put right are tried at once.
    let wrong = settle(claimed.clone(), &before.facts, Reply::BadClient("BAD_CLIENT_SECRET".into()), "bad", NOW, 0.0);
    assert!(matches!(spent(&wrong, NOW + 10), Step::Call(_)));
    // The process ended during the call.
    let Lease { until, .. } = claimed.facts.lease.clone().expect("claimed");
    assert_eq!(spent(&claimed, until - 1), Step::Look(until));
    let Step::Call(again) = spent(&claimed, until) else { panic!("the answer was lost, nothing was refused") };
    // The token that comes at last is refused, too: that says something.
    let granted = settle(Row { facts: *again, ..claimed.clone() }, &claimed.facts, granted(None), "good", until, 0.0);
    assert!(matches!(spent(&granted, until + 10), Step::Shut(_)));
}

#[test]
fn other_credentials_that_fail_are_not_tried_again_at_once() {
    let before = row(ends_in(1_700_000));
    let spent = |row: &Row, now| step(row, &Caller { spent: true, ..caller(now) });
    let Step::Call(claim) = spent(&before, NOW) else { panic!("calls") };
    let wrong =
        settle(Row { facts: *claim, ..before.clone() }, &before.facts, Reply::BadClient("BAD_CLIENT_SECRET".into()), "bad", NOW, 0.0);
    let replies = [
        Reply::Failed("503".into(), None),
        Reply::Odd("418".into()),
        Reply::Throttled(Some(Duration::from_secs(9))),
        Reply::Unsent("x".into()),
    ];
    for reply in replies {
        let Step::Call(claim) = spent(&wrong, NOW + 10) else { panic!("credentials were put right") };
        let after = settle(Row { facts: *claim, ..wrong.clone() }, &wrong.facts, reply.clone(), "good", NOW + 10, 0.0);
        let Facts { retry_at, ref condition, .. } = after.facts;
        assert_eq!(condition, &Condition::Connected, "{reply:?}");
        assert!((NOW + 1_000..NOW + DEAD_RETRY).contains(&retry_at), "{reply:?}: {retry_at}");
        assert_eq!(spent(&after, NOW + 20), Step::Refuse(Refusal::Later(retry_at)), "{reply:?}");
        assert!(matches!(spent(&after, retry_at), Step::Call(_)), "{reply:?}");
    }
}

proptest! {
    /// Whatever the row says and whatever comes back, there is an answer, and times do not overflow.
    #[test]
    fn every_row_has_a_next_step(
        (expires_at, refreshed_at, retry_at, forced_at) in (0..NOW * 2, 0..NOW * 2, 0..NOW * 2, 0..NOW * 2),
        (until, (spent, accepted), spread, jitter) in (proptest::option::of(0..NOW * 2), any::<(bool, bool)>(), any::<f64>(), any::<f64>()),
        (condition, reply, failures, after) in (0..3_usize, 0..7_usize, any::<u32>(), proptest::option::of(any::<u64>())),
    ) {
        let conditions = [Condition::Connected, Condition::ReinstallRequired(Why::Refused), Condition::BadClient("X".into())];
        let condition: Condition = conditions[condition].clone();
        let lease = until.map(|until| Lease { holder: "other".into(), until });
        let facts = Facts { condition, lease, expires_at, refreshed_at, retry_at, forced_at, failures, ..Facts::default() };
        let now_row = row(facts);
        if let Step::Call(facts) = step(&now_row, &Caller { spent, accepted, spread, ..caller(NOW) }) {
            let after = after.map(Duration::from_secs);
            let reply = [granted(Some("r1")), Reply::Dead, Reply::BadClient("X".into()), Reply::Throttled(after), Reply::Failed("x".into(), after), Reply::Odd("400".into()), Reply::Unsent("x".into())][reply].clone();
            let good = matches!(reply, Reply::Granted(_));
            let after = settle(Row { facts: *facts, ..now_row }, &Facts::default(), reply, "good", NOW, jitter);
            prop_assert!(after.facts.lease.is_none());
            prop_assert!(good || after.facts.retry_at > NOW, "no call follows a failure at once");
            prop_assert!(good == (after.facts.failures == 0));
        }
    }
}

#[test]
fn a_call_ends_before_its_lease_and_is_not_begun_late() {
    let Step::Call(claim) = step(&row(ends_in(0)), &caller(NOW)) else { panic!("calls") };
    assert_eq!(call_within(&claim, NOW, 20_000), Some(15_000));
    assert_eq!(call_within(&claim, NOW + 7_500, 20_000), Some(7_500));
    for late in [7_501, 15_000, 19_999, 20_000, 20_001, 1_000_000] {
        assert_eq!(call_within(&claim, NOW + late, 20_000), None, "{late} ms later");
    }
    assert_eq!(call_within(&Facts::default(), NOW, 20_000), None, "without a lease");
}
