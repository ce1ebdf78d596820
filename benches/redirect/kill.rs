//! What `kill -9` loses: the server is killed under load and started again on its spool, and the clicks of answered redirects that never come to
//! the broker are counted, each by its id. The broker is away while the server lives: the embedded one does not undo the transaction that a kill leaves open,
//! and would have its clicks twice.
//!
//! No time is a failure here. A click that comes twice is one, so is one that nobody asked for, and with `--capture durable` one that is lost.

use crate::broker::Id;
use crate::load::{Seen, Visitors};
use crate::servers::Server;
use crate::{Setup, topic};
use std::collections::HashSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// After the load has begun; then a little more each time, so that it meets every place of the carrier's round.
const FIRST: Duration = Duration::from_millis(1_500);
const MORE: Duration = Duration::from_micros(37_313);
/// How long the next click may be on its way to the broker.
const PAUSE: Duration = Duration::from_secs(3);

/// Kills the server `args.slices` times at `rate` requests a second.
pub fn kill(setup: &Setup, mode: &str, rate: f64) -> io::Result<()> {
    let Setup { args, broker, requests, .. } = setup;
    let topic = topic(mode);
    println!("\nclickline, {mode}: killed {} times at {rate:.0} requests a second", args.slices);
    println!("  {:>9} {:>9} {:>12} {:>6} {:>8}", "answered", "in flight", "on the broker", "lost", "is ms");
    let (mut worst, mut lost_in_all, mut wrong) = (0.0_f64, 0, 0);
    for n in 0..args.slices {
        let server = setup.start(mode)?;
        let mut reader = broker.reader(&topic);
        broker.down();
        let mut visitors = Visitors::connect(server.address, args.connections, requests.to_vec())?;
        let pid = server.pid();
        let at = Instant::now() + FIRST + MORE * u32::try_from(n).expect("few");
        let killer = thread::spawn(move || {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            Server::kill(pid)
        });
        let mut seen = Seen::with_ids();
        // It ends with the first connection that breaks.
        if visitors.open_into(&mut seen, rate, Duration::from_secs(60), args.seed + n as u64).is_ok() {
            return Err(io::Error::other("the server outlived its end"));
        }
        killer.join().expect("ends well")?;
        visitors.read_last(&mut seen);
        // Requests that have no answer: their clicks may be there, or not.
        let in_flight = visitors.waiting();
        drop((visitors, server));
        let answered: HashSet<Id> = seen.ids.unwrap_or_default().into_iter().collect();
        broker.up(Duration::ZERO);
        // What waits on the spool is sent by the next one.
        let server = setup.start(mode)?;
        reader.read(answered.len() + in_flight, PAUSE)?;
        // It ends when its spool is empty.
        server.stop()?;
        reader.read_to_end()?;
        let lost = answered.iter().filter(|id| !reader.ids.contains_key(*id)).count();
        let unasked = (reader.ids.len() + lost - answered.len()).saturating_sub(in_flight);
        wrong += unasked + reader.ids.values().filter(|count| **count > 1).count();
        let is = lost as f64 / rate * 1e3;
        (worst, lost_in_all) = (worst.max(is), lost_in_all + lost);
        println!("  {:>9} {in_flight:>9} {:>12} {lost:>6} {is:>8.2}", answered.len(), reader.ids.len());
    }
    println!("  worst: {worst:.2} ms of the load (promised: 5, with `--capture durable` 0)");
    if wrong > 0 {
        return Err(io::Error::other(format!("{mode}: {wrong} clicks came twice, or nobody had asked for them")));
    }
    if mode.starts_with("durable") && lost_in_all > 0 {
        return Err(io::Error::other(format!("{mode}: {lost_in_all} clicks of answered redirects are lost; none may be")));
    }
    Ok(())
}
