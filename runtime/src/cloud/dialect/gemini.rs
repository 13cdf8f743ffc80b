//! Google's Gemini, v1beta, as its API reference gives it. A streamed answer is several whole ones, to be joined.
//!
//! Results of tools are sent back under the tool's name, which the call in the conversation has.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Complaint, Reply, arguments, bytes, decimal, invalid, schema, wanted};
use crate::answer::Tokens;
use crate::engine::GenerateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Message, Request};
use crate::tool::Tool;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    #[serde(default)]
    candidates: Vec<Candidate>,
    prompt_feedback: Option<Feedback>,
    usage_metadata: Option<Usage>,
    error: Option<Complaint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    #[serde(default)]
    thought: bool,
    function_call: Option<Invocation>,
    thought_signature: Option<String>,
}

#[derive(Deserialize)]
struct Invocation {
    id: Option<String>,
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    #[serde(default)]
    prompt_token_count: u64,
    #[serde(default)]
    candidates_token_count: u64,
    /// What it thought before, which is paid for like the answer.
    #[serde(default)]
    thoughts_token_count: u64,
}

pub(super) fn encode(request: &Request) -> Result<Vec<u8>> {
    let (system, turns): (Vec<&Message>, Vec<&Message>) =
        request.messages.iter().partition(|message| message.role == "system");
    let mut body = json!({"contents": contents(&turns)?, "generationConfig": generation(request)?});
    if !system.is_empty() {
        let parts: Value = system.iter().map(|message| json!({"text": message.content})).collect();
        body["systemInstruction"] = json!({"parts": parts});
    }
    if !request.tools.is_empty() {
        let declarations: Value = request.tools.iter().map(declaration).collect();
        body["tools"] = json!([{"functionDeclarations": declarations}]);
    }
    bytes(&body)
}

fn generation(request: &Request) -> Result<Value> {
    let GenerateOptions { sampling, stop, constraint, .. } = &request.options;
    let mut generation = json!({"maxOutputTokens": request.max_tokens});
    let temperature = wanted(sampling).map(decimal);
    for (name, value) in [("temperature", temperature), ("topP", sampling.top_p.map(decimal))] {
        if let Some(value) = value {
            generation[name] = value.into();
        }
    }
    for (name, value) in [("topK", sampling.top_k.map(|k| k as u64)), ("seed", sampling.seed)] {
        if let Some(value) = value {
            generation[name] = value.into();
        }
    }
    if !stop.is_empty() {
        generation["stopSequences"] = json!(stop);
    }
    if let Some(constraint) = constraint {
        generation["responseMimeType"] = "application/json".into();
        generation["responseJsonSchema"] = schema(constraint)?;
    }
    Ok(generation)
}

fn declaration(tool: &Tool) -> Value {
    let mut declaration = json!({"name": tool.name, "parameters": tool.parameters});
    if let Some(description) = &tool.description {
        declaration["description"] = description.as_str().into();
    }
    declaration
}

/// The turns, those of the same side that follow each other in one of them.
fn contents(turns: &[&Message]) -> Result<Vec<Value>> {
    let mut contents: Vec<Value> = Vec::new();
    let mut names = BTreeMap::new();
    for turn in turns {
        let (role, parts) = match turn.role.as_str() {
            "user" => ("user", vec![json!({"text": turn.content})]),
            "assistant" => {
                names.extend(turn.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str())));
                let text = Some(json!({"text": turn.content})).filter(|_| !turn.content.is_empty());
                let calls = turn.tool_calls.iter().map(|call| {
                    let mut part =
                        json!({"functionCall": {"id": call.id, "name": call.name, "args": arguments(call)?}});
                    if let Some(signature) = &call.signature {
                        part["thoughtSignature"] = signature.as_str().into();
                    }
                    Ok(part)
                });
                ("model", text.map(Ok).into_iter().chain(calls).collect::<Result<Vec<Value>>>()?)
            }
            "tool" => {
                let id = turn.tool_call_id.as_deref().unwrap_or_default();
                let name = names.get(id).ok_or_else(|| invalid("a tool's result names no tool call before it"))?;
                let object = serde_json::from_str(&turn.content).ok().filter(Value::is_object);
                let response = object.unwrap_or_else(|| json!({"result": turn.content}));
                ("user", vec![json!({"functionResponse": {"id": id, "name": name, "response": response}})])
            }
            other => return Err(invalid(format!("a message has the role `{other}`, which this server does not know"))),
        };
        match contents.last_mut().filter(|last| last["role"] == role).and_then(|last| last["parts"].as_array_mut()) {
            Some(before) => before.extend(parts),
            None => contents.push(json!({"role": role, "parts": parts})),
        }
    }
    Ok(contents)
}

pub(super) fn absorb(answer: Answer, reply: &mut Reply) -> Result<()> {
    if let Some(error) = answer.error {
        return Err(error.into_error());
    }
    if let Some(reason) = answer.prompt_feedback.and_then(|feedback| feedback.block_reason) {
        return Err(Error::new(ErrorKind::Rejected, format!("the cloud does not answer this prompt: {reason}")));
    }
    if let Some(usage) = answer.usage_metadata {
        let output = usage.candidates_token_count.saturating_add(usage.thoughts_token_count);
        reply.usage = Some(Tokens { input: usage.prompt_token_count, output });
    }
    let Some(candidate) = answer.candidates.into_iter().next() else { return Ok(()) };
    for part in candidate.content.into_iter().flat_map(|content| content.parts) {
        if let Some(text) = part.text.filter(|_| !part.thought) {
            reply.say(&text);
        }
        if let Some(Invocation { id, name, args }) = part.function_call {
            let place = reply.calls.len() as u64;
            let call = reply.call(place)?;
            call.id = id.unwrap_or_else(|| format!("call_{place}"));
            (call.name, call.arguments, call.signature) = (name, args.to_string(), part.thought_signature);
        }
    }
    reply.finish(candidate.finish_reason);
    Ok(())
}
