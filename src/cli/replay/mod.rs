//! `clickline replay`: the same dataflow over files.

mod prescan;
mod show;

use super::{Failure, setup};
use crate::config::{self, Config, raw};
use crate::dataflow::plan::{Plan, Times, WorkspaceSpec};
use crate::replay::Replay;
use crate::sources::{Kind, Meter};
use crate::stop::Stop;
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

/// The portal's name when the files name none.
const NO_PORTAL: &str = "replay";

/// Arguments of `replay`. Files are JSON lines, plain or gzip; `-` is standard input.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Clicks, in the order of their times.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub clicks: Vec<String>,
    /// Form submissions.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub forms: Vec<String>,
    /// Contacts; lines without a `ts` are known before everything else.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub contacts: Vec<String>,
    /// Deals; lines without a `ts` are known before everything else.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub deals: Vec<String>,
    /// Rules; without a configuration they apply to every workspace of the clicks.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub rules: Option<PathBuf>,
    /// Folder for the outputs; files of an earlier replay in it are replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A workspace and a portal it is connected to; may be repeated. Needed when the files name several portals.
    #[arg(long, value_name = "WORKSPACE=PORTAL", num_args = 1.., value_parser = connection, conflicts_with = "config")]
    pub connect: Vec<(String, String)>,
    /// Take workspaces, rules and times from this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, value_name = "N", default_value = "1")]
    pub workers: NonZero<usize>,
    /// The clock's step; it divides a minute.
    #[arg(long, value_name = "LENGTH", default_value = "1s", value_parser = length)]
    pub tick: raw::Length,
}

fn connection(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((workspace, portal)) if !workspace.is_empty() && !portal.is_empty() => Ok((workspace.to_owned(), portal.to_owned())),
        _ => Err("write WORKSPACE=PORTAL, such as acme=4242".to_owned()),
    }
}

fn length(text: &str) -> Result<raw::Length, String> {
    raw::length(text).map(raw::Length).ok_or_else(|| "write a length of time such as 100ms, 1s or 1m".to_owned())
}

/// Replays and prints what came of it.
///
/// # Errors
/// Arguments or rules that are wrong; a file that can't be read or written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    let plan = plan(args)?;
    let files = args.files();
    let meter = Arc::new(Meter::default());
    let replay = Replay { files: files.clone(), plan, out: args.out.clone(), workers: args.workers.get() };
    let bar = show::Bar::start(&files, &meter);
    let ended = replay.run(&meter, &stop);
    drop(bar);
    let summary = ended?;
    if stop.asked() {
        return Err(anyhow!("stopped before the end of the files; what stands in {} is incomplete", args.out.display()).into());
    }
    print!("{}", show::summary(&summary, &args.out));
    Ok(())
}

impl Args {
    fn files(&self) -> Vec<(Kind, String)> {
        let of = |kind: Kind, paths: &[String]| paths.iter().map(|path| (kind, path.clone())).collect::<Vec<_>>();
        [of(Kind::Clicks, &self.clicks), of(Kind::Forms, &self.forms), of(Kind::Contacts, &self.contacts), of(Kind::Deals, &self.deals)]
            .concat()
    }
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    if let Some(path) = &args.config {
        let config = Config::load(path).map_err(Failure::configuration)?;
        return config.plan(Some(args.tick.0)).map_err(Failure::configuration);
    }
    let rules = match &args.rules {
        Some(path) => config::read_rules(path).map_err(Failure::configuration)?,
        None => Vec::new(),
    };
    let specs = if args.connect.is_empty() { connections_found(args)? } else { connections_given(&args.connect) };
    Plan::new(Times::with_tick(args.tick.0), &specs, &rules, |_, _| 0).map_err(Failure::configuration)
}

fn connections_given(pairs: &[(String, String)]) -> Vec<WorkspaceSpec> {
    let mut portals: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (workspace, portal) in pairs {
        portals.entry(workspace).or_default().push(portal.clone());
    }
    portals.into_iter().map(|(name, portals)| WorkspaceSpec { name: name.clone(), portals, ..WorkspaceSpec::default() }).collect()
}

/// Every workspace of the clicks, connected to the one portal of the contacts and deals.
fn connections_found(args: &Args) -> Result<Vec<WorkspaceSpec>, Failure> {
    let how = "say how workspaces and portals belong together: --connect WORKSPACE=PORTAL";
    let streamed = [&args.clicks, &args.contacts, &args.deals].into_iter().flatten().any(|path| path == "-");
    if streamed {
        return Err(Failure::Configuration(anyhow!(
            "standard input can be read only once, so its workspaces or portals are not known; {how}"
        )));
    }
    let states: Vec<&String> = args.contacts.iter().chain(&args.deals).collect();
    let portals = prescan::portals(&states).context("cannot look for portals").map_err(Failure::Configuration)?;
    if portals.len() > 1 {
        let some: Vec<&str> = portals.iter().take(5).map(String::as_str).collect();
        let (count, some) = (portals.len(), some.join(", "));
        return Err(Failure::Configuration(anyhow!("the contacts and deals name {count} portals ({some}, …); {how}")));
    }
    let portal = portals.into_iter().next().unwrap_or_else(|| NO_PORTAL.to_owned());
    let clicks: Vec<&String> = args.clicks.iter().collect();
    let workspaces = prescan::workspaces(&clicks).context("cannot look for workspaces").map_err(Failure::Configuration)?;
    let spec = |name| WorkspaceSpec { name, portals: vec![portal.clone()], ..WorkspaceSpec::default() };
    Ok(workspaces.into_iter().map(spec).collect())
}

#[cfg(test)]
mod tests;
