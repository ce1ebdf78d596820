//! The sandbox as a program. Exit codes: 0 stopped as asked, 1 failed, 2 the command line is wrong.

use anyhow::Context;
use clap::Parser;
use clickline_sandbox::{App, Config, Rotation, Sandbox};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// A HubSpot to run against on one machine. State lives in memory; the page at / shows it.
#[derive(Parser)]
#[command(name = "clickline-sandbox", version)]
struct Args {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8585")]
    listen: SocketAddr,
    /// HubSpot accounts that exist from the start.
    #[arg(long = "portal", value_name = "ID", default_value = "4242")]
    portals: Vec<String>,
    /// Client id of the one app.
    #[arg(long, default_value = "clickline")]
    client_id: String,
    /// Client secret of the one app.
    #[arg(long, env = "CLICKLINE_SANDBOX_SECRET", default_value = "sandbox-secret", hide_env_values = true)]
    client_secret: String,
    /// Lifetime of access tokens, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    access_token_for: u64,
    /// Let each refresh give out a new refresh token and kill the old one.
    #[arg(long)]
    rotate: bool,
    /// Requests per rolling 10 seconds, app and account.
    #[arg(long, value_name = "N", default_value_t = 110)]
    burst_limit: usize,
    /// Requests per rolling second and account that search.
    #[arg(long, value_name = "N", default_value_t = 5)]
    search_limit: usize,
    /// How far search lags behind writes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    search_delay: u64,
    /// Append every request with its answer to this file, one line of JSON each; secrets leave only fingerprints.
    #[arg(long, value_name = "FILE")]
    request_log: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let config = Config {
        listen: args.listen,
        apps: vec![App { client_id: args.client_id, client_secret: args.client_secret }],
        portals: args.portals,
        access_token_for: Duration::from_secs(args.access_token_for),
        rotation: if args.rotate { Rotation::Always } else { Rotation::Never },
        burst_limit: args.burst_limit,
        search_limit: args.search_limit,
        search_delay: Duration::from_millis(args.search_delay),
        request_log: args.request_log,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let sandbox = Sandbox::start(config).with_context(|| format!("starting on {}", args.listen))?;
    println!("sandbox HubSpot: {}", sandbox.url());
    println!("stop it with Ctrl-C");
    runtime.block_on(tokio::signal::ctrl_c()).context("waiting for Ctrl-C")?;
    sandbox.stop();
    Ok(())
}
