//! Configuration in two phases: `Raw…` is what was typed, the checked types are what it means.
//!
//! Reading opens no socket. Variables of the environment are not filled in; secrets come by the names of variables.

pub mod mapping;
pub mod raw;
pub mod rules;

use crate::cluster::hosts;
use crate::dataflow::plan::{Connection, Plan, PlanError, Times, UtmProperties, WorkspaceSpec};
use crate::kafka::Kafka;
use crate::model::time::Ms;
use crate::serve::Http;
use crate::sinks::clickhouse;
use crate::sinks::hubspot::{Move, Settings};
use crate::sources::crm::CrmSettings;
use crate::sources::forms::FormsSettings;
use crate::sources::kafka::Limits;
use raw::{RawConfig, RawWorkspace, RulesAt};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use rules::{Mode, Rule, RuleError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use ustr::ustr;

/// What is wrong with a configuration, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that can't be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not YAML of the expected shape.
    #[error("{}: {problem}", .path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's words: line, field, what was expected.
        problem: String,
    },
    /// A file of rules, or the rules of a workspace.
    #[error("{place}")]
    Rules {
        /// The file or field.
        place: String,
        /// What is wrong with them.
        source: RuleError,
    },
    /// A value that makes no sense.
    #[error("{field}: {problem}")]
    Value {
        /// The field, as a path from the top.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Rules, times and workspaces that do not fit together.
    #[error("the rules do not fit")]
    Plan(#[from] PlanError),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// Lengths of time.
    pub times: Times,
    /// Credit and slack of the sources.
    pub limits: Limits,
    /// Worker threads, of each process.
    pub workers: usize,
    /// Where the processes listen for each other; none for a job of one process, or where the command line says it.
    pub hosts: Vec<String>,
    /// The sink, if there is one.
    pub hubspot: Option<Settings>,
    /// The ClickHouse sink, if there is one.
    pub clickhouse: Option<clickhouse::Settings>,
    /// The job's HTTP server, if there is one.
    pub http: Option<Http>,
    /// The CRM mirror, if there is one.
    pub crm: Option<CrmSettings>,
    /// The forms source, if there is one.
    pub forms: Option<FormsSettings>,
    /// The state database: tokens and what was delivered.
    pub state: PathBuf,
    /// Folder of the snapshots, if they are kept.
    pub snapshots: Option<PathBuf>,
    /// Workspaces, by name.
    pub workspaces: Vec<WorkspaceSpec>,
    /// Rules of all workspaces, each with its workspace.
    pub rules: Vec<Rule>,
    /// Names of the last-UTM properties, by workspace.
    pub mappings: BTreeMap<String, UtmProperties>,
}

impl Config {
    /// Reads and checks a configuration file; files of rules are looked for beside it.
    ///
    /// # Errors
    /// The first mistake, with file, line or field, and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        // Without a snippet: the lines around a mistake may hold a password.
        let options = serde_saphyr::options! { with_snippet: false };
        let raw: RawConfig = serde_saphyr::from_str_with_options(&text, options)
            .map_err(|error| ConfigError::Yaml { path: path.to_owned(), problem: error.to_string() })?;
        check(raw, path.parent().unwrap_or(Path::new("")))
    }

    /// All portals that a workspace is connected to.
    pub fn portals(&self) -> Vec<String> {
        let portals: BTreeSet<&String> = self.workspaces.iter().flat_map(|workspace| &workspace.portals).collect();
        portals.into_iter().cloned().collect()
    }

    /// What the rules do to deals, by HubSpot account; those that are off not among them.
    pub fn moves(&self) -> BTreeMap<String, Vec<Move>> {
        let mut moves: BTreeMap<String, Vec<Move>> = BTreeMap::new();
        for workspace in &self.workspaces {
            let of = self.rules.iter().filter(|rule| rule.workspace.as_ref() == Some(&workspace.name) && rule.mode != Mode::Off);
            for Rule { name, pipeline, from_stage, to_stage, .. } in of {
                for portal in &workspace.portals {
                    let (rule, pipeline) = (name.clone(), pipeline.clone());
                    let (from_stage, to_stage) = (from_stage.clone(), to_stage.clone());
                    moves.entry(portal.clone()).or_default().push(Move { rule, pipeline, from_stage, to_stage });
                }
            }
        }
        moves
    }

    /// What the dataflow is asked to compute.
    ///
    /// # Errors
    /// A tick that does not divide a minute.
    pub fn plan(&self, tick: Option<Ms>) -> Result<Plan, ConfigError> {
        let times = Times { tick: tick.unwrap_or(self.times.tick), ..self.times };
        let mut plan = Plan::new(times, &self.workspaces, &self.rules, |_, _| 0)?;
        for spec in &self.workspaces {
            let Some(names) = self.mappings.get(&spec.name) else { continue };
            for portal in &spec.portals {
                let connection = Connection { workspace: ustr(&spec.name), portal: ustr(portal) };
                plan.utm_properties.insert(connection, names.clone());
            }
        }
        Ok(plan)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Reads and checks a file of rules.
///
/// # Errors
/// The first mistake, with the file and the line or rule.
pub fn read_rules(path: &Path) -> Result<Vec<Rule>, ConfigError> {
    rules::read(&read(path)?).map_err(|source| ConfigError::Rules { place: path.display().to_string(), source })
}

/// Why librdkafka does not take an option; without its value, which may be a password, and which librdkafka quotes in places.
fn unset(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => format!("librdkafka has no option {key}"),
        KafkaError::ClientConfig(_, description, key, value) if value.is_empty() || !description.contains(value.as_str()) => {
            format!("{key}: {description}")
        }
        KafkaError::ClientConfig(_, _, key, _) => format!("{key}: librdkafka does not take its value"),
        error => error.to_string(),
    }
}

fn check(raw: RawConfig, folder: &Path) -> Result<Config, ConfigError> {
    let RawConfig { kafka, tick, times, hubspot, clickhouse, http, crm, forms, workspaces, state, snapshots, workers, cluster, in_flight } =
        raw;
    let wrong = |field: &str, problem: &str| ConfigError::Value { field: field.to_owned(), problem: problem.to_owned() };
    if kafka.brokers.trim().is_empty() {
        return Err(wrong("kafka.brokers", "is empty; give `host:port`, several with commas"));
    }
    // librdkafka knows its options and which of them this build can do; asking it opens nothing.
    if let Err(error) = kafka.client(&[]).create_native_config() {
        return Err(wrong("kafka.properties", &unset(&error)));
    }
    if workers == Some(0) {
        return Err(wrong("workers", "is 0; leave it out or give at least 1"));
    }
    if let Some(http) = &http {
        http.check().map_err(|error| wrong("http", &format!("{error:#}")))?;
    }
    if let Some(clickhouse) = &clickhouse {
        clickhouse.check().map_err(|error| wrong("clickhouse", &format!("{error:#}")))?;
    }
    hosts::check(&cluster.hosts).map_err(|problem| wrong("cluster.hosts", &problem))?;
    if in_flight.0 < 1 << 20 {
        return Err(wrong("in_flight", "is less than 1 MiB, the size of one record; leave it out for 64 MiB"));
    }
    if workspaces.is_empty() {
        return Err(wrong("workspaces", "is empty; name at least one with its portals, or nothing would ever come out"));
    }
    let names: Vec<&String> = workspaces.keys().collect();
    let mut config = Config {
        kafka,
        times: times.checked(tick),
        limits: Limits { in_flight_bytes: in_flight.0, idle_slack: times.idle_slack.0 },
        workers: workers.unwrap_or(1),
        hosts: cluster.hosts,
        hubspot,
        clickhouse,
        http,
        crm,
        forms,
        state: folder.join(state),
        snapshots: snapshots.0.map(|at| folder.join(at)),
        workspaces: Vec::new(),
        rules: Vec::new(),
        mappings: BTreeMap::new(),
    };
    for (name, workspace) in &workspaces {
        let rules = rules_of(name, workspace, folder, &names)?;
        config.rules.extend(rules);
        let mapped = mapping::check(&workspace.field_mapping)
            .map_err(|(key, problem)| ConfigError::Value { field: format!("workspaces.{name}.field_mapping.{key}"), problem })?;
        config.mappings.insert(name.clone(), mapped);
        if let Some(portal) = workspace.portals.iter().find(|portal| portal.trim().is_empty() || portal.contains('/')) {
            let field = format!("workspaces.{name}.portals");
            return Err(wrong(&field, &format!("`{portal}` is no HubSpot account id; it is the number in the address bar of HubSpot")));
        }
        config.workspaces.push(WorkspaceSpec { name: name.clone(), portals: workspace.portals.clone(), counts: workspace.counts });
    }
    rules::unique(&config.rules).map_err(|source| ConfigError::Rules { place: "workspaces".to_owned(), source })?;
    config.plan(None)?;
    let portals = config.portals();
    if let Some(settings) = &mut config.hubspot {
        settings.check(&portals).map_err(|error| wrong("hubspot", &format!("{error:#}")))?;
        // The properties that are made where they are missing are those that the mappings name.
        let unmapped = UtmProperties::default().names;
        settings.provision.retain(|name| !unmapped.contains(name));
        let mapped: BTreeSet<&String> = config.mappings.values().flat_map(|mapping| &mapping.names).collect();
        let listed = settings.provision.clone();
        settings.provision.extend(mapped.into_iter().filter(|name| !listed.contains(name)).cloned());
    }
    check_sources(&mut config)?;
    Ok(config)
}

/// Checks what fills the input topics, against what it needs.
fn check_sources(config: &mut Config) -> Result<(), ConfigError> {
    let wrong = |field: &str, problem: String| ConfigError::Value { field: field.to_owned(), problem };
    let (http, portals) = (config.http.is_some(), config.portals());
    if let Some(crm) = &config.crm {
        let Some(hubspot) = &config.hubspot else {
            return Err(wrong("crm", "needs the block `hubspot` with the accounts' connections".to_owned()));
        };
        if portals.is_empty() {
            return Err(wrong("crm", "has nothing to mirror: no workspace is connected to a portal".to_owned()));
        }
        crm.check(hubspot.budget.requests, http).map_err(|error| wrong("crm", format!("{error:#}")))?;
    }
    if let Some(forms) = &mut config.forms {
        let connected: Vec<(&str, &[String])> =
            config.workspaces.iter().map(|workspace| (workspace.name.as_str(), workspace.portals.as_slice())).collect();
        forms.check(&connected, http, config.hubspot.is_some()).map_err(|error| wrong("forms", format!("{error:#}")))?;
    }
    Ok(())
}

/// The rules that a workspace reads and that are meant for it.
fn rules_of(name: &str, workspace: &RawWorkspace, folder: &Path, names: &[&String]) -> Result<Vec<Rule>, ConfigError> {
    let place = format!("workspaces.{name}.rules");
    let rules = match &workspace.rules {
        RulesAt::File(path) => read_rules(&folder.join(path))?,
        RulesAt::Here(raw) => rules::check_all(raw.clone()).map_err(|source| ConfigError::Rules { place: place.clone(), source })?,
    };
    let mut mine = Vec::with_capacity(rules.len());
    for rule in rules {
        match &rule.workspace {
            None => mine.push(Rule { workspace: Some(name.to_owned()), ..rule }),
            Some(of) if of == name => mine.push(rule),
            // A file that several workspaces share may hold rules for one of them.
            Some(of) if names.contains(&of) => {}
            Some(of) => {
                let problem = format!("rule {} is for the workspace `{of}`, which does not stand under `workspaces`", rule.name);
                return Err(ConfigError::Value { field: place, problem });
            }
        }
    }
    Ok(mine)
}

#[cfg(test)]
mod tests;
