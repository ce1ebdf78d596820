//! The CRM part of HubSpot: records, properties, pipelines, associations, search.
//!
//! The same handlers serve every path generation; what differs between them is told by [`Generation`].

pub(crate) mod associations;
pub(crate) mod batch;
pub(crate) mod defaults;
mod groups;
pub(crate) mod merge;
mod objects;
pub(crate) mod pipelines;
pub(crate) mod privacy;
mod properties;
pub(crate) mod record;
pub(crate) mod schema;
mod search;
mod upsert;
pub(crate) mod values;

use crate::error::ApiError;
use crate::http::AppState;
use axum::{Extension, Router};

/// The two object types that this sandbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Contact,
    Deal,
}

impl Kind {
    /// Reads an object type as paths name it: plural, singular or type id.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text.to_ascii_lowercase().as_str() {
            "contacts" | "contact" | "0-1" => Ok(Self::Contact),
            "deals" | "deal" | "0-3" => Ok(Self::Deal),
            _ => Err(ApiError::validation(format!("Unable to infer object type from: {text}"))),
        }
    }

    /// `contact`, `deal`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Deal => "deal",
        }
    }

    /// `contacts`, `deals`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Contact => "contacts",
            Self::Deal => "deals",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Contact => Self::Deal,
            Self::Deal => Self::Contact,
        }
    }

    /// HubSpot's type id.
    pub fn type_id(self) -> &'static str {
        match self {
            Self::Contact => "0-1",
            Self::Deal => "0-3",
        }
    }

    /// The id of a record of this type and of one of the other type, contact first.
    pub fn contact_and_deal(self, id: u64, other: u64) -> (u64, u64) {
        match self {
            Self::Contact => (id, other),
            Self::Deal => (other, id),
        }
    }

    /// The property with the time of the last change.
    pub fn last_modified(self) -> &'static str {
        match self {
            Self::Contact => "lastmodifieddate",
            Self::Deal => "hs_lastmodifieddate",
        }
    }

    /// The properties a read without a list answers with.
    pub fn default_properties(self) -> &'static [&'static str] {
        match self {
            Self::Contact => &["createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname"],
            Self::Deal => {
                &["amount", "closedate", "createdate", "dealname", "dealstage", "hs_lastmodifieddate", "hs_object_id", "pipeline"]
            }
        }
    }

    /// Any one of these lets a token read records.
    pub fn read_scopes(self) -> &'static [&'static str] {
        match self {
            Self::Contact => &["crm.objects.contacts.read"],
            Self::Deal => &["crm.objects.deals.read"],
        }
    }

    /// Any one of these lets a token write records.
    pub fn write_scopes(self) -> &'static [&'static str] {
        match self {
            Self::Contact => &["crm.objects.contacts.write"],
            Self::Deal => &["crm.objects.deals.write"],
        }
    }

    /// Any one of these lets a token read property definitions and pipelines.
    pub fn schema_read_scopes(self) -> &'static [&'static str] {
        match self {
            Self::Contact => &["crm.objects.contacts.read", "crm.objects.contacts.write", "crm.schemas.contacts.read", "timeline"],
            Self::Deal => &["crm.objects.deals.read", "crm.objects.deals.write", "crm.schemas.deals.read", "timeline"],
        }
    }

    /// Any one of these lets a token change property definitions and pipelines.
    pub fn schema_write_scopes(self) -> &'static [&'static str] {
        match self {
            Self::Contact => &["crm.schemas.contacts.write"],
            Self::Deal => &["crm.schemas.deals.write"],
        }
    }
}

/// Which generation of paths a call came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// `/crm/v3/…`, `/crm/v4/…`
    Classic,
    /// `/crm/…/2026-03/…`
    March2026,
    /// `/crm/…/2026-09/…`; a batch with failures answers 200, not 207.
    September2026,
}

/// (generation, objects, properties, pipelines, associations)
const PREFIXES: [(Generation, &str, &str, &str, &str); 3] = [
    (Generation::Classic, "/crm/v3/objects", "/crm/v3/properties", "/crm/v3/pipelines", "/crm/v4/associations"),
    (Generation::March2026, "/crm/objects/2026-03", "/crm/properties/2026-03", "/crm/pipelines/2026-03", "/crm/associations/2026-03"),
    (Generation::September2026, "/crm/objects/2026-09", "/crm/properties/2026-09", "/crm/pipelines/2026-09", "/crm/associations/2026-09"),
];

/// Every CRM route.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for (generation, objects, properties, pipelines, associations) in PREFIXES {
        let mut records = objects::routes()
            .merge(batch::routes())
            .merge(upsert::routes())
            .merge(search::routes())
            .merge(merge::routes())
            .merge(privacy::routes());
        if generation == Generation::Classic {
            router = router.nest("/crm/v4/objects", associations::single_routes());
        } else {
            records = records.merge(associations::single_routes());
        }
        let group = Router::new()
            .nest(objects, records)
            .nest(properties, properties::routes())
            .nest(pipelines, pipelines::routes())
            .nest(associations, associations::batch_routes())
            .layer(Extension(generation));
        router = router.merge(group);
    }
    router
}
