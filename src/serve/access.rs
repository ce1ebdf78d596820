//! Who may see the status page and what else is for the operator.
//!
//! # Meaning
//! Without a token only this machine may: the server must listen on a loopback address ([`super::Http::check`]), and a request must
//! name one as its host, so that no web page can reach it under a name of its own (DNS rebinding), and no proxy hands it on to the world. With a
//! token it must come with each request, as `Authorization: Bearer` or in the cookie that the login form sets.
//!
//! A request that changes something needs the page's own word for it in a header besides ([`Access::word`]): other sites can't read it.
//!
//! # Not
//! The cookie holds until the process ends; there is one token and no list of people.

use crate::sinks::hubspot::Secret;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use ring::hmac;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The name of the cookie that a login sets.
const COOKIE: &str = "clickline_session";
/// The header that carries [`Access::word`].
pub const WORD: &str = "x-clickline-word";
/// Where people log in.
pub const LOGIN: &str = "/login";

/// Who may see what is for the operator.
#[derive(Debug)]
pub struct Access {
    token: Option<Secret>,
    /// This process's alone: what is signed with it ends with the process.
    key: hmac::Key,
    secure: bool,
}

impl Access {
    /// With a token, or for this machine alone. `secure`: browsers come by https.
    pub fn new(token: Option<Secret>, secure: bool) -> Arc<Self> {
        let key: [u8; 32] = rand::random();
        Arc::new(Access { token, key: hmac::Key::new(hmac::HMAC_SHA256, &key), secure })
    }

    /// What the page puts into the header [`WORD`] of requests that change something.
    pub fn word(&self) -> String {
        self.signed("word")
    }

    /// Whether there is a token to log in with.
    pub fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// The cookie of a login with this token; none where it is the wrong one.
    pub fn login(&self, token: &str) -> Option<String> {
        let right = self.token.as_ref().is_some_and(|right| same(right.reveal(), token));
        let secure = if self.secure { "; Secure" } else { "" };
        right.then(|| format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict{secure}", self.signed("session")))
    }

    /// Whether a request may see what is for the operator.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return loopback(headers) };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let cookies =
            headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
        let session = self.signed("session");
        let mut sessions = cookies.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == COOKIE);
        bearer.is_some_and(|sent| same(token.reveal(), sent)) || sessions.any(|(_, sent)| same(&session, sent))
    }

    /// Whether a request that changes something comes from the page itself.
    pub fn means_it(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let origin = text("origin").and_then(|origin| origin.split_once("://"));
        let same_origin = match (text("origin"), origin, text("host")) {
            // Programs send none; they need the word all the same.
            (None, ..) => true,
            (_, Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
            _ => false,
        };
        same_origin && text(WORD).is_some_and(|sent| same(&self.word(), sent))
    }

    fn signed(&self, what: &str) -> String {
        hmac::sign(&self.key, what.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Lets through who may; for [`axum::middleware::from_fn_with_state`].
pub async fn operators_only(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if !access.allows(headers) {
        if !access.asks() {
            let why = "This is for this machine alone: ask for it as http://localhost, or set http.token_env.\n";
            return (StatusCode::FORBIDDEN, why).into_response();
        }
        let page = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/html"));
        if page && !changes {
            return Redirect::to(LOGIN).into_response();
        }
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "The token is missing or wrong.\n").into_response();
    }
    if changes && !access.means_it(headers) {
        return (StatusCode::FORBIDDEN, "This did not come from the status page as it is now: load it again.\n").into_response();
    }
    next.run(request).await
}

/// Compares without telling by its time how much is right.
fn same(right: &str, sent: &str) -> bool {
    right.as_bytes().ct_eq(sent.as_bytes()).into()
}

/// Whether a request names this machine, and no proxy says that it stands between.
fn loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let here = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    here && ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"].iter().all(|name| !headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn without_a_token_only_this_machine() {
        let access = Access::new(None, false);
        for good in ["localhost", "localhost:8090", "127.0.0.1:8090", "[::1]:8090", "127.9.9.9"] {
            assert!(access.allows(&headers(&[("host", good)])), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:8090", "127.0.0.1.evil.example", "10.0.0.1:8090", "", "[evil]:1"] {
            assert!(!access.allows(&headers(&[("host", bad)])), "{bad}");
        }
        assert!(!access.allows(&HeaderMap::new()));
        assert!(!access.allows(&headers(&[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")])), "handed on by a proxy");
        assert_eq!(access.login(""), None);
    }

    #[test]
    fn a_token_opens_by_header_and_by_cookie() {
        let access = Access::new(Some(Secret::new("a-token-of-16-or-more")), true);
        assert!(!access.allows(&headers(&[("host", "localhost")])));
        assert!(access.allows(&headers(&[("authorization", "Bearer a-token-of-16-or-more")])));
        for bad in ["Bearer a-token-of-16-or-mor", "Bearer ", "a-token-of-16-or-more", "Basic a-token-of-16-or-more"] {
            assert!(!access.allows(&headers(&[("authorization", bad)])), "{bad}");
        }
        assert_eq!(access.login("wrong"), None);
        let cookie = access.login("a-token-of-16-or-more").expect("is right");
        assert!(cookie.contains("HttpOnly; SameSite=Strict; Secure") && !cookie.contains("a-token"), "{cookie}");
        let sent = format!("other=1; {}", cookie.split(';').next().expect("a pair"));
        assert!(access.allows(&headers(&[("cookie", &sent)])));
        assert!(
            !Access::new(Some(Secret::new("a-token-of-16-or-more")), true).allows(&headers(&[("cookie", &sent)])),
            "of another process"
        );
    }

    #[test]
    fn changes_need_the_pages_word_and_origin() {
        let access = Access::new(None, false);
        let word = access.word();
        let means = |pairs: &[(&'static str, &str)]| access.means_it(&headers(pairs));
        assert!(means(&[("host", "localhost:1"), ("origin", "http://localhost:1"), (WORD, &word)]));
        assert!(means(&[("host", "localhost:1"), (WORD, &word)]));
        assert!(!means(&[("host", "localhost:1"), ("origin", "http://evil.example"), (WORD, &word)]));
        assert!(!means(&[("host", "localhost:1"), ("origin", "null"), (WORD, &word)]));
        assert!(!means(&[("host", "localhost:1"), ("origin", "http://localhost:1")]));
        assert!(!means(&[("host", "localhost:1"), (WORD, "0")]));
    }
}
