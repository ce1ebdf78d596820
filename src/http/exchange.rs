//! One exchange: a request out, its whole answer in, or why there is none.
//!
//! What matters of a failure is whether the server can have seen the request. Where no connection was made it has not: nothing was
//! done, and nothing that the request holds is at fault. Then [`NoAnswer::Unsent`] names the host and what to do. Otherwise the request may
//! have been done. No message holds an address: paths and queries may hold e-mails and keys.

use super::retry_after::retry_after;
use super::{BodyError, body};
use crate::model::time::Ms;
use reqwest::header::HeaderMap;
use rustls::{CertificateError, Error as Tls};
use std::error::Error;
use std::io;
use std::time::Duration;

/// An answer, read whole.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, after decompression.
    pub body: Vec<u8>,
}

impl Answer {
    /// How long the server asks to be left alone, a day at most; `now` is this machine's clock.
    pub fn retry_after(&self, now: Ms) -> Option<Duration> {
        retry_after(&self.headers, now)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No connection was made, so the request was not sent; says what is in the way.
    #[error("{0}")]
    Unsent(String),
    /// The request was sent, or may have been, and its answer is not there: it may have been done.
    #[error("{0}")]
    Lost(String),
}

/// Sends a request and reads its answer.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn exchange(call: reqwest::RequestBuilder) -> Result<Answer, NoAnswer> {
    answered(call.send().await).await
}

/// The same for a request that was built elsewhere.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn execute(client: &reqwest::Client, request: reqwest::Request) -> Result<Answer, NoAnswer> {
    answered(client.execute(request).await).await
}

async fn answered(sent: reqwest::Result<reqwest::Response>) -> Result<Answer, NoAnswer> {
    let response = sent.map_err(|error| no_answer(&error))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = body(response).await.map_err(|error: BodyError| NoAnswer::Lost(error.to_string()))?;
    Ok(Answer { status, headers, body })
}

fn no_answer(error: &reqwest::Error) -> NoAnswer {
    if !error.is_connect() {
        return NoAnswer::Lost(if error.is_timeout() { "no answer in time" } else { "the connection broke" }.to_owned());
    }
    let host = error.url().and_then(url::Url::host_str).unwrap_or("the server");
    NoAnswer::Unsent(match cause(error) {
        Some(Cause::Tls(tls)) => untrusted(host, &tls),
        _ if error.is_timeout() => format!("no connection to {host} in time: does a firewall swallow the packets?"),
        Some(Cause::Io(what)) => format!("no connection to {host}: {what}"),
        None => format!("no connection to {host}"),
    })
}

/// What stood in the way of a connection.
enum Cause {
    Tls(Tls),
    Io(String),
}

/// What is wrong with a server's TLS, where that is the cause of an error.
pub fn tls_error(error: &(dyn Error + 'static)) -> Option<Tls> {
    match cause(error) {
        Some(Cause::Tls(tls)) => Some(tls),
        Some(Cause::Io(_)) | None => None,
    }
}

/// The first cause that says more than that there is no connection.
fn cause(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut next = error.source();
    let mut last = None;
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Tls>() {
            return Some(Cause::Tls(tls.clone()));
        }
        next = match error.downcast_ref::<io::Error>() {
            // What an I/O error wraps is not its source.
            Some(io) => {
                last = Some(Cause::Io(io.to_string()));
                io.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => error.source(),
        };
    }
    last
}

/// What is wrong with a server's TLS, and what to do.
fn untrusted(host: &str, tls: &Tls) -> String {
    let Tls::InvalidCertificate(why) = tls else {
        return format!("no TLS connection to {host}: {tls}; is the address right?");
    };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired: its owner must renew it; or is this machine's clock wrong?")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet: is this machine's clock wrong?")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of {host} is another name's: correct the address, or who answers at it")
        }
        // The signature of another authority that has the name of one that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {host} is signed by nobody this machine trusts: install the system's certificate authorities, or name that of \
             a proxy that opens TLS by `ca_file`"
        ),
        other => format!("the certificate of {host} is not accepted: {other}"),
    }
}
