//! A worker's reader of one topic: its turns, its clock, and what it says of itself.

mod idle;
mod read;
mod tail;
mod take_up;

use super::broker_clock::BrokerClock;
use super::watch::{Complaints, Question, Watch};
use super::{Limits, Reading, Resume, Rows};
use crate::dataflow::plan::Times;
use crate::model::outputs::Output;
use crate::model::time::{Ms, tick_end};
use crate::sources::snapshot::Recorder;
use crate::sources::{Credit, Kind, Mark, Meter, Standing};
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::consumer::BaseConsumer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tail::Tail;
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;
use timely::scheduling::SyncActivator;

/// The operator is woken by new records and by the watch; this is for a wake-up that got lost.
pub(super) const RECHECK: Duration = Duration::from_millis(50);
/// Between two words about where the partitions stand.
const TELL: Duration = Duration::from_millis(250);

/// A worker's reader of one topic.
pub(super) struct Reader {
    kind: Kind,
    topic: String,
    times: Times,
    idle_slack: Ms,
    resume: Resume,
    clock: BrokerClock,
    meter: Arc<Meter>,
    stop: Stop,
    consumer: Arc<BaseConsumer>,
    watch: Watch,
    tails: Vec<Tail>,
    credit: Credit,
    recorder: Recorder,
    complaints: Complaints,
    wake: Arc<SyncActivator>,
    told_at: Option<Instant>,
}

impl Reader {
    pub(super) fn start(
        kind: Kind,
        reading: Reading,
        worker: (usize, usize),
        done: ProbeHandle<Ms>,
        wake: Arc<SyncActivator>,
    ) -> anyhow::Result<Self> {
        let consumer = Arc::new(reading.consumer()?);
        let topic = reading.topic(kind).to_owned();
        let keep = reading.snapshots.as_ref().and_then(|snapshots| snapshots.keep(kind));
        let recorder = Recorder::start(&format!("{topic}-{}", worker.0), keep);
        let question = Question { asker: reading.asker.client(&reading)?, kind, reading: reading.clone(), worker };
        let Reading { kafka: _, times, limits, resume, snapshots: _, clock, asker: _, meter, stop } = reading;
        let Limits { in_flight_bytes, idle_slack } = limits;
        let watch = Watch::start(question, Arc::clone(&wake)).context("cannot start a thread")?;
        let credit = Credit::new(in_flight_bytes, done, Arc::clone(&meter));
        let (tails, complaints) = (Vec::new(), Complaints::default());
        Ok(Reader {
            kind,
            topic,
            times,
            idle_slack,
            resume,
            clock,
            meter,
            stop,
            consumer,
            watch,
            tails,
            credit,
            recorder,
            complaints,
            wake,
            told_at: None,
        })
    }

    /// Reads what there is and allowed, and moves the clock; says when to come again.
    pub(super) fn turn(&mut self, held: &mut Capability<Ms>, output: &mut OutputBuilderSession<'_, Ms, Rows>) -> Duration {
        let Some(places) = self.places() else { return RECHECK };
        if !places.is_empty()
            && let Err(error) = self.take_up(&places, *held.time())
        {
            self.stop.fail(error);
            return RECHECK;
        }
        self.credit.retire();
        let mut again = RECHECK;
        {
            let mut session = output.session(&*held); // one session: the ticks travel with the rows
            self.strays(&mut |row| session.give(row));
            // Slowest first: whatever holds the clock is the next thing read.
            self.tails.sort_by_key(|tail| tail.low);
            for place in 0..self.tails.len() {
                again = again.min(self.drain(place, &mut |row| session.give(row)));
            }
        }
        self.follow_the_clock();
        self.tell();
        // A worker without partitions is as far as the brokers' clock is.
        let low = self.tails.iter().map(|tail| tail.low).min();
        let low = low.unwrap_or_else(|| self.clock.now().unwrap_or(0).saturating_sub(self.idle_slack));
        // - Every record that is still to come has a log time of at least `low`: each partition's is clamped to its own.
        // - Its tick therefore ends at `tick_end(low)` or later, and the ticks before are complete.
        let clock = tick_end(low, self.times.tick);
        if clock > *held.time() {
            held.downgrade(&clock);
        }
        again
    }

    /// Says now and then where the partitions stand.
    fn tell(&mut self) {
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now < at + TELL) {
            return;
        }
        self.told_at = Some(now);
        let seen = self.watch.seen();
        let ends = seen.ends.as_ref().map(|(_, ends)| ends);
        self.meter.stands(
            self.kind,
            self.tails.iter().map(|tail| {
                let end = ends.and_then(|ends| ends.get(&tail.partition)).copied().unwrap_or(0);
                // What compaction emptied is as good as read.
                let next = if tail.beyond.is_some_and(|beyond| beyond.is_hollow(end)) { end } else { tail.next };
                (tail.partition, Standing { next, end: end.max(tail.next), log_time: tail.low })
            }),
        );
    }

    /// What is to be written down for the next start, each with its tick.
    pub(super) fn notes(&mut self) -> impl Iterator<Item = (Output, Ms)> {
        let kept = self.resume.notes_kept;
        self.tails.iter_mut().flat_map(move |tail| {
            if let Some(kept) = kept {
                tail.steps.expire(tail.low, kept);
            }
            tail.steps.fresh()
        })
    }

    /// How far each partition has been read, where that is news: by the end of each tick, and now. So whatever tick is
    /// committed, what had been read by its end is known to the record.
    pub(super) fn marks(&mut self) -> impl Iterator<Item = (Mark, Ms)> {
        let kind = self.kind;
        self.tails.iter_mut().flat_map(move |tail| {
            tail.mark(kind);
            std::mem::take(&mut tail.passed)
        })
    }
}
