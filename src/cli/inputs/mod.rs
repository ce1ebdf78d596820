//! Arguments that say what to read: files shared by all commands that read them, files or topics for those that ask what
//! has been.

pub mod past;
mod prescan;

use super::Failure;
use crate::config::raw;
use crate::dataflow::plan::WorkspaceSpec;
use crate::sources::Kind;
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;

/// The portal's name when the files name none.
pub const NO_PORTAL: &str = "replay";

/// Files and what belongs to what. Files are JSON lines, plain or gzip; `-` is standard input.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Inputs {
    /// Clicks, in the order of their times.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "config")]
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
    /// A workspace and a portal it is connected to; may be repeated. Needed when the files name several portals.
    #[arg(long, value_name = "WORKSPACE=PORTAL", num_args = 1.., value_parser = connection, conflicts_with = "config")]
    pub connect: Vec<(String, String)>,
}

fn connection(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((workspace, portal)) if !workspace.is_empty() && !portal.is_empty() => Ok((workspace.to_owned(), portal.to_owned())),
        _ => Err("write WORKSPACE=PORTAL, such as acme=4242".to_owned()),
    }
}

/// A length of time as it is typed.
///
/// # Errors
/// How it is written.
pub fn length(text: &str) -> Result<raw::Length, String> {
    raw::length(text).map(raw::Length).ok_or_else(|| "write a length of time such as 100ms, 1s or 1m".to_owned())
}

impl Inputs {
    /// All files, by kind.
    pub fn files(&self) -> Vec<(Kind, String)> {
        let of = |kind: Kind, paths: &[String]| paths.iter().map(|path| (kind, path.clone())).collect::<Vec<_>>();
        [of(Kind::Clicks, &self.clicks), of(Kind::Forms, &self.forms), of(Kind::Contacts, &self.contacts), of(Kind::Deals, &self.deals)]
            .concat()
    }

    /// Which workspaces there are and what they are connected to: as the arguments say, else as the files show.
    ///
    /// # Errors
    /// Several portals, or files that can be read only once, without `--connect`; a file that can't be read.
    pub fn specs(&self) -> Result<Vec<WorkspaceSpec>, Failure> {
        if self.connect.is_empty() { self.connections_found() } else { Ok(self.connections_given()) }
    }

    fn connections_given(&self) -> Vec<WorkspaceSpec> {
        let mut portals: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for (workspace, portal) in &self.connect {
            portals.entry(workspace).or_default().push(portal.clone());
        }
        portals.into_iter().map(|(name, portals)| WorkspaceSpec { name: name.clone(), portals, ..WorkspaceSpec::default() }).collect()
    }

    /// Every workspace of the clicks, connected to the one portal of the contacts and deals.
    fn connections_found(&self) -> Result<Vec<WorkspaceSpec>, Failure> {
        let how = "say how workspaces and portals belong together: --connect WORKSPACE=PORTAL";
        let streamed = [&self.clicks, &self.contacts, &self.deals].into_iter().flatten().any(|path| path == "-");
        if streamed {
            return Err(Failure::Configuration(anyhow!(
                "standard input can be read only once, so its workspaces or portals are not known; {how}"
            )));
        }
        let states: Vec<&String> = self.contacts.iter().chain(&self.deals).collect();
        let portals = prescan::portals(&states).context("cannot look for portals").map_err(Failure::Configuration)?;
        if portals.len() > 1 {
            let some: Vec<&str> = portals.iter().take(5).map(String::as_str).collect();
            let (count, some) = (portals.len(), some.join(", "));
            return Err(Failure::Configuration(anyhow!("the contacts and deals name {count} portals ({some}, …); {how}")));
        }
        let portal = portals.into_iter().next().unwrap_or_else(|| NO_PORTAL.to_owned());
        let clicks: Vec<&String> = self.clicks.iter().collect();
        let workspaces = prescan::workspaces(&clicks).context("cannot look for workspaces").map_err(Failure::Configuration)?;
        let spec = |name| WorkspaceSpec { name, portals: vec![portal.clone()], ..WorkspaceSpec::default() };
        Ok(workspaces.into_iter().map(spec).collect())
    }
}
