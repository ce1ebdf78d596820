//! Whether this machine's clock goes with the brokers' and HubSpot's.

use super::{Finding, Level, PATIENCE};
use crate::http;
use crate::model::time::{Ms, now};
use crate::sinks::hubspot::Settings;
use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;

/// How far the brokers' clock may be ahead of ours before it is worth a word.
const BROKERS_MS: Ms = 1_000;
/// How far HubSpot's seconds, and the way there and back, may differ.
const HUBSPOT_MS: i64 = 5_000;

/// The brokers stamp records: one from the future says that their clock, or ours, is wrong. The job's clock is theirs alone and does not mind; what
/// goes by this machine's clock does.
pub fn of_brokers(consumer: &BaseConsumer, topic: &str) -> Finding {
    let what = "clock against the brokers";
    let ahead = i64::try_from(now().saturating_add(BROKERS_MS)).unwrap_or(i64::MAX);
    let asked = consumer.fetch_metadata(Some(topic), PATIENCE).and_then(|metadata| {
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            list.add_partition_offset(topic, partition.id(), Offset::Offset(ahead))?;
        }
        if list.count() == 0 { Ok(list) } else { consumer.offsets_for_times(list, PATIENCE) }
    });
    match asked {
        Ok(found) if found.elements().iter().any(|partition| matches!(partition.offset(), Offset::Offset(_))) => {
            let says = format!(
                "{topic} has records more than {BROKERS_MS} ms ahead of this machine: the delay that is shown and the times of retries are off by that, counts and stages are not; set the clocks by NTP"
            );
            Finding::new(Level::Warning, what, says)
        }
        Ok(_) => Finding::new(Level::Ok, what, format!("no record of {topic} is ahead of this machine")),
        Err(error) => Finding::new(Level::Warning, what, format!("not known ({error})")),
    }
}

/// HubSpot says its time with every answer.
pub fn of_hubspot(settings: &Settings) -> Finding {
    let what = "clock against HubSpot";
    match difference(settings) {
        Ok(difference) if difference.abs() <= HUBSPOT_MS => Finding::new(Level::Ok, what, format!("within {} s", HUBSPOT_MS / 1_000)),
        Ok(difference) => {
            let says = format!("differs by {} s: tokens seem older or younger than they are; set the clock by NTP", difference / 1_000);
            Finding::new(Level::Warning, what, says)
        }
        Err(error) => {
            let address = &settings.base_url;
            Finding::new(Level::Failed, what, format!("HubSpot does not answer ({error:#}); see that {address} is reachable from here"))
        }
    }
}

/// HubSpot's time minus ours, ms; any answer will do.
fn difference(settings: &Settings) -> anyhow::Result<i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(http::exchange(settings.client()?.get(&settings.base_url)))?;
    let date = answer.headers.get(reqwest::header::DATE).context("its answer has no date")?.to_str()?;
    let theirs = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).context("its date is none")?.as_millisecond();
    Ok(theirs - i64::try_from(now()).unwrap_or(i64::MAX))
}
