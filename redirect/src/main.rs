//! The redirect server as a program. Exit codes: 0 stopped as asked, 1 failed (restart it), 2 the configuration is wrong (don't).

mod args;
mod heap;
mod sign;
mod visitor_args;

use args::{Args, Command};
use clap::Parser;
use clickline_redirect::{Clock, Error, LinkFile, Server};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt;
use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// How often signals and the server's health are looked at.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    heap::keep_some();
    let args = Args::parse();
    let lines = tracing_subscriber::fmt().with_env_filter(args.log_filter()).with_writer(std::io::stderr);
    match args.log_format.as_str() {
        "json" => lines.json().flatten_event(true).init(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    let done = match &args.command {
        Some(Command::Sign(args)) => sign::run(args, &Clock::system(), std::io::stdin().lock(), std::io::stdout().lock()),
        None if args.check => check(&args),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let configuration = error.downcast_ref::<Error>().is_none_or(Error::is_configuration);
            eprintln!("error: {error:#}");
            ExitCode::from(if configuration && !error.is::<Failed>() { 2 } else { 1 })
        }
    }
}

/// The server ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// Tells whoever started the program. That nobody listens any more ends nothing.
fn say(words: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{words}");
}

fn run(args: &Args) -> anyhow::Result<()> {
    // Before anything else, so that no signal is missed while the links are read.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| Failed(format!("cannot listen for signals: {error}")))?;
    let config = args.config()?;
    // Dropped last: what the server's end still tells is sent, too.
    let _traces =
        clickline_trace::install("clickline-redirect", env!("CARGO_PKG_VERSION")).map_err(|error| Error::Config(error.to_string()))?;
    let server = Server::start(config)?;
    say(format_args!("listening on http://{}", server.address()));
    if let Some(address) = server.metrics_address() {
        say(format_args!("metrics on http://{address}/metrics"));
    }
    let mut announced = false;
    let failure = loop {
        if let Some(failure) = server.failure() {
            break Some(failure);
        }
        if !announced && server.ready(Duration::ZERO) {
            say(format_args!("ready"));
            announced = true;
        }
        match signals.pending().next() {
            Some(SIGHUP) => server.reload(),
            Some(_) => break None,
            None => thread::sleep(LOOK),
        }
    };
    let lost_before = server.stats().lost;
    let stats = server.stop();
    say(format_args!("{} clicks served, {} delivered, {} lost", stats.served, stats.delivered, stats.lost));
    if stats.spool_bytes > 0 {
        say(format_args!("{} bytes of clicks stay in the spool; the next start sends them", stats.spool_bytes));
    }
    let failure = failure.or_else(|| {
        let lost = stats.lost - lost_before;
        (lost > 0).then(|| format!("{lost} clicks were lost while stopping; a spool (`--spool`) keeps them"))
    });
    failure.map_or(Ok(()), |failure| Err(Failed(failure).into()))
}

/// Reads the configuration and the links, and serves nobody.
fn check(args: &Args) -> anyhow::Result<()> {
    let config = args.config()?;
    config.visitors.check()?;
    let Some(path) = &config.links_file else {
        println!("the options are fine; there is no links file to check");
        return Ok(());
    };
    let file = LinkFile::read(path, &config.shared_domains)?;
    for problem in &file.problems {
        println!("{}, {problem}", path.display());
    }
    println!("{}: {} good links, {} problems", path.display(), file.len(), file.problems.len());
    if file.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Config("the links file has problems; they are listed above".to_owned()).into())
    }
}
