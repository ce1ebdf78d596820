//! Finds values in bytes, however they may have been written there.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::BTreeSet;

/// A value that must not be where it does not belong: unlike anything else that the test writes.
#[derive(Clone, Debug)]
pub struct Canary {
    /// What it is.
    pub name: &'static str,
    pub value: String,
}

/// Something that was written, and by which name the list of what is allowed knows it.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Canary {
    pub fn new(name: &'static str, value: impl Into<String>) -> Canary {
        let value = value.into();
        assert!(value.len() >= 11 && value.is_ascii(), "{name}: {value:?} may be met by chance");
        Canary { name, value }
    }

    /// The value as it may stand in a file: as it is, in capitals, in a URL, in hexadecimal, within base64 at each of its three places.
    pub fn forms(&self) -> BTreeSet<String> {
        let percent = |encode: fn(char) -> bool| -> String {
            self.value.chars().map(|c| if encode(c) { format!("%{:02X}", u32::from(c)) } else { c.to_string() }).collect()
        };
        let mut forms: BTreeSet<String> = [self.value.clone(), self.value.to_lowercase(), self.value.to_uppercase()].into();
        forms.insert(percent(|c| !c.is_ascii_alphanumeric() && !"-_.~".contains(c)));
        forms.insert(percent(|c| c == '@'));
        forms.insert(self.value.bytes().map(|byte| format!("{byte:02x}")).collect());
        for shift in 0..3 {
            let padded = [&vec![0; shift], self.value.as_bytes()].concat();
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let code = engine.encode(&padded);
                // The characters at both ends hold bits of the neighbours.
                forms.insert(code[(shift * 8).div_ceil(6)..code.len() - 1].to_owned());
            }
        }
        forms
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.forms().iter().any(|form| text.contains(form))
    }
}

/// Which canary stands in which place.
pub fn found(canaries: &[Canary], places: &[Place]) -> BTreeSet<(&'static str, String)> {
    let mut found = BTreeSet::new();
    for place in places {
        // Canaries are ASCII, which this leaves as it is.
        let text = String::from_utf8_lossy(&place.bytes);
        found.extend(canaries.iter().filter(|canary| canary.is_in(&text)).map(|canary| (canary.name, place.name.clone())));
    }
    found
}

/// What is wrong with what was found: canaries where they may not be, and permissions that nobody uses.
pub fn judge(found: &BTreeSet<(&'static str, String)>, allowed: &[(&'static str, &[&str])]) -> Vec<String> {
    let allowed: BTreeSet<(&str, String)> =
        allowed.iter().flat_map(|(canary, places)| places.iter().map(move |place| (*canary, (*place).to_owned()))).collect();
    let leaks = found.difference(&allowed).map(|(canary, place)| format!("{canary} stands in {place}"));
    let unused = allowed.difference(found).map(|(canary, place)| format!("{canary} may be in {place} and is not: is it looked at?"));
    leaks.chain(unused).collect()
}

#[test]
fn a_planted_canary_is_found_in_every_form_and_told() {
    let canaries = [
        Canary::new("token", "k3y-of-4-canary+/="),
        Canary::new("e-mail", "canary.ada@example.com"),
        Canary::new("address", "203.0.113.77"),
    ];
    let clean = Place { name: "log".to_owned(), bytes: b"\xff\x00 info: 203.0.113.78 ada@example.com is not one of them".repeat(100) };
    assert!(found(&canaries, std::slice::from_ref(&clean)).is_empty());
    let code = |before: &str, canary: &Canary| STANDARD_NO_PAD.encode(format!("{before}{}{{more}}", canary.value));
    for canary in &canaries {
        let mut planted = vec![canary.value.clone(), canary.value.to_uppercase(), format!("?email={}", canary.value.replace('@', "%40"))];
        planted.extend(["", "x", "xx", "xxx", "a longer text: "].map(|before| code(before, canary)));
        planted.push(canary.value.bytes().map(|byte| format!("{byte:02x}")).collect());
        for text in planted {
            let mut place = clean.clone();
            place.bytes.splice(777..777, text.bytes());
            assert_eq!(found(&canaries, &[clean.clone(), place]), [(canary.name, "log".to_owned())].into(), "{text}");
        }
    }
    let seen = [("token", "log".to_owned()), ("e-mail", "topic forms".to_owned())].into();
    assert_eq!(judge(&seen, &[("e-mail", &["topic forms"])]), ["token stands in log"]);
    assert_eq!(
        judge(&seen, &[("token", &["log"]), ("e-mail", &["topic forms", "snapshots"])]),
        ["e-mail may be in snapshots and is not: is it looked at?"]
    );
}
