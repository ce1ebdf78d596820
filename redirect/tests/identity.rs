//! Signed links end to end: the program makes them, a server that requires them takes them, and nobody else's.

mod common;

use clickline_redirect::{EidConfig, EidPolicy, KeySource, Keys};
use common::{LINKS, header, request, start_with};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn sign(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clickline-redirect"))
        .arg("sign")
        .args(arguments)
        .env("CLICKLINE_EID_KEYS", format!("k {SECRET}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may end before it has read: then there is nobody to write to.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn what_sign_makes_names_its_contact_and_only_on_its_link() {
    let one = sign(&["--workspace", "acme", "--link", "S.Elido.me/abc123", "--expires", "30d", "801"], "");
    assert!(one.status.success(), "{}", text(&one.stderr));
    let url = text(&one.stdout);
    let query = url.trim().strip_prefix("https://s.elido.me/abc123?").expect("the link");
    let list = sign(&["--workspace", "acme", "--whole-workspace", "--column", "Record ID"], "Name,Record ID\nAda,802\nBob,803\n");
    let csv = text(&list.stdout);
    let eids: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split_once(',').map(|(_, eid)| eid)).collect();
    assert_eq!((csv.lines().next(), eids.len()), (Some("contact_id,eid"), 2));

    let running = start_with(|config| {
        let keys = Keys::parse(&format!("k {SECRET}")).expect("keys");
        config.visitors.eid = EidConfig { keys: Some(KeySource::Given(keys)), default: EidPolicy::Require, ..EidConfig::default() };
    });
    let address = running.server.address();
    let expected = [
        (format!("/abc123?{query}&x=1"), Value::from("801")),
        (format!("/abc123?eid={}", eids[0]), Value::from("802")),
        // Another workspace's link, a plain id, and a changed one.
        (format!("http://go.other.example/docs/start?eid={}", eids[0]), Value::Null),
        ("/abc123?eid=801".to_owned(), Value::Null),
        (format!("/abc123?{}", query.replace(".801.", ".802.")), Value::Null),
    ];
    for (number, (target, contact)) in expected.iter().enumerate() {
        let (head, _) = request(address, "GET", target, common::SAFARI);
        let location = header(&head, "Location").expect("a redirect");
        assert!(!location.contains("eid") && !location.contains("s1."), "{location}");
        let clicks = running.memory.wait(number + 1);
        let click = &clicks[number];
        assert_eq!(click["contact_id"], *contact, "{target}");
        // What does not count leaves no trace in the record.
        assert!(!contact.is_null() || !["\"80", ".80", "s1."].iter().any(|trace| click.to_string().contains(trace)), "{click}");
    }
    let counts = running.server.eid_counts();
    assert_eq!(counts[..4], [("signed", 2), ("plain", 0), ("unsigned", 1), ("wrong", 2)]);
}

/// However a link with an international domain and slug is written, what `sign` makes for it names its contact there.
#[test]
fn an_international_link_is_signed_however_it_is_written() {
    let more = "- {domain: bücher.example, slug: häuser/größe, workspace: acme, destination: \"https://acme.example/b\"}\n";
    let running = start_with(|config| {
        std::fs::write(config.links_file.as_ref().expect("a file"), format!("{LINKS}{more}")).expect("written");
        let keys = Keys::parse(&format!("k {SECRET}")).expect("keys");
        config.visitors.eid = EidConfig { keys: Some(KeySource::Given(keys)), default: EidPolicy::Require, ..EidConfig::default() };
    });
    let written = [
        "bücher.example/häuser/größe",
        "https://BÜCHER.example./h%C3%A4user/größe/",
        "http://xn--bcher-kva.example/h%c3%a4user%2Fgr%C3%B6%C3%9Fe",
        "XN--BCHER-KVA.example/%68äuser/größe",
    ];
    for (number, link) in (1..).zip(written) {
        let made = sign(&["--workspace", "acme", "--link", link, "801"], "");
        assert!(made.status.success(), "{}", text(&made.stderr));
        let url = text(&made.stdout);
        let target = url.trim().replace("https://", "http://");
        assert!(target.starts_with("http://xn--bcher-kva.example/h%C3%A4user/gr%C3%B6%C3%9Fe?eid=s1.k."), "{target}");
        let (head, _) = request(running.server.address(), "GET", &target, common::SAFARI);
        assert_eq!(header(&head, "Location"), Some("https://acme.example/b"), "{link}: {head}");
        assert_eq!(running.memory.wait(number)[number - 1]["contact_id"], "801", "{link}");
    }
}

#[test]
fn what_cannot_be_signed_is_named_and_the_rest_is_made() {
    let list = sign(&["--workspace", "acme", "--link", "s.elido.me/abc123"], "801\nno good\n802\n");
    assert_eq!(list.status.code(), Some(2));
    assert!(text(&list.stderr).contains("line 2: contact id \"no good\""), "{}", text(&list.stderr));
    assert_eq!(text(&list.stdout).lines().count(), 3);
    for (arguments, part) in [
        (&["--workspace", "acme", "801"][..], "--link"),
        (&["--workspace", "acme", "--link", "nowhere", "801"], "domain/slug"),
        (&["--workspace", "acme", "--link", "s.elido.me:8080/abc123", "801"], "it has a port"),
        (&["--workspace", "acme", "--link", "s.elido.me/a%20b", "801"], "holds a space"),
        (&["--workspace", "acme", "--link", "d.example/a", "--expires", "soon", "801"], "30d"),
        (&["--workspace", "acme", "--whole-workspace", "--eid-keys", "/no/such/file", "801"], "cannot read the keys"),
    ] {
        let refused = sign(arguments, "");
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(text(&refused.stderr).contains(part), "{arguments:?}: {}", text(&refused.stderr));
        assert!(!text(&refused.stderr).contains(SECRET));
    }
}
