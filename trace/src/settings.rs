//! What OpenTelemetry's own environment variables say. Endpoint, headers, time-out and compression are read by its exporter itself.

use crate::Ratio;

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const SHARE: &str = "OTEL_TRACES_SAMPLER_ARG";
/// One click in a hundred: an all too eager default would be felt at thousands of clicks a second.
const DEFAULT_SHARE: f64 = 0.01;

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A share that is none.
    #[error("`{SHARE}` must be a number from 0 to 1: the share of clicks that are traced")]
    Share,
    /// OpenTelemetry's exporter refuses its settings.
    #[error("cannot send traces with these `OTEL_…` variables: {0}")]
    Exporter(String),
    /// The thread that sends can't be started.
    #[error("cannot start the thread that sends traces")]
    Thread(#[source] std::io::Error),
}

/// What is asked for, if anything is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Which share of the clicks.
    pub ratio: Ratio,
    /// The same as it was written.
    pub share: f64,
    /// Where to, where that is not left to the exporter.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nobody sends"))]
    pub endpoint: Option<String>,
}

impl Settings {
    /// What the variables say that `of` gives.
    pub(crate) fn read(of: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, Error> {
        let of = |name: &str| of(name).filter(|value| !value.trim().is_empty());
        let disabled = of(DISABLED).is_some_and(|word| word.trim().eq_ignore_ascii_case("true"));
        if disabled || ENDPOINTS.iter().all(|name| of(name).is_none()) {
            return Ok(None);
        }
        let share = match of(SHARE) {
            Some(text) => text.trim().parse().map_err(|_| Error::Share)?,
            None => DEFAULT_SHARE,
        };
        Ok(Some(Settings { ratio: Ratio::of(share).ok_or(Error::Share)?, share, endpoint: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<f64>, Error> {
        let of = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Settings::read(of).map(|settings| settings.map(|settings| settings.share))
    }

    #[test]
    fn off_unless_an_endpoint_is_named_and_a_wrong_share_is_told() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        assert_eq!(read(&[]).expect("fine"), None);
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " "), (SHARE, "none")]).expect("fine"), None);
        assert_eq!(read(&[endpoint]).expect("fine"), Some(DEFAULT_SHARE));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x/v1/traces"), (SHARE, " 1 ")]).expect("fine"), Some(1.0));
        assert_eq!(read(&[endpoint, (DISABLED, "TRUE")]).expect("fine"), None);
        for wrong in ["2", "-1", "1%", "NaN"] {
            assert!(matches!(read(&[endpoint, (SHARE, wrong)]), Err(Error::Share)), "{wrong}");
        }
    }
}
