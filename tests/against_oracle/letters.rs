//! Dead letters of the oracle as they stand in a real log.
//!
//! The oracle knows a record by its number in the log's order. A broker's offsets count marks of transactions, too, and a record's bytes are its
//! writer's: what a dead letter repeats of them is taken from the record that was read back.

use super::Found;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickline::model::outputs::Topic;
use serde_json::Value;

/// A line of the oracle's, with partition, offset and bytes of the record in the place of its number.
pub fn in_place(line: String, records: &[Found]) -> String {
    let [at, topic, key, letter] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("not a line: {line}") };
    if topic != Topic::DeadLetters.default_name() {
        return line;
    }
    let mut letter: Value = serde_json::from_str(letter).expect("JSON");
    let number = letter["offset"].as_u64().and_then(|number| usize::try_from(number).ok()).expect("a number");
    let (of, partition, offset, _, bytes_of_key, payload) = &records[number];
    assert_eq!(letter["source"], of.as_str(), "the oracle's order is the log's");
    letter["partition"] = (*partition).into();
    letter["offset"] = (*offset).into();
    letter["payload_base64"] = STANDARD.encode(payload).into();
    if let Some(bytes) = bytes_of_key {
        letter["key_base64"] = STANDARD.encode(bytes).into();
    }
    format!("{at} {topic} {key} {letter}")
}
