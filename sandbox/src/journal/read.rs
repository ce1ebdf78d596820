//! Reading the journal: an answer names a file, and the file holds the events.

use super::entries::Entry;
use super::{AppAccess, Reach};
use crate::clock::iso;
use crate::config::JournalEnd;
use crate::error::{ApiError, ApiResult, correlation_id};
use crate::http::{AppState, Body, Pairs};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::LazyLock;
use uuid::Uuid;

const SCOPE: &str = "developer.webhooks_journal.read";
/// How long the address of a file is good.
const FILE_MS: u64 = 3_600_000;
/// Entries of a batch.
const BATCH_MAX: usize = 100;

/// Signs the addresses of files; new in every process.
static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let random = [Uuid::now_v7().into_bytes(), Uuid::now_v7().into_bytes()].concat();
    hmac::Key::new(hmac::HMAC_SHA256, &random)
});

fn signed(offset: Uuid, expires: u64) -> String {
    let tag = hmac::sign(&KEY, format!("{offset} {expires}").as_bytes());
    let mut text = String::new();
    for byte in tag.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What a call may read, and where the sandbox was called.
struct Reader {
    app: usize,
    portal: Option<String>,
    host: String,
    now: u64,
}

impl Reader {
    fn new(app: &AppState, access: &AppAccess, reach: Reach, pairs: &Pairs, headers: &HeaderMap) -> ApiResult<Self> {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost").to_owned();
        // Both kinds of journal take the parameter; without it the local one is as wide as the global one.
        let portal = match reach {
            Reach::Global | Reach::Local => pairs.get("installPortalId").map(str::to_owned),
        };
        Ok(Self { app: access.app(SCOPE)?, portal, host, now: app.now() })
    }

    fn show(&self, entry: &Entry) -> Value {
        let expires = self.now + FILE_MS;
        let url =
            format!("http://{}/journal-files/{1}?expires={expires}&signature={2}", self.host, entry.offset, signed(entry.offset, expires));
        json!({ "url": url, "expiresAt": iso(expires), "currentOffset": entry.offset.to_string() })
    }

    fn one(&self, app: &AppState, entry: Option<&Entry>) -> Response {
        match (entry, app.config().journal_end) {
            (Some(entry), _) => Json(self.show(entry)).into_response(),
            (None, JournalEnd::NoContent) => StatusCode::NO_CONTENT.into_response(),
            (None, JournalEnd::NotFound) => ApiError::not_found("There are no more journal entries").into_response(),
        }
    }

    fn many<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Response {
        let results: Vec<Value> = entries.map(|e| self.show(e)).collect();
        let at = iso(self.now);
        Json(json!({ "status": "COMPLETE", "results": results, "startedAt": at, "completedAt": at })).into_response()
    }
}

fn count(text: &str) -> ApiResult<usize> {
    let count = text.parse().unwrap_or(0);
    if (1..=BATCH_MAX).contains(&count) { Ok(count) } else { Err(ApiError::validation(format!("count must be between 1 and {BATCH_MAX}"))) }
}

fn offset(text: &str) -> ApiResult<Uuid> {
    text.parse().map_err(|_| ApiError::validation(format!("{text} is not an offset of this journal")))
}

type Caller = (State<AppState>, Extension<AppAccess>, Extension<Reach>, Pairs, HeaderMap);

fn reader((State(app), Extension(access), Extension(reach), pairs, headers): &Caller) -> ApiResult<Reader> {
    Reader::new(app, access, *reach, pairs, headers)
}

pub(super) async fn earliest(caller: Caller) -> ApiResult {
    let (reader, app) = (reader(&caller)?, &caller.0.0);
    let world = app.world();
    Ok(reader.one(app, world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).next()))
}

pub(super) async fn latest(caller: Caller) -> ApiResult {
    let (reader, app) = (reader(&caller)?, &caller.0.0);
    let world = app.world();
    Ok(reader.one(app, world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).next_back()))
}

/// The entry behind an offset. Offsets grow with time, so one that is no longer kept still says where to go on.
pub(super) async fn next(caller: Caller, Path(after): Path<String>) -> ApiResult {
    let (reader, app, after) = (reader(&caller)?, &caller.0.0, offset(&after)?);
    let world = app.world();
    let next = world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).find(|e| e.offset > after);
    Ok(reader.one(app, next))
}

pub(super) async fn batch_earliest(caller: Caller, Path(max): Path<String>) -> ApiResult {
    let (reader, app, max) = (reader(&caller)?, &caller.0.0, count(&max)?);
    let world = app.world();
    Ok(reader.many(world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).take(max)))
}

/// The last ones, oldest first.
pub(super) async fn batch_latest(caller: Caller, Path(max): Path<String>) -> ApiResult {
    let (reader, app, max) = (reader(&caller)?, &caller.0.0, count(&max)?);
    let world = app.world();
    let mut last: Vec<&Entry> = world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).rev().take(max).collect();
    last.reverse();
    Ok(reader.many(last.into_iter()))
}

pub(super) async fn batch_next(caller: Caller, Path((after, max)): Path<(String, String)>) -> ApiResult {
    let (reader, app, after, max) = (reader(&caller)?, &caller.0.0, offset(&after)?, count(&max)?);
    let world = app.world();
    Ok(reader.many(world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).filter(|e| e.offset > after).take(max)))
}

#[derive(Deserialize)]
pub(super) struct Offsets {
    inputs: Vec<String>,
}

pub(super) async fn batch_read(caller: Caller, Body(offsets): Body<Offsets>) -> ApiResult {
    let (reader, app) = (reader(&caller)?, &caller.0.0);
    crate::crm::batch::check_count(offsets.inputs.len(), BATCH_MAX)?;
    let world = app.world();
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for input in &offsets.inputs {
        let wanted = input.parse::<Uuid>().ok();
        let found = world.journals.entries(reader.app, reader.portal.as_deref(), reader.now).find(|e| Some(e.offset) == wanted);
        match found {
            Some(entry) => results.push(reader.show(entry)),
            None => errors.push(ApiError::not_found(format!("No journal entry {input}")).into_entry(json!({ "offsets": [input] }))),
        }
    }
    let at = iso(reader.now);
    let mut answer = json!({ "status": "COMPLETE", "results": results, "startedAt": at, "completedAt": at });
    if errors.is_empty() {
        return Ok(Json(answer).into_response());
    }
    answer["numErrors"] = errors.len().into();
    answer["errors"] = errors.into();
    Ok((StatusCode::MULTI_STATUS, Json(answer)).into_response())
}

/// The file behind an entry. Whoever has the address may read it until it expires: it is no call of HubSpot's API.
pub(super) async fn file(State(app): State<AppState>, Path(offset): Path<String>, pairs: Pairs) -> Response {
    let now = app.now();
    let parsed = offset.parse::<Uuid>().ok().zip(pairs.get("expires").and_then(|e| e.parse::<u64>().ok()));
    let denied = || (StatusCode::FORBIDDEN, format!("<Error><Code>AccessDenied</Code><RequestId>{}</RequestId></Error>", correlation_id()));
    let good = |(offset, expires): &(Uuid, u64)| pairs.get("signature") == Some(signed(*offset, *expires).as_str()) && now < *expires;
    let Some((offset, _)) = parsed.filter(good) else {
        return denied().into_response();
    };
    match app.world().journals.entry(offset, now) {
        Some(entry) => Json(entry.file()).into_response(),
        None => denied().into_response(),
    }
}
