//! `clickline explain`: why a contact's or deal's state is what it is.

mod show;

use super::Failure;
use super::inputs::past::{Past, moment_or_day};
use super::replay::show::Bar;
use crate::explain::{Asked, Explain, ExplainError};
use crate::history::History;
use crate::model::time::Ms;
use crate::sinks::outbox::kafka as outbox;
use crate::sources::{Kind, Meter};
use anyhow::Context as _;
use std::io::{self, Write as _};
use std::sync::Arc;

/// Arguments of `explain`. Files are JSON lines, plain or gzip.
#[derive(Debug, clap::Args)]
#[group(id = "asked", args = ["contact", "deal"], required = true, multiple = false)]
pub struct Args {
    /// A contact: HubSpot's id or an e-mail, also one of a contact that was merged into another.
    #[arg(long, value_name = "ID|EMAIL")]
    pub contact: Option<String>,
    /// A deal: HubSpot's id.
    #[arg(long, value_name = "ID")]
    pub deal: Option<String>,
    /// HubSpot account; needed where several know the contact or deal.
    #[arg(long, value_name = "ID")]
    pub portal: Option<String>,
    /// As it stood at this moment, or at the end of this day (UTC); else at the end of the history.
    #[arg(long, value_name = "WHEN", value_parser = moment_or_day)]
    pub at: Option<Ms>,
    /// How it is told.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Files or topics.
    #[command(flatten)]
    pub past: Past,
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// All of it, for tools.
    Json,
}

/// Finds out and tells.
///
/// # Errors
/// Arguments, rules or a configuration that are wrong; somebody of whom nothing is known; a file or topic that can't be read.
pub fn run(args: &Args) -> Result<(), Failure> {
    let meter = Arc::new(Meter::default());
    let explain = dated(prepare(args)?, args)?;
    let files = match &explain.history {
        // All but the clicks are read twice.
        History::Files(files) => files.iter().chain(files.iter().filter(|(kind, _)| *kind != Kind::Clicks)).cloned().collect(),
        History::Topics(..) => Vec::new(),
    };
    let bar = Bar::start(&files, &meter);
    let ended = explain.run(&meter);
    drop(bar);
    let explanation = ended.map_err(|error| match error {
        ExplainError::Unclear(_) => Failure::configuration(error),
        ExplainError::Unknown { .. } => Failure::Failed(error.into()),
        ExplainError::Failed(error) => Failure::Failed(error),
    })?;
    let text = match args.format {
        Format::Text => show::text(&explanation),
        Format::Json => serde_json::to_string_pretty(&explanation).context("our own records are JSON")? + "\n",
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has had enough, such as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output").map_err(Failure::Failed),
    }
}

fn prepare(args: &Args) -> Result<Explain, Failure> {
    let asked = match (&args.contact, &args.deal) {
        (Some(contact), _) => Asked::contact(contact),
        (None, deal) => Asked::Deal(deal.clone().unwrap_or_default()),
    };
    let world = args.past.world()?;
    let plan = world.plan(world.rules.clone())?;
    Ok(Explain { history: world.history, plan, asked, portal: args.portal.clone(), until: args.at, workers: world.workers })
}

/// Rules of a job that runs are as old as it says itself. Others, which are only tried, are taken to have always been there.
fn dated(mut explain: Explain, args: &Args) -> Result<Explain, Failure> {
    if let History::Topics(kafka, _) = &explain.history
        && args.past.rules.is_none()
    {
        let progress = outbox::look(kafka).context("since when each rule has been there is not known")?;
        explain.plan.date_rules(progress.as_ref().map(|progress| (&progress.rules, progress.frontier)));
    }
    Ok(explain)
}

#[cfg(test)]
mod tests;
