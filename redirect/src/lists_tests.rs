//! The rules held to lists that others keep: `CLICKLINE_DATA` names their folder (`.ci/run` sets it). Each test prints what it measured; the bounds are just
//! beside it, so that a rule that finds less, or flags more people, fails.

use crate::agent::Agent;
use crate::bots::{self, Agents, Reason};
use crate::geo::GeoIp;
use crate::query::{MAX_VALUE, Marks, Target, pairs};
use crate::tracking;
use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;

/// The folder; None where there is none, which CI does not allow.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CLICKLINE_DATA").map(PathBuf::from).filter(|folder| folder.join("user-agents").is_dir());
    if folder.is_none() {
        assert!(std::env::var("CLICKLINE_TESTS_REQUIRE").as_deref() != Ok("all"), "CLICKLINE_DATA names no folder with user-agents");
        eprintln!("left out: no lists here; CLICKLINE_DATA names the folder that holds user-agents");
    }
    folder
}

fn text(folder: &std::path::Path, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join(name)).expect(name)).into_owned()
}

/// The user agents of a mapping of names to lists.
fn named(folder: &std::path::Path, name: &str) -> Vec<String> {
    let lists: BTreeMap<String, Vec<String>> = serde_saphyr::from_str(&text(folder, name)).expect(name);
    lists.into_values().flatten().collect()
}

#[derive(Deserialize)]
struct Crawler {
    instances: Vec<String>,
}

fn crawlers(folder: &std::path::Path) -> Vec<String> {
    let list: Vec<Crawler> = serde_json::from_str(&text(folder, "user-agents/crawler-user-agents.json")).expect("a list");
    list.into_iter().flat_map(|crawler| crawler.instances).collect()
}

/// User agents of the recorded clicks, and how many clicks each has.
fn recorded_clicks(folder: &std::path::Path) -> HashMap<String, u64> {
    let mut agents = HashMap::new();
    for entry in std::fs::read_dir(folder.join("clicks/1usagov")).expect("recorded clicks") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            // One file is empty, another ends in the middle of a line.
            for line in BufReader::new(GzDecoder::new(std::fs::File::open(&path).expect("a file"))).split(b'\n').map_while(Result::ok) {
                let Ok(click) = serde_json::from_slice::<serde_json::Value>(&line) else { continue };
                if let Some(agent) = click["a"].as_str() {
                    *agents.entry(agent.to_owned()).or_default() += 1;
                }
            }
        }
    }
    agents
}

/// `measured: NAME found of all`, and the share in percent.
fn measured(name: &str, part: u64, all: u64) -> f64 {
    let share = part as f64 * 100.0 / all as f64;
    println!("measured: {name}: {part} of {all}, {share:.2} %");
    share
}

fn flagged<'a>(agents: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    agents.into_iter().filter(|words| bots::says(words).is_some()).collect()
}

#[test]
fn machines_are_found_and_people_are_not() {
    let Some(folder) = data() else { return };
    let (crawlers, isbot) = (crawlers(&folder), named(&folder, "user-agents/isbot-js/crawlers.yml"));
    let found = measured("crawler-user-agents found by our words", flagged(&crawlers).len() as u64, crawlers.len() as u64);
    assert!(found >= 97.5);
    let found = measured("isbot's crawlers found by our words", flagged(&isbot).len() as u64, isbot.len() as u64);
    assert!(found >= 89.5);

    let list = Agents::read(&folder.join("user-agents/crawler-user-agents.json")).expect("the list is read");
    let with_list = |words: &&String| bots::says(words).is_some() || list.contains(words.as_bytes());
    assert_eq!(crawlers.iter().filter(with_list).count(), crawlers.len(), "with the list itself all of it is found");
    let found = measured("isbot's crawlers found with that list given", isbot.iter().filter(with_list).count() as u64, isbot.len() as u64);
    assert!(found >= 92.5);

    let people = named(&folder, "user-agents/isbot-js/browsers.yml");
    let wrong = flagged(&people);
    wrong.iter().for_each(|words| println!("flagged: {words}"));
    assert!(measured("isbot's browsers flagged", wrong.len() as u64, people.len() as u64) <= 3.8);

    // Nobody labelled these. Who is on the list is a machine; of the rest nearly all are people, and the flagged ones are named.
    let clicks = recorded_clicks(&folder);
    let (mut all, mut wrong): (u64, Vec<(u64, &String)>) = (0, Vec::new());
    for (words, count) in clicks.iter().filter(|(words, _)| !list.contains(words.as_bytes())) {
        all += count;
        if bots::says(words).is_some() {
            wrong.push((*count, words));
        }
    }
    wrong.sort_unstable_by(|one, other| other.cmp(one));
    wrong.iter().take(25).for_each(|(count, words)| println!("flagged, {count} clicks: {words}"));
    measured("recorded clicks of agents that are on no list, flagged", wrong.iter().map(|(count, _)| count).sum(), all);
    // Those that look like a browser: what may be a person.
    let browser = |words: &str| words.starts_with("Mozilla/") && Agent::read(words).os.is_some() && Agent::read(words).browser.is_some();
    let doubtful: Vec<_> = wrong.iter().filter(|(_, words)| browser(words)).collect();
    doubtful.iter().for_each(|(count, words)| println!("doubtful, {count} clicks: {words}"));
    assert!(measured("of these with a system and a browser", doubtful.iter().map(|(count, _)| count).sum(), all) <= 0.02);

    let log: Vec<String> = text(&folder, "access-logs/semicomplete-apache-combined-2015-05.log")
        .lines()
        .filter_map(|line| line.split('"').nth(5).map(str::to_owned))
        .collect();
    let machines = log.iter().filter(|words| list.contains(words.as_bytes()));
    let known: Vec<_> = machines.collect();
    let found = measured("access log: requests of listed machines found", flagged(known.iter().copied()).len() as u64, known.len() as u64);
    assert!(found >= 99.9);
    let rest: Vec<_> = log.iter().filter(|words| !list.contains(words.as_bytes())).collect();
    let doubtful: Vec<_> = flagged(rest.iter().copied()).into_iter().filter(|words| browser(words)).collect();
    doubtful.iter().for_each(|words| println!("doubtful: {words}"));
    assert!(measured("access log: the others' with a system and a browser, flagged", doubtful.len() as u64, rest.len() as u64) <= 0.4);
}

#[derive(Deserialize)]
struct Cases {
    test_cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    user_agent_string: String,
    family: Option<String>,
}

fn cases(folder: &std::path::Path, name: &str) -> Vec<(String, String)> {
    let cases: Cases = serde_saphyr::from_str(&text(folder, name)).expect(name);
    cases.test_cases.into_iter().map(|case| (case.user_agent_string, case.family.unwrap_or_default())).collect()
}

/// Whether uap-core's family is ours under another name or in more detail.
fn same(theirs: &str, ours: &str) -> bool {
    let (theirs, ours) = (theirs.to_lowercase(), ours.to_lowercase());
    let other = match &*ours {
        "internet explorer" => "ie",
        "wechat" => "wechat",
        "google app" => "google",
        "outlook" => "outlook|microsoft office",
        "macos" => "mac os",
        "chromeos" => "chrome os",
        "linux" => "ubuntu|debian|fedora|red hat|mint|suse|gentoo|arch linux|mageia|slackware|centos|kubuntu|mandriva",
        "web view" => "mobile safari ui/wkwebview|ui/wkwebview",
        _ => "",
    };
    theirs.contains(&ours) || other.split('|').any(|other| !other.is_empty() && theirs.contains(other))
}

#[test]
fn systems_and_browsers_are_those_of_uap_core() {
    let Some(folder) = data() else { return };
    for (name, field, least) in [
        ("user-agents/uap-core/test_os.yaml", (|agent: Agent| agent.os) as fn(Agent) -> Option<&'static str>, 87.5),
        ("user-agents/uap-core/test_ua.yaml", |agent| agent.browser, 50.0),
    ] {
        let (mut agree, mut answered, mut differ) = (0, 0, BTreeMap::<(String, &str), u64>::new());
        for (words, family) in cases(&folder, name) {
            if let Some(ours) = field(Agent::read(&words)) {
                answered += 1;
                if same(&family, ours) {
                    agree += 1;
                } else {
                    *differ.entry((family, ours)).or_default() += 1;
                }
            }
        }
        let mut differ: Vec<_> = differ.into_iter().collect();
        differ.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        differ.iter().take(40).for_each(|((theirs, ours), count)| println!("{count} × {theirs:?} is {ours:?} here"));
        assert!(measured(&format!("{name}: agreement where we answer"), agree, answered) >= least);
    }
}

#[test]
fn countries_are_those_of_the_test_databases_and_corrupt_files_are_refused() {
    let Some(folder) = data().map(|folder| folder.join("geoip")) else { return };
    for (name, source) in
        [("GeoLite2-City-Test.mmdb", "GeoLite2-City-Test.json"), ("GeoLite2-Country-Test.mmdb", "GeoLite2-Country-Test.json")]
    {
        let geo = GeoIp::read(&folder.join(name)).expect(name);
        let networks: Vec<BTreeMap<String, serde_json::Value>> =
            serde_json::from_str(&text(&folder.join("source-data"), source)).expect("the truth about the database");
        let mut compared = 0;
        for (network, record) in networks.iter().flatten() {
            let code = ["country", "registered_country"].iter().find_map(|field| record[field]["iso_code"].as_str());
            let address: IpAddr = network.split('/').next().and_then(|address| address.parse().ok()).expect("an address");
            let found = geo.country(address);
            assert_eq!(found.as_ref().map(|code| &code[..]), code.map(str::as_bytes), "{name} {network}");
            compared += 1;
        }
        assert!(compared > 200, "{compared}");
        let mapped: IpAddr = "::ffff:81.2.69.160".parse().expect("an address");
        assert_eq!(geo.country(mapped), Some(*b"GB"));
        assert_eq!(geo.country(IpAddr::from([127, 0, 0, 1])), None);
    }
    for name in [
        "GeoIP2-City-Test-Broken-Double-Format.mmdb",
        "GeoIP2-City-Test-Invalid-Node-Count.mmdb",
        "MaxMind-DB-test-broken-pointers-24.mmdb",
        "MaxMind-DB-test-broken-search-tree-24.mmdb",
        "GeoLite2-ASN-Test.mmdb",
        "source-data/GeoLite2-ASN-Test.json",
    ] {
        let error = GeoIp::read(&folder.join(name)).err().unwrap_or_else(|| panic!("{name} was taken"));
        println!("{error}");
    }
    // Changed and cut at random: refused, or taken and then answering without a panic.
    let sound = std::fs::read(folder.join("GeoLite2-Country-Test.mmdb")).expect("a file");
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..150 {
        let mut bytes = sound.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            if random.random_bool(0.2) {
                bytes.truncate(at.max(1));
            } else {
                bytes[at] = random.random();
            }
        }
        if let Ok(geo) = GeoIp::of(bytes) {
            for _ in 0..50 {
                geo.country(IpAddr::from(random.random::<[u8; 4]>()));
                geo.country(IpAddr::from(random.random::<[u8; 16]>()));
            }
        }
    }
}

#[test]
fn tracking_parameters_go_on_and_only_seven_are_recorded() {
    let Some(folder) = data() else { return };
    let mut rows = csv::Reader::from_path(folder.join("tracking-params/params.csv")).expect("the list");
    let names: Vec<String> = rows.records().map(|row| row.expect("a row")[0].trim().to_owned()).collect();
    let unknown: Vec<&String> = names.iter().filter(|name| tracking::kind(name).is_none()).collect();
    measured("tracking parameters known here", (names.len() - unknown.len()) as u64, names.len() as u64);
    assert!(unknown.is_empty(), "{unknown:?}");
    let destination = url::Url::parse("https://x.example/p?own=1#f").expect("a URL");
    for name in &names {
        let sent = format!("{name}=a%20B+c&eid=801");
        assert_eq!(Target::of(destination.as_str()).location(&sent), format!("https://x.example/p?own=1&{name}=a%20B+c#f"));
        let mut marks = Marks::of(&pairs(&sent).collect());
        assert_eq!(marks.eid.take().as_deref(), Some("801"));
        let recorded = ["fbclid", "gclid", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"].contains(&&**name);
        assert_eq!(marks != Marks::default(), recorded, "{name}");
    }
    const { assert!(MAX_VALUE == 512) };
}

/// A list of this size as it is used: what building and asking it costs.
#[test]
fn what_the_list_costs() {
    let Some(folder) = data() else { return };
    let started = std::time::Instant::now();
    let list = Agents::read(&folder.join("user-agents/crawler-user-agents.json")).expect("the list is read");
    let built = started.elapsed();
    let agents = named(&folder, "user-agents/isbot-js/browsers.yml");
    let started = std::time::Instant::now();
    let found = agents.iter().filter(|words| bots::says(words) == Some(Reason::UserAgent) || list.contains(words.as_bytes())).count();
    println!("measured: {} patterns built in {built:?}, {} new user agents asked in {:?}", list.len(), agents.len(), started.elapsed());
    assert!(found < agents.len());
}
