//! `clickline demo`: the whole path on one machine, with a small company's week in half a minute.
//!
//! Everything is real but the company: HTTP clicks on the redirect server, Kafka (embedded, or `--kafka`), the job, the
//! sink, and a HubSpot sandbox that is read back at the end. The clock is the week's: the parts take it as they take
//! the system's.

mod broker;
mod scenario;
mod summary;
mod week;

use super::Failure;
use crate::model::time::Ms;
use anyhow::Context;
use clap::Args;
use std::net::SocketAddr;

/// Runs a small company's week on this machine: nothing to install, nothing leaves it.
#[derive(Args, Debug)]
pub struct Demo {
    /// Use the Kafka at HOST:PORT instead of the embedded broker (which keeps 5 MB per partition; the demo stays below).
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Stay when the week is over, for clicks of your own; Ctrl-C ends.
    #[arg(long)]
    keep: bool,
    /// Address of the sandbox's page; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    page: SocketAddr,
}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// When a part does not start or stops by itself, or the sandbox does not hold what it must.
    pub fn run(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("an async runtime")?;
        Ok(runtime.block_on(week::run(self))?)
    }
}

/// Milliseconds since the Unix epoch by the system's clock.
fn system_now() -> Ms {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, crate::model::time::millis)
}
