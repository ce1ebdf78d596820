//! What the mirror asks HubSpot, and what can be in the way of an answer.
//!
//! # Quota
//! Lists and reads count in the account's window that the sink writes through, without its reserve for deal stages, and the mirror
//! takes no more than `requests` of it: the rest is the sink's. Searches and the journal are counted by HubSpot apart; searches are
//! kept below 5 a second here.

use super::object::{Id, Object};
use super::record::id;
use crate::sinks::hubspot::{Associations, Method, Outcome, Paths, Request, Service, Share, Wait, Window, item_errors};
use crate::sources::trouble::{THROTTLED, Trouble, answer, strange};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// HubSpot's bound on a page of a list, and on the records of a batch.
pub const PAGE: usize = 100;
/// HubSpot's bound on a page of a search.
pub const SEARCH_PAGE: usize = 200;
/// Searches in a second: one below HubSpot's limit, which all apps of an account may share.
const SEARCHES: usize = 4;
/// The pause after a 429 of a search that names none.
const SECOND: Duration = Duration::from_secs(1);

/// What came of reading records by their ids.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// Records as HubSpot shows them.
    pub found: Vec<Value>,
    /// HubSpot says that they are not there.
    pub gone: BTreeSet<Id>,
    /// HubSpot says nothing of them, as for those that were merged into others.
    pub unsaid: BTreeSet<Id>,
}

/// One page of a list.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// Records as HubSpot shows them.
    pub found: Vec<Value>,
    /// HubSpot's cursor of the next page.
    pub next: Option<String>,
}

/// One account of HubSpot, for reading.
#[derive(Debug)]
pub struct Client {
    service: Arc<Service>,
    portal: String,
    paths: Paths,
    reads: RefCell<Window>,
    searches: RefCell<Window>,
}

/// A place in a window of the mirror's own, given back when the request is answered or given up.
struct Place<'a>(&'a RefCell<Window>);

impl<'a> Place<'a> {
    async fn wait(window: &'a RefCell<Window>) -> Place<'a> {
        loop {
            let taken = window.borrow_mut().take(Share::Full, Instant::now());
            match taken {
                Ok(()) => return Place(window),
                Err(Wait::Until(at)) => tokio::time::sleep_until(at.into()).await,
                // Requests of one account are made one after the other: none is in flight here.
                Err(Wait::Answer) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().answered(Instant::now());
    }
}

impl Client {
    /// For an account; at most `requests` in `per` that count in its window.
    pub fn new(service: Arc<Service>, portal: &str, paths: Paths, requests: usize, per: Duration) -> Self {
        Client {
            service,
            portal: portal.to_owned(),
            paths,
            reads: RefCell::new(Window::new(requests, 0, per)),
            searches: RefCell::new(Window::new(SEARCHES, 0, SECOND)),
        }
    }

    fn path(&self, object: Object) -> &str {
        match object {
            Object::Contacts => &self.paths.contacts,
            Object::Deals => &self.paths.deals,
        }
    }

    /// An answer, or `None` for what is not there.
    async fn read(&self, request: &Request) -> Result<Option<Value>, Trouble> {
        let place = Place::wait(&self.reads).await;
        let outcome = self.service.call(&self.portal, request, Share::Bulk).await;
        drop(place);
        answer(outcome, THROTTLED)
    }

    /// One page of all records that are not archived, deals with their contacts.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn list(&self, object: Object, after: Option<&str>) -> Result<Page, Trouble> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string()).append_pair("properties", &object.properties().join(","));
        if object == Object::Deals {
            query.append_pair("associations", "contacts");
        }
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        let request = Request { method: Method::Get, path: format!("{}?{}", self.path(object), query.finish()), body: None };
        let answer = self.read(&request).await?.ok_or_else(|| strange("a list of records"))?;
        let found = answer.get("results").and_then(Value::as_array).cloned().ok_or_else(|| strange("a list of records"))?;
        Ok(Page { found, next: next(&answer) })
    }

    /// Records by their ids, at most [`PAGE`] of them.
    ///
    /// # Errors
    /// See [`Trouble`]; also when HubSpot fails for some of them only.
    pub async fn batch(&self, object: Object, ids: &BTreeSet<Id>) -> Result<Batch, Trouble> {
        debug_assert!(ids.len() <= PAGE);
        if ids.is_empty() {
            return Ok(Batch::default());
        }
        let inputs: Vec<Value> = ids.iter().map(|id| json!({ "id": id.to_string() })).collect();
        let body = json!({ "properties": object.properties(), "propertiesWithHistory": [], "inputs": inputs });
        let request = Request { method: Method::Post, path: format!("{}/batch/read", self.path(object)), body: Some(body) };
        // A batch of which nothing is there may be answered with 404; then each is asked for by itself.
        let Some(answer) = self.read(&request).await? else {
            return Ok(Batch { unsaid: ids.clone(), ..Batch::default() });
        };
        sort_out(&answer, ids)
    }

    /// One record by its id: the one that it was merged into, if it was; `None` where there is neither.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn one(&self, object: Object, id: Id) -> Result<Option<Value>, Trouble> {
        let properties = object.properties().join(",");
        let path = format!("{}/{id}?properties={}", self.path(object), properties.replace(',', "%2C"));
        match self.read(&Request { method: Method::Get, path, body: None }).await? {
            // It does not say that the record is gone.
            Some(shown) if shown.get("id").and_then(super::record::id).is_none() => Err(strange("record")),
            shown => Ok(shown),
        }
    }

    /// The contacts of deals, all of them, with an entry for each deal; one has none where HubSpot says so.
    ///
    /// # Errors
    /// See [`Trouble`]; also when HubSpot fails for some of them only, or says nothing of them.
    pub async fn contacts_of(&self, deals: impl IntoIterator<Item = Id>) -> Result<BTreeMap<Id, BTreeSet<Id>>, Trouble> {
        let mut read = Associations::default();
        let mut inputs: Vec<Value> = deals.into_iter().map(|id| json!({ "id": id.to_string() })).collect();
        while !inputs.is_empty() {
            let path = format!("{}/deals/contacts/batch/read", self.paths.associations);
            let request = Request { method: Method::Post, path, body: Some(json!({ "inputs": inputs })) };
            let answer = self.read(&request).await?.ok_or_else(|| strange("associations"))?;
            let asked = inputs.iter().filter_map(|input| input.get("id").and_then(Value::as_str));
            let more = read.add(asked, &answer).ok_or_else(|| strange("associations"))?;
            if let Some(error) = read.failed.pop() {
                answer_of_item(error.outcome)?;
            }
            inputs = more.into_iter().map(|(id, after)| json!({ "id": id, "after": after })).collect();
        }
        let number = |id: &String| id.parse().ok();
        let deals = read.contacts.iter().filter_map(|(deal, of)| Some((number(deal)?, of.iter().filter_map(number).collect())));
        Ok(deals.collect())
    }

    /// The results of a search.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn search(&self, object: Object, body: Value) -> Result<Vec<Value>, Trouble> {
        let request = Request { method: Method::Post, path: format!("{}/search", self.path(object)), body: Some(body) };
        let place = Place::wait(&self.searches).await;
        let outcome = self.service.call_apart(&self.portal, &request).await;
        drop(place);
        let answer = answer(outcome, SECOND)?.ok_or_else(|| strange("search results"))?;
        answer.get("results").and_then(Value::as_array).cloned().ok_or_else(|| strange("search results"))
    }
}

fn next(answer: &Value) -> Option<String> {
    answer.pointer("/paging/next/after").and_then(crate::sinks::hubspot::text)
}

/// Which of the records asked for are there. A failure that is not "there is no such record" says nothing about a record.
fn sort_out(answer: &Value, asked: &BTreeSet<Id>) -> Result<Batch, Trouble> {
    let found = answer.get("results").and_then(Value::as_array).ok_or_else(|| strange("records"))?;
    let mut batch = Batch { found: Vec::new(), gone: BTreeSet::new(), unsaid: asked.clone() };
    for error in item_errors(answer) {
        match error.outcome {
            Outcome::NotFound(_) => {
                let about = error.about.iter().filter_map(|id| id.parse().ok()).filter(|id| asked.contains(id));
                batch.gone.extend(about);
            }
            other => return answer_of_item(other),
        }
    }
    for shown in found {
        let Some(id) = shown.get("id").and_then(id) else { continue };
        batch.unsaid.remove(&id);
        batch.gone.remove(&id);
        batch.found.push(shown.clone());
    }
    batch.unsaid.retain(|id| !batch.gone.contains(id));
    Ok(batch)
}

fn answer_of_item(outcome: Outcome) -> Result<Batch, Trouble> {
    match answer(outcome, THROTTLED) {
        Err(trouble) => Err(trouble),
        Ok(_) => Err(strange("records")),
    }
}

/// The contacts that a list shows with a deal; `None` when there are more than it shows.
pub fn listed_contacts(shown: &Value) -> Option<BTreeSet<Id>> {
    let Some(contacts) = shown.pointer("/associations/contacts") else { return Some(BTreeSet::new()) };
    if next(contacts).is_some() {
        return None;
    }
    let results = contacts.get("results").and_then(Value::as_array);
    Some(results.into_iter().flatten().filter_map(|to| id(to.get("id")?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hubspot_says_is_not_there_is_gone() {
        let asked = BTreeSet::from([1, 2, 3]);
        let gone = json!({"status":"error","category":"OBJECT_NOT_FOUND","message":"gone","context":{"ids":["2"]}});
        let batch = sort_out(&json!({"results":[{"id":"1"}],"errors":[gone]}), &asked).expect("sorts");
        assert_eq!((batch.found.len(), batch.gone, batch.unsaid), (1, BTreeSet::from([2]), BTreeSet::from([3])));
        let failed = json!({"status":"error","category":"INTERNAL_ERROR","message":"x","context":{"ids":["2"]}});
        assert!(matches!(sort_out(&json!({"results":[{"id":"1"}],"errors":[failed]}), &asked), Err(Trouble::Later(..))));
        assert!(matches!(sort_out(&Value::Null, &asked), Err(Trouble::Later(..))), "an empty success says nothing of anybody");
    }

    #[test]
    fn a_list_shows_contacts_or_that_there_are_more() {
        let shown = json!({"associations":{"contacts":{"results":[{"id":"801","type":"a"},{"id":"801","type":"b"}]}}});
        assert_eq!(listed_contacts(&shown), Some(BTreeSet::from([801])));
        assert_eq!(listed_contacts(&json!({"id":"1"})), Some(BTreeSet::new()));
        assert_eq!(listed_contacts(&json!({"associations":{"contacts":{"results":[],"paging":{"next":{"after":"1"}}}}})), None);
    }
}
