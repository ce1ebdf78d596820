//! Whether one schema takes all that another one allows.
//!
//! # Meaning
//! [`refused`] lists why records that `narrow` allows would be refused by `wide`. Fields that `narrow` does not name are taken to be absent: a
//! schema that names a new optional field does not refuse what was written before it.
//!
//! # Soundness
//! The answer "nothing" is only given for keywords that are understood; any other one is reported. Where several variants are allowed
//! (`anyOf`, `oneOf`) each of `narrow`'s must be taken by one of `wide`'s: unions that are equal only as a whole are reported as refused.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

type Object = Map<String, Value>;

/// Says nothing about what is allowed. `format` is an annotation in draft 2020-12; the bounds of numbers are spelled out beside it.
const ANNOTATIONS: [&str; 6] = ["$schema", "title", "description", "default", "format", "examples"];
/// What is compared below.
const UNDERSTOOD: [&str; 16] = [
    "type",
    "const",
    "enum",
    "anyOf",
    "oneOf",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "items",
    "uniqueItems",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
];
const COUNTS: [&str; 2] = ["minItems", "maxItems"];

/// Why records that `narrow` allows would be refused by `wide`: one line per place.
pub fn refused(wide: &Value, narrow: &Value) -> Vec<String> {
    let mut why = Vec::new();
    compare(wide, narrow, "", &mut why);
    // What holds for all variants is said once.
    let mut said = BTreeSet::new();
    why.retain(|line| said.insert(line.clone()));
    why
}

/// Fields that `older` names and `newer` does not, at any depth.
pub fn vanished(older: &Value, newer: &Value) -> Vec<String> {
    let (mut was, mut is) = (BTreeSet::new(), BTreeSet::new());
    fields(older, "", &mut was);
    fields(newer, "", &mut is);
    was.difference(&is).map(|field| format!("{field}: the field is gone")).collect()
}

/// The paths of all fields that a schema names; variants are looked through.
fn fields(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}/{name}");
        fields(field, &path, found);
        found.insert(path);
    }
    for variant in ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten() {
        fields(variant, at, found);
    }
    for (key, inner) in [("items", "[]"), ("additionalProperties", "*")] {
        if let Some(schema) = schema.get(key).filter(|schema| schema.is_object()) {
            fields(schema, &format!("{at}/{inner}"), found);
        }
    }
}

fn compare(wide: &Value, narrow: &Value, at: &str, why: &mut Vec<String>) {
    let say = |what: String| if at.is_empty() { what } else { format!("{at}: {what}") };
    let empty = Object::new();
    let (wide, narrow) = match (wide, narrow) {
        (Value::Bool(true), _) | (_, Value::Bool(false)) => return,
        (Value::Bool(false), _) => return why.push(say("is not taken".to_owned())),
        (Value::Object(wide), Value::Bool(true)) => (wide, &empty),
        (Value::Object(wide), Value::Object(narrow)) => (wide, narrow),
        _ => return why.push(say("is no schema".to_owned())),
    };
    for schema in [wide, narrow] {
        let strange = schema.keys().find(|key| ![&ANNOTATIONS[..], &UNDERSTOOD, &COUNTS].iter().any(|known| known.contains(&key.as_str())));
        if let Some(key) = strange {
            return why.push(say(format!("`{key}` is not understood by this check; teach it")));
        }
    }
    // Each of the narrow one's variants must be taken, by any of the wide one's.
    for key in ["anyOf", "oneOf"] {
        if let Some((rest, variants)) = apart(narrow, key) {
            for variant in variants {
                match both(&rest, variant) {
                    Some(variant) => compare(&Value::Object(wide.clone()), &Value::Object(variant), at, why),
                    None => why.push(say(format!("`{key}` beside its own keywords is not understood by this check"))),
                }
            }
            return;
        }
    }
    for key in ["anyOf", "oneOf"] {
        if let Some((rest, variants)) = apart(wide, key) {
            compare(&Value::Object(rest), &Value::Object(narrow.clone()), at, why);
            let attempts = variants.iter().map(|variant| {
                let mut refused = Vec::new();
                compare(variant, &Value::Object(narrow.clone()), at, &mut refused);
                refused
            });
            let best = attempts.min_by_key(Vec::len).unwrap_or_default();
            if !best.is_empty() {
                why.push(format!("{} (in the variant that comes nearest)", best.join("; ")));
            }
            return;
        }
    }
    values(wide, narrow, &say, why);
    bounds(wide, narrow, &say, why);
    objects(wide, narrow, at, &say, why);
    if let Some(items) = wide.get("items") {
        compare(items, narrow.get("items").unwrap_or(&Value::Bool(true)), &format!("{at}/[]"), why);
    }
}

/// A schema without its variants, and these.
fn apart<'a>(schema: &'a Object, key: &str) -> Option<(Object, &'a Vec<Value>)> {
    let variants = schema.get(key)?.as_array()?;
    let mut rest = schema.clone();
    rest.remove(key);
    Some((rest, variants))
}

/// Both schemas at once, where they do not speak of the same thing.
fn both(one: &Object, other: &Value) -> Option<Object> {
    let mut both = one.clone();
    for (key, value) in other.as_object()? {
        match (both.get_mut(key), value) {
            (None, _) => {
                both.insert(key.clone(), value.clone());
            }
            (Some(_), _) if ANNOTATIONS.contains(&key.as_str()) => {}
            (Some(known), value) if known == value => {}
            (Some(Value::Array(known)), Value::Array(more)) if key == "required" => known.extend(more.iter().cloned()),
            (Some(Value::Object(known)), Value::Object(more)) if key == "properties" => {
                for (name, field) in more {
                    if known.insert(name.clone(), field.clone()).is_some_and(|before| before != *field) {
                        return None;
                    }
                }
            }
            _ => return None,
        }
    }
    Some(both)
}

fn types(schema: &Object) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

/// The values that are listed one by one.
fn listed(schema: &Object) -> Option<Vec<&Value>> {
    schema.get("const").map(|value| vec![value]).or_else(|| schema.get("enum")?.as_array().map(|values| values.iter().collect()))
}

fn values(wide: &Object, narrow: &Object, say: &impl Fn(String) -> String, why: &mut Vec<String>) {
    if let Some(taken) = listed(wide) {
        match listed(narrow) {
            Some(said) => why.extend(said.iter().filter(|value| !taken.contains(value)).map(|value| say(format!("{value} is not taken")))),
            None => why.push(say("only some values are taken".to_owned())),
        }
    }
    if let Some(taken) = types(wide) {
        let said = types(narrow).unwrap_or_else(|| vec!["any type"]);
        let takes = |said: &&str| taken.contains(said) || (*said == "integer" && taken.contains(&"number"));
        why.extend(said.iter().filter(|said| !takes(said)).map(|said| say(format!("{said} is not taken"))));
    }
}

fn bounds(wide: &Object, narrow: &Object, say: &impl Fn(String) -> String, why: &mut Vec<String>) {
    for key in ["minimum", "minLength", "minItems", "maximum", "maxLength", "maxItems"] {
        let Some(bound) = wide.get(key) else { continue };
        let was = narrow.get(key);
        let inside = |was: &Value| match (bound.as_f64(), was.as_f64()) {
            (Some(bound), Some(was)) => {
                if key.starts_with("min") {
                    was >= bound
                } else {
                    was <= bound
                }
            }
            _ => false,
        };
        if !was.is_some_and(inside) {
            why.push(say(format!("{key} is {bound}, was {}", was.map_or_else(|| "not set".to_owned(), Value::to_string))));
        }
    }
    for key in ["pattern", "uniqueItems"] {
        if wide.get(key).is_some_and(|wanted| Some(wanted) != narrow.get(key)) {
            why.push(say(format!("`{key}` is another one")));
        }
    }
}

fn objects(wide: &Object, narrow: &Object, at: &str, say: &impl Fn(String) -> String, why: &mut Vec<String>) {
    let required = |schema: &Object| -> BTreeSet<String> {
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let empty = Object::new();
    let of = |schema: &'_ Object, key: &str| schema.get(key).and_then(Value::as_object).unwrap_or(&empty).clone();
    let (known, said) = (of(wide, "properties"), of(narrow, "properties"));
    why.extend(required(wide).difference(&required(narrow)).map(|name| format!("{at}/{name}: is required")));
    for (name, field) in &said {
        match (known.get(name), wide.get("additionalProperties")) {
            (Some(taken), _) | (None, Some(taken @ Value::Object(_))) => compare(taken, field, &format!("{at}/{name}"), why),
            (None, Some(Value::Bool(false))) => why.push(format!("{at}/{name}: the field is not taken")),
            (None, _) => {}
        }
    }
    match (wide.get("additionalProperties"), narrow.get("additionalProperties")) {
        (None | Some(Value::Bool(true)), _) | (Some(Value::Bool(false)), Some(Value::Bool(false))) => {}
        (Some(Value::Bool(false)), _) => why.push(say("unknown fields are not taken".to_owned())),
        (Some(taken), said) => compare(taken, said.unwrap_or(&Value::Bool(true)), &format!("{at}/*"), why),
    }
    if let Some(taken) = wide.get("patternProperties")
        && Some(taken) != narrow.get("patternProperties")
    {
        why.push(say("`patternProperties` are others".to_owned()));
    }
}
