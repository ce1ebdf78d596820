//! A new configuration for a running job, on SIGHUP.
//!
//! # Meaning
//! The file is read and checked while the job runs. If anything is wrong with it, or it would be another job's, nothing changes and the log says
//! why, with the line. Else the log says what changes, and the process goes over to it as a whole: it stops as for SIGTERM, at a
//! committed frontier, and starts again within itself. So what comes out is what a stop and a start would give at that point, with
//! [`crate::job`]'s rules for rules that are new; there is no second way for a rule to be added.
//!
//! # Not
//! A job of several processes takes no new configuration: all of them must have the same one. Variables of the environment are those of the
//! process's start. The counters of `/metrics` begin anew, as after a restart.

use crate::config::Config;
use crate::config::diff::Difference;
use anyhow::Context as _;
use signal_hook::consts::SIGHUP;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Listens for SIGHUP for as long as the process lives.
#[derive(Debug)]
pub struct Reload {
    asked: Arc<AtomicBool>,
    path: PathBuf,
}

impl Reload {
    /// Listens from now on; `path` is read at each signal.
    ///
    /// # Errors
    /// The handler can't be installed.
    pub fn on_signal(path: PathBuf) -> anyhow::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, Arc::clone(&asked)).context("cannot listen for signals")?;
        Ok(Reload { asked, path })
    }

    /// The configuration to go over to, when one was asked for, it is right, and something is different. `secrets` looks whether what it
    /// needs besides is there.
    pub fn next(&self, now: &Config, alone: bool, secrets: impl FnOnce(&Config) -> anyhow::Result<()>) -> Option<Config> {
        if !self.asked.swap(false, Ordering::AcqRel) {
            return None;
        }
        if !alone {
            tracing::error!(
                event = "reload_refused",
                "configuration not reloaded: a job of several processes needs the same one in all; stop all, start all"
            );
            return None;
        }
        let new = match Config::load(&self.path) {
            Ok(new) => new,
            Err(error) => {
                // One line for each mistake: each is one to mend.
                for problem in format!("{:#}", anyhow::Error::new(error)).lines() {
                    tracing::error!(event = "reload_refused", problem, "configuration not reloaded");
                }
                return None;
            }
        };
        let difference = Difference::between(now, &new);
        if difference.is_empty() {
            tracing::info!(event = "reload_unchanged", "configuration not reloaded: nothing is different");
            return None;
        }
        if !difference.refused.is_empty() {
            let fields = difference.refused.join(", ");
            tracing::error!(
                event = "reload_refused",
                fields,
                "configuration not reloaded: only a new process takes these up; the rest of the file waits with them"
            );
            return None;
        }
        if let Err(error) = secrets(&new) {
            tracing::error!(event = "reload_refused", problem = format!("{error:#}"), "configuration not reloaded");
            return None;
        }
        for change in &difference.changes {
            tracing::info!(event = "reloaded", change, "configuration reloaded");
        }
        Some(new)
    }
}
