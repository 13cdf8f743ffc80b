//! Anthropic's Messages, version 2023-06-01, as its API reference gives them.
//!
//! System messages go into one field, results of tools into turns of the user, and arguments are JSON, not a text of it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Complaint, Reply, arguments, bytes, decimal, invalid, wanted};
use crate::engine::GenerateOptions;
use crate::error::Result;
use crate::request::{Message, Request};
use crate::tool::Tool;

/// A whole answer, or what is known of it when a stream begins.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    /// Thinking, and what the server did by itself.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Usage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    MessageStart {
        message: Answer,
    },
    ContentBlockStart {
        index: u64,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u64,
        delta: Delta,
    },
    MessageDelta {
        delta: Stop,
        usage: Option<Usage>,
    },
    MessageStop,
    Error {
        error: Complaint,
    },
    /// `ping`, `content_block_stop`, and what may come yet.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Stop {
    stop_reason: Option<String>,
}

pub(super) fn encode(model: &str, request: &Request, streamed: bool) -> Result<Vec<u8>> {
    let (system, turns): (Vec<&Message>, Vec<&Message>) =
        request.messages.iter().partition(|message| message.role == "system");
    let mut body = json!({
        "model": model, "max_tokens": request.max_tokens, "messages": messages(&turns)?, "stream": streamed,
    });
    let GenerateOptions { sampling, stop, constraint, .. } = &request.options;
    if constraint.is_some() {
        return Err(invalid("this server's API cannot hold an answer to a JSON schema or a regular expression"));
    }
    let temperature = wanted(sampling).map(decimal);
    for (name, value) in [("temperature", temperature), ("top_p", sampling.top_p.map(decimal))] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    if let Some(k) = sampling.top_k {
        body["top_k"] = k.into();
    }
    if !stop.is_empty() {
        body["stop_sequences"] = json!(stop);
    }
    if !system.is_empty() {
        let texts: Vec<&str> = system.iter().map(|message| message.content.as_str()).collect();
        body["system"] = texts.join("\n\n").into();
    }
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(declaration).collect();
    }
    bytes(&body)
}

fn declaration(tool: &Tool) -> Value {
    let mut declaration = json!({"name": tool.name, "input_schema": tool.parameters});
    if let Some(description) = &tool.description {
        declaration["description"] = description.as_str().into();
    }
    declaration
}

/// The turns, results of tools that follow each other in one of them.
fn messages(turns: &[&Message]) -> Result<Vec<Value>> {
    let mut messages: Vec<Value> = Vec::new();
    let mut results = false;
    for turn in turns {
        match turn.role.as_str() {
            "tool" => {
                let id = turn.tool_call_id.as_deref().ok_or_else(|| invalid("a tool's result names no tool call"))?;
                let block = json!({"type": "tool_result", "tool_use_id": id, "content": turn.content});
                match messages.last_mut().and_then(|last| last["content"].as_array_mut()).filter(|_| results) {
                    Some(blocks) => blocks.push(block),
                    None => messages.push(json!({"role": "user", "content": [block]})),
                }
                results = true;
                continue;
            }
            "user" | "assistant" if turn.tool_calls.is_empty() => {
                messages.push(json!({"role": turn.role, "content": turn.content}));
            }
            "assistant" => {
                let text = Some(json!({"type": "text", "text": turn.content})).filter(|_| !turn.content.is_empty());
                let calls = turn.tool_calls.iter().map(|call| {
                    Ok(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments(call)?}))
                });
                let blocks = text.map(Ok).into_iter().chain(calls).collect::<Result<Vec<Value>>>()?;
                messages.push(json!({"role": "assistant", "content": blocks}));
            }
            other => return Err(invalid(format!("a message has the role `{other}`, which this server does not know"))),
        }
        results = false;
    }
    Ok(messages)
}

pub(super) fn decode(answer: Answer, reply: &mut Reply) -> Result<()> {
    for (place, block) in answer.content.into_iter().enumerate() {
        begin(place as u64, block, reply)?;
    }
    count(answer.usage, reply);
    reply.finish(answer.stop_reason);
    Ok(())
}

pub(super) fn absorb(event: Event, reply: &mut Reply) -> Result<()> {
    match event {
        Event::MessageStart { message } => decode(message, reply)?,
        Event::ContentBlockStart { index, content_block } => {
            begin(index, content_block, reply)?;
            // A stream begins every call with `{}`, and then spells out what it really is.
            if let Some(call) = reply.calls.get_mut(&index) {
                call.arguments.clear();
            }
        }
        Event::ContentBlockDelta { delta: Delta::Text { text }, .. } => reply.say(&text),
        Event::ContentBlockDelta { index, delta: Delta::InputJson { partial_json } } => {
            // Calls of tools that the server runs by itself are not ours.
            if let Some(call) = reply.calls.get_mut(&index) {
                call.arguments.push_str(&partial_json);
            }
        }
        Event::MessageDelta { delta, usage } => {
            count(usage, reply);
            reply.finish_reason = delta.stop_reason.or(reply.finish_reason.take());
        }
        Event::MessageStop => (reply.complete, reply.over) = (true, true),
        Event::Error { error } => return Err(error.into_error()),
        Event::ContentBlockDelta { delta: Delta::Other, .. } | Event::Other => {}
    }
    Ok(())
}

fn begin(place: u64, block: Block, reply: &mut Reply) -> Result<()> {
    match block {
        Block::Text { text } => reply.say(&text),
        Block::ToolUse { id, name, input } => {
            let call = reply.call(place)?;
            (call.id, call.name, call.arguments) = (id, name, input.to_string());
        }
        Block::Other => {}
    }
    Ok(())
}

/// Counts are of the whole answer so far; a later one takes the place of an earlier one.
fn count(usage: Option<Usage>, reply: &mut Reply) {
    let Some(usage) = usage else { return };
    let mut tokens = reply.usage.unwrap_or_default();
    if let Some(input) = usage.input_tokens {
        let cached = [usage.cache_creation_input_tokens, usage.cache_read_input_tokens];
        tokens.input = cached.into_iter().flatten().fold(input, u64::saturating_add);
    }
    tokens.output = usage.output_tokens.unwrap_or(tokens.output);
    reply.usage = Some(tokens);
}
