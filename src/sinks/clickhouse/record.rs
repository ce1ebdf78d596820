//! Records of topics as rows of tables.

use crate::model::inputs::{Click, Input as _};
use crate::model::outputs::Topic;
use crate::model::time::{Ms, rfc3339};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// The last time that ClickHouse's DateTime64 is documented to hold: the end of 2298.
const LAST: Ms = 10_382_083_199_999;

/// A record of a topic.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// What stands there.
    pub payload: Vec<u8>,
}

/// What a topic's records become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Rows of `clicks`.
    Clicks,
    /// Rows of `deltas`.
    Deltas(Topic),
}

/// What makes two rows the same one; also JSON, for asking which are there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
pub struct Key {
    /// Empty for clicks.
    #[serde(default)]
    pub portal: String,
    /// Empty for deltas without one.
    pub workspace: String,
    /// The record's id.
    pub id: String,
}

/// A row of `clicks`; what is absent is empty.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the columns are those of docs/topics.md and docs/clickhouse.md")]
pub struct ClickRow<'a> {
    pub workspace: &'a str,
    pub id: &'a str,
    #[serde(serialize_with = "stamp")]
    pub ts: Ms,
    pub link: &'a str,
    pub title: &'a str,
    pub destination: &'a str,
    pub tags: &'a [String],
    pub deal_id: &'a str,
    pub contact_id: &'a str,
    pub fbclid: &'a str,
    pub gclid: &'a str,
    pub utm_source: &'a str,
    pub utm_medium: &'a str,
    pub utm_campaign: &'a str,
    pub utm_term: &'a str,
    pub utm_content: &'a str,
    pub referrer: &'a str,
    pub user_agent: &'a str,
    pub device: &'a str,
    pub os: &'a str,
    pub browser: &'a str,
    pub country: &'a str,
    pub bot: &'a str,
    pub batch: u64,
    pub kafka_partition: i32,
    pub kafka_offset: i64,
}

/// A row of `deltas`.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the columns are those of docs/clickhouse.md")]
pub struct DeltaRow<'a> {
    pub topic: &'static str,
    pub portal: &'a str,
    pub workspace: &'a str,
    pub id: &'a str,
    #[serde(serialize_with = "stamp")]
    pub at: Ms,
    pub contact_id: &'a str,
    pub email: &'a str,
    pub click_id: &'a str,
    pub deal_id: &'a str,
    pub record: &'a str,
    pub batch: u64,
    pub kafka_partition: i32,
    pub kafka_offset: i64,
}

impl Stream {
    /// The table.
    pub fn table(self) -> &'static str {
        match self {
            Stream::Clicks => "clicks",
            Stream::Deltas(_) => "deltas",
        }
    }

    /// The word for it in the tables, whatever the topic is called.
    pub fn word(self) -> &'static str {
        match self {
            Stream::Clicks => "clicks",
            Stream::Deltas(topic) => topic.default_name(),
        }
    }

    /// A record as a row of batch `seq`; `None` for what is no record, which the job has put among the dead letters.
    pub fn row(self, raw: &Raw, seq: u64) -> Option<(Key, Vec<u8>)> {
        let (key, line) = match self {
            Stream::Clicks => with_click(raw, seq, |row| (row.key(), line(row))),
            Stream::Deltas(topic) => with_delta(topic, raw, seq, |row| (row.key(), line(row))),
        }?;
        Some((key, line?))
    }

    /// What a record is known by, and its own time; `None` for what is no record.
    pub fn key(self, raw: &Raw) -> Option<(Key, Ms)> {
        match self {
            Stream::Clicks => with_click(raw, 0, |row| (row.key(), row.ts)),
            Stream::Deltas(topic) => with_delta(topic, raw, 0, |row| (row.key(), row.at)),
        }
    }
}

impl ClickRow<'_> {
    fn key(&self) -> Key {
        Key { portal: String::new(), workspace: self.workspace.to_owned(), id: self.id.to_owned() }
    }
}

impl DeltaRow<'_> {
    fn key(&self) -> Key {
        Key { portal: self.portal.to_owned(), workspace: self.workspace.to_owned(), id: self.id.to_owned() }
    }
}

fn stamp<S: Serializer>(at: &Ms, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*at))
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Gives `take` a click's row of batch `seq`; `None` for what is no click.
pub fn with_click<T>(raw: &Raw, seq: u64, take: impl FnOnce(&ClickRow<'_>) -> T) -> Option<T> {
    let click = Click::read(&raw.payload).ok().filter(|click| click.ts <= LAST)?;
    // Without `..`: a field that is added is written, or left out on purpose.
    let Click {
        v: _,
        id,
        ts,
        workspace,
        link,
        title,
        destination,
        tags,
        deal_id,
        contact_id,
        fbclid,
        gclid,
        utm,
        referrer,
        user_agent,
        device,
        os,
        browser,
        country,
        bot,
    } = &click;
    let row = ClickRow {
        workspace,
        id,
        ts: *ts,
        link,
        title: text(title),
        destination: text(destination),
        tags,
        deal_id: text(deal_id),
        contact_id: text(contact_id),
        fbclid: text(fbclid),
        gclid: text(gclid),
        utm_source: text(&utm.source),
        utm_medium: text(&utm.medium),
        utm_campaign: text(&utm.campaign),
        utm_term: text(&utm.term),
        utm_content: text(&utm.content),
        referrer: text(referrer),
        user_agent: text(user_agent),
        device: text(device),
        os: text(os),
        browser: text(browser),
        country: text(country),
        bot: text(bot),
        batch: seq,
        kafka_partition: raw.partition,
        kafka_offset: raw.offset,
    };
    Some(take(&row))
}

/// Gives `take` a delta's row of batch `seq`; `None` for what is no delta.
pub fn with_delta<T>(topic: Topic, raw: &Raw, seq: u64, take: impl FnOnce(&DeltaRow<'_>) -> T) -> Option<T> {
    let record = std::str::from_utf8(&raw.payload).ok()?;
    let value: Value = serde_json::from_str(record).ok()?;
    let field = |name: &str| value[name].as_str().unwrap_or_default();
    // What found nobody is the click itself with a frame around it.
    let click = &value["click"];
    let of_click = |name: &str| click[name].as_str().unwrap_or_default();
    let or = |own: &'static str, clicks: &'static str| Some(field(own)).filter(|text| !text.is_empty()).unwrap_or(of_click(clicks));
    let last_click = value["last_click"]["id"].as_str().unwrap_or_default();
    let row = DeltaRow {
        topic: topic.default_name(),
        portal: field("portal"),
        workspace: or("workspace", "workspace"),
        id: Some(or("id", "id")).filter(|id| !id.is_empty())?,
        at: value["at"].as_u64().filter(|at| *at <= LAST)?,
        contact_id: or("contact_id", "contact_id"),
        email: field("email"),
        click_id: Some(or("click_id", "id")).filter(|id| !id.is_empty()).unwrap_or(last_click),
        deal_id: or("deal_id", "deal_id"),
        record,
        batch: seq,
        kafka_partition: raw.partition,
        kafka_offset: raw.offset,
    };
    Some(take(&row))
}

fn line(row: &impl Serialize) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(row).ok()?;
    line.push(b'\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw {
        Raw { partition: 2, offset: 7, payload: text.as_bytes().to_vec() }
    }

    #[test]
    fn a_row_is_one_line_whatever_the_click_says() {
        let nasty = r#"{"id":"a'); DROP TABLE clicks --","ts":1763800000123,"workspace":"w","link":"d/\n\"x","tags":["' OR 1","é\\"]}"#;
        let (key, row) = Stream::Clicks.row(&raw(nasty), 3).expect("a click");
        assert_eq!(row.iter().filter(|byte| **byte == b'\n').count(), 1);
        let back: Value = serde_json::from_slice(&row).expect("JSON");
        assert_eq!((back["link"].as_str(), back["kafka_offset"].as_i64()), (Some("d/\n\"x"), Some(7)));
        assert_eq!(back["ts"], "2025-11-22T08:26:40.123Z");
        assert_eq!((key.id.as_str(), back["tags"][1].as_str()), ("a'); DROP TABLE clicks --", Some("é\\")));
    }

    #[test]
    fn deltas_have_their_person_click_and_deal() {
        let stage = r#"{"id":"s","portal":"1","workspace":"w","contact_id":"801","deal_id":"9","last_click":{"id":"c"},"at":1}"#;
        let (_, row) = Stream::Deltas(Topic::DealStages).row(&raw(stage), 1).expect("a delta");
        let back: Value = serde_json::from_slice(&row).expect("JSON");
        assert_eq!(["contact_id", "click_id", "deal_id"].map(|name| back[name].as_str().unwrap_or("?")), ["801", "c", "9"]);
        assert_eq!(back["record"], stage);
        let nobody = r#"{"v":1,"click":{"id":"c","ts":1,"workspace":"w","link":"l"},"reason":"hold-expired","at":5}"#;
        let (key, _) = Stream::Deltas(Topic::Unresolved).row(&raw(nobody), 1).expect("a delta");
        assert_eq!((key.workspace.as_str(), key.id.as_str()), ("w", "c"));
        assert!(Stream::Deltas(Topic::Timeline).row(&raw("[]"), 1).is_none());
        assert!(Stream::Clicks.row(&raw("{"), 1).is_none());
    }
}
