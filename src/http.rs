//! The one way the job makes HTTP clients, and the one way it reads an answer's body.
//!
//! Every client has a deadline over the whole exchange (a server that dribbles one byte a second frees us in time), follows no
//! redirect (an answer can't send a token elsewhere) and reads at most [`BODY_LIMIT`] bytes, after decompression.

mod exchange;
mod retry_after;

use anyhow::Context;
use reqwest::redirect::Policy;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

pub use exchange::{Answer, NoAnswer, exchange, execute, tls_error};

/// The longest answer we read, in bytes: a batch of 100 records with some properties is below 1 MB.
pub const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// How long making a connection may take unless somebody says otherwise.
pub const CONNECT: Duration = Duration::from_secs(5);

/// A client whose whole exchange, body included, ends within `deadline`.
///
/// # Errors
/// When the system's root certificates can't be loaded.
pub fn client(deadline: Duration) -> anyhow::Result<reqwest::Client> {
    built(builder(deadline, CONNECT))
}

/// The same with a time for making a connection, its TLS included, and with the certificate authorities of a PEM file beside the
/// system's.
///
/// # Errors
/// When the file, or the system's root certificates, can't be read.
pub fn client_to(deadline: Duration, connect: Duration, ca_file: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    let builder = builder(deadline, connect);
    let Some(file) = ca_file else { return built(builder) };
    let pem = std::fs::read(file).with_context(|| format!("the certificate authorities in {} can't be read", file.display()))?;
    let authorities = reqwest::Certificate::from_pem_bundle(&pem)
        .ok()
        .filter(|found| !found.is_empty())
        .with_context(|| format!("{} holds no certificates in PEM form", file.display()))?;
    built(builder.tls_certs_merge(authorities))
}

/// The same for requests to this machine: they go through no proxy.
///
/// # Errors
/// When the system's root certificates can't be loaded.
pub fn local_client(deadline: Duration) -> anyhow::Result<reqwest::Client> {
    built(builder(deadline, CONNECT).no_proxy())
}

fn builder(deadline: Duration, connect: Duration) -> reqwest::ClientBuilder {
    install_provider();
    reqwest::Client::builder()
        .user_agent(concat!("clickline/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        // Well before the deadline: then it is known that nothing was sent.
        .connect_timeout(connect.min(deadline / 2))
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
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

    /// Answers one request.
    fn answer(listener: &TcpListener) {
        let (mut connection, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        assert!(connection.read(&mut head).expect("reads") > 0);
        connection.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").expect("writes");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_black_hole_in_ipv6_is_passed_by_on_ipv4() {
        let good = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = good.local_addr().expect("an address").port();
        // The same port in IPv6 with its queue of connections full: packets to it are dropped. Where this machine has no IPv6 the way there is
        // shut at once, which is the other form that it takes.
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
        let hole = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let there = socket.bind(&hole.into()).and_then(|()| socket.listen(0)).is_ok();
        let mut queue = Vec::new();
        while let Some(waiting) = there.then(|| TcpStream::connect_timeout(&hole, Duration::from_millis(200)).ok()).flatten() {
            queue.push(waiting);
            assert!(queue.len() < 100, "the queue has an end");
        }
        let addresses = [hole, SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        let client = built(builder(Duration::from_secs(15), CONNECT).no_proxy().resolve_to_addrs("hubspot.test", &addresses));
        let answering = std::thread::spawn(move || answer(&good));
        let answered = exchange(client.expect("a client").get(format!("http://hubspot.test:{port}/"))).await.expect("an answer");
        assert_eq!(answered.status, 204);
        answering.join().expect("answers");
    }

    #[test]
    fn clients_can_be_made_again_and_again() {
        for _ in 0..2 {
            client(Duration::from_secs(1)).expect("a client");
        }
    }
}
