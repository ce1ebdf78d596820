//! A bad month in a minute: every part runs as it is delivered, and chance kills, freezes, restarts, cuts off and reconfigures them while
//! people click, send forms and work in HubSpot. In the end nothing is lost, nothing doubled, and no deal was moved wrongly.
//!
//! # Meaning
//! The parts are real: Apache Kafka, ClickHouse, PostgreSQL for the connections, the redirect server and `clickline run` as processes, and the
//! HubSpot sandbox, which mirrors back what was written to it by webhooks. One random seed chooses what happens and when: first each kind of
//! fault once ([`faults`]), then whatever chance says.
//! Then everything is let go on until it is quiet, and judged:
//!
//! - every answered redirect is in `clicks`, once (`durable` capture);
//! - the output topics hold what the oracle works out from the input topics, each record once;
//! - every delta has an outcome; what counts as delivered is in the sandbox once, and nothing else is;
//! - every click is one row in ClickHouse, the totals there are a recount's, and every event is there;
//! - every stage that the app gave a deal follows from a delta of its own, and from the stage that the delta names ([`deal_moves`]).
//!
//! # Cost
//! Not among the tests that `cargo test` runs, but among those of `tests/run`:
//! `cargo test --workspace --test chaos -- --ignored --nocapture`, two minutes.
//! `CLICKLINE_CHAOS_SECONDS=600` is the long form; 60 s unless it says otherwise. `CLICKLINE_SEED=n` repeats the choices of a run, though not
//! its timing. The seed is printed first.

#[path = "../against_oracle/mod.rs"]
#[expect(dead_code, reason = "the visitors and the mirror fill the topics here")]
mod against_oracle;
mod company;
mod crm;
mod deal_moves;
mod faults;
mod judge;
#[path = "../oracle_model/mod.rs"]
mod oracle_model;
mod process;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod visitors;

use against_oracle::{now, number};
use company::Company;
use faults::Deck;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::thread;
use std::time::{Duration, Instant};
use support::clickhouse::ClickHouse;
use support::kafka::Broker;
use support::postgres::Postgres;

#[test]
#[ignore = "takes minutes: cargo test --workspace --test chaos -- --ignored --nocapture"]
fn whatever_goes_wrong_nothing_is_lost_doubled_or_moved_wrongly() {
    let Some(broker) = Broker::start_if_there() else { return };
    let Some(table) = Postgres::start_if_there() else { return };
    let Some(clickhouse) = ClickHouse::start_if_there() else { return };
    let (seconds, seed) = (number("CLICKLINE_CHAOS_SECONDS", 60), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed} CLICKLINE_CHAOS_SECONDS={seconds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut company = Company::open(broker, table, clickhouse, seed, seconds);
    // Logs and configuration stay where the run fails.
    company.course.folder.disable_cleanup(true);
    println!("files are in {}", company.course.folder.path().display());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut deck = Deck::shuffled(&mut rng);
    // A slow machine takes longer until everything has gone wrong once.
    while Instant::now() < end || !deck.dealt() {
        faults::strike(&mut company, &mut deck, &mut rng);
        let pause = Duration::from_millis(rng.random_range(300..1_800));
        let until = Instant::now() + pause;
        while Instant::now() < until {
            crm::work(&mut company, &mut rng);
            thread::sleep(Duration::from_millis(250));
            company.watch();
        }
    }
    judge::judge(company);
}
