//! The three ways in which servers want to be asked, and what of them is the same.
//!
//! Reading is tolerant: unknown fields are ignored, and an answer holds text or tool calls, nothing else is required.

mod anthropic;
mod gemini;
mod openai;

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::HeaderName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CloudAnswer, Endpoint, sse};
use crate::answer::Tokens;
use crate::engine::{Constraint, Sampling};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::tool::ToolCall;

/// Longest excerpt of a server's error message that goes into ours, in characters.
const MAX_EXCERPT: usize = 200;

/// Characters in a row that, found in prompt and complaint alike, are a quotation.
const QUOTE: usize = 12;

/// Most functions that one answer may ask for.
const MAX_TOOL_CALLS: usize = 128;

/// Whose API a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI's chat completions, which most servers speak: `POST {endpoint}/chat/completions`.
    OpenAi,
    /// Anthropic's Messages, version 2023-06-01: `POST {endpoint}/messages`.
    Anthropic,
    /// Google's Gemini, v1beta: `POST {endpoint}/models/{model}:generateContent`.
    Gemini,
}

impl Dialect {
    /// Where a question is posted.
    pub(super) fn url(self, endpoint: &Endpoint, model: &str, streamed: bool) -> Url {
        match (self, streamed) {
            (Self::OpenAi, _) => endpoint.join("chat/completions"),
            (Self::Anthropic, _) => endpoint.join("messages"),
            (Self::Gemini, false) => endpoint.join(&format!("models/{model}:generateContent")),
            (Self::Gemini, true) => {
                let mut url = endpoint.join(&format!("models/{model}:streamGenerateContent"));
                url.query_pairs_mut().append_pair("alt", "sse");
                url
            }
        }
    }

    /// The header that carries the token, and what stands before it there.
    pub(super) fn token_header(self) -> (HeaderName, &'static str) {
        match self {
            Self::OpenAi => (reqwest::header::AUTHORIZATION, "Bearer "),
            Self::Anthropic => (HeaderName::from_static("x-api-key"), ""),
            Self::Gemini => (HeaderName::from_static("x-goog-api-key"), ""),
        }
    }

    /// Headers that every question carries.
    pub(super) fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Anthropic => &[("anthropic-version", "2023-06-01")],
            Self::OpenAi | Self::Gemini => &[],
        }
    }

    /// The body of one question. Every attempt sends these very bytes.
    pub(super) fn encode(self, model: &str, request: &Request, streamed: bool) -> Result<Vec<u8>> {
        if request.messages.is_empty() {
            return Err(Error::new(ErrorKind::InvalidRequest, "the request holds no message"));
        }
        match self {
            Self::OpenAi => openai::encode(model, request, streamed),
            Self::Anthropic => anthropic::encode(model, request, streamed),
            Self::Gemini => gemini::encode(request),
        }
    }

    /// A whole answer.
    pub(super) fn decode(self, body: &[u8]) -> Result<CloudAnswer> {
        let mut reply = Reply::default();
        match self {
            Self::OpenAi => openai::decode(parse(body)?, &mut reply),
            Self::Anthropic => anthropic::decode(parse(body)?, &mut reply),
            Self::Gemini => gemini::absorb(parse(body)?, &mut reply),
        }?;
        if !reply.spoke && reply.calls.is_empty() && !reply.complete {
            return Err(malformed("the cloud's answer holds neither text nor tool call"));
        }
        Ok(reply.into_answer())
    }

    /// Takes one event of a streamed answer into `reply`.
    pub(super) fn absorb(self, event: &sse::Event, reply: &mut Reply) -> Result<()> {
        let data = event.data.as_bytes();
        match self {
            Self::OpenAi => openai::absorb(&event.data, reply),
            Self::Anthropic => anthropic::absorb(parse(data)?, reply),
            Self::Gemini => gemini::absorb(parse(data)?, reply),
        }
    }
}

/// What has come of an answer.
#[derive(Default)]
pub(super) struct Reply {
    /// The text so far.
    pub(super) text: String,
    /// Tool calls by their place in the answer.
    calls: BTreeMap<u64, ToolCall>,
    finish_reason: Option<String>,
    usage: Option<Tokens>,
    /// Whether there was a text, empty or not.
    spoke: bool,
    /// Whether the server has said why the answer ends: it is whole, though counts may still come.
    pub(super) complete: bool,
    /// Whether nothing more comes.
    pub(super) over: bool,
}

impl Reply {
    fn say(&mut self, text: &str) {
        self.spoke = true;
        self.text.push_str(text);
    }

    /// The call in this place of the answer, begun if it is new.
    fn call(&mut self, place: u64) -> Result<&mut ToolCall> {
        if self.calls.len() >= MAX_TOOL_CALLS && !self.calls.contains_key(&place) {
            return Err(malformed(format!("the cloud's answer holds over {MAX_TOOL_CALLS} tool calls")));
        }
        Ok(self.calls.entry(place).or_insert_with(|| ToolCall::new("", "", "")))
    }

    fn finish(&mut self, reason: Option<String>) {
        if let Some(reason) = reason {
            (self.finish_reason, self.complete) = (Some(reason), true);
        }
    }

    pub(super) fn into_answer(self) -> CloudAnswer {
        CloudAnswer {
            finish_reason: self.finish_reason,
            usage: self.usage,
            tool_calls: self.calls.into_values().collect(),
            ..CloudAnswer::new(self.text)
        }
    }
}

/// The temperature that the caller asked for. Zero is what a request has that says nothing: the server's own holds then.
fn wanted(sampling: &Sampling) -> Option<f32> {
    (!sampling.is_greedy()).then_some(sampling.temperature)
}

/// The number as it was written: 0.7, not the binary fraction nearest to it.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| f64::from(number))
}

/// The JSON schema that the answer must follow.
fn schema(constraint: &Constraint) -> Result<Value> {
    match constraint {
        Constraint::JsonSchema(schema) => Ok(schema.clone()),
        Constraint::Regex(_) => Err(invalid("this server's API cannot hold an answer to a regular expression")),
    }
}

/// What a server says is wrong. All three dialects have these fields, and each a few more.
#[derive(Deserialize)]
struct Refusal {
    error: Complaint,
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    message: String,
    r#type: Option<String>,
    status: Option<String>,
    code: Option<Value>,
}

impl Complaint {
    /// The error for a complaint in the midst of an answer, where there is no HTTP status to tell.
    fn into_error(self) -> Error {
        let kind = [self.r#type.as_deref(), self.status.as_deref()].into_iter().flatten().find_map(|word| match word {
            "rate_limit_error" | "rate_limit_exceeded" | "RESOURCE_EXHAUSTED" => Some(ErrorKind::RateLimited),
            "authentication_error" | "permission_error" | "UNAUTHENTICATED" | "PERMISSION_DENIED" => {
                Some(ErrorKind::Unauthorized)
            }
            "invalid_request_error" | "not_found_error" | "request_too_large" | "INVALID_ARGUMENT" | "NOT_FOUND" => {
                Some(ErrorKind::Rejected)
            }
            _ => None,
        });
        let kind = kind.unwrap_or(match self.code.as_ref().and_then(Value::as_u64) {
            Some(429) => ErrorKind::RateLimited,
            Some(401 | 403) => ErrorKind::Unauthorized,
            Some(400..=499) => ErrorKind::Rejected,
            _ => ErrorKind::Server,
        });
        // Its words are left out: here nobody knows what of them is a quotation of the prompt.
        let word = self.r#type.or(self.status).unwrap_or_else(|| "without a reason".into());
        Error::new(kind, format!("the cloud broke off: {}", excerpt(&word)))
    }
}

/// What the server says is wrong, if it says so in one of the dialects; one line, cut to a bearable length.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let Refusal { error } = serde_json::from_slice(body).ok()?;
    Some(excerpt(&error.message))
}

/// `said` without what it quotes of `prompt`: servers do repeat what they complain about, and complaints end up in logs.
pub(super) fn unquoted(said: &str, prompt: &str) -> String {
    let characters: Vec<char> = said.chars().collect();
    let mut kept = String::new();
    let (mut at, mut quoting) = (0, false);
    while let Some(character) = characters.get(at) {
        let quotes = |length: usize| {
            let part = characters.get(at..at + length).map(|part| part.iter().collect::<String>());
            part.is_some_and(|part| prompt.contains(&part))
        };
        if quotes(QUOTE) {
            let longest = (QUOTE..=characters.len() - at).take_while(|length| quotes(*length)).last().unwrap_or(QUOTE);
            if !quoting {
                kept.push_str("[...]");
            }
            (at, quoting) = (at + longest, true);
        } else {
            kept.push(*character);
            (at, quoting) = (at + 1, false);
        }
    }
    kept
}

fn excerpt(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_EXCERPT).collect()
}

fn malformed(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, why)
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidRequest, why)
}

fn bytes(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|error| invalid("the request is not JSON").with_source(error))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_eof() {
            let message = format!("the cloud's answer ends after {} bytes, before it is complete", body.len());
            return Error::new(ErrorKind::Truncated, message);
        }
        // serde's message quotes what it found, which may be the answer's text: only the place is kept.
        let (line, column) = (error.line(), error.column());
        malformed(format!("the cloud's answer has another form than its API's, at line {line}, column {column}"))
    })
}

/// The arguments of a call, for the dialects that want JSON rather than a text of it.
fn arguments(call: &ToolCall) -> Result<Value> {
    if call.arguments.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(&call.arguments)
        .map_err(|_| invalid(format!("the arguments of tool call `{}` are not JSON", call.id)))
}

#[cfg(test)]
mod tests;
