//! `clickline forget`: removes a person from everything that is clickline's, and says what that was.

use super::Failure;
use super::text::{Table, to_the_second};
use crate::config::Config;
use crate::forget::sweep::{Left, Swept};
use crate::forget::{Asked, How, Stores, find, sweep};
use crate::model::inputs::normal_email;
use crate::model::time;
use crate::sources::snapshot;
use crate::state::{Erased, Erasure, Removed, State};
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Arguments of `forget`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Who.
    #[command(flatten)]
    pub who: Who,
    /// HubSpot account; needed where several know the contact.
    #[arg(long, value_name = "ID")]
    pub portal: Option<String>,
    /// Say what would be removed, and change nothing.
    #[arg(long)]
    pub check: bool,
    /// How it is told.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Whom to forget: one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Who {
    /// A contact: HubSpot's id, also of one that was merged into another. All that was merged goes with it.
    #[arg(long, value_name = "ID", value_parser = id)]
    pub contact: Option<String>,
    /// Whoever has this e-mail address, or had it when the contact was deleted; in every account, where none is named.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub email: Option<String>,
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// All of it, for tools.
    Json,
}

fn id(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("HubSpot's id of a contact is a number".to_owned()),
        address if address.contains('@') => Err("that is an address: use --email".to_owned()),
        id => Ok(id.to_owned()),
    }
}

fn address(text: &str) -> Result<String, String> {
    let address = normal_email(text);
    let whole = address.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if whole { Ok(address.into_owned()) } else { Err("that is no e-mail address; for HubSpot's id use --contact".to_owned()) }
}

/// What came of it in one account.
#[derive(Debug, Serialize)]
struct Told {
    portal: String,
    contacts: BTreeSet<String>,
    /// How many; which is nobody's business.
    addresses: usize,
    /// Whether the mirror's topic knows the person.
    known: bool,
    state: Removed,
    #[serde(flatten)]
    swept: Swept,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether it was only looked.
    check: bool,
    accounts: Vec<Told>,
    /// Files of snapshots that were deleted; they hold everybody's clicks, and are made anew.
    snapshots: usize,
    /// Folders of snapshots that a running job holds.
    snapshots_held: usize,
}

/// Does it and tells.
///
/// # Errors
/// A configuration that is wrong, a contact of which nobody knows whose it is; or a store that could not be gone through, after all was told.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    config.kafka.check_secrets().map_err(Failure::Configuration)?;
    let asked = match (&args.who.contact, &args.who.email) {
        (Some(contact), _) => Asked::Contacts(BTreeSet::from([contact.clone()])),
        (None, email) => Asked::Email(email.clone().unwrap_or_default()),
    };
    let how = if args.check { How::Look } else { How::Remove };
    let portals = config.portals();
    if let Some(portal) = args.portal.as_ref().filter(|portal| !portals.contains(portal)) {
        return Err(Failure::configuration(anyhow!("no workspace is connected to the account {portal}; there are {}", portals.join(", "))));
    }
    let portals = args.portal.clone().map_or(portals, |portal| vec![portal]);
    let found = find(&config.kafka, &portals, &asked)?;
    let persons = chosen(&asked, found).map_err(Failure::Configuration)?;
    let report = forget(&config, &persons, how)?;
    let text = match args.format {
        Format::Text => text(&report),
        Format::Json => serde_json::to_string_pretty(&report).context("our own records are JSON")? + "\n",
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(anyhow!(error).context("cannot write to standard output").into());
        }
        _ => {}
    }
    let failed: Vec<&String> = report.accounts.iter().flat_map(|told| &told.swept.failed).collect();
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(anyhow!("not gone through, run it again: {first}").into()),
    }
}

/// The accounts in which a person is forgotten: an address in all of them, an id in the one that knows it.
fn chosen(asked: &Asked, found: Vec<(Erasure, bool)>) -> anyhow::Result<Vec<(Erasure, bool)>> {
    let known = found.iter().filter(|(_, known)| *known).count();
    match (asked, found.len(), known) {
        (Asked::Email(_), ..) | (_, 0 | 1, _) => Ok(found),
        (_, _, 1) => Ok(found.into_iter().filter(|(_, known)| *known).collect()),
        (_, _, known) => {
            let portals: Vec<&str> = found.iter().filter(|(_, of)| known == 0 || *of).map(|(erasure, _)| erasure.portal.as_str()).collect();
            let what = if known == 0 { "no account's mirror knows the contact" } else { "several accounts know a contact with this id" };
            Err(anyhow!("{what}: say which one is meant with --portal {}", portals.join(" or ")))
        }
    }
}

fn forget(config: &Config, persons: &[(Erasure, bool)], how: How) -> anyhow::Result<Report> {
    let state = if how == How::Remove { State::open(&config.state) } else { State::look(&config.state) }?;
    let workspaces: BTreeMap<String, Vec<String>> =
        config.workspaces.iter().map(|workspace| (workspace.name.clone(), workspace.portals.clone())).collect();
    let stores =
        Stores { kafka: &config.kafka, state: &state, clickhouse: config.clickhouse.as_ref(), workspaces: &workspaces, contacts: true };
    let now = time::now();
    let mut accounts = Vec::new();
    for (erasure, known) in persons {
        // First of all: from here on nothing new comes of them.
        let removed = match how {
            How::Look => state.erasable(erasure)?,
            How::Remove => state.erase(erasure, now)?,
        };
        let mut swept = sweep(&stores, &Erased::only(erasure), how, now)?;
        swept.ask_until(&config.kafka)?;
        accounts.push(Told {
            portal: erasure.portal.clone(),
            contacts: erasure.contacts.clone(),
            addresses: erasure.emails.len(),
            known: *known,
            state: removed,
            swept,
        });
    }
    let gone = config.snapshots.as_deref().map(|folder| clear(folder, how)).transpose()?.unwrap_or_default();
    Ok(Report { check: how == How::Look, accounts, snapshots: gone.0, snapshots_held: gone.1 })
}

/// Deletes the snapshots that no job holds; gives back how many files, and how many folders a job holds.
fn clear(folder: &Path, how: How) -> anyhow::Result<(usize, usize)> {
    snapshot::clear(folder, how == How::Remove).with_context(|| format!("the snapshots in {} can't be deleted", folder.display()))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let done = if report.check { "would go" } else { "gone" };
    for told in &report.accounts {
        let Told { portal, contacts, addresses, known, state, swept } = told;
        let ids = if contacts.is_empty() {
            "no contact".to_owned()
        } else {
            format!("contact {}", contacts.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        };
        let mirror = if *known { "" } else { ", unknown to the mirror" };
        text += &format!("account {portal}: {ids}, addresses: {addresses}{mirror}\n");
        let mut table = Table::new(&["where", done]);
        let mut row = |place: &str, what: usize| {
            if what > 0 {
                table.row([place.to_owned(), what.to_string()]);
            }
        };
        row("state database: deltas that wait for the contact", state.parked);
        row("state database: clicks that properties were written from", state.values);
        row("state database: refused deltas on their way to the dead letters", state.dead_letters);
        row("state database: ledger", swept.ledger);
        row("dead letters nobody has decided about", swept.dead_letters);
        for (topic, keys) in &swept.tombstones {
            row(&format!("topic {topic}: keys"), *keys);
        }
        if let Some(gone) = swept.clickhouse {
            row("ClickHouse: clicks", usize::try_from(gone.clicks).unwrap_or(usize::MAX));
            row("ClickHouse: deltas", usize::try_from(gone.deltas).unwrap_or(usize::MAX));
        }
        let none = state.parked + state.values + state.dead_letters + swept.count() == 0;
        text += &if none { "  nothing left to remove\n".to_owned() } else { table.text("  ") };
        text += &match (report.check, state.remembered) {
            (_, 0) => "  deltas of theirs are dropped already\n".to_owned(),
            (true, _) => "  deltas of theirs would be dropped from then on\n".to_owned(),
            (false, _) => "  deltas of theirs are dropped from now on\n".to_owned(),
        };
        for left in &swept.left {
            text += &format!("  stays: {}\n", stays(left));
        }
        for failed in &swept.failed {
            text += &format!("  FAILED: {failed}\n");
        }
    }
    if report.snapshots > 0 {
        text += &format!("snapshots, files {done}: {}; the next start reads the topics instead\n", report.snapshots);
    }
    if report.snapshots_held > 0 {
        text += &format!(
            "stays: snapshots in {} folders that a running job holds; they go with its windows, or run this again while it is stopped\n",
            report.snapshots_held
        );
    }
    text
}

/// What stays in a topic, and until when.
fn stays(Left { topic, records, since: _, until }: &Left) -> String {
    let records = records.map_or_else(|| "whatever names them".to_owned(), |records| format!("{records} records"));
    let until = match until {
        Some(at) => format!("until {} or somewhat later, by the topic's own settings", to_the_second(*at)),
        None => "for how long its settings do not say".to_owned(),
    };
    format!("{records} in {topic}, {until}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::sinks::clickhouse::Forgotten;
    use clap::Parser as _;

    #[test]
    fn one_person_is_meant() {
        let parse = |args: &[&str]| Cli::try_parse_from(["clickline", "forget", "--config", "c"].iter().chain(args)).map(|cli| cli.command);
        assert!(parse(&[]).is_err() && parse(&["--contact", "1", "--email", "a@x"]).is_err());
        assert!(parse(&["--contact", "a@x"]).is_err() && parse(&["--contact", " "]).is_err() && parse(&["--email", "801"]).is_err());
        assert!(parse(&["--contact", "801", "--portal", "1", "--format", "json"]).is_ok());
        assert!(matches!(parse(&["--email", "a@x", "--check"]), Ok(Command::Forget(Args { check: true, .. }))));
    }

    #[test]
    fn an_id_is_forgotten_where_it_is_known() {
        let of = |portal: &str| Erasure { portal: portal.to_owned(), ..Erasure::default() };
        let contact = Asked::Contacts(BTreeSet::from(["801".to_owned()]));
        let portals = |found: Vec<(Erasure, bool)>| found.into_iter().map(|(erasure, _)| erasure.portal).collect::<Vec<_>>();
        assert_eq!(portals(chosen(&contact, vec![(of("1"), false)]).expect("the only one")), ["1"]);
        assert_eq!(portals(chosen(&contact, vec![(of("1"), false), (of("2"), true)]).expect("it is known")), ["2"]);
        let error = chosen(&contact, vec![(of("1"), true), (of("2"), true), (of("3"), false)]).expect_err("whose?").to_string();
        assert!(error.contains("several accounts") && error.contains("--portal 1 or 2"), "{error}");
        let error = chosen(&contact, vec![(of("1"), false), (of("2"), false)]).expect_err("whose?").to_string();
        assert!(error.contains("no account's mirror") && error.contains("--portal 1 or 2"), "{error}");
        let email = Asked::Email("a@x".to_owned());
        assert_eq!(portals(chosen(&email, vec![(of("1"), false), (of("2"), true)]).expect("all")), ["1", "2"]);
    }

    #[test]
    fn what_went_and_what_stays_is_told_without_addresses() {
        let mut told = Told {
            portal: "4242".into(),
            contacts: ["77".to_owned(), "801".to_owned()].into(),
            addresses: 2,
            known: true,
            state: Removed { parked: 3, values: 0, dead_letters: 0, remembered: 4 },
            swept: Swept {
                ledger: 12,
                tombstones: [("crm.contacts".to_owned(), 1)].into(),
                clickhouse: Some(Forgotten { clicks: 5, deltas: 6 }),
                left: vec![
                    Left { topic: "hubspot.timeline".into(), records: Some(9), since: 1, until: Some(1_763_800_000_123) },
                    Left { topic: "clicks".into(), records: None, since: 1, until: None },
                ],
                failed: vec!["dead-letters: away".into()],
                ..Swept::default()
            },
        };
        let says = text(&Report { check: false, accounts: vec![], snapshots: 2, snapshots_held: 1 });
        assert!(says.contains("files gone: 2") && says.contains("1 folders that a running job holds"), "{says}");
        let one = |told: Told, check| text(&Report { check, accounts: vec![told], snapshots: 0, snapshots_held: 0 });
        let copy = Told { contacts: told.contacts.clone(), portal: told.portal.clone(), swept: told.swept.clone(), ..told };
        let says = one(copy, true).split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "account 4242: contact 77, 801, addresses: 2 where",
            "would go",
            "wait for the contact 3",
            "state database: ledger 12",
            "topic crm.contacts: keys 1",
            "ClickHouse: deltas 6",
            "would be dropped from then on",
            "stays: 9 records in hubspot.timeline, until 2025-11-22 08:26:40 or somewhat later",
            "stays: whatever names them in clicks, for how long its settings do not say",
            "FAILED: dead-letters: away",
        ] {
            assert!(says.contains(part), "{part}: {says}");
        }
        assert!(!says.contains("properties were written from"), "nothing of it: {says}");
        (told.state, told.swept, told.known) = (Removed::default(), Swept::default(), false);
        let says = one(told, false);
        assert_eq!(
            says,
            "account 4242: contact 77, 801, addresses: 2, unknown to the mirror\n  nothing left to remove\n  deltas of theirs are dropped already\n"
        );
    }
}
