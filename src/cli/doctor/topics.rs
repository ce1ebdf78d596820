//! Whether topics are kept as the job's clock, windows and restarts need them.

use super::{Finding, Level, PATIENCE};
use crate::kafka::Kafka;
use crate::sinks::outbox::topics::{Difference, Needed, Standing, look as look_at};
use rdkafka::metadata::Metadata;

/// Looks at every topic.
pub fn look(kafka: &Kafka, metadata: &Metadata, needed: &[Needed], findings: &mut Vec<Finding>) {
    let found = match look_at(kafka, metadata, needed, PATIENCE) {
        Ok(found) => found,
        Err(error) => {
            let says = format!("their settings can't be read ({error:#}); the job may run, but nobody knows how long they keep");
            return findings.push(Finding::new(Level::Warning, "topics", says));
        }
    };
    for found in found {
        let what = format!("topic {}", found.topic);
        match found.standing {
            Standing::Absent => {
                let says = "is not there; `clickline run` makes it, if it may: else make it by hand";
                findings.push(Finding::new(Level::Warning, what, says));
            }
            Standing::Unread(error) => {
                findings.push(Finding::new(Level::Warning, what, format!("its settings can't be read ({error}); allow DescribeConfigs")));
            }
            Standing::There(partitions, differences) => {
                if differences.is_empty() {
                    findings.push(Finding::new(Level::Ok, &what, format!("as it must be, partitions: {partitions}")));
                }
                let level = |wrong| if wrong { Level::Failed } else { Level::Warning };
                let told = |difference: Difference| Finding::new(level(difference.wrong), &what, difference.advice(kafka, &found.topic));
                findings.extend(differences.into_iter().map(told));
            }
        }
    }
}
