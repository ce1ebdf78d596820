//! Merging two records into one.
//!
//! The primary survives with its own values; what it lacks it takes from the other. The other's id, address, associations and
//! timeline go to the survivor. Reading the merged id leads to the survivor, while batches leave it out.

use super::Kind;
use super::objects::{View, resolve, source};
use super::record::Source;
use super::values::Id;
use crate::access::Access;
use crate::changes::{Change, What};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::Portal;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::Value;

/// The merge route, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}/merge", post(merge))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Merge {
    primary_object_id: Id,
    object_id_to_merge: Id,
}

async fn merge(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<Merge>,
) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let primary = resolve(portal, kind, &input.primary_object_id.0, None)?;
    let other = resolve(portal, kind, &input.object_id_to_merge.0, None)?;
    if primary == other {
        return Err(ApiError::validation("Cannot merge a record into itself"));
    }
    merge_records(portal, kind, primary, other, source(&access), now);
    let record = portal.store(kind).records.get(&primary).ok_or_else(|| ApiError::no_record(&input.primary_object_id.0))?;
    Ok(Json(Value::Object(View::default().show(portal, kind, record)?)))
}

/// Merges `other` into `primary`; both are live and different.
pub(crate) fn merge_records(portal: &mut Portal, kind: Kind, primary: u64, other: u64, source: Source, now: u64) {
    let Some(mut gone) = portal.store_mut(kind).records.remove(&other) else { return };
    portal.recent.remove(&gone.touched);
    let linked: Vec<u64> = portal.store(kind).linked_to(other).collect();
    portal.unlink_all(kind, other, source, now);
    for to in linked {
        let (contact, deal) = kind.contact_and_deal(primary, to);
        portal.link(contact, deal, source, now);
    }
    portal.store_mut(kind).merged_into.insert(other, primary);
    let moved = portal.events_of.remove(&(kind, other)).unwrap_or_default();
    for at in &moved {
        portal.events[*at].object_id = primary;
    }
    portal.events_of.entry((kind, primary)).or_default().extend(moved);

    let mut addresses: Vec<String> = Vec::new();
    for name in ["hs_additional_emails", "email"] {
        addresses.extend(gone.get(name).into_iter().flat_map(|v| v.split(';')).map(str::to_owned));
    }
    let Some(survivor) = portal.store_mut(kind).records.get_mut(&primary) else { return };
    survivor.merged.append(&mut gone.merged);
    survivor.merged.push(other);
    survivor.updated_at = now;
    let mut properties_moved = 0;
    for (name, versions) in &gone.values {
        if survivor.get(name).is_none()
            && let Some(last) = versions.last().filter(|v| !v.value.is_empty())
        {
            survivor.set(name, &last.value, now, Source::Merge);
            properties_moved += 1;
        }
    }
    if kind == Kind::Contact {
        let own = survivor.get("email").unwrap_or_default().to_owned();
        let mut also: Vec<String> =
            survivor.get("hs_additional_emails").unwrap_or_default().split(';').filter(|a| !a.is_empty()).map(str::to_owned).collect();
        also.extend(addresses.iter().filter(|a| **a != own).cloned());
        also.sort();
        also.dedup();
        survivor.set("hs_additional_emails", &also.join(";"), now, Source::Merge);
        for address in addresses {
            portal.also_known_as(&address, primary);
        }
    }
    portal.feed.push(Change { kind, id: primary, at: now, source, what: What::Merged { others: vec![other], properties_moved } });
    portal.touch(kind, primary);
}
