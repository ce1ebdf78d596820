//! What has to be the same in all processes of a job.
//!
//! # Meaning
//! Rules, workspaces, times, topics, brokers and the number of workers decide what a worker computes and which worker a
//! row belongs to. Were one of them different in one process, outputs would be wrong in silence. So the processes compare
//! them before they begin, by digest.
//!
//! The executable counts, too: rows cross as bytes that only the same build can read, and a name's hash, by which its
//! worker is chosen, is the same on all machines for the same build only. That hash is compared by itself as well.
//!
//! # Not guaranteed
//! Client options under `kafka.properties` are not compared: a key file may lie elsewhere on each machine. Nor is what
//! `brokers` leads to, only the text.

use crate::dataflow::plan::Plan;
use crate::dataflow::rows::{Candidate, Subject, Who};
use crate::kafka::Kafka;
use differential_dataflow::Hashable as _;
use foldhash::quality::FixedState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::Read as _;
use std::sync::LazyLock;
use ustr::ustr;

/// Digests by what they are of, and numbers in clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms(BTreeMap<String, String>);

impl Terms {
    /// Of a process that computes `plan` with `workers` threads in one of `processes`.
    pub fn of(plan: &Plan, kafka: &Kafka, workers: usize, processes: usize) -> Self {
        let workspaces: BTreeMap<&str, _> =
            plan.workspaces.iter().map(|(name, workspace)| (name.as_str(), (&workspace.connections, workspace.counts))).collect();
        let properties: BTreeMap<_, _> = plan.utm_properties.iter().collect();
        let rules: Vec<_> = plan.rules.iter().map(|planned| &planned.rule).collect();
        let terms = [
            ("the executable", EXECUTABLE.clone()),
            ("how names are spread over workers", digest(&spread())),
            ("the number of processes", processes.to_string()),
            ("workers", workers.to_string()),
            ("kafka.brokers", kafka.brokers.clone()),
            ("kafka.topics", digest(&kafka.topics)),
            ("tick and times", digest(&plan.times)),
            ("workspaces", digest(&(workspaces, properties))),
            ("rules", digest(&rules)),
        ];
        Terms(terms.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// What is not the same, in words; nothing where all is.
    pub fn differences(&self, other: &Terms) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let unequal = |name: &&&String| self.0.get(**name) != other.0.get(**name);
        let in_words = |name: &String| match (self.0.get(name), other.0.get(name)) {
            (Some(mine), Some(other)) if mine.len() < 32 && other.len() < 32 => format!("{name} ({mine} and {other})"),
            _ => name.clone(),
        };
        names.iter().filter(unequal).map(|name| in_words(name)).collect()
    }
}

/// A digest of how a value is printed; the executable, and so the printing, is the same everywhere.
fn digest(value: &impl Debug) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{value:?}").as_bytes()).to_string()
}

/// Where some names go: by the routes of our own operators, and by the hash that arrangements are spread by. The latter is
/// random in every process if any dependency of the build turns that on, and joins would then find nothing.
fn spread() -> Vec<(u64, u64)> {
    let subject = |n: u32| Subject { workspace: ustr("w"), portal: ustr("p"), who: Who::contact(&n.to_string()) };
    (0..32).map(subject).map(|subject| (subject.route(), Candidate { rule: 0, subject }.hashed())).collect()
}

/// A digest of the running program; its version where it can't be read.
pub(crate) static EXECUTABLE: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    executable().map_or_else(|_| version.to_owned(), |(bytes, digest)| format!("{version}, {bytes} bytes, {digest:016x}"))
});

fn executable() -> std::io::Result<(u64, u64)> {
    // The running one, also when the file has been replaced meanwhile.
    let file = File::open("/proc/self/exe").or_else(|_| std::env::current_exe().and_then(File::open))?;
    let (mut bytes, mut digest, mut block) = (0, 0, Vec::new());
    // Blocks are filled to the brim: where one ends must not depend on the file system.
    while (&file).take(1 << 20).read_to_end(&mut block)? > 0 {
        bytes += block.len() as u64;
        // A fast hash will do: nobody forges the program.
        digest = FixedState::with_seed(digest).hash_one(&block);
        block.clear();
    }
    Ok((bytes, digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules;
    use crate::dataflow::plan::{Times, WorkspaceSpec};

    fn plan(rules: &[u64], workspaces: &[&str]) -> Plan {
        let rule = |n: &u64| {
            format!(
                "- trigger: {{link_tag: x, contact_window: 30d, click_threshold: {n}}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
            )
        };
        let rules = rules::read(&rules.iter().map(rule).collect::<String>()).expect("rules");
        let spec = |name: &&str| WorkspaceSpec { name: (*name).to_owned(), portals: vec!["1".into()], ..WorkspaceSpec::default() };
        let specs: Vec<_> = workspaces.iter().map(spec).collect();
        Plan::new(Times::with_tick(100), &specs, &rules, |_, _| 0).expect("a plan")
    }

    fn terms(plan: &Plan) -> Terms {
        Terms::of(plan, &Kafka::at("b:1"), 2, 3)
    }

    #[test]
    fn the_same_configuration_has_the_same_terms() {
        let names: Vec<String> = (0..50).map(|n| format!("w{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // A plan's maps are in another order each time.
        let (one, other) = (terms(&plan(&[5, 6], &names)), terms(&plan(&[5, 6], &names)));
        assert_eq!(one.differences(&other), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named() {
        let (plan_of_two, kafka) = (plan(&[5, 6], &["a", "b"]), Kafka::at("b:1"));
        let mine = terms(&plan_of_two);
        assert_eq!(mine.differences(&terms(&plan(&[6, 5], &["a", "b"]))), ["rules"], "their order counts: rows name them by number");
        assert_eq!(mine.differences(&terms(&plan(&[5], &["a", "b"]))), ["rules"]);
        assert_eq!(mine.differences(&terms(&plan(&[5, 6], &["a", "c"]))), ["rules", "workspaces"]);
        assert_eq!(mine.differences(&Terms::of(&plan_of_two, &kafka, 4, 3)), ["workers (2 and 4)"]);
        assert_eq!(mine.differences(&Terms::of(&plan_of_two, &kafka, 2, 2)), ["the number of processes (3 and 2)"]);
        assert_eq!(mine.differences(&Terms::of(&plan_of_two, &Kafka::at("c:1"), 2, 3)), ["kafka.brokers (b:1 and c:1)"]);
        let slower = Plan { times: Times { dedupe_horizon: 1, ..plan_of_two.times }, ..plan_of_two };
        assert_eq!(mine.differences(&terms(&slower)), ["tick and times"]);
        let mut newer = mine.clone();
        newer.0.insert("something new".to_owned(), "1".to_owned());
        assert_eq!(mine.differences(&newer), ["something new"]);
    }

    #[test]
    fn names_are_spread_over_workers() {
        let workers: BTreeSet<u64> = spread().iter().map(|(route, _)| route % 4).collect();
        assert_eq!(workers.len(), 4);
        assert_eq!(executable().expect("this program"), executable().expect("this program"));
    }
}
