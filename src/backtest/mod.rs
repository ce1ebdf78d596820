//! What rules would have done: which deals each would have advanced, when, and worth how much, for many thresholds and
//! windows at once.
//!
//! # Meaning
//! The dataflow runs once over a history, with a rule for every threshold and window that is asked for; counts are shared,
//! as they are between any rules. A deal counts as advanced by a variant at the tick in which the job would have written
//! its stage delta. Nothing here knows the contract: what is not the dataflow's is sums.
//!
//! # Ties and edges
//! - The first advance of a deal by a variant counts; later ones (another hot period, another person) are repetitions.
//! - What a deal is worth is its amount at that tick; a deal without one is counted, and adds nothing.
//! - A backtest moves nothing: a deal stays in its stage until the history says otherwise, so rules that follow each
//!   other do not see each other's moves.
//!
//! # Cost
//! That of the job with as many rules. Every state of every deal is kept in memory, and every advance.

pub mod chart;
mod journal;
pub mod report;
pub mod variants;

use crate::dataflow::plan::Plan;
use crate::history::{History, Run};
use crate::sources::{Kind, Meter};
use journal::Journal;
use report::{Range, Report};
use std::sync::Arc;
use variants::Variants;

/// What to try on what.
#[derive(Clone, Debug)]
pub struct Backtest {
    /// Where the records are.
    pub history: History,
    /// The rules in all their variants.
    pub variants: Variants,
    /// A plan of [`Variants::rules`].
    pub plan: Plan,
    /// Which advances are told.
    pub range: Range,
    /// Worker threads.
    pub workers: usize,
}

impl Backtest {
    /// Runs over the history to its end.
    ///
    /// # Errors
    /// A file that can't be read, brokers that do not answer, a topic that does not exist.
    pub fn run(self, meter: &Arc<Meter>) -> anyhow::Result<Report> {
        let Backtest { history, variants, plan, range, workers } = self;
        let plan = Arc::new(plan);
        let from_files = matches!(history, History::Files(_));
        let run = Run { history, kinds: Kind::ALL.to_vec(), plan: Some(Arc::clone(&plan)), times: plan.times, workers, until: None };
        let (journal, end) = run.listen(Journal::default(), meter)?;
        Ok(report::report(&journal, &variants, &plan, &range, from_files, end))
    }
}
