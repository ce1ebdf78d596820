//! Which workspaces and portals a set of files names, before the files are replayed.

use crate::sources::files::Lines;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
struct OfWorkspace<'a> {
    #[serde(borrow)]
    workspace: Cow<'a, str>,
}

#[derive(Deserialize)]
struct OfPortal<'a> {
    #[serde(borrow)]
    portal: Cow<'a, str>,
}

/// The workspaces of clicks; lines that can't be read are left to the replay.
pub fn workspaces(files: &[&String]) -> anyhow::Result<BTreeSet<String>> {
    scan(files, |line| Some(serde_json::from_slice::<OfWorkspace<'_>>(line).ok()?.workspace))
}

/// The portals of contacts and deals; lines that can't be read are left to the replay.
pub fn portals(files: &[&String]) -> anyhow::Result<BTreeSet<String>> {
    scan(files, |line| Some(serde_json::from_slice::<OfPortal<'_>>(line).ok()?.portal))
}

fn scan(files: &[&String], name: impl for<'a> Fn(&'a [u8]) -> Option<Cow<'a, str>>) -> anyhow::Result<BTreeSet<String>> {
    let (mut names, mut line) = (BTreeSet::new(), Vec::new());
    for path in files {
        let mut lines = Lines::open(path, &Arc::default())?;
        while lines.next(&mut line)?.is_some() {
            if let Some(name) = name(&line)
                && !name.is_empty()
                && !names.contains(name.as_ref())
            {
                names.insert(name.into_owned());
            }
        }
    }
    Ok(names)
}
