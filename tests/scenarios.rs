//! Scenarios of the sinks: a file each, played between an embedded broker and a HubSpot that misbehaves by script.
//!
//! `docs/scenarios.md` has the format and says which fault each of them covers.

mod scenario;

macro_rules! scenarios {
    ($($name:ident)*) => {
        /// All of them.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                scenario::play(stringify!($name), include_str!(concat!("scenarios/", stringify!($name), ".yaml")));
            }
        )*
    };
}

scenarios! {
    a_proxys_404
    app_events
    app_events_known_after_a_crash
    app_events_known_before
    app_events_poison
    bad_bodies
    budget_is_kept
    contact_made_by_two
    contacts_of_deals_fail
    crash
    custom_events
    daily_limit
    deal_before_backlog
    deals_not_read
    deals_partly_read
    empty_success
    erased
    erased_after_dead_letters
    erased_before_a_contact_is_made
    expired_token
    gave_up
    gone
    guards
    hot_contact
    locked_and_moving
    long_outage
    look_ups_that_say_nothing
    lost_answers
    lost_answers_as_of_v1
    many_contacts_and_pipelines
    merged
    missing_scope
    moved_by_a_person
    moved_in_the_last_moment
    no_contact
    one_record_is_forbidden
    older_value_behind_a_slow_answer
    own_daily_limit
    partial_success
    partial_success_as_200
    pauses_until_a_date
    poison
    poison_first_and_last
    rate_limited
    rate_limited_with_retry_after
    read_only_property
    reinstall
    server_errors
    survivor_not_mentioned
    templates_not_listed
    trace_id_alone
    undecodable
    validation_rule
    version_2026_09
    version_ended
    version_v3
}

#[test]
fn every_file_is_played_and_said_what_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let table = include_str!("../docs/scenarios.md");
    let mut files = 0;
    for file in std::fs::read_dir(folder).expect("is there") {
        let file = file.expect("is there");
        if file.file_type().expect("is there").is_dir() {
            continue;
        }
        let name = file.file_name().to_string_lossy().trim_end_matches(".yaml").to_owned();
        assert!(NAMES.contains(&name.as_str()), "{name} is not played");
        assert!(table.contains(&format!("`{name}`")), "{name} is not in docs/scenarios.md");
        files += 1;
    }
    assert_eq!(files, NAMES.len());
    // Those are played by `tests/clickhouse/faults.rs`, all that are there.
    for file in std::fs::read_dir(format!("{folder}/clickhouse")).expect("is there") {
        let name = file.expect("is there").file_name().to_string_lossy().trim_end_matches(".yaml").to_owned();
        assert!(table.contains(&format!("`clickhouse/{name}`")), "clickhouse/{name} is not in docs/scenarios.md");
    }
}

/// Whoever believes a table must find what it names.
#[test]
fn everything_that_the_tables_name_is_there() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (text, at_least) in [(include_str!("../docs/scenarios.md"), 140), (include_str!("../docs/semantics.md"), 25)] {
        let tables = text.split("## ").filter(|part| part.contains("| shown by |"));
        let cells = tables.flat_map(str::lines).filter_map(|line| line.strip_suffix(" |")?.rsplit(" | ").next());
        let mut names = 0;
        for name in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            names += 1;
            let Some((file, test)) = name.split_once("::") else {
                let is_there = match name.strip_prefix("clickhouse/") {
                    Some(of) => top.join(format!("tests/scenarios/clickhouse/{of}.yaml")).is_file(),
                    None => NAMES.contains(&name),
                };
                assert!(is_there, "there is no scenario {name}");
                continue;
            };
            let file = if file.contains('/') { top.join(file) } else { top.join("src/sinks/hubspot").join(file) };
            let code = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(code.contains(&format!("fn {test}(")), "there is no test {name}");
        }
        assert!(names > at_least, "{names} names were found");
    }
}

/// The example of the ClickHouse sink is a file of its folder, as it is.
#[test]
fn everything_in_the_example_of_clickhouse_is_a_file_that_is_played() {
    let part = include_str!("../docs/scenarios.md").split("`tests/scenarios/clickhouse/`").nth(1).expect("a part");
    let example = part.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    assert_eq!(example, include_str!("scenarios/clickhouse/too_many_parts.yaml"));
}
