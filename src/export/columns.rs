//! The columns of a file: those of ClickHouse's tables `clicks` and `deltas`, without `batch`, which is the sink's own.

use super::parquet::{Kind, Value};
use crate::model::time::Ms;
use crate::sinks::clickhouse::{ClickRow, DeltaRow, Raw, Stream, with_click, with_delta};

/// Columns of clicks.
pub const CLICKS: [(&str, Kind); 25] = [
    ("workspace", Kind::Text),
    ("id", Kind::Text),
    ("ts", Kind::Time),
    ("link", Kind::Text),
    ("title", Kind::Text),
    ("destination", Kind::Text),
    ("tags", Kind::Texts),
    ("deal_id", Kind::Text),
    ("contact_id", Kind::Text),
    ("fbclid", Kind::Text),
    ("gclid", Kind::Text),
    ("utm_source", Kind::Text),
    ("utm_medium", Kind::Text),
    ("utm_campaign", Kind::Text),
    ("utm_term", Kind::Text),
    ("utm_content", Kind::Text),
    ("referrer", Kind::Text),
    ("user_agent", Kind::Text),
    ("device", Kind::Text),
    ("os", Kind::Text),
    ("browser", Kind::Text),
    ("country", Kind::Text),
    ("bot", Kind::Text),
    ("kafka_partition", Kind::Int),
    ("kafka_offset", Kind::Long),
];

/// Columns of deltas.
pub const DELTAS: [(&str, Kind); 12] = [
    ("topic", Kind::Text),
    ("portal", Kind::Text),
    ("workspace", Kind::Text),
    ("id", Kind::Text),
    ("at", Kind::Time),
    ("contact_id", Kind::Text),
    ("email", Kind::Text),
    ("click_id", Kind::Text),
    ("deal_id", Kind::Text),
    ("record", Kind::Text),
    ("kafka_partition", Kind::Int),
    ("kafka_offset", Kind::Long),
];

/// The columns of a topic's files.
pub fn of(stream: Stream) -> &'static [(&'static str, Kind)] {
    match stream {
        Stream::Clicks => &CLICKS,
        Stream::Deltas(_) => &DELTAS,
    }
}

/// Gives `take` a record's values in the order of its columns.
///
/// # Errors
/// Those of `take`; a record that is none, which is not among those that are sorted.
pub fn with_row(stream: Stream, raw: &Raw, take: impl FnOnce(&[Value<'_>]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let done = match stream {
        Stream::Clicks => with_click(raw, 0, |row| take(&click(row))),
        Stream::Deltas(topic) => with_delta(topic, raw, 0, |row| take(&delta(row))),
    };
    done.unwrap_or_else(|| Err(anyhow::anyhow!("what was read as a record is none any more")))
}

fn time(at: Ms) -> Value<'static> {
    Value::Time(i64::try_from(at).unwrap_or(i64::MAX))
}

fn click<'a>(row: &ClickRow<'a>) -> [Value<'a>; 25] {
    let text = Value::Text;
    [
        text(row.workspace),
        text(row.id),
        time(row.ts),
        text(row.link),
        text(row.title),
        text(row.destination),
        Value::Texts(row.tags),
        text(row.deal_id),
        text(row.contact_id),
        text(row.fbclid),
        text(row.gclid),
        text(row.utm_source),
        text(row.utm_medium),
        text(row.utm_campaign),
        text(row.utm_term),
        text(row.utm_content),
        text(row.referrer),
        text(row.user_agent),
        text(row.device),
        text(row.os),
        text(row.browser),
        text(row.country),
        text(row.bot),
        Value::Int(row.kafka_partition),
        Value::Long(row.kafka_offset),
    ]
}

fn delta<'a>(row: &DeltaRow<'a>) -> [Value<'a>; 12] {
    let text = Value::Text;
    [
        text(row.topic),
        text(row.portal),
        text(row.workspace),
        text(row.id),
        time(row.at),
        text(row.contact_id),
        text(row.email),
        text(row.click_id),
        text(row.deal_id),
        text(row.record),
        Value::Int(row.kafka_partition),
        Value::Long(row.kafka_offset),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outputs::Topic;

    #[test]
    fn columns_are_the_rows_fields_in_their_order() {
        let raw = |text: &str| Raw { partition: 3, offset: 9, payload: text.as_bytes().to_vec() };
        let click = raw(r#"{"id":"c","ts":1763800000123,"workspace":"w","link":"l","tags":["a","b"],"utm":{"term":"t"},"bot":"head"}"#);
        let delta = raw(r#"{"id":"d","portal":"1","at":7,"email":"e"}"#);
        for (stream, raw) in [(Stream::Clicks, click), (Stream::Deltas(Topic::Timeline), delta)] {
            let (_, line) = stream.row(&raw, 0).expect("a record");
            let row: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            let mut fields = row.as_object().expect("an object").clone();
            assert!(fields.remove("batch").is_some());
            assert_eq!(fields.len(), of(stream).len());
            with_row(stream, &raw, |values| {
                for ((name, kind), value) in of(stream).iter().zip(values) {
                    let says = &fields[*name];
                    let (same, right) = match value {
                        Value::Text(text) => (says == text, Kind::Text),
                        Value::Texts(texts) => (says.as_array().is_some_and(|says| says.iter().eq(texts.iter())), Kind::Texts),
                        Value::Time(at) => (*says == crate::model::time::rfc3339(at.cast_unsigned()), Kind::Time),
                        Value::Int(number) => (*says == *number, Kind::Int),
                        Value::Long(number) => (*says == *number, Kind::Long),
                    };
                    assert!(same && right == *kind, "{name}: {says} and {value:?}");
                }
                Ok(())
            })
            .expect("a record");
        }
    }
}
