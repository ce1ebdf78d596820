//! The one way the job makes HTTP clients, and the one way it reads an answer's body.
//!
//! Every client has a deadline over the whole exchange (a server that dribbles one byte a second frees us in time), follows no
//! redirect (an answer can't send a token elsewhere) and reads at most [`BODY_LIMIT`] bytes, after decompression.

use anyhow::Context;
use reqwest::redirect::Policy;
use std::sync::Once;
use std::time::Duration;

/// The longest answer we read, in bytes: a batch of 100 records with some properties is below 1 MB.
pub const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// A client whose whole exchange, body included, ends within `deadline`.
///
/// # Errors
/// When the system's root certificates can't be loaded.
pub fn client(deadline: Duration) -> anyhow::Result<reqwest::Client> {
    built(builder(deadline))
}

/// The same for requests to this machine: they go through no proxy.
///
/// # Errors
/// When the system's root certificates can't be loaded.
pub fn local_client(deadline: Duration) -> anyhow::Result<reqwest::Client> {
    built(builder(deadline).no_proxy())
}

fn builder(deadline: Duration) -> reqwest::ClientBuilder {
    install_provider();
    reqwest::Client::builder()
        .user_agent(concat!("clickline/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(deadline.min(Duration::from_secs(5)))
        .timeout(deadline)
}

fn built(builder: reqwest::ClientBuilder) -> anyhow::Result<reqwest::Client> {
    builder.build().context("the HTTP client can't be set up: are the system's root certificates readable?")
}

/// Makes ring the process's cryptography for TLS, once.
pub fn install_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that somebody else in the process installed a provider first; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke or the deadline passed.
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
    /// More than [`BODY_LIMIT`] bytes.
    #[error("the answer is longer than {BODY_LIMIT} bytes")]
    TooLong,
}

/// Reads the whole body.
///
/// # Errors
/// See [`BodyError`]; in both cases the server may have done what it was asked to.
pub async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if bytes.len() + chunk.len() > BODY_LIMIT {
            return Err(BodyError::TooLong);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_can_be_made_again_and_again() {
        for _ in 0..2 {
            client(Duration::from_secs(1)).expect("a client");
        }
    }
}
