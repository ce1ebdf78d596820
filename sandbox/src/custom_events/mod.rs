//! Custom (behavioural) events: definitions, which belong to the account, and sending.

pub(crate) mod definitions;
mod send;

use crate::http::AppState;
use axum::Router;
use axum::routing::{get, patch, post};

/// The routes that take an access token: (definitions, sending) of each path generation.
pub(crate) fn routes() -> Router<AppState> {
    let prefixes = [
        ("/events/v3/event-definitions", "/events/v3/send"),
        ("/events/2026-03/event-definitions", "/events/2026-03/send"),
        ("/events/custom/2026-09/event-definitions", "/events/custom/2026-09/send"),
    ];
    let mut router = Router::new();
    for (base, send) in prefixes {
        router = router
            .route(base, get(definitions::list).post(definitions::create))
            .route(&format!("{base}/{{name}}"), get(definitions::read).patch(definitions::update).delete(definitions::remove))
            .route(&format!("{base}/{{name}}/property"), post(definitions::add_property))
            .route(
                &format!("{base}/{{name}}/property/{{property}}"),
                patch(definitions::update_property).delete(definitions::remove_property),
            )
            .route(send, post(send::one))
            .route(&format!("{send}/batch"), post(send::batch));
    }
    router
}
