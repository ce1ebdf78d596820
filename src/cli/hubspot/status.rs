//! `clickline hubspot status`: how each account is connected, as the table of connections has it.

use super::{Failure, Of, Open};
use crate::cli::text::to_the_second;
use crate::cli::topics;
use crate::model::time::{self, Ms};
use crate::oauth::{Condition, Connections, Facts, Mode, Status, TokenError};
use crate::sinks::hubspot::{Settings, takes_token};
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Arguments of `hubspot status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// How it is told.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For tools.
    Json,
}

/// Looks and tells.
///
/// # Errors
/// When an account is not connected.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Open { config, settings, connections } = args.of.open()?;
    let statuses = connections.status()?;
    let fixed: Vec<String> = statuses.iter().filter(|status| status.mode == Mode::Static).map(|status| status.portal.clone()).collect();
    let accepted = accepted(&settings, &connections, &fixed)?;
    let all: Vec<Told> = statuses.iter().map(|status| Told::of(status, accepted.get(&status.portal).copied())).collect();
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&all).map_err(anyhow::Error::from)?),
        Format::Text => all.iter().for_each(|told| print!("{}", told.text(time::now()))),
    }
    let (topics, _) = topics::of_sink(&config).map_err(Failure::configuration)?;
    for line in topics {
        match args.format {
            // An array of accounts is what tools read.
            Format::Json => eprintln!("{line}"),
            Format::Text => println!("{line}"),
        }
    }
    let out: Vec<&str> = all.iter().filter(|told| !told.usable).map(|told| told.portal.as_str()).collect();
    if out.is_empty() { Ok(()) } else { Err(anyhow!("not connected: {}", out.join(", ")).into()) }
}

/// Asks HubSpot which of these accounts it knows the configured access token of: of such a token nothing is kept. An account about which it
/// gives no answer is missing.
fn accepted(settings: &Settings, connections: &Arc<Connections>, portals: &[String]) -> anyhow::Result<BTreeMap<String, bool>> {
    let mut accepted = BTreeMap::new();
    if portals.is_empty() {
        return Ok(accepted);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    for portal in portals {
        if let Some(answer) = runtime.block_on(takes_token(settings, connections, portal))? {
            accepted.insert(portal.clone(), answer);
        }
    }
    Ok(accepted)
}

/// What is told of an account; times are ms since the Unix epoch.
#[derive(Debug, Serialize)]
struct Told {
    portal: String,
    /// `app` or `static`.
    mode: &'static str,
    /// Whether deltas can be written.
    usable: bool,
    /// `connected`, `not_connected`, `reinstall_required`, `bad_client`, `bad_static_token` or `unusable`.
    state: &'static str,
    /// Why, and what to do.
    problem: Option<String>,
    workspace: Option<String>,
    scopes: Vec<String>,
    /// What does not work, and the scopes that are missing.
    gated: Vec<Gated>,
    installed_at: Option<Ms>,
    refreshed_at: Option<Ms>,
    expires_at: Option<Ms>,
    /// No call to the token endpoint before.
    retry_at: Option<Ms>,
    /// Calls to the token endpoint, ever; failures since the last success; how often the refresh token was replaced.
    attempts: u64,
    failures: u32,
    rotations: u64,
    token_version: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Gated {
    feature: &'static str,
    #[serde(skip)]
    words: String,
    missing: Vec<&'static str>,
}

impl Told {
    /// `accepted`: whether HubSpot accepts the token of the configuration, where it was asked and has answered.
    fn of(status: &Status, accepted: Option<bool>) -> Told {
        let Status { portal, mode, facts, token_version, problem, installed, gated } = status;
        let (state, why) = match (mode, facts, problem) {
            (Mode::Static, ..) if accepted == Some(false) => ("bad_static_token", Some(TokenError::BadStaticToken.to_string())),
            (Mode::Static, ..) if accepted.is_none() => ("connected", Some("HubSpot gives no answer, so its word is missing".to_owned())),
            (Mode::Static, ..) => ("connected", None),
            (_, Some(Facts { condition: Condition::Connected, .. }), _) => ("connected", None),
            (_, Some(Facts { condition: Condition::ReinstallRequired(why), .. }), _) => {
                ("reinstall_required", Some(format!("{why}; log in again (`clickline hubspot login`)")))
            }
            (_, Some(Facts { condition: Condition::BadClient(code), .. }), _) => {
                ("bad_client", Some(format!("HubSpot does not accept the app's credentials ({code}): check client_id and client_secret")))
            }
            (_, None, problem) => (if *installed { "unusable" } else { "not_connected" }, problem.clone()),
        };
        let known = facts.clone().unwrap_or_default();
        let at = |at: Ms| (at > 0).then_some(at);
        Told {
            portal: portal.clone(),
            mode: match mode {
                Mode::App => "app",
                Mode::Static => "static",
            },
            usable: state == "connected",
            state,
            problem: why,
            workspace: known.workspace,
            scopes: known.scopes,
            gated: gated
                .iter()
                .map(|(feature, missing)| Gated { feature: feature.name(), words: feature.to_string(), missing: missing.clone() })
                .collect(),
            installed_at: at(known.installed_at),
            refreshed_at: at(known.refreshed_at),
            expires_at: at(known.expires_at),
            retry_at: at(known.retry_at),
            attempts: known.attempts,
            failures: known.failures,
            rotations: known.rotations,
            token_version: *token_version,
        }
    }

    fn text(&self, now: Ms) -> String {
        let mut text = format!("account {}\n", self.portal);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<14}{value}\n"));
        line("state", self.state.replace('_', " "));
        if let Some(problem) = &self.problem {
            line("problem", problem.clone());
        }
        if self.mode == "static" {
            line("by", "an access token of the configuration; its scopes are HubSpot's to say".to_owned());
            return text;
        }
        let Some(version) = self.token_version else { return text };
        line(
            "by",
            self.workspace.as_ref().map_or("a refresh token of the configuration".to_owned(), |of| format!("an installed app, for {of}")),
        );
        line("scopes", if self.scopes.is_empty() { "not known before the first refresh".to_owned() } else { self.scopes.join(" ") });
        for Gated { words, missing, .. } in &self.gated {
            line("not allowed", format!("{words}: {} is missing", missing.join(", ")));
        }
        let never = || "never".to_owned();
        line("last refresh", self.refreshed_at.map_or_else(never, to_the_second));
        if let Some(expires_at) = self.expires_at {
            let over = if expires_at < now { " (over: the next use refreshes it)" } else { "" };
            line("access token", format!("until {}{over}", to_the_second(expires_at)));
        }
        if let Some(retry_at) = self.retry_at.filter(|at| *at > now) {
            line("next try", to_the_second(retry_at));
        }
        let (attempts, failures, rotations) = (self.attempts, self.failures, self.rotations);
        line(
            "refreshes",
            format!("{attempts} calls, {failures} failures since the last success, refresh token replaced {rotations} times"),
        );
        line("version", version.to_string());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{EventScopes, Why, gated};

    fn status(facts: Option<Facts>, problem: Option<&str>) -> Status {
        let gated = facts.as_ref().map(|facts| gated(EventScopes::Timeline, &facts.scopes)).unwrap_or_default();
        Status {
            portal: "4242".into(),
            mode: Mode::App,
            token_version: facts.as_ref().map(|_| 3),
            facts,
            problem: problem.map(str::to_owned),
            installed: true,
            gated,
        }
    }

    #[test]
    fn the_missing_scope_is_named() {
        let scopes = ["crm.objects.contacts.write", "crm.objects.deals.read", "timeline"].map(str::to_owned).to_vec();
        let facts = Facts { scopes, refreshed_at: 1_763_800_000_000, expires_at: 1_763_801_800_000, ..Facts::default() };
        let told = Told::of(&status(Some(facts), None), None);
        let text = told.text(1_763_800_000_000);
        for part in [
            "state         connected",
            "move deals: crm.objects.deals.write is missing",
            "make contact properties: crm.schemas.contacts.write",
            "2025-11-22",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(told.usable);
        let json = serde_json::to_value(&told).expect("JSON");
        assert!(json["gated"].as_array().expect("a list").iter().any(|gated| gated["feature"] == "move_deals"));
    }

    #[test]
    fn what_somebody_must_do_is_said() {
        let condition = Condition::ReinstallRequired(Why::LostAnswer { asked_at: 1_763_800_000_000 });
        let told = Told::of(&status(Some(Facts { condition, ..Facts::default() }), None), None);
        assert_eq!((told.usable, told.state), (false, "reinstall_required"));
        let text = told.text(0);
        assert!(text.contains("never stored") && text.contains("clickline hubspot login"), "{text}");
        let told = Told::of(&status(None, Some("its seal is broken")), None);
        assert_eq!((told.usable, told.state), (false, "unusable"));
        assert!(told.text(0).contains("its seal is broken"));
        let fixed = Status { mode: Mode::Static, ..status(None, None) };
        let told = Told::of(&fixed, Some(false));
        assert_eq!((told.usable, told.state), (false, "bad_static_token"));
        assert!(told.text(0).contains("put in a new one") && !told.text(0).contains("login"), "{}", told.text(0));
        assert!(Told::of(&fixed, Some(true)).usable);
    }
}
