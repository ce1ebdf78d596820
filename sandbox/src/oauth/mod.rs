//! OAuth 2.0: grants, codes, refresh and access tokens.
//!
//! A grant is an app installed in a portal with some scopes. Codes, refresh tokens and access tokens hang on a grant and die
//! with it (uninstall); revoking a refresh token kills neither the grant nor live access tokens.

pub(crate) mod authorize;
pub(crate) mod inspect;
pub(crate) mod token;

use crate::access::Access;
use crate::config::{Config, Rotation};
use crate::error::{ApiError, ApiResult};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// The scopes this sandbox knows; an authorize URL that asks for another one is refused.
pub(crate) const SCOPES: &[&str] = &[
    "oauth",
    "timeline",
    "forms",
    "crm.objects.contacts.read",
    "crm.objects.contacts.write",
    "crm.schemas.contacts.read",
    "crm.schemas.contacts.write",
    "crm.objects.deals.read",
    "crm.objects.deals.write",
    "crm.schemas.deals.read",
    "crm.schemas.deals.write",
];

/// How long an authorization code may be exchanged. Undocumented; HubSpot's codes are short-lived.
const CODE_MS: u64 = 60_000;
/// How long an expired access token is remembered, to say how long ago it expired.
const REMEMBER_MS: u64 = 24 * 3_600_000;

/// An app in a portal.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Index of the app in the configuration.
    pub app: usize,
    pub portal: String,
    pub scopes: Arc<BTreeSet<String>>,
}

#[derive(Debug)]
struct Code {
    grant: Grant,
    redirect_uri: String,
    expires_at: u64,
}

#[derive(Debug)]
struct Refresh {
    grant: Grant,
    /// Set while a rotated token lives on.
    dies_at: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct AccessToken {
    pub grant: Grant,
    pub expires_at: u64,
}

/// Every code and token that was given out.
#[derive(Debug, Default)]
pub(crate) struct OAuth {
    codes: HashMap<String, Code>,
    refresh: HashMap<String, Refresh>,
    access: HashMap<String, AccessToken>,
}

/// A fresh pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in_s: u64,
    pub grant: Grant,
}

/// Why no pair was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadCode,
    WrongRedirect,
    BadRefreshToken,
}

/// 148 random bits and two times, in 64 hexadecimal digits.
fn secret() -> String {
    format!("{}{}", Uuid::now_v7().simple(), Uuid::now_v7().simple())
}

impl OAuth {
    /// A code that can be exchanged once, within a minute.
    pub fn new_code(&mut self, grant: Grant, redirect_uri: &str, now: u64) -> String {
        let code = format!("na1-{}", secret());
        self.codes.insert(code.clone(), Code { grant, redirect_uri: redirect_uri.to_owned(), expires_at: now + CODE_MS });
        code
    }

    /// A refresh token, as if the app had just been installed.
    pub fn new_refresh(&mut self, grant: Grant) -> String {
        let token = format!("na1-{}", secret());
        self.refresh.insert(token.clone(), Refresh { grant, dies_at: None });
        token
    }

    /// Exchanges a code. It is used up, whatever comes of it.
    pub fn exchange(&mut self, app: usize, code: &str, redirect_uri: &str, config: &Config, now: u64) -> Result<Pair, Refusal> {
        let code = self.codes.remove(code).filter(|c| c.grant.app == app && now < c.expires_at).ok_or(Refusal::BadCode)?;
        if code.redirect_uri != redirect_uri {
            return Err(Refusal::WrongRedirect);
        }
        let refresh_token = self.new_refresh(code.grant.clone());
        Ok(self.pair(code.grant, refresh_token, config, now))
    }

    /// Refreshes; whether the refresh token changes is the configuration's choice.
    pub fn refresh(&mut self, app: usize, token: &str, config: &Config, now: u64) -> Result<Pair, Refusal> {
        let alive = |r: &&Refresh| r.grant.app == app && r.dies_at.is_none_or(|at| now < at);
        let grant = self.refresh.get(token).filter(alive).ok_or(Refusal::BadRefreshToken)?.grant.clone();
        let refresh_token = match config.rotation {
            Rotation::Never => token.to_owned(),
            Rotation::Always => {
                self.refresh.remove(token);
                self.new_refresh(grant.clone())
            }
            Rotation::Grace(lives_for) => {
                let dies_at = now + u64::try_from(lives_for.as_millis()).unwrap_or(u64::MAX / 2);
                if let Some(old) = self.refresh.get_mut(token) {
                    old.dies_at.get_or_insert(dies_at);
                }
                self.new_refresh(grant.clone())
            }
        };
        Ok(self.pair(grant, refresh_token, config, now))
    }

    fn pair(&mut self, grant: Grant, refresh_token: String, config: &Config, now: u64) -> Pair {
        self.access.retain(|_, token| now < token.expires_at + REMEMBER_MS);
        let access_token = format!("CPz{}{}", secret(), secret());
        let lives_for = u64::try_from(config.access_token_for.as_millis()).unwrap_or(u64::MAX / 2);
        self.access.insert(access_token.clone(), AccessToken { grant: grant.clone(), expires_at: now + lives_for });
        Pair { access_token, refresh_token, expires_in_s: lives_for / 1000, grant }
    }

    /// Who an access token speaks for; 401 when it is unknown or old.
    pub fn access(&self, token: &str, now: u64) -> ApiResult<Access> {
        let found = self.access.get(token).ok_or_else(ApiError::unauthenticated)?;
        if found.expires_at <= now {
            return Err(ApiError::expired((now - found.expires_at) / 60_000));
        }
        let Grant { app, portal, scopes } = found.grant.clone();
        Ok(Access { portal, app, scopes })
    }

    /// A live access token.
    pub fn live_access(&self, token: &str, now: u64) -> Option<&AccessToken> {
        self.access.get(token).filter(|t| now < t.expires_at)
    }

    /// The grant of a live refresh token.
    pub fn live_refresh(&self, token: &str, now: u64) -> Option<&Grant> {
        self.refresh.get(token).filter(|r| r.dies_at.is_none_or(|at| now < at)).map(|r| &r.grant)
    }

    /// Kills one token of either kind.
    pub fn revoke(&mut self, token: &str) {
        self.refresh.remove(token);
        self.access.remove(token);
    }

    /// Takes an app out of a portal: all its codes and tokens die.
    pub fn uninstall(&mut self, app: usize, portal: &str) {
        let other = |grant: &Grant| grant.app != app || grant.portal != portal;
        self.codes.retain(|_, c| other(&c.grant));
        self.refresh.retain(|_, r| other(&r.grant));
        self.access.retain(|_, a| other(&a.grant));
    }
}
