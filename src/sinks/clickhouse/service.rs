//! One request to ClickHouse over HTTP.
//!
//! The query is ours and constant; values travel as bound parameters or as the request's body, never in its text.

use super::outcome::{Class, classify};
use super::settings::Settings;
use crate::http;
use crate::sinks::hubspot::Secret;
use anyhow::Context as _;
use reqwest::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

/// Every request: inserts are done when they are answered, once for each token, also in what the views feed; a field that the table
/// lacks is an error; whole batches stay one block.
const SETTINGS: [(&str, &str); 11] = [
    ("wait_end_of_query", "1"),
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("input_format_parallel_parsing", "0"),
    ("input_format_skip_unknown_fields", "0"),
    ("max_insert_threads", "1"),
    ("max_partitions_per_insert_block", "0"),
    ("date_time_input_format", "best_effort"),
    ("output_format_json_quote_64bit_integers", "0"),
    ("mutations_sync", "2"),
];

/// Parts the rows of an external table from the rest of a request; JSON escapes the line break before it.
const BOUNDARY: &str = "clickline-rows";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing, or nothing of ClickHouse's, came back; it may have been done.
    #[error("ClickHouse does not answer")]
    Unanswered(#[source] anyhow::Error),
    /// ClickHouse says no.
    #[error("ClickHouse refuses with code {code}: {what}")]
    Refused {
        /// `X-ClickHouse-Exception-Code`.
        code: u32,
        /// The code's name, as ClickHouse writes it; its message may quote rows, and is not kept.
        what: String,
    },
}

impl Failure {
    /// What to do about it.
    pub fn class(&self) -> Class {
        classify(self.code())
    }

    /// ClickHouse's code; none where it did not answer.
    pub fn code(&self) -> Option<u32> {
        match self {
            Failure::Unanswered(_) => None,
            Failure::Refused { code, .. } => Some(*code),
        }
    }
}

/// The way to one database.
#[derive(Debug)]
pub struct Service {
    client: reqwest::Client,
    url: String,
    database: String,
    user: String,
    password: Option<Secret>,
}

impl Service {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// A password that can't be read, or no HTTP client.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Service {
            client: http::client(settings.deadline())?,
            url: settings.url.clone(),
            database: settings.database.clone(),
            user: settings.user.clone(),
            password: settings.password()?,
        })
    }

    /// The database's name; letters, digits and underscores.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Runs a statement with bound parameters (`{name:Type}` in its text); gives back what it says.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn query(&self, sql: &str, parameters: &[(&str, &str)]) -> Result<Vec<u8>, Failure> {
        self.ask(&self.database, sql, parameters).await
    }

    /// Makes the database where it is not there.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn create_database(&self) -> Result<(), Failure> {
        // A request that names a database which is not there fails, whatever it asks.
        let sql = format!("CREATE DATABASE IF NOT EXISTS {}", self.database);
        self.send("default", &[], "text/plain", sql.into_bytes()).await.map(drop)
    }

    /// The same for a query that ends with `FORMAT JSONEachRow`: its rows.
    ///
    /// # Errors
    /// See [`Failure`]; also rows of another shape.
    pub async fn rows<T: DeserializeOwned>(&self, sql: &str, parameters: &[(&str, &str)]) -> Result<Vec<T>, Failure> {
        parsed(&self.query(sql, parameters).await?)
    }

    /// Asks the server rather than its database, which need not be there.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn ask_server(&self, sql: &str, parameters: &[(&str, &str)]) -> Result<String, Failure> {
        let body = self.ask("default", sql, parameters).await?;
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    }

    /// Inserts rows (JSON, one a line) under a token: the same token inserts once.
    ///
    /// # Errors
    /// See [`Failure`]; what was not answered may have been done.
    pub async fn insert(&self, into: &'static str, token: &str, rows: Vec<u8>) -> Result<(), Failure> {
        let query = format!("INSERT INTO {into} FORMAT JSONEachRow");
        self.send(&self.database, &[("query", &query), ("insert_deduplication_token", token)], "application/x-ndjson", rows).await.map(drop)
    }

    /// Runs a query that sees `rows` (JSON, one a line) as the table `given` of this structure.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn with_rows<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: &[(&str, &str)],
        structure: &str,
        rows: &[u8],
    ) -> Result<Vec<T>, Failure> {
        let mut body = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"given\"; filename=\"given\"\r\n\r\n").into_bytes();
        body.extend_from_slice(rows);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let own: Vec<(String, &str)> = parameters.iter().map(|(name, value)| (format!("param_{name}"), *value)).collect();
        let mut pairs = vec![("query", sql), ("given_structure", structure), ("given_format", "JSONEachRow")];
        pairs.extend(own.iter().map(|(name, value)| (&**name, *value)));
        parsed(&self.send(&self.database, &pairs, &format!("multipart/form-data; boundary={BOUNDARY}"), body).await?)
    }

    async fn ask(&self, database: &str, sql: &str, parameters: &[(&str, &str)]) -> Result<Vec<u8>, Failure> {
        let own: Vec<(String, &str)> = parameters.iter().map(|(name, value)| (format!("param_{name}"), *value)).collect();
        let pairs: Vec<(&str, &str)> = own.iter().map(|(name, value)| (&**name, *value)).collect();
        self.send(database, &pairs, "text/plain", sql.as_bytes().to_vec()).await
    }

    async fn send(&self, database: &str, pairs: &[(&str, &str)], content: &str, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let unanswered = |error: anyhow::Error| Failure::Unanswered(error);
        let mut request = self.client.post(&self.url).query(&SETTINGS).query(pairs).header(CONTENT_TYPE, content);
        request = request.header("X-ClickHouse-Database", database).header("X-ClickHouse-User", &self.user);
        if let Some(password) = &self.password {
            request = request.header("X-ClickHouse-Key", password.reveal());
        }
        // The URL holds parameters, which may be a person's address.
        let answer = request.body(body).send().await.map_err(|error| unanswered(error.without_url().into()))?;
        let status = answer.status();
        let code = answer.headers().get("X-ClickHouse-Exception-Code").and_then(|code| code.to_str().ok()?.parse().ok());
        let tag = answer.headers().get("X-ClickHouse-Exception-Tag").and_then(|tag| Some(tag.to_str().ok()?.to_owned()));
        let body = http::body(answer).await.map_err(|error| unanswered(error.into()))?;
        if let Some(code) = code {
            return Err(Failure::Refused { code, what: name(&body) });
        }
        // An exception after 200: the body ends with a block that carries the answer's tag.
        if tag.is_some_and(|tag| String::from_utf8_lossy(tail(&body)).contains(&format!("__exception__\r\n{tag}"))) {
            return Err(unanswered(anyhow::anyhow!("an exception after the answer had begun")));
        }
        if !status.is_success() {
            return Err(unanswered(anyhow::anyhow!("HTTP {status} without a code of ClickHouse's: is a proxy between us?")));
        }
        Ok(body)
    }
}

/// `MEMORY_LIMIT_EXCEEDED` of `Code: 241. DB::Exception: … (MEMORY_LIMIT_EXCEEDED) (version …)`.
fn name(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let found = text
        .rsplit('(')
        .filter_map(|part| part.split(')').next())
        .find(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'));
    found.unwrap_or("no name").to_owned()
}

fn tail(body: &[u8]) -> &[u8] {
    &body[body.len().saturating_sub(16 * 1024)..]
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Failure> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).context("an answer of another shape"))
        .collect::<anyhow::Result<_>>()
        .map_err(Failure::Unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_name_and_no_rows() {
        let body =
            b"Code: 27. DB::Exception: Cannot parse 'ada@example.com' (at row 1) (CANNOT_PARSE_INPUT_ASSERTION_FAILED) (version 26.7.2.1)";
        assert_eq!(name(body), "CANNOT_PARSE_INPUT_ASSERTION_FAILED");
        assert_eq!(name(b"<html>(Bad Gateway)</html>"), "no name");
    }
}
