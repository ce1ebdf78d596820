//! The `clickline` command. Exit codes: 0 stopped as asked, 1 failed (restart it), 2 the configuration is wrong or another job runs
//! on the same topics (don't).

use clap::Parser as _;
use clickline::cli::{Cli, Failure};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => {
            eprintln!("clickline: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("clickline: {error:#}");
            ExitCode::FAILURE
        }
    }
}
