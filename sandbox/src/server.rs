//! The HTTP server: all routes, and the thread it runs on.

use crate::access;
use crate::error::ApiError;
use crate::exchange::observe;
use crate::faults::wire::HangUp;
use crate::http::AppState;
use crate::{account, control, crm, custom_events, forms, journal, oauth, page, timeline, webhooks};
use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long open requests may go on once the sandbox stops.
const STOP_WITHIN: Duration = Duration::from_millis(500);
/// Pause after a connection that could not be accepted (too many files are open, for instance).
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Every route there is.
pub(crate) fn router(app: &AppState) -> Router {
    let with_token = crm::routes()
        .merge(timeline::events::routes())
        .merge(timeline::app_events::routes())
        .merge(custom_events::routes())
        .merge(forms::routes())
        .merge(account::routes())
        .merge(oauth::inspect::account_routes())
        .route_layer(from_fn_with_state(app.clone(), access::guard));
    Router::new()
        .merge(with_token)
        .merge(timeline::templates::routes())
        .merge(timeline::app_event_types::routes())
        .merge(journal::routes(app))
        .merge(webhooks::admin::routes())
        .merge(forms::public_routes())
        .merge(oauth::authorize::routes())
        .merge(oauth::token::routes())
        .merge(oauth::inspect::routes())
        .merge(control::routes())
        .merge(page::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        // `observe` bounds what it reads.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app.clone())
}

async fn no_route() -> Response {
    ApiError::not_found("resource not found").into_response()
}

async fn wrong_method() -> Response {
    ApiError::bare(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed").into_response()
}

/// Serves on a thread of its own until the state is stopped.
///
/// One thread is enough: every call is a short piece of work in memory.
pub(crate) fn spawn(listener: TcpListener, app: AppState) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let sender = webhooks::deliver::Sender::new()?;
    thread::Builder::new().name("clickline-sandbox".into()).spawn(move || {
        runtime.block_on(async move {
            let deliveries = tokio::spawn(sender.run(app.clone()));
            serve(listener, app).await;
            deliveries.abort();
        });
        runtime.shutdown_timeout(STOP_WITHIN);
    })
}

async fn stopped(mut running: watch::Receiver<bool>) {
    // An error means that the state is gone, which is as good as stopped.
    let _ = running.wait_for(|running| !running).await;
}

async fn serve(listener: tokio::net::TcpListener, app: AppState) {
    let router = router(&app);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stopped(app.watch()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), app.watch()));
                }
                Err(error) => {
                    tracing::warn!(event = "sandbox_connection_failed", %error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    // What is still open after that is cut off.
    let _ = timeout(STOP_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// Serves one connection. Not with `axum::serve`: a scripted fault closes a connection without an answer.
async fn connection(stream: TcpStream, router: Router, running: watch::Receiver<bool>) {
    // Small answers go out at once; where that cannot be set they are only slower.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = router.call(request.map(Body::new));
        async move {
            let Ok(response) = answer.await;
            match response.extensions().get::<HangUp>() {
                Some(HangUp) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                None => Ok(response),
            }
        }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopped(running) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // The caller went away, or a fault closed the connection: both are a caller's matter.
        tracing::debug!(event = "sandbox_connection_ended", %error, "a connection ended early");
    }
}
