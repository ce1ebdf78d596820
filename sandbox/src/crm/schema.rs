//! Property definitions of one object type, and the check of values against them.

use super::Kind;
use super::defaults;
use crate::clock::{iso, parse_time};
use crate::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One property definition, as the properties API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Property {
    pub name: String,
    pub label: String,
    #[serde(rename = "type")]
    pub data_type: String,
    pub field_type: String,
    pub group_name: String,
    pub description: String,
    pub options: Vec<PropertyOption>,
    pub display_order: i64,
    pub calculated: bool,
    pub external_options: bool,
    pub has_unique_value: bool,
    pub hidden: bool,
    pub hubspot_defined: bool,
    pub form_field: bool,
    pub archived: bool,
    pub modification_metadata: ModificationMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// What may be changed about a property.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModificationMetadata {
    pub archivable: bool,
    pub read_only_definition: bool,
    pub read_only_options: bool,
    pub read_only_value: bool,
}

/// One choice of an enumeration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PropertyOption {
    pub label: String,
    pub value: String,
    #[serde(default)]
    pub description: String,
    #[serde(default = "minus_one")]
    pub display_order: i64,
    #[serde(default)]
    pub hidden: bool,
}

pub(crate) fn minus_one() -> i64 {
    -1
}

/// A group that properties are shown in.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub name: String,
    pub label: String,
    pub display_order: i64,
    pub archived: bool,
}

/// All definitions of one object type in one portal.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub properties: BTreeMap<String, Property>,
    pub groups: BTreeMap<String, Group>,
}

/// Why a value was refused.
#[derive(Clone, Debug)]
pub(crate) struct Invalid {
    pub name: String,
    pub code: &'static str,
    pub message: String,
}

/// Whether a writer may set what the API shows as read-only: HubSpot itself may, and so may whoever seeds a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Api,
    HubSpot,
}

/// HubSpot's bound on a string value, in characters.
const MAX_VALUE_CHARS: usize = 65_536;

impl Schema {
    /// The definitions a new portal has.
    pub fn new(kind: Kind) -> Self {
        defaults::schema(kind)
    }

    /// Values as they will be stored, or every reason why not.
    pub fn check(&self, values: &[(String, String)], authority: Authority) -> Result<Vec<(String, String)>, Vec<Invalid>> {
        let mut checked = Vec::with_capacity(values.len());
        let mut invalid = Vec::new();
        for (name, value) in values {
            match self.check_one(name, value, authority) {
                Ok(value) => checked.push((name.clone(), value)),
                Err((code, message)) => invalid.push(Invalid { name: name.clone(), code, message }),
            }
        }
        if invalid.is_empty() { Ok(checked) } else { Err(invalid) }
    }

    fn check_one(&self, name: &str, value: &str, authority: Authority) -> Result<String, (&'static str, String)> {
        let Some(property) = self.properties.get(name).filter(|p| !p.archived) else {
            return Err(("PROPERTY_DOESNT_EXIST", format!("Property \"{name}\" does not exist")));
        };
        if property.modification_metadata.read_only_value && authority == Authority::Api {
            return Err(("READ_ONLY_VALUE", format!("\"{name}\" is a read only property; its value cannot be set.")));
        }
        if value.is_empty() {
            return Ok(String::new());
        }
        match property.data_type.as_str() {
            "number" => match value.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(value.to_owned()),
                _ => Err(("INVALID_NUMBER", format!("{value} was not a valid number."))),
            },
            "datetime" => parse_time(value).map(iso).ok_or_else(|| ("INVALID_DATE", format!("{value} was not a valid date."))),
            "date" => parse_time(value)
                .map(|ms| iso(ms).split('T').next().unwrap_or_default().to_owned())
                .ok_or_else(|| ("INVALID_DATE", format!("{value} was not a valid date."))),
            "bool" | "enumeration" if !property.external_options => {
                // Checkboxes hold several choices, separated by semicolons.
                let several = property.field_type == "checkbox";
                let choices: Vec<&str> = if several { value.split(';').filter(|c| !c.is_empty()).collect() } else { vec![value] };
                match choices.iter().find(|choice| !property.options.iter().any(|o| o.value == **choice)) {
                    None => Ok(value.to_owned()),
                    Some(choice) => {
                        let allowed: Vec<&str> = property.options.iter().map(|o| o.value.as_str()).collect();
                        Err(("INVALID_OPTION", format!("{choice} was not one of the allowed options: [{}]", allowed.join(", "))))
                    }
                }
            }
            _ if name == "email" && !looks_like_email(value) => Err(("INVALID_EMAIL", format!("Email address {value} is invalid"))),
            // HubSpot stores addresses in lower case.
            _ if name == "email" => Ok(value.trim().to_lowercase()),
            _ if value.chars().count() > MAX_VALUE_CHARS => {
                Err(("PROPERTY_VALUE_TOO_LONG", format!("Property \"{name}\" is longer than {MAX_VALUE_CHARS} characters")))
            }
            _ => Ok(value.to_owned()),
        }
    }

    /// Whether records can be addressed by this property.
    pub fn unique(&self, name: &str) -> bool {
        self.properties.get(name).is_some_and(|p| p.has_unique_value && !p.archived)
    }
}

fn looks_like_email(value: &str) -> bool {
    let value = value.trim();
    match value.rsplit_once('@') {
        Some((user, domain)) => {
            !user.is_empty()
                && !user.contains('@')
                && domain.contains('.')
                && domain.split('.').all(|label| !label.is_empty())
                && !value.chars().any(char::is_whitespace)
        }
        None => false,
    }
}

/// HubSpot's 400 for refused values. Two shapes are in use, and this keeps both: unknown properties and bad values come as a
/// JSON array inside `message`; read-only ones (only when nothing else is wrong) come as `errors`.
pub(crate) fn validation_error(invalid: &[Invalid]) -> ApiError {
    let (read_only, wrong): (Vec<_>, Vec<_>) = invalid.iter().partition(|i| i.code == "READ_ONLY_VALUE");
    if wrong.is_empty() {
        let message = read_only.iter().map(|i| i.message.as_str()).collect::<Vec<_>>().join(" ");
        let details: Vec<Value> =
            read_only.iter().map(|i| json!({ "message": i.message, "code": i.code, "context": { "propertyName": [i.name] } })).collect();
        return ApiError::validation(message).with("errors", details.into());
    }
    let list: Vec<Value> =
        wrong.iter().map(|i| json!({ "isValid": false, "message": i.message, "error": i.code, "name": i.name })).collect();
    ApiError::validation(format!("Property values were not valid: {}", Value::Array(list)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<String, &'static str> {
        let values = [(name.to_owned(), value.to_owned())];
        let outcome = Schema::new(Kind::Contact).check(&values, Authority::Api);
        outcome.map(|mut v| v.remove(0).1).map_err(|e| e[0].code)
    }

    #[test]
    fn values_are_checked_by_type() {
        assert_eq!(check("email", " Ada@Example.com "), Ok("ada@example.com".into()));
        assert_eq!(check("email", "ada"), Err("INVALID_EMAIL"));
        assert_eq!(check("lifecyclestage", "lead"), Ok("lead".into()));
        assert_eq!(check("lifecyclestage", "leed"), Err("INVALID_OPTION"));
        assert_eq!(check("nosuch", "x"), Err("PROPERTY_DOESNT_EXIST"));
        assert_eq!(check("hs_analytics_source_data_1", "x"), Err("READ_ONLY_VALUE"));
        assert_eq!(check("firstname", ""), Ok(String::new()));
    }
}
