//! Reads records as far as the credit goes, and moves their partition's clock.

use super::Reader;
use super::tail::From;
use crate::dataflow::rows::{Arrival, Place};
use crate::failpoint::hit;
use crate::model::time::{Ms, tick_end};
use crate::sources::snapshot::{Last, Next, Row};
use crate::sources::{Found, again, decode, own_time};
use rdkafka::consumer::DefaultConsumerContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records taken from one partition before the next one has its turn.
const PER_TURN: usize = 1_000;
/// Without credit: nothing wakes the operator when the end of the dataflow moves.
const NO_CREDIT: Duration = Duration::from_millis(1);

impl Reader {
    /// Serves the client's own queue: its complaints. Records do not come here; one that did would be older than those of
    /// its partition's queue, and is taken first.
    pub(super) fn strays(&mut self, give: &mut dyn FnMut((Arrival, Ms))) {
        let consumer = Arc::clone(&self.consumer);
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Ok(message) => {
                    if let Some(place) = self.tails.iter().position(|tail| tail.partition == message.partition()) {
                        give(self.take(place, &message));
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => self.complain(&error),
            }
        }
    }

    /// Warns of what may pass, and ends the job for what won't.
    fn complain(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let topic = &self.topic;
                self.stop.fail(anyhow::anyhow!(
                    "records of {topic} were deleted before the job had read them: it is slower than they are kept for, or somebody deleted them; the next start says how many"
                ));
            }
            error => self.complaints.warn(&self.topic, &error.to_string()),
        }
    }

    /// Decodes a record of a partition and moves the partition's clock.
    fn take(&mut self, place: usize, message: &BorrowedMessage<'_>) -> (Arrival, Ms) {
        let tail = &mut self.tails[place];
        let appended = match message.timestamp() {
            Timestamp::LogAppendTime(at) => Ms::try_from(at).unwrap_or(0),
            // A producer whose clock runs ahead must not carry the job's clock with it.
            Timestamp::CreateTime(at) => Ms::try_from(at).unwrap_or(0).min(self.clock.now_or_wall()),
            Timestamp::NotAvailable => self.clock.now_or_wall(),
        };
        if appended < tail.reach(message.offset(), appended, 0, self.resume.frontier) {
            self.meter.clamped.fetch_add(1, Ordering::Relaxed);
        }
        (tail.ended, tail.beyond) = (None, None);
        let at = Place { partition: tail.partition, offset: message.offset() };
        let found = Found { kind: self.kind, key: message.key(), payload: message.payload(), place: at, source: &self.topic };
        let (arrival, at) = decode(found, tail.low, &self.times);
        tail.read(self.kind, message.offset(), at);
        let bytes = message.payload_len() + message.key_len();
        self.credit.take(at, bytes);
        self.meter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.meter.count(self.kind, &arrival);
        if self.recorder.is_on() {
            let last = Last::of(message.offset(), message.timestamp().to_millis().unwrap_or(0), message.payload().unwrap_or_default());
            tail.fresh.push((Row { offset: message.offset(), appended, arrival: arrival.clone(), bytes }, last));
        }
        hit("source.taken");
        (arrival, at)
    }

    /// Takes a record that a snapshot has of a partition.
    fn take_copied(&mut self, place: usize, row: Row) -> (Arrival, Ms) {
        let Row { offset, appended, arrival, bytes } = row;
        let tail = &mut self.tails[place];
        let least = own_time(&arrival).unwrap_or(0).saturating_sub(self.times.max_future);
        tail.reach(offset, appended, least, self.resume.frontier);
        let (arrival, at) = again(arrival, tail.low, self.kind, &self.topic, &self.times);
        tail.read(self.kind, offset, at);
        self.credit.take(tail.at, bytes);
        self.meter.count(self.kind, &arrival);
        self.meter.copied.fetch_add(1, Ordering::Relaxed);
        (arrival, tail.at)
    }

    /// Reads one partition as far as its turn and the credit go; says when to come again.
    pub(super) fn drain(&mut self, place: usize, give: &mut dyn FnMut((Arrival, Ms))) -> Duration {
        if !self.record(place) {
            return self.starved(place);
        }
        let again = match &self.tails[place].from {
            From::Snapshot(_) => self.drain_snapshot(place, give),
            From::Queue(queue) => {
                let queue = Rc::clone(queue);
                self.drain_queue(place, &queue, give)
            }
            From::Nowhere => super::RECHECK,
        };
        self.record(place);
        again
    }

    /// A partition that may not be read now: what its queue holds is not known, and no reason to take it for one at its end.
    fn starved(&mut self, place: usize) -> Duration {
        self.tails[place].beyond = None;
        NO_CREDIT
    }

    /// Hands what was read over to be copied; whether there is room for more.
    fn record(&mut self, place: usize) -> bool {
        let tail = &mut self.tails[place];
        self.recorder.take(tail.partition, &mut tail.fresh)
    }

    fn drain_snapshot(&mut self, place: usize, give: &mut dyn FnMut((Arrival, Ms))) -> Duration {
        for _ in 0..PER_TURN {
            if !self.credit.allows(tick_end(self.tails[place].low, self.times.tick)) {
                return NO_CREDIT;
            }
            let From::Snapshot(copied) = &mut self.tails[place].from else { return Duration::ZERO };
            match copied.advance() {
                Next::Row(row) => give(self.take_copied(place, row)),
                Next::End(_) => {
                    if let Err(error) = self.go_on(place) {
                        self.stop.fail(error);
                    }
                    return Duration::ZERO;
                }
            }
        }
        Duration::ZERO
    }

    fn drain_queue(
        &mut self,
        place: usize,
        queue: &PartitionQueue<DefaultConsumerContext>,
        give: &mut dyn FnMut((Arrival, Ms)),
    ) -> Duration {
        for _ in 0..PER_TURN {
            if !self.credit.allows(tick_end(self.tails[place].low, self.times.tick)) {
                return self.starved(place);
            }
            let Some(event) = queue.poll(Duration::ZERO) else { return super::RECHECK };
            match event {
                Ok(message) => give(self.take(place, &message)),
                Err(KafkaError::PartitionEOF(_)) => self.tails[place].ended = Some(Instant::now()),
                Err(error) => self.complain(&error),
            }
        }
        Duration::ZERO
    }
}
