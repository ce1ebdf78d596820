//! Reads JSON-lines files as if they were the log.
//!
//! # Meaning
//! The log time of a line is the greatest `ts` of its file so far. Lines of contacts and deals may carry a `ts`; those
//! before the first one are known before everything else. All files are merged by log time, on one worker, so the
//! clock is the least log time that is still to come.
//!
//! # Ties and edges
//! The order within a tick does not matter. A line that can't be read has the log time of the line before it. When all
//! files have ended the last tick is closed, the dataflow is left to finish it, and no clock runs on: holds that
//! would expire later stay open.
//!
//! # Cost
//! One thread reads and decodes, about 1 µs a record; what waits in the dataflow is bounded by [`Credit`].

mod lines;

pub use lines::Lines;

use super::{Credit, Found, Kind, Meter, dead, own_time, read};
use crate::dataflow::plan::Times;
use crate::dataflow::rows::{Arrival, Place};
use crate::model::inputs::MAX_TS;
use crate::model::time::{Ms, tick_end};
use crate::stop::Stop;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

/// Lines taken at one activation: enough to be worth a round of the dataflow, few enough to keep its batches small.
const PER_TURN: usize = 4_096;
/// Bytes between the source and the end of the dataflow.
const IN_FLIGHT: usize = 64 << 20;

/// The next record of a file.
struct Head {
    log_time: Ms,
    bytes: usize,
    arrival: Arrival,
}

struct Input {
    kind: Kind,
    index: i32,
    lines: Lines,
    /// The greatest `ts` so far.
    log_time: Ms,
    head: Option<Head>,
}

/// Files that are open and have been found to be readable.
pub struct Files {
    inputs: Vec<Input>,
    line: Vec<u8>,
    times: Times,
    meter: Arc<Meter>,
}

/// The time that a line of a state may carry.
#[derive(Deserialize)]
struct Stamp {
    #[serde(default)]
    ts: Option<Ms>,
}

impl Files {
    /// Opens all files.
    ///
    /// # Errors
    /// A file that can't be opened, or whose first record can't be read from it; standard input named twice.
    pub fn open(files: &[(Kind, String)], times: Times, meter: Arc<Meter>) -> anyhow::Result<Self> {
        anyhow::ensure!(files.iter().filter(|(_, path)| path == "-").count() < 2, "standard input (`-`) can be read only once");
        let mut opened = Files { inputs: Vec::with_capacity(files.len()), line: Vec::new(), times, meter };
        for (index, (kind, path)) in (0i32..).zip(files) {
            let lines = Lines::open(path, &opened.meter)?;
            opened.inputs.push(Input { kind: *kind, index, lines, log_time: 0, head: None });
        }
        for place in 0..opened.inputs.len() {
            opened.advance(place)?;
        }
        Ok(opened)
    }

    /// Reads the next record of a file; its `head` is then gone or new.
    fn advance(&mut self, place: usize) -> anyhow::Result<()> {
        let input = &mut self.inputs[place];
        input.head = None;
        let Some(number) = input.lines.next(&mut self.line)? else { return Ok(()) };
        let at = Place { partition: input.index, offset: number };
        let found = Found { kind: input.kind, key: None, payload: Some(&self.line), place: at, source: input.lines.name() };
        let record = read(found);
        let ts = match (&record, input.kind) {
            (Ok(arrival), Kind::Clicks | Kind::Forms) => own_time(arrival),
            (Ok(_), Kind::Contacts | Kind::Deals) => serde_json::from_slice::<Stamp>(&self.line).ok().and_then(|stamp| stamp.ts),
            (Err(_), _) => None,
        };
        input.log_time = input.log_time.max(ts.filter(|ts| *ts <= MAX_TS).unwrap_or(0));
        let arrival = record.unwrap_or_else(|refusal| dead(found, refusal, tick_end(input.log_time, self.times.tick)));
        self.meter.count(input.kind, &arrival);
        input.head = Some(Head { log_time: input.log_time, bytes: self.line.len(), arrival });
        Ok(())
    }

    /// The file whose next record is the oldest, and that record's tick.
    fn next(&self) -> Option<(usize, Ms)> {
        let heads = self.inputs.iter().enumerate().filter_map(|(place, input)| Some((place, input.head.as_ref()?.log_time)));
        heads.min_by_key(|(_, log_time)| *log_time).map(|(place, log_time)| (place, tick_end(log_time, self.times.tick)))
    }
}

/// The source on each worker's scope; `files` are read by the worker that gets them, the others get `None`.
///
/// `done` watches the end of the dataflow. A file that breaks off ends the job through `stop`.
pub fn files<'scope>(
    scope: Scope<'scope, Ms>,
    files: Option<Files>,
    done: ProbeHandle<Ms>,
    stop: Stop,
) -> StreamVec<'scope, Ms, (Arrival, Ms)> {
    source::<_, CapacityContainerBuilder<Vec<(Arrival, Ms)>>, _, _>(scope, "Files", move |cap, info| {
        let activator = scope.activator_for(info.address);
        let mut held = files.is_some().then_some(cap);
        let mut state = files.map(|files| (Credit::new(IN_FLIGHT, done, Arc::clone(&files.meter)), files));
        let mut last = 0;
        move |output| {
            let (Some(cap), Some((credit, files))) = (held.as_mut(), state.as_mut()) else { return };
            if stop.asked() {
                return; // the capability stays: a tick that was not read to its end must not close
            }
            credit.retire();
            let mut session = output.session(&*cap);
            for _ in 0..PER_TURN {
                let Some((place, at)) = files.next() else { break };
                if !credit.allows(at) {
                    break;
                }
                if let Some(head) = files.inputs[place].head.take() {
                    credit.take(at, head.bytes);
                    session.give((head.arrival, at));
                    last = at;
                }
                if let Err(error) = files.advance(place) {
                    drop(session);
                    return stop.fail(error);
                }
            }
            drop(session);
            match files.next() {
                Some((_, at)) => {
                    cap.downgrade(&at);
                    if credit.allows(at) { activator.activate() } else { activator.activate_after(Duration::from_micros(500)) }
                }
                // The end of the log: its last tick closes, and when all has been written the clock is gone.
                None => {
                    cap.downgrade(&(last + 1));
                    if credit.passed(last + 1) { held = None } else { activator.activate_after(Duration::from_millis(1)) }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Kind, line and tick of everything in the files, in the order in which it enters the dataflow.
    fn merged(files: &[(Kind, &str)]) -> Vec<(Kind, i64, Ms)> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut paths = Vec::new();
        for (index, (kind, text)) in files.iter().enumerate() {
            let path = folder.path().join(index.to_string());
            fs::write(&path, text).expect("writes");
            paths.push((*kind, path.display().to_string()));
        }
        let mut files = Files::open(&paths, Times::with_tick(100), Arc::default()).expect("opens");
        let mut said = Vec::new();
        while let Some((place, at)) = files.next() {
            let head = files.inputs[place].head.take().expect("it is the next one");
            let line = match &head.arrival {
                Arrival::Click(place, _) | Arrival::Form(place, _) => place.offset,
                Arrival::Contact(place, ..) | Arrival::Deal(place, ..) => place.offset,
                Arrival::Dead(letter) => {
                    assert_eq!(letter.at, at, "a dead letter knows its tick");
                    letter.offset
                }
                Arrival::Carried(_) => unreachable!("no file carries anything over"),
            };
            said.push((files.inputs[place].kind, line, at));
            files.advance(place).expect("reads");
        }
        said
    }

    fn click(ts: Ms) -> String {
        format!(r#"{{"id":"c{ts}","ts":{ts},"workspace":"w","link":"l"}}"#)
    }

    #[test]
    fn files_are_merged_by_the_greatest_time_so_far() {
        let clicks = [click(1_010), click(1_250), click(1_020), "broken".to_owned(), click(1_301)].join("\n");
        let forms = r#"{"id":"f","ts":1210,"workspace":"w","email":"e"}"#;
        assert_eq!(
            merged(&[(Kind::Clicks, &clicks), (Kind::Forms, forms)]),
            [
                (Kind::Clicks, 1, 1_100),
                (Kind::Forms, 1, 1_300),
                (Kind::Clicks, 2, 1_300),
                (Kind::Clicks, 3, 1_300), // older than the line before: it was appended after it
                (Kind::Clicks, 4, 1_300), // no time of its own
                (Kind::Clicks, 5, 1_400),
            ]
        );
    }

    #[test]
    fn states_without_a_time_are_known_before_everything() {
        let contacts = "{\"portal\":\"1\",\"contact_id\":\"1\"}\n{\"portal\":\"1\",\"contact_id\":\"2\",\"ts\":1200}\n{\"portal\":\"1\",\"contact_id\":\"3\"}";
        assert_eq!(
            merged(&[(Kind::Clicks, &click(1_150)), (Kind::Contacts, contacts)]),
            [(Kind::Contacts, 1, 0), (Kind::Clicks, 1, 1_200), (Kind::Contacts, 2, 1_200), (Kind::Contacts, 3, 1_200)]
        );
    }

    #[test]
    fn standard_input_can_be_named_once() {
        let twice = [(Kind::Clicks, "-".to_owned()), (Kind::Forms, "-".to_owned())];
        let error = Files::open(&twice, Times::with_tick(100), Arc::default()).err().expect("refused");
        assert!(error.to_string().contains("only once"));
    }
}
