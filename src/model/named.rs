//! Whom a record names, whatever kind of record it is and whether or not it can be read. Pure.
//!
//! # Meaning
//! A record that says whose it is (`contact_id`, `merged_ids`, `email`, `additional_emails`, or the `who` of a carried state) names these and
//! nobody else, whatever its other fields quote. One that does not, or that is no JSON object, names every e-mail address in it and
//! whatever stands behind the word `contact_id`. The contacts of a deal are the deal's: it names none of them.
//!
//! # Ties and edges
//! Addresses are compared trimmed and in lower case, ids as they stand. Addresses that are written in another way (percent or base64
//! encoding) are not found.

use super::inputs::normal_email;
use serde_json::Value;
use std::collections::BTreeSet;

/// Whom a record names, and whose the record is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// HubSpot account, where the record names one.
    pub portal: Option<String>,
    /// Workspace, where the record names one.
    pub workspace: Option<String>,
    /// HubSpot's ids of contacts.
    pub contacts: BTreeSet<String>,
    /// E-mail addresses, trimmed and in lower case.
    pub emails: BTreeSet<String>,
}

impl Named {
    /// Of a record's bytes.
    pub fn in_record(bytes: &[u8]) -> Self {
        let mut named = Named::default();
        if let Ok(Value::Object(record)) = serde_json::from_slice(bytes) {
            // An unresolved click stands in a record of its own.
            let inner = record.get("click").and_then(Value::as_object);
            for record in inner.into_iter().chain([&record]) {
                named.read(record);
            }
        }
        if named.nobody() {
            named.search(&String::from_utf8_lossy(bytes));
        }
        named
    }

    /// Whether nobody is named.
    pub fn nobody(&self) -> bool {
        self.contacts.is_empty() && self.emails.is_empty()
    }

    fn read(&mut self, record: &serde_json::Map<String, Value>) {
        let text = |name: &str| record.get(name).and_then(text);
        self.portal = text("portal").or(self.portal.take());
        self.workspace = text("workspace").or(self.workspace.take());
        self.contacts.extend(text("contact_id"));
        self.contacts.extend(list(record.get("merged_ids")));
        let emails = text("email").into_iter().chain(list(record.get("additional_emails")));
        self.emails.extend(emails.map(|email| normal_email(&email).into_owned()));
        match record.get("who").and_then(Value::as_str).and_then(|who| who.split_once(':')) {
            Some(("c", id)) => drop(self.contacts.insert(id.to_owned())),
            Some(("e", email)) => drop(self.emails.insert(normal_email(email).into_owned())),
            _ => {}
        }
    }

    fn search(&mut self, text: &str) {
        let of_address = |c: char| c.is_alphanumeric() || ".!#$%&*+/=?^_`{|}~@-".contains(c);
        for word in text.split(|c| !of_address(c)) {
            // These may be part of an address, and may be a query's.
            for part in word.split(['=', '&', '?', '/']).chain([word]) {
                let part = part.trim_matches(|c: char| !c.is_alphanumeric());
                if part.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) {
                    self.emails.insert(normal_email(part).into_owned());
                }
            }
        }
        for (at, found) in text.match_indices("contact_id") {
            let behind = &text[at + found.len()..];
            if behind.starts_with(char::is_alphanumeric) {
                continue;
            }
            let behind = behind.trim_start_matches(|c: char| !c.is_alphanumeric() && c != ',' && c != '}');
            let id: String = behind.chars().take_while(|c| c.is_alphanumeric()).collect();
            if !id.is_empty() && id != "null" {
                self.contacts.insert(id);
            }
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = String> + '_ {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> (Vec<String>, Vec<String>) {
        let named = Named::in_record(text.as_bytes());
        (named.contacts.into_iter().collect(), named.emails.into_iter().collect())
    }

    fn texts(of: &[&str]) -> Vec<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_record_names_whose_it_is() {
        let contact = r#"{"portal":"1","contact_id":"801","email":" Ada@Example.com","additional_emails":["a@x.com"],"merged_ids":["77"]}"#;
        assert_eq!(of(contact), (texts(&["77", "801"]), texts(&["a@x.com", "ada@example.com"])));
        assert_eq!(of(r#"{"contact_id":"802","extra_data":{"referrer":"https://x/?m=ada@example.com"}}"#), (texts(&["802"]), vec![]));
        assert_eq!(of(r#"{"deal_id":"1","contact_ids":["801"]}"#), (vec![], vec![]), "a deal is not its contacts'");
        assert_eq!(of(r#"{"v":1,"who":"c:801","kind":"period"}"#), (texts(&["801"]), vec![]));
        assert_eq!(of(r#"{"v":1,"who":"e:ada@example.com"}"#), (vec![], texts(&["ada@example.com"])));
        let unresolved = Named::in_record(br#"{"v":1,"click":{"workspace":"acme","contact_id":null,"contact_id":"9"}}"#);
        assert_eq!((unresolved.workspace.as_deref(), unresolved.contacts.len()), (Some("acme"), 1));
    }

    #[test]
    fn what_cannot_be_read_is_searched() {
        assert_eq!(of(r#"{"workspace":"acme","email":"Ada@example.com""#), (vec![], texts(&["ada@example.com"])));
        assert_eq!(of(r#"{"mail":"<ada@example.com>.","n":1}"#), (vec![], texts(&["ada@example.com"])));
        assert_eq!(
            of("https://x/y?m=ada@example.com&z=1 and b@x.org."),
            (vec![], texts(&["ada@example.com", "b@x.org", "x/y?m=ada@example.com&z=1"]))
        );
        assert_eq!(of(r#"{"contact_id" : "801", "#), (texts(&["801"]), vec![]));
        assert_eq!(of(r#"{"contact_id":,"link":"x"#), (vec![], vec![]));
        assert_eq!(of("@ a@ @b"), (vec![], vec![]));
    }

    proptest! {
        /// An address is found wherever it stands in a broken record, and no bytes make it panic.
        #[test]
        fn an_address_is_found_in_any_broken_record(before in "[ \"',;<>()\\[\\]:=]{0,9}", after in "[ \"',;<>()\\[\\]]{0,9}",
            junk in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Named::in_record(&junk);
            let text = format!("{before}ada@example.com{after}");
            prop_assert!(Named::in_record(text.as_bytes()).emails.contains("ada@example.com"), "{}", text);
        }
    }
}
