//! Configuration in two phases: `Raw…` is what was typed, the checked types are what it means.
//!
//! Reading opens no socket. Variables of the environment are not filled in; secrets come by the names of variables.

pub mod diff;
pub mod lenient;
pub mod mapping;
pub mod mistakes;
pub mod raw;
pub mod rules;
pub mod tree;

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
use lenient::Lenient;
use mistakes::{Mistake, Mistakes};
use raw::{RawConfig, RawWorkspace, RulesAt};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use rules::{Mode, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tree::Node;
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
    /// Mistakes in files, each with its line.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
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
    /// All mistakes, each with file, line, field and what to do; of what blocks say about each other, the first of each block.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Ok(Self::read(&text, path.parent().unwrap_or(Path::new(""))).map_err(|mistakes| mistakes.in_file(path))?)
    }

    /// Reads and checks the text of a configuration file; files of rules are looked for in `folder`.
    ///
    /// # Errors
    /// As [`Config::load`]; mistakes without a file are in `text`.
    pub fn read(text: &str, folder: &Path) -> Result<Self, Mistakes> {
        let tree = Node::read(text).map_err(|(line, problem)| Mistake::new(line, problem))?;
        let Lenient { value, tree, mistakes, whole } = lenient::read::<RawConfig>(tree);
        let mut checking = Checking { tree, mistakes, whole };
        let config = value.and_then(|raw| check(raw, folder, &mut checking));
        let Checking { mut mistakes, .. } = checking;
        mistakes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        mistakes.dedup();
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(mistakes)),
        }
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
/// All mistakes, each with file and line.
pub fn read_rules(path: &Path) -> Result<Vec<Rule>, ConfigError> {
    Ok(rules::read(&read(path)?).map_err(|mistakes| mistakes.in_file(path))?)
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

/// What is known of the text while it is checked, and what was found wrong so far.
struct Checking {
    tree: Node,
    mistakes: Vec<Mistake>,
    /// Whether all of the text could be read; what the blocks say of each other means something only then.
    whole: bool,
}

impl Checking {
    /// Notes what is wrong with a field, a path from the top.
    fn wrong(&mut self, field: &str, problem: &str) {
        self.wrong_at(&field.split('.').collect::<Vec<_>>(), problem);
    }

    /// The same; for paths whose steps may hold dots.
    fn wrong_at(&mut self, path: &[&str], problem: &str) {
        let line = self.tree.line_of(path);
        self.mistakes.push(Mistake::new(line, format!("{}: {problem}", path.join("."))));
    }

    /// Notes what a block says of itself: `block.field: problem`, or `field: problem`.
    fn wrong_in(&mut self, block: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let within = text.strip_prefix(block).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&text);
        let field = within.split_once(':').map_or("", |(field, _)| field);
        let line = self.tree.line_of(std::iter::once(block).chain(field.split('.')));
        self.mistakes.push(Mistake::new(line, format!("{block}: {text}")));
    }
}

/// The configuration that the text means; `None` where a part of it is missing.
fn check(raw: RawConfig, folder: &Path, checking: &mut Checking) -> Option<Config> {
    let RawConfig { kafka, tick, times, hubspot, clickhouse, http, crm, forms, workspaces, state, snapshots, workers, cluster, in_flight } =
        raw;
    if kafka.brokers.trim().is_empty() {
        checking.wrong("kafka.brokers", "is empty; give `host:port`, several with commas");
    }
    for (field, key, problem) in kafka.problems() {
        checking.wrong_at(&["kafka", field, &key], &problem);
    }
    // librdkafka knows its options and which of them this build can do; asking it opens nothing.
    if let Err(error) = kafka.client(&[]).create_native_config() {
        let key = match &error {
            KafkaError::ClientConfig(_, _, key, _) => key.as_str(),
            _ => "",
        };
        let line = checking.tree.line_of(["kafka", "properties", key]);
        checking.mistakes.push(Mistake::new(line, format!("kafka.properties: {}", unset(&error))));
    }
    if workers == Some(0) {
        checking.wrong("workers", "is 0; leave it out or give at least 1");
    }
    if let Some(Err(error)) = http.as_ref().map(Http::check) {
        checking.wrong_in("http", &error);
    }
    if let Err(problem) = hosts::check(&cluster.hosts) {
        checking.wrong("cluster.hosts", &problem);
    }
    if let Some(Err(error)) = clickhouse.as_ref().map(clickhouse::Settings::check) {
        checking.wrong_in("clickhouse", &error);
    }
    if in_flight.0 < 1 << 20 {
        checking.wrong("in_flight", "is less than 1 MiB, the size of one record; leave it out for 64 MiB");
    }
    if workspaces.is_empty() && checking.whole {
        checking.wrong("workspaces", "is empty; name at least one with its portals, or nothing would ever come out");
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
        let rules = rules_of(name, workspace, folder, &names, checking);
        config.rules.extend(rules);
        match mapping::check(&workspace.field_mapping) {
            Ok(mapped) => drop(config.mappings.insert(name.clone(), mapped)),
            Err(wrong) => {
                for (key, problem) in wrong {
                    checking.wrong_at(&["workspaces", name, "field_mapping", &key], &problem);
                }
            }
        }
        for (place, portal) in workspace.portals.iter().enumerate() {
            if portal.trim().is_empty() || portal.contains('/') {
                let problem = format!("`{portal}` is no HubSpot account id; it is the number in the address bar of HubSpot");
                checking.wrong_at(&["workspaces", name, "portals", &place.to_string()], &problem);
            }
        }
        config.workspaces.push(WorkspaceSpec { name: name.clone(), portals: workspace.portals.clone(), counts: workspace.counts });
    }
    if let Err(error) = config.plan(None) {
        checking.wrong("tick", &format!("{:#}", anyhow::Error::new(error)));
    }
    let portals = config.portals();
    if let Some(settings) = config.hubspot.as_mut().filter(|_| checking.whole) {
        if let Err(error) = settings.check(&portals) {
            checking.wrong_in("hubspot", &error);
        }
        // The properties that are made where they are missing are those that the mappings name.
        let unmapped = UtmProperties::default().names;
        settings.provision.retain(|name| !unmapped.contains(name));
        let mapped: BTreeSet<&String> = config.mappings.values().flat_map(|mapping| &mapping.names).collect();
        let listed = settings.provision.clone();
        settings.provision.extend(mapped.into_iter().filter(|name| !listed.contains(name)).cloned());
    }
    if checking.whole {
        check_sources(&mut config, checking);
    }
    Some(config)
}

/// Checks what fills the input topics, against what it needs.
fn check_sources(config: &mut Config, checking: &mut Checking) {
    let (http, portals) = (config.http.is_some(), config.portals());
    if let Some(crm) = &config.crm {
        match &config.hubspot {
            None => checking.wrong("crm", "needs the block `hubspot` with the accounts' connections"),
            Some(_) if portals.is_empty() => checking.wrong("crm", "has nothing to mirror: no workspace is connected to a portal"),
            Some(hubspot) => {
                if let Err(error) = crm.check(hubspot.budget.requests, http) {
                    checking.wrong_in("crm", &error);
                }
            }
        }
    }
    if let Some(forms) = &mut config.forms {
        let connected: Vec<(&str, &[String])> =
            config.workspaces.iter().map(|workspace| (workspace.name.as_str(), workspace.portals.as_slice())).collect();
        if let Err(error) = forms.check(&connected, http, config.hubspot.is_some()) {
            checking.wrong_in("forms", &error);
        }
    }
}

/// The rules that a workspace reads and that are meant for it.
fn rules_of(name: &str, workspace: &RawWorkspace, folder: &Path, names: &[&String], checking: &mut Checking) -> Vec<Rule> {
    let place = ["workspaces", name, "rules"];
    let of_place = |problem: String| format!("{}: {problem}", place.join("."));
    let rules = match &workspace.rules {
        RulesAt::File(path) => match read_rules(&folder.join(path)) {
            Ok(rules) => rules,
            Err(ConfigError::Mistakes(Mistakes(mistakes))) => {
                checking.mistakes.extend(mistakes);
                return Vec::new();
            }
            Err(error) => {
                checking.wrong_at(&place, &format!("{:#}", anyhow::Error::new(error)));
                return Vec::new();
            }
        },
        RulesAt::Here(raw) => {
            let (rules, mistakes) = rules::check_all(raw.clone(), &checking.tree, &place);
            checking.mistakes.extend(mistakes.into_iter().map(|of| Mistake { problem: of_place(of.problem), ..of }));
            rules
        }
    };
    let mut mine: Vec<Rule> = Vec::with_capacity(rules.len());
    for rule in rules {
        let rule = match &rule.workspace {
            None => Rule { workspace: Some(name.to_owned()), ..rule },
            Some(of) if of == name => rule,
            // A file that several workspaces share may hold rules for one of them.
            Some(of) if names.contains(&of) => continue,
            Some(of) => {
                let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                let meant = mistakes::meant(of, &known);
                let problem = format!("rule {} is for the workspace `{of}`, which does not stand under `workspaces`{meant}", rule.name);
                checking.wrong_at(&place, &problem);
                continue;
            }
        };
        // One of all workspaces and one of this one may have the same name.
        if mine.iter().any(|other| other.name == rule.name) {
            checking.wrong_at(&place, &rules::stands_twice(&rule));
        } else {
            mine.push(rule);
        }
    }
    mine
}

#[cfg(test)]
mod misspelt;
#[cfg(test)]
mod tests;
