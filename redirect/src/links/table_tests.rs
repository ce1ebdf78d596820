use super::*;
use proptest::prelude::*;

fn link(domain: &str, slug: &str, destination: &str) -> Checked {
    of("w", domain, slug, destination)
}

fn of(workspace: &str, domain: &str, slug: &str, destination: &str) -> Checked {
    Checked::from_value(&serde_json::json!({"domain": domain, "slug": slug, "workspace": workspace, "destination": destination}))
        .expect("a link")
}

#[test]
fn the_topic_wins_and_its_tombstone_shows_the_file_again() {
    let live = Live::default();
    let mut file = Layer::default();
    file.insert(&link("d.example", "a", "https://file.example/"), 1);
    live.set_file(file);
    let mut topic = Layer::default();
    topic.insert(&link("d.example", "a", "https://topic.example/"), 0);
    live.set_topic(topic.clone());
    let destination = |live: &Live| live.table().get(hash("d.example/a"), "d.example/a", None).map(|link| link.destination().to_owned());
    assert_eq!(destination(&live).as_deref(), Some("https://topic.example/"));
    topic.remove("d.example/a");
    live.set_topic(topic);
    assert_eq!(destination(&live).as_deref(), Some("https://file.example/"));
    live.set_file(Layer::default());
    assert_eq!(destination(&live), None);
}

#[test]
fn a_domain_is_known_while_it_has_a_link() {
    let mut layer = Layer::default();
    layer.insert(&link("d.example", "a", "https://x.example/"), 1);
    layer.insert(&link("d.example", "a", "https://y.example/"), 2);
    assert_eq!((layer.len(), layer.line("d.example/a")), (1, Some(2)));
    layer.insert(&link("d.example", "b", "https://x.example/"), 3);
    assert_eq!(layer.len(), 2);
    layer.remove("d.example/a");
    layer.remove("d.example/a");
    layer.remove("d.example/none");
    let table = Table { file: Arc::new(layer.clone()), topic: Arc::default() };
    assert_eq!(table.owner("d.example", &[]), Owner::Any);
    layer.remove("d.example/b");
    let table = Table { file: Arc::new(layer), topic: Arc::default() };
    assert_eq!(table.owner("d.example", &[]), Owner::Nobody);
}

/// A look ahead finds the entry of each link that is there, whatever was replaced and removed, and stumbles over none that isn't.
#[test]
fn a_look_ahead_looks_at_what_will_be_read() {
    let mut layer = Layer::default();
    let key = |slug: u32| format!("d.example/s{slug}");
    for slug in 0..3_000 {
        layer.insert(&link("d.example", &format!("s{slug}"), "https://x.example/"), slug);
    }
    (0..3_000).step_by(3).for_each(|slug| layer.remove(&key(slug)));
    let hashes: Vec<u64> = (0..6_000).map(|slug| hash(&key(slug))).collect();
    for (slug, hash) in (0..).zip(&hashes) {
        let shard = layer.shard(*hash);
        let texts = shard.probable(*hash).map(|entry| shard.probable_text(entry));
        if let Some(link) = layer.get(&key(slug)) {
            // Seldom another link's, of which the hashes are alike where the index looks first.
            let text = texts.expect("an entry");
            assert!(text.starts_with(link.key.as_bytes()) || text.starts_with(b"d.example/s"));
        }
    }
    Table { file: Arc::new(layer), topic: Arc::default() }.look_ahead(&hashes);
}

#[test]
fn a_change_leaves_the_older_table_as_it_was() {
    let mut layer = Layer::default();
    for slug in 0..5_000 {
        layer.insert(&link("d.example", &format!("s{slug}"), "https://x.example/"), slug);
    }
    let before = layer.clone();
    layer.insert(&link("d.example", "s7", "https://y.example/"), 0);
    layer.remove("d.example/s8");
    assert_eq!(before.get("d.example/s7").expect("s7").destination(), "https://x.example/");
    assert_eq!((before.len(), layer.len()), (5_000, 4_999));
    assert!(before.get("d.example/s8").is_some() && layer.get("d.example/s8").is_none());
}

#[test]
fn a_domain_is_one_workspaces() {
    let mut layer = Layer::default();
    layer.insert(&of("w", "d.example", "a", "https://x.example/"), 1);
    assert_eq!(layer.other_owner(&of("v", "d.example", "b", "https://x.example/")), Some("w"));
    assert_eq!(layer.other_owner(&of("w", "d.example", "b", "https://x.example/")), None);
    assert_eq!(layer.other_owner(&of("v", "e.example", "b", "https://x.example/")), None);
    layer.insert(&of("v", "d.example", "a", "https://x.example/"), 1);
    assert_eq!(
        layer.other_owner(&of("w", "d.example", "b", "https://x.example/")),
        Some("v"),
        "a link that changes hands takes its domain along"
    );
    layer.remove("d.example/a");
    assert_eq!(layer.other_owner(&of("w", "d.example", "b", "https://x.example/")), None);
}

/// Of a divided domain the owner's links are served, from either source, and a foreign link hides none of them.
#[test]
fn a_foreign_link_is_not_served_and_hides_none() {
    let live = Live::default();
    let mut file = Layer::default();
    file.insert(&of("w", "d.example", "a", "https://file.example/"), 1);
    live.set_file(file);
    let mut topic = Layer::default();
    for slug in ["a", "b", "c"] {
        topic.insert(&of("v", "d.example", slug, "https://foreign.example/"), 0);
    }
    topic.insert(&of("w", "d.example", "d", "https://topic.example/"), 0);
    topic.insert(&of("v", "e.example", "a", "https://other.example/"), 0);
    live.set_topic(topic);
    let found = |key: &str, shared: &[String]| {
        let table = live.table();
        let domain = key.split_once('/').expect("a key").0;
        let owner = table.owner(domain, shared);
        let owner = if let Owner::One(owner) = owner { Some(owner) } else { None };
        table.get(hash(key), key, owner).map(|link| link.destination().to_owned())
    };
    let file = Some("https://file.example/".to_owned());
    assert_eq!(
        [found("d.example/a", &[]), found("d.example/b", &[]), found("d.example/d", &[])],
        [file, None, Some("https://topic.example/".to_owned())]
    );
    assert_eq!(found("d.example/b", &["d.example".to_owned()]).as_deref(), Some("https://foreign.example/"), "unless they share it");
    assert_eq!(live.table().divided(&[]).collect::<Vec<_>>(), [("d.example", "w")]);
    live.set_file(Layer::default());
    assert_eq!(found("d.example/b", &[]).as_deref(), Some("https://foreign.example/"), "most of the topic's are v's");
    assert_eq!(found("d.example/d", &[]), None);
}

/// What a server has read of the topic's partitions and of its file, in whatever order: the same links answer.
fn answers(changes: &[(usize, Option<(u8, &str)>)], file: &[(u8, &str)], file_at: usize) -> Vec<Option<String>> {
    let (live, mut topic) = (Live::default(), Layer::default());
    let key = |slug: usize| format!("d{}.example/s{slug}", slug % 2);
    for (at, (slug, state)) in changes.iter().enumerate() {
        if at == file_at {
            let mut layer = Layer::default();
            for (slug, workspace) in file {
                layer.insert(&of(workspace, &format!("d{}.example", slug % 2), &format!("s{slug}"), "https://file.example/"), 1);
            }
            live.set_file(layer);
        }
        match state {
            Some((version, workspace)) => {
                topic.insert(
                    &of(workspace, &format!("d{}.example", slug % 2), &format!("s{slug}"), &format!("https://x.example/{version}")),
                    0,
                );
            }
            None => topic.remove(&key(*slug)),
        }
        live.set_topic(topic.clone());
    }
    let table = live.table();
    (0..8)
        .map(|slug| {
            let key = key(slug);
            let owner = match table.owner(&format!("d{}.example", slug % 2), &[]) {
                Owner::One(owner) => Some(owner),
                Owner::Any | Owner::Nobody => None,
            };
            table.get(hash(&key), &key, owner).map(|link| format!("{} {}", link.workspace, link.destination()))
        })
        .collect()
}

/// A change to a layer.
#[derive(Clone, Debug)]
enum Change {
    Insert(u8, u8, String),
    Remove(u8, u8),
    Keep,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..3u8, 0..40u8, "[a-zé]{0,12}").prop_map(|(domain, slug, text)| Change::Insert(domain, slug, text)),
        3 => (0..3u8, 0..40u8).prop_map(|(domain, slug)| Change::Remove(domain, slug)),
        1 => Just(Change::Keep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Records of one key are in one partition and stay in order; those of others come in any. A server that starts later finds the last of each key alone.
    #[test]
    fn all_servers_agree_on_owners(
        records in prop::collection::vec((0..8usize, prop::option::weighted(0.8, (any::<u8>(), "[vwx]"))), 1..30),
        file in prop::option::of("[vwx]"),
        order in prop::collection::vec(any::<prop::sample::Index>(), 30),
        places in prop::collection::vec(any::<prop::sample::Index>(), 2),
    ) {
        let records: Vec<(usize, Option<(u8, &str)>)> =
            records.iter().map(|(slug, state)| (*slug, state.as_ref().map(|(version, workspace)| (*version, &**workspace)))).collect();
        let file: Vec<(u8, &str)> = file.iter().map(|workspace| (0, &**workspace)).collect();
        // Another interleaving: keys are drawn in any order, each key's records in their own.
        let (mut left, mut otherwise) = (records.clone(), Vec::new());
        for draw in &order[..records.len()] {
            let slug = left[draw.index(left.len())].0;
            let at = left.iter().position(|(other, _)| *other == slug).expect("drawn");
            otherwise.push(left.remove(at));
        }
        let mut compacted: Vec<(usize, Option<(u8, &str)>)> = Vec::new();
        for (at, record) in records.iter().enumerate() {
            if records[at + 1..].iter().all(|(slug, _)| *slug != record.0) {
                compacted.push(*record);
            }
        }
        let first = answers(&records, &file, places[0].index(records.len()));
        prop_assert_eq!(&answers(&otherwise, &file, places[1].index(records.len())), &first);
        prop_assert_eq!(&answers(&compacted, &file, 0), &first);
    }

    #[test]
    fn a_layer_is_a_map(changes in prop::collection::vec(change(), 0..300)) {
        // All in one shard would be likelier to go wrong than spread over thousands: half of the cases change links often enough
        // that their text is written anew.
        let mut shard = Shard::default();
        let mut layer = Layer::default();
        let mut map = std::collections::BTreeMap::new();
        let mut kept = Vec::new();
        for change in changes {
            match change {
                Change::Insert(domain, slug, text) => {
                    let record = serde_json::json!({
                        "domain": format!("d{domain}.example"), "slug": format!("s{slug}"), "workspace": "w", "title": text.repeat(20),
                        "destination": format!("https://x.example/{text}"), "tags": [text, "t"],
                    });
                    let link = Checked::from_value(&record).expect("a link");
                    shard.insert(hash(&link.key), &link, 0);
                    layer.insert(&link, 0);
                    map.insert(link.key.clone(), link);
                }
                Change::Remove(domain, slug) => {
                    let key = format!("d{domain}.example/s{slug}");
                    shard.remove(hash(&key), &key);
                    layer.remove(&key);
                    map.remove(&key);
                }
                Change::Keep => kept.push((layer.clone(), map.clone())),
            }
        }
        kept.push((layer, map.clone()));
        for (layer, map) in kept {
            prop_assert_eq!(layer.len(), map.len());
            for key in (0..3).flat_map(|domain| (0..40).map(move |slug| format!("d{domain}.example/s{slug}"))) {
                let expected = map.get(&key).map(|link| format!("{:?}", link.view()));
                prop_assert_eq!(layer.get(&key).map(|link| format!("{link:?}")), expected);
            }
        }
        for key in (0..3).flat_map(|domain| (0..40).map(move |slug| format!("d{domain}.example/s{slug}"))) {
            let expected = map.get(&key).map(|link| format!("{:?}", link.view()));
            prop_assert_eq!(shard.get(hash(&key), &key).map(|link| format!("{link:?}")), expected);
        }
    }
}
