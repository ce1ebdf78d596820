//! `/oauth/authorize`: the page where a person lets an app into a portal.
//!
//! A request that is wrong in itself (unknown app, bad redirect URI, unknown or missing scopes) shows an error page and redirects
//! nowhere, as HubSpot does. Optional scopes that are unknown are dropped.

use super::{Grant, SCOPES};
use crate::http::{AppState, Pairs};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use std::collections::BTreeSet;
use std::sync::Arc;
use url::{Host, Url};

/// The authorize routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new().route("/oauth/authorize", get(show).post(decide)).route("/oauth/{portal}/authorize", get(show_for_portal))
}

/// A checked authorize request.
struct Request {
    app: usize,
    redirect_uri: Url,
    /// As the caller wrote it: the exchange compares it letter by letter.
    redirect_text: String,
    scopes: BTreeSet<String>,
    state: Option<String>,
    /// Of PKCE, S256. HubSpot's documents name the verifier only; here a challenge is kept to.
    challenge: Option<String>,
}

/// Text as it may stand in HTML, also between quotes.
fn escape(text: &str) -> String {
    handlebars::html_escape(text)
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}}\
         button{{font:inherit;padding:.5rem 1rem;margin-right:.5rem}}code{{overflow-wrap:anywhere}}</style>\
         <main><h1>{title}</h1>{body}</main></html>"
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    (status, [(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}

fn refuse(reason: &str) -> Response {
    page(StatusCode::BAD_REQUEST, "Couldn't connect", &format!("<p>{}</p>", escape(reason)))
}

/// https with a domain, or http(s) for localhost; no IP address, no fragment.
fn check_redirect(text: &str, allowed: &[String]) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("The redirect URI can't be read: {e}."))?;
    let Some(Host::Domain(domain)) = url.host() else {
        return Err("The redirect URI needs a domain; IP addresses are not allowed.".into());
    };
    match url.scheme() {
        "https" => {}
        "http" if domain == "localhost" => {}
        _ => return Err("The redirect URI must use https (http only for localhost).".into()),
    }
    if !allowed.is_empty() && !allowed.iter().any(|uri| uri == text) {
        return Err("The redirect URI is none of those in the app's settings.".into());
    }
    Ok(url)
}

impl Request {
    fn read(app: &AppState, pairs: &Pairs) -> Result<Self, String> {
        let config = app.config();
        let client = pairs.get("client_id").unwrap_or_default();
        let index = config.apps.iter().position(|a| a.client_id == client).ok_or("The client ID belongs to no app.")?;
        let redirect_text = pairs.get("redirect_uri").ok_or("The redirect URI is missing.")?.to_owned();
        let redirect_uri = check_redirect(&redirect_text, &config.redirect_uris)?;
        let mut scopes: BTreeSet<String> = pairs.get("scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if let Some(unknown) = scopes.iter().find(|s| !SCOPES.contains(&s.as_str())) {
            return Err(format!("The scope {unknown} does not exist."));
        }
        if scopes.is_empty() {
            return Err("The authorize URL asks for no scope.".into());
        }
        if let Some(missing) = config.required_scopes.iter().find(|s| !scopes.contains(*s)) {
            return Err(format!("The app's settings require the scope {missing}, and the authorize URL does not ask for it."));
        }
        let challenge = pairs.get("code_challenge").map(str::to_owned);
        if challenge.is_some() && pairs.get("code_challenge_method") != Some("S256") {
            return Err("The code challenge needs the method S256.".into());
        }
        let optional = pairs.get("optional_scope").unwrap_or_default().split_whitespace();
        scopes.extend(optional.filter(|s| SCOPES.contains(s)).map(str::to_owned));
        Ok(Self { app: index, redirect_uri, redirect_text, scopes, state: pairs.get("state").map(str::to_owned), challenge })
    }

    fn back(&self, pairs: &[(&str, &str)]) -> Response {
        let mut url = self.redirect_uri.clone();
        url.query_pairs_mut().extend_pairs(pairs);
        if let Some(state) = &self.state {
            url.query_pairs_mut().append_pair("state", state);
        }
        (StatusCode::FOUND, [(header::LOCATION, url.as_str())]).into_response()
    }
}

async fn show(State(app): State<AppState>, pairs: Pairs) -> Response {
    consent(&app, &pairs, None)
}

async fn show_for_portal(State(app): State<AppState>, Path(portal): Path<String>, pairs: Pairs) -> Response {
    consent(&app, &pairs, Some(&portal))
}

fn consent(app: &AppState, pairs: &Pairs, chosen: Option<&str>) -> Response {
    let request = match Request::read(app, pairs) {
        Ok(request) => request,
        Err(reason) => return refuse(&reason),
    };
    let portals = app.world().portal_ids();
    if let Some(chosen) = chosen.filter(|c| !portals.iter().any(|p| p == c)) {
        return refuse(&format!("There is no account {chosen}."));
    }
    let chosen = chosen.or(portals.first().map(String::as_str));
    let choices: String = portals
        .iter()
        .map(|id| {
            let checked = if Some(id.as_str()) == chosen { " checked" } else { "" };
            format!("<p><label><input type=\"radio\" name=\"portal\" value=\"{0}\"{checked} required> Account {0}</label></p>", escape(id))
        })
        .collect();
    let scopes: String = request.scopes.iter().map(|s| format!("<li><code>{}</code></li>", escape(s))).collect();
    let names = ["client_id", "redirect_uri", "scope", "optional_scope", "state", "code_challenge", "code_challenge_method"];
    let hidden: String = names
        .iter()
        .filter_map(|name| Some((name, pairs.get(name)?)))
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value)))
        .collect();
    let client = escape(&app.config().apps[request.app].client_id);
    let host = escape(request.redirect_uri.host_str().unwrap_or_default());
    let body = format!(
        "<p>The app <strong>{client}</strong> asks for access. You will be taken to <strong>{host}</strong>.</p><p>It may then use:</p>\
         <ul>{scopes}</ul><form method=\"post\" action=\"/oauth/authorize\"><fieldset><legend>Which account?</legend>{choices}</fieldset>{hidden}\
         <p><button name=\"decision\" value=\"grant\">Connect app</button><button name=\"decision\" value=\"deny\">Cancel</button></p></form>"
    );
    page(StatusCode::OK, "Connect an app", &body)
}

async fn decide(State(app): State<AppState>, body: Bytes) -> Response {
    let pairs = Pairs::parse(std::str::from_utf8(&body).ok());
    let request = match Request::read(&app, &pairs) {
        Ok(request) => request,
        Err(reason) => return refuse(&reason),
    };
    if pairs.get("decision") != Some("grant") {
        return request.back(&[("error", "access_denied"), ("error_description", "The user denied the app access.")]);
    }
    let portal = pairs.get("portal").unwrap_or_default().to_owned();
    let now = app.now();
    let mut world = app.world();
    if world.existing(&portal).is_none() {
        return refuse("Choose one of the accounts.");
    }
    let grant = Grant { app: request.app, portal, scopes: Arc::new(request.scopes.clone()) };
    let code = world.oauth.new_code(grant, &request.redirect_text, request.challenge.as_deref(), now);
    request.back(&[("code", &code)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_uris_are_held_to_the_rules() {
        for good in ["https://job.example/cb", "http://localhost:8080/cb", "https://localhost/cb?x=1"] {
            assert!(check_redirect(good, &[]).is_ok(), "{good}");
        }
        for bad in ["http://job.example/cb", "https://127.0.0.1/cb", "http://[::1]/cb", "javascript:alert(1)", "/cb", "ftp://localhost/"] {
            assert!(check_redirect(bad, &[]).is_err(), "{bad}");
        }
        assert!(check_redirect("https://job.example/cb", &["https://other.example/cb".into()]).is_err());
    }
}
