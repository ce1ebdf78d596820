//! Submissions: taken from a visitor's browser, and listed for the account.

use super::definitions::{Form, SCOPE, no_form};
use crate::access::Access;
use crate::crm::Kind;
use crate::crm::record::Source;
use crate::crm::schema::Authority;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::portal::{Found, Portal};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

/// Submissions of a page.
const PAGE_MAX: usize = 50;
const PAGE_DEFAULT: usize = 20;
/// Fields of a submission.
const FIELDS_MAX: usize = 1_000;
/// (parameter of the page's address, property that HubSpot fills from it)
const CLICK_IDS: [(&str, &str); 2] = [("gclid", "hs_google_click_id"), ("fbclid", "hs_facebook_click_id")];

/// One submission, as the list shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submission {
    conversion_id: String,
    submitted_at: u64,
    page_url: String,
    values: Vec<FieldValue>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldValue {
    pub name: String,
    pub value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_type_id: Option<String>,
}

/// What a browser sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sent {
    pub fields: Vec<FieldValue>,
    #[serde(default)]
    pub submitted_at: Option<SentTime>,
    #[serde(default)]
    pub context: Context,
}

/// Milliseconds since the Unix epoch, as a number or as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum SentTime {
    Number(u64),
    Text(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    #[serde(default)]
    pub page_uri: Option<String>,
}

impl Submission {
    /// The address of who submitted it, if the form asks for one.
    pub fn email(&self) -> Option<String> {
        self.values.iter().find(|v| v.name == "email").map(|v| v.value.trim().to_lowercase())
    }
}

/// HubSpot's 400 for a submission: every problem with its own type.
fn refuse(problems: &[(String, &str)]) -> ApiError {
    let errors: Vec<Value> = problems.iter().map(|(message, kind)| json!({ "message": message, "errorType": kind })).collect();
    ApiError::bare(StatusCode::BAD_REQUEST, "The request is not valid").with("errors", errors.into())
}

fn check(form: &Form, portal: &Portal, sent: &Sent) -> ApiResult<()> {
    let mut problems = Vec::new();
    if sent.fields.len() > FIELDS_MAX {
        problems.push((format!("A submission may have at most {FIELDS_MAX} fields"), "MAX_NUMBER_OF_SUBMITTED_VALUES_EXCEEDED"));
    }
    for field in &sent.fields {
        if !form.fields.iter().any(|f| f.name == field.name) {
            let message = format!("Error in 'fields.{0}'. Field '{0}' is not in the form's definition", field.name);
            problems.push((message, "FIELD_NOT_IN_FORM_DEFINITION"));
        }
    }
    for field in form.fields.iter().filter(|f| f.required) {
        if !sent.fields.iter().any(|s| s.name == field.name && !s.value.is_empty()) {
            problems.push((format!("Error in 'fields.{0}'. Required field '{0}' is missing", field.name), "REQUIRED_FIELD"));
        }
    }
    let email = sent.fields.iter().find(|f| f.name == "email").map(|f| [("email".to_owned(), f.value.clone())]);
    if email.is_some_and(|values| portal.schema(Kind::Contact).check(&values, Authority::HubSpot).is_err()) {
        problems.push(("Error in 'fields.email'. Invalid email address".into(), "INVALID_EMAIL"));
    }
    if problems.is_empty() { Ok(()) } else { Err(refuse(&problems)) }
}

/// Writes the values on the contact with the address; makes one when there is none. Values that a property does not take are
/// left out, and a form without an address leaves no contact.
fn convert(portal: &mut Portal, submission: &Submission, now: u64) -> ApiResult<()> {
    let Some(email) = submission.email().filter(|e| !e.is_empty()) else { return Ok(()) };
    let known = match portal.find(Kind::Contact, &email, Some("email"))? {
        Found::Live(id) | Found::Merged(id) => Some(id),
        Found::Missing => None,
    };
    let mut values: Vec<(String, String)> = submission.values.iter().map(|v| (v.name.clone(), v.value.clone())).collect();
    if let Ok(page) = Url::parse(&submission.page_url) {
        for (parameter, property) in CLICK_IDS {
            values.extend(page.query_pairs().find(|(n, _)| n == parameter).map(|(_, v)| (property.to_owned(), v.into_owned())));
        }
    }
    let fit = |value: &(String, String)| portal.check(Kind::Contact, known, std::slice::from_ref(value), Authority::HubSpot).is_ok();
    values.retain(fit);
    let checked = portal.check(Kind::Contact, known, &values, Authority::HubSpot)?;
    match known {
        Some(id) => drop(portal.apply(Kind::Contact, id, &checked, Source::Form, now)),
        None => drop(portal.create(Kind::Contact, None, &checked, Source::Form, now)),
    }
    Ok(())
}

impl AppState {
    /// Takes a submission.
    pub fn submit_form(&self, portal: &str, guid: &str, sent: Sent) -> ApiResult<()> {
        let now = self.now();
        let mut world = self.world();
        let portal = world.existing_mut(portal).ok_or_else(|| no_form(guid))?;
        let form = portal.forms.definitions.get(guid).filter(|f| !f.archived).ok_or_else(|| no_form(guid))?;
        check(form, portal, &sent)?;
        let submitted_at = match sent.submitted_at {
            None => now,
            Some(SentTime::Number(ms)) => ms,
            Some(SentTime::Text(text)) => {
                text.parse().map_err(|_| refuse(&[("submittedAt is not a timestamp".into(), "INVALID_METADATA")]))?
            }
        };
        let submission = Submission {
            conversion_id: Uuid::now_v7().to_string(),
            submitted_at,
            page_url: sent.context.page_uri.unwrap_or_default(),
            values: sent.fields,
        };
        convert(portal, &submission, now)?;
        let list = portal.forms.submissions.entry(guid.to_owned()).or_default();
        let at = list.partition_point(|s| s.submitted_at <= submitted_at);
        list.insert(at, submission);
        Ok(())
    }
}

fn thanks() -> Json<Value> {
    Json(json!({ "inlineMessage": "Thanks for submitting the form." }))
}

pub(super) async fn submit(
    State(app): State<AppState>,
    Path((portal, form)): Path<(String, String)>,
    Body(sent): Body<Sent>,
) -> ApiResult<Json<Value>> {
    app.submit_form(&portal, &form, sent)?;
    Ok(thanks())
}

pub(super) async fn submit_with_token(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((portal, form)): Path<(String, String)>,
    Body(sent): Body<Sent>,
) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    if access.portal != portal {
        return Err(no_form(&form));
    }
    app.submit_form(&portal, &form, sent)?;
    Ok(thanks())
}

/// Newest first. The cursor is the number of newer submissions, so one that comes in between shows the last of a page again.
pub(super) async fn list(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(form): Path<String>,
    pairs: Pairs,
) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    let limit = pairs.get("limit").map_or(Ok(PAGE_DEFAULT), str::parse).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let after: usize = match pairs.get("after").filter(|a| !a.is_empty()) {
        Some(after) => after.parse().map_err(|_| ApiError::validation("after is not a paging cursor of this call"))?,
        None => 0,
    };
    let mut world = app.world();
    let forms = &world.portal(&access.portal).forms;
    forms.definitions.get(&form).ok_or_else(|| no_form(&form))?;
    let all = forms.submissions.get(&form).map(Vec::as_slice).unwrap_or_default();
    let results: Vec<&Submission> = all.iter().rev().skip(after).take(limit).collect();
    let mut answer = json!({ "results": results });
    if after + limit < all.len() {
        let next = after + limit;
        let link = format!("https://api.hubapi.com/form-integrations/v1/submissions/forms/{form}?after={next}&limit={limit}");
        answer["paging"] = json!({ "next": { "after": next.to_string(), "link": link } });
    }
    Ok(Json(answer))
}
