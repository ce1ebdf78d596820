//! Dead letters that are sent once more, and dry runs.

use super::*;
use crate::dead_letters::{DeadLetters, Decision, Filter, Letter, Replay, Replayer};
use crate::sinks::hubspot::{Change, Events, Move, Portal, dry, setup_accounts};
use crate::stop::Stop;

fn open(world: &World) -> DeadLetters {
    DeadLetters::new(world.kafka.clone(), State::open(&world.state()).expect("opens"))
}

fn all(world: &World) -> Vec<Letter> {
    open(world).list(&Filter { decided: true, ..Filter::default() }).expect("lists")
}

fn replay(world: &World, letter: &Letter) -> anyhow::Result<Replay> {
    open(world).replay(letter, &mut Replayer::None, crate::model::time::now())
}

/// An event, a contact's properties and a deal that HubSpot refuses until a person makes the contact and the deal.
fn refused(world: &World) -> Sink {
    world.put(Topic::Timeline, &event("clk:c1:4242", "950"));
    world.put(Topic::ContactProperties, &properties("p1", "950", &[("elido_last_utm_source", "webinar", 1)]));
    world.put(Topic::DealStages, &nth_stage(1, "9001"));
    world.put_bytes(Topic::Timeline, b"{");
    let sink = world.start();
    let stats = world.settle(&sink, "refused", 4);
    assert_eq!((stats.dead_letters, stats.events, stats.properties, stats.stages), (4, 0, 0, 0));
    wait(&sink, "counted", |stats| stats.dead_letters_open == 4 && stats.dead_letters_oldest_at > 0);
    sink
}

fn correct(world: &World) {
    world.sandbox.create_contact(PORTAL, Some("950"), &[("email", "grace@example.com")]);
    world.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
}

#[test]
fn a_replay_has_its_effect_once() {
    let world = World::new();
    let sink = refused(&world);
    correct(&world);
    let letters = all(&world);
    assert_eq!(letters.iter().filter(|letter| letter.portal.as_deref() == Some(PORTAL)).count(), 3);
    for letter in &letters {
        match letter.letter.reason.as_str() {
            // What can't be read would be refused again.
            "malformed" => assert!(replay(&world, letter).expect_err("no record").to_string().contains("drop it")),
            _ => assert_eq!(replay(&world, letter).expect("replays"), Replay::Sent),
        }
    }
    let stats = wait(&sink, "delivered", |stats| stats.events == 1 && stats.properties == 1 && stats.stages == 1);
    assert_eq!(stats.dead_letters, 4, "none of them again");
    for letter in &letters {
        if letter.letter.reason != "malformed" {
            assert_eq!(replay(&world, letter).expect("looks"), Replay::Decided(Decision::Replayed));
        }
    }
    let malformed = letters.iter().find(|letter| letter.letter.reason == "malformed").expect("is there");
    assert_eq!(open(&world).drop_letter(malformed, crate::model::time::now()).expect("drops"), None);
    assert_eq!(open(&world).drop_letter(malformed, crate::model::time::now()).expect("looks"), Some(Decision::Dropped));
    assert!(open(&world).list(&Filter::default()).expect("lists").is_empty(), "all are decided about");
    wait(&sink, "none is open", |stats| stats.dead_letters_open == 0 && stats.caught_up);
    let snapshot = world.sandbox.snapshot(PORTAL);
    assert_eq!((snapshot.events.len(), world.deal("9001").as_str()), (1, "qualifiedtobuy"));
    assert_eq!(snapshot.deal("9001").expect("the deal").stages.len(), 2);
}

#[test]
fn what_was_refused_before_the_ledger_forgot_is_not_replayed() {
    let world = World::new();
    refused(&world).stop().expect("stops");
    correct(&world);
    let letters = all(&world);
    let letter = letters.iter().find(|letter| letter.letter.source == world.kafka.topics.deal_stages).expect("the deal's");
    let kept = Duration::from_secs(3600);
    let letters = open(&world).with_ledger_for(Some(kept));
    let forgotten = letter.letter.at + 3_600_000;
    let said = letters.replay(letter, &mut Replayer::None, forgotten).expect_err("is too old").to_string();
    assert!(said.contains("ledger_for") && said.contains(&letter.id.to_string()), "{said}");
    assert_eq!(world.outcome(Topic::DealStages, "s1").as_deref(), Some("dead: deal-gone"), "nothing was begun");
    assert_eq!(letters.replay(letter, &mut Replayer::None, forgotten - 1).expect("replays"), Replay::Sent);
    // What is known to have been replayed is told as that, however old.
    assert_eq!(letters.replay(letter, &mut Replayer::None, forgotten).expect("looks"), Replay::Decided(Decision::Replayed));
    let sink = world.start();
    let stats = world.settle(&sink, "the replay", 1);
    assert_eq!((stats.stages, world.deal("9001").as_str()), (1, "qualifiedtobuy"));
}

#[test]
fn a_replay_that_was_cut_off_is_taken_up_and_sends_nothing_twice() {
    let world = World::new();
    refused(&world).stop().expect("stops");
    correct(&world);
    let letters = all(&world);
    let topics = &world.kafka.topics;
    for letter in letters.iter().filter(|letter| letter.letter.reason != "malformed") {
        // As after a crash between Kafka's acknowledgement and the note of it: the copy is there, the decision says `replaying`.
        assert_eq!(replay(&world, letter).expect("replays"), Replay::Sent);
        let state = State::open(&world.state()).expect("opens");
        let dead = &letter.letter;
        let key = format!("{}:{}:{}:{}", dead.source, dead.partition, dead.offset, dead.payload_base64);
        let place = ((dead.source.as_str(), dead.partition, dead.offset), dead.at);
        state
            .decide(LedgerKey::of(topics.output(Topic::DeadLetters), &key), "replaying", place, None, crate::model::time::now())
            .expect("decides");
        let again = open(&world).list(&Filter { ids: vec![letter.id], ..Filter::default() }).expect("lists");
        assert_eq!(again[0].decision, Decision::Replaying);
        assert_eq!(replay(&world, &again[0]).expect("replays"), Replay::Sent);
    }
    let sink = world.start();
    let stats = world.settle(&sink, "all", 6);
    assert_eq!((stats.events + stats.skipped, stats.properties + stats.skipped, stats.dead_letters), (2, 2, 0), "{stats:?}");
    let snapshot = world.sandbox.snapshot(PORTAL);
    assert_eq!((snapshot.events.len(), snapshot.deal("9001").expect("the deal").stages.len()), (1, 2));
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let world = World::new();
    for n in 0..150 {
        world.put(Topic::Timeline, &nth(n));
    }
    world.put(Topic::Timeline, &TimelineEvent { person: Person::Email("grace@example.com".into()), ..nth(200) });
    world.put(Topic::ContactProperties, &properties("p1", "801", &[("elido_last_utm_source", "webinar", 1)]));
    world.put(Topic::DealStages, &nth_stage(1, "9001"));
    world.put(Topic::DealStages, &DealStage { shadow: true, ..nth_stage(2, "9002") });
    world.flush();
    let mut said = Vec::new();
    let mut run = |state: &State| {
        said.clear();
        let planned = dry::run(&world.settings, &world.kafka, &[PORTAL.to_owned()], state, &Stop::new(), &mut said).expect("runs");
        (planned, String::from_utf8(said.clone()).expect("text"))
    };
    let (planned, text) = run(&State::look(&world.state()).expect("opens"));
    assert_eq!((planned.records, planned.shadow, planned.skipped), (153, 1, 0));
    // Four for the deal, one for the properties, one for the address, two for the events.
    assert_eq!(planned.calls, 8, "{text}");
    for part in
        ["if the deal still is", "deals/batch/update", r#""dealstage":"qualifiedtobuy""#, "g***@example.com", "elido_last_utm_source"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("grace@"));
    assert!(world.sandbox.requests().is_empty() && !world.state().exists(), "no call, no file");

    let sink = world.start();
    wait(&sink, "all but the address", |stats| stats.read == 154 && stats.caught_up);
    sink.stop().expect("stops");
    let calls = world.sandbox.requests().len();
    let (planned, text) = run(&State::look(&world.state()).expect("opens"));
    assert_eq!((planned.records, planned.calls, planned.parked, text.as_str()), (0, 0, 1, ""));
    assert_eq!(world.sandbox.requests().len(), calls);
}

#[test]
fn what_an_account_lacks_or_forbids_is_told_before_anything_is_written() {
    let mut world = World::new();
    world.settings.provision.push("hs_object_id".to_owned());
    let ask = |change| {
        let m =
            |to: &str| Move { rule: to.into(), pipeline: "default".into(), from_stage: "appointmentscheduled".into(), to_stage: to.into() };
        let moves = BTreeMap::from([(PORTAL.to_owned(), vec![m("qualifiedtobuy"), m("Qualified to buy")])]);
        let found = setup_accounts(&world.settings, &[PORTAL.to_owned()], &world.state(), change, &moves).expect("asks");
        found[PORTAL].iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let before = ask(Change::Look);
    assert!(before.iter().any(|line| line.starts_with("contact property elido_last_utm_source: missing")), "{before:?}");
    assert!(before.iter().any(|line| line.starts_with("contact property hs_object_id: it is read-only")), "{before:?}");
    assert!(before.iter().any(|line| line.contains("type of event") && line.contains("missing")), "{before:?}");
    assert!(before.iter().any(|line| line == "rule qualifiedtobuy: ready"), "{before:?}");
    assert!(
        before
            .iter()
            .any(|line| line.contains("is the label of a stage of the pipeline `default`; write its internal id, `qualifiedtobuy`")),
        "{before:?}"
    );
    let writes = world.sandbox.requests().iter().filter(|r| r.method != "GET" && !r.path.ends_with("/token")).count();
    assert_eq!(writes, 0, "only looked");
    let made = ask(Change::Make);
    assert!(made.iter().any(|line| line == "contact property elido_last_utm_source: made"), "{made:?}");
    let after = ask(Change::Look);
    assert!(after.iter().any(|line| line == "contact property elido_last_utm_source: ready"), "{after:?}");
    assert!(after.iter().any(|line| line.contains("type of event") && line.ends_with("ready")), "{after:?}");
}

#[test]
fn a_type_of_event_that_the_configuration_names_is_looked_at_or_said_to_be_unchecked() {
    let mut world = World::new();
    let told = |world: &World, change| {
        let found = setup_accounts(&world.settings, &[PORTAL.to_owned()], &world.state(), change, &BTreeMap::new()).expect("asks");
        let lines = found[PORTAL].iter().map(ToString::to_string).filter(|line| line.starts_with("type of event"));
        lines.collect::<Vec<_>>().join("; ")
    };
    let made = told(&world, Change::Make);
    let id = made.strip_prefix("type of event ").and_then(|rest| rest.strip_suffix(": made")).expect("made").to_owned();
    let account = |world: &mut World, change: &dyn Fn(&mut Portal)| change(world.settings.portals.get_mut(PORTAL).expect("is there"));
    account(&mut world, &|of| of.event_template_id = Some(id.clone()));
    assert_eq!(told(&world, Change::Look), format!("type of event {id}: ready"));
    account(&mut world, &|of| of.event_template_id = Some("999".to_owned()));
    assert!(told(&world, Change::Make).contains("has no such template"), "also where something may be made");
    account(&mut world, &|of| of.app_id = None);
    assert!(told(&world, Change::Look).contains("999: not checked; that takes the app_id"));

    account(&mut world, &|of| {
        *of = Portal { events: Events::CustomEvents, event_type: Some("pe4242_nothing".to_owned()), ..of.clone() };
    });
    assert!(told(&world, Change::Look).contains("no such custom event"));
    account(&mut world, &|of| {
        *of = Portal { events: Events::AppEvents, event_type: Some("ae1_clicked".to_owned()), ..of.clone() };
    });
    assert!(told(&world, Change::Look).contains("ae1_clicked: not checked; HubSpot does not show"));
}
