//! `clickline check`: reads the configuration and says what it means; with `--online` also what HubSpot says to it.

use super::Failure;
use super::hubspot::accounts;
use crate::config::Config;
use crate::config::rules::{Counted, Mode, window_text};
use crate::dataflow::plan::Counts;
use crate::oauth::Sealing;
use crate::sinks::hubspot::Change;
use crate::sources::crm::{Changes, webhooks};
use anyhow::{Context as _, anyhow};
use std::path::PathBuf;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Ask HubSpot, too: whether each account has the type of event and the contact properties that are written, and whether they can be
    /// written; whether it has the pipelines and stages that its rules name. Nothing is changed there.
    #[arg(long)]
    pub online: bool,
}

/// Checks and prints.
///
/// # Errors
/// What is wrong with the configuration.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    print!("{}", meaning(&config));
    if !args.online {
        return Ok(());
    }
    let settings = config.hubspot.as_ref().context("there is no `hubspot` block to ask with").map_err(Failure::Configuration)?;
    // What is missing the next start makes.
    match accounts(&config, settings, &config.portals(), Change::Look).map_err(Failure::Configuration)?.refused {
        0 => Ok(()),
        wrong => Err(Failure::Configuration(anyhow!("{wrong} of these can't be used as they are"))),
    }
}

/// The configuration in words.
fn meaning(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| text.push_str(&format!("{words}\n"));
    line(format_args!("brokers     {}", config.kafka.brokers));
    line(format_args!("clock       ticks of {} ms, {} worker(s)", config.times.tick, config.workers));
    if !config.hosts.is_empty() {
        line(format_args!("processes   {}", config.hosts.join(", ")));
    }
    if let Some(http) = &config.http {
        line(format_args!("http        on {}, known as {}", http.listen, http.address(http.listen.port(), "/")));
    }
    if let Some(connections) = config.hubspot.as_ref().map(|hubspot| &hubspot.connections) {
        let place = if connections.postgres_env.is_some() { "PostgreSQL" } else { "the state database" };
        let sealed = if connections.seal == Sealing::Off { "in the clear" } else { "sealed" };
        line(format_args!("connections of the environment {}, {sealed}, in {place}", connections.environment));
    }
    if let Some(crm) = &config.crm {
        let every = window_text(crm.reload_every());
        line(format_args!("crm         mirrored from HubSpot, changes by {}, all again every {every}", crm.changes.name()));
        if let (Changes::Webhooks, Some(http)) = (crm.changes, &config.http) {
            let address = http.address(http.listen.port(), webhooks::PATH);
            line(format_args!("            HubSpot is to call {address}"));
        }
    }
    for (id, key) in config.forms.iter().flat_map(|forms| &forms.keys) {
        line(format_args!("forms       key {id} posts to /forms/{}", key.workspace));
    }
    for form in config.forms.iter().flat_map(|forms| &forms.hubspot) {
        let workspace = form.workspace.as_deref().unwrap_or_default();
        line(format_args!("forms       form {} of portal {} is {workspace}'s", form.form, form.portal));
    }
    for workspace in &config.workspaces {
        let portals = if workspace.portals.is_empty() { "no portal: nothing comes out".to_owned() } else { workspace.portals.join(", ") };
        let counts = if workspace.counts == Counts::All { "all counts" } else { "counts of its rules" };
        line(format_args!("workspace   {}: {portals}; {counts}", workspace.name));
        if let Some(mapping) = config.mappings.get(&workspace.name) {
            line(format_args!("  last UTM  {}", mapping.names.join(", ")));
        }
        for rule in config.rules.iter().filter(|rule| rule.workspace.as_ref() == Some(&workspace.name)) {
            let of = match &rule.counted {
                Counted::Tag(tag) => format!("links tagged {tag}"),
                Counted::Link(link) => link.clone(),
            };
            let mode = match rule.mode {
                Mode::Live => "",
                Mode::Shadow => " (shadow: nothing is written)",
                Mode::Off => " (off)",
            };
            let (threshold, window) = (rule.threshold, window_text(rule.window));
            let (from, to, pipeline) = (&rule.from_stage, &rule.to_stage, &rule.pipeline);
            line(format_args!("  rule      {}{mode}", rule.name));
            line(format_args!("            {threshold} clicks on {of} in {window} move a deal of {pipeline} from {from} to {to}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, Failure};
    use clap::Parser as _;
    use std::fs;

    #[test]
    fn a_configuration_is_told_in_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.yaml");
        let text = "kafka: {brokers: 'b:1'}\nworkspaces:\n  acme:\n    portals: ['4242']\n    rules:\n      - mode: shadow\n        name: hot\n        trigger: {link_tag: sales, contact_window: 30d, click_threshold: 50}\n        action: {type: advance_deal_stage, pipeline: default, from_stage: a, to_stage: b}\n";
        fs::write(&path, text).expect("writes");
        let said = meaning(&Config::load(&path).expect("right"));
        for part in ["b:1", "acme: 4242", "hot (shadow", "50 clicks on links tagged sales in 30d move a deal of default from a to b"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let sources = "http: {public_url: 'https://c.example'}\ncrm: {changes: webhooks}\nforms: {keys: {site: {workspace: acme, secret_env: X}}, hubspot: [{portal: 4242, form: f-1}]}\n\
                       hubspot: {client_id: c, portals: {'4242': {event_template_id: '1'}}}\n";
        fs::write(&path, format!("{sources}{text}")).expect("writes");
        let said = meaning(&Config::load(&path).expect("right"));
        for part in [
            "http        on 127.0.0.1:8090, known as https://c.example/",
            "connections of the environment production, sealed, in the state database",
            "changes by webhooks, all again every 1d",
            "https://c.example/hubspot/webhooks",
            "key site posts to /forms/acme",
            "form f-1 of portal 4242 is acme's",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        for (wrong, word) in
            [("crm: {changes: search}\n", "hubspot"), ("forms: {keys: {site: {workspace: acme, secret_env: X}}}\n", "http")]
        {
            fs::write(&path, format!("{wrong}{text}")).expect("writes");
            let error = Config::load(&path).expect_err(wrong).to_string();
            assert!(error.contains(word), "{wrong}: {error}");
        }
        fs::write(&path, text.replace("50", "0")).expect("writes");
        // Not through `Cli::run`: it would take the process's log lines, which another test listens to.
        let cli = Cli::parse_from(["clickline", "check", "--config", &path.display().to_string()]);
        let Command::Check(args) = cli.command else { panic!("another command") };
        assert!(matches!(run(&args), Err(Failure::Configuration(_))));
    }
}
