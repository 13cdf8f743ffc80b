//! The JSON of OpenAI's API, as a server reads and writes it.
//!
//! A parameter that would change the answer and is not supported is refused rather than ignored; `temperature`,
//! `top_p` and `seed` are accepted, and decoding is greedy whatever they say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use margay::cloud::CloudAnswer;
use margay::{ErrorKind, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A question as it comes in.
#[derive(Deserialize)]
pub(super) struct Question {
    pub(super) model: String,
    messages: Vec<Turn>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    n: Option<u32>,
    stop: Option<Value>,
    tools: Option<Value>,
    response_format: Option<Value>,
    #[serde(default)]
    logprobs: bool,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl Question {
    /// Reads a body.
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body)
            .map_err(|error| Refusal::invalid(format!("the body is not a chat completion request: {error}")))
    }

    /// The conversation and the longest answer asked for, in tokens; refused if it asks for what is not there.
    pub(super) fn accept(self) -> Result<(Vec<Message>, Option<usize>), Refusal> {
        let asked = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let text = self.response_format.as_ref().is_none_or(|format| format["type"] == "text");
        for (unsupported, parameter) in [
            (self.stream, "stream"),
            (self.n.is_some_and(|n| n != 1), "n"),
            (asked(&self.stop), "stop"),
            (asked(&self.tools), "tools"),
            (asked(&self.response_format) && !text, "response_format"),
            (self.logprobs, "logprobs"),
        ] {
            if unsupported {
                return Err(Refusal::unsupported(parameter));
            }
        }
        if self.messages.is_empty() {
            return Err(Refusal::invalid("`messages` is empty"));
        }
        let messages = self.messages.into_iter().map(Turn::accept).collect::<Result<_, _>>()?;
        Ok((messages, self.max_completion_tokens.or(self.max_tokens)))
    }
}

impl Turn {
    fn accept(self) -> Result<Message, Refusal> {
        let content = match self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().map(Part::accept).collect::<Result<_, _>>()?,
        };
        Ok(Message::new(self.role, content))
    }
}

impl Part {
    fn accept(self) -> Result<String, Refusal> {
        match self {
            Self { r#type, text: Some(text) } if r#type == "text" => Ok(text),
            Self { r#type, .. } => Err(Refusal::invalid(format!("a content part of type `{type}` is not supported"))),
        }
    }
}

/// A whole answer.
#[derive(Serialize)]
pub(super) struct Completion<'a> {
    id: String,
    object: &'static str,
    /// Unix time, in seconds.
    created: u64,
    model: &'a str,
    choices: [Choice; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<Value>,
    finish_reason: String,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl<'a> Completion<'a> {
    pub(super) fn new(number: u64, model: &'a str, answer: CloudAnswer) -> Self {
        let created = unix_time();
        let usage = answer.usage.map(|tokens| Usage {
            prompt_tokens: tokens.input,
            completion_tokens: tokens.output,
            total_tokens: tokens.input + tokens.output,
        });
        let choice = Choice {
            index: 0,
            message: Message::assistant(answer.text),
            logprobs: None,
            finish_reason: answer.finish_reason.unwrap_or_else(|| "stop".to_owned()),
        };
        Self {
            id: format!("chatcmpl-{created}-{number}"),
            object: "chat.completion",
            created,
            model,
            choices: [choice],
            usage,
        }
    }
}

/// The list of the one model that is served.
pub(super) fn models(model: &str, since: u64) -> Value {
    let model = serde_json::json!({"id": model, "object": "model", "created": since, "owned_by": "margay"});
    serde_json::json!({"object": "list", "data": [model]})
}

/// Unix time, in seconds; zero on a clock that stands before 1970.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

/// An error answer: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    parameter: Option<&'static str>,
    code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), parameter: None, code: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn unsupported(parameter: &'static str) -> Self {
        let message = format!("`{parameter}` is not supported by this server; leave it out");
        Self { parameter: Some(parameter), ..Self::invalid(message).code("unsupported_parameter") }
    }

    fn r#type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl From<margay::Error> for Refusal {
    fn from(error: margay::Error) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::InvalidRequest | ErrorKind::Rejected => (StatusCode::BAD_REQUEST, None),
            ErrorKind::ContextOverflow => (StatusCode::BAD_REQUEST, Some("context_length_exceeded")),
            ErrorKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded")),
            ErrorKind::Deadline => (StatusCode::GATEWAY_TIMEOUT, Some("timeout")),
            _ if error.is_cloud() => (StatusCode::BAD_GATEWAY, None),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Self { code, ..Self::new(status, error.to_string()) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"error": {
            "message": self.message, "type": self.r#type(), "param": self.parameter, "code": self.code,
        }});
        let mut response = (self.status, Json(body)).into_response();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
