//! The job's HTTP server: one listener for what people, scrapers and HubSpot ask of the job.
//!
//! # Meaning
//! [`Server::start`] takes the routes that the parts of the job bring (each a function that gives back an [`axum::Router`], merged by
//! the caller) and serves them on a thread of its own. `GET /healthz` answers `ok` while that thread runs; it is the one route of the
//! server itself. What a slow client does to it: headers must arrive within 10 s, a whole exchange ends within 30 s, a body
//! has at most 1 MiB (a route that needs more says so with its own `DefaultBodyLimit`), and at most 256 connections are open; the
//! next ones wait in the kernel's queue. A route finds the connection's address as [`ConnectInfo`]; behind a proxy that is the proxy's.
//!
//! Answers may be shown to people: nothing is cached, sniffed, framed or referred unless a route sets these headers itself. Request
//! lines are not logged: a query may hold a code or an e-mail.
//!
//! # Not
//! It speaks no TLS: a proxy in front of it does. It listens on this machine alone unless it is told otherwise; who may see what is for the operator
//! says [`access`].

pub mod access;
mod settings;

pub use settings::Http;

use anyhow::Context as _;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How long a client may take for a request's headers, or between two requests.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long an exchange may take: HubSpot's token endpoint is waited for at most half as long.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest body, unless a route says otherwise.
const BODY_MAX: usize = 1 << 20;
/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long open requests may go on once the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Before the next try when no connection can be taken (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropped, it stops as by [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A listener that is bound and not served yet: its port is known before the routes are made.
#[derive(Debug)]
pub struct Bound(TcpListener, SocketAddr);

impl Bound {
    /// Binds to `listen`; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub fn to(listen: SocketAddr) -> anyhow::Result<Bound> {
        let listener = TcpListener::bind(listen).with_context(|| format!("http.listen: cannot listen on {listen}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound(listener, address))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.1
    }
}

impl Server {
    /// Serves `routes` and `/healthz` on what was bound.
    ///
    /// # Errors
    /// When the runtime or thread can't be made.
    pub fn start(bound: Bound, routes: Router) -> anyhow::Result<Server> {
        let Bound(listener, address) = bound;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for the HTTP server")?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = watch::channel(false);
        let routes = complete(routes);
        let thread = thread::Builder::new().name("http".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, routes, stopped));
            runtime.shutdown_timeout(STOP_WITHIN);
        });
        tracing::info!(event = "http_listening", %address, "the HTTP server listens");
        Ok(Server { address, stop, thread: Some(thread.context("no thread for the HTTP server")?) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections; open requests get 2 s to finish.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Nobody listens any more where the thread has ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; stopping has nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The routes with what holds for all of them.
fn complete(routes: Router) -> Router {
    routes
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || (StatusCode::NOT_FOUND, "There is nothing here.\n"))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(guarded))
}

/// The deadline, and headers that keep answers out of caches, frames and other people's logs.
async fn guarded(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    let answer = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await;
    let mut answer = answer.unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "This took too long.\n").into_response());
    for (name, value) in HEADERS {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

async fn serve(listener: tokio::net::TcpListener, routes: Router, mut stopped: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            // An error means that the server is gone, which is as good as stopped.
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // hyper's own deadlines do nothing without a timer.
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone().layer(Extension(ConnectInfo(peer)))));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // What broke it is the client's business.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(STOP_WITHIN, graceful.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpStream};

    fn server(routes: Router) -> Server {
        Server::start(Bound::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds"), routes).expect("starts")
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer
    }

    #[test]
    fn it_serves_what_it_was_given_with_headers_that_keep_it_private() {
        let server = server(Router::new().route("/hello", get(async || "hello")));
        let address = server.address();
        let answer = ask(address, "GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
        for header in ["cache-control: no-store", "x-frame-options: DENY", "referrer-policy: no-referrer"] {
            assert!(answer.contains(header), "{header}: {answer}");
        }
        assert!(ask(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ends_with("ok\n"));
        assert!(ask(address, "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 404"));
        server.stop();
        assert!(TcpStream::connect(address).is_err(), "it listens no more");
    }

    #[test]
    fn a_route_knows_the_connections_address_and_believes_no_header() {
        let from = async |Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>| peer.to_string();
        let server = server(Router::new().route("/from", get(from)));
        let mut stream = TcpStream::connect(server.address()).expect("connects");
        let own = stream.local_addr().expect("an address").to_string();
        stream.write_all(b"GET /from HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\nconnection: close\r\n\r\n").expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert!(answer.ends_with(&own), "{own}: {answer}");
    }

    #[test]
    fn a_silent_client_does_not_keep_it_from_stopping() {
        let server = server(Router::new());
        let mut silent = TcpStream::connect(server.address()).expect("connects");
        silent.write_all(b"GET / HTTP/1.1\r\nhost:").expect("writes");
        let began = std::time::Instant::now();
        server.stop();
        assert!(began.elapsed() < STOP_WITHIN * 3, "{:?}", began.elapsed());
    }

    #[test]
    fn a_long_body_is_refused() {
        let server = server(Router::new().route("/", axum::routing::post(async |_: axum::body::Bytes| "taken")));
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1);
        assert!(ask(server.address(), &(head + &"x".repeat(BODY_MAX + 1))).starts_with("HTTP/1.1 413"));
    }
}
