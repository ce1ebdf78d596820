//! How a thread is told to end.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Nothing more comes: do what is left, until a time at most.
#[derive(Debug, Default)]
pub(crate) struct End(Mutex<Option<Instant>>);

impl End {
    /// Tells it: nothing more comes, and what is not done then is given up.
    pub(crate) fn at_the_latest(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// When to give up, once the end was told.
    pub(super) fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the end was told.
    pub(super) fn told(&self) -> bool {
        self.at().is_some()
    }

    /// Whether it is time to give up.
    pub(super) fn over(&self) -> bool {
        self.at().is_some_and(|at| Instant::now() >= at)
    }
}
