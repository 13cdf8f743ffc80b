//! Errors, in OpenAI's shape and with the status that goes with them.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use margay::ErrorKind;
use serde_json::{Value, json};

/// How long a client that has to come back is told to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What OpenAI's clients ask before they try again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error answer: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug)]
pub(in super::super) struct Refusal {
    status: StatusCode,
    message: String,
    parameter: Option<&'static str>,
    code: Option<&'static str>,
    /// Whether the same may succeed later, if the status does not say.
    again: Option<bool>,
}

impl Refusal {
    pub(in super::super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), parameter: None, code: None, again: None }
    }

    pub(in super::super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(in super::super) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// A parameter that is not there to be asked for.
    pub(in super::super) fn unsupported(parameter: &'static str) -> Self {
        Self::parameter(parameter, "is not supported by this server; leave it out").code("unsupported_parameter")
    }

    /// A parameter that is wrong, and how.
    pub(in super::super) fn parameter(parameter: &'static str, how: &str) -> Self {
        Self { parameter: Some(parameter), ..Self::invalid(format!("`{parameter}` {how}")) }
    }

    /// More is asked at once than is taken.
    pub(in super::super) fn busy(most: usize) -> Self {
        let message = format!("{most} requests are being answered already; come back in a moment");
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded")
    }

    pub(in super::super) fn status(&self) -> StatusCode {
        self.status
    }

    fn r#type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS if self.code == Some("insufficient_quota") => "insufficient_quota",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The body, which is also what a stream that breaks ends with.
    pub(in super::super) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.r#type(), "param": self.parameter, "code": self.code,
        }})
    }
}

impl From<margay::Error> for Refusal {
    fn from(error: margay::Error) -> Self {
        use ErrorKind::{
            Budget, Cancelled, ContextOverflow, Deadline, InvalidRequest, Memory, QueueFull, RateLimited, Rejected,
        };
        let (status, code) = match error.kind() {
            InvalidRequest | Rejected | Memory => (StatusCode::BAD_REQUEST, None),
            ContextOverflow => (StatusCode::BAD_REQUEST, Some("context_length_exceeded")),
            RateLimited | QueueFull => (StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded")),
            Budget => (StatusCode::TOO_MANY_REQUESTS, Some("insufficient_quota")),
            Deadline => (StatusCode::GATEWAY_TIMEOUT, Some("timeout")),
            Cancelled => (StatusCode::SERVICE_UNAVAILABLE, None),
            _ if error.is_cloud() => (StatusCode::BAD_GATEWAY, None),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let again = (error.kind() == Budget).then_some(false);
        Self { code, again, ..Self::new(status, error.to_string()) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match (self.status, self.again) {
            (_, Some(again)) => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static(if again { "true" } else { "false" }));
            }
            (StatusCode::UNAUTHORIZED, None) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, None) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}
