//! Runs the dataflow over a log, however its records are dealt and whenever its clock moves.

use clickline::dataflow::build;
use clickline::dataflow::plan::Plan;
use clickline::dataflow::rows::Arrival;
use clickline::model::outputs::{Output, Topic};
use clickline::model::time::Ms;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Inspect, Probe};

/// How long a worker sleeps that has nothing to do, at most.
const PARK: Duration = Duration::from_millis(1);

/// How records come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// One at a time: all that follows from a record is done before the next one comes, and a tick is closed with its last.
    OneByOne,
    /// A few at a time, cut anywhere.
    Batches,
    /// The whole log before the clock moves at all.
    AtOnce,
}

impl Feed {
    pub const ALL: [Feed; 3] = [Feed::OneByOne, Feed::Batches, Feed::AtOnce];
}

/// What the dataflow says of arrivals until its clock stands at `end`, with each output's tick. `seed` deals the records to the
/// workers and cuts the batches.
pub fn run(plan: &Arc<Plan>, arrivals: Vec<(Arrival, Ms)>, end: Ms, workers: usize, feed: Feed, seed: u64) -> Vec<(Ms, Output)> {
    run_on(timely::Config::process(workers), plan, arrivals, end, workers, feed, seed)
}

/// The same with every row that goes to another worker as bytes, as between processes.
pub fn run_as_bytes(plan: &Arc<Plan>, arrivals: Vec<(Arrival, Ms)>, end: Ms, workers: usize, feed: Feed, seed: u64) -> Vec<(Ms, Output)> {
    let config = timely::Config { communication: timely::CommunicationConfig::ProcessBinary(workers), ..timely::Config::thread() };
    run_on(config, plan, arrivals, end, workers, feed, seed)
}

fn run_on(
    config: timely::Config,
    plan: &Arc<Plan>,
    arrivals: Vec<(Arrival, Ms)>,
    end: Ms,
    workers: usize,
    feed: Feed,
    seed: u64,
) -> Vec<(Ms, Output)> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (sink, plan) = (Arc::clone(&said), Arc::clone(plan));
    let mut rng = StdRng::seed_from_u64(seed);
    let deal = |(arrival, at): (Arrival, Ms)| (arrival, at, rng.random_range(0..workers), rng.random_bool(0.3));
    let dealt: Arc<Vec<(Arrival, Ms, usize, bool)>> = Arc::new(arrivals.into_iter().map(deal).collect());
    let guards = timely::execute(config, move |worker| {
        let (sink, mut input, me) = (Arc::clone(&sink), InputHandle::new(), worker.index());
        let probe = worker.dataflow::<Ms, _, _>(|scope| {
            let outputs = build(scope.input_from(&mut input), &plan);
            outputs.inspect(move |(output, at)| sink.lock().expect("not poisoned").push((*at, output.clone()))).probe().0
        });
        let mut dealt = dealt.iter().peekable();
        while let Some((arrival, at, to, cut)) = dealt.next() {
            if *to == me {
                input.send((arrival.clone(), *at));
            }
            let next = dealt.peek().map_or(end, |(_, at, ..)| *at);
            match feed {
                Feed::OneByOne => {
                    input.flush();
                    worker.step();
                    if next > *at {
                        // First past this tick, then to the next one: timers may lie between.
                        for to in [at + 1, next] {
                            input.advance_to(to);
                            input.flush();
                            while probe.less_than(input.time()) {
                                worker.step_or_park(Some(PARK));
                            }
                        }
                    }
                }
                Feed::Batches if *cut => {
                    input.advance_to(next);
                    input.flush();
                    while probe.less_than(input.time()) {
                        worker.step_or_park(Some(PARK));
                    }
                }
                Feed::Batches | Feed::AtOnce => {}
            }
        }
        input.advance_to(end);
        input.flush();
        while probe.less_than(&end) {
            worker.step_or_park(Some(PARK));
        }
    });
    guards.expect("starts").join().into_iter().for_each(|worker| worker.expect("runs"));
    Arc::try_unwrap(said).expect("workers are gone").into_inner().expect("not poisoned")
}

/// The outputs for others, as sorted lines.
pub fn lines<'o>(outputs: impl IntoIterator<Item = &'o (Ms, Output)>) -> Vec<String> {
    let others = outputs.into_iter().filter(|(_, output)| output.topic != Topic::State);
    let mut lines: Vec<String> = others.map(|(at, output)| super::line(*at, output)).collect();
    lines.sort();
    lines
}
