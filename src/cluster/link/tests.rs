//! Two processes as threads, one of which ends while rows are under way.

use super::*;
use crate::cluster::testing::{free_addresses, hosts, terms};
use crate::cluster::{Met, meet};
use crate::dataflow::step::{Machine, by_tick, to};
use crate::engine::{self, Team};
use crate::model::time::Ms;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Probe as _;
use timely::dataflow::operators::generic::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

/// Rows that each process says in each tick.
const ROWS: u64 = 4;
/// What they are: whose, and which.
type Row = (usize, u64);

/// Passes rows on; somewhere else than where they came from.
struct Pass;

impl Machine for Pass {
    type In = Row;
    type Out = Row;
    fn step(&mut self, _at: Ms, rows: &mut Vec<Row>, out: &mut dyn FnMut(Row)) {
        rows.drain(..).for_each(out);
    }
}

/// Notes how many rows a tick had when it closed.
struct Close(Arc<Mutex<Vec<(Ms, usize)>>>);

impl Machine for Close {
    type In = Row;
    type Out = Row;
    fn step(&mut self, at: Ms, rows: &mut Vec<Row>, _out: &mut dyn FnMut(Row)) {
        self.0.lock().expect("not poisoned").push((at, rows.len()));
    }
}

/// A row each time it is asked, [`ROWS`] of them in each tick; how many were said.
fn ticker<'scope>(scope: Scope<'scope, Ms>, said: Arc<AtomicU64>) -> StreamVec<'scope, Ms, (Row, Ms)> {
    let worker = scope.index();
    source::<_, CapacityContainerBuilder<Vec<(Row, Ms)>>, _, _>(scope, "Ticker", move |capability, info| {
        let activator = scope.activator_for(info.address.clone());
        let mut held = capability;
        held.downgrade(&1);
        move |output| {
            let n = said.fetch_add(1, Ordering::Relaxed);
            let at = 1 + n / ROWS;
            if at > *held.time() {
                held.downgrade(&at);
            }
            output.session(&held).give(((worker, n % ROWS), at));
            activator.activate();
        }
    })
}

/// Each process says rows, they are passed on by both, and worker 0 closes ticks.
fn build(scope: Scope<'_, Ms>, said: &Arc<AtomicU64>, closed: &Arc<Mutex<Vec<(Ms, usize)>>>, probe: &ProbeHandle<Ms>) {
    let rows = ticker(scope, Arc::clone(said));
    let rows = by_tick(rows, "Pass", to(|(_, n): &(usize, u64)| *n), Pass);
    let rows = by_tick(rows, "Turn", to(|(_, n): &(usize, u64)| n + 1), Pass);
    by_tick(rows, "Close", to(|_| 0), Close(Arc::clone(closed))).probe_with(probe);
}

fn met(addresses: &[String]) -> [Met; 2] {
    thread::scope(|scope| {
        [0, 1]
            .map(|process| {
                let mine = hosts(addresses, process);
                scope.spawn(move || meet(&mine, &terms(1), &Stop::new()).expect("meets"))
            })
            .map(|one| one.join().expect("no panic"))
    })
}

/// The ticks that process 0 closes when process 1 ends at some moment and process 0 goes on regardless.
fn closed_without_process_1(wait_for_rows: u64, break_down: bool) -> (Vec<(Ms, usize)>, u64) {
    let [zero, one] = met(&free_addresses::<2>());
    let (closed, said) = (Arc::new(Mutex::new(Vec::new())), [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))]);
    let asked = Stop::new();
    let (of_one, other_said) = (asked.clone(), Arc::clone(&said[1]));
    let other = thread::spawn(move || {
        let (never, said) = (Arc::default(), Arc::clone(&other_said));
        engine::run(Team::Processes(Links::new(one, 1, of_one.clone())), &of_one, move |scope, _, probe| build(scope, &said, &never, probe))
    });
    // Process 0 by hand: the engine would stop as soon as the other one is gone.
    let (builders, comms) = Links::new(zero, 1, Stop::new()).build().expect("links");
    let (lost, of_zero, said_of_zero, notes) = (comms.lost(), Arc::clone(&said[0]), Arc::clone(&said[1]), Arc::clone(&closed));
    let after = Arc::new(AtomicU64::new(0));
    let steps = Arc::clone(&after);
    let guards = timely::execute::execute_from(builders, Box::new(()), timely::WorkerConfig::default(), move |worker| {
        let probe = ProbeHandle::new();
        worker.dataflow::<Ms, _, _>(|scope| build(scope, &of_zero, &notes, &probe));
        while !lost.load(Ordering::SeqCst) {
            worker.step();
            if said_of_zero.load(Ordering::Relaxed) > wait_for_rows {
                if break_down {
                    asked.fail(anyhow::anyhow!("broke down"));
                } else {
                    asked.ask();
                }
            }
        }
        // Whatever it said before it ended has come, and is gone through.
        for _ in 0..300 {
            worker.step();
            steps.fetch_add(1, Ordering::Relaxed);
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    })
    .expect("starts");
    assert!(guards.join().into_iter().all(|worker| worker.is_ok()));
    comms.leave();
    assert_eq!(after.load(Ordering::Relaxed), 300);
    assert_eq!(other.join().expect("no panic").is_err(), break_down);
    let closed = std::mem::take(&mut *closed.lock().expect("not poisoned"));
    (closed, said[1].load(Ordering::Relaxed))
}

#[test]
fn a_process_that_ends_closes_no_tick_in_the_others() {
    for round in 0..12 {
        let (closed, said) = closed_without_process_1(round * 37, round % 3 == 2);
        let last = closed.last().map_or(0, |(at, _)| *at);
        let whole = 2 * usize::try_from(ROWS).expect("small");
        assert!(closed.iter().all(|(_, rows)| *rows == whole), "round {round}: a tick closed without all of its rows: {closed:?}");
        assert!(closed.iter().zip(1..).all(|((at, _), tick)| *at == tick), "round {round}: {closed:?}");
        // The tick that it was in when it ended is not closed, nor any after it.
        assert!(last <= said / ROWS, "round {round}: {last} closed, {said} rows said");
    }
}

#[test]
fn a_process_that_ends_ends_the_others_with_its_name() {
    let addresses = free_addresses::<2>();
    let [zero, one] = met(&addresses);
    let stops = [Stop::new(), Stop::new()];
    let began = Instant::now();
    let [zero, one] = thread::scope(|scope| {
        let running = [zero, one].map(|met| {
            let stop = stops[met.hosts.process].clone();
            scope.spawn(move || {
                let (said, closed) = (Arc::default(), Arc::default());
                engine::run(Team::Processes(Links::new(met, 1, stop.clone())), &stop, move |scope, _, probe| {
                    build(scope, &said, &closed, probe)
                })
            })
        });
        thread::sleep(Duration::from_millis(100));
        stops[1].ask();
        running.map(|one| one.join().expect("no panic"))
    });
    one.expect("stopped as asked");
    let error = zero.expect_err("it was not asked");
    assert!(error.is::<Lost>() && error.to_string().contains(&format!("process 1 at {}", addresses[1])), "{error:#}");
    assert!(stops[0].asked() && !stops[0].wished());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn all_asked_at_once_end_as_asked() {
    for _ in 0..5 {
        let all = met(&free_addresses::<2>());
        let stop = Stop::new();
        let ended = thread::scope(|scope| {
            let running = all.map(|met| {
                let stop = stop.clone();
                scope.spawn(move || {
                    let (said, closed) = (Arc::default(), Arc::default());
                    engine::run(Team::Processes(Links::new(met, 1, stop.clone())), &stop, move |scope, _, probe| {
                        build(scope, &said, &closed, probe)
                    })
                })
            });
            thread::sleep(Duration::from_millis(30));
            stop.ask();
            running.map(|one| one.join().expect("no panic"))
        });
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    }
}
