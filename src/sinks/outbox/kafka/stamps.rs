//! When the brokers stamped the job's own records of progress, and where the last of them stands: the reports of their delivery say so.

use crate::kafka::At;
use crate::sources::kafka::broker_clock::BrokerClock;
use rdkafka::ClientContext;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Listens to the reports of a producer, for its clock and for whoever asks where its progress stands.
pub struct Stamps(BrokerClock, Mutex<Option<At>>);

/// When a record was sent, for its report to bring back; 0: nobody wants to know. Nanoseconds, which last for centuries.
pub type Sent = usize;

impl Stamps {
    pub fn new(clock: BrokerClock) -> Self {
        Stamps(clock, Mutex::default())
    }

    /// A record of progress stands there.
    pub fn found(&self, at: At) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Where the last record of progress stands, of a predecessor's where there is none yet.
    pub fn last(&self) -> Option<At> {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This moment, for a record whose stamp is wanted.
    pub fn now(&self) -> Sent {
        usize::try_from(self.0.moment().as_nanos()).unwrap_or(0)
    }
}

impl ClientContext for Stamps {}

impl ProducerContext for Stamps {
    type DeliveryOpaque = Sent;

    fn delivery(&self, report: &DeliveryResult<'_>, sent: Sent) {
        // A record that did not arrive was not stamped either.
        if let (Ok(record), 1..) = (report, sent) {
            self.found((record.partition(), record.offset()));
            self.0.delivered(Duration::from_nanos(sent as u64), record.timestamp());
        }
    }
}
