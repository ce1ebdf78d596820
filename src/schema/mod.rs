//! The JSON Schema of every topic, made from the types that read and write its records.
//!
//! # Meaning
//! A [`Document`] says what a record of a topic may look like (draft 2020-12, no references). Who it binds depends on the topic's
//! [`Role`]: what the job reads is described as it is taken, what it writes as it is written. Fields that a schema does not name are
//! allowed everywhere: readers pass over them.
//!
//! # Compatibility
//! `docs/schemas/*.json` are what this build says, `docs/schemas/published/*.json` what the last release said. [`Document::breaks`] holds
//! the first against the second; `tests/schemas.rs` refuses what would break a producer, a reader, or the job's own next start.
//!
//! # Limits
//! Lengths are bytes for the job and characters for a schema, so a schema takes some texts beyond ASCII that the job refuses. Tombstones
//! have no value, hence no schema.

mod compat;

use crate::kafka::Topics;
use crate::model::outputs::{ContactProperties, Count, DeadLetter, DealStage, State, TimelineEvent, Unresolved};
use crate::model::{Click, Contact, Deal, Form};
use crate::sinks::outbox::Progress;
use crate::sources::kafka::reached::Reached;
use crate::sources::{crm, forms};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Who writes a topic, and who must not be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Others write it too: what they write today must be taken tomorrow.
    Input,
    /// The job writes it and others read it: what they read today must be there tomorrow. The job reads some of it back.
    Output,
    /// The job's own notes, which its next version must be able to read.
    Own,
}

impl Role {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Role::Input => "in",
            Role::Output => "out",
            Role::Own => "own",
        }
    }
}

/// A topic's schema.
#[derive(Clone, Debug)]
pub struct Document {
    /// The topic, by its default name.
    pub topic: String,
    /// Who writes it.
    pub role: Role,
    /// What a record looks like: as it is taken for an input and a note, as it is written for an output.
    pub schema: Value,
    /// What this build takes when it reads the topic itself.
    reads: Value,
}

/// Either kind of note in the topic of the sources.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is wanted; each source reads and writes its own kind")]
enum SourceNote {
    /// How far an account's mirror has come; key `crm/PORTAL`.
    Account(crm::Cursor),
    /// How far a form has been read; key `forms/PORTAL/FORM`.
    Form(forms::Cursor),
}

/// Either kind of note in the topic of the job's own.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is wanted; the outbox tells them apart")]
enum JobNote {
    /// How something stood.
    State(State),
    /// When a record was taken; key `reached/TOPIC/PARTITION/OFFSET`.
    Reached(Reached),
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true)
}

fn read<T: JsonSchema>() -> Value {
    settings().for_deserialize().into_generator().into_root_schema_for::<T>().to_value()
}

fn written<T: JsonSchema>() -> Value {
    settings().for_serialize().into_generator().into_root_schema_for::<T>().to_value()
}

fn input(topic: String, schema: Value) -> Document {
    Document { topic, role: Role::Input, reads: schema.clone(), schema }
}

fn output<T: JsonSchema>(topic: String) -> Document {
    Document { topic, role: Role::Output, schema: written::<T>(), reads: read::<T>() }
}

fn own<T: JsonSchema>(topic: String) -> Document {
    Document { topic, role: Role::Own, schema: read::<T>(), reads: read::<T>() }
}

/// Every topic's, in the order of `docs/topics.md`.
pub fn all() -> Vec<Document> {
    // Without `..`: a topic that is added needs a schema.
    let Topics {
        clicks,
        forms,
        contacts,
        deals,
        links,
        progress,
        state,
        sources,
        changes,
        timeline,
        contact_properties,
        deal_stages,
        unresolved,
        counts,
        dead_letters,
    } = Topics::default();
    vec![
        input(clicks, read::<Click>()),
        input(forms, read::<Form>()),
        input(contacts, read::<Contact>()),
        input(deals, read::<Deal>()),
        input(links, clickline_redirect::link_schema(settings())),
        output::<TimelineEvent>(timeline),
        output::<ContactProperties>(contact_properties),
        output::<DealStage>(deal_stages),
        output::<Unresolved>(unresolved),
        output::<Count>(counts),
        output::<DeadLetter>(dead_letters),
        own::<Progress>(progress),
        own::<SourceNote>(sources),
        own::<crm::Hints>(changes),
        own::<JobNote>(state),
    ]
}

impl Document {
    /// The name of its file.
    pub fn file(&self) -> String {
        format!("{}.json", self.topic)
    }

    /// The schema as its file holds it.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.schema)
    }

    /// What this build would break for somebody who relies on an older schema of the topic; nothing when only additions were made.
    ///
    /// - An input must take every record that it took, and still know every field.
    /// - An output's records must be such as its readers know: no field, value or type that they would not take, none missing. What the
    ///   topic still holds from before must be readable for the job.
    /// - A note must be readable.
    pub fn breaks(&self, older: &Value) -> Vec<String> {
        let mut breaks = compat::vanished(older, &self.schema);
        if self.role == Role::Output {
            breaks.extend(compat::refused(older, &self.schema).iter().map(|what| format!("readers: {what}")));
        }
        breaks.extend(compat::refused(&self.reads, older).iter().map(|what| format!("records from before: {what}")));
        breaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_schema_is_understood_and_breaks_nothing_of_its_own() {
        for document in all() {
            assert_eq!(document.breaks(&document.schema), Vec::<String>::new(), "{}", document.topic);
        }
    }

    /// The document of a topic as it would be after a change.
    fn changed(topic: &str, change: impl Fn(&mut Value)) -> (Document, Value) {
        let mut document = all().into_iter().find(|document| document.topic == topic).expect("a topic");
        let older = document.schema.clone();
        change(&mut document.schema);
        change(&mut document.reads);
        (document, older)
    }

    fn broken(topic: &str, change: impl Fn(&mut Value)) -> Vec<String> {
        let (document, older) = changed(topic, change);
        document.breaks(&older)
    }

    fn without(schema: &mut Value, field: &str) {
        schema["properties"].as_object_mut().expect("fields").remove(field).expect("it was there");
        schema["required"].as_array_mut().expect("a list").retain(|name| name != field);
    }

    #[test]
    fn additions_break_nothing() {
        for topic in ["clicks", "hubspot.deal-stages", "clickline.state"] {
            assert_eq!(broken(topic, |schema| schema["properties"]["more"] = json!({"type": ["string", "null"]})), Vec::<String>::new());
        }
        // A new field that is always written is news to readers, and no more; the job does not insist on it.
        let (mut document, older) = changed("clicks.counts", |_| {});
        document.schema["properties"]["more"] = json!({"type": "string"});
        document.schema["required"].as_array_mut().expect("a list").push(json!("more"));
        assert_eq!(document.breaks(&older), Vec::<String>::new());
        // An input may take more than it did, an output may promise more.
        assert_eq!(broken("forms", |schema| schema["properties"]["email"]["type"] = json!(["string", "null"])), Vec::<String>::new());
        assert_eq!(broken("forms", |schema| schema["required"] = json!(["id", "ts"])), Vec::<String>::new());
    }

    #[test]
    fn breaks_of_producers_are_named() {
        assert_eq!(broken("clicks", |schema| without(schema, "gclid")), ["/gclid: the field is gone"]);
        assert_eq!(
            broken("forms", |schema| schema["required"].as_array_mut().expect("a list").push(json!("gclid"))),
            ["records from before: /gclid: is required"]
        );
        assert_eq!(
            broken("crm.deals", |schema| schema["properties"]["amount"]["type"] = json!("number")),
            ["records from before: /amount: null is not taken"]
        );
        assert_eq!(
            broken("forms", |schema| schema["properties"]["id"]["maxLength"] = json!(36)),
            ["records from before: /id: maxLength is 36, was 1024"]
        );
        assert_eq!(
            broken("clicks", |schema| schema["additionalProperties"] = json!(false)),
            ["records from before: unknown fields are not taken"]
        );
    }

    #[test]
    fn breaks_of_readers_are_named() {
        assert_eq!(
            broken("clicks.counts", |schema| without(schema, "count")),
            ["/count: the field is gone", "readers: /count: is required"]
        );
        let absent = |schema: &mut Value| schema["required"].as_array_mut().expect("a list").retain(|name| name != "count");
        assert_eq!(broken("clicks.counts", absent), ["readers: /count: is required"]);
        assert_eq!(
            broken("clicks.counts", |schema| schema["properties"]["count"]["type"] = json!(["integer", "null"])),
            ["readers: /count: null is not taken"]
        );
        // Narrower for readers, but the topic still holds what was written before.
        assert_eq!(
            broken("clicks.counts", |schema| schema["properties"]["count"]["minimum"] = json!(1)),
            ["records from before: /count: minimum is 1, was 0"]
        );
        assert_eq!(
            broken("hubspot.deal-stages", |schema| schema["properties"]["guard"]["properties"]["deal_amount_min"]["type"] =
                json!("string"))[0],
            "readers: /guard/deal_amount_min: string is not taken"
        );
        // A third way to find a person is a value that today's readers do not know.
        let third = |schema: &mut Value| {
            let ways = schema["properties"]["found"]["oneOf"].as_array_mut().expect("ways");
            ways.push(json!({"type": "object", "properties": {"by": {"type": "string", "const": "phone"}}, "required": ["by"]}));
        };
        assert_eq!(broken("hubspot.timeline", third).len(), 1, "{:?}", broken("hubspot.timeline", third));
    }

    #[test]
    fn breaks_of_the_next_start_are_named() {
        assert_eq!(
            broken("clickline.progress", |schema| schema["required"].as_array_mut().expect("a list").push(json!("offsets"))),
            ["records from before: /offsets: is required"]
        );
    }

    #[test]
    fn what_the_check_does_not_understand_is_no_pass() {
        let unknown = broken("forms", |schema| schema["properties"]["id"]["contentEncoding"] = json!("base64"));
        assert_eq!(unknown, ["records from before: /id: `contentEncoding` is not understood by this check; teach it"]);
    }
}
