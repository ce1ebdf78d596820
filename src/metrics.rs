//! Counters and gauges, each a typed field, as Prometheus reads them on `/metrics` of the job's HTTP server.
//!
//! Labels have few values: portals come from the configuration, results and conditions are enumerations. Nothing that a visitor or
//! HubSpot sends becomes a label.

use crate::sinks::clickhouse;
use crate::sinks::hubspot::Exposed;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// Everything that is counted; clones of a field count the same thing.
#[derive(Debug)]
pub struct Metrics {
    /// Calls to HubSpot's token endpoint to refresh a connection, by what came of them.
    pub refresh_attempts: Family<Refresh, Counter>,
    /// Refreshes that brought another refresh token.
    pub refresh_rotations: Family<Portal, Counter>,
    /// When a connection got its last access token, seconds since the Unix epoch.
    pub last_refresh: Family<Portal, Gauge>,
    /// 1 while a connection can be used, 0 while somebody must act.
    pub connected: Family<Portal, Gauge>,
    /// Installations that ended, by how.
    pub installs: Family<Install, Counter>,
    /// Records of the CRM mirror, by what was done.
    pub crm_records: Family<CrmRecord, Counter>,
    /// Loads of the CRM mirror that were gone through to their end.
    pub crm_loads: Family<Portal, Counter>,
    /// When there was nothing left for the CRM mirror to follow, seconds since the Unix epoch.
    pub crm_followed: Family<Portal, Gauge>,
    /// Forms taken, by where they came from.
    pub forms: Family<FormTaken, Counter>,
    /// What the HubSpot sink counts, once it runs.
    pub sink: Exposed,
    /// What the ClickHouse sink counts, once it runs.
    pub clickhouse: clickhouse::Exposed,
    registry: Registry,
}

/// A HubSpot account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Portal {
    /// Its id, as the configuration has it.
    pub portal: String,
}

/// A refresh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refresh {
    /// The account's id, as the configuration has it.
    pub portal: String,
    /// What came of it.
    pub result: RefreshResult,
}

/// An installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Install {
    /// What came of it.
    pub result: InstallResult,
}

/// A record of the CRM mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CrmRecord {
    /// The account's id, as the configuration has it.
    pub portal: String,
    /// What was done with it.
    pub result: CrmResult,
}

/// What was done with a record of the CRM mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrmResult {
    /// Read from HubSpot.
    Read,
    /// Written, because it differs from what stood there.
    Written,
    /// Ended by a tombstone.
    Ended,
}

impl EncodeLabelValue for CrmResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            CrmResult::Read => "read",
            CrmResult::Written => "written",
            CrmResult::Ended => "ended",
        };
        word.encode(encoder)
    }
}

/// A form that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FormTaken {
    /// Where it came from.
    pub source: FormSource,
}

/// Where a form came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FormSource {
    /// It was posted to the job.
    Post,
    /// It was submitted in HubSpot.
    HubSpot,
}

impl EncodeLabelValue for FormSource {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            FormSource::Post => "post",
            FormSource::HubSpot => "hubspot",
        };
        word.encode(encoder)
    }
}

/// What came of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshResult {
    /// New tokens, stored.
    Ok,
    /// New tokens, thrown away: another process had stored newer ones.
    Overtaken,
    /// The refresh token is dead.
    BadRefreshToken,
    /// The app's credentials are wrong.
    BadClient,
    /// 429.
    Throttled,
    /// No answer, or an error of HubSpot's.
    Failed,
    /// A refusal that nobody has documented.
    Refused,
}

impl EncodeLabelValue for RefreshResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            RefreshResult::Ok => "ok",
            RefreshResult::Overtaken => "overtaken",
            RefreshResult::BadRefreshToken => "bad_refresh_token",
            RefreshResult::BadClient => "bad_client",
            RefreshResult::Throttled => "throttled",
            RefreshResult::Failed => "failed",
            RefreshResult::Refused => "refused",
        };
        word.encode(encoder)
    }
}

/// How an installation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InstallResult {
    /// Connected.
    Ok,
    /// The person, or HubSpot, said no.
    Denied,
    /// The `state` was unknown, used, expired, or another browser's.
    BadState,
    /// For an account that the workspace does not have.
    ForeignPortal,
    /// HubSpot did not take the code, or something failed.
    Failed,
}

impl EncodeLabelValue for InstallResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            InstallResult::Ok => "ok",
            InstallResult::Denied => "denied",
            InstallResult::BadState => "bad_state",
            InstallResult::ForeignPortal => "foreign_portal",
            InstallResult::Failed => "failed",
        };
        word.encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics {
            refresh_attempts: Family::default(),
            refresh_rotations: Family::default(),
            last_refresh: Family::default(),
            connected: Family::default(),
            installs: Family::default(),
            crm_records: Family::default(),
            crm_loads: Family::default(),
            crm_followed: Family::default(),
            forms: Family::default(),
            sink: Exposed::default(),
            clickhouse: clickhouse::Exposed::default(),
            registry: Registry::default(),
        };
        registry.register(
            "hubspot_refresh_attempts",
            "Calls to HubSpot's token endpoint to refresh a connection",
            metrics.refresh_attempts.clone(),
        );
        registry.register("hubspot_refresh_rotations", "Refreshes that brought another refresh token", metrics.refresh_rotations.clone());
        registry.register(
            "hubspot_last_refresh_timestamp_seconds",
            "When a connection got its last access token, seconds since the Unix epoch",
            metrics.last_refresh.clone(),
        );
        registry.register("hubspot_connected", "1 while a connection can be used, 0 while somebody must act", metrics.connected.clone());
        registry.register("hubspot_installs", "Installations that ended", metrics.installs.clone());
        registry.register("crm_records", "Records of the CRM mirror, by what was done", metrics.crm_records.clone());
        registry.register("crm_loads", "Loads of the CRM mirror that were gone through to their end", metrics.crm_loads.clone());
        registry.register(
            "crm_followed_timestamp_seconds",
            "When there was nothing left for the CRM mirror to follow, seconds since the Unix epoch",
            metrics.crm_followed.clone(),
        );
        registry.register("forms_taken", "Forms taken, by where they came from", metrics.forms.clone());
        registry.register_collector(Box::new(metrics.sink.clone()));
        registry.register_collector(Box::new(metrics.clickhouse.clone()));
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// All of them, as text.
    ///
    /// # Errors
    /// When a value can't be written, which none of ours does.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// `GET /metrics`.
pub fn routes(metrics: Arc<Metrics>) -> Router {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let show = async move || match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    Router::new().route("/metrics", get(show))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_as_documented() {
        let metrics = Metrics::default();
        let portal = || "4242".to_owned();
        metrics.refresh_attempts.get_or_create(&Refresh { portal: portal(), result: RefreshResult::BadRefreshToken }).inc();
        metrics.last_refresh.get_or_create(&Portal { portal: portal() }).set(1_800_000_000);
        metrics.installs.get_or_create(&Install { result: InstallResult::Ok }).inc();
        let text = metrics.text().expect("writes");
        for line in [
            "# TYPE hubspot_refresh_attempts counter",
            "hubspot_refresh_attempts_total{portal=\"4242\",result=\"bad_refresh_token\"} 1",
            "hubspot_last_refresh_timestamp_seconds{portal=\"4242\"} 1800000000",
            "hubspot_installs_total{result=\"ok\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
