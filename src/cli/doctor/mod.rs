//! `clickline doctor`: holds the configuration against the real brokers and accounts, and changes nothing there.
//!
//! # Meaning
//! One line for each thing that was looked at: `ok`, `warning` (the job runs, not as well as it could) or `failed` (it does not run, or not rightly), with
//! what to do. What an account must have is asked by the functions that `hubspot setup --check` uses.
//!
//! # Not
//! It writes no record: that transactions work is seen by opening and aborting an empty one, under an id of its own, which leaves the running job alone.

pub mod clickhouse;
mod clock;
mod topics;

use super::Failure;
use crate::config::Config;
use crate::dataflow::plan::Plan;
use crate::kafka::Kafka;
use crate::sinks::hubspot::{self, Change, Standing};
use anyhow::anyhow;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How findings are written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for each.
    Text,
    /// One JSON array.
    Json,
}

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it must be.
    Ok,
    /// The job runs, not as well as it could.
    Warning,
    /// The job does not run, or not rightly.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it stands.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What was found and, unless all is well, what to do.
    pub says: String,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, says: impl Into<String>) -> Self {
        Finding { level, what: what.into(), says: says.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Failed => "failed ",
        };
        write!(f, "{level}  {}: {}", self.what, self.says)
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// A configuration that is wrong; or that something failed, after all was printed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    let plan = config.plan(None).map_err(Failure::configuration)?;
    let mut findings = Vec::new();
    match config.kafka.check_secrets() {
        Ok(()) => of_kafka(&config.kafka, &config, &plan, &mut findings),
        Err(error) => findings.push(Finding::new(Level::Failed, "kafka", format!("{error:#}"))),
    }
    of_hubspot(&config, &mut findings);
    findings.extend(config.clickhouse.iter().flat_map(clickhouse::look));
    match args.format {
        Format::Text => findings.iter().for_each(|finding| println!("{finding}")),
        Format::Json => println!("{}", serde_json::to_string_pretty(&findings).map_err(anyhow::Error::new)?),
    }
    match findings.iter().filter(|finding| finding.level == Level::Failed).count() {
        0 => Ok(()),
        failed => Err(anyhow!("{failed} of {} failed", findings.len()).into()),
    }
}

fn of_kafka(kafka: &Kafka, config: &Config, plan: &Plan, findings: &mut Vec<Finding>) {
    let own = [("group.id", "clickline"), ("enable.auto.commit", "false"), ("log_level", "0")];
    let consumer: BaseConsumer = match kafka.client(&own).create() {
        Ok(consumer) => consumer,
        Err(error) => return findings.push(Finding::new(Level::Failed, "kafka", format!("the options make no client: {error}"))),
    };
    let metadata = match consumer.fetch_metadata(None, PATIENCE) {
        Ok(metadata) => metadata,
        Err(error) => {
            let says = format!(
                "{} do not answer ({error}); see that they run, are reachable from here, and take these credentials",
                kafka.brokers
            );
            return findings.push(Finding::new(Level::Failed, "brokers", says));
        }
    };
    findings.push(Finding::new(Level::Ok, "brokers", format!("{} answer", metadata.brokers().len())));
    topics::look(kafka, &metadata, &super::topics::of(config, plan), findings);
    findings.push(transactions(kafka));
    findings.push(clock::of_brokers(&consumer, &kafka.topics.clicks));
}

/// Whether a transaction can be opened.
fn transactions(kafka: &Kafka) -> Finding {
    let what = "transactions";
    let id = format!("{}.doctor", kafka.topics.progress);
    let producer: BaseProducer = match kafka.client(&[("transactional.id", &id), ("log_level", "0")]).create() {
        Ok(producer) => producer,
        Err(error) => return Finding::new(Level::Failed, what, format!("the options make no producer: {error}")),
    };
    let tried = producer
        .init_transactions(PATIENCE)
        .and_then(|()| producer.begin_transaction())
        .and_then(|()| producer.abort_transaction(PATIENCE));
    match tried {
        Ok(()) => Finding::new(Level::Ok, what, "possible"),
        Err(error) => {
            let advice =
                "the brokers must allow transactional ids that begin with the progress topic's name, and have their transaction log";
            Finding::new(Level::Failed, what, format!("{error}; {advice}"))
        }
    }
}

fn of_hubspot(config: &Config, findings: &mut Vec<Finding>) {
    let Some(settings) = &config.hubspot else {
        return findings.push(Finding::new(Level::Warning, "hubspot", "is not configured: deltas stay in their topics"));
    };
    let portals = config.portals();
    if let Err(error) = settings.read_secrets(&portals) {
        return findings.push(Finding::new(Level::Failed, "hubspot", format!("{error:#}")));
    }
    findings.push(clock::of_hubspot(settings));
    let found = match hubspot::setup_accounts(settings, &portals, &config.state, Change::Look, &config.moves()) {
        Ok(found) => found,
        Err(error) => return findings.push(Finding::new(Level::Failed, "hubspot", format!("{error:#}"))),
    };
    for (portal, of_portal) in found {
        for finding in of_portal {
            let level = match finding.standing {
                Standing::Ready | Standing::Made => Level::Ok,
                Standing::Missing | Standing::Unchecked(_) => Level::Warning,
                Standing::Refused(_) => Level::Failed,
            };
            let text = finding.to_string();
            let says = text.strip_prefix(&finding.what).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text).to_owned();
            findings.push(Finding::new(level, format!("portal {portal}, {}", finding.what), says));
        }
    }
}
