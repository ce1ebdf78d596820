//! The `http` block of the configuration.

use crate::sinks::hubspot::Secret;
use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use url::{Host, Url};

/// Least length of a token: shorter ones can be guessed.
const TOKEN_MIN: usize = 16;

/// Where the job's HTTP server listens, and how the world reaches it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address and port. Only this machine reaches the default; a proxy that speaks TLS stands in front of anything else. The default is
    /// not the redirect server's, so that both run on one machine as they come.
    pub listen: SocketAddr,
    /// How browsers and HubSpot reach the server: `https://` and a name, or `http://localhost:PORT`. HubSpot sends people back to
    /// this address with `/oauth/callback` after it, letter by letter as the app's settings list it. Default:
    /// `http://localhost:` and the port of `listen`.
    pub public_url: Option<String>,
    /// Environment variable with the token, of 16 characters or more, that opens the status page, `/status` and `/metrics`. Needed where `listen` is not
    /// this machine alone; without it they are for requests from this machine.
    pub token_env: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)), public_url: None, token_env: None }
    }
}

impl Http {
    /// Checks what serde can't. Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        if !self.listen.ip().is_loopback() && self.token_env.is_none() {
            bail!(
                "http.listen: {} is open to other machines, so the status page needs a token: set http.token_env to the name of an environment \
                 variable that holds one (`openssl rand -hex 32`), or listen on 127.0.0.1 behind a proxy",
                self.listen
            );
        }
        let Some(text) = &self.public_url else { return Ok(()) };
        let url =
            Url::parse(text).with_context(|| format!("http.public_url: {text:?} is no URL; write `https://clickline.example.com`"))?;
        match (url.scheme(), url.host()) {
            ("https", Some(Host::Domain(_))) | ("http", Some(Host::Domain("localhost"))) => {}
            _ => bail!("http.public_url: {text:?} must be https with a name, or http://localhost: HubSpot sends nobody elsewhere"),
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            bail!("http.public_url: {text:?} must be scheme, name, port and path, and nothing else");
        }
        Ok(())
    }

    /// The token, where there is one.
    ///
    /// # Errors
    /// The variable is not set, or what it holds is too short.
    pub fn token(&self) -> anyhow::Result<Option<Secret>> {
        let Some(name) = &self.token_env else { return Ok(None) };
        let token = std::env::var(name).ok().map(|token| token.trim().to_owned()).filter(|token| token.len() >= TOKEN_MIN);
        match token {
            Some(token) => Ok(Some(Secret::new(token))),
            None => bail!(
                "http.token_env: the environment variable {name} must hold a token of at least {TOKEN_MIN} characters (`openssl rand -hex 32`)"
            ),
        }
    }

    /// Whether browsers come by https.
    pub fn secure(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.starts_with("https://"))
    }

    /// The public address of `path`, which begins with a slash. `port` is the one listened on, for the default.
    pub fn address(&self, port: u16, path: &str) -> String {
        match &self.public_url {
            Some(url) => format!("{}{path}", url.trim_end_matches('/')),
            None => format!("http://localhost:{port}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_reach_needs_a_token() {
        let open = Http { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8090)), ..Http::default() };
        let error = open.check().expect_err("no token").to_string();
        assert!(error.contains("http.token_env") && error.contains("127.0.0.1"), "{error}");
        let named = Http { token_env: Some("CLICKLINE_NO_SUCH_VARIABLE".to_owned()), ..open };
        named.check().expect("checked without looking at the environment");
        assert!(named.token().expect_err("not set").to_string().contains("CLICKLINE_NO_SUCH_VARIABLE"));
        // Whatever runs the tests has a path of some length.
        let held = Http { token_env: Some("PATH".to_owned()), ..Http::default() };
        assert!(held.token().expect("long enough").is_some());
        assert!(Http::default().token().expect("none").is_none());
    }

    #[test]
    fn only_addresses_that_hubspot_takes() {
        let of = |url: &str| Http { public_url: Some(url.to_owned()), ..Http::default() };
        for good in ["https://clickline.example.com", "https://example.com/clickline/", "http://localhost:9000"] {
            of(good).check().expect(good);
        }
        for bad in [
            "clickline.example.com",
            "http://example.com",
            "https://10.0.0.1",
            "https://a.example?x=1",
            "https://u:p@a.example",
            "ftp://localhost",
        ] {
            assert!(of(bad).check().is_err(), "{bad}");
        }
        assert_eq!(of("https://example.com/clickline/").address(1, "/oauth/callback"), "https://example.com/clickline/oauth/callback");
        assert_eq!(Http::default().address(8090, "/x"), "http://localhost:8090/x");
        assert_eq!(Http::default().listen.to_string(), "127.0.0.1:8090", "the redirect server has 8080");
    }
}
