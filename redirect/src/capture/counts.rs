//! What became of clicks, counted.

use crate::sink::SinkCounts;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Counters of one sink, shared by its threads. `redirect_clicks_total{outcome="produced|spooled|replayed|parked|dropped"}` and the spool's gauges are
/// read from [`SinkCounts`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub produced: AtomicU64,
    pub spooled: AtomicU64,
    pub replayed: AtomicU64,
    pub parked: AtomicU64,
    pub corrupt: AtomicU64,
    pub torn: AtomicU64,
    pub refused: AtomicU64,
    pub failed: AtomicU64,
    /// Why a click was last lost or kept waiting.
    trouble: Mutex<Option<String>>,
    broken: OnceLock<String>,
}

impl Counts {
    /// Keeps the reason; one line a click would flood the log, so the supervisor tells it with the sum.
    pub(crate) fn note(&self, reason: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Only a restart helps.
    pub(crate) fn set_broken(&self, reason: String) {
        tracing::error!(event = "capture_broken", "{reason}; restart the server");
        let _ = self.broken.set(reason);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    pub(crate) fn read(&self) -> SinkCounts {
        SinkCounts {
            delivered: self.produced.load(Relaxed),
            overflowed: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            spooled: self.spooled.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            parked: self.parked.load(Relaxed),
            corrupt: self.corrupt.load(Relaxed),
            torn: self.torn.load(Relaxed),
            spool_bytes: 0,
            spool_oldest_ms: 0,
        }
    }
}
