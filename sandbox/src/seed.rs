//! Changes that do not come through HubSpot's API: seeding, a person at work in HubSpot's pages, minting of grants.
//!
//! The library's methods and the control API both end here. Whoever seeds may set what the API shows as read-only (so that a
//! contact can have a first touch), but not what no portal has: unknown properties, stages outside the pipeline.

use crate::crm::Kind;
use crate::crm::merge::merge_records;
use crate::crm::record::Source;
use crate::crm::schema::Authority;
use crate::error::{ApiError, ApiResult};
use crate::http::AppState;
use crate::oauth::{Grant, SCOPES};
use crate::portal::{Found, Portal};
use crate::snapshot::Snapshot;
use crate::world::{World, valid_portal_id};
use axum::http::StatusCode;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A portal, opened if need be.
pub(crate) fn open<'a>(world: &'a mut World, id: &str) -> ApiResult<&'a mut Portal> {
    if !valid_portal_id(id) {
        return Err(ApiError::validation(format!("{id:?} is no HubSpot account id: use a positive number of up to 10 digits")));
    }
    Ok(world.portal(id))
}

fn existing(portal: &Portal, kind: Kind, id: &str) -> ApiResult<u64> {
    match portal.find(kind, id, None)? {
        Found::Live(id) | Found::Merged(id) => Ok(id),
        Found::Missing => Err(ApiError::not_found(format!("portal {} has no {} {id}", portal.id, kind.singular()))),
    }
}

/// These scopes, or all there are.
fn known_scopes(scopes: Option<&[String]>) -> ApiResult<BTreeSet<String>> {
    let Some(scopes) = scopes else { return Ok(SCOPES.iter().map(|s| (*s).to_owned()).collect()) };
    match scopes.iter().find(|s| !SCOPES.contains(&s.as_str())) {
        Some(unknown) => Err(ApiError::validation(format!("unknown scope {unknown}; known: {}", SCOPES.join(" ")))),
        None => Ok(scopes.iter().cloned().collect()),
    }
}

impl AppState {
    /// Makes a record with associations to records of the other type.
    pub fn seed(&self, portal: &str, kind: Kind, id: Option<&str>, values: &[(String, String)], linked: &[&str]) -> ApiResult<String> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let id = match id.map(str::parse::<u64>) {
            None => None,
            Some(Ok(id)) if id > 0 && portal.store(kind).taken(id) => {
                return Err(ApiError::conflict(format!("portal {} has a {} {id} already", portal.id, kind.singular())));
            }
            Some(Ok(id)) if id > 0 => Some(id),
            Some(_) => return Err(ApiError::validation("HubSpot's record ids are positive numbers")),
        };
        let checked = portal.check(kind, None, values, Authority::HubSpot)?;
        let linked = linked.iter().map(|other| existing(portal, kind.other(), other)).collect::<ApiResult<Vec<u64>>>()?;
        let id = portal.create(kind, id, &checked, Source::Import, now);
        for other in linked {
            let (contact, deal) = kind.contact_and_deal(id, other);
            portal.link(contact, deal, Source::Import, now);
        }
        drop(world);
        self.changed();
        Ok(id.to_string())
    }

    /// Changes a record as a person does in HubSpot's pages.
    pub fn edit(&self, portal: &str, kind: Kind, id: &str, values: &[(String, String)]) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let id = existing(portal, kind, id)?;
        let checked = portal.check(kind, Some(id), values, Authority::HubSpot)?;
        portal.apply(kind, id, &checked, Source::CrmUi, now);
        drop(world);
        self.changed();
        Ok(())
    }

    /// Merges `other` into `primary`.
    pub fn merge(&self, portal: &str, kind: Kind, primary: &str, other: &str) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let (primary, other) = (existing(portal, kind, primary)?, existing(portal, kind, other)?);
        if primary == other {
            return Err(ApiError::validation("cannot merge a record into itself"));
        }
        merge_records(portal, kind, primary, other, Source::CrmUi, now);
        drop(world);
        self.changed();
        Ok(())
    }

    /// Puts a record to the archive as a person does.
    pub fn archive(&self, portal: &str, kind: Kind, id: &str) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let id = existing(portal, kind, id)?;
        portal.archive(kind, id, Source::CrmUi, now);
        drop(world);
        self.changed();
        Ok(())
    }

    /// Takes a record out of the archive.
    pub fn restore(&self, portal: &str, kind: Kind, id: &str) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        if !id.parse().is_ok_and(|id| portal.restore(kind, id, Source::CrmUi, now)) {
            return Err(ApiError::not_found(format!("portal {} has no {} {id} in its archive", portal.id, kind.singular())));
        }
        drop(world);
        self.changed();
        Ok(())
    }

    /// Deletes a contact for good.
    pub fn erase(&self, portal: &str, id: &str) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let id = existing(portal, Kind::Contact, id)?;
        portal.erase(id, Source::CrmUi, now);
        drop(world);
        self.changed();
        Ok(())
    }

    /// Makes an association, or takes it away.
    pub fn associate(&self, portal: &str, contact: &str, deal: &str, there: bool) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = open(&mut world, portal)?;
        let (contact, deal) = (existing(portal, Kind::Contact, contact)?, existing(portal, Kind::Deal, deal)?);
        if there {
            portal.link(contact, deal, Source::CrmUi, now);
        } else {
            portal.unlink(contact, deal, Source::CrmUi, now);
        }
        drop(world);
        self.changed();
        Ok(())
    }

    /// A grant as an installation would make it; all known scopes unless some are named.
    fn grant(&self, world: &mut World, portal: &str, client_id: Option<&str>, scopes: Option<&[String]>) -> ApiResult<Grant> {
        open(world, portal)?;
        let config = self.config();
        let apps = &config.apps;
        let app = match client_id {
            None if apps.is_empty() => return Err(ApiError::validation("this sandbox was started without an app")),
            None => 0,
            Some(id) => {
                apps.iter().position(|a| a.client_id == id).ok_or_else(|| ApiError::validation(format!("no app has the client id {id}")))?
            }
        };
        Ok(Grant { app, portal: portal.to_owned(), scopes: Arc::new(known_scopes(scopes)?) })
    }

    /// A token as a private app or a service key has it.
    pub fn mint_static_token(&self, portal: &str, scopes: Option<&[String]>) -> ApiResult<String> {
        let scopes = known_scopes(scopes)?;
        let mut world = self.world();
        open(&mut world, portal)?;
        Ok(world.oauth.new_static_token(portal, scopes))
    }

    /// Installs an app in a portal; gives back its refresh token.
    pub fn mint_refresh_token(&self, portal: &str, client_id: Option<&str>, scopes: Option<&[String]>) -> ApiResult<String> {
        let mut world = self.world();
        let grant = self.grant(&mut world, portal, client_id, scopes)?;
        Ok(world.oauth.new_refresh(grant))
    }

    /// An authorization code as if a person had agreed on the consent page.
    pub fn mint_code(&self, portal: &str, client_id: Option<&str>, scopes: Option<&[String]>, redirect_uri: &str) -> ApiResult<String> {
        let now = self.now();
        let mut world = self.world();
        let grant = self.grant(&mut world, portal, client_id, scopes)?;
        Ok(world.oauth.new_code(grant, redirect_uri, None, now))
    }

    /// A copy of a portal.
    pub fn snapshot(&self, portal: &str) -> ApiResult<Snapshot> {
        let world = self.world();
        let missing = || ApiError::new(StatusCode::NOT_FOUND, "OBJECT_NOT_FOUND", format!("there is no portal {portal}"));
        Ok(Snapshot::of(world.existing(portal).ok_or_else(missing)?, &world.templates))
    }

    /// Empties one portal, or the whole sandbox back to its start.
    pub fn reset(&self, portal: Option<&str>) {
        let mut world = self.world();
        match portal {
            Some(id) => world.reset_portal(id),
            None => world.reset(&self.config()),
        }
        drop(world);
        self.changed();
    }
}
