//! `clickline hubspot setup`: makes what accounts must have, or only looks.

use super::{Failure, Of, Open};
use crate::oauth::Feature;
use crate::sinks::hubspot::{Change, Finding, Standing, provision};
use anyhow::{Context as _, anyhow};

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
    let Open { config: _, settings, portals, connections } = args.of.open()?;
    let portals: Vec<String> = match &args.portal {
        Some(portal) if portals.contains(portal) => vec![portal.clone()],
        Some(portal) => return Err(Failure::Configuration(anyhow!("portal {portal} belongs to no workspace of the configuration"))),
        None => portals,
    };
    let change = if args.check { Change::Look } else { Change::Make };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let mut wrong = 0;
    for portal in &portals {
        let mut findings = runtime.block_on(provision(&settings, &connections, portal, change))?;
        // Form submissions are read only where somebody wants them.
        let needed = Feature::ALL.into_iter().filter(|feature| *feature != Feature::Forms);
        findings.extend(needed.filter_map(|feature| {
            let missing = connections.missing(portal, feature);
            let why = format!("the app lacks the scope {}: add it and install the app again", missing.join(", "));
            (!missing.is_empty()).then(|| Finding { what: format!("to {feature}"), standing: Standing::Refused(why) })
        }));
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
