//! Changes from HubSpot's webhooks journal: a log with offsets, kept for three days.
//!
//! # Meaning
//! The subscriptions are made (HubSpot's call makes or updates) before the first entry is read. An entry is a file behind an address that
//! HubSpot gives; its events say which records to read again. The offset goes on when they were read.
//!
//! # Ties and edges
//! - HubSpot's documents do not say how the end of the journal is answered: 204, 404, or no address are all taken for it.
//! - An offset that HubSpot no longer knows looks the same. So after an answer that is not 204 the latest entry is asked for; when that
//!   is another one than ours, the place is lost and all is loaded again. So it is when nobody read the journal for three days: HubSpot
//!   may then go on with the first entry that it still has.
//! - The access token is the app's own (client credentials), not the account's. Calls count in no budget.

use super::events;
use super::mirror::Hints;
use super::object::Object;
use crate::http;
use crate::model::time::now;
use crate::sinks::hubspot::{Outcome, Refusal, Secret, segment, text};
use crate::sources::trouble::{Trouble, answer};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// What the token must allow.
const SCOPES: &str = "developer.webhooks_journal.read developer.webhooks_journal.subscriptions.read developer.webhooks_journal.subscriptions.write crm.objects.contacts.read crm.objects.deals.read";
/// The token is renewed this long before its end.
const EARLY: Duration = Duration::from_secs(60);
/// The pause after a 429 that names none.
const THROTTLED: Duration = Duration::from_secs(1);

/// Where the journal is, and who asks.
#[derive(Clone, Debug)]
pub struct Access {
    /// Scheme and host of the API.
    pub base_url: String,
    /// Address of the token endpoint.
    pub token_url: String,
    /// The app.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Path of the journal.
    pub journal: String,
    /// Path of its subscriptions.
    pub subscriptions: String,
    /// How requests are sent.
    pub http: reqwest::Client,
}

/// The journal of one account.
#[derive(Debug)]
pub struct Journal {
    access: Access,
    portal: String,
    token: RefCell<Option<(Secret, Instant)>>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset.
    pub offset: String,
    /// What its events are about.
    pub hints: Hints,
}

impl Journal {
    /// Opens nothing yet.
    pub fn new(access: Access, portal: &str) -> Self {
        Journal { access, portal: portal.to_owned(), token: RefCell::new(None) }
    }

    /// Makes or updates the subscriptions that the mirror lives on.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn subscribe(&self) -> Result<(), Trouble> {
        let portal: u64 = self.portal.parse().map_err(|_| Trouble::Stuck("the journal knows accounts by numbers alone".to_owned()))?;
        let path = self.access.subscriptions.clone();
        let object = |object: Object| {
            json!({ "subscriptionType": "OBJECT", "portalId": portal, "objectTypeId": object.type_id(), "objectIds": [],
                "properties": object.properties(), "actions": ["CREATE", "UPDATE", "DELETE", "MERGE", "RESTORE"] })
        };
        let association = json!({ "subscriptionType": "ASSOCIATION", "portalId": portal, "objectTypeId": Object::Deals.type_id(),
            "associatedObjectTypeIds": [Object::Contacts.type_id()], "objectIds": [], "actions": ["ASSOCIATION_ADDED", "ASSOCIATION_REMOVED"] });
        let privacy = json!({ "subscriptionType": "GDPR_PRIVACY_DELETION", "portalId": portal,
            "objectTypeId": Object::Contacts.type_id(), "actions": ["GDPR_DELETE"] });
        for wanted in [object(Object::Contacts), object(Object::Deals), association, privacy] {
            self.call(reqwest::Method::POST, &path, Some(&wanted)).await.and_then(|outcome| answer(outcome, THROTTLED))?;
        }
        Ok(())
    }

    /// The offset of the latest entry; `None` for a journal without entries.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn latest(&self) -> Result<Option<String>, Trouble> {
        let latest = answer(self.read("latest").await?, THROTTLED)?;
        Ok(latest.as_ref().and_then(|latest| latest.get("currentOffset")).and_then(text))
    }

    /// The entry after `offset`, or the earliest one; `None` at the end.
    ///
    /// # Errors
    /// See [`Trouble`]; [`Trouble::Lost`] when HubSpot no longer knows the offset.
    pub async fn next(&self, offset: Option<&str>) -> Result<Option<Entry>, Trouble> {
        let path = offset.map_or_else(|| "earliest".to_owned(), |offset| format!("offset/{}/next", segment(offset)));
        let mut outcome = self.read(&path).await?;
        if unknown(&outcome) {
            let latest = self.latest().await?;
            if offset.is_none() || latest.is_none() || latest.as_deref() == offset {
                return Ok(None);
            }
            // It may have come between the two questions.
            outcome = self.read(&path).await?;
            if unknown(&outcome) {
                return Err(Trouble::Lost("the journal no longer has the entry that was read last".to_owned()));
            }
        }
        let Some(next) = answer(outcome, THROTTLED)? else { return Ok(None) };
        let (Some(url), Some(offset)) = (next.get("url").and_then(Value::as_str), next.get("currentOffset").and_then(text)) else {
            return Ok(None);
        };
        let mut hints = Hints::default();
        for event in self.file(url).await? {
            match events::hint(&event) {
                Some((portal, named)) if portal == self.portal => hints.extend(named),
                _ => {}
            }
        }
        Ok(Some(Entry { offset, hints }))
    }

    async fn file(&self, url: &str) -> Result<Vec<Value>, Trouble> {
        let later = |why: &str| Trouble::Later(format!("a file of the journal: {why}"), None);
        let local = url.starts_with(&format!("{}/", self.access.base_url));
        if !local && !url.starts_with("https://") {
            return Err(later("its address is not https"));
        }
        // The address is signed and needs no token; it is not to be logged either.
        let answer = http::exchange(self.access.http.get(url)).await.map_err(|error| later(&error.to_string()))?;
        if !(200..300).contains(&answer.status) {
            return Err(later(&format!("status {}", answer.status)));
        }
        events::of_file(&answer.body).ok_or_else(|| later("it holds no events"))
    }

    async fn read(&self, what: &str) -> Result<Outcome, Trouble> {
        let path = format!("{}/{what}?installPortalId={}", self.access.journal, self.portal);
        self.call(reqwest::Method::GET, &path, None).await
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Outcome, Trouble> {
        let outcome = self.send(method.clone(), path, body).await?;
        if outcome != Outcome::Unauthorized {
            return Ok(outcome);
        }
        self.token.replace(None);
        match self.send(method, path, body).await? {
            Outcome::Unauthorized => {
                Err(Trouble::Stuck("the journal refuses the app's own token: is the app one that may use the journal?".to_owned()))
            }
            outcome => Ok(outcome),
        }
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Outcome, Trouble> {
        let token = self.token().await?;
        let mut call = self.access.http.request(method, format!("{}{path}", self.access.base_url)).bearer_auth(token.reveal());
        if let Some(body) = body {
            call = call.json(body);
        }
        Ok(exchange(call).await)
    }

    async fn token(&self) -> Result<Secret, Trouble> {
        if let Some((token, until)) = self.token.borrow().as_ref()
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let Access { client_id, client_secret, .. } = &self.access;
        let form =
            [("grant_type", "client_credentials"), ("client_id", client_id), ("client_secret", client_secret.reveal()), ("scope", SCOPES)];
        let outcome = exchange(self.access.http.post(&self.access.token_url).form(&form)).await;
        let refused = || {
            let why =
                "HubSpot gives the app no token for the journal: check client_id and client_secret, and that the app may use the journal";
            Trouble::Stuck(why.to_owned())
        };
        let granted = match outcome {
            Outcome::Refused(_) | Outcome::Unauthorized | Outcome::NotFound(_) => return Err(refused()),
            outcome => answer(outcome, THROTTLED)?.unwrap_or_default(),
        };
        let token = Secret::new(granted.get("access_token").and_then(Value::as_str).ok_or_else(refused)?);
        let lifetime = Duration::from_secs(granted.get("expires_in").and_then(Value::as_u64).unwrap_or(1800).clamp(1, 86_400));
        self.token.replace(Some((token.clone(), Instant::now() + lifetime.saturating_sub(EARLY.min(lifetime / 4)))));
        Ok(token)
    }
}

/// Whether HubSpot calls a place wrong, or not there.
fn unknown(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::NotFound(_) => true,
        Outcome::Refused(refusal) => refusal.status == 400,
        _ => false,
    }
}

/// Sends a request and says what came of it.
async fn exchange(call: reqwest::RequestBuilder) -> Outcome {
    let answer = http::exchange(call).await;
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    match Outcome::of(answer, now()) {
        // Here it may be the end of the journal, whatever the body is.
        Outcome::Transient(..) | Outcome::Retired if matches!(status, 404 | 410) => {
            Outcome::NotFound(Refusal { status, ..Refusal::default() })
        }
        outcome => outcome,
    }
}
