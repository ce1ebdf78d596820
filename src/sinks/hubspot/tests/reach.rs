//! No connection comes about: certificates that nobody may trust, addresses that swallow packets, names that nobody has.

use super::front::{Authority, Front, Time, Way, self_signed};
use super::*;
use crate::sinks::hubspot::{Change, setup_accounts};
use clickline_sandbox::Rotation;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

const EACH: usize = 5;

/// A sandbox whose refresh tokens are good for one use, and a sink that would not try a record again after the first failure of its own.
fn world() -> World {
    let mut world = World::with(Config { rotation: Rotation::Always, ..Config::default() });
    world.settings.connect_timeout = Duration::from_millis(300);
    world.settings.retry_cap = Duration::from_millis(100);
    world.settings.give_up_after = Duration::from_millis(1);
    world
}

/// Puts the events of a round.
fn put(world: &World, round: usize) {
    for n in 0..EACH {
        world.put(Topic::Timeline, &nth(round * EACH + n));
    }
    world.flush();
}

/// What `clickline check --online` says of the account.
fn said(world: &World) -> String {
    let state = world.folder.path().join("another.db");
    let found = setup_accounts(&world.settings, &[PORTAL.to_owned()], &state, Change::Look, &BTreeMap::new()).expect("looks");
    found[PORTAL].iter().map(|finding| format!("{finding}\n")).collect()
}

/// Every event of so many rounds is in HubSpot once, and one refresh token was used, once.
fn all_is_there(world: &World, rounds: usize) {
    let events = world.sandbox.snapshot(PORTAL).events;
    let ids: std::collections::BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((events.len(), ids.len()), (rounds * EACH, rounds * EACH));
    assert_eq!(world.posts("/token"), 1, "calls to the token endpoint");
    let batches = world.sandbox.requests().iter().filter(|request| request.path.ends_with("/events/batch/create")).count();
    assert!(batches <= rounds * EACH, "{batches}: nothing was sent again and again");
}

/// A sink starts in front of a door that lets nobody in; the door opens, closes and opens again.
fn waited_out(name: &str, authority: &Authority, bad: &Way, words: &str) {
    let mut world = world();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let front = Front::start(listener, &world.sandbox.url(), bad.clone());
    world.settings.base_url = format!("https://localhost:{}", front.port());
    world.settings.ca_file = Some(authority.file(world.folder.path()));
    let good = authority.server("localhost", Time::Now);
    let sink = world.start();
    put(&world, 0);
    let stats = wait(&sink, name, |stats| stats.read == EACH as u64 && front.seen() >= 3);
    assert_eq!((stats.events, stats.lag, stats.retried, stats.dead_letters, stats.suspended), (0, EACH as u64, 0, 0, 0), "{name}");
    let said = said(&world);
    assert!(said.contains("localhost") && said.contains(words), "{name}: {said}");
    front.set(good.clone());
    let stats = wait(&sink, name, |stats| stats.caught_up);
    assert_eq!((stats.events, stats.retried, stats.dead_letters), (EACH as u64, 0, 0), "{name}");

    // Whatever has no end by now is not for lack of patience: the next failure may be of a connection that was just cut.
    sink.stop().expect("stops");
    world.settings.give_up_after = PATIENCE;
    let sink = world.start();
    wait(&sink, name, |stats| stats.caught_up);
    front.set(bad.clone());
    let before = front.seen();
    put(&world, 1);
    let cut = wait(&sink, name, |stats| stats.read == EACH as u64 && front.seen() > before);
    let stats = wait(&sink, name, |_| front.seen() >= before + 4);
    assert_eq!((stats.lag, stats.retried, stats.dead_letters), (EACH as u64, cut.retried, 0), "{name}");
    front.set(good);
    let stats = wait(&sink, name, |stats| stats.caught_up);
    assert_eq!((stats.events, stats.dead_letters), (EACH as u64, 0), "{name}");
    all_is_there(&world, 2);
}

#[test]
fn certificates_that_nobody_may_trust_and_servers_that_say_nothing_are_waited_out() {
    let authority = Authority::new("an authority");
    let cases = [
        ("expired", authority.server("localhost", Time::Over), "has expired"),
        ("to come", authority.server("localhost", Time::ToCome), "is not valid yet"),
        ("another's", authority.server("elsewhere.example", Time::Now), "is another name's"),
        ("self-signed", self_signed("localhost"), "signed by nobody"),
        ("of a stranger", Authority::new("a stranger").server("localhost", Time::Now), "signed by nobody"),
        ("of a forger", Authority::new("an authority").server("localhost", Time::Now), "signed by nobody"),
        ("silent", Way::Silent, "in time"),
        ("without TLS", Way::Plain, "no TLS connection"),
    ];
    std::thread::scope(|scope| {
        for (name, bad, words) in &cases {
            scope.spawn(|| waited_out(name, &authority, bad, words));
        }
    });
}

/// A listener whose queue of connections is full: packets to it are dropped.
fn swallows() -> (TcpListener, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    socket.listen(0).expect("listens");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("an address");
    let mut queue = Vec::new();
    while let Ok(waiting) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(waiting);
        assert!(queue.len() < 100, "the queue has an end");
    }
    (listener, queue)
}

#[test]
fn an_address_that_swallows_packets_is_waited_for() {
    let mut world = world();
    let (listener, queue) = swallows();
    world.settings.base_url = format!("http://{}", listener.local_addr().expect("an address"));
    put(&world, 0);
    let sink = world.start();
    let stats = wait(&sink, "tried", |stats| stats.read == EACH as u64 && stats.refreshes >= 3);
    assert_eq!((stats.events, stats.lag, stats.retried, stats.dead_letters, stats.suspended), (0, EACH as u64, 0, 0, 0));
    let said = said(&world);
    assert!(said.contains("no connection to 127.0.0.1 in time"), "{said}");
    drop(queue);
    let _front = Front::start(listener, &world.sandbox.url(), Way::Plain);
    let stats = wait(&sink, "delivered", |stats| stats.caught_up);
    assert_eq!((stats.events, stats.dead_letters), (EACH as u64, 0));
    all_is_there(&world, 1);
}

#[test]
fn an_address_in_ipv6_alone_is_used_and_where_there_is_no_ipv6_it_is_waited_for() {
    let mut world = world();
    put(&world, 0);
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(listener) => {
            let front = Front::start(listener, &world.sandbox.url(), Way::Plain);
            world.settings.base_url = format!("http://[::1]:{}", front.port());
            let sink = world.start();
            assert_eq!(wait(&sink, "all", |stats| stats.caught_up).events, EACH as u64);
            assert!(front.seen() > 0, "by this door");
        }
        Err(_) => {
            let good = std::mem::replace(&mut world.settings.base_url, "http://[::1]:9".to_owned());
            let sink = world.start();
            wait(&sink, "tried", |stats| stats.read == EACH as u64 && stats.refreshes >= 2);
            let stats = sink.stop().expect("stops");
            assert_eq!((stats.lag, stats.retried, stats.dead_letters, stats.suspended), (EACH as u64, 0, 0, 0), "{stats:?}");
            assert!(said(&world).contains("no connection to [::1]"), "{}", said(&world));
            world.settings.base_url = good;
            assert_eq!(wait(&world.start(), "all", |stats| stats.caught_up).events, EACH as u64);
        }
    }
    all_is_there(&world, 1);
}

#[test]
fn a_name_that_nobody_has_and_a_port_where_nobody_listens_are_waited_for() {
    let mut world = world();
    let good = world.settings.base_url.clone();
    put(&world, 0);
    for (address, words) in [("https://clickline.invalid", "clickline.invalid"), ("http://127.0.0.1:9", "refused")] {
        world.settings.base_url = address.to_owned();
        let sink = world.start();
        wait(&sink, address, |stats| stats.read == EACH as u64 && stats.refreshes >= 2);
        let stats = sink.stop().expect("stops");
        assert_eq!((stats.lag, stats.retried, stats.dead_letters, stats.suspended), (EACH as u64, 0, 0, 0), "{address}: {stats:?}");
        let said = said(&world);
        assert!(said.contains("no connection to") && said.contains(words), "{address}: {said}");
    }
    world.settings.base_url = good;
    let sink = world.start();
    assert_eq!(wait(&sink, "all", |stats| stats.caught_up).events, EACH as u64);
    all_is_there(&world, 1);
}
