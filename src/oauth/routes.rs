//! `/oauth/install`, `/oauth/callback` and `/oauth/ready` of the job's HTTP server.
//!
//! A person opens `/oauth/install?workspace=acme`, is sent to HubSpot, chooses an account there, and comes back to `/oauth/callback`. Nothing that a
//! request brings is shown but HubSpot's error code, and no answer but the first redirect leads anywhere. The value that ties both visits to
//! one browser is in a cookie that scripts can't read and that is gone after ten minutes.

use super::features::Feature;
use super::install::{BeginError, Callback, FinishError, INSTALL_WITHIN, Installer};
use super::row::Row;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;

/// The path that HubSpot sends browsers back to.
pub const CALLBACK: &str = "/oauth/callback";

/// The path that answers [`TAKES_LOGINS`] and nothing else: by it `clickline hubspot login` tells a server with these routes from another one.
pub const READY: &str = "/oauth/ready";

/// What [`READY`] answers.
pub const TAKES_LOGINS: &str = "clickline takes logins here\n";

/// All routes.
pub fn routes(installer: Arc<Installer>) -> Router {
    let routes = Router::new().route("/oauth/install", get(install)).route(CALLBACK, get(callback));
    routes.route(READY, get(async || TAKES_LOGINS)).with_state(installer)
}

#[derive(Deserialize)]
struct Asked {
    workspace: Option<String>,
}

async fn install(
    State(installer): State<Arc<Installer>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Query(asked): Query<Asked>,
) -> Response {
    let from = peer.map(|Extension(ConnectInfo(peer))| peer.ip());
    match installer.begin(asked.workspace.as_deref(), from).await {
        Ok(begun) => {
            // Kept from a page on plain http by the browser itself where it is not localhost.
            let secure = if installer.redirect_uri().starts_with("https://") { "; Secure" } else { "" };
            let age = INSTALL_WITHIN.as_secs();
            let cookie = format!("{}={}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}", cookie_name(&begun.name), begun.browser);
            (StatusCode::SEE_OTHER, [(header::LOCATION, begun.address), (header::SET_COOKIE, cookie)]).into_response()
        }
        Err(error) => {
            let status = match error {
                BeginError::Workspace => StatusCode::NOT_FOUND,
                BeginError::TooMany => StatusCode::TOO_MANY_REQUESTS,
                BeginError::NoApp => StatusCode::CONFLICT,
                BeginError::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            if let BeginError::Failed(error) = &error {
                tracing::error!(event = "install_failed", "an installation could not begin: {error:#}");
                return page(status, "This did not work", "<p>The installation could not begin. The job's log says why.</p>", None);
            }
            page(status, "This did not work", &format!("<p>{}.</p>", escape(&error.to_string())), None)
        }
    }
}

async fn callback(State(installer): State<Arc<Installer>>, Query(callback): Query<Callback>, headers: HeaderMap) -> Response {
    let name = installer.name(&callback).map(|name| cookie_name(&name));
    let browser = name.as_ref().and_then(|name| cookie(&headers, name));
    let over = name.map(|name| format!("{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"));
    match installer.finish(&callback, browser.as_deref()).await {
        Ok(row) => page(StatusCode::OK, "Connected", &connected(&row, installer.gated(&row)), over),
        Err(error) => {
            let status = match &error {
                FinishError::BadState | FinishError::Denied(_) => StatusCode::BAD_REQUEST,
                FinishError::Install(_) => StatusCode::BAD_GATEWAY,
            };
            // The chain is for the log, which has it.
            page(status, "Not connected", &format!("<p>{}.</p>", escape(&error.to_string())), over)
        }
    }
}

fn cookie_name(name: &str) -> String {
    format!("clickline_install_{name}")
}

/// A cookie's value.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

/// What works now, and what does not.
fn connected(row: &Row, gated: Vec<(Feature, Vec<&'static str>)>) -> String {
    let workspace = row.facts.workspace.as_deref().unwrap_or_default();
    let mut text =
        format!("<p>HubSpot account <strong>{}</strong> is connected to <strong>{}</strong>.", escape(&row.portal), escape(workspace));
    if gated.is_empty() {
        text.push_str(" Everything that clickline does will work.</p>");
    } else {
        text.push_str("</p><p>What was granted is not enough to</p><ul>");
        for (feature, missing) in gated {
            text.push_str(&format!("<li>{feature}: <code>{}</code> is missing</li>", escape(&missing.join(" "))));
        }
        text.push_str("</ul><p>Add the scopes to the app, and install it again.</p>");
    }
    text + "<p>You can close this page.</p>"
}

/// Text as it may stand in HTML, also between quotes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn page(status: StatusCode, title: &str, body: &str, cookie: Option<String>) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}}\
         code{{overflow-wrap:anywhere}}</style><main><h1>{title}</h1>{body}</main></html>"
    );
    let policy: (HeaderName, &str) = (header::CONTENT_SECURITY_POLICY, POLICY);
    let mut answer = (status, [policy], Html(html)).into_response();
    if let Some(cookie) = cookie.and_then(|cookie| cookie.parse().ok()) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}
