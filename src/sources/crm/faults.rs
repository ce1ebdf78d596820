//! Places at which a test may end the mirror, as a crash would: everything in memory is thrown away. Nothing but names in a build that
//! is no test's.

use crate::sources::trouble::Trouble;
use std::future::Future;

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody was erased, and the mirror's own record of them is still there.
    Erased,
    /// HubSpot has answered, nothing was written.
    Read,
    /// Records were handed to the producer; nobody knows whether they are in the topic.
    Sent,
    /// Records are in the topic, the cursor does not stand for them.
    Written,
    /// The same, with the whole step done.
    Commit,
    /// The cursor is in its topic.
    Committed,
}

/// After how many places the mirror ends; never, unless a test says so.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    #[cfg(test)]
    left: Option<std::sync::Arc<std::sync::atomic::AtomicU32>>,
}

#[cfg(test)]
impl Faults {
    /// Ends it at the place that comes after `places` others.
    pub fn after(places: u32) -> Self {
        Faults { left: Some(std::sync::Arc::new(places.into())) }
    }

    fn due(&self) -> Result<(), Trouble> {
        let Some(left) = &self.left else { return Ok(()) };
        if left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            Err(Trouble::Kafka(anyhow::anyhow!("ended by a test")))
        } else {
            Ok(())
        }
    }
}

impl Faults {
    /// Comes to a place.
    ///
    /// # Errors
    /// When a test wants it.
    pub fn hit(&self, _step: Step) -> Result<(), Trouble> {
        #[cfg(test)]
        self.due()?;
        Ok(())
    }

    /// Does something; a test may end the mirror once it has begun.
    ///
    /// # Errors
    /// When a test wants it.
    pub async fn during<T>(&self, _step: Step, work: impl Future<Output = T>) -> Result<T, Trouble> {
        #[cfg(test)]
        if let Err(ended) = self.due() {
            let _ = tokio::time::timeout(std::time::Duration::ZERO, work).await;
            return Err(ended);
        }
        Ok(work.await)
    }
}
