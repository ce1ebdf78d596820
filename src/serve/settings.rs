//! The `http` block of the configuration.

use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use url::{Host, Url};

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
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)), public_url: None }
    }
}

impl Http {
    /// Checks what serde can't. Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&self) -> anyhow::Result<()> {
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
