//! `clickline-redirect sign`: makes the signed ids that stand in links.

use crate::Failed;
use crate::visitor_args::{KEYS, key_source};
use anyhow::anyhow;
use clap::Args;
use clickline_redirect::{Clock, Error, Key, KeySource, Keys, Scope, link_key, sign};
use std::fmt::Display;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Make signed links for contacts.
///
/// With contact ids as arguments: one link (with --whole-workspace: one `eid`) per line. Without: reads a list from the standard input, one
/// contact id per line or CSV, and writes CSV with contact_id, eid and url.
#[derive(Debug, Args)]
#[command(max_term_width = 110, after_help = AFTER)]
pub(crate) struct SignArgs {
    /// Contact ids; without any they are read from the standard input
    #[arg(value_name = "CONTACT")]
    contacts: Vec<String>,

    /// Keys, one `ID SECRET [WORKSPACE…]` per line; the first that holds for the workspace signs. Without it: CLICKLINE_EID_KEYS
    #[arg(long, value_name = "FILE")]
    eid_keys: Option<PathBuf>,

    /// Workspace of the link
    #[arg(long, value_name = "WORKSPACE")]
    workspace: String,

    /// The only link that the ids hold on, as domain/slug or as its address: international names and encoded slugs may be written either way
    #[arg(long, value_name = "DOMAIN/SLUG", required_unless_present = "whole_workspace")]
    link: Option<String>,

    /// Let the ids hold on every link of the workspace
    #[arg(long, conflicts_with = "link")]
    whole_workspace: bool,

    /// How long the ids hold: 90m, 12h, 30d [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<u64>,

    /// Column of the CSV that holds the contact ids, by the name in its first line, e.g. "Record ID"
    #[arg(long, value_name = "NAME", conflicts_with = "contacts")]
    column: Option<String>,
}

const AFTER: &str = "\
Examples:
  clickline-redirect sign --eid-keys keys --workspace acme --link s.elido.me/abc123 --expires 30d 801
  clickline-redirect sign --eid-keys keys --workspace acme --whole-workspace --column 'Record ID' < contacts.csv > eids.csv

Exit codes: 0 all were signed, 1 the list can't be read or written, 2 the options or some ids are wrong (they are named; the others were signed).";

/// Seconds.
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; write 90m, 12h or 30d");
    let unit = match text.chars().last() {
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    text[..text.len() - 1].parse::<u64>().ok().filter(|count| *count > 0).and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)
}

/// What ids are signed with.
struct Signer<'a> {
    key: &'a Key,
    workspace: &'a str,
    /// Its key; None: the whole workspace.
    link: Option<&'a str>,
    /// Seconds since the epoch.
    expires: Option<u64>,
}

impl Signer<'_> {
    /// The id and, for one link, the whole URL.
    fn sign(&self, contact: &str) -> Result<(String, Option<String>), String> {
        let scope = self.link.map_or(Scope::Workspace, Scope::Link);
        let eid = sign(self.key, self.workspace, scope, contact, self.expires)?;
        // Nothing in an id needs encoding; a slug may, and is decoded again by the server.
        let url = self.link.map(|link| match url::Url::parse(&format!("https://{link}?eid={eid}")) {
            Ok(url) => Ok(url.to_string()),
            Err(error) => Err(format!("{link:?} is no link ({error}); write domain/slug")),
        });
        Ok((eid, url.transpose()?))
    }
}

/// Signs what the options say, onto `output`.
pub(crate) fn run(args: &SignArgs, clock: &Clock, input: impl Read, output: impl Write) -> anyhow::Result<()> {
    let keys = match key_source(args.eid_keys.as_ref())? {
        Some(KeySource::File(path)) => Keys::read(&path)?,
        Some(KeySource::Given(keys)) => keys,
        None => return Err(wrong(format!("there are no keys; give a file with --eid-keys, or {KEYS}"))),
    };
    let key = keys
        .signing(&args.workspace)
        .ok_or_else(|| wrong(format!("no key holds for the workspace {:?}; add it behind a key", args.workspace)))?;
    let key_of = |link| link_key(link).map_err(|message| wrong(format!("--link {message}")));
    let link = args.link.as_deref().map(key_of).transpose()?;
    let expires = args.expires.map(|seconds| (clock.now() / 1_000).saturating_add(seconds));
    let signer = Signer { key, workspace: &args.workspace, link: link.as_deref(), expires };
    let bad = if args.contacts.is_empty() {
        list(&signer, args.column.as_deref(), input, output)?
    } else {
        arguments(&signer, &args.contacts, output)?
    };
    if bad == 0 { Ok(()) } else { Err(wrong(format!("{bad} contact ids were not signed; they are named above"))) }
}

/// One link or `eid` a line; how many could not be signed.
fn arguments(signer: &Signer<'_>, contacts: &[String], mut output: impl Write) -> anyhow::Result<usize> {
    let mut bad = 0;
    for contact in contacts {
        match signer.sign(contact) {
            Ok((eid, url)) => writeln!(output, "{}", url.unwrap_or(eid)).map_err(unwritable)?,
            Err(message) => {
                eprintln!("{message}");
                bad += 1;
            }
        }
    }
    Ok(bad)
}

/// CSV from a list; how many could not be signed.
fn list(signer: &Signer<'_>, column: Option<&str>, input: impl Read, output: impl Write) -> anyhow::Result<usize> {
    let mut input = csv::ReaderBuilder::new().has_headers(column.is_some()).flexible(true).trim(csv::Trim::All).from_reader(input);
    let mut output = csv::Writer::from_writer(output);
    let at = match column {
        Some(name) => {
            // Spreadsheets put a byte order mark before the first name.
            let names = input.headers().map_err(unreadable)?;
            let at = names.iter().position(|other| other.trim_start_matches('\u{feff}') == name);
            at.ok_or_else(|| wrong(format!("the list has no column {name:?}; its columns are {:?}", names.iter().collect::<Vec<_>>())))?
        }
        None => 0,
    };
    output
        .write_record(if signer.link.is_some() { &["contact_id", "eid", "url"][..] } else { &["contact_id", "eid"] })
        .map_err(unwritable)?;
    let mut bad = 0;
    for record in input.records() {
        let record = record.map_err(unreadable)?;
        let contact = record.get(at).unwrap_or_default().trim_start_matches('\u{feff}');
        match signer.sign(contact) {
            Ok((eid, Some(url))) => output.write_record([contact, &eid, &url]).map_err(unwritable)?,
            Ok((eid, None)) => output.write_record([contact, &eid]).map_err(unwritable)?,
            Err(message) => {
                eprintln!("line {}: {message}", record.position().map_or(0, csv::Position::line));
                bad += 1;
            }
        }
    }
    output.flush().map_err(unwritable)?;
    Ok(bad)
}

fn wrong(text: String) -> anyhow::Error {
    anyhow!(Error::Config(text))
}

fn unreadable(error: impl Display) -> Failed {
    Failed(format!("the list can't be read ({error})"))
}

fn unwritable(error: impl Display) -> Failed {
    Failed(format!("the ids can't be written ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!((duration("90m"), duration("12h"), duration("30d")), (Ok(5_400), Ok(43_200), Ok(2_592_000)));
        for text in ["", "d", "0d", "-1d", "1w", "1.5h", "99999999999999999999d", "9999999999999999999d", "1é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
