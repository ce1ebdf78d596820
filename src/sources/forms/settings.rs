//! The `forms` block of the configuration.

use crate::model::time::{FORM_BEFORE, Ms};
use crate::sinks::hubspot::{Secret, read_secret, text};
use crate::sources::crm::length;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Shortest secret that signs posts, bytes: less is guessed.
const SECRET_MIN: usize = 16;

/// Fills the topic `forms`: from posts to the job's own HTTP server, and from forms in HubSpot.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormsSettings {
    /// Who may post to `/forms/WORKSPACE`, by key id. Needs the block `http`.
    pub keys: BTreeMap<String, Key>,
    /// HubSpot's forms whose submissions are read. Needs the block `hubspot` and the scope `forms`.
    pub hubspot: Vec<HubSpotForm>,
    /// How often HubSpot is asked for submissions. Default 30s.
    #[serde(deserialize_with = "length")]
    pub every: Ms,
    /// How old submissions may be that are read at the first start. Default 14d: an older form names nobody's click.
    #[serde(deserialize_with = "length")]
    pub since: Ms,
    /// How far behind its newest submission HubSpot may still show another one. Default 5m.
    #[serde(deserialize_with = "length")]
    pub overlap: Ms,
    /// Path of HubSpot's form submissions, with its version.
    pub submissions_path: String,
}

/// A key that signs posts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The one workspace it is good for.
    pub workspace: String,
    /// Environment variable that holds the secret, at least 16 bytes; or `secret_file`.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// File that holds the secret (white space around it is ignored).
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The secret itself; only for callers in the same process.
    #[serde(skip)]
    pub secret: Option<Secret>,
}

/// One form in HubSpot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubSpotForm {
    /// The account.
    #[serde(deserialize_with = "id")]
    pub portal: String,
    /// HubSpot's id of the form, as its address shows it.
    pub form: String,
    /// Whose form it is. Not needed where one workspace alone is connected to the account.
    #[serde(default)]
    pub workspace: Option<String>,
}

impl Default for FormsSettings {
    fn default() -> Self {
        FormsSettings {
            keys: BTreeMap::new(),
            hubspot: Vec::new(),
            every: 30_000,
            since: FORM_BEFORE,
            overlap: 5 * 60_000,
            submissions_path: "/form-integrations/v1/submissions/forms".to_owned(),
        }
    }
}

impl Key {
    /// Its secret.
    ///
    /// # Errors
    /// When none is named, it can't be read, or it is too short.
    pub fn read(&self, id: &str) -> anyhow::Result<Secret> {
        let Key { workspace: _, secret_env, secret_file, secret } = self;
        let what = format!("forms.keys.{id}.secret");
        let secret = read_secret(&what, secret.as_ref(), secret_env.as_deref(), secret_file.as_ref())?;
        let secret = secret.with_context(|| format!("forms.keys.{id}: name the secret by secret_env or secret_file"))?;
        if secret.reveal().len() < SECRET_MIN {
            bail!("{what} has less than {SECRET_MIN} bytes: make one with `openssl rand -hex 32`");
        }
        Ok(secret)
    }
}

impl FormsSettings {
    /// Checks what serde can't, and finds the workspace of each form that names none. `connected` is each workspace with its accounts.
    /// Opens nothing.
    ///
    /// # Errors
    /// Names the setting and what to do.
    pub fn check(&mut self, connected: &[(&str, &[String])], http: bool, hubspot: bool) -> anyhow::Result<()> {
        let FormsSettings { keys, hubspot: forms, every, since: _, overlap: _, submissions_path } = self;
        if *every == 0 {
            bail!("every must not be zero");
        }
        if !submissions_path.starts_with('/') {
            bail!("submissions_path: `{submissions_path}` must begin with a slash");
        }
        if !keys.is_empty() && !http {
            bail!("keys needs the block `http`: nobody could post");
        }
        if !forms.is_empty() && !hubspot {
            bail!("hubspot needs the block `hubspot` with the accounts' connections");
        }
        for (id, key) in keys {
            if !connected.iter().any(|(workspace, _)| *workspace == key.workspace) {
                bail!("keys.{id}: the workspace `{}` does not stand under `workspaces`", key.workspace);
            }
        }
        let mut seen = BTreeSet::new();
        for form in forms {
            let HubSpotForm { portal, form, workspace } = form;
            if form.trim().is_empty() {
                bail!("hubspot: a form of portal {portal} has no id; it is in the form's address in HubSpot");
            }
            let of: Vec<&str> = connected.iter().filter(|(_, portals)| portals.contains(portal)).map(|(workspace, _)| *workspace).collect();
            match (workspace.as_deref(), of.as_slice()) {
                (Some(named), of) if of.contains(&named) => {}
                (Some(named), _) => bail!("hubspot: form {form}: the workspace `{named}` is not connected to portal {portal}"),
                (None, [one]) => *workspace = Some((*one).to_owned()),
                (None, []) => bail!("hubspot: form {form}: no workspace is connected to portal {portal}"),
                (None, _) => {
                    bail!("hubspot: form {form}: several workspaces are connected to portal {portal}; say whose form it is by `workspace`")
                }
            }
            if !seen.insert((portal.clone(), form.clone())) {
                bail!("hubspot: form {form} of portal {portal} stands there twice");
            }
        }
        Ok(())
    }
}

/// An id may be typed as a number.
fn id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let id = serde_json::Value::deserialize(from)?;
    text(&id).ok_or_else(|| D::Error::custom("is no HubSpot account id; it is the number in the address bar of HubSpot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> FormsSettings {
        serde_saphyr::from_str(yaml).expect("parses")
    }

    #[test]
    fn a_form_finds_its_workspace_where_there_is_one() {
        let (one, both) = (["1".to_owned()], ["1".to_owned(), "2".to_owned()]);
        let connected: [(&str, &[String]); 2] = [("acme", &both), ("beta", &one)];
        let mut settings = parse("hubspot: [{portal: 2, form: f}]");
        settings.check(&connected, false, true).expect("is right");
        assert_eq!(settings.hubspot[0].workspace.as_deref(), Some("acme"));
        for (yaml, word) in [
            ("hubspot: [{portal: 1, form: f}]", "several workspaces"),
            ("hubspot: [{portal: 3, form: f}]", "no workspace"),
            ("hubspot: [{portal: 2, form: f, workspace: beta}]", "not connected"),
            ("hubspot: [{portal: 2, form: f}, {portal: '2', form: f}]", "twice"),
            ("keys: {k: {workspace: other, secret_env: X}}", "does not stand"),
            ("every: 0s", "every"),
        ] {
            let error = parse(yaml).check(&connected, true, true).expect_err(yaml).to_string();
            assert!(error.contains(word), "{yaml}: {error}");
        }
        assert!(
            parse("keys: {k: {workspace: acme}}").check(&connected, false, true).expect_err("nobody listens").to_string().contains("http")
        );
        assert!(parse("hubspot: [{portal: 2, form: f}]").check(&connected, true, false).is_err());
    }

    #[test]
    fn secrets_are_long_and_not_printed() {
        let key = |secret: &str| Key { workspace: "acme".into(), secret_env: None, secret_file: None, secret: Some(Secret::new(secret)) };
        assert!(key("short").read("k").is_err());
        let settings = FormsSettings { keys: BTreeMap::from([("k".to_owned(), key("canary-canary-canary"))]), ..FormsSettings::default() };
        assert!(!format!("{settings:?}").contains("canary"));
        assert_eq!(settings.keys["k"].read("k").expect("long enough").reveal(), "canary-canary-canary");
    }
}
