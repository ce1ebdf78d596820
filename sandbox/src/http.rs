//! What handlers share: the state, JSON bodies and query strings read HubSpot's way.

use crate::config::Config;
use crate::error::ApiError;
use crate::world::World;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// The state behind every handler.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Shared>);

struct Shared {
    config: RwLock<Arc<Config>>,
    world: Mutex<World>,
    /// Ticks after every request that may have changed something; false when the sandbox stops.
    running: watch::Sender<bool>,
}

impl AppState {
    pub fn new(config: Config) -> Self {
        let world = Mutex::new(World::new(&config));
        Self(Arc::new(Shared { config: RwLock::new(Arc::new(config)), world, running: watch::Sender::new(true) }))
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the configuration; requests that are under way may still see the old one.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.0.config.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Config::clone(&config);
        change(&mut changed);
        *config = Arc::new(changed);
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.config().clock.now_ms()
    }

    /// The world, locked. No handler holds it across an await, and a handler that panicked cannot leave it half-written in a
    /// way that matters more than going on does, so a poisoned lock is taken all the same.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what changed in the portals on to the journal and the webhooks, and wakes everybody who watches.
    pub fn changed(&self) {
        self.world().publish(self.now());
        self.0.running.send_modify(|_| {});
    }

    /// Ends every stream of changes.
    pub fn stop(&self) {
        self.0.running.send_replace(false);
    }

    /// Watches for changes; the value turns false when the sandbox stops.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.running.subscribe()
    }
}

/// A JSON body. HubSpot answers 415 to another content type and 400 to what it cannot read.
pub(crate) struct Body<T>(pub T);

/// A JSON body and its length in characters, for a call that bounds it.
pub(crate) struct Measured<T>(pub T, pub usize);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = json_bytes(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(ApiError::bad_json)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Measured<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = json_bytes(request, state).await?;
        let length = String::from_utf8_lossy(&bytes).chars().count();
        serde_json::from_slice(&bytes).map(|body| Self(body, length)).map_err(ApiError::bad_json)
    }
}

async fn json_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with("application/json") {
        return Err(ApiError::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type"));
    }
    let too_large = |_| ApiError::bare(StatusCode::PAYLOAD_TOO_LARGE, "HTTP 413 Request Entity Too Large");
    Bytes::from_request(request, state).await.map_err(too_large)
}

/// A query string in which a name may come several times, each with a list separated by commas.
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads a raw query string.
    pub fn parse(query: Option<&str>) -> Self {
        Self(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of this name, lists taken apart.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(n, _)| n == name).flat_map(|(_, v)| v.split(','));
        values.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect()
    }

    /// Whether this name is set to `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Pairs {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query()))
    }
}
