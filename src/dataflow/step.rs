//! The frame of every stateful operator: a state machine that is run once for each closed tick.
//!
//! # Meaning
//! Rows arrive in any order, each with the tick it belongs to. When the frontier passes a tick, the machine gets all
//! rows of that tick at once, in no particular order, and says what follows. Ticks are run in order. A machine may
//! also ask to be run at a later time without any row ([`Machine::due`]): that is how holds expire and windows slide.
//! What it emits at a tick belongs to that tick. So a machine's output is a function of its rows and their ticks
//! alone: not of batching, of the number of workers, or of how far the frontier moved at once.
//!
//! # Ties and edges
//! Rows of one tick are simultaneous; a machine that cares for an order sorts them by something the log says. When the
//! input ends (the frontier is empty), rows that still wait are run, times that are merely due are not: the log has
//! ended and no clock runs on.
//!
//! # Cost
//! Two moves a row, and a sort where rows of several workers interleave; nothing for a tick without rows. The operator
//! holds one capability, at the first tick that it has not run, however many rows or timers wait. When many ticks close at once it
//! runs a thousand rows and lets the others have their turn, so that a worker's step stays short.

use crate::model::time::Ms;
use std::collections::VecDeque;
use std::hint::black_box;
use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, Session};
use timely::progress::operate::FrontierInterest;

/// The map of the operators' states: a fast hash, keyed anew in every process, since keys come from outside.
pub type Map<K, V> = hashbrown::HashMap<K, V, foldhash::fast::RandomState>;

/// A stateful operator's state and decisions; no clock, no network, no other input than its rows.
pub trait Machine: 'static {
    /// What it is told.
    type In: ExchangeData;
    /// What it says.
    type Out: ExchangeData + Clone;

    /// Runs the tick that ends at `at`. `rows` may be empty when the tick was due; whatever is left in it is dropped.
    fn step(&mut self, at: Ms, rows: &mut Vec<Self::In>, out: &mut dyn FnMut(Self::Out));

    /// Looks at what the next rows will need, and does nothing with it.
    ///
    /// A row mostly waits for memory: one look-up after the other, each far away. Looked up side by side for many rows, they
    /// wait together; what comes after finds it near. It may note what it has found: rows are run in the order in which they
    /// were shown, and none is shown before all that were are run. A tick of more rows than [`AHEAD`] is shown by the machine itself, with [`each`]: what was
    /// looked at before all of them is far again when the last has its turn. Whoever notes something must then forget first what it has noted: the
    /// frame may have shown the first of them behind the rows of a tick before.
    fn warm<'r>(&mut self, _rows: impl Iterator<Item = &'r Self::In> + Clone)
    where
        Self::In: 'r,
    {
    }

    /// The next tick's end at which the machine has something to do by itself. After a `step` at `t` it is beyond `t`.
    fn due(&self) -> Option<Ms> {
        None
    }
}

/// Rows that are looked at ahead of the one that is run: enough to wait together, few enough to be still near when it is their
/// turn.
pub const AHEAD: usize = 64;

/// Runs each of `rows`. Where they are more than [`AHEAD`], `show` gets so many of them before they are run, and then the next.
pub fn each<M, R>(machine: &mut M, rows: &mut Vec<R>, show: impl Fn(&mut M, &[R]), mut run: impl FnMut(&mut M, R)) {
    let turn = if rows.len() > AHEAD { AHEAD } else { 0 };
    let mut rows = rows.drain(..);
    while turn > 0 && rows.len() > 0 {
        let shown = turn.min(rows.len());
        show(machine, &rows.as_slice()[..shown]);
        rows.by_ref().take(shown).for_each(|row| run(machine, row));
    }
    rows.for_each(|row| run(machine, row));
}

/// Rows that an operator runs before it lets others run: few enough that what it says is still near when the next operator takes
/// it, that workers do not wait for each other's operators, and that a step stays short; enough to be worth a turn.
const ROWS_A_TURN: usize = 1_024;

/// Rows that wait for their tick to close, mostly in the order of their ticks, and those of closed ticks that have not been run.
struct Stash<R> {
    rows: Vec<(Ms, R)>,
    sorted: bool,
    /// Rows of closed ticks, in the order of ticks; each closing's after those of the one before.
    closed: VecDeque<std::vec::IntoIter<(Ms, R)>>,
    /// Rows at the front of `closed` that the machine has been shown ahead.
    shown: usize,
    /// Ticks before this are closed; all are where it is `None`.
    upper: Option<Ms>,
    /// Timers before this are run: the end of the input closes all ticks, but no clock runs on.
    timers: Ms,
}

impl<R> Stash<R> {
    fn new() -> Self {
        Stash { rows: Vec::new(), sorted: true, closed: VecDeque::new(), shown: 0, upper: Some(0), timers: 0 }
    }

    fn push(&mut self, at: Ms, row: R) {
        self.sorted &= self.rows.last().is_none_or(|(last, _)| *last <= at);
        self.rows.push((at, row));
    }

    /// Closes all ticks before `upper`, all ticks where it is `None`.
    fn close(&mut self, upper: Option<Ms>) {
        self.upper = upper;
        self.timers = upper.unwrap_or(self.timers);
        if !self.sorted {
            // Rows come in runs, one from each worker, which this sort merges.
            self.rows.sort_by_key(|(at, _)| *at);
            self.sorted = true;
        }
        let end = upper.map_or(self.rows.len(), |upper| self.rows.partition_point(|(at, _)| *at < upper));
        if end > 0 {
            // Mostly all of them are closed, and none needs to be moved.
            let mut open = self.rows.split_off(end);
            // As many will come again.
            open.reserve(end);
            self.closed.push_back(std::mem::replace(&mut self.rows, open).into_iter());
        }
    }

    /// Rows that come next, of one closing.
    fn next(&mut self) -> &[(Ms, R)] {
        while self.closed.front().is_some_and(|rows| rows.as_slice().is_empty()) {
            self.closed.pop_front();
        }
        self.closed.front().map_or(&[], |rows| rows.as_slice())
    }
}

/// Runs `machine` over the rows of closed ticks and its timers before those that are open, tick by tick, until all are run or, with `turn` rows, it is
/// the next operator's turn; what it says goes to `out` with its tick. `tick` is room for the rows of one. Says at which tick it goes on.
fn run_closed<M: Machine>(
    machine: &mut M,
    stash: &mut Stash<M::In>,
    turn: usize,
    tick: &mut Vec<M::In>,
    mut out: impl FnMut(Ms, M::Out),
) -> Option<Ms> {
    let mut run = 0;
    loop {
        let timer = machine.due().filter(|due| *due < stash.timers);
        let next = stash.next().first().map(|(at, _)| *at);
        let at = next.into_iter().chain(timer).min()?;
        if run >= turn {
            return Some(at);
        }
        // A tick's rows were closed together. One of many shows them itself; what was shown of it is shown again.
        let many = stash.next().get(AHEAD).is_some_and(|(of, _)| *of == at);
        if many {
            stash.shown = 0;
        }
        while let [(of, _), ..] = stash.next()
            && *of == at
        {
            if stash.shown == 0 && !many {
                let rows = stash.next();
                let ahead = &rows[..AHEAD.min(rows.len())];
                machine.warm(ahead.iter().map(|(_, row)| row));
                stash.shown = ahead.len();
            }
            stash.shown = stash.shown.saturating_sub(1);
            tick.extend(stash.closed.front_mut().and_then(Iterator::next).map(|(_, row)| row));
        }
        // A timer without rows is work, too.
        run += tick.len().max(1);
        machine.step(at, tick, &mut |row| out(at, row));
        tick.clear();
        debug_assert!(machine.due().is_none_or(|due| due > at), "a machine must not ask for the tick that it has run");
    }
}

/// Rows to the worker that `route` names, before the division by the number of workers.
pub fn to<R: ExchangeData>(route: impl Fn(&R) -> u64 + 'static) -> Exchange<(R, Ms), impl FnMut(&(R, Ms)) -> u64> {
    Exchange::new(move |(row, _): &(R, Ms)| route(row))
}

/// Runs `machine` over `rows`, each worker with the rows that `pact` sends it: [`to`], or `Pipeline` for such as are there.
pub fn by_tick<'scope, M, P>(
    rows: StreamVec<'scope, Ms, (M::In, Ms)>,
    name: &str,
    pact: P,
    machine: M,
) -> StreamVec<'scope, Ms, (M::Out, Ms)>
where
    M: Machine,
    P: ParallelizationContract<Ms, Vec<(M::In, Ms)>>,
{
    by_tick_dealt(rows, name, pact, machine, |row, ports: &mut Ports<'_, '_, M::Out, Nothing, Nothing, Nothing>| ports.a(row)).0
}

/// Nothing ever goes through a port of this.
pub type Nothing = std::convert::Infallible;

type Builder<R> = CapacityContainerBuilder<Vec<(R, Ms)>>;
type Port<'a, 'b, R> = Session<'a, 'b, Ms, Builder<R>, Capability<Ms>>;

/// Up to four streams out of one operator; what goes in travels with the running tick.
pub struct Ports<'a: 'b, 'b, A: Clone + 'static, B: Clone + 'static, C: Clone + 'static, D: Clone + 'static> {
    at: Ms,
    a: Port<'a, 'b, A>,
    b: Port<'a, 'b, B>,
    c: Port<'a, 'b, C>,
    d: Port<'a, 'b, D>,
}

impl<'a: 'b, 'b, A: Clone + 'static, B: Clone + 'static, C: Clone + 'static, D: Clone + 'static> Ports<'a, 'b, A, B, C, D> {
    /// Into the first stream.
    pub fn a(&mut self, row: A) {
        self.a.give((row, self.at));
    }
    /// Into the second.
    pub fn b(&mut self, row: B) {
        self.b.give((row, self.at));
    }
    /// Into the third.
    pub fn c(&mut self, row: C) {
        self.c.give((row, self.at));
    }
    /// Into the fourth.
    pub fn d(&mut self, row: D) {
        self.d.give((row, self.at));
    }
}

/// The streams behind [`Ports`].
pub type Dealt<'scope, A, B, C, D> =
    (StreamVec<'scope, Ms, (A, Ms)>, StreamVec<'scope, Ms, (B, Ms)>, StreamVec<'scope, Ms, (C, Ms)>, StreamVec<'scope, Ms, (D, Ms)>);

/// What writes into [`Dealt`].
type Outputs<A, B, C, D> =
    (OutputBuilder<Ms, Builder<A>>, OutputBuilder<Ms, Builder<B>>, OutputBuilder<Ms, Builder<C>>, OutputBuilder<Ms, Builder<D>>);

/// An operator's four outputs, from inside and from outside.
type Four<'scope, A, B, C, D> = (Outputs<A, B, C, D>, Dealt<'scope, A, B, C, D>);

/// Gives an operator its four outputs.
fn four<'scope, A, B, C, D>(builder: &mut OperatorBuilder<'scope, Ms>) -> Four<'scope, A, B, C, D>
where
    A: Clone + 'static,
    B: Clone + 'static,
    C: Clone + 'static,
    D: Clone + 'static,
{
    let ((a, of_a), (b, of_b)) = (builder.new_output(), builder.new_output());
    let ((c, of_c), (d, of_d)) = (builder.new_output(), builder.new_output());
    ((OutputBuilder::from(a), OutputBuilder::from(b), OutputBuilder::from(c), OutputBuilder::from(d)), (of_a, of_b, of_c, of_d))
}

/// Deals `rows` out to several streams, as they come. `look` reads what whoever gets a row next will read of it: looked at for all
/// rows that came together, that waits for memory once.
pub fn deal<'scope, R, A, B, C, D>(
    rows: StreamVec<'scope, Ms, (R, Ms)>,
    name: &str,
    look: impl Fn(&R) -> u64 + 'static,
    mut deal: impl FnMut(R, &mut Ports<'_, '_, A, B, C, D>) + 'static,
) -> Dealt<'scope, A, B, C, D>
where
    R: Clone + 'static,
    A: Clone + 'static,
    B: Clone + 'static,
    C: Clone + 'static,
    D: Clone + 'static,
{
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let ((mut a, mut b, mut c, mut d), dealt) = four(&mut builder);
    builder.build(move |_capabilities| {
        move |_frontiers| {
            let (mut a, mut b, mut c, mut d) = (a.activate(), b.activate(), c.activate(), d.activate());
            input.for_each(|cap, rows| {
                black_box(rows.iter().fold(0, |all, (row, _)| all ^ look(row)));
                let caps = [0, 1, 2, 3].map(|port| cap.retain_least(port).expect("rows travel with a time"));
                let (a, b, c, d) = (a.session(&caps[0]), b.session(&caps[1]), c.session(&caps[2]), d.session(&caps[3]));
                let mut ports = Ports { at: 0, a, b, c, d };
                for (row, at) in rows.drain(..) {
                    ports.at = at;
                    deal(row, &mut ports);
                }
            });
        }
    });
    dealt
}

/// Runs `machine` as [`by_tick`] does, and lets `deal` say where each of its words goes.
///
/// One operator rather than three: a row is moved once from the machine to whoever wants it.
pub fn by_tick_dealt<'scope, M, P, A, B, C, D>(
    rows: StreamVec<'scope, Ms, (M::In, Ms)>,
    name: &str,
    pact: P,
    machine: M,
    mut deal: impl FnMut(M::Out, &mut Ports<'_, '_, A, B, C, D>) + 'static,
) -> Dealt<'scope, A, B, C, D>
where
    M: Machine,
    P: ParallelizationContract<Ms, Vec<(M::In, Ms)>>,
    A: Clone + 'static,
    B: Clone + 'static,
    C: Clone + 'static,
    D: Clone + 'static,
{
    let mut machine = machine;
    let scope = rows.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut input = builder.new_input(rows, pact);
    let ((mut a, mut b, mut c, mut d), dealt) = four(&mut builder);
    let again = scope.activator_for(builder.operator_info().address);
    builder.build(move |capabilities| {
        let mut held = capabilities;
        let mut stash = Stash::new();
        let mut tick = Vec::new();
        move |frontiers| {
            input.for_each(|_, rows| {
                for (row, at) in rows.drain(..) {
                    stash.push(at, row);
                }
            });
            let [of_a, of_b, of_c, of_d] = held.as_mut_slice() else { return };
            let upper = frontiers.first().and_then(|frontier| frontier.frontier().iter().next().copied());
            if upper != stash.upper {
                stash.close(upper);
            } else if upper == Some(*of_a.time()) {
                return; // nothing has closed since, and all that had is run
            }
            let goes_on = {
                // One session for all ticks: the stamp is a lower bound, each row carries its own tick.
                let (mut a, mut b, mut c, mut d) = (a.activate(), b.activate(), c.activate(), d.activate());
                let (a, b, c, d) = (a.session(&*of_a), b.session(&*of_b), c.session(&*of_c), d.session(&*of_d));
                let mut ports = Ports { at: 0, a, b, c, d };
                run_closed(&mut machine, &mut stash, ROWS_A_TURN, &mut tick, |at, row| {
                    ports.at = at;
                    deal(row, &mut ports);
                })
            };
            if goes_on.is_some() {
                again.activate();
            }
            match goes_on.or(upper) {
                Some(upper) => held.iter_mut().for_each(|cap| cap.downgrade(&upper)),
                None => held.clear(),
            }
        }
    });
    dealt
}

#[cfg(test)]
pub(crate) mod testing {
    //! Runs a machine without a dataflow: at once, or a tick at a time, or with ticks merged at random.

    use super::{Machine, Ms, Stash, run_closed};

    /// All outputs of `machine` over `rows` up to `end`, with their ticks.
    pub fn run<M: Machine>(machine: &mut M, rows: Vec<(M::In, Ms)>, end: Ms) -> Vec<(M::Out, Ms)> {
        let (mut stash, mut said) = (Stash::new(), Vec::new());
        rows.into_iter().for_each(|(row, at)| stash.push(at, row));
        stash.close(Some(end.saturating_add(1)));
        while run_closed(machine, &mut stash, 3, &mut Vec::new(), |at, row| said.push((row, at))).is_some() {}
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Input, Inspect, Probe};

    /// Says each tick's rows sorted, and a zero ten ms after the last tick with rows.
    struct Echo {
        timer: Option<Ms>,
    }

    impl Machine for Echo {
        type In = u64;
        type Out = Vec<u64>;
        fn step(&mut self, at: Ms, rows: &mut Vec<u64>, out: &mut dyn FnMut(Vec<u64>)) {
            rows.sort_unstable();
            self.timer = if rows.is_empty() { None } else { Some(at + 10) };
            out(std::mem::take(rows));
        }
        fn due(&self) -> Option<Ms> {
            self.timer
        }
    }

    fn outputs(workers: usize, flush_each: bool) -> Vec<(Vec<u64>, Ms)> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&said);
        timely::execute(timely::Config::process(workers), move |worker| {
            let sink = Arc::clone(&sink);
            let mut input = InputHandle::new();
            let probe = worker.dataflow(|scope| {
                let rows = scope.input_from(&mut input);
                let (probe, _said) = by_tick(rows, "Echo", to(|_| 0), Echo { timer: None })
                    .inspect(move |row| sink.lock().expect("not poisoned").push(row.clone()))
                    .probe();
                probe
            });
            for at in [0u64, 5, 7, 40, 100] {
                if worker.index() == 0 {
                    input.send((at + 1, at));
                }
                input.send((at, at));
                if flush_each {
                    input.advance_to(at + 1);
                    while probe.less_than(input.time()) {
                        worker.step();
                    }
                }
            }
            input.advance_to(105);
            input.flush();
            while probe.less_than(&105) {
                worker.step();
            }
        })
        .expect("starts")
        .join()
        .into_iter()
        .for_each(|worker| worker.expect("runs"));
        let mut said = Arc::try_unwrap(said).expect("workers are gone").into_inner().expect("not poisoned");
        said.sort_by_key(|(_, at)| *at);
        said
    }

    #[test]
    fn at_once_equals_time_by_time_on_any_number_of_workers() {
        let expected = outputs(1, true);
        // 7 + 10 and 40 + 10 are due; 100 + 10 is beyond the end of the log.
        assert_eq!(expected.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [0, 5, 7, 17, 40, 50, 100]);
        assert_eq!(outputs(1, false), expected);
        let doubled = outputs(2, true);
        assert_eq!(
            doubled.iter().map(|(rows, at)| (rows.len(), *at)).collect::<Vec<_>>(),
            [(3, 0), (3, 5), (3, 7), (0, 17), (3, 40), (0, 50), (3, 100)]
        );
        assert_eq!(outputs(2, false), doubled);
    }
}
