//! Which contact property takes which last UTM value.
//!
//! HubSpot keeps first-touch and analytics properties for itself: they are read-only, or overwritten by its own
//! tracking. A mapping onto one of them is refused here; whether a property exists is for `check --online`.

use super::mistakes::meant;
use crate::dataflow::plan::UtmProperties;
use std::collections::BTreeMap;

/// The values, in the order of [`UtmProperties::names`].
pub const VALUES: [&str; 3] = ["utm_source", "utm_campaign", "utm_medium"];

/// Beginnings of names that HubSpot keeps for itself.
const RESERVED: [&str; 4] = ["hs_analytics_", "hs_latest_source", "original_source", "hs_"];

/// Reads a mapping; values that it does not name keep their default property.
///
/// # Errors
/// The keys at fault, and what is wrong with each.
pub fn check(mapping: &BTreeMap<String, String>) -> Result<UtmProperties, Vec<(String, String)>> {
    let mut properties = UtmProperties::default();
    let mut mistakes = Vec::new();
    for (key, property) in mapping {
        let mut wrong = |problem: String| mistakes.push((key.clone(), problem));
        let letters = property.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let Some(place) = VALUES.iter().position(|value| value == key) else {
            wrong(format!("is not a value that is kept{}", meant(key, &VALUES)));
            continue;
        };
        if RESERVED.iter().any(|start| property.starts_with(start)) {
            wrong(format!(
                "HubSpot keeps `{property}` for itself (first touch and analytics are its own and read-only); name a property of your own, such as `{}`",
                properties.names[place]
            ));
        } else if !letters || !property.starts_with(|first: char| first.is_ascii_lowercase()) || property.len() > 100 {
            wrong(format!("`{property}` is no internal name of a property: lower-case letters, digits and `_`, a letter first"));
        } else {
            properties.names[place] = property.clone();
        }
    }
    let names = &properties.names;
    if let Some(twice) = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
        mistakes.push((VALUES[twice.0].to_owned(), format!("`{}` takes another value already; each needs its own property", twice.1)));
    }
    if mistakes.is_empty() { Ok(properties) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<UtmProperties, (String, String)> {
        check(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()).map_err(|mut wrong| wrong.remove(0))
    }

    #[test]
    fn what_is_not_named_keeps_its_default() {
        assert_eq!(of(&[]), Ok(UtmProperties::default()));
        let mapped = of(&[("utm_medium", "last_medium")]).expect("allowed");
        assert_eq!(mapped.names, ["elido_last_utm_source", "elido_last_utm_campaign", "last_medium"]);
    }

    #[test]
    fn first_touch_is_hubspot_s_own() {
        for property in ["hs_analytics_first_url", "hs_latest_source_data_1", "original_source_drill_down_1", "hs_analytics_source"] {
            let (key, problem) = of(&[("utm_source", property)]).expect_err(property);
            assert_eq!(key, "utm_source");
            assert!(problem.contains(property) && problem.contains("elido_last_utm_source"), "{problem}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(of(&[("utm_content_x", "x")]).expect_err("unknown").1.contains("utm_campaign"));
        assert!(of(&[("utm_source", "Last Source")]).expect_err("no name").1.contains("lower-case"));
        assert!(of(&[("utm_source", "same"), ("utm_medium", "same")]).expect_err("twice").1.contains("another value"));
    }
}
