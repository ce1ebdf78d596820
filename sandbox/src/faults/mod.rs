//! Faults by script: what goes wrong with which request.
//!
//! [`script`] is the format and says which request a rule hits, [`alter`] what a fault makes of the answer, [`wire`] how that
//! goes over the connection.

pub(crate) mod alter;
pub(crate) mod script;
pub(crate) mod wire;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use script::{Asked, Fault, Rule, RuleSpec, Script};
use serde_json::{Value, json};

/// The script that is being played.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    seed: u64,
    /// Rules since the last script, for their names and their randomness.
    made: usize,
}

/// A request that is hit.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The rule's name.
    pub name: String,
    pub fault: Fault,
    /// For what the fault leaves to chance.
    pub rng: StdRng,
}

impl Faults {
    /// Plays a script instead of the one before. A script with a mistake changes nothing.
    pub fn play(&mut self, script: Script) -> Result<(), String> {
        let mut fresh = Self { seed: script.seed, ..Self::default() };
        for spec in script.rules {
            fresh.add(spec)?;
        }
        *self = fresh;
        Ok(())
    }

    /// Adds a rule after all others; gives back its name.
    pub fn add(&mut self, mut spec: RuleSpec) -> Result<String, String> {
        let index = self.made + 1;
        let name = spec.name.get_or_insert_with(|| format!("rule {index}")).clone();
        let rule = Rule::new(spec, self.seed, index).map_err(|why| format!("{name}: {why}"))?;
        self.made = index;
        self.rules.push(rule);
        Ok(name)
    }

    /// Ends the script.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lets every rule count the request; the first one that hits it is the one.
    pub fn hit(&mut self, asked: Asked<'_>) -> Option<Hit> {
        let mut first = None;
        for rule in &mut self.rules {
            // Not `find`: the rules behind the first one count, too.
            if rule.hits(asked) && first.is_none() {
                let rng = StdRng::seed_from_u64(rule.rng.random());
                first = Some(Hit { name: rule.spec.name.clone().unwrap_or_default(), fault: rule.spec.fault.clone(), rng });
            }
        }
        first
    }

    /// The rules with what they have counted.
    pub fn show(&self) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(|r| json!({ "rule": r.spec, "seen": r.seen, "hit": r.hit })).collect();
        json!({ "seed": self.seed, "rules": rules })
    }
}
