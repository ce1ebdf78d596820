//! The app is installed with a browser.

use crate::world::*;
use clickline::oauth::{CALLBACK, Condition, Installer, routes};
use clickline::serve::{Bound, Server};
use clickline_sandbox::Config;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A browser that follows nothing by itself.
struct Browser {
    http: reqwest::Client,
    cookie: Option<String>,
}

/// Status, where it leads, and the page.
type Answer = (u16, Option<String>, String);

impl Browser {
    fn new() -> Browser {
        Browser { http: clickline::http::client(Duration::from_secs(5)).expect("a client"), cookie: None }
    }

    fn get(&mut self, address: &str) -> Answer {
        let mut call = self.http.get(address);
        if let Some(cookie) = &self.cookie {
            call = call.header("cookie", format!("other=1; {cookie}"));
        }
        block_on(async {
            let answer = call.send().await.expect("answers");
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let (status, location) = (answer.status().as_u16(), header("location"));
            if let Some(cookie) = header("set-cookie").filter(|cookie| !cookie.contains("Max-Age=0")) {
                assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
                self.cookie = cookie.split(';').next().map(str::to_owned);
            }
            (status, location, answer.text().await.expect("a page"))
        })
    }

    /// Decides on the sandbox's consent page; gives back where it leads.
    fn decide(&self, authorize: &str, portal: &str, decision: &str) -> String {
        let url = url::Url::parse(authorize).expect("an address");
        let mut form: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        form.extend([("portal", portal), ("decision", decision)].map(|(name, value)| (name.to_owned(), value.to_owned())));
        let to = url.join("/oauth/authorize").expect("an address");
        block_on(async {
            let answer = self.http.post(to).form(&form).send().await.expect("answers");
            answer.headers().get("location").expect("leads back").to_str().expect("text").to_owned()
        })
    }
}

#[test]
fn a_browser_installs_the_app_once_and_only_where_it_began() {
    for cluster in clusters() {
        let config = Config { portals: vec![PORTAL.to_owned(), "77".to_owned()], ..Config::default() };
        let mut world = World::new(config, cluster);
        world.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = None;
        let connections = Arc::new(world.open());
        let bound = Bound::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        let port = bound.address().port();
        let callback = format!("http://localhost:{port}{CALLBACK}");
        let workspaces = BTreeMap::from([("acme".to_owned(), vec![PORTAL.to_owned()]), ("empty".to_owned(), Vec::new())]);
        let installer =
            Installer::new(Arc::clone(&connections), &world.settings.connections, workspaces, callback.clone()).expect("is right");
        let server = Server::start(bound, routes(Arc::new(installer))).expect("starts");
        let at = |path: &str| format!("http://localhost:{port}{path}");
        let mut browser = Browser::new();

        for unknown in ["/oauth/install?workspace=other", "/oauth/install?workspace=empty", "/oauth/install?workspace=%3Cscript%3E"] {
            let (status, location, page) = browser.get(&at(unknown));
            assert!(status == 404 && location.is_none() && !page.contains("<script"), "{page}");
        }
        // What else a request asks for changes nothing about where it leads.
        let (status, location, _) =
            browser.get(&at("/oauth/install?workspace=acme&redirect_uri=https://evil.example&state=mine&next=//evil"));
        let authorize = location.expect("leads to HubSpot");
        assert_eq!(status, 303);
        assert!(
            authorize.starts_with(&format!("{}/oauth/{PORTAL}/authorize?", world.sandbox.url())) && !authorize.contains("evil"),
            "{authorize}"
        );
        assert!(authorize.contains("optional_scope=forms"), "{authorize}");

        // Somebody else's browser is led to the same callback.
        let back = browser.decide(&authorize, PORTAL, "grant");
        assert!(back.starts_with(&callback), "the exact redirect URI");
        let (status, _, page) = Browser::new().get(&back);
        assert!(status == 400 && page.contains("another browser"), "{page}");
        // That used the state up.
        assert_eq!(browser.get(&back).0, 400);
        assert_eq!((world.token_calls(), connections.status().expect("reads")[0].installed), (0, false));

        let begin = |browser: &mut Browser| browser.get(&at("/oauth/install?workspace=acme")).1.expect("leads to HubSpot");
        let authorize = begin(&mut browser);
        let denied = browser.decide(&authorize, PORTAL, "deny");
        let (status, _, page) = browser.get(&denied);
        assert!(status == 400 && page.contains("access_denied"), "{page}");

        let authorize = begin(&mut browser);
        let foreign = browser.decide(&authorize, "77", "grant");
        let (status, _, page) = browser.get(&foreign);
        assert!(status == 502 && page.contains("77") && page.contains("not among the portals"), "{page}");

        let authorize = begin(&mut browser);
        let back = browser.decide(&authorize, PORTAL, "grant");
        let (status, location, page) = browser.get(&back);
        assert!(status == 200 && location.is_none() && page.contains("Connected") && page.contains("acme"), "{page}");
        let facts = facts(&connections);
        assert_eq!((facts.workspace.as_deref(), &facts.condition), (Some("acme"), &Condition::Connected));
        assert!(facts.scopes.contains(&"forms".to_owned()) && facts.scopes.contains(&"crm.objects.deals.write".to_owned()));
        let token = access(&connections).expect("a token").token;
        assert!(!page.contains(token.reveal()) && !page.contains("http"), "no token and nothing from outside: {page}");
        assert_eq!(browser.get(&back).0, 400, "the state counts once");

        for odd in ["?code=x", "?state=", "?state=x&code=y", "?error=%3Cb%3E&state=x", ""] {
            let (status, location, page) = browser.get(&at(&format!("{CALLBACK}{odd}")));
            assert!(status == 400 && location.is_none() && !page.contains("<b>"), "{odd}: {page}");
        }

        // Whoever asks for ever fills no table.
        let refused = (0..61).map(|_| browser.get(&at("/oauth/install?workspace=acme")).0).filter(|status| *status == 429).count();
        assert!((1..61).contains(&refused), "{refused}");
        server.stop();
    }
}
