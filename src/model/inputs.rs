//! Input records: clicks, forms, contacts, deals.
//!
//! # Meaning
//! One JSON object per Kafka message or line. Unknown fields are ignored. A record that is not JSON, lacks
//! a required field or breaks a bound is refused with a [`Refusal`]; the caller keeps the original bytes.
//!
//! # Bounds
//! Ids and short texts hold at most [`MAX_ID`] bytes, lists at most [`MAX_LIST`] entries, a record at most
//! [`MAX_RECORD`] bytes; times lie before the year 10000. They exist so that one record cannot fill memory.

use super::as_written;
use super::click_view::ClickView;
use super::packed_click::PackedClick;
use super::time::Ms;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Longest id, e-mail, tag, click id or link, in bytes.
pub const MAX_ID: usize = 1_024;
/// Most tags on a link, contacts on a deal, merged ids or further e-mails of a contact.
pub const MAX_LIST: usize = 4_096;
/// Largest record, in bytes (Kafka's own default for a message).
pub const MAX_RECORD: usize = 1_048_576;
/// Last millisecond of the year 9999: later times are a mistake in the unit (micro- or nanoseconds).
pub const MAX_TS: Ms = 253_402_300_799_999;

/// Why a record could not be taken, as it is written to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// Reason code: `json`, `field`, `bounds`, `version`, `clock` or `key`.
    pub reason: &'static str,
    /// What is wrong, for a human; never quotes values of the record.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its code and explanation.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Refusal { reason, detail: detail.into() }
    }
}

/// The campaign values of a click.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Utm {
    /// `utm_source`
    pub source: Option<String>,
    /// `utm_medium`
    pub medium: Option<String>,
    /// `utm_campaign`
    pub campaign: Option<String>,
    /// `utm_term`
    pub term: Option<String>,
    /// `utm_content`
    pub content: Option<String>,
}

/// One redirect served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Click {
    /// Schema version; 1, or absent.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Unique id, minted by the redirect server (UUIDv7).
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub id: String,
    /// When it happened, ms since the epoch.
    #[schemars(range(max = MAX_TS))]
    pub ts: Ms,
    /// Whose link it is.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub workspace: String,
    /// `domain/slug`.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub link: String,
    /// The link's title.
    #[serde(default)]
    pub title: Option<String>,
    /// Where the visitor was sent.
    #[serde(default)]
    pub destination: Option<String>,
    /// The link's tags.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Vec<String>>", length(max = MAX_LIST), inner(length(max = MAX_ID)))]
    pub tags: Vec<String>,
    /// The deal that the link names, for rules without an associated contact.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub deal_id: Option<String>,
    /// The contact named in the link (`?eid=`).
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub contact_id: Option<String>,
    /// Facebook's click id; case-sensitive.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub fbclid: Option<String>,
    /// Google's click id; case-sensitive.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub gclid: Option<String>,
    /// Campaign values of the request, else of the destination.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Utm>")]
    pub utm: Utm,
    /// The page it came from.
    #[serde(default)]
    pub referrer: Option<String>,
    /// The browser's own words.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// `desktop`, `mobile`, …
    #[serde(default)]
    pub device: Option<String>,
    /// Operating system.
    #[serde(default)]
    pub os: Option<String>,
    /// Browser family.
    #[serde(default)]
    pub browser: Option<String>,
    /// ISO 3166 code.
    #[serde(default)]
    pub country: Option<String>,
    /// Why it is held to be a machine's; null for a person.
    #[serde(default)]
    pub bot: Option<String>,
}

/// The three campaign values that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UtmField {
    /// `utm_source`
    Source,
    /// `utm_campaign`
    Campaign,
    /// `utm_medium`
    Medium,
}

impl UtmField {
    /// All three; the order is that of [`crate::dataflow::plan::UtmProperties`].
    pub const ALL: [UtmField; 3] = [UtmField::Source, UtmField::Campaign, UtmField::Medium];

    /// The click's value.
    pub fn of(self, click: &Click) -> Option<&str> {
        match self {
            UtmField::Source => click.utm.source.as_deref(),
            UtmField::Campaign => click.utm.campaign.as_deref(),
            UtmField::Medium => click.utm.medium.as_deref(),
        }
    }
}

/// One form submission.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Form {
    /// Schema version; 1, or absent.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Unique id within the workspace.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub id: String,
    /// When it was submitted, ms since the epoch.
    #[schemars(range(max = MAX_TS))]
    pub ts: Ms,
    /// Whose form it is.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub workspace: String,
    /// Who filled it in; compared trimmed and in lower case, and kept so.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub email: String,
    /// Facebook's click id, from a field or the page's URL.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub fbclid: Option<String>,
    /// Google's click id, from a field or the page's URL.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub gclid: Option<String>,
}

/// State of a HubSpot contact; the newest wins, a tombstone deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Contact {
    /// Schema version; 1, or absent.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// HubSpot account.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub portal: String,
    /// HubSpot's id of the contact.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub contact_id: String,
    /// Primary e-mail.
    #[serde(default)]
    #[schemars(length(max = MAX_ID))]
    pub email: Option<String>,
    /// Further e-mails of the same person.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Vec<String>>", length(max = MAX_LIST), inner(length(max = MAX_ID)))]
    pub additional_emails: Vec<String>,
    /// Ids of contacts that were merged into this one.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Vec<String>>", length(max = MAX_LIST), inner(length(max = MAX_ID)))]
    pub merged_ids: Vec<String>,
}

/// State of a HubSpot deal; the newest wins, a tombstone deletes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Deal {
    /// Schema version; 1, or absent.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// HubSpot account.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub portal: String,
    /// HubSpot's id of the deal.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub deal_id: String,
    /// Internal id of the pipeline.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub pipeline: String,
    /// Internal id of the stage.
    #[schemars(length(min = 1, max = MAX_ID), regex(pattern = r"\S"))]
    pub stage: String,
    /// Amount in the deal's currency; absent fails a `deal_amount_min` guard.
    #[serde(default)]
    pub amount: Option<f64>,
    /// Associated contacts.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Vec<String>>", length(max = MAX_LIST), inner(length(max = MAX_ID)))]
    pub contact_ids: Vec<String>,
}

fn one() -> u32 {
    1
}

/// In JSON `null` stands for the default. Between processes nothing does: there a record is written as it is.
fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    if !from.is_human_readable() {
        return T::deserialize(from);
    }
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Trimmed and in lower case: the form in which e-mails are compared.
pub fn normal_email(email: &str) -> Cow<'_, str> {
    let trimmed = email.trim();
    if trimmed.chars().any(char::is_uppercase) { Cow::Owned(trimmed.to_lowercase()) } else { Cow::Borrowed(trimmed) }
}

/// A record type that can be read from the bytes of a message or line.
pub trait Input: Sized {
    /// What the record is called in messages.
    const NAME: &'static str;

    /// Reads and checks one record.
    ///
    /// # Errors
    /// A [`Refusal`] with the reason code for the dead letters.
    fn read(bytes: &[u8]) -> Result<Self, Refusal>;
}

/// JSON to record, with the parser's complaint turned into a reason code.
fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Refusal> {
    if bytes.len() > MAX_RECORD {
        return Err(Refusal::new("bounds", format!("a {name} of {} bytes; at most {MAX_RECORD}", bytes.len())));
    }
    // serde would take a list of the fields' values for a record, too.
    let object = bytes.trim_ascii_start().first() == Some(&b'{');
    let no_object = || Refusal::new("field", format!("not a {name}: no JSON object"));
    let record = serde_json::from_slice(bytes).map_err(|error| {
        // A record is one line as a rule, and in a file that line has a number of its own, which is not the parser's.
        let place = match (error.line(), error.column()) {
            (1, column) => format!("column {column}"),
            (line, column) => format!("the record's line {line}, column {column}"),
        };
        match error.classify() {
            // The parser's text names the field, and for a wrong type quotes the value; only the former may be kept.
            serde_json::error::Category::Data if !object => no_object(),
            serde_json::error::Category::Data => {
                Refusal::new("field", format!("not a {name}: {} at {place}", without_values(&error.to_string())))
            }
            _ => Refusal::new("json", format!("not JSON at {place}")),
        }
    })?;
    if object { Ok(record) } else { Err(no_object()) }
}

/// serde's message without quoted input: `missing field `id`` stays, `invalid type: string "ada@…"` loses its value.
fn without_values(message: &str) -> String {
    match message.split_once('"') {
        Some((head, rest)) => {
            let tail = rest.rsplit_once('"').map_or("", |(_, tail)| tail);
            let tail = tail.split(" at line ").next().unwrap_or("");
            format!("{head}…{tail}")
        }
        None => message.split(" at line ").next().unwrap_or(message).to_owned(),
    }
}

struct Check(&'static str);

impl Check {
    fn version(&self, v: u32) -> Result<(), Refusal> {
        if v == 1 { Ok(()) } else { Err(Refusal::new("version", format!("{} of schema version {v}; this build reads version 1", self.0))) }
    }
    fn required(&self, field: &str, value: &str) -> Result<(), Refusal> {
        if value.trim().is_empty() {
            return Err(Refusal::new("field", format!("{}: `{field}` is empty", self.0)));
        }
        self.short(field, value)
    }
    fn short(&self, field: &str, value: &str) -> Result<(), Refusal> {
        if value.len() > MAX_ID {
            return Err(Refusal::new("bounds", format!("{}: `{field}` has {} bytes; at most {MAX_ID}", self.0, value.len())));
        }
        Ok(())
    }
    fn ts(&self, ts: Ms) -> Result<(), Refusal> {
        if ts > MAX_TS {
            return Err(Refusal::new("bounds", format!("{}: `ts` is beyond the year 9999; it is in milliseconds", self.0)));
        }
        Ok(())
    }
    fn list(&self, field: &str, values: &[impl AsRef<str>]) -> Result<(), Refusal> {
        if values.len() > MAX_LIST {
            return Err(Refusal::new("bounds", format!("{}: `{field}` has {} entries; at most {MAX_LIST}", self.0, values.len())));
        }
        values.iter().try_for_each(|value| self.short(field, value.as_ref()))
    }
}

/// An optional id that says nothing is no id.
fn drop_empty(value: &mut Option<String>) {
    if value.as_deref().is_some_and(|v| v.trim().is_empty()) {
        *value = None;
    }
}

impl Input for Click {
    const NAME: &'static str = "click";

    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        read_click(bytes, |click| click.owned())
    }
}

impl Input for PackedClick {
    const NAME: &'static str = Click::NAME;

    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        read_click(bytes, |click| click.packed())
    }
}

fn read_click<T>(bytes: &[u8], keep: impl FnOnce(&ClickView<'_>) -> T) -> Result<T, Refusal> {
    let written = Some(bytes).filter(|bytes| bytes.len() <= MAX_RECORD).and_then(as_written::click);
    match written {
        Some(click) => Ok(keep(&checked(click)?)),
        None => Ok(keep(&checked(ClickView::of(&json_click(bytes)?))?)),
    }
}

/// A click within its bounds, without ids that say nothing.
fn checked(mut click: ClickView<'_>) -> Result<ClickView<'_>, Refusal> {
    let check = Check(Click::NAME);
    check.version(click.v)?;
    check.required("id", click.id)?;
    check.required("workspace", click.workspace)?;
    check.required("link", click.link)?;
    check.ts(click.ts)?;
    check.list("tags", &click.tags)?;
    for (field, id) in
        [("contact_id", &mut click.contact_id), ("deal_id", &mut click.deal_id), ("gclid", &mut click.gclid), ("fbclid", &mut click.fbclid)]
    {
        *id = id.filter(|id| !id.trim().is_empty());
        id.map_or(Ok(()), |id| check.short(field, id))?;
    }
    for utm in [&mut click.source, &mut click.medium, &mut click.campaign, &mut click.term, &mut click.content] {
        *utm = utm.filter(|value| !value.trim().is_empty());
    }
    // A tag named twice is one tag: it must not count twice.
    if click.tags.len() > 1 || click.tags.iter().any(|tag| tag.is_empty()) {
        let mut seen = std::collections::BTreeSet::new();
        click.tags.retain(|tag| !tag.is_empty() && seen.insert(*tag));
    }
    Ok(click)
}

/// A click by the JSON parser, before its fields are checked: for every form that JSON allows.
///
/// # Errors
/// A [`Refusal`] when it is no JSON, or a field is missing or of another type.
pub fn json_click(bytes: &[u8]) -> Result<Click, Refusal> {
    parse(Click::NAME, bytes)
}

impl Input for Form {
    const NAME: &'static str = "form";

    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut form: Form = parse(Self::NAME, bytes)?;
        let check = Check(Self::NAME);
        check.version(form.v)?;
        check.required("id", &form.id)?;
        check.required("workspace", &form.workspace)?;
        check.required("email", &form.email)?;
        check.ts(form.ts)?;
        drop_empty(&mut form.gclid);
        drop_empty(&mut form.fbclid);
        for (field, id) in [("gclid", &form.gclid), ("fbclid", &form.fbclid)] {
            id.as_deref().map_or(Ok(()), |id| check.short(field, id))?;
        }
        form.email = normal_email(&form.email).into_owned();
        Ok(form)
    }
}

impl Input for Contact {
    const NAME: &'static str = "contact";

    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut contact: Contact = parse(Self::NAME, bytes)?;
        let check = Check(Self::NAME);
        check.version(contact.v)?;
        check.required("portal", &contact.portal)?;
        check.required("contact_id", &contact.contact_id)?;
        check.list("additional_emails", &contact.additional_emails)?;
        check.list("merged_ids", &contact.merged_ids)?;
        drop_empty(&mut contact.email);
        if let Some(email) = &mut contact.email {
            check.short("email", email)?;
            *email = normal_email(email).into_owned();
        }
        for email in &mut contact.additional_emails {
            *email = normal_email(email).into_owned();
        }
        contact.additional_emails.retain(|email| !email.is_empty());
        contact.merged_ids.retain(|id| !id.trim().is_empty() && *id != contact.contact_id);
        Ok(contact)
    }
}

impl Input for Deal {
    const NAME: &'static str = "deal";

    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let deal: Deal = parse(Self::NAME, bytes)?;
        let check = Check(Self::NAME);
        check.version(deal.v)?;
        check.required("portal", &deal.portal)?;
        check.required("deal_id", &deal.deal_id)?;
        check.required("pipeline", &deal.pipeline)?;
        check.required("stage", &deal.stage)?;
        check.list("contact_ids", &deal.contact_ids)?;
        Ok(deal)
    }
}

/// The key of a compacted topic, `portal/id`, split at its first slash.
///
/// # Errors
/// `key` when there is no key, it is not UTF-8, or one half is empty: a tombstone without it deletes nothing.
pub fn split_key(key: Option<&[u8]>) -> Result<(&str, &str), Refusal> {
    let wrong = || Refusal::new("key", "a tombstone needs the key `portal/id`");
    let key = std::str::from_utf8(key.ok_or_else(wrong)?).map_err(|_| wrong())?;
    let (portal, id) = key.split_once('/').ok_or_else(wrong)?;
    if portal.is_empty() || id.is_empty() { Err(wrong()) } else { Ok((portal, id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T: Input + std::fmt::Debug>(text: &str) -> &'static str {
        T::read(text.as_bytes()).expect_err("must be refused").reason
    }

    #[test]
    fn the_contract_s_examples_are_read() {
        let click = Click::read(br#"{"v":1,"id":"0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10","ts":1763800000123,"workspace":"acme",
            "link":"s.elido.me/abc123","title":"Q2 pricing PDF","destination":"https://acme.example/pricing.pdf",
            "tags":["sales-collateral"],"deal_id":null,"contact_id":"801","fbclid":null,"gclid":null,
            "utm":{"source":"webinar","medium":"email","campaign":"q2-pricing","term":null,"content":null},
            "referrer":null,"user_agent":"Mozilla/5.0","device":"desktop","os":"macOS","browser":"Safari","country":"FR","bot":null,"new":1}"#).expect("a click");
        assert_eq!(click.contact_id.as_deref(), Some("801"));
        assert_eq!(click.utm.medium.as_deref(), Some("email"));
        let form = Form::read(
            br#"{"v":1,"id":"f-1","ts":1763800100000,"workspace":"acme","email":" Ada@Example.com ","fbclid":null,"gclid":"Cj0KC"}"#,
        )
        .expect("a form");
        assert_eq!(form.email, "ada@example.com");
        let contact = Contact::read(
            br#"{"v":1,"portal":"4242","contact_id":"801","email":"ada@example.com","additional_emails":[],"merged_ids":["77","801"]}"#,
        )
        .expect("a contact");
        assert_eq!(contact.merged_ids, ["77"]);
        let deal = Deal::read(br#"{"v":1,"portal":"4242","deal_id":"9001","pipeline":"default","stage":"appointmentscheduled","amount":12000.0,"contact_ids":["801"]}"#).expect("a deal");
        assert_eq!(deal.amount, Some(12_000.0));
    }

    #[test]
    fn every_refusal_has_its_code() {
        assert_eq!(reason::<Click>("{"), "json");
        assert_eq!(reason::<Click>("[]"), "field");
        assert_eq!(reason::<Click>(r#"[1,"a",1,"w","l"]"#), "field");
        assert_eq!(reason::<Click>(r#"{"id":"a","ts":1,"workspace":"w"}"#), "field");
        assert_eq!(reason::<Click>(r#"{"id":"","ts":1,"workspace":"w","link":"l"}"#), "field");
        assert_eq!(reason::<Click>(r#"{"id":"a","ts":-1,"workspace":"w","link":"l"}"#), "field");
        assert_eq!(reason::<Click>(r#"{"v":2,"id":"a","ts":1,"workspace":"w","link":"l"}"#), "version");
        assert_eq!(reason::<Click>(r#"{"id":"a","ts":1763800000123000,"workspace":"w","link":"l"}"#), "bounds");
        assert_eq!(reason::<Form>(r#"{"id":"a","ts":1,"workspace":"w","email":"  "}"#), "field");
    }

    #[test]
    fn a_refusal_never_quotes_the_record() {
        let refusal = Form::read(br#"{"id":"a","ts":"ada@example.com","workspace":"w","email":"x"}"#).expect_err("wrong type");
        assert!(!refusal.to_string().contains("ada@"), "{refusal}");
    }

    #[test]
    fn nulls_and_repeated_tags_are_harmless() {
        let click = Click::read(br#"{"id":"a","ts":1,"workspace":"w","link":"l","tags":null,"utm":null,"gclid":""}"#).expect("a click");
        assert_eq!((click.tags.len(), click.gclid), (0, None));
        let click = Click::read(br#"{"id":"a","ts":1,"workspace":"w","link":"l","tags":["t","t","u"]}"#).expect("a click");
        assert_eq!(click.tags, ["t", "u"]);
    }

    #[test]
    fn tombstone_keys_name_portal_and_id() {
        assert_eq!(split_key(Some(b"4242/801")), Ok(("4242", "801")));
        for bad in [None, Some(&b"801"[..]), Some(b"/801"), Some(b"4242/"), Some(b"\xff/1")] {
            assert_eq!(split_key(bad).expect_err("bad key").reason, "key");
        }
    }
}
