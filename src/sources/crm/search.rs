//! Changes by search: records whose time of change is not below the newest one seen, less an overlap.
//!
//! # Meaning
//! A search says which records have changed; what they are now is read by id, because the index that answers a search is behind by
//! up to tens of seconds. A record whose reading is as new as the search result is not read again.
//!
//! # 10,000 results
//! HubSpot pages a search through 10,000 results and no further, and a record that changes while it is paged moves to another
//! page, so that a third one is missed. So no search is paged: each asks for the first 200 from the time at which the one before
//! ended. When all 200 are of one millisecond, that millisecond is gone through by id, and the next search begins after it.
//!
//! # Not guaranteed
//! A search shows no deletion, no privacy deletion, and no association that left the deal's time of change as it was; these come
//! with the next load. So does what the index shows later than the overlap.

use super::client::SEARCH_PAGE;
use super::mirror::{Hints, Mirror};
use super::object::{Id, Object};
use super::record;
use crate::model::time::Ms;
use crate::sources::trouble::Trouble;
use serde_json::{Value, json};

/// One search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Query {
    /// Changed at this or later, ms.
    from: Ms,
    /// Only what was changed at that very millisecond, with an id beyond this.
    beyond: Option<Id>,
}

impl Query {
    fn body(self, object: Object) -> Value {
        let Query { from, beyond } = self;
        let changed = |operator: &str| json!({ "propertyName": object.modified(), "operator": operator, "value": from.to_string() });
        let (filters, sort) = match beyond {
            None => (json!([changed("GTE")]), object.modified()),
            Some(id) => {
                (json!([changed("EQ"), { "propertyName": "hs_object_id", "operator": "GT", "value": id.to_string() }]), "hs_object_id")
            }
        };
        json!({
            "filterGroups": [{ "filters": filters }],
            "sorts": [{ "propertyName": sort, "direction": "ASCENDING" }],
            "properties": [object.modified()],
            "limit": SEARCH_PAGE,
            "after": "0",
        })
    }

    /// What to search for after these results, each an id and its time of change; `None` when that was all.
    fn then(self, found: &[(Id, Ms)], page: usize) -> Option<Query> {
        let full = found.len() >= page;
        match (self.beyond, found.last()) {
            (Some(_), Some((id, _))) if full => Some(Query { beyond: Some(*id), ..self }),
            // That millisecond is through.
            (Some(_), _) => Some(Query { from: self.from + 1, beyond: None }),
            (None, Some((_, last))) if full && *last > self.from => Some(Query { from: *last, beyond: None }),
            (None, _) if full => Some(Query { beyond: Some(0), ..self }),
            (None, _) => None,
        }
    }
}

/// The newest time of change of any record as a search shows it; 0 where there is none.
///
/// # Errors
/// See [`Trouble`].
pub async fn newest(mirror: &Mirror, object: Object) -> Result<Ms, Trouble> {
    let body = json!({
        "filterGroups": [],
        "sorts": [{ "propertyName": object.modified(), "direction": "DESCENDING" }],
        "properties": [object.modified()],
        "limit": 1,
        "after": "0",
    });
    let found = mirror.client.search(object, body).await?;
    Ok(found.first().map_or(0, |shown| record::modified(object, shown)))
}

/// The searches of one account, one after the other: first for contacts, then for deals.
#[derive(Debug, Default)]
pub struct Search {
    /// The next one; none between two rounds.
    next: Option<(Object, Query)>,
}

impl Search {
    /// Searches once, and reads what it shows to have changed. `seen` are the newest times of change of contacts and deals so far, and
    /// is carried on. Says whether the round has more searches.
    ///
    /// # Errors
    /// See [`Trouble`]; then the same search is next.
    pub async fn once(&mut self, mirror: &mut Mirror, seen: &mut [Ms; 2], overlap: Ms) -> Result<bool, Trouble> {
        let begin = |object: Object, seen: Ms| (object, Query { from: seen.saturating_sub(overlap), beyond: None });
        let (object, query) = *self.next.get_or_insert_with(|| begin(Object::Contacts, seen[0]));
        let shown = mirror.client.search(object, query.body(object)).await?;
        let found: Vec<(Id, Ms)> =
            shown.iter().filter_map(|shown| Some((record::id(shown.get("id")?)?, record::modified(object, shown)))).collect();
        let new = found.iter().filter(|(id, modified)| *modified > mirror.ledger.modified(object, *id)).map(|(id, _)| *id).collect();
        mirror.refresh(Hints::of(object, new)).await?;
        let newest = &mut seen[usize::from(object == Object::Deals)];
        *newest = found.iter().map(|(_, modified)| *modified).fold(*newest, Ms::max);
        self.next = match (query.then(&found, SEARCH_PAGE), object) {
            (Some(query), _) => Some((object, query)),
            (None, Object::Contacts) => Some(begin(Object::Deals, seen[1])),
            (None, Object::Deals) => None,
        };
        Ok(self.next.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What HubSpot would answer.
    fn search(records: &[(Id, Ms)], query: Query, page: usize) -> Vec<(Id, Ms)> {
        let mut found: Vec<(Id, Ms)> = records
            .iter()
            .copied()
            .filter(|(id, at)| query.beyond.map_or(*at >= query.from, |beyond| *at == query.from && *id > beyond))
            .collect();
        found.sort_by_key(|(id, at)| if query.beyond.is_some() { (*id, 0) } else { (*at, *id) });
        found.truncate(page);
        found
    }

    fn all(records: &[(Id, Ms)], from: Ms, page: usize) -> (BTreeSet<Id>, usize) {
        let (mut seen, mut searches) = (BTreeSet::new(), 0);
        let mut query = Some(Query { from, beyond: None });
        while let Some(asked) = query {
            let found = search(records, asked, page);
            seen.extend(found.iter().map(|(id, _)| *id));
            query = asked.then(&found, page);
            searches += 1;
        }
        (seen, searches)
    }

    #[test]
    fn ten_thousand_results_are_no_bound_even_within_a_millisecond() {
        for count in [0, 1, 199, 200, 201, 9_999, 10_000, 10_001, 20_400] {
            for spread in [1, 3, 1_000, Ms::MAX] {
                let records: Vec<(Id, Ms)> = (1..=count).map(|id| (id, 1_000 + id % spread)).collect();
                let (seen, searches) = all(&records, 1_000, SEARCH_PAGE);
                assert_eq!(seen.len() as u64, count, "{count} records in {spread} ms");
                assert!(searches as u64 <= 3 + count.div_ceil(SEARCH_PAGE as u64) * 2 + spread.min(count), "{count}, {spread}: {searches}");
            }
        }
    }

    #[test]
    fn a_search_is_what_hubspot_takes() {
        let all = Query { from: 5, beyond: None }.body(Object::Deals);
        assert_eq!(all["filterGroups"][0]["filters"], json!([{"propertyName":"hs_lastmodifieddate","operator":"GTE","value":"5"}]));
        let one = Query { from: 5, beyond: Some(7) }.body(Object::Contacts);
        assert_eq!(one["filterGroups"][0]["filters"][1], json!({"propertyName":"hs_object_id","operator":"GT","value":"7"}));
        assert_eq!((one["sorts"][0]["propertyName"].as_str(), one["limit"].as_u64()), (Some("hs_object_id"), Some(200)));
    }

    proptest! {
        /// Nothing that was there is missed, and it ends.
        #[test]
        fn every_change_is_found(times in prop::collection::vec(0u64..12, 0..60), from in 0u64..12, page in 1usize..8) {
            let records: Vec<(Id, Ms)> = times.iter().enumerate().map(|(id, at)| (id as Id + 1, *at)).collect();
            let wanted: BTreeSet<Id> = records.iter().filter(|(_, at)| *at >= from).map(|(id, _)| *id).collect();
            prop_assert_eq!(all(&records, from, page).0, wanted);
        }
    }
}
