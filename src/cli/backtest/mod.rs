//! `clickline backtest`: what rules would have done.

mod show;

use super::Failure;
use super::inputs::past::{Past, moment, moment_or_day};
use super::replay::show::Bar;
use crate::backtest::report::Range;
use crate::backtest::variants::{MAX_VARIANTS, Variants, thresholds, windows};
use crate::backtest::{Backtest, chart};
use crate::history::History;
use crate::model::time::Ms;
use crate::sources::Meter;
use anyhow::{Context as _, anyhow};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `backtest`. Files are JSON lines, plain or gzip; `-` is standard input.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or topics.
    #[command(flatten)]
    pub past: Past,
    /// Thresholds to try, with each rule's own: 3,5,10..50:5 (from 10 to 50 by 5).
    #[arg(long, value_name = "LIST", value_parser = Thresholds::read)]
    pub thresholds: Option<Thresholds>,
    /// Windows to try, with each rule's own: 7d,30d.
    #[arg(long, value_name = "LIST", value_parser = Windows::read)]
    pub windows: Option<Windows>,
    /// Tell only advances from this day (UTC) or moment on; all of the history is counted.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub from: Option<Ms>,
    /// Tell only advances up to this moment, or to the end of this day (UTC).
    #[arg(long, value_name = "WHEN", value_parser = moment_or_day)]
    pub to: Option<Ms>,
    /// How it is told.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// List the deals one by one, repeated advances among them; JSON always does.
    #[arg(long)]
    pub list_deals: bool,
    /// Also draw deals against thresholds, as SVG.
    #[arg(long, value_name = "FILE")]
    pub chart: Option<PathBuf>,
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// A line for each rule, window and threshold; with --list-deals for each advance.
    Csv,
    /// All of it.
    Json,
}

/// A list of thresholds: one argument.
#[derive(Clone, Debug)]
pub struct Thresholds(Vec<u64>);

impl Thresholds {
    fn read(text: &str) -> Result<Self, String> {
        thresholds(text).map(Thresholds)
    }
}

/// A list of windows: one argument.
#[derive(Clone, Debug)]
pub struct Windows(Vec<Ms>);

impl Windows {
    fn read(text: &str) -> Result<Self, String> {
        windows(text).map(Windows)
    }
}

/// Tries the rules and tells what they would have done.
///
/// # Errors
/// Arguments, rules or a configuration that are wrong; a file or topic that can't be read, a chart that can't be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let meter = Arc::new(Meter::default());
    let backtest = prepare(args)?;
    let files = match &backtest.history {
        History::Files(files) => files.clone(),
        History::Topics(..) => Vec::new(),
    };
    let bar = Bar::start(&files, &meter);
    let ended = backtest.run(&meter);
    drop(bar);
    let report = ended?;
    if let Some(path) = &args.chart {
        std::fs::write(path, chart::svg(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = match args.format {
        Format::Table => show::table(&report, args.list_deals),
        Format::Csv => show::csv(&report, args.list_deals)?,
        Format::Json => show::json(&report)?,
    };
    if args.format == Format::Csv {
        // The lines are a tool's; the notes are for whoever looks at it.
        for note in &report.notes {
            tracing::warn!(event = "backtest_note", "{note}");
        }
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has had enough, such as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output").map_err(Failure::Failed),
    }
}

fn prepare(args: &Args) -> Result<Backtest, Failure> {
    let range = Range { from: args.from.unwrap_or(0), to: args.to.unwrap_or(Ms::MAX) };
    if range.from > range.to {
        return Err(Failure::Configuration(anyhow!("--from lies after --to")));
    }
    let world = args.past.world()?;
    if world.rules.is_empty() {
        return Err(Failure::Configuration(anyhow!("there is no rule to try; give --rules FILE")));
    }
    let list = |windows: &Option<Windows>| windows.as_ref().map_or(Vec::new(), |list| list.0.clone());
    let thresholds = args.thresholds.as_ref().map_or(Vec::new(), |list| list.0.clone());
    let variants = Variants::new(world.rules.clone(), &thresholds, &list(&args.windows));
    let variants = variants.map_err(|error| Failure::Configuration(anyhow!(error)))?;
    let plan = world.plan(variants.rules())?;
    if plan.rules.len() > MAX_VARIANTS {
        let (all, each) = (plan.rules.len(), variants.all.len());
        return Err(Failure::Configuration(anyhow!(
            "{each} variants of rules for every workspace are {all}, more than {MAX_VARIANTS}; ask for fewer at a time, or name the `workspace` of each rule"
        )));
    }
    Ok(Backtest { history: world.history, variants, plan, range, workers: world.workers })
}

#[cfg(test)]
mod tests;
