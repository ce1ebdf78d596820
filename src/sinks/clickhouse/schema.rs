//! Tables and views, and how a database comes to have them.
//!
//! Each migration is a list of statements that do nothing the second time, so two processes may migrate at once and one that was killed
//! is simply run again; the table `migrations` says which are through. A database of a newer clickline is left alone.

use super::service::{Failure, Service};
use super::settings::Settings;
use crate::model::time::DAY;
use anyhow::{Context as _, bail};
use serde::Deserialize;

/// What a resend of the last batch must find: one entry a part, so one for each month that a batch touches.
const TABLE: &str = "SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1";

/// All tables and views of the present version, for whoever looks whether they are there.
pub const TABLES: [&str; 12] = [
    "migrations",
    "clicks",
    "deltas",
    "batches",
    "clicks_by_link",
    "clicks_by_link_view",
    "clicks_by_tag",
    "clicks_by_tag_view",
    "clicks_by_campaign",
    "clicks_by_campaign_view",
    "clicks_by_day",
    "clicks_by_day_view",
];

/// Statements by version, from 1. A version that was released never changes.
fn migrations(keep_days: u64) -> Vec<Vec<String>> {
    let totals = |name: &str, columns: &str, key: &str, select: &str, group: &str| {
        [
            format!(
                "CREATE TABLE IF NOT EXISTS {name} (workspace LowCardinality(String), {columns}day Date, clicks UInt64, bots UInt64) \
                 ENGINE = SummingMergeTree((clicks, bots)) PARTITION BY toYear(day) ORDER BY (workspace, {key}day) {TABLE}"
            ),
            format!(
                "CREATE MATERIALIZED VIEW IF NOT EXISTS {name}_view TO {name} AS SELECT workspace, {select}toDate(ts) AS day, \
                 countIf(bot = '') AS clicks, countIf(bot != '') AS bots FROM clicks GROUP BY workspace, {group}day"
            ),
        ]
    };
    let mut first = vec![
        format!(
            "CREATE TABLE IF NOT EXISTS clicks (workspace LowCardinality(String), id String, ts DateTime64(3, 'UTC') CODEC(Delta, ZSTD), \
             link String, title String, destination String, tags Array(LowCardinality(String)), deal_id String, contact_id String, \
             fbclid String, gclid String, utm_source LowCardinality(String), utm_medium LowCardinality(String), \
             utm_campaign LowCardinality(String), utm_term String, utm_content String, referrer String, user_agent String, \
             device LowCardinality(String), os LowCardinality(String), browser LowCardinality(String), country LowCardinality(String), \
             bot LowCardinality(String), batch UInt64, kafka_partition Int32, kafka_offset Int64 CODEC(Delta, ZSTD), \
             INDEX by_ts ts TYPE minmax GRANULARITY 1, INDEX by_link link TYPE bloom_filter GRANULARITY 4) \
             ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(ts) ORDER BY (workspace, id) \
             TTL toDateTime(ts) + INTERVAL {keep_days} DAY {TABLE}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS deltas (topic LowCardinality(String), portal LowCardinality(String), \
             workspace LowCardinality(String), id String, at DateTime64(3, 'UTC') CODEC(Delta, ZSTD), contact_id String, email String, \
             click_id String, deal_id String, record String CODEC(ZSTD), batch UInt64, kafka_partition Int32, \
             kafka_offset Int64 CODEC(Delta, ZSTD)) \
             ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(at) ORDER BY (topic, portal, workspace, id) \
             TTL toDateTime(at) + INTERVAL {keep_days} DAY {TABLE}"
        ),
        "CREATE TABLE IF NOT EXISTS batches (topic String, seq UInt64, partitions Array(Int32), first Array(Int64), next Array(Int64)) \
         ENGINE = ReplacingMergeTree(seq) ORDER BY topic SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
            .to_owned(),
    ];
    first.extend(totals("clicks_by_link", "link String, ", "link, ", "link, ", "link, "));
    first.extend(totals("clicks_by_tag", "tag String, ", "tag, ", "arrayJoin(arrayDistinct(tags)) AS tag, ", "tag, "));
    first.extend(totals("clicks_by_campaign", "campaign String, ", "campaign, ", "utm_campaign AS campaign, ", "campaign, "));
    first.extend(totals("clicks_by_day", "", "", "", ""));
    vec![first]
}

/// How a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The version it has; 0: nothing was made yet.
    pub has: u64,
    /// The version that this build needs.
    pub needs: u64,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// Looks which version a database has.
///
/// # Errors
/// See [`Failure`].
pub async fn standing(service: &Service) -> Result<Standing, Failure> {
    let needs = migrations(1).len() as u64;
    let found: Result<Vec<Version>, _> = service.rows("SELECT max(version) AS version FROM migrations FORMAT JSONEachRow", &[]).await;
    match found {
        Ok(rows) => Ok(Standing { has: rows.first().map_or(0, |row| row.version), needs }),
        // UNKNOWN_TABLE, UNKNOWN_DATABASE.
        Err(Failure::Refused { code: 60 | 81, .. }) => Ok(Standing { has: 0, needs }),
        Err(error) => Err(error),
    }
}

/// Makes what is missing; gives back the version that was there before.
///
/// # Errors
/// A refusal, or a database of a newer clickline.
pub async fn migrate(service: &Service, settings: &Settings) -> anyhow::Result<Standing> {
    let before = standing(service).await?;
    if before.has > before.needs {
        bail!("the database has version {}, this build knows {}: run the newer clickline", before.has, before.needs);
    }
    if before.has == before.needs {
        return Ok(before);
    }
    service.create_database().await?;
    let log =
        "CREATE TABLE IF NOT EXISTS migrations (version UInt64, at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version";
    service.query(log, &[]).await?;
    for (version, statements) in (1_u64..).zip(migrations(settings.keep.0.div_ceil(DAY))) {
        if version <= before.has {
            continue;
        }
        for statement in statements {
            service.query(&statement, &[]).await.with_context(|| format!("migration {version}"))?;
        }
        service.query("INSERT INTO migrations (version) SELECT {version:UInt64}", &[("version", &version.to_string())]).await?;
    }
    Ok(before)
}
