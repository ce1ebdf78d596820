//! OAuth 2.0: grants, codes, refresh and access tokens; and the static tokens of private apps and service keys.
//!
//! A grant is an app installed in a portal with some scopes. Codes, refresh tokens and access tokens hang on a grant and die
//! with it (uninstall); revoking a refresh token kills neither the grant nor live access tokens. Every installation is a
//! *family*: all tokens that come from it, through whatever number of refreshes.

pub(crate) mod authorize;
pub(crate) mod inspect;
pub(crate) mod token;

use crate::access::{Access, Caller};
use crate::config::{Config, Rotation};
use crate::error::{ApiError, ApiResult};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// The scopes that an account can grant here; an authorize URL that asks for another one is refused.
pub(crate) const SCOPES: &[&str] = &[
    "oauth",
    "timeline",
    "forms",
    "forms-uploaded-files",
    "analytics.behavioral_events.send",
    "behavioral_events.event_definitions.read_write",
    "crm.objects.contacts.read",
    "crm.objects.contacts.write",
    "crm.schemas.contacts.read",
    "crm.schemas.contacts.write",
    "crm.objects.deals.read",
    "crm.objects.deals.write",
    "crm.schemas.deals.read",
    "crm.schemas.deals.write",
];

/// The scopes of an app's own tokens (client credentials), besides those of the objects it subscribes to.
pub(crate) const APP_SCOPES: &[&str] = &[
    "developer.webhooks_journal.read",
    "developer.webhooks_journal.subscriptions.read",
    "developer.webhooks_journal.subscriptions.write",
    "developer.webhooks_journal.snapshots.read",
    "developer.webhooks_journal.snapshots.write",
    "developers-read",
    "developers-write",
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
    /// What the verifier must hash to (RFC 7636, S256), when the authorize URL said so.
    challenge: Option<String>,
    expires_at: u64,
}

/// What comes with a code to be exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub code: &'a str,
    pub redirect_uri: &'a str,
    pub verifier: Option<&'a str>,
}

#[derive(Debug)]
struct Refresh {
    grant: Grant,
    family: u64,
    /// Set while a rotated token lives on.
    dies_at: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct AccessToken {
    pub grant: Grant,
    family: u64,
    pub expires_at: u64,
}

/// A token that an app got for itself.
#[derive(Clone, Debug)]
pub(crate) struct AppToken {
    pub app: usize,
    pub scopes: Arc<BTreeSet<String>>,
    pub expires_at: u64,
}

#[derive(Debug)]
struct StaticToken {
    number: u64,
    portal: String,
    scopes: Arc<BTreeSet<String>>,
}

/// Every code and token that was given out.
#[derive(Debug, Default)]
pub(crate) struct OAuth {
    codes: HashMap<String, Code>,
    refresh: HashMap<String, Refresh>,
    access: HashMap<String, AccessToken>,
    /// Refresh tokens that were rotated away, with their family.
    spent: HashMap<String, u64>,
    /// The portal of every refresh token that ever was: a dead one still says whose call it is.
    origin: HashMap<String, String>,
    app_tokens: HashMap<String, AppToken>,
    static_tokens: HashMap<String, StaticToken>,
    families: u64,
    statics: u64,
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
    WrongVerifier,
    BadRefreshToken,
}

/// 148 random bits and two times, in 64 hexadecimal digits.
fn secret() -> String {
    format!("{}{}", Uuid::now_v7().simple(), Uuid::now_v7().simple())
}

/// The S256 challenge of a verifier.
fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

fn lifetime_ms(config: &Config) -> u64 {
    u64::try_from(config.access_token_for.as_millis()).unwrap_or(u64::MAX / 2)
}

impl OAuth {
    /// A code that can be exchanged once, within a minute.
    pub fn new_code(&mut self, grant: Grant, redirect_uri: &str, challenge: Option<&str>, now: u64) -> String {
        let code = format!("na1-{}", secret());
        let challenge = challenge.map(str::to_owned);
        let made = Code { grant, redirect_uri: redirect_uri.to_owned(), challenge, expires_at: now + CODE_MS };
        self.codes.insert(code.clone(), made);
        code
    }

    /// A refresh token, as if the app had just been installed.
    pub fn new_refresh(&mut self, grant: Grant) -> String {
        self.families += 1;
        self.refresh_of(grant, self.families)
    }

    fn refresh_of(&mut self, grant: Grant, family: u64) -> String {
        let token = format!("na1-{}", secret());
        self.origin.insert(token.clone(), grant.portal.clone());
        self.refresh.insert(token.clone(), Refresh { grant, family, dies_at: None });
        token
    }

    /// Exchanges a code. It is used up, whatever comes of it.
    pub fn exchange(&mut self, app: usize, it: Exchange<'_>, config: &Config, now: u64) -> Result<Pair, Refusal> {
        let code = self.codes.remove(it.code).filter(|c| c.grant.app == app && now < c.expires_at).ok_or(Refusal::BadCode)?;
        if code.redirect_uri != it.redirect_uri {
            return Err(Refusal::WrongRedirect);
        }
        if code.challenge.is_some_and(|challenge| it.verifier.map(challenge_of) != Some(challenge)) {
            return Err(Refusal::WrongVerifier);
        }
        let refresh_token = self.new_refresh(code.grant.clone());
        Ok(self.pair(code.grant, self.families, refresh_token, config, now))
    }

    /// Refreshes; whether the refresh token changes is the configuration's choice.
    pub fn refresh(&mut self, app: usize, token: &str, config: &Config, now: u64) -> Result<Pair, Refusal> {
        let alive = |r: &&Refresh| r.grant.app == app && r.dies_at.is_none_or(|at| now < at);
        let Some((grant, family)) = self.refresh.get(token).filter(alive).map(|r| (r.grant.clone(), r.family)) else {
            if let Some(family) = self.spent.get(token).copied().filter(|_| config.reuse_revokes_family) {
                self.refresh.retain(|_, r| r.family != family);
                self.access.retain(|_, a| a.family != family);
            }
            return Err(Refusal::BadRefreshToken);
        };
        let refresh_token = match config.rotation {
            Rotation::Never => token.to_owned(),
            Rotation::Always => {
                self.refresh.remove(token);
                self.spent.insert(token.to_owned(), family);
                self.refresh_of(grant.clone(), family)
            }
            Rotation::Grace(lives_for) => {
                let dies_at = now + u64::try_from(lives_for.as_millis()).unwrap_or(u64::MAX / 2);
                if let Some(old) = self.refresh.get_mut(token) {
                    old.dies_at.get_or_insert(dies_at);
                }
                self.spent.insert(token.to_owned(), family);
                self.refresh_of(grant.clone(), family)
            }
        };
        Ok(self.pair(grant, family, refresh_token, config, now))
    }

    fn pair(&mut self, grant: Grant, family: u64, refresh_token: String, config: &Config, now: u64) -> Pair {
        self.access.retain(|_, token| now < token.expires_at + REMEMBER_MS);
        let access_token = format!("CPz{}{}", secret(), secret());
        let lives_for = lifetime_ms(config);
        self.access.insert(access_token.clone(), AccessToken { grant: grant.clone(), family, expires_at: now + lives_for });
        Pair { access_token, refresh_token, expires_in_s: lives_for / 1000, grant }
    }

    /// A token that speaks for the app itself, in no portal.
    pub fn new_app_token(&mut self, app: usize, scopes: BTreeSet<String>, config: &Config, now: u64) -> (String, AppToken) {
        let token = format!("CCz{}{}", secret(), secret());
        let made = AppToken { app, scopes: Arc::new(scopes), expires_at: now + lifetime_ms(config) };
        self.app_tokens.insert(token.clone(), made.clone());
        (token, made)
    }

    /// A token that never expires, as of a private app or a service key.
    pub fn new_static_token(&mut self, portal: &str, scopes: BTreeSet<String>) -> String {
        let token = format!("pat-na1-{}", Uuid::now_v7());
        let made = StaticToken { number: self.statics, portal: portal.to_owned(), scopes: Arc::new(scopes) };
        self.statics += 1;
        self.static_tokens.insert(token.clone(), made);
        token
    }

    /// Who a token speaks for in a portal; 401 when it is unknown or old.
    pub fn access(&self, token: &str, now: u64) -> ApiResult<Access> {
        if let Some(found) = self.static_tokens.get(token) {
            return Ok(Access { portal: found.portal.clone(), caller: Caller::Static(found.number), scopes: Arc::clone(&found.scopes) });
        }
        let found = self.access.get(token).ok_or_else(ApiError::unauthenticated)?;
        if found.expires_at <= now {
            return Err(ApiError::expired((now - found.expires_at) / 60_000));
        }
        let Grant { app, portal, scopes } = found.grant.clone();
        Ok(Access { portal, caller: Caller::App(app), scopes })
    }

    /// The app that a client-credentials token speaks for; 401 when it is unknown or old.
    pub fn app_access(&self, token: &str, now: u64) -> ApiResult<&AppToken> {
        let found = self.app_tokens.get(token).ok_or_else(ApiError::unauthenticated)?;
        if found.expires_at <= now {
            return Err(ApiError::expired((now - found.expires_at) / 60_000));
        }
        Ok(found)
    }

    /// The portal that a token, code or refresh token belongs to, alive or not.
    pub fn portal_of(&self, token: &str) -> Option<&str> {
        let of_access = || self.access.get(token).map(|t| t.grant.portal.as_str());
        let of_refresh = || self.origin.get(token).map(String::as_str);
        let of_code = || self.codes.get(token).map(|t| t.grant.portal.as_str());
        let of_static = || self.static_tokens.get(token).map(|t| t.portal.as_str());
        of_access().or_else(of_refresh).or_else(of_code).or_else(of_static)
    }

    /// Whether an app has been installed in a portal.
    pub fn installed(&self, app: usize, portal: &str) -> bool {
        self.refresh.values().any(|r| r.grant.app == app && r.grant.portal == portal)
    }

    /// The portals in which an app is installed.
    pub fn portals_of(&self, app: usize) -> BTreeSet<&str> {
        self.refresh.values().filter(|r| r.grant.app == app).map(|r| r.grant.portal.as_str()).collect()
    }

    /// A live access token.
    pub fn live_access(&self, token: &str, now: u64) -> Option<&AccessToken> {
        self.access.get(token).filter(|t| now < t.expires_at)
    }

    /// The grant of a live refresh token.
    pub fn live_refresh(&self, token: &str, now: u64) -> Option<&Grant> {
        self.refresh.get(token).filter(|r| r.dies_at.is_none_or(|at| now < at)).map(|r| &r.grant)
    }

    /// Kills one token of any kind.
    pub fn revoke(&mut self, token: &str) {
        self.refresh.remove(token);
        self.access.remove(token);
        self.app_tokens.remove(token);
        self.static_tokens.remove(token);
    }

    /// Ages an access token, so that it has expired by now.
    pub fn expire(&mut self, token: &str, now: u64) {
        if let Some(found) = self.access.get_mut(token) {
            found.expires_at = found.expires_at.min(now);
        }
        if let Some(found) = self.app_tokens.get_mut(token) {
            found.expires_at = found.expires_at.min(now);
        }
    }

    /// Ages every access token of a portal.
    pub fn expire_all(&mut self, portal: &str, now: u64) {
        for found in self.access.values_mut().filter(|a| a.grant.portal == portal) {
            found.expires_at = found.expires_at.min(now);
        }
    }

    /// Kills every refresh token of a portal; access tokens that are out live on until they expire.
    pub fn revoke_all(&mut self, portal: &str) {
        self.refresh.retain(|_, r| r.grant.portal != portal);
    }

    /// Takes an app out of a portal: all its codes and tokens die.
    pub fn uninstall(&mut self, app: usize, portal: &str) {
        let other = |grant: &Grant| grant.app != app || grant.portal != portal;
        self.codes.retain(|_, c| other(&c.grant));
        self.refresh.retain(|_, r| other(&r.grant));
        self.access.retain(|_, a| other(&a.grant));
    }
}
