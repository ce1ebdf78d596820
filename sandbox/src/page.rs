//! The page at `/`, and the stream of changes that it lives on.
//!
//! The stream sends one JSON message per burst of changes, at most seven a second: first the whole picture (bounded to the
//! records that changed last), then only the records that changed since.

use crate::crm::Kind;
use crate::crm::record::Record;
use crate::http::{AppState, Pairs};
use crate::portal::Portal;
use crate::timeline::render::Renderer;
use crate::world::World;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;

/// Contacts and deals that one message shows at most; those that changed last go first.
const RECORDS_SHOWN: usize = 300;
/// Events of a record that the page shows.
const EVENTS_SHOWN: usize = 5;
/// Pause between two messages: fast enough to look alive, slow enough to bundle a batch.
const PAUSE: Duration = Duration::from_millis(150);

/// The page's routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new().route("/", get(page)).route("/sandbox/stream", get(changes))
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("page.html"))).into_response()
}

/// `GET /sandbox/stream?portal=ID` (default: the first portal), as server-sent events.
async fn changes(State(app): State<AppState>, pairs: Pairs) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let portal = pairs.get("portal").map(str::to_owned).or_else(|| app.world().portal_ids().into_iter().next()).unwrap_or_default();
    let watch = app.watch();
    let start = (app, watch, portal, None::<u64>);
    let messages = stream::unfold(start, |(app, mut watch, portal, seen)| async move {
        loop {
            if !*watch.borrow_and_update() {
                return None;
            }
            let message = message(&app.world(), &portal, seen);
            if let Some((message, seen)) = message {
                if seen > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
                return Some((Ok(Event::default().data(message.to_string())), (app, watch, portal, Some(seen))));
            }
            watch.changed().await.ok()?;
        }
    });
    Sse::new(messages).keep_alive(KeepAlive::default())
}

/// What changed since `seen` (all of it when nothing was seen yet), and the change number it goes up to.
fn message(world: &World, id: &str, seen: Option<u64>) -> Option<(Value, u64)> {
    let Some(portal) = world.existing(id) else {
        return seen.is_none().then(|| (json!({ "all": true, "portal": id, "portals": world.portal_ids(), "missing": true }), 0));
    };
    let all = seen.is_none_or(|seen| seen < portal.emptied_at);
    let since = if all { 0 } else { seen.unwrap_or(0) };
    if !all && portal.changes == since {
        return None;
    }
    let recent = || portal.recent.range(since + 1..).rev().map(|(_, what)| *what);
    let of = |kind| recent().filter(move |(k, _)| *k == kind).filter_map(move |(_, id)| portal.store(kind).records.get(&id));
    let renderer = Renderer::new(&world.templates);
    let contacts: Vec<Value> = of(Kind::Contact).take(RECORDS_SHOWN).map(|r| contact(portal, &renderer, r)).collect();
    let deals: Vec<Value> = of(Kind::Deal).take(RECORDS_SHOWN).map(|r| deal(portal, r)).collect();
    let mut message = json!({
        "all": all, "portal": portal.id, "portals": world.portal_ids(), "contacts": contacts, "deals": deals,
        "totals": {
            "contacts": portal.contacts.live().count(), "deals": portal.deals.live().count(), "events": portal.events.len(),
        },
    });
    if all {
        let pipelines = portal.pipelines.iter().map(|p| {
            let stages: Vec<Value> = p.stages.iter().map(|s| json!({ "id": s.id, "label": s.label, "closed": s.closed() })).collect();
            json!({ "id": p.id, "label": p.label, "stages": stages })
        });
        message["pipelines"] = pipelines.collect();
    }
    Some((message, portal.changes))
}

fn name(record: &Record) -> String {
    let full: Vec<&str> = ["firstname", "lastname"].iter().filter_map(|name| record.get(name)).collect();
    match (full.is_empty(), record.get("email")) {
        (false, _) => full.join(" "),
        (true, Some(email)) => email.to_owned(),
        (true, None) => format!("Contact {}", record.id),
    }
}

fn contact(portal: &Portal, renderer: &Renderer, record: &Record) -> Value {
    let at = portal.events_of.get(&(Kind::Contact, record.id)).map(Vec::as_slice).unwrap_or_default();
    let mut events: Vec<_> = at.iter().map(|at| &portal.events[*at]).collect();
    events.sort_by_key(|e| std::cmp::Reverse(e.timestamp));
    let shown = events.iter().take(EVENTS_SHOWN).map(|e| {
        let (title, detail) = renderer.title_and_detail(portal, e);
        json!({ "id": e.key.1, "title": title, "detail": detail, "at": e.timestamp })
    });
    let shown: Vec<Value> = shown.collect();
    let schema = &portal.schema(Kind::Contact).properties;
    // Properties of the account's own making (the last UTM values among them), and the first touch they must not disturb.
    let own = schema.values().filter(|p| !p.hubspot_defined || p.name == "hs_analytics_source_data_1");
    let own: Vec<Value> =
        own.filter_map(|p| Some(json!({ "name": p.name, "label": p.label, "value": record.read(Kind::Contact, &p.name)? }))).collect();
    json!({
        "id": record.id, "gone": record.archived_at.is_some(), "merged": record.merged, "name": name(record), "email": record.get("email"),
        "company": record.get("company"), "properties": own, "events": shown, "event_count": at.len(), "changed": record.touched,
    })
}

fn deal(portal: &Portal, record: &Record) -> Value {
    let contacts = portal.deals.linked_to(record.id).filter_map(|id| portal.contacts.records.get(&id));
    let contacts: Vec<String> = contacts.map(name).collect();
    let stages = record.values.get("dealstage").map(Vec::as_slice).unwrap_or_default();
    let moved = stages.last().filter(|_| stages.len() > 1);
    json!({
        "id": record.id, "gone": record.archived_at.is_some(), "merged": record.merged,
        "name": record.get("dealname").map_or_else(|| format!("Deal {}", record.id), str::to_owned),
        "pipeline": record.get("pipeline"), "stage": record.get("dealstage"), "amount": record.get("amount"),
        "currency": record.get("deal_currency_code"), "contacts": contacts,
        "moved": moved.map(|v| json!({ "at": v.at, "by": v.source.source_type() })), "changed": record.touched,
    })
}
