//! Plays a scenario: its steps at their times, then what must have come of it.

use super::world::World;
use super::{Scenario, SinkAct, SinkKind, Step, expect};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Plays the scenario of a file.
pub fn play(name: &str, text: &str) {
    let options = serde_saphyr::options! { with_snippet: true };
    let scenario: Scenario = serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!scenario.about.is_empty() && !scenario.covers.is_empty() && !scenario.steps.is_empty(), "{name}: says too little");
    let SinkKind::Hubspot = scenario.sink;
    let began = Instant::now();
    let mut world = World::new(&scenario);
    for (at, step) in scenario.steps.iter().enumerate() {
        wait(&world, &scenario, began, &format!("step {at}"), |stats| began.elapsed() >= step.at && reached(stats, &step.once));
        perform(&mut world, step, at == 0);
    }
    let waiting = scenario.expect.parked + scenario.expect.left + scenario.expect.erased;
    wait(&world, &scenario, began, "the end", |stats| match scenario.expect.done.is_empty() {
        true => stats.is_some_and(|stats| counter(stats, "caught_up") == 1) && world.unsettled() == waiting,
        false => reached(stats, &scenario.expect.done),
    });
    expect::check(&scenario, &mut world, began.elapsed());
}

fn perform(world: &mut World, step: &Step, first: bool) {
    step.hubspot.iter().for_each(|act| world.hubspot(act));
    if let Some(clicks) = &step.events {
        world.events(clicks);
    }
    if let Some(clicks) = &step.properties {
        world.properties(clicks);
    }
    step.stages.iter().for_each(|earned| world.stage(earned));
    (0..step.broken).for_each(|_| world.broken());
    world.flush();
    match step.sink {
        Some(act) => world.act(act),
        None if first => world.act(SinkAct::Start),
        None => {}
    }
    step.replay.iter().for_each(|reason| world.replay(reason));
}

/// Whether all counters have reached these values; without a sink none has.
fn reached(stats: Option<&Value>, wanted: &BTreeMap<String, u64>) -> bool {
    wanted.iter().all(|(name, least)| stats.is_some_and(|stats| counter(stats, name) >= *least))
}

/// A counter by its name.
pub fn counter(stats: &Value, name: &str) -> u64 {
    match &stats[name] {
        Value::Number(n) => n.as_u64().unwrap_or(0),
        Value::Bool(b) => u64::from(*b),
        _ => panic!("the sink has no counter {name}"),
    }
}

#[track_caller]
fn wait(world: &World, scenario: &Scenario, began: Instant, what: &str, until: impl Fn(Option<&Value>) -> bool) {
    let mut held = 0;
    loop {
        let stats = world.stats().map(|stats| serde_json::to_value(stats).expect("JSON"));
        // Three looks in a row: a record that was appended within the last fetch may not be known yet.
        held = if until(stats.as_ref()) { held + 1 } else { 0 };
        if held >= 3 {
            return;
        }
        assert!(world.sink.as_ref().is_none_or(clickline::sinks::hubspot::Sink::running), "{what}: the sink has ended");
        assert!(began.elapsed() < scenario.within, "{what} is not reached within {:?}: {stats:#?}", scenario.within);
        std::thread::sleep(Duration::from_millis(60));
    }
}
