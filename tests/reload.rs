//! SIGHUP to the real `clickline run` on a real Apache Kafka: the job goes over to the rules that stand in the file then, and what comes out
//! is what the oracle says for a stop and a start at that point; a file that is wrong, or another job's, changes nothing.

mod against_oracle;
mod oracle_model;
mod support;

use against_oracle::{Course, Verdict, frontier, now, number};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::fs;
use std::process::{Command, Stdio};
use support::kafka::Broker;
use support::process::wait_for;

/// Its log, and the process, which is killed when the test fails.
struct Running(std::process::Child, std::path::PathBuf);

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.1).unwrap_or_default()
    }

    fn times_said(&self, words: &str) -> usize {
        self.said().matches(words).count()
    }

    /// Waits until it has said something once more than `before`.
    fn wait_to_say(&mut self, words: &str, before: usize) {
        wait_for(&format!("the job to say `{words}`"), || {
            if let Some(status) = self.0.try_wait().expect("our own child") {
                panic!("the job ended by itself: {status}\n{}", self.said());
            }
            (self.times_said(words) > before).then_some(())
        });
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} reaches our own child");
    }

    /// Sends SIGHUP and waits until these words are said once more.
    fn reload(&mut self, words: &str) {
        let before = self.times_said(words);
        self.signal("HUP");
        self.wait_to_say(words, before);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rules_that_are_reloaded_are_as_those_of_a_new_start_and_wrong_ones_change_nothing() {
    let Some(broker) = Broker::start_if_there() else { return };
    let (reloads, seed) = (number("CLICKLINE_RELOADS", 6), number("CLICKLINE_SEED", now()));
    println!("CLICKLINE_SEED={seed} CLICKLINE_RELOADS={reloads}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut course = Course::begin(broker, seed, reloads);
    let log = course.folder.path().join("job.log");
    let file = || fs::File::options().create(true).append(true).open(&log).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["run", "--no-sink", "--workers", "2", "--config"]).arg(&course.config);
    command.stdin(Stdio::null()).stdout(file()).stderr(file()).env_remove("CLICKLINE_FAILPOINT").env("RUST_LOG", "info");
    let mut job = Running(command.spawn().expect("starts"), log.clone());
    const READY: &str = "ready: outputs are new from here on";
    job.wait_to_say(READY, 0);
    let refused = "configuration not reloaded";
    job.reload("nothing is different");
    let mut starts = 1;
    for round in 0..reloads {
        let right = fs::read_to_string(&course.config).expect("a file");
        let wrong = match round % 3 {
            0 => (right.replacen("click_threshold", "click_treshold", 1), "did you mean `click_threshold`?"),
            1 => (format!("{right}\nsnapshots: none\nwrokers: 2\n"), "did you mean `workers`?"),
            _ => (format!("{right}\nsnapshots: none\n"), "only a new process takes these up"),
        };
        fs::write(&course.config, &wrong.0).expect("writes");
        // A process that is still catching up must keep what it has, too.
        job.reload(wrong.1);
        fs::write(&course.config, &right).expect("writes");
        while fs::read_to_string(&course.config).expect("a file") == right {
            course.change_rules(&mut rng);
        }
        let ready = job.times_said(READY);
        job.reload("going over to the new configuration");
        starts += 1;
        job.wait_to_say(READY, ready);
    }
    assert_eq!(job.times_said("the job starts"), starts, "{}", job.said());
    assert!(job.times_said(refused) > usize::try_from(reloads).expect("few"));
    let end = course.last_tick();
    wait_for("the job's clock", || (frontier(&course.broker) > end).then_some(()));
    job.signal("TERM");
    assert!(job.0.wait().expect("our own child").success(), "SIGTERM ends it with 0:\n{}", job.said());
    let Verdict { records, outputs, changes, took } = course.judge(end);
    println!("{records} records, {outputs} outputs, {reloads} reloads in {} s, {changes} versions and ends of rules", took.as_secs());
}
