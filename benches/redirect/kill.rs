//! What `kill -9` loses: the server is killed under load and started again on its spool, and the clicks of answered redirects that never come to
//! the broker are counted.

use crate::load::{Seen, Visitors};
use crate::rows::arrived;
use crate::servers::Server;
use crate::{Setup, topic};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// After the load has begun; then a little more each time, so that it meets every place of the carrier's round.
const FIRST: Duration = Duration::from_millis(1_500);
const MORE: Duration = Duration::from_micros(37_313);

/// Kills the server `args.slices` times at `rate` requests a second.
pub fn kill(setup: &Setup, mode: &str, rate: f64) -> io::Result<()> {
    let Setup { args, broker, requests, .. } = setup;
    let topic = topic(mode);
    println!("\nclickline, {mode}: killed {} times at {rate:.0} requests a second", args.slices);
    println!("  {:>9} {:>9} {:>12} {:>6} {:>8}", "answered", "in flight", "on the broker", "lost", "is ms");
    let (mut before, mut worst) = (broker.offsets(&topic), 0.0_f64);
    for n in 0..args.slices {
        let server = setup.start(mode)?;
        let mut visitors = Visitors::connect(server.address, args.connections, requests.to_vec())?;
        let pid = server.pid();
        let at = Instant::now() + FIRST + MORE * u32::try_from(n).expect("few");
        let killer = thread::spawn(move || {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            Server::kill(pid)
        });
        let mut seen = Seen::new();
        // It ends with the first connection that breaks.
        if visitors.open_into(&mut seen, rate, Duration::from_secs(60), args.seed + n as u64).is_ok() {
            return Err(io::Error::other("the server outlived its end"));
        }
        killer.join().expect("ends well")?;
        let (in_flight, answers) = (visitors.waiting(), seen.redirects + visitors.unread()?);
        drop((visitors, server));
        // What waits on the spool is sent by the next one.
        let server = setup.start(mode)?;
        arrived(broker, &topic, before + answers, Duration::from_secs(3));
        server.stop()?;
        let there = broker.offsets(&topic) - before;
        before += there;
        // A click whose answer was under way may be there, too.
        let lost = answers.saturating_sub(there);
        let is = lost as f64 / rate * 1e3;
        worst = worst.max(is);
        println!("  {answers:>9} {in_flight:>9} {there:>12} {lost:>6} {is:>8.2}");
    }
    println!("  worst: {worst:.2} ms of the load (promised: 5, with `--capture durable` 0)");
    Ok(())
}
