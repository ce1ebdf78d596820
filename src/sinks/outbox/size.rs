//! What is written in place of an output that brokers would refuse for its size.
//!
//! One record must not stop the job, and a refused one would do so for ever: it would be computed again at each start.

use crate::model::outputs::{DeadLetter, Output, Topic};
use crate::model::time::Ms;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Largest value that is written; brokers refuse batches above 1 MiB unless they are told otherwise.
const LARGEST: usize = 900_000;
/// What is kept of the payload of a dead letter that would be larger, as base64; a multiple of 4.
const KEPT_PAYLOAD: usize = 600_000;
/// What the detail of a dead letter says of a payload that was cut.
pub const CUT: &str = "the payload is cut";
/// When a record that is too large for the brokers was made.
#[derive(Deserialize)]
struct Made {
    #[serde(default)]
    at: Ms,
}

/// The dead letter to write in its place; `None` for an output that fits.
pub fn fitting(output: &Output) -> Option<Output> {
    if output.value.len() <= LARGEST {
        return None;
    }
    let most = "whole records may have at most 900000 bytes here";
    let letter = match serde_json::from_slice::<DeadLetter>(&output.value) {
        Ok(mut letter) if output.topic == Topic::DeadLetters => {
            letter.payload_base64.truncate(KEPT_PAYLOAD);
            letter.key_base64 = letter.key_base64.filter(|key| key.len() < KEPT_PAYLOAD / 4);
            letter.detail = format!("{}; {CUT}, {most}", letter.detail);
            letter
        }
        _ => DeadLetter {
            v: 1,
            reason: "bounds".to_owned(),
            detail: format!("a record for {} of {} bytes; {CUT}, {most}", output.topic.default_name(), output.value.len()),
            source: output.topic.default_name().to_owned(),
            partition: 0,
            offset: 0,
            key_base64: Some(STANDARD.encode(output.key.as_bytes())),
            payload_base64: STANDARD.encode(&output.value[..KEPT_PAYLOAD / 4 * 3]),
            at: serde_json::from_slice::<Made>(&output.value).map_or(0, |made| made.at),
        },
    };
    let value = serde_json::to_vec(&letter).expect("numbers and strings are always JSON");
    Some(Output { topic: Topic::DeadLetters, key: letter.source, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter_of(output: &Output) -> DeadLetter {
        assert_eq!(output.topic, Topic::DeadLetters);
        assert!(output.value.len() <= LARGEST, "{} bytes", output.value.len());
        serde_json::from_slice(&output.value).expect("a dead letter")
    }

    #[test]
    fn what_fits_is_written_as_it_is() {
        assert_eq!(fitting(&Output { topic: Topic::Timeline, key: "1".into(), value: vec![b'x'; LARGEST] }), None);
    }

    #[test]
    fn a_dead_letter_that_is_too_large_keeps_its_place_and_the_beginning_of_its_payload() {
        let payload: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let letter = DeadLetter {
            v: 1,
            reason: "json".into(),
            detail: "not JSON".into(),
            source: "clicks".into(),
            partition: 3,
            offset: 7,
            key_base64: None,
            payload_base64: STANDARD.encode(&payload),
            at: 1_300,
        };
        let value = serde_json::to_vec(&letter).expect("JSON");
        let cut = letter_of(&fitting(&Output { topic: Topic::DeadLetters, key: "clicks".into(), value }).expect("too large"));
        assert_eq!((cut.reason.as_str(), cut.partition, cut.offset, cut.at), ("json", 3, 7, 1_300));
        assert!(cut.detail.contains("cut"));
        let kept = STANDARD.decode(cut.payload_base64).expect("base64");
        assert_eq!(kept, payload[..kept.len()]);
        assert_eq!(kept.len(), KEPT_PAYLOAD / 4 * 3);
    }

    #[test]
    fn any_other_output_that_is_too_large_becomes_a_dead_letter_of_its_tick() {
        let value = format!(r#"{{"at":1300,"title":"{}"}}"#, "x".repeat(LARGEST)).into_bytes();
        let letter = letter_of(&fitting(&Output { topic: Topic::Timeline, key: "4242".into(), value }).expect("too large"));
        assert_eq!((letter.reason.as_str(), letter.source.as_str(), letter.at), ("bounds", "hubspot.timeline", 1_300));
    }
}
