//! How the job's threads are asked to end, and how one of them says that the job has failed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all threads of a job; clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    wished: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks all threads to end.
    pub fn ask(&self) {
        self.wished.store(true, Ordering::Release);
    }

    /// Asks all threads to end, because of `error`; the first error is kept.
    pub fn fail(&self, error: anyhow::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether to end, for whatever reason.
    pub fn asked(&self) -> bool {
        self.wished() || self.failed.load(Ordering::Acquire)
    }

    /// Whether somebody wants it to end; a failure alone is no wish.
    pub fn wished(&self) -> bool {
        self.wished.load(Ordering::Acquire)
    }

    /// The error that ended the job, once.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The bare flag behind [`Stop::wished`], for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.wished)
    }
}
