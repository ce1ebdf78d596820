//! What can be in the way of a source that reads HubSpot, and how long it is waited for.

use crate::sinks::hubspot::{Outcome, RETIRED};
use serde_json::Value;
use std::time::Duration;

/// The pause after a 429 that names none.
pub const THROTTLED: Duration = Duration::from_secs(10);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The pause while somebody must do something.
const STUCK: Duration = Duration::from_secs(60);

/// What is in the way.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It may work later, not before this pause where HubSpot asks for one.
    #[error("{0}")]
    Later(String, Option<Duration>),
    /// Somebody must do something; it says what.
    #[error("{0}")]
    Stuck(String),
    /// HubSpot no longer has the changes from where they were read last: all must be loaded again.
    #[error("{0}")]
    Lost(String),
    /// The brokers took no record, and whether one of them is in the topic is not known.
    #[error("Kafka: {0:#}")]
    Kafka(#[source] anyhow::Error),
}

impl From<rdkafka::error::KafkaError> for Trouble {
    fn from(error: rdkafka::error::KafkaError) -> Self {
        Trouble::Kafka(error.into())
    }
}

/// What an outcome means to a reader: `None` for what is not there. `throttled` is the pause after a 429 that names none.
///
/// # Errors
/// What is in the way.
pub fn answer(outcome: Outcome, throttled: Duration) -> Result<Option<Value>, Trouble> {
    match outcome {
        Outcome::Done(answer) => Ok(Some(answer)),
        Outcome::NotFound(_) => Ok(None),
        Outcome::Throttled(pause) => Err(Trouble::Later("HubSpot asks for a pause".to_owned(), Some(pause.or(throttled)))),
        Outcome::Transient(why, after) => Err(Trouble::Later(format!("HubSpot failed: {why}"), after)),
        Outcome::Unsent(why, after) => Err(Trouble::Later(why, after)),
        Outcome::Exists => Err(Trouble::Later("HubSpot's answer to a read makes no sense".to_owned(), None)),
        Outcome::Retired => Err(Trouble::Stuck(RETIRED.to_owned())),
        Outcome::Unauthorized | Outcome::Disconnected => {
            Err(Trouble::Stuck("HubSpot no longer accepts our tokens for this account: install the app again".to_owned()))
        }
        Outcome::Forbidden(scopes) => Err(Trouble::Stuck(format!(
            "the app lacks one of these scopes: {}; add it to the app and install it again",
            if scopes.is_empty() { "(HubSpot does not say which)".to_owned() } else { scopes.join(", ") }
        ))),
        Outcome::Refused(refusal) => Err(Trouble::Stuck(format!("HubSpot refuses a read: {}", refusal.brief()))),
    }
}

/// An answer of which nothing can be made.
pub fn strange(wanted: &str) -> Trouble {
    Trouble::Later(format!("HubSpot's answer holds no {wanted}"), None)
}

/// How a loop goes on after trouble: pauses that grow, and one word about what does not change.
#[derive(Debug)]
pub struct Patience {
    /// What is in trouble, for the log.
    what: &'static str,
    /// Whose it is, for the log.
    portal: String,
    pause: Duration,
    said: String,
}

impl Patience {
    /// For a loop of this account's.
    pub fn new(what: &'static str, portal: &str) -> Self {
        Patience { what, portal: portal.to_owned(), pause: PAUSES.0, said: String::new() }
    }

    /// It went well.
    pub fn restored(&mut self) {
        self.pause = PAUSES.0;
        self.said.clear();
    }

    /// Logs trouble and waits as long as it asks for, and at least half a second; a minute where somebody must act. Gives back what the loop can't go on after.
    ///
    /// # Errors
    /// What Kafka said.
    pub async fn bear(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        let Patience { what, portal, pause, said } = self;
        let words = trouble.to_string();
        match trouble {
            Trouble::Kafka(error) => return Err(error),
            Trouble::Lost(_) => {
                tracing::warn!(event = "source_reloads", portal, "{what}: {words}: everything is read again");
                tokio::time::sleep(*pause).await;
            }
            Trouble::Stuck(_) => {
                // Once; it is tried again in silence until something else happens.
                if *said != words {
                    tracing::error!(event = "source_stuck", portal, "{what} stands still: {words}");
                    *said = words;
                }
                tokio::time::sleep(STUCK).await;
            }
            Trouble::Later(_, after) => {
                tracing::warn!(event = "source_waits", portal, "{what} waits: {words}");
                // Half of it by chance, so that accounts do not come back together.
                let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
                tokio::time::sleep(after.map_or(jittered, |after| after.max(jittered))).await;
                *pause = PAUSES.1.min(*pause * 2);
            }
        }
        Ok(())
    }
}
