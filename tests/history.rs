//! Backtests and explanations over random histories, against the plain reading of the contract.
//!
//! A backtest must find, for every threshold and window at once, what the oracle finds when it is run for each of them
//! alone. An explanation must name as many clicks as the dataflow counts, and tell the very deltas that the oracle finds for those who are
//! asked about, also where a rule was added on the way.

mod oracle_model;

use clickline::backtest::Backtest;
use clickline::backtest::report::{Advanced, Range, Report};
use clickline::backtest::variants::{Variant, Variants};
use clickline::config::rules::{self, Rule};
use clickline::dataflow::plan::{Plan, Times, WorkspaceSpec, rule_key};
use clickline::explain::story::Outcome;
use clickline::explain::{Asked, Explain};
use clickline::history::History;
use clickline::model::outputs::{DealStage, Person, Topic};
use clickline::model::time::{DAY, HOUR, Ms};
use clickline::sources::Kind;
use oracle_model::expect::{expect, shown};
use oracle_model::{Log, RULES, Record, TICK, Term, World};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const START: Ms = 1_700_000_000_000;

/// A history as files, and the same as the oracle's log.
struct Past {
    folder: tempfile::TempDir,
    files: Vec<(Kind, String)>,
    log: Log,
    records: Vec<(Ms, Record)>,
}

impl Past {
    /// Files know no tombstones; contacts and deals carry the time of their record.
    fn random(seed: u64, records: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = START;
        let mut lines: BTreeMap<Kind, Vec<String>> = Kind::ALL.into_iter().map(|kind| (kind, Vec::new())).collect();
        let mut reached: BTreeMap<Kind, Ms> = BTreeMap::new();
        let mut log = Vec::new();
        for n in 0..records {
            now += *[0, 0, 1, 499, 500, 501, 60_000, HOUR, 2 * HOUR, 12 * HOUR, DAY].choose(&mut rng).unwrap_or(&0);
            let age = *[0, 0, 0, 0, HOUR, 2 * HOUR, DAY, 3 * DAY, 14 * DAY].choose(&mut rng).unwrap_or(&0);
            let mut record = Record::random(&mut rng, n, now - age);
            if rng.random_bool(0.1)
                && let Some((_, before)) = log.choose(&mut rng)
            {
                record = Record::clone(before);
            }
            let (kind, ts) = match &record {
                Record::Click(click) => (Kind::Clicks, click.ts),
                Record::Form(form) => (Kind::Forms, form.ts),
                Record::Contact(_, _, Some(_)) => (Kind::Contacts, now),
                Record::Deal(_, _, Some(_)) => (Kind::Deals, now),
                Record::Contact(_, _, None) | Record::Deal(_, _, None) | Record::Bad(_) => continue,
            };
            let mut line: serde_json::Value = serde_json::from_slice(&record.message().2.expect("no tombstone")).expect("JSON");
            line["ts"] = ts.into();
            lines.entry(kind).or_default().push(line.to_string());
            // The log time of a line is the greatest of its file so far.
            let log_time = reached.entry(kind).or_default();
            *log_time = (*log_time).max(ts);
            log.push((*log_time, record));
        }
        log.sort_by_key(|(at, _)| *at);
        let folder = tempfile::tempdir().expect("a folder");
        let write = |(kind, lines): (Kind, Vec<String>)| {
            let path = folder.path().join(kind.name());
            fs::write(&path, lines.join("\n")).expect("writes");
            (kind, path.display().to_string())
        };
        let files = lines.into_iter().map(write).collect();
        Past { folder, files, log: Log::of(log.clone()), records: log }
    }

    /// A deal's amount at a tick's end.
    fn amount(&self, portal: &str, deal: &str, at: Ms) -> Option<f64> {
        let mut states = self.records.iter().filter(|(of, _)| of.div_ceil(TICK) * TICK <= at).filter_map(|(_, record)| match record {
            Record::Deal(of, id, state) if of == portal && id == deal => state.as_ref(),
            _ => None,
        });
        states.next_back().and_then(|state| state.amount)
    }
}

fn plan(rules: &[Rule]) -> Plan {
    let spec = |name: &str, portals: &[&str]| WorkspaceSpec {
        name: name.to_owned(),
        portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
        ..WorkspaceSpec::default()
    };
    let times = Times { max_lateness: 400 * DAY, ..Times::with_tick(TICK) };
    Plan::new(times, &[spec("one", &["1"]), spec("two", &["1", "2"]), spec("three", &[])], rules, |_, _| 0).expect("a plan")
}

/// What the oracle says of one rule in one workspace: tick, portal, deal, person or `-`, count, beginning of the period.
fn advances(log: &Log, rule: &Rule, workspace: &str, variant: &Variant) -> Vec<(Ms, String, String, String, u64, Ms)> {
    let (window, threshold) = (variant.window, variant.threshold);
    let rule = Rule { name: "v".into(), workspace: Some(workspace.into()), window, threshold, ..rule.clone() };
    let world = World::with(vec![Term::always(rule)]);
    let read = |line: &String| {
        let [at, topic, _, record] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { return None };
        if topic != Topic::DealStages.default_name() {
            return None;
        }
        let delta: DealStage = serde_json::from_str(record).expect("a delta");
        let DealStage { portal, deal_id, person, count, hot_since, .. } = delta;
        Some((at.parse().expect("a tick"), portal, deal_id, who(person.as_ref()), count, hot_since))
    };
    let mut advances: Vec<_> = expect(&world, log).lines.iter().filter_map(read).collect();
    advances.sort();
    advances
}

fn who(person: Option<&Person>) -> String {
    match person {
        Some(Person::ContactId(id)) => format!("c:{id}"),
        Some(Person::Email(email)) => format!("e:{email}"),
        None => "-".to_owned(),
    }
}

fn told(advance: &Advanced) -> (Ms, String, String, String, u64, Ms) {
    (advance.at, advance.portal.clone(), advance.deal_id.clone(), who(advance.person.as_ref()), advance.count, advance.hot_since)
}

fn backtest(past: &Past, variants: &Variants, range: Range, workers: usize) -> Report {
    let history = History::Files(past.files.clone());
    let backtest = Backtest { history, variants: variants.clone(), plan: plan(&variants.rules()), range, workers };
    backtest.run(&Default::default()).expect("runs")
}

#[test]
fn a_backtest_finds_what_the_contract_says_for_each_variant_alone() {
    let variants = Variants::new(rules::read(RULES).expect("rules"), &[1, 2, 4], &[2 * HOUR, 30 * DAY]).expect("variants");
    let (mut advanced, mut repeated, mut moved) = (0, 0, 0);
    for seed in 0..3 {
        let past = Past::random(seed, 160);
        let report = backtest(&past, &variants, Range::default(), 1 + seed as usize % 2);
        for of_rule in report.rules.iter().filter(|of| of.workspace != "three") {
            let rule = variants.of.iter().find(|rule| rule.name == of_rule.rule).expect("one of them");
            for variant in &of_rule.variants {
                let (window, threshold) = (variant.window_ms, variant.threshold);
                let expected = advances(&past.log, rule, &of_rule.workspace, &Variant { rule: 0, window, threshold, own: false });
                let mut said: Vec<_> = variant.advances.iter().map(told).collect();
                said.sort();
                assert_eq!(said, expected, "seed {seed}: {} of {}, {threshold} in {window} ms", of_rule.rule, of_rule.workspace);

                let mut first: BTreeMap<(String, String), (Ms, Option<f64>)> = BTreeMap::new();
                for (at, portal, deal, ..) in expected.iter().rev() {
                    first.insert((portal.clone(), deal.clone()), (*at, past.amount(portal, deal, *at)));
                }
                let worth: f64 = first.values().filter_map(|(_, amount)| *amount).sum();
                let without = first.values().filter(|(_, amount)| amount.is_none()).count();
                assert_eq!((variant.deals, variant.without_amount), (first.len(), without));
                assert!((variant.worth - worth).abs() < 1e-6, "{} {worth}", variant.worth);
                assert_eq!(variant.repeated, expected.len() - first.len());
                assert_eq!(variant.first, first.values().map(|(at, _)| *at).min());
                assert_eq!(variant.last, first.values().map(|(at, _)| *at).max());
                advanced += variant.deals;
                repeated += variant.repeated;
                moved += variant.moved;
            }
        }
        drop(past.folder);
    }
    assert!(advanced > 100 && repeated > 10 && moved > 10, "{advanced} {repeated} {moved}: the histories say something");
}

#[test]
fn ranges_that_meet_add_up_to_the_whole() {
    let variants = Variants::new(rules::read(RULES).expect("rules"), &[2], &[]).expect("variants");
    let past = Past::random(7, 200);
    let whole = backtest(&past, &variants, Range::default(), 1);
    let middle = (START + past.log.end()) / 2;
    let parts = [Range { from: 0, to: middle - 1 }, Range { from: middle, to: Ms::MAX }].map(|range| backtest(&past, &variants, range, 1));
    let numbers = |report: &Report| -> Vec<(usize, usize)> {
        report.rules.iter().flat_map(|rule| &rule.variants).map(|variant| (variant.deals, variant.repeated)).collect()
    };
    let [early, late] = parts.each_ref().map(numbers);
    let sums: Vec<(usize, usize)> = early.iter().zip(&late).map(|(a, b)| (a.0 + b.0, a.1 + b.1)).collect();
    assert_eq!(sums, numbers(&whole));
    let any = |numbers: &[(usize, usize)]| numbers.iter().any(|(deals, _)| *deals > 0);
    assert!(any(&early) && any(&late), "both halves have some");
}

/// Everybody whom the histories know.
fn everybody() -> Vec<Asked> {
    let contacts = ["1", "2", "3", "7"].map(|id| Asked::Contact(id.to_owned()));
    let emails = ["a@x", "b@x", "c@x"].map(|email| Asked::Email(email.to_owned()));
    let deals = ["91", "92", "93"].map(|id| Asked::Deal(id.to_owned()));
    contacts.into_iter().chain(emails).chain(deals).collect()
}

#[test]
fn an_explanation_names_the_clicks_that_are_counted() {
    let rules = rules::read(RULES).expect("rules");
    let (mut counted, mut hot, mut outcomes) = (0, 0, BTreeSet::new());
    for seed in 20..23 {
        let past = Past::random(seed, 160);
        for (asked, portal) in everybody().into_iter().zip(["1", "2", "1"].into_iter().cycle()) {
            let history = History::Files(past.files.clone());
            let explain =
                Explain { history, plan: plan(&rules), asked: asked.clone(), portal: Some(portal.to_owned()), until: None, workers: 1 };
            let Ok(explanation) = explain.run(&Default::default()) else { continue };
            assert_eq!(explanation.as_of, past.log.end());
            for rule in explanation.subjects.iter().flat_map(|subject| &subject.rules) {
                assert_eq!(rule.count, rule.clicks.len() as u64, "seed {seed}, {asked}, portal {portal}: {rule:?}");
                assert_eq!(rule.hot_since.is_some(), rule.count >= rule.threshold, "{rule:?}");
                assert_eq!(rule.missing, rule.threshold.saturating_sub(rule.count));
                counted += rule.count;
                hot += usize::from(rule.hot_since.is_some());
            }
            for click in &explanation.clicks {
                outcomes.insert(serde_json::to_value(&click.outcome).expect("JSON")["is"].to_string());
                if matches!(click.outcome, Outcome::Machine { .. } | Outcome::Repeated | Outcome::Held { .. } | Outcome::Expired { .. }) {
                    let by_deal = click.deal_id.is_some() && !matches!(click.outcome, Outcome::Machine { .. } | Outcome::Repeated);
                    assert!(click.counts_for.is_empty() || by_deal, "{click:?}");
                }
            }
            let ready =
                |rule: &clickline::explain::story::Verdict| rule.hot_since.is_some() && rule.guards.iter().all(|guard| guard.passes);
            for verdict in explanation.deals.iter().flat_map(|deal| &deal.rules).filter(|verdict| ready(verdict)) {
                assert!(verdict.advanced.is_some(), "hot and eligible: it has advanced: {verdict:?}");
            }
        }
    }
    assert!(counted > 20 && hot > 5, "{counted} {hot}");
    for outcome in ["eid", "form", "held", "expired", "machine", "repeated", "unconnected"] {
        assert!(outcomes.contains(&format!("\"{outcome}\"")), "{outcome}: {outcomes:?}");
    }
}

/// The rules of a plan; those at these places were added at that tick.
fn added(world: &World, places: &[usize], at: Ms) -> Plan {
    let mut plan = world.plan(World::times(), &rules::read(RULES).expect("rules"));
    let mut dates = plan.date_rules(None);
    for planned in &plan.rules {
        let place = rules::read(RULES).expect("rules").iter().position(|rule| rule.name == planned.rule.name).expect("one of them");
        if places.contains(&place) {
            let key = rule_key(planned.rule.workspace.as_deref().unwrap_or_default(), &planned.rule.meaning());
            dates.insert(key, at);
        }
    }
    plan.date_rules(Some((&dates, at)));
    plan
}

/// The same for the oracle.
fn terms(log: &Log, places: &[usize], at: Ms) -> Vec<Term> {
    let rules = rules::read(RULES).expect("rules").into_iter().enumerate();
    let later = |rule: Rule| Term { shown: shown(&rule, log, at), versions: vec![(at, rule)], until: Ms::MAX };
    rules.map(|(place, rule)| if places.contains(&place) { later(rule) } else { Term::always(rule) }).collect()
}

/// A line of the oracle's that HubSpot is to hear of: tick, topic, record.
fn for_hubspot(line: &str) -> Option<(Ms, String, serde_json::Value)> {
    let [at, topic, _, record] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { return None };
    let topics = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages].map(Topic::default_name);
    topics.contains(&topic).then(|| (at.parse().expect("a tick"), topic.to_owned(), serde_json::from_str(record).expect("JSON")))
}

/// Whose click it is that an event tells of, by the log: `801` or an e-mail.
fn identity(past: &Past, event: &serde_json::Value) -> String {
    let of = |name: &str| event[name].as_str().expect("a text");
    if event["found"]["by"] == "form" {
        let id = event["found"]["form_id"].as_str().expect("an id");
        let mut forms = past.records.iter().filter_map(|(_, record)| if let Record::Form(form) = record { Some(form) } else { None });
        let form = forms.find(|form| form.workspace == of("workspace") && form.id == id).expect("in the log");
        return clickline::model::inputs::normal_email(&form.email).into_owned();
    }
    let mut clicks = past.records.iter().filter_map(|(_, record)| if let Record::Click(click) = record { Some(click) } else { None });
    let click = clicks.find(|click| click.workspace == of("workspace") && click.id == of("click_id")).expect("in the log");
    click.contact_id.clone().expect("it names somebody").trim().to_owned()
}

#[test]
fn an_explanation_tells_the_deltas_that_the_contract_has_also_of_rules_that_were_added() {
    let (mut events, mut values, mut moves, mut silent) = (0, 0, 0, 0);
    for seed in 40..43u64 {
        let past = Past::random(seed, 160);
        // From the beginning; and two rules that a tick in the middle added, as `clickline.progress` would say.
        let middle = ((START + past.log.end()) / 2).next_multiple_of(TICK);
        for places in [&[][..], &[1, 4]] {
            let world = World::with(terms(&past.log, places, middle));
            let plan = added(&world, places, middle);
            let said: Vec<_> = expect(&world, &past.log).lines.iter().filter_map(|line| for_hubspot(line)).collect();
            for portal in ["1", "2"] {
                let of_portal: Vec<_> = said.iter().filter(|(_, _, record)| record["portal"] == portal).collect();
                let mut told = BTreeSet::new();
                for asked in everybody() {
                    let history = History::Files(past.files.clone());
                    let (plan, portal) = (plan.clone(), Some(portal.to_owned()));
                    let explain = Explain { history, plan, asked: asked.clone(), portal, until: None, workers: 1 };
                    let Ok(explanation) = explain.run(&Default::default()) else { continue };
                    let ids: BTreeSet<String> = explanation
                        .subjects
                        .iter()
                        .flat_map(|subject| {
                            let own = subject.person.as_ref().map(|person| who(Some(person))[2..].to_owned());
                            subject.identities.iter().map(|identity| identity.text.clone()).chain(own)
                        })
                        .collect();
                    let deals: BTreeSet<&str> = explanation.deals.iter().map(|deal| deal.deal_id.as_str()).collect();
                    let about = |(_, topic, record): &(Ms, String, serde_json::Value)| {
                        let text = |field: &str| record[field].as_str();
                        let whom = text("contact_id").or(text("email"));
                        match topic.as_str() {
                            "hubspot.timeline" => ids.contains(&identity(&past, record)),
                            "hubspot.contact-properties" => whom.is_some_and(|whom| ids.contains(whom)),
                            _ => {
                                let theirs = whom.is_some_and(|whom| ids.contains(whom)) && !matches!(asked, Asked::Deal(_));
                                theirs || text("deal_id").is_some_and(|deal| deals.contains(deal))
                            }
                        }
                    };
                    let text = |(at, topic, record): &(Ms, String, serde_json::Value)| format!("{at} {topic} {record}");
                    let mut expected: Vec<String> = of_portal.iter().filter(|line| about(line)).map(|line| text(line)).collect();
                    let deltas = explanation.deltas.iter().map(|delta| (delta.at, delta.topic.to_owned(), delta.record.clone()));
                    let mut deltas: Vec<String> = deltas.map(|delta| text(&delta)).collect();
                    expected.sort();
                    deltas.sort();
                    let added = if places.is_empty() { "always there" } else { "added" };
                    assert_eq!(deltas, expected, "seed {seed}, {asked}, rules {added}");
                    told.extend(deltas);
                    // A rule that is hot, and lets the deal pass, and yet does not move it, says why.
                    for verdict in explanation.deals.iter().flat_map(|deal| &deal.rules) {
                        assert!(!verdict.missing.is_empty(), "{verdict:?}");
                        silent += usize::from(verdict.missing.iter().any(|why| why.contains("was added")));
                    }
                }
                // Everybody was asked about: nothing was passed over.
                let whole: BTreeSet<String> = of_portal.iter().map(|(at, topic, record)| format!("{at} {topic} {record}")).collect();
                assert_eq!(told, whole, "seed {seed}, portal {portal}");
                let count = |topic: Topic| of_portal.iter().filter(|(_, of, _)| of == topic.default_name()).count();
                events += count(Topic::Timeline);
                values += count(Topic::ContactProperties);
                moves += count(Topic::DealStages);
            }
        }
    }
    assert!(events > 100 && values > 20 && moves > 20 && silent > 0, "{events} {values} {moves} {silent}: the histories say something");
}

#[test]
fn nobody_is_known_who_is_in_no_record() {
    let past = Past::random(1, 50);
    let rules = rules::read(RULES).expect("rules");
    let ask = |asked: Asked, portal: Option<&str>| {
        let history = History::Files(past.files.clone());
        let explain = Explain { history, plan: plan(&rules), asked, portal: portal.map(str::to_owned), until: None, workers: 1 };
        explain.run(&Default::default()).expect_err("nobody").to_string()
    };
    for asked in [Asked::Contact("999".into()), Asked::Email("nobody@x".into()), Asked::Deal("999".into())] {
        assert!(ask(asked.clone(), Some("1")).contains(&format!("nothing is known of {asked} in portal 1")), "{asked}");
        assert!(ask(asked.clone(), None).contains("--portal"), "{asked}");
    }
    assert!(ask(Asked::Contact("1".into()), Some("5")).contains("there is 1, 2"));
    assert!(Path::new(&past.files[0].1).exists());
}
