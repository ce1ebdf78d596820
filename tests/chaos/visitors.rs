//! People who click and who send forms.

use crate::against_oracle::now;
use crate::support::kafka::Broker;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Domain, slug, workspace, tags, deal.
pub type Link = (&'static str, &'static str, &'static str, &'static [&'static str], Option<&'static str>);

/// The links.
pub const LINKS: [Link; 5] = [
    ("d", "1", "one", &["x", "y"], None),
    ("d", "2", "one", &["x"], Some("91")),
    ("e", "1", "two", &["y"], None),
    ("e", "2", "two", &["x", "y"], Some("92")),
    ("f", "1", "three", &["x"], None),
];

/// Addresses that forms name; the first ones are contacts from the beginning.
pub const EMAILS: [&str; 6] =
    ["ada@example.com", "bob@example.com", "cyd@example.com", "dee@example.com", "eve@example.com", " Fay@Example.com "];

/// Visitors on a thread of their own.
pub struct Visitors {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Visitors {
    /// They click on the redirect server at `address`, and send forms, until told to stop; `pause` between two of them on average.
    pub fn come(address: &str, broker: &Broker, seed: u64, pause: Duration) -> Visitors {
        let done = Arc::new(AtomicBool::new(false));
        let (ask, address) = (Arc::clone(&done), address.to_owned());
        let producer: ThreadedProducer<DefaultProducerContext> = broker
            .client(&[("linger.ms", "5"), ("enable.idempotence", "true"), ("message.timeout.ms", "600000")])
            .create()
            .expect("a producer");
        let thread = thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut answered = Vec::new();
            let mut n = 0;
            while !ask.load(Ordering::Relaxed) {
                n += 1;
                if rng.random_bool(0.2) {
                    let form = form(&mut rng, n);
                    producer.send(BaseRecord::<str, str>::to("forms").payload(&form)).map_err(|(error, _)| error).expect("queued");
                } else if let Some(id) = click(&address, &mut rng) {
                    answered.push(id);
                }
                thread::sleep(pause.mul_f64(2.0 * rng.random::<f64>()));
            }
            producer.flush(Duration::from_secs(60)).expect("delivered");
            answered
        });
        Visitors { done, thread }
    }

    /// No more of them; the ids of all clicks that were answered with a redirect.
    pub fn leave(self) -> Vec<String> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("visitors do not panic")
    }
}

/// One click on a connection of its own; its id, if the redirect was answered.
fn click(address: &str, rng: &mut StdRng) -> Option<String> {
    let (domain, slug, ..) = LINKS.choose(rng).expect("some");
    let who = match rng.random_range(0..10) {
        0..5 => format!("?eid={}", ["1", "1", "2", "3"].choose(rng).expect("some")),
        5..9 => format!("?gclid={}", ["g", "G", "h", "own"].choose(rng).expect("some")),
        _ => String::new(),
    };
    let source = ["s1", "s2"].choose(rng).expect("some");
    let target =
        format!("/{slug}{who}{}utm_source={source}&utm_campaign=k{}", if who.is_empty() { "?" } else { "&" }, rng.random_range(0..3));
    let from = format!("10.{}.{}.{}", rng.random::<u8>(), rng.random::<u8>(), rng.random::<u8>());
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {domain}\r\nX-Forwarded-For: {from}\r\nConnection: close\r\nAccept: */*\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A server that was killed in the middle has not answered.
    stream.read_to_end(&mut answer).ok()?;
    let head = String::from_utf8(answer).expect("an answer is text");
    head.starts_with("HTTP/1.1 302").then(|| {
        let id = head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("x-click-id")));
        id.expect("a redirect names its click").1.to_owned()
    })
}

fn form(rng: &mut StdRng, n: usize) -> String {
    let email = EMAILS.choose(rng).expect("some");
    let workspace = ["one", "one", "two", "three"].choose(rng).expect("some");
    let gclid = ["g", "G", "h", "own"].choose(rng).expect("some");
    format!(r#"{{"v":1,"id":"f{n}","ts":{},"workspace":"{workspace}","email":"{email}","gclid":"{gclid}"}}"#, now())
}
