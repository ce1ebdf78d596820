//! Which log time a partition had reached with which record, as far as the log itself does not say so.
//!
//! # Meaning
//! A record that can be read only after the clock has passed its append time is taken at the clock's ([`super`]), and what was decided
//! then is said. The log does not tell a later start where the clock stood. So each such record is noted in the job's own topic, in the
//! transaction that commits its tick, and a restart takes it at that time again, and with it what stands behind it: log time never runs
//! backwards. Whoever reads the partition then gets the notes: they belong to the partition, not to a worker.
//!
//! The first record of each day is noted as well. It changes nothing when it is taken again, but says that there was a record: if a restart
//! needs that day and the topic has deleted it, counts would be too low, in silence ([`Steps::missing`]).
//!
//! # Ties and edges
//! - The note says the log time, not the tick: that follows from it.
//! - A note holds from its offset on, also where compaction has taken the record itself away.
//! - A transaction that is not committed takes its notes with it. Nothing was said then, and another time is as good.
//! - Notes end when they are older than inputs are kept for, when their records are gone, and when the topic was made anew.
//!
//! # Cost
//! A look at two numbers a record. One note a partition and day, and one each time the clock runs past a record, about 150 bytes until it ends.
//!
//! # Not guaranteed
//! What a window that is made longer later finds beyond the time for which notes are kept: there a late record counts at its append time. The
//! same of the oldest ones where a partition has more than [`MOST`]: brokers' clocks that disagree by more than `idle_slack` make many.

use crate::kafka::{Isolation, Kafka, scan};
use crate::model::outputs::{Output, Topic};
use crate::model::time::{DAY, Ms, tick_end};
use crate::sources::Kind;
use crate::stop::Stop;
use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Notes of one partition, at most: a broker whose clock is behind for weeks must not fill the memory.
const MOST: usize = 50_000;

/// A partition's notes: log times by offset, both rising.
pub type Known = BTreeMap<i64, Ms>;

/// All notes, by topic and partition.
pub type AllKnown = BTreeMap<Kind, BTreeMap<i32, Known>>;

/// From this record on the log time was this or later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reached {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Tells it from the other records of its topic.
    pub kind: IsReached,
    /// The topic, by what it holds.
    pub topic: Kind,
    /// The partition.
    pub partition: i32,
    /// The record.
    pub offset: i64,
    /// The log time at which it was taken, ms.
    pub log_time: Ms,
}

/// `reached`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IsReached {
    /// The one word.
    Reached,
}

impl Reached {
    /// Reads a record of the topic; `None` for one of another kind.
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().filter(|reached: &Self| reached.v == 1)
    }

    /// As the record of its topic.
    fn output(&self) -> Output {
        let value = serde_json::to_vec(self).expect("numbers and strings are always JSON");
        Output { topic: Topic::State, key: key(self.topic, self.partition, self.offset), value }
    }
}

fn key(kind: Kind, partition: i32, offset: i64) -> String {
    format!("reached/{}/{partition}/{offset}", kind.name())
}

/// Brings notes together by what they are of.
fn all(notes: impl IntoIterator<Item = Reached>) -> AllKnown {
    let mut all = AllKnown::new();
    for Reached { v: _, kind: _, topic, partition, offset, log_time } in notes {
        all.entry(topic).or_default().entry(partition).or_default().insert(offset, log_time);
    }
    all
}

/// The newest note of each key.
#[derive(Debug, Default)]
pub struct Newest(HashMap<Vec<u8>, Reached>);

impl Newest {
    /// Takes a record of the topic; whether it was a note, or the end of anything.
    pub fn take(&mut self, key: Option<&[u8]>, payload: Option<&[u8]>) -> bool {
        let key = key.unwrap_or_default();
        match payload.map(Reached::read) {
            Some(Some(reached)) => drop(self.0.insert(key.to_vec(), reached)),
            Some(None) => return false,
            None => drop(self.0.remove(key)),
        }
        true
    }

    /// All of them.
    pub fn all(self) -> AllKnown {
        all(self.0.into_values())
    }
}

/// Reads the notes; waits for brokers that are away.
///
/// # Errors
/// `stop` was asked.
pub fn read(kafka: &Kafka, stop: &Stop) -> anyhow::Result<AllKnown> {
    let mut notes = Newest::default();
    kafka.read_all(&kafka.topics.state, Isolation::Committed, stop, |_, key, payload| {
        notes.take(key, payload);
        Ok(())
    })?;
    Ok(notes.all())
}

/// Reads the notes of a job, for whoever only looks at its topics; none where it has never run.
///
/// # Errors
/// Brokers that do not answer.
pub fn look(kafka: &Kafka) -> anyhow::Result<AllKnown> {
    let mut notes = Newest::default();
    scan(kafka, "clickline", &kafka.topics.state, |seen| {
        notes.take(seen.key, seen.payload);
        Ok(())
    })
    .context("cannot see at which time late records were taken")?;
    Ok(notes.all())
}

/// The notes of one partition while it is read.
#[derive(Debug)]
pub struct Steps {
    kind: Kind,
    partition: i32,
    known: Known,
    /// The first noted offset that has not been reached; `i64::MAX` for none.
    next: i64,
    /// The log time of the last one that has been.
    last: Ms,
    /// The note of this day has gone with its record: the next record takes its place.
    anew: bool,
    tick: Ms,
    /// Ticks that end before this are committed: what is found of them is written with the first that is not.
    frontier: Ms,
    /// What is to be written down, each with its tick.
    fresh: Vec<(Output, Ms)>,
}

impl Steps {
    /// Of a partition that is about to be read, where all ticks that end before `frontier` are committed.
    pub fn new(kind: Kind, partition: i32, known: Known, tick: Ms, frontier: Ms) -> Self {
        let next = known.keys().next().copied().unwrap_or(i64::MAX);
        Steps { kind, partition, known, next, last: 0, anew: false, tick, frontier, fresh: Vec::new() }
    }

    /// The log time that had been reached with the record at `offset`, by the notes; offsets must rise.
    pub fn at(&mut self, offset: i64) -> Ms {
        if offset >= self.next {
            let reached = self.known.range(..=offset).next_back().map_or(0, |(_, log_time)| *log_time);
            self.last = self.last.max(reached);
            self.next = self.known.range(offset.saturating_add(1)..).next().map_or(i64::MAX, |(offset, _)| *offset);
        }
        self.last
    }

    /// The record at `offset` was taken at `log_time`. `late`: neither its append time nor a record before it says so.
    pub fn took(&mut self, offset: i64, log_time: Ms, late: bool) {
        // States are needed whole, whatever their age: nothing is missed of them.
        let first_of_day = matches!(self.kind, Kind::Clicks | Kind::Forms) && (self.anew || log_time / DAY > self.last / DAY);
        if !late && !first_of_day {
            return;
        }
        self.anew = false;
        self.last = self.last.max(log_time);
        if self.known.insert(offset, log_time) != Some(log_time) {
            let (topic, partition) = (self.kind, self.partition);
            let reached = Reached { v: 1, kind: IsReached::Reached, topic, partition, offset, log_time };
            self.say(reached.output(), log_time);
        }
    }

    /// The partition stands at `low`: notes that are older than that by more than `kept` end, and the oldest of too many.
    pub fn expire(&mut self, low: Ms, kept: Ms) {
        loop {
            let too_many = self.known.len() > MOST;
            let Some(first) = self.known.first_entry().filter(|first| too_many || first.get().saturating_add(kept) < low) else { return };
            let (offset, _) = first.remove_entry();
            self.end(offset, low);
        }
    }

    /// The records from `gone.start` to `gone.end` are gone, their notes end; the partition stands at `low`. What the notes say of the
    /// records behind still holds.
    pub fn forget(&mut self, gone: Range<i64>, low: Ms) {
        let notes: Vec<(i64, Ms)> = self.known.range(gone.clone()).map(|(offset, log_time)| (*offset, *log_time)).collect();
        for (offset, log_time) in notes {
            self.known.remove(&offset);
            self.anew = true;
            self.last = self.last.max(log_time);
            self.end(offset, low);
        }
        if gone.contains(&self.next) {
            self.next = self.known.range(gone.end..).next().map_or(i64::MAX, |(offset, _)| *offset);
        }
    }

    fn end(&mut self, offset: i64, at: Ms) {
        self.say(Output { topic: Topic::State, key: key(self.kind, self.partition, offset), value: Vec::new() }, at);
    }

    fn say(&mut self, output: Output, at: Ms) {
        self.fresh.push((output, tick_end(at.max(self.frontier), self.tick)));
    }

    /// What is to be written down since the last time, each with its tick.
    pub fn fresh(&mut self) -> Vec<(Output, Ms)> {
        std::mem::take(&mut self.fresh)
    }

    /// The first note of a record from `from` to before `start` that was taken at `needed` or later.
    pub fn missing(&self, from: i64, start: i64, needed: Ms) -> Option<(i64, Ms)> {
        let gone = (from < start).then(|| self.known.range(from..start));
        gone.into_iter().flatten().find(|(_, log_time)| **log_time >= needed).map(|(offset, log_time)| (*offset, *log_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Ms = 1_763_800_000_000;

    fn steps(known: &[(i64, Ms)]) -> Steps {
        Steps::new(Kind::Clicks, 3, known.iter().copied().collect(), 100, 0)
    }

    fn said(steps: &mut Steps) -> Vec<(String, Option<Ms>, Ms)> {
        let note = |(output, at): (Output, Ms)| (output.key, Reached::read(&output.value).map(|reached| reached.log_time), at);
        steps.fresh().into_iter().map(note).collect()
    }

    #[test]
    fn what_was_noted_holds_from_its_offset_on_and_is_noted_once() {
        let mut steps = steps(&[(4, T + 50), (9, T + 900)]);
        let reached = [(0, 0), (3, 0), (4, T + 50), (6, T + 50), (12, T + 900)]; // compaction took the one at 9
        for (offset, log_time) in reached {
            assert_eq!(steps.at(offset), log_time, "offset {offset}");
        }
        steps.took(12, T + 900, false);
        assert_eq!(said(&mut steps), []);
        steps.took(13, T + 950, true);
        assert_eq!((said(&mut steps), steps.at(20)), (vec![("reached/clicks/3/13".to_owned(), Some(T + 950), T + 1_000)], T + 950));
    }

    #[test]
    fn a_replay_finds_the_same_times_from_wherever_it_begins() {
        // Append times, and where the clock stood when each could be read.
        let log = [(T, 0), (T + 10, T + 300), (T + 20, 0), (T + 400, T + 350), (T + 410, T + 400), (T + 420, T + 900), (T + 950, T + 901)];
        let run = |steps: &mut Steps, from: usize, clocks: bool| {
            let (mut low, mut taken, mut times) = (0, 0, Vec::new());
            for (offset, (appended, clock)) in log.iter().enumerate().skip(from) {
                let at = i64::try_from(offset).expect("small");
                low = steps.at(at).max(low).max(if clocks { *clock } else { 0 }).max(*appended);
                steps.took(at, low, low > taken.max(*appended));
                taken = low;
                times.push(low);
            }
            times
        };
        let mut first = steps(&[]);
        let times = run(&mut first, 0, true);
        assert_eq!(times, [T, T + 300, T + 300, T + 400, T + 410, T + 900, T + 950]);
        let notes = all(first.fresh().iter().filter_map(|(output, _)| Reached::read(&output.value)));
        let known = notes[&Kind::Clicks][&3].clone();
        assert_eq!(known.keys().collect::<Vec<_>>(), [&0, &1, &5], "the first of the day, and each that the clock had passed by itself");
        for from in 0..log.len() {
            let mut again = Steps::new(Kind::Clicks, 3, known.clone(), 100, 0);
            assert_eq!(run(&mut again, from, false), times[from..], "from {from}");
        }
    }

    #[test]
    fn notes_end_with_their_time_and_with_their_records() {
        let mut steps = Steps::new(Kind::Clicks, 3, [(0, T), (5, T + DAY), (8, T + DAY + 7), (9, T + 2 * DAY)].into(), 100, T + 3 * DAY);
        steps.expire(T + DAY, DAY);
        assert_eq!(said(&mut steps), []);
        steps.expire(T + DAY + 1, DAY);
        assert_eq!(said(&mut steps), [("reached/clicks/3/0".to_owned(), None, T + 3 * DAY)], "with the first tick that is not committed");
        assert_eq!(steps.missing(0, 9, T + DAY + 1), Some((8, T + DAY + 7)));
        assert_eq!((steps.missing(0, 8, T + DAY + 1), steps.missing(9, 9, 0), steps.missing(12, 9, 0)), (None, None, None));
        steps.forget(0..9, 0);
        assert_eq!(said(&mut steps).len(), 2);
        assert_eq!((steps.at(8), steps.at(9)), (T + DAY + 7, T + 2 * DAY), "what they said of the rest still holds");
        let mut steps = Steps::new(Kind::Clicks, 3, [(0, T)].into(), 100, T + DAY);
        steps.forget(0..5, 0);
        for offset in 5..8 {
            assert_eq!(steps.at(offset), if offset == 5 { T } else { T + 1 });
            steps.took(offset, T + 1, false);
        }
        let (gone, first) = (("reached/clicks/3/0".to_owned(), None, T + DAY), ("reached/clicks/3/5".to_owned(), Some(T + 1), T + DAY));
        assert_eq!(said(&mut steps), [gone, first], "what is left of a day begins with another record");
    }

    #[test]
    fn of_too_many_notes_the_oldest_end() {
        let mut steps = steps(&[]);
        for offset in 0..i64::try_from(MOST).expect("small") + 3 {
            steps.took(offset, T + offset.cast_unsigned(), true);
        }
        steps.fresh();
        steps.expire(T + DAY, 30 * DAY);
        let ended: Vec<String> = said(&mut steps).into_iter().filter(|(_, log_time, _)| log_time.is_none()).map(|(key, ..)| key).collect();
        assert_eq!(ended, [0, 1, 2].map(|offset| format!("reached/clicks/3/{offset}")));
    }

    #[test]
    fn the_first_record_of_a_day_is_noted_of_what_happens_and_not_of_states() {
        for (kind, notes) in [(Kind::Clicks, 2), (Kind::Forms, 2), (Kind::Contacts, 0), (Kind::Deals, 0)] {
            let mut steps = Steps::new(kind, 0, Known::new(), 100, 0);
            for (offset, at) in [(0, T), (1, T + 1), (2, T + DAY), (3, T + DAY + 1)] {
                steps.took(offset, at, false);
            }
            assert_eq!(steps.fresh().len(), notes, "{kind:?}");
        }
    }
}
