//! `clickline hubspot setup`: makes what accounts must have, or only looks; and looks at what rules expect of them, and at the topics of
//! the sink. `clickline check --online` looks in the same way.

use super::{Failure, Of};
use crate::cli::topics;
use crate::config::Config;
use crate::sinks::hubspot::{Change, Settings, Standing, setup_accounts};
use anyhow::anyhow;

/// Arguments of `hubspot setup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// This account alone.
    #[arg(long, value_name = "ID")]
    portal: Option<String>,
    /// Change nothing; exit code 1 when something is missing.
    #[arg(long)]
    check: bool,
}

/// Looks, makes, and says how everything stands.
///
/// # Errors
/// When something is missing, or of no use.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (config, settings, portals) = args.of.load()?;
    let portals: Vec<String> = match &args.portal {
        Some(portal) if portals.contains(portal) => vec![portal.clone()],
        Some(portal) => return Err(Failure::Configuration(anyhow!("portal {portal} belongs to no workspace of the configuration"))),
        None => portals,
    };
    let change = if args.check { Change::Look } else { Change::Make };
    let Seen { missing, refused } = accounts(&config, &settings, &portals, change)?;
    let (lines, kept_wrong) = topics::of_sink(&config).map_err(Failure::configuration)?;
    lines.iter().for_each(|line| println!("{line}"));
    match missing + refused + kept_wrong {
        0 => Ok(()),
        1 => Err(anyhow!("one thing is missing or of no use").into()),
        many => Err(anyhow!("{many} things are missing or of no use").into()),
    }
}

/// How much of what was looked at is not as it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Missing; the next start makes it.
    pub missing: usize,
    /// Of no use as it is.
    pub refused: usize,
}

/// Looks at what these accounts must have, or makes it, and prints how it stands.
///
/// # Errors
/// When a secret can't be read, or the state database can't be opened.
pub fn accounts(config: &Config, settings: &Settings, portals: &[String], change: Change) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    for (portal, findings) in setup_accounts(settings, portals, &config.state, change, &config.moves())? {
        println!("account {portal}");
        for finding in &findings {
            println!("  {finding}");
            match finding.standing {
                Standing::Missing => seen.missing += 1,
                Standing::Refused(_) => seen.refused += 1,
                Standing::Ready | Standing::Made | Standing::Unchecked(_) => {}
            }
        }
    }
    Ok(seen)
}
