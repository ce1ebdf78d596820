use super::*;

fn link(text: &str) -> Result<Checked, String> {
    Checked::from_json(text.as_bytes())
}

fn with(field: &str, value: &str) -> Result<Checked, String> {
    let mut record = serde_json::json!({"domain":"d.example","slug":"a","workspace":"w","destination":"https://x.example"});
    record[field] = serde_json::from_str(value).expect("test value");
    Checked::from_value(&record)
}

#[test]
fn the_contracts_example_is_read() {
    let link = link(
        r#"{"v":1,"domain":"S.Elido.me.","slug":"abc123","workspace":"acme","destination":"https://acme.example/pricing.pdf",
            "title":"Q2 pricing PDF","tags":["sales-collateral","sales-collateral","","x"],"deal_id":9001,"new":true}"#,
    )
    .expect("a link");
    let view = link.view();
    assert_eq!((view.key, view.domain()), ("s.elido.me/abc123", "s.elido.me"));
    assert!(view.tags.iter().eq(["sales-collateral", "x"]));
    assert_eq!(view.deal_id, Some("9001"));
    assert!(view.served_at(0) && view.served_at(u64::MAX), "without an end it is served for ever");
}

#[test]
fn every_refusal_says_what_to_do() {
    for (field, value, part) in [
        ("domain", r#""https://d.example""#, "without scheme"),
        ("domain", r#""d.example:80""#, "without scheme"),
        ("domain", r#""d.example/a""#, "without scheme"),
        ("domain", r#""d%2eexample""#, "without scheme"),
        ("domain", r#""a@d.example""#, "without scheme"),
        ("domain", r#""d..example""#, "host name"),
        ("domain", r#""""#, "host name"),
        ("slug", r#""a b""#, "letters, digits"),
        ("slug", r#""/a""#, "without slashes"),
        ("slug", r#""healthz""#, "choose another"),
        ("slug", r#""readyz""#, "choose another"),
        ("slug", "7", "in quotes"),
        ("workspace", r#"" ""#, "fill it in"),
        ("title", r#""a\u0000""#, "control character"),
        ("expires", r#""2027-01-31""#, "with its zone"),
        ("expires", r#""soon""#, "with its zone"),
        ("expires", "true", "in quotes"),
        ("enabled", r#""no""#, "expected a boolean"),
        ("v", "2", "version 1"),
    ] {
        let message = with(field, value).expect_err("must be refused");
        assert!(message.contains(part), "{field} {value}: {message}");
    }
    assert!(link("{").expect_err("no JSON").contains("one object per line"));
    assert!(link("{}").expect_err("no fields").contains("a link needs"));
    assert!(link(r#"[1,"d.example","a","w","https://x.example",null,null,null,null,null]"#).is_err());
}

#[test]
fn destinations_that_could_mislead_are_refused() {
    for (destination, part) in [
        ("acme.example", "in full"),
        ("//acme.example/", "in full"),
        ("javascript:alert(1)", "only http"),
        ("data:text/html,x", "only http"),
        ("file:///etc/passwd", "only http"),
        ("ftp://x.example/", "only http"),
        ("https:x.example", "no host"),
        ("https:/x.example", "no host"),
        ("https:///x.example", "no host"),
        ("https://", "in full"),
        ("https://acme.example@evil.example/", "user name"),
        ("https://acme.example:pw@evil.example/", "user name"),
        ("https://@evil.example/", "user name"),
        ("https://acme.example\\@evil.example/", "backslash"),
        ("https://x.example/a\\b", "backslash"),
        ("https://x.example/a\r\nSet-Cookie: a=b", "control character"),
        ("https://x.example/\tb", "control character"),
        ("https://acme.example／evil.example/", "not a URL"),
        ("https://a b.example/", "not a URL"),
        ("https://x.example:99999/", "not a URL"),
    ] {
        let message = with("destination", &serde_json::json!(destination).to_string()).expect_err(destination);
        assert!(message.contains(part), "{destination}: {message}");
    }
    assert!(with("destination", r#""https://x.example/@a?b=@c""#).is_ok(), "an @ behind the host is harmless");
}

#[test]
fn international_names_are_compared_and_served_as_ascii() {
    for (domain, plain) in [
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example.", "xn--bcher-kva.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("a_b.example", "a_b.example"),
    ] {
        assert_eq!(plain_domain(domain).as_deref(), Some(plain), "{domain}");
    }
    let link = with("destination", r#""https://bücher.example/ü?q=ö#ß""#).expect("a link");
    assert_eq!(link.view().destination(), "https://bücher.example/ü?q=ö#ß");
    assert_eq!(link.view().target.location(""), "https://xn--bcher-kva.example/%C3%BC?q=%C3%B6#%C3%9F");
}

#[test]
fn a_link_ends_with_the_second_it_names() {
    for expires in [r#""2027-01-31T18:00:00Z""#, r#""2027-01-31T19:00:00+01:00""#, "1801418400000"] {
        let link = with("expires", expires).expect("a link");
        assert!(link.view().served_at(1_801_418_399_999) && !link.view().served_at(1_801_418_400_000), "{expires}");
    }
    assert!(!with("expires", "0").expect("a link").view().served_at(0), "one that ended long ago is not served");
    assert!(with("expires", "9999999999999999").expect("a link").view().served_at(u64::MAX));
    assert!(!with("enabled", "false").expect("a link").view().served_at(0));
    assert!(with("enabled", "true").expect("a link").view().served_at(0));
}
