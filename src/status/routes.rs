//! `/`, `/status`, `/dead-letters` and `/login` for the operator; `/healthz` is the server's, `/readyz` is open to all.

use super::letters::{Decide, Letters};
use super::{Collect, Status};
use crate::serve::access::{Access, LOGIN, operators_only};
use crate::stop::Stop;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// What a page may load and ask for: its own files and its own server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
/// For how long a status is as good as a new one.
const FRESH_FOR: Duration = Duration::from_millis(500);

struct Page {
    collect: Collect,
    letters: Letters,
    access: Arc<Access>,
    last: Mutex<Option<(Instant, Arc<Status>)>>,
    /// One look at the dead letters at a time.
    busy: Mutex<()>,
}

/// Everything but `/metrics`; `access` says who may see what is for the operator.
pub fn routes(collect: Collect, letters: Letters, access: Arc<Access>) -> Router {
    let page = Arc::new(Page { collect, letters, access, last: Mutex::default(), busy: Mutex::default() });
    let guarded = Router::new()
        .route("/", get(index))
        .route("/status", get(status))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/decide", post(decide))
        .layer(from_fn_with_state(Arc::clone(&page.access), operators_only));
    let open = Router::new().route("/page.css", get(css)).route("/page.js", get(js)).route(LOGIN, get(login).post(log_in));
    guarded.merge(open).with_state(page)
}

/// `/readyz`: 200 while outputs are new, 503 while the job catches up and from the moment it is asked to stop.
pub fn health(collect: Collect) -> Router {
    let ready = async move || {
        let asked = collect.stop.asked();
        match (asked, collect.look.ready()) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "catching up\n"),
            (false, true) => (StatusCode::OK, "ready\n"),
        }
    };
    Router::new().route("/readyz", get(ready))
}

/// These routes, until the job is asked to stop: what is sent to them then would not be taken up any more, and its sender is to try again.
pub fn until_stopped(routes: Router, stop: Stop) -> Router {
    routes.layer(from_fn(move |request: Request, next: Next| {
        let stopping = stop.asked();
        async move {
            if stopping {
                (StatusCode::SERVICE_UNAVAILABLE, "The job is stopping; try again.\n").into_response()
            } else {
                next.run(request).await
            }
        }
    }))
}

async fn index(State(page): State<Arc<Page>>) -> Response {
    html(include_str!("page/index.html").replace("{word}", &page.access.word()))
}

async fn css() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("page/page.css"))
}

async fn js() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page/page.js"))
}

async fn login(State(page): State<Arc<Page>>) -> Response {
    if page.access.asks() { login_page(StatusCode::OK, "") } else { Redirect::to("/").into_response() }
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn log_in(State(page): State<Arc<Page>>, Form(login): Form<Login>) -> Response {
    match page.access.login(login.token.trim()) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        None => login_page(StatusCode::UNAUTHORIZED, "This token is not the right one."),
    }
}

fn login_page(status: StatusCode, problem: &str) -> Response {
    (status, html(include_str!("page/login.html").replace("{problem}", problem))).into_response()
}

fn html(text: String) -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(text)).into_response()
}

async fn status(State(page): State<Arc<Page>>) -> Response {
    // Held while it is collected: however many ask, one collects.
    let mut last = page.last.lock().await;
    if let Some((at, status)) = &*last
        && at.elapsed() < FRESH_FOR
    {
        return Json(Arc::clone(status)).into_response();
    }
    let collect = page.collect.clone();
    match spawn_blocking(move || collect.all()).await {
        Ok(status) => {
            let status = Arc::new(status);
            *last = Some((Instant::now(), Arc::clone(&status)));
            Json(status).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn dead_letters(State(page): State<Arc<Page>>) -> Response {
    let _one = page.busy.lock().await;
    let letters = page.letters.clone();
    match spawn_blocking(move || letters.open()).await {
        Ok(Ok((letters, open))) => Json(json!({ "open": open, "letters": letters })).into_response(),
        Ok(Err(error)) => failed(StatusCode::SERVICE_UNAVAILABLE, &error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
struct Wish {
    id: String,
    decision: Decide,
}

async fn decide(State(page): State<Arc<Page>>, Json(wish): Json<Wish>) -> Response {
    let id = match wish.id.parse() {
        Ok(id) => id,
        Err(why) => return (StatusCode::BAD_REQUEST, Json(json!({ "problem": why }))).into_response(),
    };
    let _one = page.busy.lock().await;
    let letters = page.letters.clone();
    match spawn_blocking(move || letters.decide(id, wish.decision)).await {
        Ok(Ok(said)) => Json(json!({ "said": said })).into_response(),
        Ok(Err(error)) => failed(StatusCode::CONFLICT, &error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn failed(status: StatusCode, error: &anyhow::Error) -> Response {
    tracing::warn!(event = "dead_letter_decision_failed", "the status page's wish failed: {error:#}");
    (status, Json(json!({ "problem": format!("{error:#}") }))).into_response()
}
