//! `clickline hubspot setup`: makes what accounts must have, or only looks; and looks at what rules expect of them.

use super::{Failure, Of};
use crate::sinks::hubspot::{Change, Standing, setup_accounts};
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
    let mut wrong = 0;
    for (portal, findings) in setup_accounts(&settings, &portals, &config.state, change, &config.moves())? {
        println!("account {portal}");
        for finding in &findings {
            wrong += usize::from(matches!(finding.standing, Standing::Missing | Standing::Refused(_)));
            println!("  {finding}");
        }
    }
    match wrong {
        0 => Ok(()),
        1 => Err(anyhow!("one thing is missing or of no use").into()),
        many => Err(anyhow!("{many} things are missing or of no use").into()),
    }
}
