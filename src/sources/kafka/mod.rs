//! Reads a topic into the dataflow: one operator per topic on every worker, partitions spread over the workers.
//!
//! # Meaning
//! A record's log time is the broker's append time; where the topic has none, the producer's time, no later than now.
//! It never runs backwards in a partition: what would, is moved up and counted. The operator's capability stands at
//! the end of the tick of the least log time that its partitions have reached.
//!
//! # Ties and edges
//! - A partition that has been read to its end follows the brokers' clock less `idle_slack`: [`broker_clock`] says how that is
//!   known, [`watch`] how its end is, and why a slow partition never counts as idle. This machine's wall clock moves nothing,
//!   wherever it jumps.
//! - `idle_slack` must exceed the time from a broker's append to the record's being readable, plus what one broker's
//!   clock may be behind another's. A record that comes later than that is taken with the clock's time, and counted.
//! - A worker without partitions follows the brokers' clock, too: it holds nothing back, and can take a new partition.
//! - A new partition is noticed within seconds and read from its beginning; what it holds counts from then on.
//! - Reading begins where a restart needs it ([`Resume`]), found by the broker's index of times. Transactions of producers
//!   are not looked at.
//! - What a snapshot holds of a partition is read from there first ([`super::snapshot`]); it has the same records.
//! - A record that had not been read when the job stopped belongs to no tick that was committed, whatever its append time
//!   says: it may have become readable only after the clock had passed that. It is taken with the time of the restart.
//! - What was taken later than it was appended, for whatever reason, is noted, and taken at the same time again by every restart ([`reached`]).
//! - Records that were deleted before they were read end the job with an error, at its start and while it runs: a gap
//!   would make counts too low, in silence. So do records that were read before, are needed again, and are neither in the topic nor in a
//!   snapshot; and a topic that was made anew. Each is accepted when asked for.
//! - A broker that is away stops the clock; librdkafka keeps trying, and a warning is written now and then.
//!
//! # Cost
//! librdkafka fetches on threads of its own; decoding is done on the worker (`benches/decode`). What waits in the
//! dataflow is bounded by [`Credit`], what waits before it by `queued.max.messages.kbytes` a worker and topic.

pub mod broker_clock;
pub mod reached;
mod reader;
mod resume;
pub mod watch;

use super::snapshot::Snapshots;
use super::{Kind, Mark, Meter};
use crate::dataflow::plan::Times;
use crate::dataflow::rows::Arrival;
use crate::kafka::Kafka;
use crate::model::outputs::Output;
use crate::model::time::Ms;
use crate::stop::Stop;
use anyhow::Context as _;
use broker_clock::BrokerClock;
use rdkafka::consumer::BaseConsumer;
use reader::Reader;
use std::sync::Arc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use watch::Asker;

pub use resume::Resume;

/// A wall clock, ms since the epoch; a demo may let it run faster.
pub type Clock = Arc<dyn Fn() -> Ms + Send + Sync>;

/// How far a source may run ahead, and behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes between one topic's source on one worker and the end of the dataflow.
    pub in_flight_bytes: usize,
    /// How far a partition that has been read to its end stays behind the brokers' clock, ms.
    pub idle_slack: Ms,
}

impl Default for Limits {
    fn default() -> Self {
        // 50 ms: brokers of one site append and replicate within tens of ms, and their clocks agree among each other within as much. It is
        // part of every click's latency, and a record beyond it is counted a tick later, not lost.
        Limits { in_flight_bytes: 64 << 20, idle_slack: 50 }
    }
}

/// What the sources of all topics share.
#[derive(Clone)]
pub struct Reading {
    /// Brokers and options.
    pub kafka: Kafka,
    /// Ticks and bounds.
    pub times: Times,
    /// Credit and slack.
    pub limits: Limits,
    /// Where to begin.
    pub resume: Resume,
    /// Copies of what was read, if they are kept.
    pub snapshots: Option<Snapshots>,
    /// The brokers' clock, as far as this process knows it.
    pub clock: BrokerClock,
    /// Asks the brokers how far topics reach.
    pub asker: Asker,
    /// What has been read.
    pub meter: Arc<Meter>,
    /// Ends reading, and is told of what can't be mended.
    pub stop: Stop,
}

impl Reading {
    /// A client for reading.
    ///
    /// # Errors
    /// An option that librdkafka does not understand.
    pub fn consumer(&self) -> anyhow::Result<BaseConsumer> {
        let config = self.kafka.client(&[
            ("group.id", "clickline"), // never joined: partitions are assigned by hand
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            // A place that the broker no longer has is an error, not a reason to go on elsewhere.
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            // A broker answers a fetch at once when it has records; some mock ones only after this.
            ("fetch.wait.max.ms", "50"),
            // Bounds memory; with the default backoff of 1 s a full queue would make fetching stutter.
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.queue.backoff.ms", "10"),
            ("isolation.level", "read_uncommitted"),
        ]);
        config.create().context("the options under `kafka` do not make a consumer")
    }

    /// The name of the topic of a kind.
    pub fn topic(&self, kind: Kind) -> &str {
        kind.topic(&self.kafka.topics)
    }
}

/// The source of one topic on one worker; every worker must build it. `done` watches the end of the dataflow.
///
/// Beside the records come marks that say how far the partitions have been read, and notes for the next start.
pub fn topic<'scope>(scope: Scope<'scope, Ms>, kind: Kind, reading: &Reading, done: ProbeHandle<Ms>) -> Streams<'scope> {
    let reading = reading.clone();
    let mut builder = OperatorBuilder::new(kind.name().to_owned(), scope);
    let info = builder.operator_info();
    let (rows, arrivals) = builder.new_output();
    let (of_marks, marks) = builder.new_output();
    let (of_notes, notes) = builder.new_output();
    let (mut rows, mut of_marks) = (OutputBuilder::<Ms, Rows>::from(rows), OutputBuilder::<Ms, Marks>::from(of_marks));
    let mut of_notes = OutputBuilder::<Ms, Notes>::from(of_notes);
    builder.build(move |capabilities| {
        let activator = scope.activator_for(info.address.clone());
        let wake = Arc::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut held = capabilities;
        let stop = reading.stop.clone();
        let mut reader = match Reader::start(kind, reading, (scope.index(), scope.peers()), done, wake) {
            Ok(reader) => Some(reader),
            Err(error) => {
                stop.fail(error);
                None
            }
        };
        move |_frontiers| {
            // When the job stops, the capability stays: a tick that was not read to its end must not close.
            let Some(reader) = reader.as_mut().filter(|_| !stop.asked()) else { return };
            let [held, held_for_marks, held_for_notes] = held.as_mut_slice() else { return };
            match reader.turn(held, &mut rows.activate()) {
                Duration::ZERO => activator.activate(),
                after => activator.activate_after(after),
            }
            of_marks.activate().session(&*held_for_marks).give_iterator(reader.marks());
            of_notes.activate().session(&*held_for_notes).give_iterator(reader.notes());
            for other in [held_for_marks, held_for_notes] {
                if held.time() > other.time() {
                    other.downgrade(held.time());
                }
            }
        }
    });
    Streams { arrivals, marks, notes }
}

/// What a source says, each with its tick.
pub struct Streams<'scope> {
    /// Records.
    pub arrivals: StreamVec<'scope, Ms, (Arrival, Ms)>,
    /// How far partitions have been read.
    pub marks: StreamVec<'scope, Ms, (Mark, Ms)>,
    /// What is to be written down for the next start ([`reached`]).
    pub notes: StreamVec<'scope, Ms, (Output, Ms)>,
}

type Rows = CapacityContainerBuilder<Vec<(Arrival, Ms)>>;
type Marks = CapacityContainerBuilder<Vec<(Mark, Ms)>>;
type Notes = CapacityContainerBuilder<Vec<(Output, Ms)>>;

#[cfg(test)]
mod tests;
