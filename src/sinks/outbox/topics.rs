//! The topics the job needs, and how they must be made for its clock and its memory to be right.
//!
//! What exists is left as it is; [`look`] says whether it is as it must be. Topics are made by the broker's own defaults for partitions and replicas.

mod check;

use crate::dataflow::plan::Plan;
use crate::kafka::Kafka;
use crate::model::outputs::Topic;
use crate::model::time::{DAY, Ms};
use crate::stop::Stop;
use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeSet;
use std::time::Duration;

pub use check::{Difference, Found, Standing, look, metadata};

/// Inputs are kept for what a restart reads again, plus this: so long the job may be away.
pub const AWAY: Ms = 3 * DAY;

/// How a topic is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// For a time, ms.
    For(Ms),
    /// The newest record of each key, for ever.
    Newest,
    /// The newest record of each key, for ever, and every record of this last time, ms: a restart must see again what a
    /// contact or deal was when a click counted.
    States(Ms),
}

/// A topic as the job needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Its name.
    pub name: String,
    /// How it is kept.
    pub kept: Kept,
    /// Partitions; the broker's default where `None`.
    pub partitions: Option<i32>,
}

/// All topics of a job.
pub fn needed(kafka: &Kafka, plan: &Plan) -> Vec<Needed> {
    let (clicks, forms) = (plan.clicks_back() + AWAY, plan.forms_back() + AWAY);
    let kept = Kept::For(clicks);
    let topics = &kafka.topics;
    let topic = |name: &str, kept| Needed { name: name.to_owned(), kept, partitions: None };
    let mut needed = vec![
        topic(&topics.clicks, kept),
        topic(&topics.forms, Kept::For(forms)),
        topic(&topics.contacts, Kept::States(clicks)),
        topic(&topics.deals, Kept::States(clicks)),
        topic(&topics.links, Kept::Newest),
        // One partition: the last record in it is the last word.
        Needed { partitions: Some(1), ..topic(&topics.progress, Kept::Newest) },
        topic(&topics.state, Kept::Newest),
    ];
    needed.extend(Topic::ALL.map(|out| topic(topics.output(out), if out == Topic::Counts { Kept::Newest } else { kept })));
    needed
}

/// Makes the topics that are missing; waits for brokers that are away.
///
/// # Errors
/// Options that do not make a client, a topic that the brokers refuse to make, or `stop` was asked.
pub fn ensure(kafka: &Kafka, needed: &[Needed], stop: &Stop) -> anyhow::Result<()> {
    let client: AdminClient<DefaultClientContext> = kafka.client(&[]).create().context("the options under `kafka` do not make a client")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    loop {
        anyhow::ensure!(!stop.asked(), "stopped before the brokers answered");
        let missing = match missing(&client, needed) {
            Ok(missing) if missing.is_empty() => return Ok(()),
            Ok(missing) => missing,
            Err(error) => {
                tracing::warn!(event = "brokers_unreachable", brokers = kafka.brokers, %error, "the brokers do not answer; still trying");
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
        };
        let names: Vec<&str> = missing.iter().map(|topic| topic.name.as_str()).collect();
        tracing::info!(event = "topics_created", topics = names.join(", "), "creating topics");
        match runtime.block_on(create(&client, &missing)) {
            Ok(answers) => {
                for answer in answers {
                    match answer {
                        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                        Err((name, error)) => anyhow::bail!("the brokers refuse to create the topic `{name}` ({error}); create it by hand"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(event = "topics_not_created", topics = names.join(", "), %error, "cannot create topics; still trying")
            }
        }
        // What was made is not known at every broker at once.
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn missing(client: &AdminClient<DefaultClientContext>, needed: &[Needed]) -> Result<Vec<Needed>, KafkaError> {
    let metadata = client.inner().fetch_metadata(None, Duration::from_secs(5))?;
    let there: BTreeSet<&str> = metadata.topics().iter().filter(|topic| topic.error().is_none()).map(|topic| topic.name()).collect();
    Ok(needed.iter().filter(|topic| !there.contains(topic.name.as_str())).cloned().collect())
}

async fn create(
    client: &AdminClient<DefaultClientContext>,
    missing: &[Needed],
) -> Result<Vec<Result<String, (String, RDKafkaErrorCode)>>, KafkaError> {
    let retention: Vec<String> = missing
        .iter()
        .map(|topic| match topic.kept {
            Kept::For(length) | Kept::States(length) => length.to_string(),
            Kept::Newest => String::new(),
        })
        .collect();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&retention)
        .map(|(topic, retention)| {
            let new = NewTopic::new(&topic.name, topic.partitions.unwrap_or(-1), TopicReplication::Fixed(-1));
            let new = new.set("message.timestamp.type", "LogAppendTime");
            match topic.kept {
                Kept::For(_) => new.set("cleanup.policy", "delete").set("retention.ms", retention),
                Kept::Newest => new.set("cleanup.policy", "compact"),
                Kept::States(_) => new.set("cleanup.policy", "compact").set("min.compaction.lag.ms", retention),
            }
        })
        .collect();
    client.create_topics(&topics, &AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataflow::plan::Times;
    use rdkafka::mocking::MockCluster;

    fn plan() -> Plan {
        Plan::new(Times::with_tick(100), &[], &[], |_, _| 0).expect("a plan")
    }

    #[test]
    fn inputs_outlive_the_longest_window_and_states_are_compacted() {
        let needed = needed(&Kafka::at("b:1"), &plan());
        let kept = |name: &str| needed.iter().find(|topic| topic.name == name).expect(name).kept;
        assert_eq!(needed.len(), 13);
        // 30 days of window, 72 hours of repeats, five minutes of clocks ahead; and three days away.
        let clicks = 36 * DAY + 5 * 60_000;
        assert_eq!(kept("clicks"), Kept::For(clicks));
        // A click that is 33 days late takes a form 14 days before it, two days back.
        assert_eq!(kept("forms"), Kept::For(52 * DAY + 5 * 60_000));
        for name in ["links", "clicks.counts", "clickline.progress", "clickline.state"] {
            assert_eq!(kept(name), Kept::Newest, "{name}");
        }
        for name in ["crm.contacts", "crm.deals"] {
            assert_eq!(kept(name), Kept::States(clicks), "{name}");
        }
    }

    #[test]
    fn topics_that_exist_are_left_alone() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        let kafka = Kafka::at(mock.bootstrap_servers());
        let needed = needed(&kafka, &plan());
        for topic in &needed {
            mock.create_topic(&topic.name, 1, 1).expect("a topic");
        }
        ensure(&kafka, &needed, &Stop::new()).expect("all exist");
    }
}
