//! Form definitions: list, read, create, archive.

use crate::access::Access;
use crate::clock::iso;
use crate::crm::Kind;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Forms of a page.
const PAGE_MAX: usize = 100;
const PAGE_DEFAULT: usize = 20;
pub(super) const SCOPE: &[&str] = &["forms"];

/// One form.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub guid: String,
    pub name: String,
    pub fields: Vec<Field>,
    pub archived: bool,
    created_at: u64,
    updated_at: u64,
}

/// One field of a form.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Field {
    /// A property of contacts.
    pub name: String,
    #[serde(default)]
    pub label: String,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub hidden: bool,
}

impl Form {
    /// A new form; one whose fields are no properties of contacts is refused by who calls.
    pub fn new(guid: Option<&str>, name: &str, fields: Vec<Field>, now: u64) -> Self {
        let guid = guid.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        Self { guid, name: name.to_owned(), fields, archived: false, created_at: now, updated_at: now }
    }

    fn show(&self) -> Value {
        let fields = self.fields.iter().map(|field| {
            let mut shown = json!({
                "objectTypeId": Kind::Contact.type_id(), "name": field.name, "label": field.label, "required": field.required,
                "hidden": field.hidden, "dependentFields": [], "fieldType": "single_line_text",
            });
            if field.name == "email" {
                shown["fieldType"] = "email".into();
                shown["validation"] = json!({ "blockedEmailDomains": [], "useDefaultBlockList": false });
            }
            json!({ "groupType": "default_group", "richTextType": "text", "fields": [shown] })
        });
        let fields: Vec<Value> = fields.collect();
        let mut shown = json!({
            "id": self.guid, "name": self.name, "formType": "hubspot", "archived": self.archived, "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at), "fieldGroups": fields,
            "configuration": {
                "language": "en", "cloneable": true, "editable": true, "archivable": true, "recaptchaEnabled": false, "notifyContactOwner": false,
                "notifyRecipients": [], "createNewContactForNewEmail": true, "prePopulateKnownValues": true, "allowLinkToResetKnownValues": false,
                "lifecycleStages": [], "postSubmitAction": { "type": "thank_you", "value": "Thanks for submitting the form." },
            },
            "displayOptions": {
                "renderRawHtml": false, "theme": "default_style", "submitButtonText": "Submit",
                "style": {
                    "fontFamily": "arial", "backgroundWidth": "100%", "labelTextColor": "#000000", "labelTextSize": "13px", "helpTextColor": "#7C98B6",
                    "helpTextSize": "11px", "legalConsentTextColor": "#33475b", "legalConsentTextSize": "14px", "submitColor": "#ff7a59",
                    "submitAlignment": "left", "submitFontColor": "#FFFFFF", "submitSize": "12px",
                },
            },
            "legalConsentOptions": { "type": "none" },
        });
        if self.archived {
            shown["archivedAt"] = iso(self.updated_at).into();
        }
        shown
    }
}

pub(super) fn no_form(guid: &str) -> ApiError {
    ApiError::not_found(format!("No form found with ID {guid}"))
}

type S = State<AppState>;
type A = Extension<Access>;

pub(super) async fn list(State(app): S, Extension(access): A, pairs: Pairs) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    let limit = pairs.get("limit").map_or(Ok(PAGE_DEFAULT), str::parse).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let (after, archived) = (pairs.get("after").unwrap_or_default(), pairs.flag("archived"));
    let mut world = app.world();
    let forms = &world.portal(&access.portal).forms.definitions;
    let mut from = forms.values().filter(|f| f.archived == archived && f.guid.as_str() > after);
    let page: Vec<&Form> = from.by_ref().take(limit).collect();
    let mut answer = json!({ "results": page.iter().map(|f| f.show()).collect::<Vec<_>>() });
    if let (Some(last), Some(_)) = (page.last(), from.next()) {
        answer["paging"] = json!({ "next": { "after": last.guid } });
    }
    Ok(Json(answer))
}

pub(super) async fn read(State(app): S, Extension(access): A, Path(guid): Path<String>, pairs: Pairs) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    let mut world = app.world();
    let found = world.portal(&access.portal).forms.definitions.get(&guid).filter(|f| f.archived == pairs.flag("archived"));
    found.map(|f| Json(f.show())).ok_or_else(|| no_form(&guid))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewForm {
    name: String,
    field_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    fields: Vec<Field>,
}

/// Keeps the name and the fields; how a form looks is not kept.
pub(super) async fn create(State(app): S, Extension(access): A, Body(new): Body<NewForm>) -> ApiResult {
    access.any_of(SCOPE)?;
    let fields = new.field_groups.into_iter().flat_map(|g| g.fields).collect();
    let form = app.put_form(&access.portal, None, &new.name, fields)?;
    Ok((StatusCode::CREATED, Json(form.show())).into_response())
}

pub(super) async fn archive(State(app): S, Extension(access): A, Path(guid): Path<String>) -> ApiResult<StatusCode> {
    access.any_of(SCOPE)?;
    let now = app.now();
    let mut world = app.world();
    let found = world.portal(&access.portal).forms.definitions.get_mut(&guid).filter(|f| !f.archived).ok_or_else(|| no_form(&guid))?;
    found.archived = true;
    found.updated_at = now;
    Ok(StatusCode::NO_CONTENT)
}

impl AppState {
    /// Makes a form.
    pub fn put_form(&self, portal: &str, guid: Option<&str>, name: &str, fields: Vec<Field>) -> ApiResult<Form> {
        let now = self.now();
        let mut world = self.world();
        let portal = crate::seed::open(&mut world, portal)?;
        let known = &portal.schema(Kind::Contact).properties;
        if let Some(unknown) = fields.iter().find(|f| !known.contains_key(&f.name)) {
            return Err(ApiError::validation(format!("The field {} is no property of contacts", unknown.name)));
        }
        let form = Form::new(guid, name, fields, now);
        if portal.forms.definitions.contains_key(&form.guid) {
            return Err(ApiError::conflict(format!("A form {} already exists", form.guid)));
        }
        portal.forms.definitions.insert(form.guid.clone(), form.clone());
        Ok(form)
    }
}
