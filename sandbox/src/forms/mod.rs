//! Forms: definitions, submitting, and the list of submissions.

pub(crate) mod definitions;
pub(crate) mod submissions;

use crate::crm::record::Record;
use crate::http::AppState;
use axum::Router;
use axum::routing::{get, post};
use definitions::Form;
use std::collections::BTreeMap;
use submissions::Submission;

/// The forms of a portal and what was submitted.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    /// By guid.
    pub definitions: BTreeMap<String, Form>,
    /// By form, oldest first.
    pub submissions: BTreeMap<String, Vec<Submission>>,
}

impl Forms {
    /// Forgets every submission of a person.
    pub fn forget(&mut self, contact: &Record) {
        let addresses: Vec<&str> =
            ["email", "hs_additional_emails"].iter().filter_map(|name| contact.get(name)).flat_map(|v| v.split(';')).collect();
        for list in self.submissions.values_mut() {
            list.retain(|s| s.email().is_none_or(|email| !addresses.contains(&email.as_str())));
        }
    }
}

/// The routes that take an account's token.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/marketing/v3/forms", get(definitions::list).post(definitions::create))
        .route("/marketing/v3/forms/", get(definitions::list).post(definitions::create))
        .route("/marketing/v3/forms/{form}", get(definitions::read).delete(definitions::archive))
        .route("/form-integrations/v1/submissions/forms/{form}", get(submissions::list))
        .route("/submissions/v3/integration/secure/submit/{portal}/{form}", post(submissions::submit_with_token))
}

/// The route that a visitor's browser calls.
pub(crate) fn public_routes() -> Router<AppState> {
    Router::new().route("/submissions/v3/integration/submit/{portal}/{form}", post(submissions::submit))
}
