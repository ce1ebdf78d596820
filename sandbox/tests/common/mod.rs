//! What the sandbox's tests share: a sandbox with its clock in the test's hand, and a client that speaks JSON.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use clickline_sandbox::{Clock, Config, ManualClock, Sandbox};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// The portal of all tests.
pub const PORTAL: &str = "4242";
/// 2026-11-23T08:15:30.123Z
pub const START_MS: u64 = 1_795_421_730_123;

/// A sandbox, its clock, and a client.
pub struct Bench {
    pub sandbox: Sandbox,
    pub clock: ManualClock,
    client: reqwest::Client,
    pub token: String,
}

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body of an error, after checking what every one of them has.
    pub fn error(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.body["correlationId"].as_str().is_some_and(|id| id.len() == 36), "{}", self.body);
        assert!(self.body["message"].is_string(), "{}", self.body);
        &self.body
    }

    /// The body of a success.
    pub fn ok(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{}", self.body);
        &self.body
    }
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A sandbox with a changed configuration; the client has a token with every scope.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        // An error means that another test of this process was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (clock, hand) = Clock::manual(START_MS);
        let mut config = Config { clock, ..Config::default() };
        change(&mut config);
        let sandbox = Sandbox::start(config).unwrap();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut bench = Self { sandbox, clock: hand, client, token: String::new() };
        let refresh_token = bench.sandbox.refresh_token(PORTAL);
        bench.token = bench.access_token(&refresh_token).await;
        bench
    }

    /// Uses a token with these scopes from now on.
    pub async fn limit_to(&mut self, scopes: &[&str]) {
        let refresh_token = self.sandbox.refresh_token_for(PORTAL, "clickline", scopes);
        self.token = self.access_token(&refresh_token).await;
    }

    pub async fn access_token(&self, refresh_token: &str) -> String {
        let answer = self.refresh("v3", refresh_token).await;
        answer.ok(200)["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn refresh(&self, version: &str, refresh_token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        self.form(&format!("/oauth/{version}/token"), &fields).await
    }

    /// Posts a form with the app's credentials.
    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("client_id", "clickline"), ("client_secret", "sandbox-secret")];
        all.retain(|(name, _)| !fields.iter().any(|(n, _)| n == name));
        all.extend(fields);
        self.send(self.request(Method::POST, path).form(&all)).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.sandbox.url()))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        Self::read(request.send().await.unwrap()).await
    }

    async fn read(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    /// A call with another token than the bench's.
    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path).bearer_auth(token);
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// A call that may fail on the way: what went wrong, in words.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        let response = self.request(Method::POST, path).bearer_auth(&self.token).json(body).send().await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await.map_err(|e| e.to_string())?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, headers, body })
    }

    /// An app's own token, for the journal.
    pub async fn app_token(&self) -> String {
        let scope = "developer.webhooks_journal.read developer.webhooks_journal.subscriptions.read \
                     developer.webhooks_journal.subscriptions.write developer.webhooks_journal.snapshots.read \
                     developer.webhooks_journal.snapshots.write crm.objects.contacts.read crm.objects.deals.read";
        let answer = self.form("/oauth/2026-03/token", &[("grant_type", "client_credentials"), ("scope", scope)]).await;
        assert_eq!(answer.ok(200).get("refresh_token"), None);
        answer.body["access_token"].as_str().unwrap().to_owned()
    }

    /// A call with the access token.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path).bearer_auth(&self.token);
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    #[allow(clippy::needless_pass_by_value, reason = "json!() at every call")]
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&body)).await
    }

    #[allow(clippy::needless_pass_by_value, reason = "json!() at every call")]
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, Some(&body)).await
    }

    /// Makes the event template that the timeline tests use; gives back its id.
    pub async fn template(&self) -> String {
        let token = |name: &str, data_type: &str| json!({ "name": name, "label": name, "type": data_type, "options": [] });
        let device =
            json!({ "name": "device", "label": "Device", "type": "enumeration", "options": [{ "value": "mobile", "label": "Mobile" }] });
        let template = json!({
            "name": "Short link click", "objectType": "contacts", "headerTemplate": "Clicked: {{title}} ({{link}})",
            "detailTemplate": "{{#if extraData.utm}}Source: {{extraData.utm.source}}{{/if}} {{#formatDate timestamp}}{{/formatDate}}{{nosuch}}",
            "tokens": [token("title", "string"), token("link", "string"), token("clicks", "number"), device],
        });
        let path = "/integrators/timeline/v3/1000001/event-templates?hapikey=sandbox-developer-key";
        self.post(path, template).await.ok(201)["id"].as_str().unwrap().to_owned()
    }
}
