//! What every command sets up: log lines, signals.

use super::LogFormat;
use crate::stop::Stop;
use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Log lines of at least `level` go to standard error, unless RUST_LOG says otherwise; what a command says is on
/// standard output.
pub fn logging(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber in one process (a test's) is no reason to fail: the first one stays.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

/// Asks `stop` on the first SIGINT or SIGTERM; a second one ends the process at once, with exit code 1.
///
/// # Errors
/// The handlers can't be installed.
pub fn stop_on_signals(stop: &Stop) -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the second handler sets what the first one looks at.
        flag::register_conditional_shutdown(signal, 1, stop.flag())
            .and_then(|_| flag::register(signal, stop.flag()))
            .context("cannot listen for signals")?;
    }
    Ok(())
}
