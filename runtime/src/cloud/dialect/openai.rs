//! OpenAI's chat completions, as its API reference gives them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Complaint, Reply, bytes, parse, schema, wanted};
use crate::answer::Tokens;
use crate::engine::{Constraint, GenerateOptions};
use crate::error::Result;
use crate::request::{Message, Request};
use crate::tool::{Tool, ToolCall};

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "<[Tool]>::is_empty")]
    tools: &'a [Tool],
    max_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Value>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// A message. One that only calls functions has no content at all, which is not the same as an empty one.
#[derive(Serialize)]
#[serde(untagged)]
enum Turn<'a> {
    Whole(&'a Message),
    Calls { role: &'a str, content: Option<&'a str>, tool_calls: &'a [ToolCall] },
}

impl<'a> Turn<'a> {
    fn of(message: &'a Message) -> Self {
        let Message { role, content, tool_calls, .. } = message;
        if tool_calls.is_empty() {
            return Self::Whole(message);
        }
        Self::Calls { role, content: Some(content.as_str()).filter(|content| !content.is_empty()), tool_calls }
    }
}

/// A whole answer, one piece of a streamed one, or an error in the place of either.
#[derive(Deserialize)]
pub(super) struct Completion {
    error: Option<Complaint>,
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    /// Called `delta` in a stream.
    #[serde(alias = "delta")]
    message: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

/// A tool call, or in a stream a part of one: the first has id and name, all have a piece of the arguments.
#[derive(Deserialize)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Invocation>,
}

#[derive(Deserialize)]
struct Invocation {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

pub(super) fn encode(model: &str, request: &Request, streamed: bool) -> Result<Vec<u8>> {
    let GenerateOptions { sampling, stop, constraint, .. } = &request.options;
    bytes(&Question {
        model,
        messages: request.messages.iter().map(Turn::of).collect(),
        tools: &request.tools,
        max_tokens: request.max_tokens,
        temperature: wanted(sampling),
        top_p: sampling.top_p,
        seed: sampling.seed,
        stop,
        response_format: constraint.as_ref().map(response_format).transpose()?,
        stream: streamed,
        stream_options: streamed.then_some(StreamOptions { include_usage: true }),
    })
}

/// Structured outputs; the schema that accepts anything is the older JSON mode.
fn response_format(constraint: &Constraint) -> Result<Value> {
    match schema(constraint)? {
        Value::Bool(true) => Ok(json!({"type": "json_object"})),
        schema => {
            let answer = json!({"name": "answer", "schema": schema, "strict": true});
            Ok(json!({"type": "json_schema", "json_schema": answer}))
        }
    }
}

pub(super) fn decode(completion: Completion, reply: &mut Reply) -> Result<()> {
    if let Some(error) = completion.error {
        return Err(error.into_error());
    }
    if let Some(usage) = completion.usage {
        reply.usage = Some(Tokens { input: usage.prompt_tokens, output: usage.completion_tokens });
    }
    let Some(choice) = completion.choices.and_then(|choices| choices.into_iter().next()) else { return Ok(()) };
    if let Some(Content { content, refusal, tool_calls }) = choice.message {
        for text in [content, refusal].into_iter().flatten() {
            reply.say(&text);
        }
        for (place, part) in tool_calls.into_iter().flatten().enumerate() {
            let call = reply.call(part.index.unwrap_or(place as u64))?;
            if let Some(id) = part.id.filter(|id| !id.is_empty()) {
                call.id = id;
            }
            if let Some(Invocation { name, arguments }) = part.function {
                call.name.push_str(&name.unwrap_or_default());
                call.arguments.push_str(&arguments.unwrap_or_default());
            }
        }
    }
    reply.finish(choice.finish_reason);
    Ok(())
}

pub(super) fn absorb(data: &str, reply: &mut Reply) -> Result<()> {
    if data.trim() == "[DONE]" {
        (reply.complete, reply.over) = (true, true);
        return Ok(());
    }
    decode(parse(data.as_bytes())?, reply)
}
