//! `clickline dead-letters`: list, show, replay, drop.

use super::Failure;
use super::text::{Table, length, to_the_second};
use crate::config::Config;
use crate::dead_letters::{DeadLetters, Decision, Filter, Id, Letter, Replay, Replayer};
use crate::model::reason;
use crate::model::time::{self, Ms};
use crate::state::State;
use anyhow::{Context as _, anyhow};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `dead-letters`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List those about which nobody has decided.
    Ls {
        /// Where they are, and which.
        #[command(flatten)]
        which: Which,
        /// Those that were replayed or dropped, too.
        #[arg(long)]
        decided: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one, with the record as it was read. It may hold an e-mail address.
    Show {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Which, as `ls` names it.
        id: Id,
    },
    /// Send records once more, by the topic they came from.
    Replay(Chosen),
    /// Decide that nothing more is done about them.
    Drop(Chosen),
}

/// Where dead letters are, and which.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only those with this reason.
    #[arg(long, value_name = "CODE", value_parser = known_reason)]
    pub reason: Option<String>,
    /// Only those read from this topic.
    #[arg(long, value_name = "TOPIC")]
    pub source: Option<String>,
    /// Only those of this HubSpot account.
    #[arg(long, value_name = "ID")]
    pub portal: Option<String>,
}

/// Some dead letters: named, or all that fit.
#[derive(Debug, clap::Args)]
pub struct Chosen {
    /// Where they are, and which.
    #[command(flatten)]
    pub which: Which,
    /// These, as `ls` names them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<Id>,
    /// All that fit.
    #[arg(long)]
    pub all: bool,
}

fn known_reason(code: &str) -> Result<String, String> {
    let known = || reason::ALL.iter().map(|(code, ..)| *code).collect::<Vec<_>>().join(", ");
    reason::meaning(code).map(|_| code.to_owned()).ok_or_else(|| format!("there is no such reason; there are {}", known()))
}

/// Does what was asked.
///
/// # Errors
/// A configuration that is wrong; a dead letter that is not there; brokers or a state database that fail.
pub fn run(args: &Args) -> Result<(), Failure> {
    let out = &mut io::stdout().lock();
    match &args.action {
        Action::Ls { which, decided, json } => {
            let letters = open(&which.config)?.list(&which.filter(&[], *decided))?;
            if *json { each_json(out, &letters) } else { table(out, &letters, time::now()) }?;
        }
        Action::Show { config, id } => {
            let letters = open(config)?.list(&Filter { ids: vec![*id], decided: true, ..Filter::default() })?;
            let letter = letters.first().ok_or_else(|| anyhow!("there is no dead letter {id}; `clickline dead-letters ls` lists them"))?;
            show(out, letter, time::now())?;
        }
        Action::Replay(some) => {
            let dead_letters = open(&some.which.config)?;
            let mut replayer = Replayer::None;
            each(out, &dead_letters, some, "replayed", |letter| {
                Ok(match dead_letters.replay(letter, &mut replayer, time::now())? {
                    Replay::Sent => None,
                    Replay::Decided(decision) => Some(decision),
                })
            })?;
        }
        Action::Drop(some) => {
            let dead_letters = open(&some.which.config)?;
            each(out, &dead_letters, some, "dropped", |letter| dead_letters.drop_letter(letter, time::now()))?;
        }
    }
    Ok(())
}

fn open(config: &std::path::Path) -> Result<DeadLetters, Failure> {
    let config = Config::load(config).map_err(Failure::configuration)?;
    let ledger_for = config.hubspot.as_ref().map(|hubspot| hubspot.ledger_for);
    let workspaces = config.workspaces.iter().map(|of| (of.name.clone(), of.portals.clone())).collect();
    let letters = DeadLetters::new(config.kafka, State::open(&config.state)?);
    Ok(letters.with_ledger_for(ledger_for).with_workspaces(workspaces))
}

impl Which {
    fn filter(&self, ids: &[Id], decided: bool) -> Filter {
        let Which { config: _, reason, source, portal } = self;
        Filter { ids: ids.to_vec(), reason: reason.clone(), source: source.clone(), portal: portal.clone(), decided }
    }
}

/// Decides about some dead letters, says what came of each, and fails when one of them could not be decided about.
fn each(
    out: &mut impl Write,
    dead_letters: &DeadLetters,
    some: &Chosen,
    done: &str,
    mut decide: impl FnMut(&Letter) -> anyhow::Result<Option<Decision>>,
) -> anyhow::Result<()> {
    let letters = dead_letters.list(&some.which.filter(&some.ids, !some.all))?;
    if let Some(missing) = some.ids.iter().find(|id| letters.iter().all(|letter| letter.id != **id)) {
        return Err(anyhow!("there is no such dead letter {missing}; `clickline dead-letters ls` lists them"));
    }
    let (mut count, mut failed) = (0, Vec::new());
    for letter in &letters {
        match decide(letter) {
            Ok(None) => {
                count += 1;
                writeln!(out, "{} {done}", letter.id)?;
            }
            Ok(Some(decision)) => writeln!(out, "{} was {} before", letter.id, decision.text())?,
            Err(error) => failed.push(error),
        }
    }
    writeln!(out, "{count} of {} {done}", letters.len())?;
    let Some(first) = failed.pop() else { return Ok(()) };
    failed.iter().for_each(|error| tracing::error!(event = "dead_letter_decision_failed", "{error:#}"));
    Err(first.context("some are as they were"))
}

fn each_json(out: &mut impl Write, letters: &[Letter]) -> anyhow::Result<()> {
    for letter in letters {
        writeln!(out, "{}", serde_json::to_string(letter)?)?;
    }
    Ok(())
}

fn table(out: &mut impl Write, letters: &[Letter], now: Ms) -> anyhow::Result<()> {
    if letters.is_empty() {
        return Ok(writeln!(out, "none")?);
    }
    let mut table = Table::new(&["id", "age", "reason", "from", "portal", "decision", "detail"]);
    for Letter { id, decision, portal, record: _, letter } in letters {
        let age = length(now.saturating_sub(letter.at));
        let portal = portal.clone().unwrap_or_else(|| "-".to_owned());
        let detail = letter.detail.chars().take(80).collect();
        table.row([id.to_string(), age, letter.reason.clone(), letter.source.clone(), portal, decision.text().to_owned(), detail]);
    }
    write!(out, "{}", table.text(""))?;
    let oldest = letters.iter().map(|letter| letter.letter.at).min().unwrap_or(now);
    Ok(writeln!(out, "{} dead letters, the oldest {} old", letters.len(), length(now.saturating_sub(oldest)))?)
}

fn show(out: &mut impl Write, letter: &Letter, now: Ms) -> anyhow::Result<()> {
    let Letter { id, decision, portal, record, letter: dead } = letter;
    writeln!(out, "dead letter  {id}, {}", decision.text())?;
    writeln!(out, "refused      {}, {} ago", to_the_second(dead.at), length(now.saturating_sub(dead.at)))?;
    writeln!(out, "from         {}, partition {}, offset {}", dead.source, dead.partition, dead.offset)?;
    if let Some(portal) = portal {
        writeln!(out, "portal       {portal}")?;
    }
    if let Some(record) = record {
        writeln!(out, "record       {record}")?;
    }
    match reason::meaning(&dead.reason) {
        Some((meaning, todo)) => writeln!(out, "reason       {}: {meaning}\nwhat to do   {todo}", dead.reason)?,
        None => writeln!(out, "reason       {}", dead.reason)?,
    }
    writeln!(out, "detail       {}", dead.detail)?;
    let payload = letter.payload()?;
    let json = serde_json::from_slice::<serde_json::Value>(&payload).ok().and_then(|value| serde_json::to_string_pretty(&value).ok());
    match json {
        Some(json) => writeln!(out, "{json}")?,
        // Control characters of somebody else's record are none of the terminal's business.
        None => writeln!(out, "{:?}", String::from_utf8_lossy(&payload))?,
    }
    out.flush().context("standard output is closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::model::outputs::DeadLetter;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use clap::Parser as _;

    fn parse(args: &[&str]) -> Result<Action, clap::Error> {
        let all = ["clickline", "dead-letters"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::DeadLetters(args) => args.action,
            _ => panic!("another command"),
        })
    }

    #[test]
    fn nothing_is_decided_about_by_accident() {
        assert!(parse(&["replay", "--config", "c"]).is_err(), "neither named nor all");
        assert!(parse(&["drop", "--config", "c", "--all", "0:1"]).is_err());
        assert!(parse(&["replay", "--config", "c", "0:1", "1:7"]).is_ok());
        assert!(parse(&["drop", "--config", "c", "--all", "--reason", "gave-up"]).is_ok());
        let error = parse(&["drop", "--config", "c", "--all", "--reason", "odd"]).expect_err("no reason").to_string();
        assert!(error.contains("no-contact"), "{error}");
    }

    #[test]
    fn a_dead_letter_says_what_it_means_and_what_to_do() {
        let letter = Letter {
            id: Id { partition: 0, offset: 17 },
            decision: Decision::Open,
            portal: Some("4242".into()),
            record: Some("s1".into()),
            letter: DeadLetter {
                v: 1,
                reason: "validation".into(),
                detail: "HubSpot answered 400: close date is required".into(),
                source: "hubspot.deal-stages".into(),
                partition: 2,
                offset: 9,
                key_base64: None,
                payload_base64: STANDARD.encode(b"{\"v\":1}"),
                at: 1_000,
            },
        };
        let mut shown = Vec::new();
        show(&mut shown, &letter, 61_000).expect("writes");
        table(&mut shown, std::slice::from_ref(&letter), 61_000).expect("writes");
        let shown = String::from_utf8(shown).expect("text");
        for part in ["0:17, open", "1m ago", "close date is required", "then replay", "\"v\": 1", "1 dead letters, the oldest 1m old"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
