//! A clock of the brokers that is never ahead of theirs, made of the times at which they stamped what was sent to them.
//!
//! # Meaning
//! A record that was sent at our moment `sent`, was stamped with `at` by the broker, and whose report came at our moment `received` says two
//! things of the broker's clock: at `received` it stood at `at` or later, and at `sent` at `at` or earlier. From the first follows a bound for every
//! later moment: `at`, and the time that has passed since on a clock of ours that nobody sets.
//!
//! # Why it is not ahead
//! - The broker's clock runs on: what has passed here has passed there, less [`DOUBT`] for clocks that run unequally.
//! - Of two bounds the greater one holds, too.
//! - A stamp that lies below the bound at its own `sent` disproves it: the broker's clock was set back, or the two run more unequally than
//!   that. Then the stamp alone counts.
//! - A clock of ours that stands still, with a machine that sleeps, makes the bound low, until the next stamp.
//!
//! # Not guaranteed
//! From when a broker's clock is set back until the next stamp the bound may be ahead, by as much as that was; after it by no more than that
//! stamp took on its way.

use crate::model::time::{Ms, millis};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Of so much time that passes here, a unit is not believed to have passed there. Crystals differ by less than 1 in 5,000, and the kernel slews by 1 in
/// 2,000 at most, on either machine. With a stamp every two seconds it costs 2 ms of delay.
const DOUBT: u32 = 1_000;

/// What is known of when a record was stamped. Moments are lengths of time since any one moment of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Before it was sent.
    pub sent: Duration,
    /// The broker's time, ms since the Unix epoch.
    pub at: Ms,
    /// When the report had come.
    pub received: Duration,
}

/// The bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The broker's clock stood here or later, …
    at: Ms,
    /// … at this moment of ours.
    since: Duration,
    /// How often the bound has been disproved.
    turn: u64,
}

/// A bound on its way to another process: what takes time only makes it lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    turn: u64,
    at: Ms,
}

impl Estimate {
    /// After the first stamp.
    pub fn new(stamp: Stamp) -> Self {
        Estimate { at: stamp.at, since: stamp.received, turn: 0 }
    }

    /// The brokers' clock is here or later at the moment `now`, ms.
    pub fn at(&self, now: Duration) -> Ms {
        let passed = now.saturating_sub(self.since);
        self.at.saturating_add(millis(passed - passed / DOUBT))
    }

    /// Learns from a stamp; by how much the bound had been ahead, ms.
    pub fn learn(&mut self, stamp: Stamp) -> Ms {
        let Stamp { sent, at, received } = stamp;
        let ahead = self.at(sent).saturating_sub(at);
        if ahead > 0 {
            *self = Estimate { at, since: received, turn: self.turn + 1 };
        } else if at >= self.at(received) {
            (self.at, self.since) = (at, received);
        }
        ahead
    }

    /// What to tell others at the moment `now`.
    pub fn word(&self, now: Duration) -> Word {
        Word { turn: self.turn, at: self.at(now) }
    }

    /// After another's first word, heard at the moment `now`.
    pub fn told(word: Word, now: Duration) -> Self {
        Estimate { at: word.at, since: now, turn: word.turn }
    }

    /// Takes another's word, heard at the moment `now`: a later turn counts alone, in the same one the greater bound.
    pub fn hear(&mut self, word: Word, now: Duration) {
        if word.turn > self.turn || (word.turn == self.turn && word.at >= self.at(now)) {
            *self = Estimate::told(word, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    const STAMP_EVERY: u64 = 2_000;

    fn ms(at: u64) -> Duration {
        Duration::from_millis(at)
    }

    fn stamp(sent: u64, at: Ms, received: u64) -> Stamp {
        Stamp { sent: ms(sent), at, received: ms(received) }
    }

    #[test]
    fn it_goes_on_from_the_stamp_a_little_slower_than_time() {
        let estimate = Estimate::new(stamp(10, 1_000_000, 30));
        assert_eq!(estimate.at(ms(30)), 1_000_000);
        assert_eq!(estimate.at(ms(2_030)), 1_001_998);
        assert_eq!(estimate.at(ms(0)), 1_000_000, "a moment before the stamp");
    }

    #[test]
    fn the_greater_bound_counts_unless_it_is_disproved() {
        let mut estimate = Estimate::new(stamp(10, 1_000_000, 30));
        // This report was slow: the bound from before is better.
        assert_eq!(estimate.learn(stamp(1_000, 1_000_975, 9_000)), 0);
        assert_eq!(estimate.at(ms(9_030)), 1_008_991);
        assert_eq!(estimate.learn(stamp(9_990, 1_009_985, 10_000)), 0);
        assert_eq!(estimate.at(ms(10_000)), 1_009_985);
        // When this was sent, the bound stood beyond what it was stamped with.
        assert_eq!(estimate.learn(stamp(11_000, 800_000, 11_002)), 210_984);
        assert_eq!(estimate.at(ms(11_002)), 800_000);
    }

    #[test]
    fn words_of_another_turn_are_told_apart() {
        let mut here = Estimate::new(stamp(0, 1_000, 0));
        let before = here.word(ms(500));
        let mut there = Estimate::told(before, ms(77_000));
        here.learn(stamp(600, 300, 601));
        there.hear(here.word(ms(700)), ms(77_300));
        assert_eq!(there.at(ms(77_300)), 398, "the later turn counts, though it is less");
        there.hear(before, ms(77_400));
        assert_eq!(there.at(ms(77_400)), 497, "an old word comes late");
        there.hear(Word { turn: 1, at: 100 }, ms(77_400));
        assert_eq!(there.at(ms(77_400)), 497, "a word that took long");
    }

    /// A broker's clock and ours, as they run: ours also stops now and then, as with a machine that sleeps.
    struct Clocks {
        rng: StdRng,
        /// True time, µs; the two clocks at it.
        now: u64,
        broker: f64,
        ours: f64,
        rates: (f64, f64),
    }

    impl Clocks {
        fn new(seed: u64) -> Self {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut rate = || 1.0 + f64::from(rng.random_range(-490..=490)) * 1e-6;
            let rates = (rate(), rate());
            let broker = f64::from(rng.random_range(0..2_000_000_000)) * 1e6;
            Clocks { rng, now: 0, broker, ours: 0.0, rates }
        }

        fn pass(&mut self, micros: u64) {
            self.now += micros;
            self.broker += micros as f64 * self.rates.0;
            if !self.rng.random_bool(0.01) {
                self.ours += micros as f64 * self.rates.1;
            }
        }

        fn up_to(&mut self, most: u64) {
            let micros = self.rng.random_range(0..most);
            self.pass(micros);
        }

        fn moment(&self) -> Duration {
            Duration::from_micros(self.ours as u64)
        }

        /// What the broker stamps with, ms.
        fn stamp(&self) -> Ms {
            (self.broker / 1e3) as Ms
        }

        /// A record there, and its report back.
        fn send(&mut self) -> Stamp {
            let slow = if self.rng.random_bool(0.1) { 5_000_000 } else { 5_000 };
            let sent = self.moment();
            self.up_to(slow);
            let at = self.stamp();
            self.up_to(slow);
            Stamp { sent, at, received: self.moment() }
        }
    }

    #[test]
    fn it_is_never_ahead_of_a_broker_whose_clock_runs_on() {
        for seed in 0..200 {
            let mut clocks = Clocks::new(seed);
            let (mut here, mut there) = (None::<Estimate>, None::<Estimate>);
            for step in 0..300 {
                let stamp = clocks.send();
                match &mut here {
                    None => here = Some(Estimate::new(stamp)),
                    Some(estimate) => assert_eq!(estimate.learn(stamp), 0, "seed {seed}, step {step}: no stamp disproves it"),
                }
                let estimate = here.expect("stamped");
                let word = estimate.word(clocks.moment());
                clocks.up_to(3_000_000); // on its way
                match &mut there {
                    None => there = Some(Estimate::told(word, clocks.moment())),
                    Some(there) => there.hear(word, clocks.moment()),
                }
                clocks.up_to(STAMP_EVERY * 1_000);
                for (who, bound) in [("here", here), ("there", there)] {
                    let at = bound.expect("known").at(clocks.moment());
                    assert!(at <= clocks.stamp(), "seed {seed}, step {step}, {who}: {at} is ahead of {}", clocks.stamp());
                }
            }
        }
    }

    #[test]
    fn it_keeps_up_with_the_broker_and_finds_back_to_a_clock_that_was_set() {
        for seed in 0..200 {
            let mut clocks = Clocks::new(seed);
            let mut estimate = Estimate::new(clocks.send());
            for step in 0..200 {
                if step % 20 == 7 {
                    // By up to an hour, either way.
                    clocks.broker += f64::from(clocks.rng.random_range(-3_600..=3_600)) * 1e6;
                    clocks.broker = clocks.broker.max(0.0);
                }
                let sent = clocks.now;
                estimate.learn(clocks.send());
                let took = clocks.now - sent;
                let (at, theirs) = (estimate.at(clocks.moment()), clocks.stamp());
                let apart = at.abs_diff(theirs);
                assert!(apart <= took / 1_000 + 2, "seed {seed}, step {step}: {at} to {theirs} after a stamp that took {took} µs");
                clocks.up_to(STAMP_EVERY * 1_000);
            }
        }
    }
}
