//! What commands say of topics that are not kept as the job needs them. One function looks for all of them, and for `clickline doctor`.

use crate::config::Config;
use crate::dataflow::plan::Plan;
use crate::kafka::Kafka;
use crate::model::outputs::Topic;
use crate::sinks::outbox::topics::{Found, Needed, Standing, look, metadata, needed};
use crate::sources::feeds;
use crate::stop::Stop;
use std::thread;
use std::time::{Duration, Instant};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries of a job that waits for its brokers, or for its topics to be made.
const AGAIN: Duration = Duration::from_secs(5);

/// All topics of a configuration.
pub fn of(config: &Config, plan: &Plan) -> Vec<Needed> {
    let mut topics = needed(&config.kafka, plan);
    if config.crm.is_some() || config.forms.is_some() {
        let more = feeds::needed(&config.kafka, plan).into_iter().filter(|more| topics.iter().all(|topic| topic.name != more.name));
        topics.extend(more.collect::<Vec<_>>());
    }
    topics
}

/// A line for each thing about the HubSpot sink's topics that is not as it must be; and how many of them are wrong.
pub fn of_sink(config: &Config) -> anyhow::Result<(Vec<String>, usize)> {
    let kafka = &config.kafka;
    let own = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::DeadLetters].map(|topic| kafka.topics.output(topic));
    let topics: Vec<Needed> = of(config, &config.plan(None)?).into_iter().filter(|topic| own.contains(&topic.name.as_str())).collect();
    let found = kafka.check_secrets().and_then(|()| look(kafka, &metadata(kafka, PATIENCE)?, &topics, PATIENCE));
    Ok(match found {
        Ok(found) => {
            let told = told(kafka, &found);
            let wrong = told.iter().filter(|(wrong, _)| *wrong).count();
            (told.into_iter().map(|(_, line)| line).collect(), wrong)
        }
        Err(error) => (vec![format!("topics: not checked; {error:#}")], 0),
    })
}

/// What is not as it must be, and whether the job does not run rightly with it.
fn told(kafka: &Kafka, found: &[Found]) -> Vec<(bool, String)> {
    let mut lines = Vec::new();
    for Found { topic, standing } in found {
        match standing {
            // Whoever needs it makes it.
            Standing::Absent => {}
            Standing::Unread(error) => lines.push((false, format!("topic {topic}: its settings can't be read ({error})"))),
            Standing::There(_, differences) => {
                let line = |advice: String| format!("topic {topic}: {advice}");
                lines.extend(differences.iter().map(|differs| (differs.wrong, line(differs.advice(kafka, topic)))));
            }
        }
    }
    lines
}

/// Logs what of a job's topics is not as it must be, once all of them are there. On a thread of its own, for which nobody waits.
pub fn log(kafka: &Kafka, topics: Vec<Needed>, stop: &Stop) {
    let (kafka, stop) = (kafka.clone(), stop.clone());
    let looks = move || {
        while !stop.asked() {
            let found = metadata(&kafka, PATIENCE).and_then(|metadata| look(&kafka, &metadata, &topics, PATIENCE));
            match found {
                Ok(found) if found.iter().all(|found| found.standing != Standing::Absent) => {
                    for (wrong, line) in told(&kafka, &found) {
                        match wrong {
                            true => tracing::error!(event = "topic_settings", "{line}"),
                            false => tracing::warn!(event = "topic_settings", "{line}"),
                        }
                    }
                    return;
                }
                // The job itself says that it waits for them.
                Ok(_) => {}
                Err(error) => tracing::debug!(event = "topics_not_looked_at", "the topics can't be looked at: {error:#}"),
            }
            let until = Instant::now() + AGAIN;
            while Instant::now() < until && !stop.asked() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("topics".to_owned()).spawn(looks) {
        tracing::warn!(event = "topics_not_looked_at", "the topics are not looked at: no thread: {error}");
    }
}
