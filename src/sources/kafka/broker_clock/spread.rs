//! Tells the other processes what process 0 knows of the brokers' clock.
//!
//! # Meaning
//! Process 0 has the outbox and with it the stamps; the others have partitions that must not run ahead of the brokers either. The word goes through the
//! dataflow, where the processes are connected, beside the records and their ticks: nobody waits for it. On its way it only gets older, so it stays true.

use super::{BrokerClock, Told};
use crate::model::time::Ms;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::{Operator as _, source};

/// Between two words; with the next stamp in at most two seconds a bound that was disproved should not live much longer elsewhere.
const EVERY: Duration = Duration::from_millis(500);
/// Between two looks for the first word: until then the others wait.
const FIRST: Duration = Duration::from_millis(20);

/// To whom, and what.
type Letter = (u64, Told);

/// Keeps the `clock` of every process but the first as that one's; each process has so many `workers`. Every worker must build it.
pub fn spread(scope: Scope<'_, Ms>, clock: &BrokerClock, workers: usize) {
    let workers = workers.max(1);
    // The first worker of each other process.
    let others: Vec<u64> = (workers..scope.peers()).step_by(workers).map(|worker| worker as u64).collect();
    let (says, hears, leads) = (clock.clone(), clock.clone(), scope.index() == 0);
    let letters = source::<_, CapacityContainerBuilder<Vec<Letter>>, _, _>(scope, "Clock", move |cap, info| {
        let activator = scope.activator_for(info.address);
        let (held, mut due) = (leads.then_some(cap), Instant::now());
        move |output| {
            let Some(held) = &held else { return };
            let now = Instant::now();
            if now < due {
                return;
            }
            let word = says.word();
            let after = if word.is_some() { EVERY } else { FIRST };
            due = now + after;
            activator.activate_after(after);
            if let Some(word) = word {
                output.session(held).give_iterator(others.iter().map(|other| (*other, word)));
            }
        }
    });
    letters.sink(Exchange::new(|(to, _): &Letter| *to), "ClockElsewhere", move |(input, _frontier)| {
        input.for_each(|_, letters| letters.drain(..).for_each(|(_, told)| hears.hear(told)));
    });
}
