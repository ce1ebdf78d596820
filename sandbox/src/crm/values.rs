//! Bodies that several CRM calls share.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// Property values of a write. Numbers and booleans become text, null clears like an empty string; HubSpot stores text only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = BTreeMap::<String, Value>::deserialize(deserializer)?;
        raw.into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name, text)),
                Value::Null => Ok((name, String::new())),
                Value::Number(_) | Value::Bool(_) => Ok((name, value.to_string())),
                Value::Array(_) | Value::Object(_) => {
                    Err(serde::de::Error::custom(format!("Cannot deserialize the value of property {name} as a String")))
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// An id, which callers write as text or as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(serde::de::Error::custom(format!("Cannot deserialize {other} as an id"))),
        }
    }
}

/// `{"id": …}`
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ref {
    pub id: Id,
}

/// An association to make together with a record.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NewAssociation {
    pub to: Ref,
    #[serde(default)]
    pub types: Vec<AssociationType>,
}

/// Which kind of association.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AssociationType {
    pub association_category: String,
    pub association_type_id: u64,
}
