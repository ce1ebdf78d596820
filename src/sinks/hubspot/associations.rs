//! HubSpot's answer to the question which contacts deals have.
//!
//! Pure. What is said of a deal is one of four things: its contacts, that there are more of them, that it has none (told as an error), or
//! that HubSpot failed for it. Only the third means that it has none.

use super::outcome::{ItemError, Outcome, item_errors, text};
use super::work::{id_in, results};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Deals' contacts, as far as they have been read.
#[derive(Debug, Default)]
pub struct Associations {
    /// Deal → contacts.
    pub contacts: BTreeMap<String, BTreeSet<String>>,
    /// Deals for which HubSpot failed, or would have its pages read for ever; an error may name none.
    pub failed: Vec<ItemError>,
    /// Pages that were asked for.
    seen: HashSet<(String, String)>,
}

impl Associations {
    /// Takes in an answer; gives back the deals of which there are more contacts, each with HubSpot's cursor. `None` when it is no such
    /// answer.
    pub fn add(&mut self, answer: &Value) -> Option<Vec<(String, String)>> {
        answer.get("results")?.as_array()?;
        // No association, or no such deal: either way it has no contacts.
        self.failed.extend(item_errors(answer).into_iter().filter(|error| !matches!(error.outcome, Outcome::NotFound(_))));
        let mut more = Vec::new();
        for result in results(answer) {
            let Some(deal) = result.pointer("/from/id").and_then(text) else { continue };
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
        Some(more)
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
        assert_eq!(associations.add(&body), Some(vec![("2".to_owned(), "x".to_owned())]));
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
        assert_eq!(associations.add(&body), Some(Vec::new()));
        let failed: Vec<&str> = associations.failed.iter().map(|error| error.about[0].as_str()).collect();
        assert_eq!(failed, ["2", "3"]);
        assert_eq!(associations.add(&Value::Null), None, "an empty success says nothing");
    }

    #[test]
    fn pages_that_repeat_come_to_an_end() {
        let page =
            |after: &str| json!({"results": [{"from": {"id": "1"}, "to": [{"toObjectId": 801}], "paging": {"next": {"after": after}}}]});
        let mut associations = Associations::default();
        for after in ["a", "b"] {
            assert_eq!(associations.add(&page(after)).map(|more| more.len()), Some(1));
        }
        assert_eq!(associations.add(&page("a")), Some(Vec::new()));
        assert!(matches!(&associations.failed[..], [ItemError { outcome: Outcome::Transient(..), .. }]));
    }
}
