//! What connections need of whoever configures them: the app, and how each account is let in. The sink's settings give it.

use super::features::EventScopes;
use super::settings::ConnectionSettings;
use crate::secret::Secret;
use std::collections::BTreeMap;
use std::time::Duration;

/// An app of HubSpot's, and how its token endpoint is reached.
#[derive(Clone, Debug)]
pub struct App {
    /// Its public id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Full address of the token endpoint.
    pub token_url: String,
    /// The client for it.
    pub http: reqwest::Client,
}

/// A configuration of connections.
pub trait Configured {
    /// How connections are kept and made.
    fn connections(&self) -> &ConnectionSettings;

    /// The app that is installed.
    ///
    /// # Errors
    /// When its secret, or a certificate authority, can't be read.
    fn app(&self) -> anyhow::Result<App>;

    /// The access token that the configuration gives a portal, if it does: then the portal is not connected by an app.
    ///
    /// # Errors
    /// When it names a variable or file that can't be read.
    fn access_token(&self, portal: &str) -> anyhow::Result<Option<Secret>>;

    /// The refresh token that the configuration gives a portal, if it does.
    ///
    /// # Errors
    /// When it names a variable or file that can't be read.
    fn refresh_token(&self, portal: &str) -> anyhow::Result<Option<Secret>>;

    /// What scopes the events of each portal take.
    fn event_scopes(&self) -> BTreeMap<String, EventScopes>;

    /// How long a call to the token endpoint may take.
    fn call_within(&self) -> Duration;
}
