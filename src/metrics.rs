//! Counters and gauges, each a typed field, as Prometheus reads them on `/metrics` of the job's HTTP server.
//!
//! Labels have few values: portals come from the configuration, results and conditions are enumerations. Nothing that a visitor or
//! HubSpot sends becomes a label.

mod job;

pub use job::OfJob;

use crate::model::time::Ms;
use crate::serve::access::{Access, operators_only};
use crate::sinks::clickhouse;
use crate::sinks::hubspot::{AccountStanding, Exposed};
use crate::status::Collect;
use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{Arc, Mutex};

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
    /// From a click to what it led to standing in HubSpot, seconds.
    pub freshness: Family<Fresh, Histogram, fn() -> Histogram>,
    /// How the HubSpot sink stands with each account, once it runs; told once a second.
    pub standings: Mutex<Vec<AccountStanding>>,
    /// How the job stands, once it runs.
    pub job: OfJob,
    /// What the HubSpot sink counts, once it runs.
    pub sink: Exposed,
    /// What the ClickHouse sink counts, once it runs.
    pub clickhouse: clickhouse::Exposed,
    registry: Registry,
}

/// What a click has led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Fresh {
    /// What stands in HubSpot.
    pub what: FreshKind,
}

/// What stands in HubSpot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FreshKind {
    /// The click's event.
    Event,
    /// The stage of a deal, counted from the last click that earned it.
    Stage,
}

impl EncodeLabelValue for FreshKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            FreshKind::Event => "event",
            FreshKind::Stage => "stage",
        };
        word.encode(encoder)
    }
}

/// From half a second to three days, the longest that a click is held.
fn seconds_to_hours() -> Histogram {
    Histogram::new([0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0, 259_200.0])
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

impl RefreshResult {
    /// All of them.
    pub const ALL: [RefreshResult; 7] = [
        RefreshResult::Ok,
        RefreshResult::Overtaken,
        RefreshResult::BadRefreshToken,
        RefreshResult::BadClient,
        RefreshResult::Throttled,
        RefreshResult::Failed,
        RefreshResult::Refused,
    ];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            RefreshResult::Ok => "ok",
            RefreshResult::Overtaken => "overtaken",
            RefreshResult::BadRefreshToken => "bad_refresh_token",
            RefreshResult::BadClient => "bad_client",
            RefreshResult::Throttled => "throttled",
            RefreshResult::Failed => "failed",
            RefreshResult::Refused => "refused",
        }
    }
}

impl EncodeLabelValue for RefreshResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.word().encode(encoder)
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
            freshness: Family::new_with_constructor(seconds_to_hours),
            standings: Mutex::default(),
            job: OfJob::default(),
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
        registry.register(
            "click_to_hubspot_seconds",
            "From a click to the moment when what it led to is known to stand in HubSpot",
            metrics.freshness.clone(),
        );
        registry.register_collector(Box::new(metrics.sink.clone()));
        registry.register_collector(Box::new(metrics.job.clone()));
        registry.register_collector(Box::new(metrics.clickhouse.clone()));
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// What a click has led to stands in HubSpot, so many ms after it.
    pub fn fresh(&self, what: FreshKind, after: Ms) {
        #[expect(clippy::cast_precision_loss, reason = "ms of a few days are exact")]
        let seconds = after as f64 / 1000.0;
        self.freshness.get_or_create(&Fresh { what }).observe(seconds);
    }

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

/// `GET /metrics`, for whom `access` allows it.
pub fn guarded(metrics: Arc<Metrics>, access: Arc<Access>) -> Router {
    routes(metrics).layer(from_fn_with_state(access, operators_only))
}

/// `GET /metrics` of a process other than 0, for whom `access` allows it: what it knows of its share.
pub fn guarded_share(collect: Collect, access: Arc<Access>) -> Router {
    let registry = Arc::new(job::share(collect));
    let show = async move || openmetrics(&registry);
    Router::new().route("/metrics", get(show)).layer(from_fn_with_state(access, operators_only))
}

/// `GET /metrics`.
pub fn routes(metrics: Arc<Metrics>) -> Router {
    let show = async move || openmetrics(&metrics.registry);
    Router::new().route("/metrics", get(show))
}

fn openmetrics(registry: &Registry) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Look;
    use crate::kafka::Kafka;
    use crate::model::time::now;
    use crate::secret::Secret;
    use crate::serve::{Bound, Server};
    use crate::stop::Stop;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    #[test]
    fn a_share_is_shown_to_whoever_has_the_token() {
        let collect = Collect {
            board: Arc::default(),
            look: Look::default(),
            stop: Stop::new(),
            rules: Vec::new(),
            kafka: Kafka::at("127.0.0.1:9092"),
            connections: None,
            workspaces: Vec::new(),
            sink: false,
            metrics: Arc::default(),
            snapshots: None,
            now: Arc::new(now),
        };
        let access = Access::new(Some(Secret::new("a-token-of-16-or-more")), false);
        let bound = Bound::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        let server = Server::start(bound, guarded_share(collect, access)).expect("starts");
        let ask = |more: &str| {
            let mut stream = TcpStream::connect(server.address()).expect("connects");
            let request = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{more}connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("writes");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answers");
            answer
        };
        for without in ["", "authorization: Bearer a-token-of-16-or-mor\r\n"] {
            let answer = ask(without);
            assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("clickline_"), "{without}: {answer}");
        }
        let answer = ask("authorization: Bearer a-token-of-16-or-more\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("clickline_records_read_total{kind=\"clicks\"}"), "{answer}");
        assert!(!answer.contains("clickline_transactions"), "process 0 alone knows of them: {answer}");
    }

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
