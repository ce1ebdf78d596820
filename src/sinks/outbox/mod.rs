//! The outbox: what the dataflow says is written down, once, together with how far it got.
//!
//! ```text
//! outputs ──► [worker 0: stash by tick ─ closed ticks] ──► door, which sorts ──► Kafka (one transaction: outputs + progress)
//!                  ▲ capability follows what the door has written             └► files
//! ```
//!
//! # Meaning
//! Outputs of a tick are handed to the [`Door`] when the tick has closed, and written sorted by topic, key and value: the same in every run. The door
//! sorts them, that of Kafka beside the worker, which has the next tick to compute. The
//! operator's capability follows what the door has committed, so the probe behind it, and with it the credit of the
//! sources, says "written", not "computed".
//!
//! # Why nothing is written twice
//! - Outputs are a function of the log: a restart that reads the log again computes the same ones for the same ticks.
//! - The progress that says "all ticks before F are written" is committed together with them, or not at all.
//! - Therefore dropping outputs of ticks before F after a restart drops what is there, and nothing else.
//!
//! # Not guaranteed
//! An order between ticks of different topics for a reader of both.

pub mod files;
pub mod kafka;
pub mod size;
pub mod topics;

use crate::model::outputs::Output;
use crate::model::time::Ms;
use crate::sources::{Kind, Mark, Offsets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Operator;

/// Outputs handed over at once, at most, unless one tick has more: a transaction should not run for long.
const PER_BATCH: usize = 10_000;

/// How far the job got: all ticks before `frontier` are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Schema version.
    pub v: u32,
    /// Ticks that end before this are complete, ms.
    pub frontier: Ms,
    /// First offsets that the ticks before `frontier` do not need, by topic and partition; none in records of builds that
    /// did not write them.
    #[serde(default)]
    pub offsets: Offsets,
    /// The clock's step that the ticks are of, ms; 0 in records of builds that did not write it.
    #[serde(default)]
    pub tick: Ms,
    /// Since when counts are published at each person's own moment of the second ([`crate::dataflow::publish`]), ms; none in records of builds that
    /// published all of them at its end.
    #[serde(default)]
    pub counts_since: Option<Ms>,
    /// Since when each rule has been known, by [`crate::dataflow::plan::rule_key`], ms.
    pub rules: BTreeMap<String, Ms>,
}

/// Outputs of closed ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// All ticks that end before this are in this batch or were in an earlier one; `Ms::MAX` when the log has ended.
    pub upper: Ms,
    /// The outputs of each tick that has some, as the workers said them: in no order.
    pub ticks: Vec<Vec<Output>>,
    /// How far partitions had been read in these ticks, where that is news.
    pub read: Vec<Mark>,
}

impl Batch {
    /// The outputs as they are written: by tick, and sorted within each.
    pub fn take_sorted(&mut self) -> Vec<Output> {
        let mut ticks = std::mem::take(&mut self.ticks).into_iter();
        let mut outputs = ticks.next().unwrap_or_default();
        outputs.sort_unstable();
        for mut tick in ticks {
            tick.sort_unstable();
            outputs.append(&mut tick);
        }
        outputs
    }
}

/// Where closed ticks go.
pub trait Door: 'static {
    /// Takes a batch, or gives it back when there is no room yet.
    ///
    /// # Errors
    /// The batch itself, to be offered again.
    fn offer(&mut self, batch: Batch) -> Result<(), Batch>;

    /// All ticks that end before this are written for good. Never falls.
    fn committed(&self) -> Ms;

    /// Told once how to wake the operator when [`Door::committed`] has moved or there is room again.
    fn wake(&mut self, _activator: timely::scheduling::SyncActivator) {}
}

/// Gathers outputs on worker 0 and puts closed ticks through its `door`; the others have none.
///
/// Outputs of ticks that end before `resume` are dropped: they are written already. `marks` say how far the inputs had
/// been read. The stream that comes out is
/// empty; its frontier says what has been committed.
pub fn deliver<'scope, D: Door>(
    outputs: StreamVec<'scope, Ms, (Output, Ms)>,
    marks: StreamVec<'scope, Ms, (Mark, Ms)>,
    resume: Ms,
    door: Option<D>,
) -> StreamVec<'scope, Ms, ()> {
    let worker = outputs.scope().worker();
    let (pact, of_marks) = (Exchange::new(|_: &(Output, Ms)| 0), Exchange::new(|_: &(Mark, Ms)| 0));
    outputs.binary_frontier::<_, CapacityContainerBuilder<Vec<()>>, _, _, _, _>(marks, pact, of_marks, "Outbox", move |cap, info| {
        let activator = worker.activator_for(info.address.clone());
        let mut door = door;
        if let Some(door) = &mut door {
            door.wake(worker.sync_activator_for(info.address.to_vec()));
        }
        let mut held = door.is_some().then_some(cap);
        let mut stash = Stash { resume, handed: resume, pending: BTreeMap::new(), marks: BTreeMap::new(), refused: None };
        move |(input, frontier), (marks, marks_frontier), _output| {
            input.for_each(|_, rows| rows.drain(..).for_each(|(output, at)| stash.push(output, at)));
            marks.for_each(|_, rows| rows.drain(..).for_each(|(mark, at)| stash.mark(mark, at)));
            let (Some(cap), Some(door)) = (held.as_mut(), door.as_mut()) else { return };
            let upper = [frontier.frontier(), marks_frontier.frontier()].iter().filter_map(|f| f.iter().next().copied()).min();
            let upper = upper.unwrap_or(Ms::MAX);
            let all_taken = stash.hand_over(upper, door);
            // The capability may stand beyond the input's frontier: after a restart all before `resume` is committed.
            match door.committed() {
                Ms::MAX => held = None,
                committed => {
                    if committed > *cap.time() {
                        cap.downgrade(&committed);
                    }
                    if !all_taken || committed < stash.handed {
                        // The door wakes the operator; this is for a wake-up that came before it was waited for.
                        activator.activate_after(Duration::from_millis(50));
                    }
                }
            }
        }
    })
}

/// Outputs that wait for their tick to close, or for room.
struct Stash {
    resume: Ms,
    /// All ticks before this have been taken by the door.
    handed: Ms,
    pending: BTreeMap<Ms, Vec<Output>>,
    /// Also those of ticks before `resume`: the first record of progress needs them.
    marks: BTreeMap<Ms, BTreeMap<(Kind, i32), i64>>,
    /// What the door had no room for.
    refused: Option<Batch>,
}

impl Stash {
    fn push(&mut self, output: Output, at: Ms) {
        if at >= self.resume {
            self.pending.entry(at).or_default().push(output);
        }
    }

    fn mark(&mut self, mark: Mark, at: Ms) {
        // Nothing is cut before a tick beyond `handed` has closed: those up to it need no telling apart, and a restart goes
        // through many.
        let of = self.marks.entry(at.max(self.handed)).or_default();
        let next = of.entry((mark.kind, mark.partition)).or_insert(mark.next);
        *next = (*next).max(mark.next);
    }

    /// Offers all ticks before `upper`, in batches; whether the door took them.
    fn hand_over(&mut self, upper: Ms, door: &mut impl Door) -> bool {
        while self.refused.is_some() || upper > self.handed {
            let batch = self.refused.take().unwrap_or_else(|| self.cut(upper));
            let handed = batch.upper;
            if let Err(batch) = door.offer(batch) {
                self.refused = Some(batch);
                return false;
            }
            self.handed = handed;
        }
        true
    }

    /// The oldest closed ticks, up to the size of a batch.
    fn cut(&mut self, upper: Ms) -> Batch {
        let (mut ticks, mut outputs) = (Vec::new(), 0);
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() < upper
        {
            if outputs >= PER_BATCH {
                let upper = *entry.key();
                return Batch { upper, ticks, read: self.read(upper) };
            }
            let tick = entry.remove();
            outputs += tick.len();
            ticks.push(tick);
        }
        Batch { upper, ticks, read: self.read(upper) }
    }

    /// The furthest mark of each partition in the ticks before `upper`.
    fn read(&mut self, upper: Ms) -> Vec<Mark> {
        let later = self.marks.split_off(&upper);
        let mut furthest: BTreeMap<(Kind, i32), i64> = BTreeMap::new();
        for (of, next) in std::mem::replace(&mut self.marks, later).into_values().flatten() {
            let known = furthest.entry(of).or_insert(next);
            *known = (*known).max(next);
        }
        furthest.into_iter().map(|((kind, partition), next)| Mark { kind, partition, next }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outputs::Topic;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Input, Probe};

    fn output(key: &str) -> Output {
        Output { topic: Topic::Timeline, key: key.to_owned(), value: Vec::new() }
    }

    /// Takes every batch, and commits when told.
    #[derive(Clone, Default)]
    struct Fake {
        taken: Arc<Mutex<Vec<Batch>>>,
        committed: Arc<AtomicU64>,
        /// Batches it has room for.
        room: Arc<AtomicU64>,
    }

    impl Door for Fake {
        fn offer(&mut self, batch: Batch) -> Result<(), Batch> {
            if self.room.load(Ordering::Relaxed) == 0 {
                return Err(batch);
            }
            self.room.fetch_sub(1, Ordering::Relaxed);
            self.taken.lock().expect("not poisoned").push(batch);
            Ok(())
        }
        fn committed(&self) -> Ms {
            self.committed.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_probe_waits_for_the_commit_and_a_full_door_loses_nothing() {
        let fake = Fake::default();
        let seen = fake.clone();
        timely::execute_directly(move |worker| {
            let (mut input, mut marks) = (InputHandle::new(), InputHandle::new());
            let probe = worker
                .dataflow(|scope| deliver(scope.input_from(&mut input), scope.input_from(&mut marks), 0, Some(fake.clone())).probe().0);
            for read in [(mark(0, 5), 5), (mark(1, 1), 5), (mark(0, 6), 7), (mark(0, 9), 20)] {
                marks.send(read);
            }
            marks.close();
            for at in [5u64, 5, 7, 20] {
                input.send((output(&format!("k{at}")), at));
            }
            input.advance_to(10);
            input.flush();
            for _ in 0..20 {
                worker.step();
            }
            assert!(fake.taken.lock().expect("not poisoned").is_empty(), "no room");
            fake.room.store(10, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(60));
            for _ in 0..20 {
                worker.step();
            }
            assert_eq!(fake.taken.lock().expect("not poisoned").len(), 1);
            assert!(probe.less_than(&1), "nothing is committed yet");
            fake.committed.store(10, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(60));
            for _ in 0..20 {
                worker.step();
            }
            assert!(!probe.less_than(&10) && probe.less_equal(&10));
            fake.committed.store(Ms::MAX, Ordering::Relaxed);
        });
        let taken = seen.taken.lock().expect("not poisoned");
        assert_eq!(
            taken[0],
            Batch { upper: 10, ticks: vec![vec![output("k5"), output("k5")], vec![output("k7")]], read: vec![mark(0, 6), mark(1, 1)] }
        );
        assert_eq!(taken[1], Batch { upper: Ms::MAX, ticks: vec![vec![output("k20")]], read: vec![mark(0, 9)] });
    }

    fn mark(partition: i32, next: i64) -> Mark {
        Mark { kind: Kind::Clicks, partition, next }
    }

    /// What a run that reads `rows` and is cut off when its door has taken `batches` leaves behind.
    fn run(rows: &[(&str, Ms)], resume: Ms, batches: u64) -> (Vec<String>, Ms) {
        let fake = Fake::default();
        let mut stash = Stash { resume, handed: resume, pending: BTreeMap::new(), marks: BTreeMap::new(), refused: None };
        fake.room.store(batches, Ordering::Relaxed);
        let mut door = fake.clone();
        for (key, at) in rows {
            stash.push(output(key), *at);
            stash.hand_over(*at, &mut door);
        }
        let taken = fake.taken.lock().expect("not poisoned");
        let written = taken.iter().flat_map(|batch| batch.clone().take_sorted()).map(|output| output.key).collect();
        (written, taken.last().map_or(resume, |batch| batch.upper))
    }

    #[test]
    fn a_restart_at_any_batch_writes_each_output_once() {
        let rows = [("a", 10), ("b", 10), ("c", 20), ("d", 30), ("e", 30), ("f", 40), ("g", 50)];
        let (whole, _) = run(&rows, 0, 100);
        assert_eq!(whole, ["a", "b", "c", "d", "e", "f"], "the last tick is still open");
        for cut in 0..6 {
            let (mut written, frontier) = run(&rows, 0, cut);
            let (rest, _) = run(&rows, frontier, 100);
            written.extend(rest);
            assert_eq!(written, whole, "cut after {cut} batches");
        }
    }

    #[test]
    fn marks_of_what_a_restart_goes_through_again_take_no_room() {
        let mut stash = Stash { resume: 5_000, handed: 5_000, pending: BTreeMap::new(), marks: BTreeMap::new(), refused: None };
        (0..1_000).for_each(|n: i64| stash.mark(mark(0, n + 1), 4 * n.cast_unsigned()));
        assert_eq!(stash.marks.len(), 1);
        stash.mark(mark(0, 1_001), 5_100);
        assert_eq!(stash.read(5_100), [mark(0, 1_000)]);
        assert_eq!(stash.read(5_101), [mark(0, 1_001)]);
    }

    #[test]
    fn batches_end_with_a_tick() {
        let mut stash = Stash { resume: 0, handed: 0, pending: BTreeMap::new(), marks: BTreeMap::new(), refused: None };
        for n in 0..PER_BATCH as u64 + 5 {
            stash.push(output(&n.to_string()), n / 2);
        }
        let mut first = stash.cut(Ms::MAX);
        assert_eq!((first.take_sorted().len(), first.upper), (PER_BATCH, PER_BATCH as u64 / 2));
        assert_eq!(stash.cut(Ms::MAX).take_sorted().len(), 5);
    }

    #[test]
    fn outputs_are_sorted_within_their_tick_and_not_beyond_it() {
        let mut batch = Batch { upper: 10, ticks: vec![vec![output("d"), output("b")], vec![output("c"), output("a")]], read: Vec::new() };
        assert_eq!(batch.take_sorted(), ["b", "d", "a", "c"].map(output));
        assert!(batch.take_sorted().is_empty());
    }
}
