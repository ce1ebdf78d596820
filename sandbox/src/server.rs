//! The HTTP server: all routes, the log of requests, and the thread it runs on.

use crate::access::{self, PortalTag};
use crate::error::ApiError;
use crate::http::AppState;
use crate::snapshot::Request as Logged;
use crate::{control, crm, oauth, page, timeline};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::future::IntoFuture;
use std::io;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Largest body that is read: a batch of 100 events of 1 MB each fits.
const BODY_MAX: usize = 110 * 1024 * 1024;
/// How long open requests may go on once the sandbox stops.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// Every route there is.
pub(crate) fn router(app: &AppState) -> Router {
    let with_token = crm::routes()
        .merge(timeline::events::routes())
        .merge(oauth::inspect::account_routes())
        .route_layer(from_fn_with_state(app.clone(), access::guard));
    Router::new()
        .merge(with_token)
        .merge(timeline::templates::routes())
        .merge(oauth::authorize::routes())
        .merge(oauth::token::routes())
        .merge(oauth::inspect::routes())
        .merge(control::routes())
        .merge(page::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(app.clone(), log))
        .with_state(app.clone())
}

async fn no_route() -> Response {
    ApiError::not_found("resource not found").into_response()
}

async fn wrong_method() -> Response {
    ApiError::bare(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed").into_response()
}

/// Notes each request, and wakes those who watch when it may have changed something.
async fn log(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let at_ms = app.now();
    let method = request.method().clone();
    let path = masked(request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    let portal = response.extensions().get::<PortalTag>().map(|tag| tag.0.clone());
    tracing::debug!(%method, path, status = status.as_u16(), portal, "request");
    // The page and its stream are not what anybody counts requests for.
    if path != "/" && !path.starts_with("/sandbox/") {
        app.world().note(Logged { number: 0, method: method.to_string(), path, status: status.as_u16(), at_ms, portal });
    }
    if method != Method::GET {
        app.changed();
    }
    response
}

/// A path that may be written down: two old calls carry a token in it.
fn masked(path: &str) -> String {
    for prefix in ["/oauth/v1/access-tokens/", "/oauth/v1/refresh-tokens/"] {
        if path.starts_with(prefix) {
            return format!("{prefix}…");
        }
    }
    path.to_owned()
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
    thread::Builder::new().name("clickline-sandbox".into()).spawn(move || {
        runtime.block_on(serve(listener, app));
        runtime.shutdown_timeout(STOP_WITHIN);
    })
}

async fn serve(listener: tokio::net::TcpListener, app: AppState) {
    let stopped = |app: &AppState| {
        let mut running = app.watch();
        async move {
            // An error means that the state is gone, which is as good as stopped.
            let _ = running.wait_for(|running| !running).await;
        }
    };
    let server = axum::serve(listener, router(&app)).with_graceful_shutdown(stopped(&app)).into_future();
    let deadline = async {
        stopped(&app).await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        outcome = server => if let Err(error) = outcome { tracing::error!(%error, "the sandbox stopped serving") },
        () = deadline => {}
    }
}
