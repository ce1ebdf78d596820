//! The same dataflow over files: what went into the topics as JSON lines, what would have come out as JSON lines.

use crate::dataflow::build;
use crate::dataflow::plan::Plan;
use crate::engine;
use crate::model::outputs::Topic;
use crate::sinks::outbox::{deliver, files as outbox};
use crate::sources::files::{Files, files};
use crate::sources::{Kind, Meter};
use crate::stop::Stop;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::empty;

/// What to replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Input files; `-` is standard input. Of two records with one id in one tick, the one in the earlier file counts.
    pub files: Vec<(Kind, String)>,
    /// What to compute.
    pub plan: Plan,
    /// Folder for the outputs; its files are written anew.
    pub out: PathBuf,
    /// Worker threads.
    pub workers: usize,
}

/// What a replay did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Records read, by kind, dead letters among them.
    pub read: Vec<(Kind, u64)>,
    /// Records written, by topic.
    pub written: Vec<(Topic, u64)>,
    /// From opening the files to the last byte written.
    pub took: Duration,
}

impl Replay {
    /// Runs to the end of the files, or until `stop` is asked.
    ///
    /// # Errors
    /// A file that can't be opened, read or written; the outputs are then incomplete.
    pub fn run(self, meter: &Arc<Meter>, stop: &Stop) -> anyhow::Result<Summary> {
        let began = Instant::now();
        let opened = Files::open(&self.files, self.plan.times, Arc::clone(meter))?;
        let written = Arc::new(outbox::Written::default());
        let door = outbox::Files::create(&self.out, Arc::clone(&written), stop.clone())?;
        // Workers share one closure; the first one to come, worker 0, takes what can be had only once.
        let (opened, door) = (Mutex::new(Some(opened)), Mutex::new(Some(door)));
        let (plan, asked) = (Arc::new(self.plan), stop.clone());
        engine::run(self.workers, stop, move |scope, worker, probe| {
            let (opened, door) = if worker == 0 { (take(&opened), take(&door)) } else { (None, None) };
            let arrivals = files(scope, opened, probe.clone(), asked.clone());
            deliver(build(arrivals, &plan), empty(scope), 0, door).probe_with(probe);
        })?;
        Ok(Summary {
            read: Kind::ALL.into_iter().map(|kind| (kind, meter.records(kind))).collect(),
            written: Topic::ALL.into_iter().map(|topic| (topic, written.records(topic))).collect(),
            took: began.elapsed(),
        })
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules;
    use crate::dataflow::plan::{Times, WorkspaceSpec};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    const START: u64 = 1_763_800_000_000;

    fn plan() -> Plan {
        let rules = rules::read(
            "trigger: {link_tag: sales, contact_window: 30d, click_threshold: 3}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}\n",
        )
        .expect("a rule");
        let specs = [WorkspaceSpec { name: "acme".into(), portals: vec!["1".into()], ..WorkspaceSpec::default() }];
        Plan::new(Times::with_tick(1_000), &specs, &rules, |_, _| 0).expect("a plan")
    }

    /// Clicks of two contacts, a bad line in the middle, forms that name a click id.
    fn write_inputs(folder: &Path) -> Vec<(Kind, String)> {
        let mut clicks = String::new();
        for n in 0..40u64 {
            let ts = START + n * 7_919;
            let who = if n % 4 == 0 { format!(r#""gclid":"g{n}""#) } else { format!(r#""contact_id":"{}""#, n % 2) };
            clicks += &format!(r#"{{"id":"c{n}","ts":{ts},"workspace":"acme","link":"s/x","tags":["sales"],{who}}}"#);
            clicks.push('\n');
            if n == 20 {
                clicks += "not json\n";
            }
        }
        let mut forms = GzEncoder::new(Vec::new(), Compression::fast());
        for n in [4u64, 8, 12] {
            let ts = START + n * 7_919 + 60_000;
            writeln!(forms, r#"{{"id":"f{n}","ts":{ts},"workspace":"acme","email":"Ada@Example.com","gclid":"g{n}"}}"#).expect("memory");
        }
        let contacts = r#"{"portal":"1","contact_id":"1","email":"ada@example.com"}"#;
        let deals = r#"{"portal":"1","deal_id":"d1","pipeline":"p","stage":"a","contact_ids":["1"]}"#;
        let path = |name: &str| folder.join(name).display().to_string();
        fs::write(path("clicks.jsonl"), clicks).expect("writes");
        fs::write(path("forms.jsonl.gz"), forms.finish().expect("memory")).expect("writes");
        fs::write(path("contacts.jsonl"), contacts).expect("writes");
        fs::write(path("deals.jsonl"), deals).expect("writes");
        vec![
            (Kind::Clicks, path("clicks.jsonl")),
            (Kind::Forms, path("forms.jsonl.gz")),
            (Kind::Contacts, path("contacts.jsonl")),
            (Kind::Deals, path("deals.jsonl")),
        ]
    }

    fn outputs(folder: &Path) -> Vec<(Topic, Vec<u8>)> {
        let read = |topic: Topic| fs::read(folder.join(format!("{}.jsonl", topic.default_name()))).expect("exists");
        Topic::ALL.into_iter().map(|topic| (topic, read(topic))).collect()
    }

    #[test]
    fn a_replay_is_the_same_bytes_on_any_number_of_workers() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = write_inputs(folder.path());
        let mut seen = Vec::new();
        for workers in 1..=3 {
            let out = folder.path().join(format!("out{workers}"));
            let replay = Replay { files: files.clone(), plan: plan(), out: out.clone(), workers };
            let summary = replay.run(&Arc::default(), &Stop::new()).expect("runs");
            assert_eq!(summary.read.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [41, 3, 1, 1]);
            let said = |topic| summary.written.iter().find(|(t, _)| *t == topic).expect("counted").1;
            // 30 named by the link, 3 by a form.
            assert_eq!((said(Topic::Timeline), said(Topic::DealStages), said(Topic::DeadLetters)), (33, 1, 1));
            seen.push(outputs(&out));
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0], seen[2]);
        let dead = String::from_utf8(seen[0][Topic::DeadLetters as usize].1.clone()).expect("UTF-8");
        assert!(dead.contains(r#""offset":22"#) && dead.contains(r#""reason":"json""#), "{dead}");
    }

    #[test]
    fn a_missing_file_ends_it_before_anything_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let replay = Replay { files: vec![(Kind::Clicks, "no-such-file".into())], plan: plan(), out: out.clone(), workers: 1 };
        let error = replay.run(&Arc::default(), &Stop::new()).expect_err("missing");
        assert!(format!("{error:#}").contains("no-such-file"));
        assert!(!out.exists());
    }

    #[test]
    fn a_file_that_breaks_off_ends_it_with_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        (0..20_000).for_each(|n| writeln!(packed, r#"{{"id":"{n}","ts":{},"workspace":"acme","link":"l"}}"#, START + n).expect("memory"));
        let mut packed = packed.finish().expect("memory");
        packed.truncate(packed.len() / 2);
        let path = folder.path().join("clicks.gz");
        fs::write(&path, packed).expect("writes");
        let files = vec![(Kind::Clicks, path.display().to_string())];
        let replay = Replay { files, plan: plan(), out: folder.path().join("out"), workers: 2 };
        let error = replay.run(&Arc::default(), &Stop::new()).expect_err("cut short");
        assert!(format!("{error:#}").contains("clicks.gz after line"), "{error:#}");
    }
}
