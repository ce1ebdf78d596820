//! The webhooks journal (2026-03): a log of what happened in the portals that an app subscribes to, read by offset.
//!
//! Calls carry an app's own token (client credentials), not a portal's. An entry of the journal is a file of events, named by
//! an offset; entries are kept for three days. Paths below `journal` span all portals of the app, those below `journal-local`
//! one portal (`?installPortalId=`).

mod entries;
mod feed;
mod filters;
mod read;
mod snapshots;
mod subscriptions;

use crate::access::bearer;
use crate::error::{ApiError, ApiResult};
use crate::http::AppState;
use crate::oauth::AppToken;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};

pub(crate) use entries::Journals;
pub(crate) use feed::association;

/// The app that calls.
#[derive(Clone, Debug)]
pub(crate) struct AppAccess(AppToken);

impl AppAccess {
    /// The app's index, when its token has the scope; 403 otherwise.
    fn app(&self, scope: &str) -> ApiResult<usize> {
        if self.0.scopes.contains(scope) { Ok(self.0.app) } else { Err(ApiError::missing_scopes(&[scope])) }
    }

    fn has(&self, scopes: &[&str]) -> bool {
        scopes.iter().any(|scope| self.0.scopes.contains(*scope))
    }
}

/// Which part of a journal a path reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All portals, unless `installPortalId` names one.
    Global,
    /// The portal that `installPortalId` names; all of them when it names none.
    Local,
}

/// Stands in front of every call of the journal. It is exempt from the rate limits.
async fn guard(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let token = {
        let world = app.world();
        let found = bearer(request.headers()).ok_or_else(ApiError::unauthenticated);
        match found.and_then(|token| world.oauth.app_access(token, app.now()).cloned()) {
            Ok(token) => token,
            Err(error) => return error.into_response(),
        }
    };
    request.extensions_mut().insert(AppAccess(token));
    next.run(request).await
}

/// All routes of the journal, and that of its files, which takes a signature instead of a token.
pub(crate) fn routes(app: &AppState) -> Router<AppState> {
    let mut router = Router::new()
        .route("/webhooks-journal/subscriptions/2026-03", get(subscriptions::list).post(subscriptions::create))
        .route("/webhooks-journal/subscriptions/2026-03/{id}", get(subscriptions::read).delete(subscriptions::remove))
        .route("/webhooks-journal/subscriptions/2026-03/portals/{portal}", delete(subscriptions::remove_portal))
        .route("/webhooks-journal/subscriptions/2026-03/filters", post(filters::create))
        .route("/webhooks-journal/subscriptions/2026-03/filters/{id}", get(filters::read).delete(filters::remove))
        .route("/webhooks-journal/subscriptions/2026-03/filters/subscription/{id}", get(filters::list))
        .route("/webhooks-journal/snapshots/2026-03/crm", post(snapshots::create));
    for (reach, name) in [(Reach::Global, "journal"), (Reach::Local, "journal-local")] {
        let base = format!("/webhooks-journal/{name}/2026-03");
        let group = Router::new()
            .route(&format!("{base}/earliest"), get(read::earliest))
            .route(&format!("{base}/latest"), get(read::latest))
            .route(&format!("{base}/offset/{{offset}}/next"), get(read::next))
            .route(&format!("{base}/batch/earliest/{{count}}"), get(read::batch_earliest))
            .route(&format!("{base}/batch/latest/{{count}}"), get(read::batch_latest))
            .route(&format!("{base}/batch/{{offset}}/next/{{count}}"), get(read::batch_next))
            .route(&format!("{base}/batch/read"), post(read::batch_read))
            .route(&format!("{base}/status/{{id}}"), get(snapshots::status))
            .layer(Extension(reach));
        router = router.merge(group);
    }
    router.route_layer(from_fn_with_state(app.clone(), guard)).route("/journal-files/{offset}", get(read::file))
}
