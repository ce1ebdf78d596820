//! HubSpot's answer to the question which contacts deals have.
//!
//! Pure. What is said of a deal is one of four things: its contacts, that there are more of them, that it has none (told as an error), or
//! that HubSpot failed for it. Only the third means that it has none; an answer that leaves a deal out is a failure.

use super::outcome::{ItemError, Outcome, item_errors, text};
use super::work::{id_in, results};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Deals' contacts, as far as they have been read.
#[derive(Debug, Default)]
pub struct Associations {
    /// Deal → contacts, for every deal of which HubSpot has said them; none where it has said that there are none.
    pub contacts: BTreeMap<String, BTreeSet<String>>,
    /// Deals for which HubSpot failed, of which it said nothing, or whose pages it would have read for ever; each error names them. One
    /// that names none is about no deal whose contacts are not known.
    pub failed: Vec<ItemError>,
    /// Pages that were asked for.
    seen: HashSet<(String, String)>,
}

impl Associations {
    /// Takes in the answer for the deals `asked`; gives back those of which there are more contacts, each with HubSpot's cursor. `None`
    /// when it is no such answer.
    pub fn add<'a>(&mut self, asked: impl IntoIterator<Item = &'a str>, answer: &Value) -> Option<Vec<(String, String)>> {
        answer.get("results")?.as_array()?;
        let asked: BTreeSet<String> = asked.into_iter().map(str::to_owned).collect();
        let mut unsaid = asked.clone();
        let mut more = Vec::new();
        for result in results(answer) {
            let Some(deal) = result.pointer("/from/id").and_then(text) else { continue };
            unsaid.remove(&deal);
            let to = result.get("to").and_then(Value::as_array);
            let found = to.into_iter().flatten().filter_map(|contact| id_in(contact, "toObjectId"));
            self.contacts.entry(deal.clone()).or_default().extend(found);
            let Some(after) = result.pointer("/paging/next/after").and_then(text) else { continue };
            if self.seen.insert((deal.clone(), after.clone())) {
                more.push((deal, after));
            } else {
                let outcome = Outcome::Transient("the pages of a deal's contacts repeat".to_owned(), None);
                self.failed.push(ItemError { trace: Vec::new(), about: vec![deal], outcome });
            }
        }
        let mut nameless = Vec::new();
        for error in item_errors(answer) {
            let named: Vec<String> = error.about.iter().filter(|id| asked.contains(*id)).cloned().collect();
            for deal in &named {
                unsaid.remove(deal);
            }
            if named.is_empty() {
                nameless.push(error);
            } else if matches!(error.outcome, Outcome::NotFound(_)) {
                // No association, or no such deal: either way it has no contacts.
                for deal in named {
                    self.contacts.entry(deal).or_default();
                }
            } else {
                self.failed.push(error);
            }
        }
        self.unsaid(unsaid, nameless);
        Some(more)
    }

    /// Deals of which an answer says nothing by name, and its errors that name none of those asked for: each may be about any of these.
    fn unsaid(&mut self, deals: BTreeSet<String>, errors: Vec<ItemError>) {
        let (none, mut failed): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| matches!(error.outcome, Outcome::NotFound(_)));
        if failed.is_empty() {
            if deals.len() <= none.len() {
                for deal in deals {
                    self.contacts.entry(deal).or_default();
                }
                return;
            }
            failed = none;
        }
        if failed.is_empty() {
            let outcome = Outcome::Transient("an answer that says nothing of a deal's contacts".to_owned(), None);
            failed.push(ItemError { trace: Vec::new(), about: Vec::new(), outcome });
        }
        for error in &mut failed {
            error.about.extend(deals.iter().cloned());
        }
        self.failed.extend(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn associations_come_in_any_order_and_form_and_in_pages() {
        let mut associations = Associations::default();
        let body = json!({"results": [
            {"from": {"id": "2"}, "to": [{"toObjectId": 801}, {"toObjectId": "9"}], "paging": {"next": {"after": "x"}}},
            {"from": {"id": 1}, "to": [{"toObjectId": "802"}]}]});
        assert_eq!(associations.add(["1", "2"], &body), Some(vec![("2".to_owned(), "x".to_owned())]));
        assert_eq!(associations.contacts["2"], BTreeSet::from(["801".to_owned(), "9".to_owned()]));
        assert_eq!(associations.contacts["1"], BTreeSet::from(["802".to_owned()]));
        assert!(associations.failed.is_empty());
    }

    #[test]
    fn only_what_is_not_found_has_no_contacts() {
        let error = |category: &str, deal: &str| json!({"status":"error","category":category,"message":"x","context":{"fromObjectId":[deal],"fromObjectType":["deal"]}});
        let mut associations = Associations::default();
        let body =
            json!({"results": [], "errors": [error("OBJECT_NOT_FOUND", "1"), error("INTERNAL_ERROR", "2"), error("RATE_LIMITS", "3")]});
        assert_eq!(associations.add(["1", "2", "3"], &body), Some(Vec::new()));
        assert_eq!(associations.contacts, BTreeMap::from([("1".to_owned(), BTreeSet::new())]));
        let failed: Vec<&str> = associations.failed.iter().map(|error| error.about[0].as_str()).collect();
        assert_eq!(failed, ["2", "3"]);
        assert_eq!(associations.add(["1"], &Value::Null), None, "an empty success says nothing");
    }

    /// The deals that have failed after an answer for the deals 1, 2 and 3, and those whose contacts are known.
    fn after(answer: &Value) -> (BTreeSet<String>, Vec<String>) {
        let mut associations = Associations::default();
        assert_eq!(associations.add(["1", "2", "3"], answer), Some(Vec::new()));
        let failed = associations.failed.into_iter().flat_map(|error| error.about);
        (failed.collect(), associations.contacts.into_keys().collect())
    }

    #[test]
    fn a_deal_that_is_left_out_has_failed() {
        let all = ["1", "2", "3"].map(str::to_owned);
        assert_eq!(after(&json!({"results": []})), (BTreeSet::from(all.clone()), Vec::new()));
        let some = json!({"results": [{"from": {"id": "1"}, "to": [{"toObjectId": 801}]}, {"from": {"id": "2"}, "to": []}]});
        assert_eq!(after(&some), (BTreeSet::from(["3".to_owned()]), vec!["1".to_owned(), "2".to_owned()]));
        // On a later page, too: its contacts are not all known.
        let mut associations = Associations::default();
        let page = json!({"results": [{"from": {"id": "1"}, "to": [{"toObjectId": 801}], "paging": {"next": {"after": "x"}}}]});
        assert_eq!(associations.add(["1"], &page).map(|more| more.len()), Some(1));
        assert_eq!(associations.add(["1"], &json!({"results": []})), Some(Vec::new()));
        assert_eq!(associations.failed[0].about, ["1"]);
    }

    #[test]
    fn an_error_that_names_no_deal_is_about_those_that_are_left_out() {
        let all = ["1", "2", "3"].map(str::to_owned);
        let none = json!({"status":"error","category":"OBJECT_NOT_FOUND","message":"x"});
        let failed = json!({"status":"error","category":"INTERNAL_ERROR","message":"x","context":{}});
        assert_eq!(after(&json!({"results": [], "errors": [none, none, none]})), (BTreeSet::new(), all.to_vec()));
        assert_eq!(after(&json!({"results": [], "errors": [none]})), (BTreeSet::from(all.clone()), Vec::new()), "which one, nobody knows");
        assert_eq!(after(&json!({"results": [], "errors": [none, failed, none]})), (BTreeSet::from(all), Vec::new()));
    }

    #[test]
    fn pages_that_repeat_come_to_an_end() {
        let page =
            |after: &str| json!({"results": [{"from": {"id": "1"}, "to": [{"toObjectId": 801}], "paging": {"next": {"after": after}}}]});
        let mut associations = Associations::default();
        for after in ["a", "b"] {
            assert_eq!(associations.add(["1"], &page(after)).map(|more| more.len()), Some(1));
        }
        assert_eq!(associations.add(["1"], &page("a")), Some(Vec::new()));
        assert!(matches!(&associations.failed[..], [ItemError { outcome: Outcome::Transient(..), .. }]));
    }
}
