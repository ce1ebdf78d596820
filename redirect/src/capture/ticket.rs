//! Answers that wait until their clicks are safe.

use mio::Waker;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const SAFE: u8 = 1;
const REFUSED: u8 = 2;

/// Held by the connections whose answers wait for the clicks of one turn of an event loop. A sink settles it once.
pub struct Ticket {
    state: AtomicU8,
    waker: Option<Arc<Waker>>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("settled", &self.settled()).finish()
    }
}

impl Ticket {
    /// A ticket that wakes this event loop when it is settled.
    pub(crate) fn new(waker: Option<Arc<Waker>>) -> Arc<Ticket> {
        Arc::new(Ticket { state: AtomicU8::new(WAITING), waker })
    }

    /// The clicks are safe, and the answers may go; or they are not, and the visitors are told to try again.
    pub fn settle(&self, safe: bool) {
        self.state.store(if safe { SAFE } else { REFUSED }, Ordering::Release);
        if let Some(Err(error)) = self.waker.as_ref().map(|waker| waker.wake()) {
            // It looks again within a second, as it does for deadlines.
            tracing::warn!(event = "wake_failed", %error, "an event loop could not be woken");
        }
    }

    /// Whether the clicks are safe; `None` while nobody knows.
    pub(crate) fn settled(&self) -> Option<bool> {
        match self.state.load(Ordering::Acquire) {
            WAITING => None,
            state => Some(state == SAFE),
        }
    }
}
