//! What somebody filled in, and the record of it. Pure.
//!
//! # Meaning
//! A click id is taken from a field of its name; where there is none, from the query of the page's address. It is decoded once and
//! compared letter by letter, so it is never changed to lower case. An e-mail is kept as the contract wants it: trimmed, lower case.

use crate::model::inputs::{Form, Input as _, Refusal};
use crate::model::time::Ms;
use crate::sources::crm::time;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use url::Url;

/// Fields by their names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

/// Names of the fields with a click id: its own, and HubSpot's property of it.
const GCLID: [&str; 2] = ["gclid", "hs_google_click_id"];
const FBCLID: [&str; 2] = ["fbclid", "hs_facebook_click_id"];

impl Fields {
    /// Adds a field; of several of one name the first that says something counts. HubSpot's new forms write `0-1/email`.
    pub fn add(&mut self, name: &str, value: &str) {
        let name = name.rsplit('/').next().unwrap_or(name).trim().to_lowercase();
        if !value.trim().is_empty() {
            self.0.entry(name).or_insert_with(|| value.trim().to_owned());
        }
    }

    /// The fields of a JSON object: texts and numbers.
    pub fn of_json(object: &serde_json::Map<String, Value>) -> Self {
        let mut fields = Fields::default();
        for (name, value) in object {
            if let Some(value) = crate::sinks::hubspot::text(value) {
                fields.add(name, &value);
            }
        }
        fields
    }

    /// The fields of an `application/x-www-form-urlencoded` body.
    pub fn of_form(body: &[u8]) -> Self {
        let mut fields = Fields::default();
        for (name, value) in url::form_urlencoded::parse(body) {
            fields.add(&name, &value);
        }
        fields
    }

    /// A field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The address of the page the form stood on.
    fn page(&self) -> Option<&str> {
        self.get("page_url").or_else(|| self.get("pageurl"))
    }
}

/// A parameter of an address's query, decoded once; the address may lack scheme and host.
fn in_query(address: &str, name: &str) -> Option<String> {
    let base = Url::parse("https://page.invalid/").ok()?;
    let address = base.join(address.trim()).ok()?;
    // `+` stands for itself here: a click id holds no spaces, and browsers and ad networks do not encode it.
    let query = address.query()?.replace('+', "%2B");
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, value)| key == name && !value.trim().is_empty())
        .map(|(_, value)| value.into_owned())
}

/// A click id, from the fields or the page's address.
fn click_id(fields: &Fields, page: Option<&str>, names: [&str; 2]) -> Option<String> {
    let field = names.into_iter().find_map(|name| fields.get(name)).map(str::to_owned);
    field.or_else(|| in_query(page?, names[0]))
}

/// A record of the topic `forms`.
///
/// # Errors
/// What the dataflow would not take, and why; quotes no value.
pub fn record(workspace: &str, id: &str, at: Ms, fields: &Fields, page: Option<&str>) -> Result<Vec<u8>, Refusal> {
    let page = page.or_else(|| fields.page());
    let email =
        fields.get("email").ok_or_else(|| Refusal::new("field", "a form without an e-mail address names nobody: `email` is missing"))?;
    let form = Form {
        v: 1,
        id: id.to_owned(),
        ts: at,
        workspace: workspace.to_owned(),
        email: email.to_owned(),
        fbclid: click_id(fields, page, FBCLID),
        gclid: click_id(fields, page, GCLID),
    };
    let write = |form: &Form| serde_json::to_vec(form).map_err(|error| Refusal::new("json", error.to_string()));
    // What the dataflow will make of it, so that it is refused here and not there.
    write(&Form::read(&write(&form)?)?)
}

/// A submission as HubSpot lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// HubSpot's id of it.
    pub id: String,
    /// When it was made, ms.
    pub at: Ms,
    /// What was filled in.
    pub fields: Fields,
    /// The page.
    pub page: Option<String>,
}

/// Reads one submission of HubSpot's list; `None` where it says no time.
pub fn listed(shown: &Value) -> Option<Listed> {
    let at = shown.get("submittedAt").and_then(time)?;
    let mut fields = Fields::default();
    for field in shown.get("values").and_then(Value::as_array).into_iter().flatten() {
        if let Some((name, value)) = field.get("name").and_then(Value::as_str).zip(field.get("value").and_then(crate::sinks::hubspot::text))
        {
            fields.add(name, &value);
        }
    }
    let id: Cow<'_, str> = match shown.get("conversionId").and_then(Value::as_str) {
        Some(id) => id.into(),
        // Not seen so far; the same submission then still has one id.
        None => uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, shown.to_string().as_bytes()).to_string().into(),
    };
    let page = shown.get("pageUrl").and_then(Value::as_str).map(str::to_owned);
    Some(Listed { id: id.into_owned(), at, fields, page })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(fields: &Fields, page: Option<&str>) -> Form {
        Form::read(&record("acme", "f-1", 5, fields, page).expect("taken")).expect("reads")
    }

    #[test]
    fn click_ids_come_from_fields_first_and_from_the_page_else() {
        let mut fields = Fields::of_form(
            b"Email=+Ada%40Example.com&gclid=Field&fbclid=&page_url=https%3A%2F%2Fx.com%2Fp%3Fgclid%3DPage%26fbclid%3DIw%252BAr%2BB",
        );
        let form = read(&fields, None);
        assert_eq!(
            (form.email.as_str(), form.gclid.as_deref(), form.fbclid.as_deref()),
            ("ada@example.com", Some("Field"), Some("Iw+Ar+B"))
        );
        assert_eq!(read(&fields, Some("/p?gclid=Other&fbclid=a%20b")).fbclid.as_deref(), Some("a b"), "the page that HubSpot names wins");
        fields.add("hs_facebook_click_id", "Property");
        assert_eq!(read(&fields, None).fbclid.as_deref(), Some("Property"));
        let bare = Fields::of_json(json!({"email": "a@x.com", "ts": 7, "other": [1]}).as_object().expect("an object"));
        assert_eq!((read(&bare, Some("https://x.com/p#gclid=no")).gclid, bare.get("ts")), (None, Some("7")));
    }

    #[test]
    fn a_form_without_an_address_names_nobody() {
        let refusal = record("acme", "f-1", 5, &Fields::of_form(b"name=Ada&email=%20"), None).expect_err("no address");
        assert_eq!(refusal.reason, "field");
        let mut long = Fields::default();
        long.add("email", &"a".repeat(2_000));
        assert_eq!(record("acme", "f-1", 5, &long, None).expect_err("too long").reason, "bounds");
    }

    #[test]
    fn a_submission_is_read_as_hubspot_lists_it() {
        let shown = json!({"conversionId":"c-1","submittedAt":1_795_421_730_123u64,"pageUrl":"https://x.com/p?gclid=AbC&utm_source=webinar",
            "values":[{"name":"0-1/email","value":"A@x.com"},{"name":"firstname","value":"A"}]});
        let Listed { id, at, fields, page } = listed(&shown).expect("a submission");
        assert_eq!((id.as_str(), at), ("c-1", 1_795_421_730_123));
        let form = Form::read(&record("acme", &id, at, &fields, page.as_deref()).expect("taken")).expect("reads");
        assert_eq!((form.email.as_str(), form.gclid.as_deref(), form.ts), ("a@x.com", Some("AbC"), 1_795_421_730_123));
        assert_eq!(listed(&json!({"conversionId":"c-1"})), None);
    }

    proptest! {
        /// No address of a page makes it panic, and a click id in it is found as it was.
        #[test]
        fn any_page_is_borne(page in "\\PC{0,60}", id in "[A-Za-z0-9_+/=%. -]{1,30}") {
            let _ = in_query(&page, "gclid");
            let mut address = Url::parse("https://x.com/p?a=b").expect("an address");
            address.query_pairs_mut().append_pair("gclid", &id.replace(' ', "_"));
            prop_assert_eq!(in_query(address.as_str(), "gclid").unwrap_or_default(), id.replace(' ', "_"));
        }
    }
}
