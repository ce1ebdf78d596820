//! `clickline export`: clicks and deltas as Parquet files, a file a day.

use super::inputs::past::moment;
use super::{Failure, setup};
use crate::config::Config;
use crate::export::{Done, Export, Source, day_name};
use crate::model::outputs::Topic;
use crate::model::time::{DAY, now};
use crate::sinks::clickhouse::{Stream, delta_topic};
use crate::stop::Stop;
use anyhow::anyhow;
use std::path::PathBuf;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read the topics of this configuration; nothing is written there.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["clicks", "deltas"])]
    pub config: Option<PathBuf>,
    /// Read clicks from these files instead: JSON lines, plain or gzip; `-` is standard input.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "config")]
    pub clicks: Vec<String>,
    /// Deltas, too: hubspot.timeline, hubspot.deal-stages, hubspot.contact-properties or clicks.unresolved; with `=FILE` from this file.
    #[arg(long, value_name = "TOPIC[=FILE]", num_args = 1.., value_parser = delta)]
    pub deltas: Vec<Delta>,
    /// The first day, in UTC and by the records' own time. Default: the first one there is.
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub from: Option<u32>,
    /// The last day, and it is written whole. Default: of topics yesterday, of files the last one there is.
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub to: Option<u32>,
    /// The folder; it gets a folder for each topic.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write files anew that are there already, and days of which Kafka may have deleted records.
    #[arg(long)]
    pub replace: bool,
}

/// A delta topic, and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    topic: Topic,
    file: Option<String>,
}

fn delta(text: &str) -> Result<Delta, String> {
    let (name, file) = text.split_once('=').map_or((text, None), |(name, file)| (name, Some(file.to_owned())));
    let topic = delta_topic(name).map_err(|error| error.to_string())?;
    Ok(Delta { topic, file })
}

fn day(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no day after 1970; write 2026-11-25");
    let at = moment(text).map_err(|_| wrong())?;
    if text.trim().len() > 10 { Err(wrong()) } else { u32::try_from(at / DAY).map_err(|_| wrong()) }
}

/// Exports and prints what came of it.
///
/// # Errors
/// Arguments or a configuration that are wrong; topics or files that can't be read, files that can't be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new();
    setup::stop_on_signals(&stop)?;
    for export in exports(args)? {
        let done = export.run(&stop)?;
        say(&export, &done);
    }
    Ok(())
}

fn exports(args: &Args) -> Result<Vec<Export>, Failure> {
    let config = args.config.as_deref().map(Config::load).transpose().map_err(Failure::configuration)?;
    let topic = config.as_ref().map(|config| Source::Topic { kafka: Box::new(config.kafka.clone()), max_future: config.times.max_future });
    if let Some(config) = &config {
        config.kafka.check_secrets().map_err(Failure::Configuration)?;
    }
    let today = u32::try_from(now() / DAY).unwrap_or(u32::MAX);
    let export = |stream, from: Source| {
        let last = if matches!(from, Source::Topic { .. }) { today.saturating_sub(1) } else { u32::MAX };
        let days = args.from.unwrap_or(0)..=args.to.unwrap_or(last);
        Export { stream, from, days, out: args.out.clone(), replace: args.replace }
    };
    if args.from.zip(args.to).is_some_and(|(from, to)| from > to) {
        return Err(Failure::Configuration(anyhow!("--from is later than --to")));
    }
    let mut exports = Vec::new();
    match &topic {
        Some(topic) => exports.push(export(Stream::Clicks, topic.clone())),
        None if args.clicks.is_empty() => {}
        None => exports.push(export(Stream::Clicks, Source::Files(args.clicks.clone()))),
    }
    for Delta { topic: name, file } in &args.deltas {
        let from = match (file, &topic) {
            (Some(file), _) => Source::Files(vec![file.clone()]),
            (None, Some(topic)) => topic.clone(),
            (None, None) => {
                let name = name.default_name();
                return Err(Failure::Configuration(anyhow!("say where {name} is: --config FILE, or --deltas {name}=FILE")));
            }
        };
        exports.push(export(Stream::Deltas(*name), from));
    }
    Ok(exports)
}

fn say(export: &Export, done: &Done) {
    let folder = export.folder();
    for (day, rows) in &done.written.files {
        println!("{}: {rows} rows", folder.join(format!("{}.parquet", day_name(*day))).display());
    }
    let word = export.stream.word();
    let Done { written, records, malformed, cut } = done;
    let days = match written.files.len() {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    println!("{word}: {days}, {records} records, {} of them delivered before, {malformed} lines or records that are none", written.repeats);
    if !written.kept.is_empty() {
        println!("{word}: {} days were there already and stay as they are (--replace writes them anew)", written.kept.len());
    }
    match cut {
        None => {}
        Some((u32::MAX, left_out)) => {
            println!(
                "{word}: {left_out} records left out: a partition has lost all it had, so no day is known to be whole (--replace writes them)"
            );
        }
        Some((last, left_out)) => println!(
            "{word}: {left_out} records left out: Kafka has deleted others of {} and before (--replace writes what is left)",
            day_name(*last)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_topics_are_read() {
        assert_eq!(day("2025-11-22"), Ok(20_414));
        for bad in ["", "2025-11", "2025-11-22T00:00:00Z", "tomorrow"] {
            assert!(day(bad).is_err(), "{bad}");
        }
        let of = |topic, file: Option<&str>| Ok(Delta { topic, file: file.map(str::to_owned) });
        assert_eq!(delta("hubspot.timeline"), of(Topic::Timeline, None));
        assert_eq!(delta("clicks.unresolved=a=b"), of(Topic::Unresolved, Some("a=b")));
        assert!(delta("clicks.counts").is_err());
    }
}
