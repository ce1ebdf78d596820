//! Every bound of the contract, one small log each, with what must come of it written out by hand.
//!
//! Ticks are whole seconds; a record's log time is its own unless the case says otherwise. An expectation names the tick by
//! its distance from [`T`].

use clickline::config::rules;
use clickline::dataflow::build;
use clickline::dataflow::plan::{Counts, Plan, Times, WorkspaceSpec};
use clickline::dataflow::rows::{Arrival, Place};
use clickline::model::outputs::{Output, Topic};
use clickline::model::time::{DAY, FORM_BEFORE, HOLD, HOUR, Ms, tick_end};
use clickline::model::{Click, Contact, Deal, Form, Utm};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Inspect, Probe};
use ustr::ustr;

const TICK: Ms = 1_000;
/// A moment that ticks, seconds, hours and days agree on.
const T: Ms = 20_000 * DAY;
const WINDOW: Ms = 30 * DAY;

/// A log in the making.
struct Case {
    rules: String,
    added_at: Ms,
    /// When the rule was told to backfill, if that was later.
    backfills_at: Option<Ms>,
    counts: Counts,
    records: Vec<(Ms, Arrival)>,
}

impl Case {
    /// With one rule: clicks on links tagged `x` in 30 days, `threshold` of them, and further keys.
    fn rule(threshold: u64, more: &str) -> Self {
        let rules = format!(
            "- name: r\n  trigger: {{link_tag: x, contact_window: 30d, click_threshold: {threshold}}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n{more}"
        );
        Case { rules, added_at: 0, backfills_at: None, counts: Counts::Ruled, records: Vec::new() }
    }

    fn guarded(guard: &str) -> Self {
        let rules = format!(
            "- name: r\n  trigger: {{link_tag: x, contact_window: 30d, click_threshold: 1}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {{{guard}}}}}\n"
        );
        Case { rules, added_at: 0, backfills_at: None, counts: Counts::Ruled, records: Vec::new() }
    }

    fn put(mut self, log_time: Ms, of: impl FnOnce(Place) -> Arrival) -> Self {
        let offset = i64::try_from(self.records.len()).expect("few");
        self.records.push((log_time, of(Place { partition: 0, offset })));
        self
    }

    /// A click of `who` (a contact id, or `g:…` for a click id) that happened and was seen at `ts`.
    fn click(self, id: &str, ts: Ms, who: &str) -> Self {
        self.click_seen(id, ts, ts, who)
    }

    fn click_seen(self, id: &str, ts: Ms, seen: Ms, who: &str) -> Self {
        let (contact_id, gclid) = match who.strip_prefix("g:") {
            Some(gclid) => (None, Some(gclid.to_owned())),
            None => (Some(who.to_owned()), None),
        };
        self.any(Click { id: id.into(), ts, contact_id, gclid, ..Click::default() }, seen)
    }

    fn any(self, click: Click, seen: Ms) -> Self {
        let click = Click { v: 1, workspace: "w".into(), link: "d/1".into(), tags: vec!["x".into()], ..click };
        self.put(seen, |place| Arrival::Click(place, click.into()))
    }

    /// A form with a click id, submitted and seen at `ts`.
    fn form(self, id: &str, ts: Ms, gclid: &str) -> Self {
        self.form_seen(id, ts, ts, gclid)
    }

    fn form_seen(self, id: &str, ts: Ms, seen: Ms, gclid: &str) -> Self {
        let form =
            Form { v: 1, id: id.into(), ts, workspace: "w".into(), email: format!("{id}@x"), gclid: Some(gclid.into()), fbclid: None };
        self.put(seen, |place| Arrival::Form(place, Arc::new(form)))
    }

    fn contact(self, at: Ms, id: &str, email: Option<&str>, merged: &[&str]) -> Self {
        let contact = Contact {
            portal: "1".into(),
            contact_id: id.into(),
            email: email.map(str::to_owned),
            merged_ids: merged.iter().map(|id| (*id).to_owned()).collect(),
            ..Contact::default()
        };
        self.put(at, |place| Arrival::Contact(place, ustr("1"), ustr(id), Some(Arc::new(contact))))
    }

    fn no_contact(self, at: Ms, id: &str) -> Self {
        self.put(at, |place| Arrival::Contact(place, ustr("1"), ustr(id), None))
    }

    /// A deal of contact 801 in a stage, with an amount.
    fn deal(self, at: Ms, id: &str, stage: &str, amount: Option<f64>) -> Self {
        let deal = Deal {
            portal: "1".into(),
            deal_id: id.into(),
            pipeline: "p".into(),
            stage: stage.into(),
            amount,
            contact_ids: vec!["801".into()],
            ..Deal::default()
        };
        self.put(at, |place| Arrival::Deal(place, ustr("1"), ustr(id), Some(Arc::new(deal))))
    }

    fn deal_of(self, at: Ms, id: &str, stage: &str, contact: &str) -> Self {
        let deal = Deal {
            portal: "1".into(),
            deal_id: id.into(),
            pipeline: "p".into(),
            stage: stage.into(),
            contact_ids: vec![contact.into()],
            ..Deal::default()
        };
        self.put(at, |place| Arrival::Deal(place, ustr("1"), ustr(id), Some(Arc::new(deal))))
    }

    fn no_deal(self, at: Ms, id: &str) -> Self {
        self.put(at, |place| Arrival::Deal(place, ustr("1"), ustr(id), None))
    }

    /// All outputs of the kinds in `topics` up to `end`, as short lines; the same for one and two workers.
    fn says(self, end: Ms, topics: &[Topic]) -> Vec<String> {
        let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], counts: self.counts };
        let rules = rules::read(&self.rules).expect("rules");
        let mut plan = Plan::new(Times::with_tick(TICK), &[spec], &rules, |_, _| self.added_at).expect("a plan");
        plan.rules.iter_mut().for_each(|rule| rule.backfills_at = self.backfills_at.unwrap_or(rule.backfills_at));
        let plan = Arc::new(plan);
        let mut records = self.records;
        records.sort_by_key(|(at, _)| *at);
        let records = Arc::new(records);
        let mut first: Option<Vec<String>> = None;
        for workers in [1, 2] {
            let mut said: Vec<String> = run(&plan, &records, end, workers)
                .iter()
                .filter(|(_, output)| topics.contains(&output.topic))
                .map(|(at, output)| line(*at, output))
                .collect();
            said.sort_by_key(|line| (line.split(' ').next().and_then(|at| at.parse::<i64>().ok()), line.clone()));
            match &first {
                None => first = Some(said),
                Some(first) => assert_eq!(*first, said, "{workers} workers"),
            }
        }
        first.unwrap_or_default()
    }

    fn clicks_say(self, end: Ms) -> Vec<String> {
        self.says(end, &[Topic::Timeline, Topic::Unresolved])
    }
    fn deals_say(self, end: Ms) -> Vec<String> {
        self.says(end, &[Topic::DealStages])
    }
    fn counts_say(self, end: Ms) -> Vec<String> {
        self.says(end, &[Topic::Counts])
    }
}

fn run(plan: &Arc<Plan>, records: &Arc<Vec<(Ms, Arrival)>>, end: Ms, workers: usize) -> Vec<(Ms, Output)> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (sink, plan, records) = (Arc::clone(&said), Arc::clone(plan), Arc::clone(records));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (sink, mut input, me) = (Arc::clone(&sink), InputHandle::new(), worker.index());
        let probe = worker.dataflow::<Ms, _, _>(|scope| {
            let outputs = build(scope.input_from(&mut input), &plan);
            outputs.inspect(move |(output, at)| sink.lock().expect("not poisoned").push((*at, output.clone()))).probe().0
        });
        for (n, (at, arrival)) in records.iter().enumerate() {
            if n % worker.peers() == me {
                input.send((arrival.clone(), tick_end(*at, TICK)));
            }
        }
        input.advance_to(end + 1);
        input.flush();
        while probe.less_than(input.time()) {
            worker.step();
        }
    });
    guards.expect("starts").join().into_iter().for_each(|worker| worker.expect("runs"));
    Arc::try_unwrap(said).expect("workers are gone").into_inner().expect("not poisoned")
}

/// Distance of the tick from T in ms, and what was said.
fn line(at: Ms, output: &Output) -> String {
    let at = i64::try_from(at).expect("in range") - i64::try_from(T).expect("in range");
    let record: Value = serde_json::from_slice(&output.value).expect("JSON");
    let text = |field: &str| record[field].as_str().unwrap_or("-").to_owned();
    let who = record["contact_id"].as_str().or(record["email"].as_str()).unwrap_or("-");
    match output.topic {
        Topic::Timeline => format!("{at} {} {who}", text("click_id")),
        Topic::Unresolved => format!("{at} {} nobody", record["click"]["id"].as_str().unwrap_or("-")),
        Topic::DealStages => {
            format!("{at} {} count {} since {}", text("deal_id"), record["count"], record["hot_since"].as_i64().unwrap_or(0) - T as i64)
        }
        Topic::Counts => format!("{at} {who} {} {}", text("link_tag"), record["count"]),
        Topic::ContactProperties => format!("{at} {who} {}", record["properties"]),
        Topic::DeadLetters | Topic::State => format!("{at} {}", output.key),
    }
}

const DAY_: i64 = DAY as i64;
const WINDOW_: i64 = 30 * DAY_;

#[test]
fn a_form_exactly_14_days_before_names_the_click_a_millisecond_more_does_not() {
    let case = |before: Ms| Case::rule(9, "").form("f", T - before, "g1").click("c", T, "g:g1").clicks_say(T + 4 * DAY);
    assert_eq!(case(FORM_BEFORE), ["0 c f@x"]);
    assert_eq!(case(FORM_BEFORE + 1), [format!("{} c nobody", 3 * DAY_ + 1_000)]);
}

#[test]
fn a_form_72_hours_after_names_the_click_a_millisecond_more_does_not() {
    let case = |after: Ms| Case::rule(9, "").click("c", T, "g:g1").form("f", T + after, "g1").clicks_say(T + 4 * DAY);
    assert_eq!(case(HOLD), [format!("{} c f@x", 3 * DAY_)]);
    assert_eq!(case(HOLD + 1), [format!("{} c nobody", 3 * DAY_ + 1_000)]);
}

#[test]
fn a_form_that_is_seen_in_the_tick_in_which_the_hold_ends_still_counts() {
    let case = |seen: Ms| Case::rule(9, "").click("c", T, "g:g1").form_seen("f", T + HOUR, T + HOLD + seen, "g1").clicks_say(T + 4 * DAY);
    assert_eq!(case(1_000), [format!("{} c f@x", 3 * DAY_ + 1_000)]);
    assert_eq!(case(1_001), [format!("{} c nobody", 3 * DAY_ + 1_000)]);
}

#[test]
fn of_two_forms_in_one_tick_the_one_before_the_click_wins_then_the_nearest() {
    let case = |a: i64, b: i64| {
        let at = |offset: i64| T.saturating_add_signed(offset);
        let seen = T + HOUR;
        Case::rule(9, "").click("c", T, "g:g1").form_seen("a", at(a), seen, "g1").form_seen("b", at(b), seen, "g1").clicks_say(T + 4 * DAY)
    };
    let at = 3_600_000;
    assert_eq!(case(-5, 5), [format!("{at} c a@x")]);
    assert_eq!(case(-5, -3), [format!("{at} c b@x")], "the latest before");
    assert_eq!(case(5, 3), [format!("{at} c b@x")], "the earliest after");
    assert_eq!(case(-3, -3), [format!("{at} c b@x")], "before: the larger id");
    assert_eq!(case(3, 3), [format!("{at} c a@x")], "after: the smaller id");
    assert_eq!(case(0, 1), [format!("{at} c a@x")], "at the same time is before");
}

#[test]
fn a_form_is_seen_before_a_click_of_the_same_tick() {
    assert_eq!(Case::rule(9, "").click("c", T, "g:g1").form("f", T, "g1").clicks_say(T), ["0 c f@x"]);
}

#[test]
fn a_click_that_arrives_after_its_hold_expires_at_once_or_takes_a_form_that_was_seen() {
    let late = |case: Case| case.click_seen("c", T, T + 5 * DAY, "g:g1").clicks_say(T + 6 * DAY);
    assert_eq!(late(Case::rule(9, "")), [format!("{} c nobody", 5 * DAY_)]);
    assert_eq!(late(Case::rule(9, "").form("f", T + HOUR, "g1")), [format!("{} c f@x", 5 * DAY_)]);
}

#[test]
fn a_click_exactly_one_window_old_no_longer_counts() {
    assert_eq!(Case::rule(9, "").click("c", T, "801").counts_say(T + WINDOW + DAY), ["0 801 x 1".to_owned(), format!("{WINDOW_} 801 x 0")]);
    // Late ones: of exactly one window, and a millisecond younger.
    let late = |age: Ms| Case::rule(9, "").click_seen("c", T - age, T, "801").counts_say(T + DAY);
    assert!(late(WINDOW).is_empty());
    assert_eq!(late(WINDOW - 1), ["0 801 x 1", "1000 801 x 0"]);
}

#[test]
fn a_late_click_beyond_the_window_is_an_event_and_no_count() {
    let case = || Case::rule(1, "").deal(T, "9001", "a", None).click_seen("c", T - 31 * DAY, T, "801");
    assert_eq!(case().clicks_say(T + DAY), ["0 c 801"]);
    assert!(case().counts_say(T + DAY).is_empty());
    assert!(case().deals_say(T + DAY).is_empty());
}

#[test]
fn a_click_of_the_future_is_resolved_at_once_and_counts_when_its_time_comes() {
    let case = || Case::rule(1, "").click_seen("c", T + 4 * 60_000, T, "801");
    assert_eq!(case().clicks_say(T + DAY), ["0 c 801"]);
    assert_eq!(case().counts_say(T + DAY), ["240000 801 x 1"]);
}

#[test]
fn an_id_is_seen_once_within_72_hours() {
    let case = |again: Ms| Case::rule(9, "").click("c", T, "801").click_seen("c", T, T + again, "801").clicks_say(T + 10 * DAY).len();
    assert_eq!(case(0), 1);
    assert_eq!(case(HOLD), 1, "exactly the horizon");
    assert_eq!(case(HOLD + 1), 2, "a tick more");
}

#[test]
fn an_expiry_and_a_click_in_one_tick_do_not_end_a_hot_period() {
    let case = Case::rule(2, "")
        .deal(T, "9001", "a", None)
        .click("c1", T, "801")
        .click("c2", T + DAY, "801")
        // Moved back by hand: it stays while the period lasts.
        .deal(T + 2 * DAY, "9001", "b", None)
        .deal(T + 3 * DAY, "9001", "a", None)
        .click("c3", T + WINDOW, "801");
    assert_eq!(case.deals_say(T + 40 * DAY), [format!("{DAY_} 9001 count 2 since {DAY_}")]);
}

#[test]
fn an_expiry_and_clicks_in_one_tick_begin_a_hot_period_if_enough_are_left() {
    let one = || Case::rule(2, "").deal(T, "9001", "a", None).click("c1", T, "801").click("c2", T + WINDOW, "801");
    // The click that leaves and the one that comes are never in the window together.
    assert!(one().deals_say(T + 70 * DAY).is_empty());
    let both = || one().click("c3", T + WINDOW, "801");
    assert_eq!(both().deals_say(T + 70 * DAY), [format!("{WINDOW_} 9001 count 2 since {WINDOW_}")]);
    // Whichever was appended first.
    let late = Case::rule(2, "").deal(T, "9001", "a", None).click("c3", T + WINDOW - 1, "801").click("c2", T + WINDOW, "801");
    assert_eq!(late.click("c1", T, "801").deals_say(T + 70 * DAY), [format!("{WINDOW_} 9001 count 2 since {WINDOW_}")]);
}

#[test]
fn a_new_hot_period_moves_a_deal_again() {
    let case = Case::rule(2, "")
        .deal(T, "9001", "a", None)
        .click("c1", T, "801")
        .click("c2", T + DAY, "801")
        .deal(T + 2 * DAY, "9001", "b", None)
        .deal(T + 3 * DAY, "9001", "a", None)
        .click("c3", T + WINDOW + 1_000, "801");
    let second = WINDOW_ + 1_000;
    assert_eq!(
        case.deals_say(T + 40 * DAY),
        [format!("{DAY_} 9001 count 2 since {DAY_}"), format!("{second} 9001 count 2 since {second}")]
    );
}

#[test]
fn a_deal_moves_when_it_is_eligible_and_the_rule_is_hot_whichever_comes_last() {
    let hot = |case: Case| case.click("c1", T, "801").click("c2", T + 1_000, "801");
    assert_eq!(hot(Case::rule(2, "").deal(T - DAY, "9001", "a", None)).deals_say(T + DAY), ["1000 9001 count 2 since 1000"]);
    assert_eq!(
        hot(Case::rule(2, "")).deal(T + HOUR, "9001", "a", None).deals_say(T + DAY),
        ["3600000 9001 count 2 since 1000"],
        "in the middle of the period"
    );
    assert!(hot(Case::rule(2, "")).deal(T + 31 * DAY, "9001", "a", None).deals_say(T + 40 * DAY).is_empty(), "after it");
}

#[test]
fn guards_hold_to_the_cent() {
    let case = |amount| Case::guarded("deal_amount_min: 5000").deal(T, "9001", "a", amount).click("c", T, "801").deals_say(T + DAY).len();
    assert_eq!((case(Some(5_000.0)), case(Some(4_999.99)), case(None)), (1, 0, 0));
}

#[test]
fn a_merge_adds_counts_up_and_may_make_a_rule_hot() {
    let case = |merge: bool| {
        let case = Case::rule(3, "").deal(T, "9001", "a", None).click("c1", T, "801").click("c2", T, "801").click("c3", T, "77").contact(
            T + HOUR,
            "801",
            None,
            if merge { &["77"] } else { &[] },
        );
        case.deals_say(T + DAY)
    };
    assert_eq!(case(true), ["3600000 9001 count 3 since 3600000"]);
    assert!(case(false).is_empty());
}

#[test]
fn an_email_s_clicks_follow_its_contact_and_leave_with_it() {
    let case = || {
        Case::rule(1, "")
            .form("f", T - HOUR, "g1")
            .click("c", T, "g:g1")
            .contact(T + HOUR, "801", Some("f@x"), &[])
            .no_contact(T + 2 * HOUR, "801")
    };
    assert_eq!(case().counts_say(T + DAY), ["0 f@x x 1", "3600000 801 x 1", "3600000 f@x x 0", "7200000 801 x 0", "7200000 f@x x 1"]);
    // While the contact was there the rule was hot for it; a deal that comes when it is gone does not move.
    assert_eq!(case().deal(T + HOUR + 60_000, "9001", "a", None).deals_say(T + DAY), ["3660000 9001 count 1 since 3600000"]);
    assert!(case().deal(T + 3 * HOUR, "9001", "a", None).deals_say(T + DAY).is_empty());
}

#[test]
fn a_rule_that_is_added_later_acts_on_later_periods_unless_it_backfills() {
    let case = |backfill: &str, added_at: Ms| {
        let mut case = Case::rule(1, backfill).deal(T, "9001", "a", None).click("c1", T, "801").click("c2", T + 60 * DAY, "801");
        case.added_at = added_at;
        case.deals_say(T + 61 * DAY)
    };
    let later = format!("{} 9001 count 1 since {}", 60 * DAY_, 60 * DAY_);
    assert_eq!(case("", T + DAY), [later.as_str()], "the period that was running is not its own");
    assert_eq!(case("", T), [later.as_str()], "nor is one that began in that very tick");
    assert_eq!(case("", T - 1_000), ["0 9001 count 1 since 0", later.as_str()]);
    assert_eq!(case("  backfill: true\n", T + DAY), [format!("{DAY_} 9001 count 1 since 0"), later]);
}

#[test]
fn a_rule_that_is_told_to_backfill_later_acts_on_what_is_hot_then_and_moves_nothing_twice() {
    let case = |more: &str, told_at: Ms| {
        let mut case = Case::rule(1, more)
            .deal(T, "9001", "a", None)
            .click("c1", T, "801")
            // Two people's periods: 801's began before the rule, 7's after it.
            .click("c2", T + 2 * DAY, "7")
            .deal_of(T, "9002", "a", "7");
        (case.added_at, case.backfills_at) = (T + DAY, Some(told_at));
        case.deals_say(T + 20 * DAY)
    };
    let own = format!("{} 9002 count 1 since {}", 2 * DAY_, 2 * DAY_);
    assert_eq!(case("", T + 3 * DAY), [own.as_str()]);
    assert_eq!(case("  backfill: true\n", T + 3 * DAY), [own, format!("{} 9001 count 1 since 0", 3 * DAY_)]);
}

#[test]
fn a_deal_that_leaves_and_comes_back_in_one_period_stays_where_it_is_put() {
    let hot = || Case::rule(1, "").deal(T, "9001", "a", None).click("c", T, "801");
    let once = ["0 9001 count 1 since 0"];
    assert_eq!(hot().deal(T + HOUR, "9001", "b", None).deal(T + DAY, "9001", "a", None).deals_say(T + 20 * DAY), once, "another stage");
    assert_eq!(hot().no_deal(T + HOUR, "9001").deal(T + DAY, "9001", "a", None).deals_say(T + 20 * DAY), once, "deleted and restored");
    assert_eq!(
        hot().deal_of(T + HOUR, "9001", "a", "5").deal(T + DAY, "9001", "a", None).deals_say(T + 20 * DAY),
        once,
        "another's, and its own again"
    );
}

#[test]
fn a_merge_in_a_hot_period_ends_it_and_the_merged_person_has_a_period_of_its_own() {
    let merged = |other: &str| {
        let case = Case::rule(2, "").deal_of(T, "9001", "a", "77").click("c1", T, "77").click("c2", T, "77");
        // Moved by hand: on, and back.
        let case = case.deal_of(T + HOUR, "9001", "b", "77").deal_of(T + 2 * HOUR, "9001", "a", "77");
        case.click("c3", T + 2 * HOUR, other).contact(T + 3 * HOUR, "801", None, &["77"]).deals_say(T + 10 * DAY)
    };
    // 77 has advanced the deal; 801, whom it becomes, has not: the rule, the person and the deal are what moves once.
    assert_eq!(merged("5"), ["0 9001 count 2 since 0", "10800000 9001 count 2 since 10800000"]);
    assert_eq!(merged("801"), ["0 9001 count 2 since 0", "10800000 9001 count 3 since 10800000"]);
}

#[test]
fn a_contact_that_is_deleted_and_restored_in_a_hot_period_begins_another() {
    // Its clicks are an e-mail's, so they leave with it.
    let case = Case::rule(1, "")
        .form("f", T - HOUR, "g1")
        .contact(T - HOUR, "801", Some("f@x"), &[])
        .deal(T - HOUR, "9001", "a", None)
        .click("c", T, "g:g1")
        .no_contact(T + HOUR, "801")
        .contact(T + 2 * HOUR, "801", Some("f@x"), &[]);
    assert_eq!(case.deals_say(T + DAY), ["0 9001 count 1 since 0", "7200000 9001 count 1 since 7200000"]);
    // They are the contact's own, so they stay: a contact id stands for itself.
    let case = Case::rule(1, "").contact(T - HOUR, "801", None, &[]).deal(T - HOUR, "9001", "a", None).click("c", T, "801");
    let case = case.no_contact(T + HOUR, "801").contact(T + 2 * HOUR, "801", None, &[]);
    assert_eq!(case.deals_say(T + DAY), ["0 9001 count 1 since 0"]);
}

#[test]
fn a_deleted_contact_s_deal_does_not_move_and_one_deleted_and_restored_in_a_tick_was_never_away() {
    let hot = || Case::rule(1, "").form("f", T - HOUR, "g1").contact(T - HOUR, "801", Some("f@x"), &[]).click("c", T, "g:g1");
    assert!(hot().no_contact(T + HOUR, "801").deal(T + HOUR, "9001", "a", None).deals_say(T + DAY).is_empty());
    let case = hot().deal(T, "9001", "a", None).no_contact(T + HOUR, "801").contact(T + HOUR, "801", Some("f@x"), &[]);
    assert_eq!(case.deals_say(T + DAY), ["0 9001 count 1 since 0"]);
}

#[test]
fn two_contacts_that_claim_one_e_mail_or_one_id_the_oldest_has_it() {
    let by_form = |case: Case| case.form("f", T - HOUR, "g1").click("c", T, "g:g1").clicks_say(T);
    let both = Case::rule(9, "").contact(T - HOUR, "1000", Some("f@x"), &[]).contact(T - HOUR, "999", Some("f@x"), &[]);
    assert_eq!(by_form(both), ["0 c 999"], "ids grow: the shorter is the older");
    let rest = Case::rule(9, "").contact(T - HOUR, "1000", None, &["77"]).contact(T - HOUR, "999", None, &["77"]);
    assert_eq!(rest.click("c", T, "77").clicks_say(T), ["0 c 999"]);
    let chain = Case::rule(9, "").contact(T - HOUR, "801", None, &["77"]).contact(T - HOUR, "900", None, &["801"]);
    assert_eq!(chain.click("c", T, "77").clicks_say(T), ["0 c 900"], "merges are followed to their end");
}

#[test]
fn an_id_that_comes_again_beyond_the_horizon_is_another_click_even_while_the_first_waits() {
    // The first was dated ahead, so it waits longer than its id is remembered; both carry both click ids.
    let both = || Click { id: "c".into(), ts: T + 240_000, gclid: Some("g1".into()), fbclid: Some("b1".into()), ..Click::default() };
    let case = || Case::rule(9, "").any(both(), T).any(both(), T + HOLD + 1_000);
    let nobody = format!("{} c nobody", 3 * DAY_ + 241_000);
    assert_eq!(case().clicks_say(T + 10 * DAY), [nobody.as_str(), nobody.as_str()]);
    let at = T + HOLD + 2_000;
    assert_eq!(case().form_seen("f", T + HOUR, at, "g1").clicks_say(T + 10 * DAY), vec![format!("{} c f@x", 3 * DAY_ + 2_000); 2]);
}

#[test]
fn every_sighting_of_an_id_keeps_it_for_another_72_hours() {
    let again = |last: Ms| {
        let case = Case::rule(9, "").click("c", T, "801").click_seen("c", T, T + HOLD, "801");
        case.click_seen("c", T, T + HOLD + last, "801").clicks_say(T + 20 * DAY).len()
    };
    assert_eq!((again(HOLD), again(HOLD + 1)), (1, 2));
}

#[test]
fn of_two_values_of_one_click_id_and_time_the_larger_text_is_the_last_in_any_order() {
    let click = |contact: &str, source: &str| Click {
        id: "c".into(),
        ts: T,
        contact_id: Some(contact.into()),
        utm: Utm { source: Some(source.into()), ..Utm::default() },
        ..Click::default()
    };
    let case = |first: (&str, &str), second: (&str, &str)| {
        let case = Case::rule(9, "").any(click(first.0, first.1), T).any(click(second.0, second.1), T + 4 * DAY);
        let said = case.contact(T + 5 * DAY, "801", None, &["77"]).says(T + 6 * DAY, &[Topic::ContactProperties]);
        said.into_iter().filter(|line| line.starts_with(&(5 * DAY_).to_string())).collect::<Vec<_>>()
    };
    let b = [format!(r#"{} 801 {{"elido_last_utm_source":"b"}}"#, 5 * DAY_)];
    assert_eq!(case(("77", "b"), ("801", "a")), b);
    assert_eq!(case(("801", "a"), ("77", "b")), b);
    assert!(case(("801", "b"), ("77", "a")).is_empty());
}

#[test]
fn a_deal_s_own_links_count_whoever_clicks_but_machines_and_move_that_deal_alone() {
    let named = |id: &str, ts: Ms, bot: bool| Click {
        id: id.into(),
        ts,
        deal_id: Some("9001".into()),
        bot: bot.then(|| "head".into()),
        ..Click::default()
    };
    let case = |machine: bool| {
        let case = Case::guarded("require_associated_contact: false").any(named("c", T, machine), T);
        case.deal_of(T, "9001", "a", "5").deal_of(T, "9002", "a", "801").deals_say(T + DAY)
    };
    assert_eq!(case(false), ["0 9001 count 1 since 0"]);
    assert!(case(true).is_empty());
}

#[test]
fn no_text_of_a_click_passes_for_its_tags() {
    // A link whose text holds what could separate it from a tag.
    let strange = Click { id: "c".into(), ts: T, link: "d/1\u{0}x".into(), contact_id: Some("801".into()), ..Click::default() };
    let plain = Click { tags: vec!["x".into()], ..strange.clone() };
    let case = |first: &Click, second: &Click| {
        let arrival = |id: &str, of: &Click| Click { id: id.into(), workspace: "w".into(), ..of.clone() }.into();
        let (a, b) = (arrival("a", first), arrival("b", second));
        let case = Case::rule(9, "").put(T, |place| Arrival::Click(place, a)).put(T + HOUR, |place| Arrival::Click(place, b));
        case.counts_say(T + DAY).len()
    };
    let plain = Click { link: "d/1".into(), ..plain };
    assert_eq!((case(&strange, &plain), case(&plain, &strange)), (1, 1));
}

#[test]
fn a_last_value_is_never_overwritten_by_an_older_click_and_ids_break_ties() {
    let click = |id: &str, ts: Ms, source: &str| Click {
        id: id.into(),
        ts,
        contact_id: Some("801".into()),
        utm: Utm { source: Some(source.into()), ..Utm::default() },
        ..Click::default()
    };
    let value = |source: &str| format!(r#"{{"elido_last_utm_source":"{source}"}}"#);
    let said = Case::rule(9, "")
        .any(click("b", T, "new"), T)
        .any(click("z", T - 1, "older"), T + 1_000)
        .any(click("a", T, "smaller id"), T + 2_000)
        .any(click("c", T, "larger id"), T + 3_000)
        .any(click("d", T + 5_000, "larger id"), T + 5_000)
        .says(T + DAY, &[Topic::ContactProperties]);
    assert_eq!(said, [format!("0 801 {}", value("new")), format!("3000 801 {}", value("larger id"))]);
}

#[test]
fn a_click_with_both_click_ids_is_resolved_once() {
    let both = |id: &str| Click { id: id.into(), ts: T, gclid: Some("g1".into()), fbclid: Some("b1".into()), ..Click::default() };
    let fb = |case: Case, ts: Ms| {
        let form = Form { v: 1, id: "fb".into(), ts, workspace: "w".into(), email: "fb@x".into(), gclid: None, fbclid: Some("b1".into()) };
        case.put(ts, |place| Arrival::Form(place, Arc::new(form)))
    };
    let case = fb(Case::rule(9, "").any(both("c"), T), T + HOUR).form("f", T + 2 * HOUR, "g1");
    assert_eq!(case.clicks_say(T + 4 * DAY), ["3600000 c fb@x"], "the first to be seen");
    let case = fb(Case::rule(9, "").any(both("c"), T), T + HOUR).form_seen("f", T - HOUR, T + HOUR, "g1");
    assert_eq!(case.clicks_say(T + 4 * DAY), ["3600000 c f@x"], "of two in one tick the one before the click");
    assert_eq!(Case::rule(9, "").any(both("c"), T).clicks_say(T + 4 * DAY), [format!("{} c nobody", 3 * DAY_ + 1_000)], "nobody, once");
}

#[test]
fn machines_and_strangers_make_nothing() {
    let bot = Click { id: "b".into(), ts: T, contact_id: Some("801".into()), bot: Some("head".into()), ..Click::default() };
    let stranger = Click { id: "s".into(), ts: T, ..Click::default() };
    let case = || Case::rule(1, "").deal(T, "9001", "a", None).any(bot.clone(), T).any(stranger.clone(), T);
    assert!(case().says(T + 10 * DAY, &Topic::ALL).is_empty());
}
