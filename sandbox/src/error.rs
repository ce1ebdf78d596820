//! HubSpot's error bodies. Every one carries a `correlationId` of its own.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: Map<String, Value>,
}

impl ApiError {
    /// `{"status":"error","message":…,"category":…}` with this HTTP status.
    pub fn new(status: StatusCode, category: &str, message: impl Into<String>) -> Self {
        let mut error = Self::bare(status, message);
        error.body.insert("category".into(), category.into());
        error
    }

    /// The same without a category, as HubSpot's older answers are.
    pub fn bare(status: StatusCode, message: impl Into<String>) -> Self {
        let mut body = Map::new();
        body.insert("status".into(), "error".into());
        body.insert("message".into(), message.into().into());
        Self { status, body }
    }

    /// Adds or replaces a field of the body.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.body.insert(key.into(), value);
        self
    }

    /// 400 `VALIDATION_ERROR`.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", message)
    }

    /// 400 for a body that is not the JSON the call takes.
    pub fn bad_json(detail: impl std::fmt::Display) -> Self {
        Self::validation(format!("Invalid input JSON: {detail}"))
    }

    /// 404 for a path, a property, a pipeline: whatever is no CRM record.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "OBJECT_NOT_FOUND", message)
    }

    /// 404 for a CRM record.
    pub fn no_record(id: &str) -> Self {
        Self::not_found("resource not found").with("context", json!({ "id": [id] }))
    }

    /// 409 `CONFLICT`.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 401: no token, or one that HubSpot never gave out.
    pub fn unauthenticated() -> Self {
        let message = "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview";
        Self::new(StatusCode::UNAUTHORIZED, "INVALID_AUTHENTICATION", message)
    }

    /// 401: the access token is older than it may be.
    pub fn expired(minutes: u64) -> Self {
        let message = format!("The OAuth token used to make this call expired {minutes} minute(s) ago.");
        Self::new(StatusCode::UNAUTHORIZED, "EXPIRED_AUTHENTICATION", message)
    }

    /// 403: none of these scopes was granted.
    pub fn missing_scopes(any_of: &[&str]) -> Self {
        let message = "This app hasn't been granted all required scopes to make this call. Read more about required scopes here: https://developers.hubspot.com/scopes.";
        Self::new(StatusCode::FORBIDDEN, "MISSING_SCOPES", message)
            .with(
                "errors",
                json!([{ "message": "One or more of the following scopes are required.", "context": { "requiredGranularScopes": any_of } }]),
            )
            .with("links", json!({ "scopes": "https://developers.hubspot.com/scopes" }))
    }

    /// 403: a static token where only an OAuth app may call. HubSpot documents the refusal, not its body.
    pub fn oauth_only() -> Self {
        let message = "This API can be called by OAuth apps only; private app and service key tokens are not supported.";
        Self::new(StatusCode::FORBIDDEN, "MISSING_SCOPES", message)
    }

    /// 429 in the shape of the burst limit or of the search limit.
    pub fn too_many_requests(policy: &str, limit: &str, group: String) -> Self {
        Self::bare(StatusCode::TOO_MANY_REQUESTS, format!("You have reached your {limit} limit."))
            .with("errorType", "RATE_LIMIT".into())
            .with("policyName", policy.into())
            .with("groupName", group.into())
    }

    /// Adds the `requestId` that HubSpot's answers to the daily limit carry.
    pub fn with_request_id(self) -> Self {
        self.with("requestId", Uuid::now_v7().simple().to_string().into())
    }

    /// What went wrong, in words.
    pub fn message(&self) -> &str {
        self.body.get("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// The error's own fields, for an entry in the `errors` of a 207.
    pub fn into_entry(mut self, context: Value) -> Value {
        self.body.insert("context".into(), context);
        for (key, empty) in [("errors", json!([])), ("links", json!({}))] {
            self.body.entry(key).or_insert(empty);
        }
        Value::Object(self.body)
    }
}

/// A new correlation id.
pub(crate) fn correlation_id() -> String {
    Uuid::now_v7().to_string()
}

impl ApiError {
    /// The body as it is sent.
    pub fn body(mut self, correlation_id: String) -> Value {
        self.body.insert("correlationId".into(), correlation_id.into());
        Value::Object(self.body)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body(correlation_id()))).into_response()
    }
}

/// What a handler gives back.
pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;
