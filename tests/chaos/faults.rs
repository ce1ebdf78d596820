//! What goes wrong.

use crate::company::Company;
use crate::process::Process;
use crate::support::process::wait_for;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::Duration;

/// What goes wrong next: first each of [`FAULTS`] once, in any order; then whatever chance says.
pub struct Deck(Vec<&'static str>);

impl Deck {
    pub fn shuffled(rng: &mut StdRng) -> Deck {
        let mut names: Vec<_> = FAULTS.iter().map(|(_, name)| *name).collect();
        names.shuffle(rng);
        Deck(names)
    }

    /// Whether each has been there.
    pub fn dealt(&self) -> bool {
        self.0.is_empty()
    }

    fn draw(&mut self, rng: &mut StdRng) -> &'static str {
        self.0.pop().unwrap_or_else(|| FAULTS.choose_weighted(rng, |(weight, _)| *weight).expect("some").1)
    }
}

/// One thing goes wrong, and is mended as far as an operator or a supervisor would.
pub fn strike(company: &mut Company, deck: &mut Deck, rng: &mut StdRng) {
    let moment = Duration::from_millis(rng.random_range(100..3_000));
    let what = deck.draw(rng);
    company.count(what);
    match what {
        "the job is killed" => {
            company.take_job().kill();
            company.start_job();
        }
        "the job is killed while it starts" => {
            company.take_job().kill();
            company.start_job();
            thread::sleep(moment / 4);
            company.take_job().kill();
            company.start_job();
        }
        "the job is stopped" => {
            stop_job(company);
            company.start_job();
        }
        "the job is frozen" => company.freeze_job(moment),
        "the rules change" => {
            company.course.change_rules(rng);
            stop_job(company);
            company.start_job();
        }
        "the rules are reloaded" => {
            company.course.change_rules(rng);
            // One that is still starting has no ear for the signal.
            if company.job_answers() {
                company.job.as_ref().expect("runs").signal("HUP");
            } else {
                stop_job(company);
                company.start_job();
            }
        }
        "the redirect server is killed" => {
            company.redirect.take().expect("runs").kill();
            company.start_redirect();
        }
        "the redirect server is stopped" => {
            let status = company.redirect.take().expect("runs").stop();
            assert!(status.success(), "a redirect server with a spool ends with 0, not {status}");
            company.start_redirect();
        }
        "the redirect server is frozen" => company.redirect.as_ref().expect("runs").freeze(moment / 2),
        "the broker is killed" => {
            company.course.broker.kill();
            thread::sleep(moment);
            company.course.broker.restart();
        }
        "the broker is stopped" => {
            company.course.broker.stop();
            thread::sleep(moment);
            company.course.broker.restart();
        }
        "the broker is frozen" => {
            company.course.broker.freeze();
            thread::sleep(moment);
            company.course.broker.thaw();
        }
        "the connections' database is away" => {
            company.table.stop();
            thread::sleep(moment);
            company.table.start();
        }
        "the connections' database is killed" => {
            company.table.kill();
            thread::sleep(moment);
            company.table.start();
        }
        "the connections' database is frozen" => {
            company.table.signal("STOP");
            thread::sleep(moment);
            company.table.signal("CONT");
        }
        "the connections' database is put back from a backup" => restore(company),
        "ClickHouse is killed" => {
            company.clickhouse.kill();
            thread::sleep(moment);
            company.clickhouse.restart();
        }
        "ClickHouse is frozen" => {
            company.clickhouse.signal("STOP");
            thread::sleep(2 * moment);
            company.clickhouse.signal("CONT");
        }
        "the clocks jump" => {
            // Clicks that are ahead by more than `max_future`, 5 minutes, are dead letters.
            let ms: i64 = *[500, 61_000, 290_000, 310_000, 3 * 3_600_000, -500, -61_000, -3 * 3_600_000].choose(rng).expect("some");
            company.shift_clocks(ms);
            thread::sleep(moment);
            // They are put right at once, which is a jump, too.
            company.shift_clocks(0);
        }
        "HubSpot is out of order" => {
            let faults = [
                json!({ "kind": "reply", "status": 503 }),
                json!({ "kind": "close", "apply": false }),
                json!({ "kind": "close", "apply": true }),
                json!({ "kind": "reply", "status": 429, "policy": "TEN_SECONDLY_ROLLING" }),
            ];
            let fault = faults.choose(rng).expect("some");
            outage(company, 0.8, fault, 2 * moment);
        }
        "HubSpot does not answer" => {
            // Longer than a request may take; the effect is there or not.
            let fault = json!({ "kind": "hold", "ms": 4_000, "apply": rng.random_bool(0.5) });
            outage(company, 1.0, &fault, 2 * moment);
        }
        other => unreachable!("{other}"),
    }
}

/// How often beside the others, and what.
const FAULTS: [(u32, &str); 21] = [
    (8, "the job is killed"),
    (4, "the job is killed while it starts"),
    (4, "the job is stopped"),
    (4, "the job is frozen"),
    (3, "the rules change"),
    (3, "the rules are reloaded"),
    (6, "the redirect server is killed"),
    (3, "the redirect server is stopped"),
    (3, "the redirect server is frozen"),
    (3, "the broker is killed"),
    (3, "the broker is stopped"),
    (3, "the broker is frozen"),
    (4, "HubSpot is out of order"),
    (2, "HubSpot does not answer"),
    (2, "the connections' database is away"),
    (2, "the connections' database is killed"),
    (2, "the connections' database is frozen"),
    (4, "the connections' database is put back from a backup"),
    (3, "ClickHouse is killed"),
    (3, "ClickHouse is frozen"),
    (6, "the clocks jump"),
];

fn outage(company: &mut Company, probability: f64, fault: &Value, lasts: Duration) {
    company.begin_outage(lasts);
    company.sandbox.play_faults(json!({ "seed": 1, "rules": [{ "match": { "probability": probability }, "fault": fault }] }));
}

fn stop_job(company: &mut Company) {
    let job: Process = company.take_job();
    let status = job.stop();
    // One that was about to end by itself says 1, and one that has just been started has no ear for the signal yet.
    assert!(matches!((status.code(), status.signal()), (Some(0 | 1), _) | (None, Some(15))), "{status}");
}

/// Rows of an older day come back, as from a backup; then a person installs the app again, as the job asks for.
fn restore(company: &mut Company) {
    // The job may not have got so far yet.
    wait_for("connections that can be backed up", || {
        company.table.try_script("drop table if exists backup; create table backup as select * from clickline_connections;").ok()
    });
    company.expire_access_tokens();
    thread::sleep(Duration::from_secs(1));
    stop_job(company);
    company.table.script("delete from clickline_connections; insert into clickline_connections select * from backup;");
    company.install_anew();
    company.start_job();
}
