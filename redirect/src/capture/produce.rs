//! Many clicks into librdkafka's queue with one call: `rd_kafka_produce_batch`, which rdkafka does not wrap.
//!
//! The call copies the payloads, so that nothing of ours is held after it. It sets no create time; a topic of clicks has the log's own
//! (`LogAppendTime`), and the event time is in the record.
//!
//! # Who looks for events
//! The thread that produces, by [`serve`](BatchProducer::serve). A thread of rdkafka's for that (`ThreadedProducer`), and rdkafka's own `flush`, wait in whole
//! milliseconds and turn round and round in what is left of the last one: one processor second in a hundred each.
#![allow(unsafe_code, reason = "foreign calls; each use says why it is sound")]

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka_sys as sys;
use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

/// `RD_KAFKA_PARTITION_UA`: the partitioner chooses.
const ANY_PARTITION: i32 = -1;

/// Events that are taken from librdkafka in one go: there are some a batch, for all of its records.
const EVENTS: usize = 8;
/// How long to wait for the brokers before events are looked for, which may be what there is to wait for.
const EVENTS_AGAIN: Duration = Duration::from_millis(100);

/// A producer and its topic, for one thread at a time.
pub(crate) struct BatchProducer<C: ProducerContext + 'static> {
    /// Freed before the producer, as librdkafka wants it.
    topic: *mut sys::rd_kafka_topic_t,
    producer: BaseProducer<C>,
    messages: Vec<sys::rd_kafka_message_t>,
}

// SAFETY: librdkafka's handles may be used from any thread, and the messages point nowhere between calls (they are cleared in `produce`).
unsafe impl<C: ProducerContext + Send + Sync + 'static> Send for BatchProducer<C> {}

impl<C: ProducerContext<DeliveryOpaque = ()> + 'static> BatchProducer<C> {
    /// `None` when the topic has no possible name.
    pub(crate) fn new(producer: BaseProducer<C>, topic: &str) -> Option<BatchProducer<C>> {
        let name = CString::new(topic).ok()?;
        // SAFETY: the producer lives as long as this value, the name as long as the call; no configuration means the producer's own.
        let topic = unsafe { sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        (!topic.is_null()).then_some(BatchProducer { topic, producer, messages: Vec::new() })
    }

    /// The producer, for all but producing.
    pub(crate) fn producer(&self) -> &BaseProducer<C> {
        &self.producer
    }

    /// Handles what librdkafka tells: deliveries, errors, its log. Never waits.
    pub(crate) fn serve(&self) {
        (0..EVENTS).for_each(|_| self.producer.poll(Duration::ZERO));
    }

    /// Waits until the brokers have all records that were taken, or these have failed.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let end = Instant::now() + timeout;
        loop {
            let wait = end.saturating_duration_since(Instant::now()).min(EVENTS_AGAIN);
            let wait = i32::try_from(wait.as_millis()).expect("a part of a second");
            // SAFETY: the producer is alive; the call only waits.
            let code = unsafe { sys::rd_kafka_flush(self.producer.client().native_ptr(), wait) };
            self.serve();
            match RDKafkaErrorCode::from(code) {
                RDKafkaErrorCode::NoError => return Ok(()),
                RDKafkaErrorCode::OperationTimedOut if Instant::now() < end => {}
                code => return Err(KafkaError::Flush(code)),
            }
        }
    }

    /// Puts records without keys into the queue; never waits. The numbers of those that were not taken go to `refused`, with the last one's reason.
    pub(crate) fn produce<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>, refused: &mut Vec<usize>) -> Option<RDKafkaErrorCode> {
        self.messages.clear();
        self.messages.extend(records.map(|record| sys::rd_kafka_message_t {
            err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: ptr::null_mut(),
            partition: ANY_PARTITION,
            payload: record.as_ptr().cast_mut().cast(),
            len: record.len(),
            key: ptr::null_mut(),
            key_len: 0,
            offset: 0,
            // What `()` is as a delivery's opaque value.
            _private: ptr::null_mut(),
        }));
        let count = i32::try_from(self.messages.len()).expect("batches are bounded in bytes");
        // SAFETY: `topic` is alive, and there are `count` messages whose payloads are borrowed from `records` for 'a, which outlasts the call. With
        // RD_KAFKA_MSG_F_COPY they are only read, and neither kept nor freed.
        let taken =
            unsafe { sys::rd_kafka_produce_batch(self.topic, ANY_PARTITION, sys::RD_KAFKA_MSG_F_COPY, self.messages.as_mut_ptr(), count) };
        let mut reason = None;
        if taken != count {
            for (number, message) in self.messages.iter().enumerate() {
                if message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    refused.push(number);
                    reason = Some(message.err.into());
                }
            }
        }
        // The payloads are not ours to remember.
        self.messages.clear();
        reason
    }
}

impl<C: ProducerContext + 'static> Drop for BatchProducer<C> {
    fn drop(&mut self) {
        // SAFETY: made in `new` and freed nowhere else; the producer is dropped after this.
        unsafe { sys::rd_kafka_topic_destroy(self.topic) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;
    use rdkafka::producer::DefaultProducerContext;

    fn producer(options: &[(&str, &str)]) -> BatchProducer<DefaultProducerContext> {
        let mut config = ClientConfig::new();
        // No broker: what waits to be told of one that can't be reached would count as in flight.
        config.set("log_level", "0");
        for (name, value) in options {
            config.set(*name, *value);
        }
        BatchProducer::new(config.create().expect("a producer"), "clicks").expect("a topic")
    }

    #[test]
    fn a_full_queue_takes_the_first_and_names_the_others() {
        let mut producer = producer(&[("queue.buffering.max.messages", "3")]);
        let records: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 10]).collect();
        let mut refused = Vec::new();
        let reason = producer.produce(records.iter().map(Vec::as_slice), &mut refused);
        assert_eq!((reason, &*refused), (Some(RDKafkaErrorCode::QueueFull), &[3, 4][..]));
        assert_eq!(producer.producer().in_flight_count(), 3);
    }

    #[test]
    fn a_record_that_is_too_large_costs_no_other() {
        let mut producer = producer(&[("message.max.bytes", "1000")]);
        let large = vec![0; 2_000];
        let records: [&[u8]; 3] = [b"a", &large, b"c"];
        let mut refused = Vec::new();
        let reason = producer.produce(records.into_iter(), &mut refused);
        assert_eq!((reason, &*refused), (Some(RDKafkaErrorCode::MessageSizeTooLarge), &[1][..]));
        assert_eq!(producer.producer().in_flight_count(), 2);
    }

    #[test]
    fn nothing_is_taken_outside_a_transaction() {
        let mut producer = producer(&[("transactional.id", "test")]);
        let mut refused = Vec::new();
        let reason = producer.produce([&b"a"[..], b"b"].into_iter(), &mut refused);
        assert!(reason.is_some());
        assert_eq!(refused, [0, 1]);
    }

    #[test]
    fn no_records_are_no_call_gone_wrong() {
        assert_eq!(producer(&[]).produce(std::iter::empty(), &mut Vec::new()), None);
    }
}
