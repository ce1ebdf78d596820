//! The short way of reading a click against the JSON parser, over records that were changed at random.
//!
//! Where the short way has an answer, the JSON parser must give the same one; where it has none, the JSON parser is asked,
//! and accepts or refuses as it always did. So it is enough to look at the answers.

use clickline::model::inputs::{Input as _, json_click};
use clickline::model::{Click, PackedClick, Utm, as_written};
use proptest::prelude::*;

/// Texts that JSON writes plainly, and such that it must escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[ -~]{0,24}",
        2 => "[a-zäöüß€日本𝄞/:?&=._-]{0,40}",
        1 => "[\"\\\\\u{0}-\u{1f}\u{7f}\u{2028}a-c]{0,6}",
        1 => "[a-z0-9-]{90,140}",
    ]
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(text())
}

fn utm() -> impl Strategy<Value = Utm> {
    (maybe(), maybe(), maybe(), maybe(), maybe()).prop_map(|(source, medium, campaign, term, content)| Utm {
        source,
        medium,
        campaign,
        term,
        content,
    })
}

fn click() -> impl Strategy<Value = Click> {
    let required = (text(), prop_oneof![0..=253_402_300_799_999u64, any::<u64>()], text(), text());
    let ids = (maybe(), maybe(), maybe(), maybe());
    let rest = (maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe());
    (required, maybe(), maybe(), proptest::collection::vec(text(), 0..4), ids, utm(), rest).prop_map(
        |((id, ts, workspace, link), title, destination, tags, (deal_id, contact_id, fbclid, gclid), utm, rest)| {
            let (referrer, user_agent, device, os, browser, country, bot) = rest;
            Click {
                v: 1,
                id,
                ts,
                workspace,
                link,
                title,
                destination,
                tags,
                deal_id,
                contact_id,
                fbclid,
                gclid,
                utm,
                referrer,
                user_agent,
                device,
                os,
                browser,
                country,
                bot,
            }
        },
    )
}

/// A change of a record's bytes; places are taken modulo its length.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Replace(&'static str, &'static str),
    Cut(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let place = || any::<prop::sample::Index>().prop_map(|at| at.index(1 << 16));
    let pieces: [&[u8]; 22] = [
        b" ",
        b"\n",
        b",",
        b"\"",
        b"\\",
        b"\\u0041",
        b"\\ud800",
        b"\x00",
        b"\x1f",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"0",
        b"-",
        b"e3",
        b".0",
        b"}",
        b"]",
        b"null",
        b"\"id\":\"again\",",
        b"\"new\":{\"a\":[1,{}]},",
        b"99999999999999999999",
    ];
    let replacements = [
        ("\"ts\":", "\"ts\":0"),
        ("\"ts\":", "\"ts\":-"),
        ("\"ts\":", "\"ts\": "),
        ("\"v\":1", "\"v\":1.0"),
        ("\"v\":1", "\"v\":2"),
        ("\"v\":1,", ""),
        ("null", "\"\""),
        ("null", "nul"),
        ("null", "true"),
        ("null", "0"),
        ("\"bot\":", "\"bot\":null,\"bot\":"),
        ("\"tags\":[", "\"tags\":[null,"),
        ("\"tags\":[", "\"tags\":[1,"),
        ("\"tags\":[", "\"tags\":[\"x\",]"),
        ("\"utm\":{", "\"utm\":{\"new\":1,"),
        ("\"title\"", "\"Title\""),
        ("}", "}}"),
        ("}", " }"),
        ("\"os\"", "\"o\\u0073\""),
    ];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place(), prop::sample::select(pieces.map(<[u8]>::to_vec).to_vec())).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (place(), 1..30usize).prop_map(|(at, n)| Change::Remove(at, n)),
        (place(), 1..60usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        prop::sample::select(replacements.to_vec()).prop_map(|(from, to)| Change::Replace(from, to)),
        place().prop_map(Change::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let len = bytes.len().max(1);
        match change {
            Change::Set(at, byte) if !bytes.is_empty() => bytes[at % len] = *byte,
            Change::Set(..) => {}
            Change::Insert(at, piece) => drop(bytes.splice(at % len..at % len, piece.iter().copied())),
            Change::Remove(at, n) => drop(bytes.drain(at % len..(at % len + n).min(bytes.len()))),
            Change::Repeat(at, n) => {
                let piece = bytes[at % len..(at % len + n).min(bytes.len())].to_vec();
                drop(bytes.splice(at % len..at % len, piece));
            }
            Change::Replace(from, to) => {
                if let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
                    drop(bytes.splice(at..at + from.len(), to.bytes()));
                }
            }
            Change::Cut(at) => bytes.truncate(at % len),
        }
    }
    bytes
}

/// Both ways over one record; whether the short one had an answer.
fn agree(bytes: &[u8]) -> bool {
    let (written, json) = (as_written::click(bytes).map(|click| click.owned()), json_click(bytes));
    let shown = String::from_utf8_lossy(bytes);
    match &written {
        Some(click) => assert_eq!(Ok(click), json.as_ref(), "{shown}"),
        None => assert!(Click::read(bytes).is_err() || json.is_ok(), "{shown}"),
    }
    // Whoever refuses first, the reason and the words are the JSON parser's.
    if let Err(refusal) = &json {
        assert_eq!(Click::read(bytes).as_ref(), Err(refusal), "{shown}");
    }
    // Packed it is the same record, or the same refusal.
    assert_eq!(PackedClick::read(bytes).map(|click| click.unpacked()), Click::read(bytes), "{shown}");
    written.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_it_reads_is_what_json_says(click in click(), changes in proptest::collection::vec(change(), 0..4)) {
        let bytes = serde_json::to_vec(&click).expect("JSON");
        agree(&changed(bytes, &changes));
    }

    /// Records without escapes, as they are written: all of them are read the short way, with their values.
    #[test]
    fn what_is_written_is_read(click in click()) {
        let bytes = serde_json::to_vec(&click).expect("JSON");
        let plain = !bytes.contains(&b'\\');
        prop_assert_eq!(agree(&bytes), plain);
        if plain {
            prop_assert_eq!(as_written::click(&bytes).map(|read| read.owned()), Some(click));
        }
    }
}

#[test]
fn every_single_byte_changed() {
    let click = Click {
        v: 1,
        id: "0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10".into(),
        ts: 1_763_800_000_123,
        workspace: "acme".into(),
        link: "s.elido.me/abc123".into(),
        title: Some("Q2 „pricing“ PDF".into()),
        tags: vec!["sales".into(), "x".into()],
        contact_id: Some("801".into()),
        ..Click::default()
    };
    let bytes = serde_json::to_vec(&click).expect("JSON");
    assert!(agree(&bytes));
    let mut read = 0;
    for at in 0..bytes.len() {
        for byte in 0..=255 {
            let mut other = bytes.clone();
            other[at] = byte;
            read += usize::from(agree(&other));
        }
        let mut shorter = bytes.clone();
        shorter.remove(at);
        read += usize::from(agree(&shorter));
    }
    assert!(read > 1_000, "{read}: the letters of a title may be any");
}
