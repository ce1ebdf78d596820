//! What an answer of HubSpot's means: what to do now.
//!
//! Pure. The table, first match wins:
//!
//! | answer | outcome |
//! | --- | --- |
//! | 2xx | [`Outcome::Done`]; the body may list failures of single records, see [`item_errors`] |
//! | 401 | [`Outcome::Unauthorized`]: refresh once |
//! | 403 | [`Outcome::Forbidden`]: a matter of configuration; nothing is given up |
//! | 429, 477 | [`Outcome::Throttled`]: the account's budget waits, the retry count stays |
//! | 408, 423, 5xx, 3xx, no answer | [`Outcome::Transient`]: again later; the write may have happened |
//! | no connection: DNS, refused, packets that nobody answers, certificates | [`Outcome::Unsent`]: the account's budget waits, the retry count stays |
//! | 409, or 400 "already in use" | [`Outcome::Exists`] |
//! | 404 with an error of HubSpot's | [`Outcome::NotFound`] |
//! | any other 404 | [`Outcome::Transient`]: a proxy, or a path that HubSpot does not serve; it says nothing of a record |
//! | 410 | [`Outcome::Retired`]: a matter of configuration; nothing is given up |
//! | any other 4xx | [`Outcome::Refused`]: for good |
//!
//! Every field of an error body is optional, and the body may be no JSON at all.

use super::daily::ASK_AGAIN;
use crate::http::{Answer, NoAnswer};
use crate::model::time::Ms;
use serde_json::Value;
use std::time::Duration;

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done, as far as the answer's `errors` don't say otherwise.
    Done(Value),
    /// HubSpot has this already.
    Exists,
    /// The record does not exist, or no longer.
    NotFound(Refusal),
    /// HubSpot no longer serves this part of its API: another version of it must be set.
    Retired,
    /// HubSpot will never take this.
    Refused(Refusal),
    /// Too many requests: nothing may be sent for this long.
    Throttled(Pause),
    /// The access token is not accepted.
    Unauthorized,
    /// The app may not do this; the scopes that are missing, where HubSpot names them.
    Forbidden(Vec<String>),
    /// The connection to this account is broken until somebody installs the app again.
    Disconnected,
    /// It may work later, and may have worked already. Not before this pause, where the answer asks for one.
    Transient(String, Option<Duration>),
    /// HubSpot has seen nothing of the request: no connection, no access token. No record is at fault, and none is given up for it. Not
    /// before this pause, where one is known.
    Unsent(String, Option<Duration>),
}

impl Outcome {
    /// What an exchange that ended at `now` means.
    pub fn of(answer: Result<Answer, NoAnswer>, now: Ms) -> Outcome {
        match answer {
            Ok(answer) => classify(answer.status, answer.retry_after(now), &answer.body),
            Err(NoAnswer::Unsent(why)) => Outcome::Unsent(why, None),
            Err(NoAnswer::Lost(why)) => Outcome::Transient(why, None),
        }
    }
}

/// How long nothing may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// HubSpot does not say.
    Unsaid,
    /// This long.
    For(Duration),
    /// Until the account's day ends: its daily limit is reached.
    Day,
}

impl Pause {
    /// The pause, for those who can't know when the account's day ends; `unsaid` where HubSpot does not say.
    pub fn or(self, unsaid: Duration) -> Duration {
        match self {
            Pause::Unsaid => unsaid,
            Pause::For(pause) => pause,
            Pause::Day => ASK_AGAIN,
        }
    }
}

/// Why HubSpot refuses something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status; 0 for one record of a batch.
    pub status: u16,
    /// HubSpot's category, such as `VALIDATION_ERROR`; empty where there is none.
    pub category: String,
    /// HubSpot's words; may quote what was sent, so they go to the dead letter only, without e-mail addresses.
    pub message: String,
    /// Properties that HubSpot names, each with its code.
    pub properties: Vec<(String, String)>,
    /// What HubSpot's support asks for.
    pub correlation_id: String,
}

impl Refusal {
    /// For logs: nothing of it was sent by us.
    pub fn brief(&self) -> String {
        let Refusal { status, category, correlation_id, .. } = self;
        // Of one record of a batch HubSpot says neither a status nor an id.
        let status = Some(status.to_string()).filter(|_| *status != 0);
        let category = Some(category.clone()).filter(|category| !category.is_empty());
        let id = Some(format!("(correlation id {correlation_id})")).filter(|_| !correlation_id.is_empty());
        let parts: Vec<String> = status.into_iter().chain(category).chain(id).collect();
        if parts.is_empty() { "an error".to_owned() } else { parts.join(" ") }
    }

    /// For dead letters: with HubSpot's words.
    pub fn detail(&self) -> String {
        let mut words = String::new();
        for word in self.message.split_whitespace() {
            let address = word.contains('@') || word.contains("%40");
            let word = if address { "***" } else { word };
            if words.len() + word.len() > 400 {
                words.push_str(" …");
                break;
            }
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
        format!("HubSpot answered {}: {words}", self.brief())
    }
}

/// An error of one record in the answer to a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemError {
    /// The trace ids that it names: places in the batch, which are not to be taken for ids of records.
    pub trace: Vec<String>,
    /// Whatever else it says it is about: record ids, event ids, addresses.
    pub about: Vec<String>,
    /// What it means for that record.
    pub outcome: Outcome,
}

/// A codes' property is refused for every record alike: it is not there, or not ours to write.
pub fn refused_everywhere(code: &str) -> bool {
    matches!(code, "PROPERTY_DOESNT_EXIST" | "READ_ONLY_VALUE")
}

/// Reads an answer. `after` is what its header `Retry-After` asks for.
pub fn classify(status: u16, after: Option<Duration>, body: &[u8]) -> Outcome {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let value = json.as_ref().unwrap_or(&Value::Null);
    match status {
        200..=299 if body.iter().all(u8::is_ascii_whitespace) => Outcome::Done(Value::Null),
        200..=299 => json.map_or_else(|| Outcome::Transient("a success that is no JSON".to_owned(), after), Outcome::Done),
        401 => Outcome::Unauthorized,
        403 => Outcome::Forbidden(missing_scopes(value)),
        429 => Outcome::Throttled(after.map_or_else(|| policy_pause(value), Pause::For)),
        477 => Outcome::Throttled(Pause::For(after.unwrap_or(Duration::from_secs(60)))),
        423 => Outcome::Transient("423 locked".to_owned(), Some(after.unwrap_or_default().max(Duration::from_secs(2)))),
        404 if is_error(value) => Outcome::NotFound(refusal(status, value)),
        404 => Outcome::Transient("a 404 that is not HubSpot's word on a record".to_owned(), after),
        410 => Outcome::Retired,
        409 => Outcome::Exists,
        400 if already_there(value) => Outcome::Exists,
        408 | 500..=599 | 300..=399 | 100..=199 => Outcome::Transient(format!("status {status}"), after),
        _ => Outcome::Refused(refusal(status, value)),
    }
}

/// Whether a body is an error as HubSpot writes it, and not a proxy's.
fn is_error(value: &Value) -> bool {
    string(value, "status") == "error" || !string(value, "category").is_empty() || value.get("correlationId").is_some()
}

/// The failures that the answer to a batch lists, whatever its status.
pub fn item_errors(body: &Value) -> Vec<ItemError> {
    let errors = body.get("errors").and_then(Value::as_array);
    errors.into_iter().flatten().map(item_error).collect()
}

fn item_error(error: &Value) -> ItemError {
    let refusal = refusal(0, error);
    let outcome = match refusal.category.as_str() {
        _ if already_there(error) => Outcome::Exists,
        "CONFLICT" | "OBJECT_ALREADY_EXISTS" => Outcome::Exists,
        "OBJECT_NOT_FOUND" => Outcome::NotFound(refusal),
        "RATE_LIMITS" => Outcome::Throttled(Pause::Unsaid),
        "MISSING_SCOPES" => Outcome::Forbidden(missing_scopes(error)),
        "INTERNAL_ERROR" => Outcome::Transient("an internal error for one record".to_owned(), None),
        _ => Outcome::Refused(refusal),
    };
    let (mut trace, mut about) = (Vec::new(), Vec::new());
    for (name, values) in error.get("context").and_then(Value::as_object).into_iter().flatten() {
        let named = if name == "objectWriteTraceId" { &mut trace } else { &mut about };
        named.extend(values.as_array().into_iter().flatten().filter_map(text));
    }
    ItemError { trace, about, outcome }
}

/// The error of the record at a place of the batch: the one with its trace id, else the one that names it.
pub fn error_of<'a>(errors: &'a [ItemError], place: usize, key: &str) -> Option<&'a ItemError> {
    let place = place.to_string();
    let traced = errors.iter().find(|error| error.trace.contains(&place));
    traced.or_else(|| errors.iter().find(|error| error.about.iter().any(|id| id == key)))
}

/// The value of an id, which HubSpot writes as text or as a number.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn string(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn already_there(value: &Value) -> bool {
    let message = string(value, "message").to_ascii_lowercase();
    message.contains("already in use") || message.contains("already exist")
}

fn policy_pause(value: &Value) -> Pause {
    match value.get("policyName").and_then(Value::as_str) {
        Some("TEN_SECONDLY_ROLLING") => Pause::For(Duration::from_secs(10)),
        Some("SECONDLY") => Pause::For(Duration::from_secs(1)),
        Some("DAILY") => Pause::Day,
        _ => Pause::Unsaid,
    }
}

fn missing_scopes(value: &Value) -> Vec<String> {
    let errors = value.get("errors").and_then(Value::as_array);
    let named = errors.into_iter().flatten().filter_map(|e| e.pointer("/context/requiredGranularScopes")?.as_array());
    named.flatten().filter_map(text).collect()
}

fn refusal(status: u16, value: &Value) -> Refusal {
    let mut message = string(value, "message");
    let mut properties = Vec::new();
    for error in value.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let code = string(error, "code");
        let names = error.pointer("/context/propertyName").and_then(Value::as_array);
        properties.extend(names.into_iter().flatten().filter_map(text).map(|name| (name, code.clone())));
        if message.is_empty() {
            message = string(error, "message");
        }
    }
    if properties.is_empty() {
        properties = named_in(&message);
    }
    Refusal { status, category: string(value, "category"), message, properties, correlation_id: string(value, "correlationId") }
}

/// The properties of `Property values were not valid: [{"error":"PROPERTY_DOESNT_EXIST","name":"missing",…}]`.
fn named_in(message: &str) -> Vec<(String, String)> {
    let Some(at) = message.find("[{") else { return Vec::new() };
    let Ok(Some(list)) = serde_json::Deserializer::from_str(&message[at..]).into_iter::<Vec<Value>>().next().transpose() else {
        return Vec::new();
    };
    list.iter().map(|e| (string(e, "name"), string(e, "error"))).filter(|(name, _)| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(status: u16, body: &Value) -> Outcome {
        classify(status, None, body.to_string().as_bytes())
    }

    #[test]
    fn throttling_says_how_long() {
        let body =
            |policy: &str| json!({"status":"error","message":"You have reached your limit.","errorType":"RATE_LIMIT","policyName":policy});
        assert_eq!(of(429, &body("TEN_SECONDLY_ROLLING")), Outcome::Throttled(Pause::For(Duration::from_secs(10))));
        assert_eq!(of(429, &body("SECONDLY")), Outcome::Throttled(Pause::For(Duration::from_secs(1))));
        assert_eq!(of(429, &body("OTHER")), Outcome::Throttled(Pause::Unsaid));
        assert_eq!(of(429, &body("DAILY")), Outcome::Throttled(Pause::Day));
        // As long as the pause between two looks whether the day is over, and yet not until the day's end.
        let after = Some(Duration::from_secs(900));
        assert_eq!(classify(429, after, b"{}"), Outcome::Throttled(Pause::For(Duration::from_secs(900))));
        assert_eq!(classify(429, after, b"<html>"), Outcome::Throttled(Pause::For(Duration::from_secs(900))));
        assert_eq!(classify(477, after, b""), Outcome::Throttled(Pause::For(Duration::from_secs(900))));
        assert_eq!(classify(477, None, b""), Outcome::Throttled(Pause::For(Duration::from_secs(60))));
    }

    #[test]
    fn every_failure_has_its_own_consequence() {
        let error = json!({"status":"error","category":"SOMETHING","correlationId":"x","message":"y"});
        let consequence = |status: u16| match of(status, &error) {
            Outcome::Done(_) => "done",
            Outcome::Exists => "there already",
            Outcome::Refused(_) => "dead letter",
            Outcome::NotFound(_) => "looked up again",
            Outcome::Unauthorized => "refresh",
            Outcome::Forbidden(_) | Outcome::Retired => "suspend",
            Outcome::Throttled(_) => "pause",
            Outcome::Transient(..) => "again",
            Outcome::Unsent(..) => "never an answer's meaning",
            Outcome::Disconnected => "wait",
        };
        let table: [(&str, &[u16]); 8] = [
            ("done", &[200, 201, 204, 207]),
            ("dead letter", &[400, 405, 413, 415, 422]),
            ("refresh", &[401]),
            ("suspend", &[403, 410]),
            ("looked up again", &[404]),
            ("there already", &[409]),
            ("pause", &[429, 477]),
            ("again", &[302, 408, 423, 500, 502, 503, 504, 520, 521, 524]),
        ];
        for (expected, statuses) in table {
            assert!(statuses.iter().all(|status| consequence(*status) == expected), "{expected}: {statuses:?}");
        }
    }

    #[test]
    fn duplicates_are_successes() {
        assert_eq!(of(409, &Value::Null), Outcome::Exists);
        assert_eq!(of(400, &json!({"message":"Event ID already in use, please choose a new unique ID"})), Outcome::Exists);
    }

    #[test]
    fn a_refusal_says_what_there_is_and_no_more() {
        let of = |body: Value| refusal(0, &body).detail();
        let missing = json!({"status": "error", "category": "OBJECT_NOT_FOUND", "message": "no such deal"});
        assert_eq!(of(missing), "HubSpot answered OBJECT_NOT_FOUND: no such deal");
        assert_eq!(of(Value::Null), "HubSpot answered an error: ");
        let whole = json!({"category": "VALIDATION_ERROR", "correlationId": "c-1", "message": "no"});
        assert_eq!(refusal(400, &whole).detail(), "HubSpot answered 400 VALIDATION_ERROR (correlation id c-1): no");
    }

    #[test]
    fn refused_properties_are_named_in_either_form() {
        let first = json!({"status":"error","category":"VALIDATION_ERROR","correlationId":"x",
            "message":"Property values were not valid: [{\"isValid\":false,\"message\":\"Property \\\"missing\\\" does not exist\",\"error\":\"PROPERTY_DOESNT_EXIST\",\"name\":\"missing\"}]"});
        let second = json!({"status":"error","category":"VALIDATION_ERROR","errors":[
            {"message":"\"hs_x\" is a read only property; its value cannot be set.","code":"READ_ONLY_VALUE","context":{"propertyName":["hs_x"]}}]});
        for (body, name, code) in [(first, "missing", "PROPERTY_DOESNT_EXIST"), (second, "hs_x", "READ_ONLY_VALUE")] {
            let Outcome::Refused(refusal) = of(400, &body) else { panic!("refused") };
            assert_eq!(refusal.properties, [(name.to_owned(), code.to_owned())]);
            assert!(refused_everywhere(code));
        }
    }

    #[test]
    fn only_hubspots_own_404_says_that_a_record_is_gone() {
        assert!(matches!(of(404, &json!({"status":"error","message":"resource not found","correlationId":"x"})), Outcome::NotFound(_)));
        assert!(matches!(of(404, &json!({"category":"OBJECT_NOT_FOUND"})), Outcome::NotFound(_)));
        let others: [&[u8]; 4] = [b"", b"<html>404</html>", b"null", br#"{"message":"no Route matched with those values"}"#];
        for body in others {
            assert!(
                matches!(classify(404, Some(Duration::from_secs(7)), body), Outcome::Transient(_, Some(after)) if after.as_secs() == 7)
            );
            assert_eq!(classify(410, None, body), Outcome::Retired);
        }
    }

    #[test]
    fn missing_scopes_are_named() {
        let body = json!({"category":"MISSING_SCOPES","errors":[{"context":{"requiredGranularScopes":["crm.objects.deals.write"]}}]});
        assert_eq!(of(403, &body), Outcome::Forbidden(vec!["crm.objects.deals.write".into()]));
    }

    #[test]
    fn a_batch_lists_what_failed() {
        let body = json!({"status":"COMPLETE","results":[],"numErrors":2,"errors":[
            {"status":"error","category":"OBJECT_NOT_FOUND","message":"gone","context":{"ids":["999"],"objectWriteTraceId":["2"]}},
            {"status":"error","category":"CONFLICT","message":"Event ID already in use","context":{"id":["clk:1"]}}]});
        let errors = item_errors(&body);
        assert_eq!((errors[0].about.as_slice(), errors[0].trace.as_slice()), (["999".to_owned()].as_slice(), ["2".to_owned()].as_slice()));
        assert!(matches!(&errors[0].outcome, Outcome::NotFound(r) if r.message == "gone"));
        assert_eq!((errors[1].about.as_slice(), &errors[1].outcome), (["clk:1".to_owned()].as_slice(), &Outcome::Exists));
        assert!(item_errors(&Value::Null).is_empty());
    }

    #[test]
    fn a_trace_id_says_which_record_failed_and_is_no_records_id() {
        let error = |category: &str, context: Value| json!({"category": category, "context": context});
        let errors = item_errors(&json!({"errors": [
            error("VALIDATION_ERROR", json!({"objectWriteTraceId": ["1"]})),
            error("OBJECT_NOT_FOUND", json!({"ids": ["7"], "objectWriteTraceId": ["0"]})),
            error("INTERNAL_ERROR", json!({"ids": ["9"]}))]}));
        let of = |place: usize, key: &str| error_of(&errors, place, key).map(|error| &error.outcome);
        assert!(matches!(of(1, "8"), Some(Outcome::Refused(_))), "by its trace id alone");
        assert!(matches!(of(0, "7"), Some(Outcome::NotFound(_))));
        assert!(matches!(of(2, "9"), Some(Outcome::Transient(..))), "by its id alone");
        assert_eq!(of(3, "1"), None, "a record whose id is another's place");
    }

    #[test]
    fn a_dead_letter_holds_no_address() {
        for message in ["contact ada@example.com has no x", "contact /contacts/ada%40example.com?a=b has no x"] {
            let refusal = Refusal { message: message.into(), ..Refusal::default() };
            assert!(refusal.detail().contains("contact *** has no x") && !refusal.brief().contains("contact"), "{message}");
        }
    }

    proptest! {
        /// No body and no status makes it panic, and only successes and conflicts count as done.
        #[test]
        fn any_answer_has_a_meaning(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200), after in prop::option::of(1u64..86_400)) {
            let outcome = classify(status, after.map(Duration::from_secs), &body);
            if matches!(outcome, Outcome::Done(_)) {
                prop_assert!((200..300).contains(&status));
            }
        }
    }
}
