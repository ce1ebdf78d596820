//! How the job's threads are asked to end, and how one of them says that the job has failed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all threads of a job; clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks all threads to end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Asks all threads to end, because of `error`; the first error is kept.
    pub fn fail(&self, error: anyhow::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.ask();
    }

    /// Whether to end.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// The error that ended the job, once.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The bare flag, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }
}
