//! OAuth: the consent page, tokens of every version, rotation, expiry, scopes, introspection, revocation, uninstall.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use clickline_sandbox::Rotation;
use common::{Answer, Bench, PORTAL};
use reqwest::Method;
use std::time::Duration;

fn token_error<'a>(answer: &'a Answer, status: &str) -> &'a serde_json::Value {
    let body = answer.error(400);
    assert_eq!(body["status"], status);
    body
}

#[tokio::test]
async fn a_person_lets_the_app_in() {
    let bench = Bench::start().await;
    let query = "client_id=clickline&redirect_uri=https%3A%2F%2Fjob.example%2Fcb%3Fx%3D1&scope=oauth%20timeline&optional_scope=forms%20nosuch&state=a%26b%22%3E";
    let page = bench.get(&format!("/oauth/authorize?{query}")).await;
    let html = page.ok(200).as_str().unwrap();
    assert!(html.contains("Account 4242") && html.contains("job.example") && html.contains("forms") && !html.contains("nosuch</code>"));
    assert!(html.contains("a&amp;b&quot;&gt;") && !html.contains("a&b\">"), "state is escaped");

    let fields = [
        ("client_id", "clickline"),
        ("redirect_uri", "https://job.example/cb?x=1"),
        ("scope", "oauth timeline"),
        ("optional_scope", "forms nosuch"),
        ("state", "a&b\">"),
        ("portal", PORTAL),
    ];
    let deny: Vec<_> = fields.into_iter().chain([("decision", "deny")]).collect();
    let denied = bench.send(bench.request(Method::POST, "/oauth/authorize").form(&deny)).await;
    assert!(denied.header("location").unwrap().starts_with("https://job.example/cb?x=1&error=access_denied"));

    let grant: Vec<_> = fields.into_iter().chain([("decision", "grant")]).collect();
    let granted = bench.send(bench.request(Method::POST, "/oauth/authorize").form(&grant)).await;
    assert_eq!(granted.status, 302);
    let back = url::Url::parse(granted.header("location").unwrap()).unwrap();
    let of = |name: &str| back.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
    assert_eq!((of("x"), of("state")), ("1".into(), "a&b\">".into()));

    let code = of("code");
    let exchange = [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", "https://job.example/cb?x=1")];
    let answer = bench.form("/oauth/2026-03/token", &exchange).await;
    let body = answer.ok(200);
    assert_eq!((&body["expires_in"], &body["token_type"], &body["token_use"]), (&1800.into(), &"bearer".into(), &"access_token".into()));
    assert_eq!((&body["hub_id"], &body["scopes"]), (&4242.into(), &serde_json::json!(["forms", "oauth", "timeline"])));
    token_error(&bench.form("/oauth/2026-03/token", &exchange).await, "BAD_AUTH_CODE");
}

#[tokio::test]
async fn a_code_challenge_is_kept_to() {
    let bench = Bench::start().await;
    // The pair of RFC 7636, appendix B.
    let (verifier, challenge) = ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let code = async |method: &str| {
        let fields = [
            ("client_id", "clickline"),
            ("redirect_uri", "https://job.example/cb"),
            ("scope", "oauth"),
            ("code_challenge", challenge),
            ("code_challenge_method", method),
            ("portal", PORTAL),
            ("decision", "grant"),
        ];
        let granted = bench.send(bench.request(Method::POST, "/oauth/authorize").form(&fields)).await;
        let back = url::Url::parse(granted.header("location")?).unwrap();
        back.query_pairs().find(|(name, _)| name == "code").map(|(_, code)| code.into_owned())
    };
    let exchange = async |code: &str, verifier: Option<&str>| {
        let mut fields = vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", "https://job.example/cb")];
        fields.extend(verifier.map(|v| ("code_verifier", v)));
        bench.form("/oauth/2026-03/token", &fields).await
    };
    exchange(&code("S256").await.unwrap(), Some(verifier)).await.ok(200);
    for wrong in [None, Some("another")] {
        let refused = exchange(&code("S256").await.unwrap(), wrong).await;
        assert_eq!(token_error(&refused, "BAD_CODE_VERIFIER")["error"], "invalid_grant");
    }
    assert_eq!(code("plain").await, None);
}

#[tokio::test]
async fn a_wrong_authorize_url_redirects_nowhere() {
    let bench = Bench::start_with(|config| config.required_scopes = vec!["oauth".into()]).await;
    let good = "redirect_uri=https://job.example/cb&scope=oauth";
    for query in [
        format!("client_id=nobody&{good}"),
        "client_id=clickline&scope=oauth".into(),
        "client_id=clickline&redirect_uri=https://127.0.0.1/cb&scope=oauth".into(),
        "client_id=clickline&redirect_uri=http://job.example/cb&scope=oauth".into(),
        "client_id=clickline&redirect_uri=https://job.example/cb&scope=oauth%20nosuch".into(),
        "client_id=clickline&redirect_uri=https://job.example/cb&scope=timeline".into(),
    ] {
        let answer = bench.get(&format!("/oauth/authorize?{query}")).await;
        assert_eq!((answer.status, answer.header("location")), (400, None), "{query}");
    }
    assert_eq!(bench.get(&format!("/oauth/authorize?client_id=clickline&{good}")).await.status, 200);
    assert_eq!(bench.get(&format!("/oauth/4242/authorize?client_id=clickline&{good}")).await.status, 200);
    assert_eq!(bench.get(&format!("/oauth/1/authorize?client_id=clickline&{good}")).await.status, 400);
}

#[tokio::test]
async fn refresh_works_at_every_version_and_errors_have_their_shape() {
    let bench = Bench::start().await;
    let refresh_token = bench.sandbox.refresh_token(PORTAL);
    for version in ["v1", "v3", "2026-03", "2026-09"] {
        let answer = bench.refresh(version, &refresh_token).await;
        assert_eq!(answer.ok(200)["refresh_token"], refresh_token.as_str(), "does not rotate by default");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let bad = bench.refresh(version, "na1-nothing").await;
        let body = token_error(&bad, "BAD_REFRESH_TOKEN");
        assert_eq!(body.get("error").and_then(|e| e.as_str()), (version != "v1").then_some("invalid_grant"), "{version}");
    }
    let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.as_str())];
    let wrong_secret: Vec<_> = fields.into_iter().chain([("client_secret", "wrong")]).collect();
    assert_eq!(token_error(&bench.form("/oauth/v3/token", &wrong_secret).await, "BAD_CLIENT_SECRET")["error"], "invalid_client");
    let unknown: Vec<_> = fields.into_iter().chain([("client_id", "nobody")]).collect();
    token_error(&bench.form("/oauth/v3/token", &unknown).await, "BAD_CLIENT_ID");
    token_error(&bench.form("/oauth/v3/token", &[("grant_type", "password")]).await, "BAD_GRANT_TYPE");
}

#[tokio::test]
async fn rotation_kills_the_old_token_at_once_or_after_its_grace() {
    let bench = Bench::start_with(|config| config.rotation = Rotation::Always).await;
    let first = bench.sandbox.refresh_token(PORTAL);
    let second = bench.refresh("v3", &first).await.ok(200)["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    token_error(&bench.refresh("v3", &first).await, "BAD_REFRESH_TOKEN");
    bench.refresh("v3", &second).await.ok(200);

    let bench = Bench::start_with(|config| config.rotation = Rotation::Grace(Duration::from_secs(60))).await;
    let first = bench.sandbox.refresh_token(PORTAL);
    bench.refresh("v3", &first).await.ok(200);
    bench.clock.advance(Duration::from_secs(59));
    bench.refresh("v3", &first).await.ok(200);
    bench.clock.advance(Duration::from_secs(1));
    token_error(&bench.refresh("v3", &first).await, "BAD_REFRESH_TOKEN");
}

#[tokio::test]
async fn access_tokens_expire_and_say_so() {
    let bench = Bench::start().await;
    bench.clock.advance(Duration::from_secs(1799));
    bench.get("/crm/v3/objects/contacts").await.ok(200);
    bench.clock.advance(Duration::from_secs(301));
    let answer = bench.get("/crm/v3/objects/contacts").await;
    let body = answer.error(401);
    assert_eq!(body["category"], "EXPIRED_AUTHENTICATION");
    assert_eq!(body["message"], "The OAuth token used to make this call expired 5 minute(s) ago.");
    let nobody = bench.send(bench.request(Method::GET, "/crm/v3/objects/contacts")).await;
    assert_eq!(nobody.error(401)["category"], "INVALID_AUTHENTICATION");
    let stranger = bench.send(bench.request(Method::GET, "/crm/v3/objects/contacts").bearer_auth("CPzx")).await;
    assert_eq!(stranger.error(401)["category"], "INVALID_AUTHENTICATION");
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let mut bench = Bench::start().await;
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &[]);
    bench.limit_to(&["crm.objects.contacts.write", "crm.objects.deals.read", "timeline"]).await;
    bench.get("/crm/v3/objects/deals/9001").await.ok(200);
    let answer = bench.patch("/crm/v3/objects/deals/9001", serde_json::json!({ "properties": { "dealstage": "qualifiedtobuy" } })).await;
    let body = answer.error(403);
    assert_eq!(body["category"], "MISSING_SCOPES");
    assert_eq!(body["errors"][0]["context"]["requiredGranularScopes"], serde_json::json!(["crm.objects.deals.write"]));
    for (path, scope) in [
        ("/crm/v3/objects/contacts/batch/read", "crm.objects.contacts.read"),
        ("/crm/v3/objects/contacts/search", "crm.objects.contacts.read"),
    ] {
        let answer = bench.post(path, serde_json::json!({ "inputs": [{ "id": "1" }] })).await;
        assert_eq!(answer.error(403)["errors"][0]["context"]["requiredGranularScopes"][0], scope, "{path}");
    }
    let group = serde_json::json!({ "name": "elido", "label": "Elido" });
    let answer = bench.post("/crm/v3/properties/contacts/groups", group).await;
    assert_eq!(answer.error(403)["errors"][0]["context"]["requiredGranularScopes"][0], "crm.schemas.contacts.write");
}

#[tokio::test]
async fn tokens_can_be_inspected_and_revoked() {
    let bench = Bench::start().await;
    let refresh_token = bench.sandbox.refresh_token(PORTAL);
    let access_token = bench.access_token(&refresh_token).await;
    bench.clock.advance(Duration::from_secs(46));
    let answer = bench.form("/oauth/2026-03/token/introspect", &[("token", &access_token)]).await;
    let body = answer.ok(200);
    assert_eq!((&body["active"], &body["expires_in"], &body["hub_id"]), (&true.into(), &1754.into(), &4242.into()));
    assert_eq!(body["signed_access_token"]["hublet"], "na1");
    let by_hint = [("token_type_hint", "refresh_token"), ("refresh_token", refresh_token.as_str())];
    assert_eq!(bench.form("/oauth/v3/token/introspect", &by_hint).await.ok(200)["token_use"], "refresh_token");
    assert_eq!(bench.form("/oauth/v3/token/introspect", &[("token", "x")]).await.body, serde_json::json!({ "active": false }));
    let info = bench.get(&format!("/oauth/v1/access-tokens/{access_token}")).await;
    assert_eq!((&info.ok(200)["token_type"], &info.body["app_id"]), (&"access".into(), &1_000_001.into()));
    let info = bench.get(&format!("/oauth/v1/refresh-tokens/{refresh_token}")).await;
    assert_eq!(info.ok(200)["client_id"], "clickline");

    assert_eq!(bench.form("/oauth/2026-09/token/revoke", &[("token", &refresh_token)]).await.status, 204);
    token_error(&bench.refresh("v3", &refresh_token).await, "BAD_REFRESH_TOKEN");
    let still = bench.send(bench.request(Method::GET, "/crm/v3/objects/contacts").bearer_auth(&access_token)).await;
    assert_eq!(still.status, 200, "revoking the refresh token leaves access tokens alone");
    assert!(bench.sandbox.requests().iter().all(|r| !r.path.contains(&refresh_token) && !r.path.contains(&access_token)));
}

#[tokio::test]
async fn uninstalling_kills_every_token_of_the_account() {
    let bench = Bench::start().await;
    let refresh_token = bench.sandbox.refresh_token(PORTAL);
    let elsewhere = bench.sandbox.refresh_token("77");
    assert_eq!(bench.get("/account-info/v3/details").await.ok(200)["portalId"], 4242);
    assert_eq!(bench.call(Method::DELETE, "/appinstalls/v3/external-install", None).await.status, 204);
    bench.get("/account-info/v3/details").await.error(401);
    token_error(&bench.refresh("v3", &refresh_token).await, "BAD_REFRESH_TOKEN");
    bench.refresh("v3", &elsewhere).await.ok(200);
}
