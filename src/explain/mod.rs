//! Why a contact's or a deal's state is what it is: clicks and how each was resolved, counts, rules, guards, deltas.
//!
//! # Meaning
//! The history is read twice. The first time only contacts, deals and forms are kept: they say who the contact is, with
//! everybody merged into it and all its e-mails, or whom the deal names. The second time the dataflow runs over all of it
//! and what it says of them is kept. Counts, hot periods and deltas are the dataflow's own words; which clicks make up a
//! count is told by their times.
//!
//! # Ties and edges
//! "Now" is the end of the history: the moment of asking for topics, the last record for files, or an earlier or later
//! moment that is asked for. Who belongs to a contact is taken as it stands then.
//!
//! # Cost
//! Two runs over the history. Contacts, deals and forms are in memory; of the clicks only those in question.

mod mirror;
pub mod story;
mod witness;

use crate::dataflow::plan::Plan;
use crate::history::{History, Run};
use crate::model::inputs::normal_email;
use crate::model::time::Ms;
use crate::sources::{Kind, Meter};
use mirror::Mirror;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use story::Explanation;
use ustr::{Ustr, ustr};
use witness::Witness;

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A contact by HubSpot's id.
    Contact(String),
    /// A contact by one of its e-mails, in their normal form.
    Email(String),
    /// A deal by HubSpot's id.
    Deal(String),
}

impl Asked {
    /// A contact's id, or an e-mail: what has an `@`.
    pub fn contact(text: &str) -> Self {
        if text.contains('@') { Asked::Email(normal_email(text).into_owned()) } else { Asked::Contact(text.trim().to_owned()) }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Contact(id) => write!(f, "contact {id}"),
            Asked::Email(email) => write!(f, "contact {email}"),
            Asked::Deal(id) => write!(f, "deal {id}"),
        }
    }
}

/// What to explain, and from which history.
#[derive(Clone, Debug)]
pub struct Explain {
    /// Where the records are.
    pub history: History,
    /// What is computed from them.
    pub plan: Plan,
    /// Who is asked about.
    pub asked: Asked,
    /// HubSpot account; needed where several know them.
    pub portal: Option<String>,
    /// The moment, ms; `None`: the end of the history.
    pub until: Option<Ms>,
    /// Worker threads.
    pub workers: usize,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nothing in the history is about them.
    #[error("nothing is known of {asked} in portal {portal}: no record, click or form of the history is about them")]
    Unknown {
        /// Who was asked about.
        asked: String,
        /// Where.
        portal: String,
    },
    /// It is not clear what is meant, or it can't be done so.
    #[error("{0}")]
    Unclear(String),
    /// The history can't be read.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Explain {
    /// Finds out.
    ///
    /// # Errors
    /// Somebody of whom nothing is known, several portals, a history that can't be read.
    pub fn run(self, meter: &Arc<Meter>) -> Result<Explanation, ExplainError> {
        let Explain { history, plan, asked, portal, until, workers } = self;
        let plan = Arc::new(plan);
        let states = vec![Kind::Contacts, Kind::Deals, Kind::Forms];
        if let History::Files(files) = &history
            && files.iter().any(|(kind, path)| path == "-" && states.contains(kind))
        {
            let problem = "contacts, deals and forms are read twice, which standard input can't be: put them into files";
            return Err(ExplainError::Unclear(problem.to_owned()));
        }
        let from_topics = matches!(history, History::Topics(..));
        let run = Run { history: history.clone(), kinds: states, plan: None, times: plan.times, workers, until };
        let (mirror, end) = run.listen(Mirror::default(), meter)?;
        let known = mirror.known();
        let portal = choose(&plan, portal.as_deref(), |portal| known.knows(portal, &asked), &asked)?;
        let wanted = known.wanted(portal, &asked);
        // The clock of the topics runs on: both runs have to end at the same tick.
        let until = if from_topics { Some(end) } else { until };
        let run = Run { history, kinds: Kind::ALL.to_vec(), plan: Some(Arc::clone(&plan)), times: plan.times, workers, until };
        let (witness, end) = run.listen(Witness::new(wanted), meter)?;
        if !known.knows(portal, &asked) && witness.has_nothing() {
            return Err(ExplainError::Unknown { asked: asked.to_string(), portal: portal.to_string() });
        }
        Ok(story::tell(&known, &witness, &plan, &asked, end))
    }
}

/// The portal that is meant.
fn choose(plan: &Plan, given: Option<&str>, knows: impl Fn(Ustr) -> bool, asked: &Asked) -> Result<Ustr, ExplainError> {
    let connections = plan.workspaces.values().flat_map(|workspace| &workspace.connections);
    let portals: BTreeSet<Ustr> = connections.map(|connection| connection.portal).collect();
    let list = |portals: &[Ustr]| portals.iter().map(Ustr::as_str).collect::<Vec<_>>().join(", ");
    let all: Vec<Ustr> = portals.iter().copied().collect();
    if let Some(given) = given {
        let found = portals.get(&ustr(given)).copied();
        return found.ok_or_else(|| ExplainError::Unclear(format!("no workspace is connected to portal {given}; there is {}", list(&all))));
    }
    let knowing: Vec<Ustr> = portals.into_iter().filter(|portal| knows(*portal)).collect();
    match (all.as_slice(), knowing.as_slice()) {
        ([only], _) | (_, [only]) => Ok(*only),
        ([], _) => Err(ExplainError::Unclear("no workspace is connected to a portal".to_owned())),
        (_, []) => {
            Err(ExplainError::Unclear(format!("none of the portals {} has a record of {asked}; say which with --portal", list(&all))))
        }
        (_, several) => Err(ExplainError::Unclear(format!("the portals {} all know {asked}; say which with --portal", list(several)))),
    }
}
